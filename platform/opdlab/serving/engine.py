"""The rollout engine that samples on a server, and scores what it sampled with the student itself.

An experiment is checked by its options, so what samples (`served_rollout`) is imported when it does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from opdlab.console import Stopped
from opdlab.errors import AwayError, RefusedError
from opdlab.records import Rollout, option
from opdlab.sampling import CachedEngine, RolloutEngine, assemble, check_prompts
from opdlab.serving.access import Access, check_access
from opdlab.shapes import Int, Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from opdlab.sampling import OnResponse
    from opdlab.serving.fleet import Fleet
    from opdlab.serving.received import Received
    from opdlab.serving.served_rollout import Asked, Sampling, ServedRollout

ROUNDS = 16
"""Answers for each request under way, after which they are seen to be the model's and handed over."""
LOOKING_S = 10.0
"""How long a server is waited for that is only looked at."""


@dataclass(frozen=True, kw_only=True)
class OpenAIEngine(RolloutEngine):
    """Samples on a server that speaks OpenAI's API: vLLM or SGLang; any for `opdlab eval`.

    Training needs the sampled tokens and their log-probabilities: a server that does not return both is
    refused. What is recorded (log-probabilities, entropy, candidates) is the student's own, by one forward
    over what the server sampled; how far the server's log-probabilities are from those shows whether it
    serves the student.
    """

    url: str | list[str] = option(
        "http://localhost:8000/v1",
        "Base URL of the OpenAI API, including `/v1`; or a list, of servers that share the answers "
        "of a step by load. Evaluations use the first one.",
    )
    served_model: str | None = option(
        None, "Name of the model on the server; null uses the only one."
    )
    key_variable: str = option("OPENAI_API_KEY", "Environment variable with the API key, if any.")
    concurrency: int = option(64, "Concurrent requests.", ge=1, le=4096)
    patience_s: float = option(
        600.0,
        "Seconds for which a failed request is retried, with growing delays. The time that the "
        "server spent on it does not count, and any other answer restarts the clock.",
        ge=0,
    )
    timeout_s: float = option(3600.0, "Longest wait for one answer, in seconds.", gt=0)
    weights_folder: str | None = option(
        None,
        "Folder, under the same path on the server, through which the server gets the student's "
        "weights before each rollout; null if nothing is trained.",
    )
    largest_gap: float | None = option(
        None,
        "Difference between the server's log-probabilities and the student's, in nats (root mean "
        "square over uncertain tokens), above which a rollout is refused because the server has "
        "other weights. Null uses three times the effect of bfloat16 on the student's own "
        "log-probabilities; set it for servers with fewer bits.",
        gt=0,
    )

    def __post_init__(self) -> None:
        # An empty list is refused as an empty address is.
        checked = [check_access(url, self.key_variable) for url in self.urls or [""]]
        object.__setattr__(self, "url", checked if isinstance(self.url, list) else checked[0])

    @property
    def served(self) -> bool:
        return True

    @property
    def keeps_up(self) -> bool:
        return self.weights_folder is not None

    @property
    def urls(self) -> list[str]:
        """Of each server."""
        return self.url if isinstance(self.url, list) else [self.url]

    @property
    def access(self) -> Access:
        """Where the (first) server is and how patiently it is spoken to."""
        return Access(
            self.urls[0], self.key_variable, self.concurrency, self.patience_s, self.timeout_s
        )

    def in_process(self) -> CachedEngine:
        return CachedEngine(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            group_size=self.group_size,
        )

    def sample(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        eos_ids: tuple[int, ...],
        pad_id: int,
        top_k: int = 0,
        vocabulary: int | None = None,
        max_rows: int | None = None,
        on_response: OnResponse | None = None,
    ) -> Rollout:
        from opdlab.peers import several_processes
        from opdlab.serving.served_rollout import Asked

        check_prompts(prompts, seeds)
        whole = Asked(prompts, seeds, tuple(eos_ids), pad_id, top_k, vocabulary)
        # An evaluation is the leader's alone; in training every process samples its own rows.
        alone = on_response is not None or not several_processes()
        return _answered(self._sampler(model, max_rows, alone), whole, on_response)

    def begin(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        max_rows: int | None = None,
        **asked: Any,
    ) -> Callable[[], Rollout]:
        from opdlab.serving.served_rollout import Asked

        check_prompts(prompts, seeds)
        whole = Asked(prompts, seeds, **asked)
        sampler = self._sampler(model, max_rows, alone=True)
        rows, _ = _with_room(sampler, whole)
        sampler.begin(whole.only(rows))
        return partial(_answered, sampler, whole)

    def attend(self, model: PreTrainedModel) -> None:
        from opdlab.serving.served_rollout import Asked

        self._rollout(model, None, alone=False).drawn(Asked([], [], (), 0, 0, None))

    def answer(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        eos_ids: tuple[int, ...],
        pad_id: int,
        vocabulary: int | None = None,
        max_rows: int,
        max_tokens: int,
        on_response: OnResponse,
        received: Received | None = None,
    ) -> None:
        """See `RolloutEngine.answer`.

        Args:
            max_tokens: says nothing to a server, which has the keys and values.
            received: keeps what came where this process ends before it is seen to be the model's; what it
                kept of an earlier one is looked at first, and asked for again where it is not.
        """
        from opdlab.serving.replies import Reply
        from opdlab.serving.served_rollout import Asked

        check_prompts(prompts, seeds)
        whole = Asked(prompts, seeds, tuple(eos_ids), pad_id, 0, vocabulary)
        known: dict[int, Int[Tensor, "_"]] = {}
        if received is not None and (came := received.known(Reply.read)):
            known = self._rollout(model, max_rows, alone=True).proved(whole, came, received)
            received.forget([row for row in came if row not in known])
            hand_over(known.items(), range(len(prompts)), on_response)
        missing = [row for row in range(len(prompts)) if row not in known]

        def one_round(rows: Sequence[int]) -> None:
            rollout = self._rollout(model, max_rows, alone=True)
            found = rollout.drawn(whole.only(rows), received and received.only(rows))
            hand_over(zip(found.rows, found.responses, strict=True), rows, on_response)
            if found.refused:
                raise RefusedError(found.refused, len(rows))

        size = ROUNDS * min(self.concurrency, max_rows)
        in_rounds([tuple(prompt) for prompt in prompts], missing, size, one_round)

    def look(
        self,
        model: PreTrainedModel,
        prompt: Sequence[int],
        *,
        eos_ids: tuple[int, ...],
        pad_id: int,
        vocabulary: int | None = None,
    ) -> tuple[bool, str]:
        """Whether each server has the model's weights now, and what it is, in words; none are sent.

        Raises:
            ServerError: it is away, or good for no rollouts.
        """
        from opdlab.serving.served_rollout import Asked

        asked = Asked([prompt], [0], tuple(eos_ids), pad_id, 0, vocabulary)
        hasty = replace(
            self,
            patience_s=min(self.patience_s, LOOKING_S),
            timeout_s=min(self.timeout_s, LOOKING_S),
        )
        each = [replace(hasty, url=url) for url in self.urls]
        try:
            found = [one._rollout(model, None, alone=True).look(asked) for one in each]
            return all(fits for fits, _ in found), "; ".join(said for _, said in found)
        except AwayError as error:
            raise AwayError(
                f"{error}. It was tried for {LOOKING_S:.0f} s only. If it is still loading its model, "
                "or compiling at its first request, run the same command again; a training waits "
                f"rollout.patience_s ({self.patience_s:g} s)"
            ) from error

    def _rollout(self, model: PreTrainedModel, max_rows: int | None, alone: bool) -> ServedRollout:
        from opdlab.serving.served_rollout import ServedRollout

        return ServedRollout(self._how(self.access), model, max_rows, alone)

    def _sampler(
        self, model: PreTrainedModel, max_rows: int | None, alone: bool
    ) -> ServedRollout | Fleet:
        """The server, or all of them."""
        from opdlab.serving.fleet import Fleet

        if len(self.urls) == 1:
            return self._rollout(model, max_rows, alone)
        everyone = [self._how(replace(self.access, url=url)) for url in self.urls]
        return Fleet(everyone, model, max_rows)

    def _how(self, access: Access) -> Sampling:
        from opdlab.serving.served_rollout import Sampling

        return Sampling(
            access,
            self.served_model,
            self.weights_folder,
            self.largest_gap,
            self.temperature,
            self.top_p,
            self.max_new_tokens,
        )

    def figures(self, model: PreTrainedModel) -> dict[str, float]:
        from opdlab.serving.weights import figures_of

        return figures_of(model)


