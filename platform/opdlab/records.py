"""The records that travel along the line: problem, rollout, questions, teacher scores, supervision.

A batch of responses is stored flat: T is the number of response tokens of all rows, laid end to end.
There is no padding and so no mask: every element of a `T` axis is a token that the student sampled,
the EOS included and nothing after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch

from opdlab.secret_options import Covered as Covered
from opdlab.shapes import Bool, Float, Int, Tensor
from opdlab.transfers import to_device, to_host

REQUIRED: Any = MISSING
"""Default of an option that experiments must set."""


def option(default: Any, description: str, **limits: Any) -> Any:
    """A field of a plugin that experiments may set.

    `limits` are pydantic's: `ge`, `gt`, `le`, `lt`, `min_length`, `max_length`. The description gives
    the unit; it is what `--help`, the JSON schema and error messages show. `one_of` names the entry point
    group of an option that holds another plugin, or None.

    Returns:
        A dataclass field with the description and limits in its metadata.
    """
    metadata = {"description": description, **limits}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Problem:
    """One question with what is needed to grade an answer to it.

    Attributes:
        benchmark: name of the benchmark or family it belongs to, with its level (`math/short`).
        id: stable identity within the benchmark; two problems with the same content share it.
        prompt: text for the model, before any chat template.
        gold: what the grader compares with; JSON values only, so that it can be stored.
        extra: whatever else is known of it; the key `messages` holds a prompt of several turns, `weighed`
            the texts whose log-probabilities are the answer.
    """

    benchmark: str
    id: str
    prompt: str
    gold: Any
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def named(self) -> str:
        """In messages: which problem of what."""
        return f"problem {self.id} of {self.benchmark}"

    @property
    def asked(self) -> str | Sequence[Mapping[str, str]]:
        """The prompt as it is put to a model: its text, or the turns of a chat."""
        return self.extra.get("messages") or self.prompt

    @property
    def weighed(self) -> Sequence[str]:
        """Texts among which the model's own probabilities choose; empty where the model answers."""
        return self.extra.get("weighed") or ()


@dataclass(frozen=True)
class Prompt:
    """A problem as the model sees it: its token ids, chat template and special tokens included."""

    problem: Problem
    tokens: tuple[int, ...]


LONGEST_REASON = 2000
REFUSED = "refused"
"""The stop of a sample that has no completion (see `Refusal`)."""
JUDGED = "judge-"
"""How the version of a grader begins whose verdicts are a model's opinion: averaged with no exact ones."""


