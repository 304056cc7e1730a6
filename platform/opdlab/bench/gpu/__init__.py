"""One table of what a card reaches: correctness apart, every figure as a share of what the card can do."""