def _with_room(sampler: ServedRollout | Fleet, whole: Asked) -> tuple[list[int], dict[int, str]]:
    """Rows that the server's context has room for, and why others have none: these would only get short
    answers."""
    refused = sampler.too_long(whole.prompts)
    return [row for row in range(len(whole.prompts)) if row not in refused], refused


def _answered(
    sampler: ServedRollout | Fleet, whole: Asked, on_response: OnResponse | None = None
) -> Rollout:
    """What the server answered, as a record; see `RolloutEngine.sample`.

    Raises:
        RefusedError: it refused some of the prompts; the error has the answers to the others.
    """
    count = len(whole.prompts)
    rows, refused = _with_room(sampler, whole)
    if not rows and sampler.alone:
        raise RefusedError(refused, count)
    found = sampler.drawn(whole.only(rows))
    refused |= {rows[place]: why for place, why in found.refused.items()}
    rows = [rows[place] for place in found.rows]
    if found.recorded is None:
        raise RefusedError(refused, count)
    if on_response is not None:
        # None before all were seen to be the model's: each is kept as it is handed over.
        hand_over(zip(rows, found.responses, strict=True), range(count), on_response)
    asked = whole.only(rows)
    answered = assemble(
        asked.prompts, found.responses, found.recorded, asked.seeds, asked.eos_ids, asked.pad_id
    )
    if refused:
        raise RefusedError(refused, count, answered=answered)
    return answered


