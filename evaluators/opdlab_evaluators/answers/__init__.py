"""Mathematical answers: extraction, equality, and processes that can be killed to decide it in."""