def storable(text: str) -> str:
    """The text with what no file and no database takes (half characters, NUL) written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


@dataclass(frozen=True)
class Verdict:
    """What a grader says of one completion.

    `status` is one of `correct`, `wrong`, `no_answer`, `truncated`, `grader_timeout`, `grader_error`,
    `sandbox_error`, `server_error`. The last four are faults of the infrastructure: they are never counted
    as wrong. `server_error` is no grader's: a server gave no usable answer (see `Refusal`). `answer` and
    `reason` are made `storable`, because they hold a model's words.
    """

    status: str
    answer: str | None = None
    reason: str = ""

    STATUSES = (
        "correct",
        "wrong",
        "no_answer",
        "truncated",
        "grader_timeout",
        "grader_error",
        "sandbox_error",
        "server_error",
    )
    FAULTS = STATUSES[-4:]

    def __post_init__(self) -> None:
        if self.status not in self.STATUSES:
            raise ValueError(f"unknown verdict {self.status!r}; use one of {self.STATUSES}")
        object.__setattr__(self, "reason", storable(self.reason)[:LONGEST_REASON])
        if self.answer is not None:
            object.__setattr__(self, "answer", storable(self.answer))


@dataclass(frozen=True, eq=False)
class Rollout:
    """Responses that the student sampled, with what was known while sampling them.

    Attributes:
        tokens: prompt followed by response, padded on the right. `Int[B S]`
        prompt_lengths: tokens of each prompt. `Int[B]`
        response_lengths: tokens of each response, a sampled EOS included. `Int[B]`
        ended: whether the response ended by EOS; else it was cut at the length limit. `Bool[B]`
        log_prob: log pi_S(y_t | s_t) at temperature 1, in nats. `Float[T]`
        entropy: entropy of pi_S(. | s_t) at temperature 1, in nats. `Float[T]`
        candidates: the top-K tokens of pi_S(. | s_t), most likely first; K may be 0. `Int[T K]`
        seeds: the seed each row was sampled with. `Int[B]`
        eos_ids: tokens that end a response.
        pad_id: filler on the right of `tokens`; carries no meaning.
        candidate_log_prob: of the candidates, nats; engines always record it. `Float[T K]`
        group: which rows answer the same prompt; only for methods that need graded answers. `Int[B]`
        outcome: reward of each whole answer, NaN where its grader failed; for the same methods. `Float[B]`
        sampled_log_prob: what the student that sampled said of the token, nats; only where all else is said
            by a later student (`rollout.ahead`). `Float[T]`
    """

    tokens: Int[Tensor, "B S"]
    prompt_lengths: Int[Tensor, "B"]
    response_lengths: Int[Tensor, "B"]
    ended: Bool[Tensor, "B"]
    log_prob: Float[Tensor, "T"]
    entropy: Float[Tensor, "T"]
    candidates: Int[Tensor, "T K"]
    seeds: Int[Tensor, "B"]
    eos_ids: tuple[int, ...]
    pad_id: int = 0
    candidate_log_prob: Float[Tensor, "T K"] | None = None
    group: Int[Tensor, "B"] | None = None
    outcome: Float[Tensor, "B"] | None = None
    sampled_log_prob: Float[Tensor, "T"] | None = None

    @cached_property
    def row(self) -> Int[Tensor, "T"]:
        """Row of `tokens` that each response token stands in."""
        if self.host is not self:
            return to_device(self.host.row, self.tokens.device)
        rows = torch.arange(len(self.tokens), device=self.tokens.device)
        return rows.repeat_interleave(self.response_lengths)

    @cached_property
    def position(self) -> Int[Tensor, "T"]:
        """Place of each response token in its response, from 0."""
        starts = self.response_lengths.cumsum(0) - self.response_lengths
        return torch.arange(len(self.row), device=self.tokens.device) - starts[self.row]

    @cached_property
    def column(self) -> Int[Tensor, "T"]:
        """Column of `tokens` at which each response token stands; its logits come from one before."""
        return self.prompt_lengths[self.row] + self.position

    @cached_property
    def token(self) -> Int[Tensor, "T"]:
        """The response tokens."""
        return self.tokens[self.row, self.column]

    @cached_property
    def is_eos(self) -> Bool[Tensor, "T"]:
        """Whether the token ends its response."""
        return is_one_of(self.token, self.eos_ids)

    @property
    def possible(self) -> Bool[Tensor, "T K"]:
        """Candidates that the student does not rule out; all, where log-probabilities are not known."""
        if self.candidate_log_prob is None:
            return torch.ones_like(self.candidates, dtype=torch.bool)
        return self.candidate_log_prob.exp() > 0

    @property
    def stream(self) -> int:
        """Seed of what is drawn beside the tokens: a hash of all bits of its rows' seeds."""
        seeds = ",".join(map(str, self.seeds.tolist()))
        return int.from_bytes(hashlib.blake2b(seeds.encode(), digest_size=8).digest()) >> 1

    @property
    def host(self) -> Rollout:
        """The same on the host, read from a device in one copy: for whatever looks at numbers."""
        # A record that kept itself would hold its tensors until Python collects cycles.
        return self if self.tokens.device.type == "cpu" else self._host

    @cached_property
    def _host(self) -> Rollout:
        return self.to("cpu")

    def to(self, device: torch.device | str) -> Rollout:
        """The same rollout with every tensor on `device`."""
        return _moved(self, self.tokens.device, torch.device(device))


@dataclass(frozen=True)
class Lookahead:
    """How far a candidate is followed, by the teacher's likeliest tokens, and what is made of it.

    Attributes:
        steps: distributions that are looked at: the one after the candidate and, beyond one step, those
            after each token that follows. An end of the answer ends them.
        over: what their largest probabilities come to: `geometric_mean`, `last` or `minimum`.
        certain_above: a further token follows only where the largest probability is above this.
    """

    steps: int = 1
    over: str = "geometric_mean"
    certain_above: float = 0.0

    @property
    def beyond(self) -> int:
        """Tokens that may follow a candidate."""
        return self.steps - 1

    def __str__(self) -> str:
        """In words: how far."""
        if self.steps == 1:
            return "one step ahead"
        return f"{self.steps} steps ahead ({self.over.replace('_', ' ')})"


ONE_STEP = Lookahead()


@dataclass(frozen=True, eq=False)
class Questions:
    """What a method needs from the teacher beyond the probability of the sampled tokens.

    Attributes:
        candidates: tokens after which the teacher's confidence is needed, -1 for none. `Int[T K]`
        measure: `max_prob`, `sampled_prob`, `entropy` or `perplexity`.
        full: whether the loss needs the teacher's whole next-token distribution.
        top_k: without `full`, the number of the teacher's likeliest tokens that the loss needs; all others
            count as one.
        lookahead: how far candidates are followed; beyond one step by `max_prob` alone.
    """

    candidates: Int[Tensor, "T K"]
    measure: str = "max_prob"
    full: bool = False
    top_k: int = 0
    lookahead: Lookahead = ONE_STEP


