"""The rollout engine that samples on a server, and scores what it sampled with the student itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from opdlab.errors import ServerError
from opdlab.peers import gathered, several_processes
from opdlab.records import Rollout, option
from opdlab.sampling import CachedEngine, RolloutEngine, assemble, check_prompts
from opdlab.serving.client import Access, Client, check_access
from opdlab.serving.dialect import (
    TOKEN_SERVERS,
    Draw,
    Identity,
    Reply,
    completion_body,
    identify,
    read_reply,
)
from opdlab.shapes import Int, Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from opdlab.sampling import OnResponse, Recorded

ROUNDS = 16
"""Answers for each request under way, after which they are seen to be the model's and handed over."""
PROBED, PROBE_TOKENS = 8, 32
"""Prompts, and tokens of each answer, by which a server is looked at whose own are not at temperature 1."""


@dataclass(frozen=True)
class _Prompts:
    """What is sampled from, and how its responses end and are recorded: see `RolloutEngine.sample`."""

    prompts: Sequence[Sequence[int]]
    seeds: Sequence[int]
    eos_ids: tuple[int, ...]
    pad_id: int
    top_k: int
    vocabulary: int | None


@dataclass(frozen=True, kw_only=True)
class OpenAIEngine(RolloutEngine):
    """Samples on a server that speaks OpenAI's API: vLLM or SGLang; any for `opdlab eval`.

    Training needs the very tokens that were sampled and their log-probabilities: a server that does not
    return both is refused. What is recorded (log-probabilities, entropy, candidates) is the student's own,
    by one forward over what the server sampled; how far the server's log-probabilities are from those
    shows whether it serves the student.
    """

    url: str = option("http://localhost:8000/v1", "Base of OpenAI's API, `/v1` included.")
    served_model: str | None = option(
        None, "Name under which the model is served; null takes the only one."
    )
    key_variable: str = option("OPENAI_API_KEY", "Environment variable with the API key, if any.")
    concurrency: int = option(64, "Requests under way at once.", ge=1, le=4096)
    patience_s: float = option(
        600.0,
        "Seconds for which a request that fails is tried again, ever more slowly; the time that the server "
        "worked on it does not count, and each answer to another request begins them anew.",
        ge=0,
    )
    timeout_s: float = option(3600.0, "Longest wait for one answer, in seconds.", gt=0)
    weights_folder: str | None = option(
        None,
        "Folder that the server sees under the same name, through which it gets the student's weights "
        "before each rollout; null where nothing is trained.",
    )
    largest_gap: float = option(
        0.1,
        "Root mean square difference between the server's log-probabilities and the student's, in nats, "
        "above which a rollout is refused: the server has other weights.",
        gt=0,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", check_access(self.url, self.key_variable))

    @property
    def served(self) -> bool:
        return True

    @property
    def access(self) -> Access:
        """Where the server is and how patiently it is spoken to."""
        return Access(
            self.url, self.key_variable, self.concurrency, self.patience_s, self.timeout_s
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
        check_prompts(prompts, seeds)
        ours = _Prompts(prompts, seeds, tuple(eos_ids), pad_id, top_k, vocabulary)
        # An evaluation is the leader's alone; in training every process samples its own rows.
        alone = on_response is not None or not several_processes()
        responses, recorded = self._sampled(model, ours, max_rows, alone)
        if on_response is not None:
            # None before all were seen to be the model's: each is kept as it is handed over.
            for row, response in enumerate(responses):
                on_response(row, response.tolist())
        return assemble(prompts, responses, recorded, seeds, eos_ids, pad_id)

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
    ) -> None:
        # Keys and values are the server's: `max_tokens` says nothing to it.
        check_prompts(prompts, seeds)
        ours = _Prompts(prompts, seeds, tuple(eos_ids), pad_id, 0, vocabulary)
        size = ROUNDS * min(self.concurrency, max_rows)
        for first in range(0, len(prompts), size):
            rows = slice(first, first + size)
            part = replace(ours, prompts=prompts[rows], seeds=seeds[rows])
            responses, _ = self._sampled(model, part, max_rows, alone=True)
            for place, response in enumerate(responses):
                on_response(first + place, response.tolist())

    def _sampled(
        self,
        model: PreTrainedModel,
        ours: _Prompts,
        max_rows: int | None,
        alone: bool,
    ) -> tuple[list[Int[Tensor, "_"]], Recorded]:
        """Responses of the server, and what the model says of them.

        Raises:
            ServerError: the server has other weights than the model.
        """
        from opdlab.sampling import refuse_non_finite, scored

        client = Client(self.access)
        server = identify(client, self.served_model)
        if self.weights_folder is not None:
            self._sync(client, server, model, list(ours.prompts[0]), alone)

        def once() -> tuple[list[Int[Tensor, "_"]], Recorded, float]:
            replies = self._replies(client, server, ours, max_rows)
            responses = [torch.tensor(reply.ids, device=model.device) for reply in replies]
            _check_vocabulary(responses, ours.vocabulary)
            found = scored(model, ours.prompts, responses, ours.vocabulary, ours.top_k)
            refuse_non_finite(found.log_prob, *_places(responses))
            # Servers differ in whether theirs are those before temperature and top-p.
            plain = (self.temperature, self.top_p) == (1.0, 1.0)
            gap = _gap(found, replies) if plain else self._probed(client, server, model, ours)
            return responses, found, gap

        responses, recorded, gap = once()
        mends = self.weights_folder is not None
        if mends and any(gathered(gap > self.largest_gap, alone)):
            # A server that was started again in between has the weights it began with.
            self._sync(client, server, model, list(ours.prompts[0]), alone, again=True)
            responses, recorded, gap = once()
        self._require(gap)
        return responses, recorded

    def _require(self, gap: float) -> None:
        """Raises ServerError where the server has other weights than the model."""
        if gap > self.largest_gap:
            raise ServerError(
                f"{self.url} does not serve the student: its log-probabilities of what it sampled are "
                f"{gap:.2g} nats off (root mean square; largest_gap: {self.largest_gap:g}). Give it the "
                "student's weights (weights_folder), or serve the model that is trained; a wider number "
                "format lowers what rounding leaves"
            )

    def _probed(
        self, client: Client, server: Identity, model: PreTrainedModel, ours: _Prompts
    ) -> float:
        """How far the server is from the model on a few short answers of temperature 1, nats."""
        from opdlab.sampling import scored

        prompts = list(dict.fromkeys(map(tuple, ours.prompts)))[:PROBED]
        few = replace(ours, prompts=prompts, seeds=list(ours.seeds[: len(prompts)]), top_k=0)
        length = min(self.max_new_tokens, PROBE_TOKENS)
        plain = replace(self, temperature=1.0, top_p=1.0, max_new_tokens=length)
        replies = plain._replies(client, server, few, None)
        responses = [torch.tensor(reply.ids, device=model.device) for reply in replies]
        _check_vocabulary(responses, ours.vocabulary)
        return _gap(scored(model, prompts, responses, ours.vocabulary, 0), replies)

    def _sync(
        self,
        client: Client,
        server: Identity,
        model: PreTrainedModel,
        prompt: list[int],
        alone: bool,
        again: bool = False,
    ) -> None:
        """Give the server the weights if they changed; of several processes, the first does it for all.

        Raises:
            ServerError: on every process, the server did not take them.
        """
        from opdlab.serving import weights

        fault = ""
        if alone or torch.distributed.get_rank() == 0:
            try:
                weights.check(model, server)
                if again or weights.outdated(client, model):
                    self._send(client, server, model, prompt)
            except ServerError as error:
                # The others wait to hear.
                fault = str(error)
        if said := "".join(gathered(fault, alone)):
            raise ServerError(said)

    def _send(
        self, client: Client, server: Identity, model: PreTrainedModel, prompt: list[int]
    ) -> None:
        from opdlab.serving import weights

        assert self.weights_folder is not None
        weights.send(client, server, model, self.weights_folder)
        if server.software != "vllm" or len(prompt) < 2:
            return
        gap = weights.gap(client, server, model, prompt)
        if gap > self.largest_gap:
            raise ServerError(
                f"{self.url} still answers with other weights after it was sent the student's: its "
                f"log-probabilities of a prompt are {gap:.2g} nats off"
            )

    def _replies(
        self,
        client: Client,
        server: Identity,
        ours: _Prompts,
        max_rows: int | None,
    ) -> list[Reply]:
        if server.software not in TOKEN_SERVERS:
            raise self._lacks(server, "token ids")
        draw = Draw(self.temperature, self.top_p, self.max_new_tokens, ours.eos_ids, ours.pad_id)
        found: dict[int, Reply] = {}

        def arrived(row: int, answer: object) -> None:
            reply = read_reply(answer, ours.prompts[row], draw, None)
            if reply.ids is None or reply.log_probs is None:
                missing = "token ids" if reply.ids is None else "log-probabilities"
                raise self._lacks(server, missing)
            found[row] = reply

        bodies = [
            completion_body(server, draw, prompt, "", seed, log_probs=True)
            for prompt, seed in zip(ours.prompts, ours.seeds, strict=True)
        ]
        at_once = min(self.concurrency, max_rows or self.concurrency)
        url = client.access.api("/completions")
        client.post_all(url, bodies, arrived, at_once=at_once)
        return [found[row] for row in range(len(ours.prompts))]

    def _lacks(self, server: Identity, missing: str) -> ServerError:
        return ServerError(
            f"{self.url} ({server.software}) returns no {missing}: training needs the very tokens that "
            f"were sampled and how likely they were, which {' and '.join(TOKEN_SERVERS)} return; another "
            "server is good for `opdlab eval --server` alone"
        )


def _gap(recorded: Recorded, replies: Sequence[Reply]) -> float:
    """Root mean square difference between the server's log-probabilities and the student's, nats.

    Not the mean: most tokens are certain to any model, and would hide those that tell two apart.
    """
    said = [value for reply in replies for value in reply.log_probs or ()]
    theirs = torch.tensor(said, device=recorded.log_prob.device)
    return float((theirs - recorded.log_prob).square().mean().sqrt())


def _places(responses: Sequence[Int[Tensor, "_"]]) -> tuple[Int[Tensor, "T"], Int[Tensor, "T"]]:
    """Row and position of each token of responses that are laid end to end."""
    from opdlab.scoring import within

    lengths = torch.tensor([len(response) for response in responses])
    return within(lengths)


def _check_vocabulary(responses: Sequence[Tensor], vocabulary: int | None) -> None:
    largest = max(int(response.max()) for response in responses)
    if vocabulary is not None and largest >= vocabulary:
        raise ServerError(
            f"the server sampled token {largest}, beyond the {vocabulary} that student and teacher "
            "share; it serves a model with more entries"
        )


def same_way(engine: RolloutEngine, server: OpenAIEngine) -> OpenAIEngine:
    """The server's engine with the lengths and sampling of another one."""
    return replace(
        server,
        max_new_tokens=engine.max_new_tokens,
        temperature=engine.temperature,
        top_p=engine.top_p,
        group_size=engine.group_size,
    )
