"""A model behind a server, to be evaluated: only its tokenizer is needed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from opdlab.errors import ModelError, ServerError
from opdlab.evaluation.held import Held
from opdlab.evaluation.known_answers import PRINTS, Prints, as_known, take
from opdlab.evaluation.measured import Answer, Measured, OnAnswer, OnTick
from opdlab.identity import ModelId
from opdlab.modelling import Wording, as_wording, models
from opdlab.sampling import RolloutEngine
from opdlab.serving import (
    ROUNDS,
    TOKEN_SERVERS,
    Client,
    Draw,
    Identity,
    OpenAIEngine,
    completion_body,
    identify,
    prompt_text,
    read_reply,
)

STOPPED_S = 10.0
"""Longest wait for an answer of a server where the evaluation was stopped."""


@dataclass(frozen=True, kw_only=True)
class Served(Measured):
    """A model on a server that speaks OpenAI's API.

    Attributes:
        server, prints: what it says it is, and the fingerprint that it is known by.
        seen: the fingerprint that was taken now.
        trained_by: id of the execution that made the model whose tokenizer this is; empty for none here.
    """

    client: Client
    server: Identity
    prints: Prints
    seen: Prints
    trained_by: str = ""

    def identity(self) -> ModelId:
        return ModelId(
            weights="",
            tokenizer=models.tokenizer_sha256(self.tokenizer),
            template=models.template_sha256(self.tokenizer, as_wording(self.template).template),
            ends=self.eos_ids,
            server=asdict(self.server) | {PRINTS: self.prints.id},
            name=self.server.model,
            trained_by=self.trained_by,
        )

    def software(self) -> dict[str, str]:
        return {"engine": type(self.engine).__name__, "url": self.client.access.url} | (
            self.server.record() | {PRINTS: self.prints.plain()}
        )

    def answer(
        self,
        engine: RolloutEngine,
        prompts: Sequence[tuple[Sequence[int], str]],
        seeds: Sequence[int],
        rows: int,
        tokens: int,
        on_answer: OnAnswer,
        on_tick: OnTick,
    ) -> None:
        draw = Draw(
            engine.temperature, engine.top_p, engine.max_new_tokens, self.eos_ids, self.pad_id
        )
        texts = self._texts(prompts)
        bodies = [
            completion_body(self.server, draw, ids, texts[shown], seed)
            for (ids, shown), seed in zip(prompts, seeds, strict=True)
        ]
        held = Held(self.prove, on_answer)

        def came(row: int, answer: Any) -> None:
            reply = read_reply(answer, prompts[row][0], draw, self.tokenizer)
            held.add(row, Answer(reply.text, reply.tokens, reply.stop))

        def tick() -> None:
            held.look()
            on_tick()

        # What others return depends on what else is under way, so they are looked at in between.
        at_once = self._at_once(rows)
        busy = self.server.software in TOKEN_SERVERS
        held.waits = not busy
        size = len(bodies) if busy else ROUNDS * at_once
        url = self.client.access.api("/completions")
        for first in range(0, len(bodies), size):
            part = bodies[first : first + size]
            try:
                self.client.post_all(url, part, partial(_later, came, first), tick, at_once)
            except ServerError:
                raise
            except BaseException:
                # Whoever stops it keeps what came, and waits for no server that is away.
                held.prove = self._hasty().prove
                with suppress(ServerError):
                    held.hand_on()
                raise
            held.hand_on()

    def _hasty(self) -> Served:
        access = replace(self.client.access, patience_s=0.0, timeout_s=STOPPED_S)
        return replace(self, client=Client(access))

    def prove(self) -> None:
        """See that the server still has the weights that it began with.

        Raises:
            ServerError: it has others, or does not answer.
        """
        asked = self.client, self.server, self.tokenizer, self.eos_ids
        if self.seen.like(take(*asked, alone=True)) or self.seen.like(take(*asked)):
            return
        raise ServerError(
            f"{self.client.access.url} got other weights while it was measured: its answers to a few fixed "
            "prompts are not those of the beginning. What came since it was last seen to have the old ones "
            "is left out. Serve one model for the whole of an evaluation, then run the same command again"
        )

    def _texts(self, prompts: Sequence[tuple[Sequence[int], str]]) -> dict[str, str]:
        """What is sent for each prompt to a server that takes text only."""
        if self.server.software in TOKEN_SERVERS:
            return {shown: shown for _, shown in prompts}
        return {shown: prompt_text(self.tokenizer, ids, shown) for ids, shown in prompts}

    def _at_once(self, rows: int) -> int:
        # It works on one request at a time, and its seed is the whole process's: a request that arrives
        # while another is sampled would change what that one draws.
        if self.server.software == "transformers":
            return 1
        return min(rows, self.client.access.concurrency)

    def notice(self) -> str:
        return self.client.notice

    def label(self) -> str:
        """Name of what is measured: the model, and the beginning of a hash of who answers."""
        name = self.server.model.rstrip("/").split("/")[-1]
        return f"{name}-{self.server.software}-{self.identity().key[:8]}"


def _later(came: Callable[[int, Any], None], first: int, place: int, answer: Any) -> None:
    came(first + place, answer)


def open_served(
    engine: OpenAIEngine, tokenizer_path: str, template: Wording | str, output: Path = Path("runs")
) -> Served:
    """The model that a server serves, known by its fingerprint.

    Args:
        tokenizer_path: where its tokenizer is (see `opdlab.modelling.models.load_tokenizer`).
        output: folder of runs, where it may have been measured before.

    Raises:
        ServerError: nobody answers, or the model is not served.
        ModelError: there is no tokenizer, or it names no EOS.
    """
    tokenizer = models.load_tokenizer(tokenizer_path)
    place = models.locate(tokenizer_path, None)["pretrained_model_name_or_path"]
    client = Client(engine.access)
    ends = _ends(place, tokenizer)
    pad = tokenizer.pad_token_id
    server = identify(client, engine.served_model, str(place))
    seen = take(client, server, tokenizer, ends)
    return Served(
        tokenizer=tokenizer,
        engine=engine,
        eos_ids=ends,
        pad_id=ends[0] if pad is None else int(pad),  # pyright: ignore[reportArgumentType]
        template=template,
        client=client,
        server=server,
        prints=as_known(seen, asdict(server), output),
        seen=seen,
        trained_by=models.trained_by(str(place)),
    )


def _ends(path: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokenizer's EOS and those of the model's generation settings, ascending."""
    try:
        found = GenerationConfig.from_pretrained(path, local_files_only=True).eos_token_id
    except OSError:
        found = None
    listed = found if isinstance(found, list) else [found]
    ids = {end for end in [*listed, tokenizer.eos_token_id] if isinstance(end, int)}
    if not ids:
        raise ModelError(f"{path}: neither the tokenizer nor generation_config.json names an EOS")
    return tuple(sorted(ids))