@dataclass(frozen=True, eq=False)
class Distributions:
    """A teacher's next-token distributions in compact form; `Scorer.logits` restores them.

    Attributes:
        hidden: its last hidden states, from which all of each distribution follows. `Float[T H]`
        top_ids, top_log_prob: instead, its likeliest tokens, -1 for none, and their log-probabilities in
            nats; the rest of the probability is that of all others. `Int[T M]`, `Float[T M]`
    """

    hidden: Float[Tensor, "T H"] | None = None
    top_ids: Int[Tensor, "T M"] | None = None
    top_log_prob: Float[Tensor, "T M"] | None = None

    @property
    def whole(self) -> bool:
        """Whether all of each distribution is known."""
        return self.hidden is not None

    def at(self, place: Int[Tensor, "t"]) -> Distributions:
        """Those at some places."""

        def taken(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[to_device(place, values.device)]

        return Distributions(taken(self.hidden), taken(self.top_ids), taken(self.top_log_prob))


@dataclass(frozen=True, eq=False)
class TeacherScores:
    """What the teacher says of a rollout. Nothing here carries a gradient.

    Attributes:
        log_prob: log pi_T(y_t | s_t), nats. `Float[T]`
        entropy: of pi_T(. | s_t), nats; NaN where the teacher cannot tell. `Float[T]`
        fidelity: F(t) = max_u pi_T(u | x, y_<=t), the largest probability *after* y_t; NaN after an
            EOS, where there is no next step. `Float[T]`
        sampled_confidence: the asked measure of the distribution after y_t; NaN after an EOS and, beyond
            one step, where no candidate is asked about. `Float[T]`
        confidence: the asked measure of the distribution after each candidate; NaN where the
            candidate is -1. `Float[T K]`
        hidden: the teacher's last hidden states at s_t, for losses over the whole vocabulary. `Float[T H]`
        top_ids, top_log_prob: if the teacher gives no more: its likeliest tokens at s_t and their
            log-probabilities; see `Distributions`. `Int[T M]`, `Float[T M]`
        seconds: time spent, by part (`trunk`, `leaves`).
        leaves: candidates that were scored by a leaf of their own.
    """

    log_prob: Float[Tensor, "T"]
    entropy: Float[Tensor, "T"]
    fidelity: Float[Tensor, "T"]
    sampled_confidence: Float[Tensor, "T"]
    confidence: Float[Tensor, "T K"]
    hidden: Float[Tensor, "T H"] | None = None
    top_ids: Int[Tensor, "T M"] | None = None
    top_log_prob: Float[Tensor, "T M"] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    leaves: int = 0

    @property
    def distributions(self) -> Distributions | None:
        """The distributions at s_t, where they were asked for."""
        if self.hidden is None and self.top_ids is None:
            return None
        return Distributions(self.hidden, self.top_ids, self.top_log_prob)

    @property
    def numbers(self) -> TeacherScores:
        """The same without distributions."""
        return replace(self, hidden=None, top_ids=None, top_log_prob=None)

    @property
    def host(self) -> TeacherScores:
        """The same on the host, read from a device in one copy, but for `hidden`, which stays there."""
        return self if self.log_prob.device.type == "cpu" else self._host

    @cached_property
    def _host(self) -> TeacherScores:
        return replace(replace(self, hidden=None).to("cpu"), hidden=self.hidden)

    def beside(self, device: torch.device) -> TeacherScores:
        """The same as losses take it: on the host, but for `hidden`, which is sent to `device`, once."""
        hidden = None if self.hidden is None else to_device(self.hidden, device)
        return replace(self.host, hidden=hidden)

    def to(self, device: torch.device | str) -> TeacherScores:
        """The same scores with every tensor on `device`."""
        return _moved(self, self.log_prob.device, torch.device(device))


def _moved(record: Any, here: torch.device, device: torch.device) -> Any:
    """A record with its tensors on `device`; one that comes from the host knows what it was there."""
    if here.type == device.type and device.index in (None, here.index):
        return record
    if here.type != "cpu" and device.type != "cpu":
        return _moved(record.host, torch.device("cpu"), device)
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    values = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if device.type == "cpu":
        return replace(record, **dict(zip(values, to_host(list(values.values())), strict=True)))
    sent = {name: to_device(value, device) for name, value in values.items()}
    moved = replace(record, **sent)
    vars(moved)["_host"] = record
    return moved


@dataclass(frozen=True, eq=False)
class Supervision:
    """What the loss needs, one row for each response token; nothing here carries a gradient.

    Attributes:
        token: the sampled token y_t. `Int[T]`
        log_prob: the student's log-probability of it when it was sampled. `Float[T]`
        advantage: weight of the policy gradient of y_t; higher is better. `Float[T]`
        candidates: tokens that get a gradient of their own, -1 for none. `Int[T K]`
        candidate_advantage: their weights, 0 where there is none. `Float[T K]`
        metrics: values to plot, by name: one for each token, answer or group, NaN where there is none, of
            which the step shows the mean; or one number, weighted by the number of tokens.
    """

    token: Int[Tensor, "T"]
    log_prob: Float[Tensor, "T"]
    advantage: Float[Tensor, "T"]
    candidates: Int[Tensor, "T K"]
    candidate_advantage: Float[Tensor, "T K"]
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.token)

    def to(self, device: torch.device | str) -> Supervision:
        """What the loss needs of it on `device`."""
        return Supervision(
            to_device(self.token, device),
            to_device(self.log_prob, device),
            to_device(self.advantage, device),
            to_device(self.candidates, device),
            to_device(self.candidate_advantage, device),
        )

    def __getitem__(self, part: slice | Int[Tensor, "t"]) -> Supervision:
        """The same for some of the tokens, a slice of them or those at these places."""
        return Supervision(
            self.token[part],
            self.log_prob[part],
            self.advantage[part],
            self.candidates[part],
            self.candidate_advantage[part],
        )


