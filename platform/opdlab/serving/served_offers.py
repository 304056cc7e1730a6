"""What a teacher behind a server can tell, and why it cannot tell more."""

from __future__ import annotations

from opdlab.methods import MEASURES, Offers

_CONFIDENCE = (
    "it needs the whole distribution after a candidate, but a server returns only the likeliest "
    "tokens. Set confidence: max_prob"
)
_STEPS = (
    "candidates are followed past one step by a teacher in this process alone. Set lookahead: 1, or load "
    "the teacher here"
)
SERVED_OFFERS = Offers(
    supports=frozenset({"none", "sampled", "top-k"}),
    confidences=frozenset({"max_prob"}),
    answers=False,
    why_not={
        "steps": _STEPS,
        "full": "the method needs the teacher's whole distribution, or its log-probabilities of "
        "tokens that the student chooses, but a server returns only its own likeliest "
        "tokens. Use the sampled token (support: sampled), the teacher's likeliest tokens "
        "(support: top_k of forward_kl and jsd; of opd also top_k_of: teacher), or a teacher "
        "in this process",
        "sampled_prob": _CONFIDENCE,
        "entropy": _CONFIDENCE,
        "perplexity": _CONFIDENCE,
        "answers": "the method trains on answers that the teacher writes in this process. Take a method on "
        "the student's own answers, or a teacher in this process",
    },
)
SERVICE_OFFERS = Offers(
    supports=frozenset({"none", "sampled", "top-k", "full"}),
    confidences=frozenset(MEASURES),
    answers=False,
    why_not={
        "steps": _STEPS,
        "answers": "the method trains on answers that the teacher writes in this process, but a "
        "service only scores. Use a method on the student's own answers, or a teacher in "
        "this process",
    },
)
"""Of a teacher behind `opdlab teach`."""