def hand_over(
    responses: Iterable[tuple[int, Int[Tensor, "_"]]], rows: Sequence[int], to: OnResponse
) -> None:
    """All responses, by their places among the rows; whoever is told to stop gets the others first."""
    stopped: Stopped | None = None
    for place, response in responses:
        try:
            to(rows[place], response.tolist())
        except Stopped as error:
            stopped = error
    if stopped is not None:
        raise stopped


def in_rounds(
    prompts: Sequence[Hashable],
    rows: Sequence[int],
    size: int,
    ask: Callable[[Sequence[int]], None],
) -> None:
    """Ask for some rows after another, each time for rows from everywhere: neighbours have one prompt.

    As long as nothing is answered, a prompt that was refused is not asked for again.

    Args:
        prompts: of each row.
        rows: those that are asked for.
        size: of them at a time, at most.
        ask: raises RefusedError, by the place among its rows.

    Raises:
        RefusedError: for what all rounds were refused; the rest was not asked where nothing was answered.
    """
    count = len(prompts)
    several = -(-len(rows) // size)
    rounds = [rows[first::several] for first in range(several)]
    refused: dict[int, str] = {}
    held: list[int] = []
    answered = False
    while rounds:
        rows = rounds.pop(0)
        if not answered:
            in_vain = {prompts[row] for row in refused}
            held += [row for row in rows if prompts[row] in in_vain]
            rows = [row for row in rows if prompts[row] not in in_vain]
        try:
            if rows:
                ask(rows)
                answered = True
        except RefusedError as error:
            refused |= {rows[place]: why for place, why in error.rows.items()}
            unasked = [row for row in rows if row not in refused] if error.ended else []
            held += unasked
            answered |= not error.ended and len(error.rows) < len(rows)
        if answered and held:
            rounds += [held[first : first + size] for first in range(0, len(held), size)]
            held = []
    if refused:
        raise RefusedError(refused, count, ended=bool(held))


def same_way(engine: RolloutEngine, server: OpenAIEngine) -> OpenAIEngine:
    """The server's engine with the lengths and sampling of another one."""
    return replace(
        server,
        max_new_tokens=engine.max_new_tokens,
        temperature=engine.temperature,
        top_p=engine.top_p,
        group_size=engine.group_size,
    )