@dataclass(frozen=True)
class Generation:
    """One completion of one problem, as it is stored; never changed afterwards.

    Attributes:
        problem: the problem's id.
        index: which of the k samples of the problem, from 0.
        seed: the seed it was sampled with.
        prompt: what the model was given, with its chat template where that was applied.
        completion: text exactly as decoded; of special tokens only those that mark thinking.
        tokens: length in tokens, EOS included.
        stop: `eos` or `length`.
        seconds: its share of the wall time of the sampling.
        thinking: marks of the chat template around thinking, as
            `opdlab.modelling.answer_part.written` writes them.
    """

    problem: str
    index: int
    seed: int
    prompt: str
    completion: str
    tokens: int
    stop: str
    seconds: float
    thinking: str = ""

    @property
    def drawn(self) -> tuple[int, str, str, int, str]:
        """All of it that drawing it again would give again."""
        return self.seed, self.prompt, self.completion, self.tokens, self.stop


@dataclass(frozen=True)
class Refusal:
    """A sample that a server refused, or answered in a way that cannot be used: it has no completion.

    Attributes:
        problem, index, seed, prompt: as in `Generation`.
        reason: the server's words, or what is wrong with its answer.
    """

    problem: str
    index: int
    seed: int
    prompt: str
    reason: str


@dataclass(frozen=True)
class Withdrawal:
    """A sample that counts no more: its server was seen later to draw otherwise than it was asked to.

    Attributes:
        problem, index: as in `Generation`.
        generations, grades: numbers of the last files that it is withdrawn from; what came later counts.
    """

    problem: str
    index: int
    generations: int
    grades: int


@dataclass(frozen=True)
class Grade:
    """One version of a grader's `Verdict` on one completion."""

    problem: str
    index: int
    grader: str
    status: str
    answer: str | None
    reason: str


@dataclass(frozen=True)
class Sample:
    """A completion with the grade that counts: what statistics and pages work on.

    Attributes:
        checkpoint: what produced it (`student`, `teacher`, `step-80`).
        benchmark, problem: the problem's benchmark and id.
        index, seed, prompt, completion, tokens, stop, seconds: the `Generation`. A `Refusal` has an empty
            completion of 0 tokens and the stop `REFUSED`.
        status, answer, reason: the grader's `Verdict`; of a `Refusal` `server_error` and its reason.
        grader: version of the grader.
        protocol: hash of all that makes two scores comparable, the grader included.
    """

    checkpoint: str
    benchmark: str
    problem: str
    index: int
    seed: int
    prompt: str
    completion: str
    tokens: int
    stop: str
    status: str
    answer: str | None
    reason: str
    grader: str
    protocol: str
    seconds: float = 0.0

    @property
    def answered(self) -> bool:
        """Whether it has a completion."""
        return self.stop != REFUSED


def is_one_of(tokens: Int[Tensor, "*n"], values: tuple[int, ...]) -> Bool[Tensor, "*n"]:
    """Elementwise membership in a short tuple."""
    found = torch.zeros_like(tokens, dtype=torch.bool)
    for value in values:
        found |= tokens == value
    return found
