"""What is kept of a teacher's distribution before each token, in how many bytes, and what it is good for.

sampled   the log-probability of the answer's token
top_k     the teacher's K likeliest tokens, and the probability of all others as one
drawn     N tokens drawn from the distribution: an unbiased estimate of it (arXiv:2503.16870)
hidden    the last hidden state, with the vocabulary projection once a store: all of it, exactly
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from opdlab.errors import ConfigError
from opdlab.methods import Measure, Offers, Support

Name = Literal["sampled", "top_k", "drawn", "hidden"]
Precision = Literal["float32", "bfloat16"]
HIDDEN: tuple[Precision, ...] = get_args(Precision)
FLOAT, HALF = 4, 2
"""Bytes of a number."""


@dataclass(frozen=True)
class Kind:
    """A kind of store.

    Attributes:
        name: see above.
        size: K of `top_k`, N of `drawn`; else 0.
        precision: of `hidden`.
    """

    name: Name = "hidden"
    size: int = 0
    precision: Precision = "bfloat16"

    @classmethod
    def read(cls, text: str) -> Kind:
        """A kind as it is written: `sampled`, `top_k:64`, `drawn:12`, `hidden`, `hidden:float32`.

        Raises:
            ConfigError: it is none of these.
        """
        if text == "sampled":
            return cls("sampled")
        if found := re.fullmatch(r"(top_k|drawn):([1-9]\d{0,5})", text):
            return cls("top_k" if found[1] == "top_k" else "drawn", int(found[2]))
        if found := re.fullmatch(r"hidden(?::(float32|bfloat16))?", text):
            return cls("hidden", precision="float32" if found[1] == "float32" else "bfloat16")
        raise ConfigError(
            f"--kind {text}: there is no such kind of store; take hidden, hidden:float32, top_k:64, "
            "drawn:12 or sampled (any other number of tokens as well)"
        )

    def __str__(self) -> str:
        if self.size:
            return f"{self.name}:{self.size}"
        return f"{self.name}:{self.precision}" if self.name == "hidden" else self.name

    def listed(self, vocabulary: int) -> int:
        """Tokens of `top_k` at a position: there is a rest beside them."""
        return min(self.size, vocabulary - 1)

    def bytes_a_token(self, vocabulary: int, width: int) -> int:
        """Bytes of one response token, its id and log-probability included.

        Args:
            vocabulary: entries that student and teacher share.
            width: of the teacher's hidden states.
        """
        own = id_bytes(vocabulary) + FLOAT
        if self.name == "top_k":
            return own + self.listed(vocabulary) * (id_bytes(vocabulary) + FLOAT) + FLOAT
        if self.name == "drawn":
            return own + self.size * id_bytes(vocabulary)
        if self.name == "hidden":
            return own + width * (FLOAT if self.precision == "float32" else HALF)
        return own


def id_bytes(vocabulary: int) -> int:
    """Bytes that hold an id of a vocabulary of so many entries."""
    return next(size for size in (1, 2, 4) if vocabulary <= 1 << (8 * size))


@dataclass(frozen=True)
class Candidates:
    """The student's candidates whose confidences a store holds, as the method that asked chose them.

    Attributes:
        top_k: at each position.
        measure: of the teacher's confidence after them.
        entropy_threshold: of the student, nats: positions above it have theirs.
        ends: whether positions whose token ends the answer have theirs, too.
        probability_mass: of the student: the likeliest that hold so much have confidences; None: all.
    """

    top_k: int
    measure: Measure
    entropy_threshold: float
    ends: bool
    probability_mass: float | None


def supports_of(kind: Kind) -> frozenset[Support]:
    """What of the distribution a store tells, see `Needs`."""
    found: set[Support] = {"none", "sampled"}
    if kind.name == "hidden":
        found |= {"top-k", "drawn", "full"}
    elif kind.name in ("top_k", "drawn"):
        found.add("top-k" if kind.name == "top_k" else "drawn")
    return frozenset(found)


def offers_of(
    kind: Kind, candidates: Candidates | None, written_by_teacher: bool, where: str
) -> Offers:
    """What a store can tell a method, and why it cannot tell more.

    Args:
        written_by_teacher: whether its answers are such as a student is to imitate.
        where: the store's folder, for messages.
    """
    again = f"{where} holds {kind}; score the answers again with --kind"
    whole = f"the method needs the teacher's whole distribution, and {again} hidden"
    if kind.name == "drawn":
        whole += (
            ", or take a method whose gradient is linear in the teacher's probabilities, for which tokens "
            "drawn from them are enough (forward_kl, sft with support: full)"
        )
    why: dict[str, str] = {
        "full": whole,
        "top-k": f"the method needs the teacher's likeliest tokens, and {again} top_k:64 or hidden",
        "answers": f"the method imitates answers, and those of {where} are samples of a student; "
        "score those of the data or of the teacher (--answers given, --answers teacher), "
        "or only the right ones (--keep correct)",
    }
    none = (
        f"{where} holds no confidences after candidates; score the answers again with this method in the "
        "experiment, which then are kept as well"
    )
    found: set[Measure] = set()
    if candidates is not None:
        found.add(candidates.measure)
        none = f"{where} holds confidences by {candidates.measure} alone; set confidence to that"
    why["steps"] = (
        f"{where} holds confidences one step ahead alone; set lookahead: 1, or load a teacher"
    )
    why |= dict.fromkeys(("max_prob", "sampled_prob", "entropy", "perplexity"), none)
    return Offers(supports_of(kind), frozenset(found), written_by_teacher, why)


def too_many(kind: Kind, candidates: Candidates | None, top_k: int, group: int) -> Iterator[str]:
    """Tokens that a method asks for beyond those that a store has.

    Args:
        top_k: the teacher's likeliest tokens that the method looks at.
        group: candidates of the student's at each position.
    """
    if kind.name == "top_k" and top_k > kind.size:
        yield f"{top_k} of the teacher's likeliest tokens, and the store holds {kind.size} of each"
    if candidates is not None and group > candidates.top_k:
        yield f"{group} candidates at a position, and the store holds {candidates.top_k}"
