"""A model behind a server, to be evaluated: only its tokenizer is needed here."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from opdlab.errors import (
    ModelError,
    OtherWeightsError,
    RefusedError,
    ServerError,
    UnservedError,
)
from opdlab.evaluation.held import Held
from opdlab.evaluation.known_answers import LARGEST_GAP, PRINTS, Prints, as_known, repeats, take
from opdlab.evaluation.subjects import Answer, Measured, OnAnswer, OnTick
from opdlab.identity import ModelId
from opdlab.modelling import Wording, as_wording, models
from opdlab.sampling import RolloutEngine
from opdlab.serving import (
    KNOWN,
    ROUNDS,
    Ask,
    Client,
    Draw,
    Identity,
    OpenAIEngine,
    Received,
    Reply,
    Session,
    in_rounds,
    prompt_text,
    require_plain,
)

LOG = logging.getLogger("opdlab")
REPEATED, REPEATED_TOKENS = 4, 64
"""Answers of an earlier process, and tokens of each, that are asked for again before it counts."""
LABEL = 80
"""Characters of a model's name in the name of what is measured."""


@dataclass(frozen=True, kw_only=True)
class Served(Measured):
    """A model on a server that speaks OpenAI's API.

    Attributes:
        session: who answers, asked by the one way there is.
        prints: the fingerprint that it is known by.
        seen: the fingerprint that was taken now.
        trained_by: id of the execution that made the model whose tokenizer this is; empty for none here.
        vocabulary: entries of the model, as far as its folder tells.
        defaults_known: whether nothing that the server fills in decides what is drawn.
    """

    session: Session
    prints: Prints
    seen: Prints
    trained_by: str = ""
    vocabulary: int | None = None
    defaults_known: bool = True

    @property
    def server(self) -> Identity:
        """What the server says it is."""
        return self.session.server

    @property
    def client(self) -> Client:
        """What speaks to it."""
        return self.session.client

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

    def sampled_with(self) -> dict[str, Any]:
        software = self.server.software
        if software in KNOWN and self.defaults_known:
            return {}
        # It fills in what is not sent, and nobody can send what is not known.
        whose = "" if software in (*KNOWN, "unknown") else f" ({software})"
        return {"server_defaults": f"not known{whose}"}

    def answer(
        self,
        engine: RolloutEngine,
        prompts: Sequence[tuple[Sequence[int], str]],
        seeds: Sequence[int],
        rows: int,
        tokens: int,
        on_answer: OnAnswer,
        on_tick: OnTick,
        received: Received,
    ) -> None:
        draw = Draw(
            engine.temperature,
            engine.top_p,
            engine.max_new_tokens,
            self.eos_ids,
            self.pad_id,
            self.vocabulary,
        )
        texts = self._texts(prompts)
        asks = [
            Ask(ids, seed, texts[shown]) for (ids, shown), seed in zip(prompts, seeds, strict=True)
        ]
        # Of an earlier process: the fingerprint before them is this folder's, and the one now is as well.
        known = received.known(lambda told: Answer(**told))
        if known and not self._said_again(draw, asks, known, on_tick):
            received.forget(list(known))
            known = {}
        for row, answer in known.items():
            on_answer(row, answer)
        missing = [row for row in range(len(prompts)) if row not in known]
        held = Held(self.prove, on_answer, received, lambda: self.client.interruptions)

        def tick() -> None:
            held.look()
            on_tick()

        # What others return depends on what else is under way, so they are looked at in between.
        at_once = self._at_once(rows)
        held.waits = not self.session.takes_tokens
        size = max(1, len(missing)) if self.session.takes_tokens else ROUNDS * at_once

        def one_round(rows: Sequence[int]) -> None:
            def came(place: int, reply: Reply) -> None:
                held.add(rows[place], Answer(reply.text, reply.tokens, reply.stop))

            some = [asks[row] for row in rows]
            try:
                self.session.complete(
                    draw, some, came, tokenizer=self.tokenizer, at_once=at_once, on_tick=tick
                )
            except (RefusedError, UnservedError):
                # Who does not have the model any more may have had another before.
                held.hand_on()
                raise
            # Whoever is stopped proves nothing: what came is kept, and looked at by who goes on.
            held.hand_on()

        in_rounds([tuple(ask.ids) for ask in asks], missing, size, one_round)

    def _said_again(
        self, draw: Draw, asks: Sequence[Ask], known: Mapping[int, Answer], on_tick: OnTick
    ) -> bool:
        """Whether the server repeats the last answers that an earlier process kept.

        Another model may have given them between the last look at the server and the end of that process.
        """
        rows = list(known)[-REPEATED:]
        again: dict[int, str] = {}
        short = replace(draw, max_new_tokens=min(draw.max_new_tokens, REPEATED_TOKENS))

        def came(place: int, reply: Reply) -> None:
            # A cut may leave a part of a character.
            again[rows[place]] = reply.text.rstrip("\ufffd")

        with suppress(RefusedError):
            some = [asks[row] for row in rows]
            self.session.complete(
                short, some, came, tokenizer=self.tokenizer, at_once=1, on_tick=on_tick
            )
        same = all(row in again and known[row].text.startswith(again[row]) for row in rows)
        if not same:
            LOG.warning(
                "%s does not repeat the last answers of an earlier process: its %d answers that were not "
                "stored yet are asked for again",
                self.client.access.url,
                len(known),
            )
        return same

    def prove(self) -> None:
        """See that the server still has the weights that it began with.

        Raises:
            OtherWeightsError: it has others.
            UnservedError: it does not have the model.
            ServerError: it does not answer, or refuses.
        """
        asked = self.session, self.tokenizer, self.eos_ids
        if self.seen.like(take(*asked, alone=True)) or self.seen.like(take(*asked)):
            return
        raise OtherWeightsError(
            f"{self.client.access.url} got other weights while it was measured: its answers to a few "
            "fixed prompts have changed. Answers since the last check that it passed are left out. "
            "Serve one model during a whole evaluation, then run the same command again"
        )

    def _texts(self, prompts: Sequence[tuple[Sequence[int], str]]) -> dict[str, str]:
        """What is sent for each prompt to a server that takes text only."""
        if self.session.takes_tokens:
            return {shown: shown for _, shown in prompts}
        return {shown: prompt_text(self.tokenizer, ids, shown) for ids, shown in prompts}

    def _at_once(self, rows: int) -> int:
        return 1 if self.session.alone else min(rows, self.client.access.concurrency)

    def notice(self) -> str:
        return self.client.notice

    def label(self) -> str:
        """Name of what is measured: the model, and the beginning of a hash of who answers."""
        # What the server says; it becomes a folder.
        told = self.server.model.rstrip("/").split("/")[-1]
        name = re.sub(r"[^\w.+=@-]+", "-", told, flags=re.ASCII)[:LABEL] or "model"
        return f"{name}-{self.server.software}-{self.identity().key[:8]}"


def open_served(
    engine: OpenAIEngine,
    tokenizer_path: str,
    template: Wording | str,
    output: Path = Path("runs"),
    revision: str | None = None,
) -> Served:
    """The model that a server serves, known by its fingerprint.

    Args:
        tokenizer_path: where its tokenizer is (see `opdlab.modelling.models.load_tokenizer`).
        output: folder of runs, where it may have been measured before.
        revision: of the tokenizer, where its path names the hub.

    Raises:
        ServerError: nobody answers, the model is not served, or several models answer.
        ModelError: there is no tokenizer, or it names no EOS.
    """
    tokenizer = models.load_tokenizer(tokenizer_path, revision, alone=True)
    place = str(Path(tokenizer_path).expanduser())
    if not models.holds_tokenizer_alone(Path(place)):
        place = str(models.locate(tokenizer_path, revision)["pretrained_model_name_or_path"])
    ends = _ends(place, tokenizer, revision)
    pad = tokenizer.pad_token_id
    session = Session.open(engine.access, engine.served_model, place)
    defaults_known = _require_plain(session, place, revision)
    seen = take(session, tokenizer, ends)
    if seen.rounding > LARGEST_GAP:
        raise ServerError(
            f"{engine.access.url} answers a prompt in several ways: its log-probabilities are "
            f"{seen.rounding:.2g} nats apart, more than rounding explains. If several servers with other "
            "weights stand behind this address, give the address of one"
        )
    if not repeats(session, tokenizer, ends):
        LOG.warning(
            "%s gives different answers to one prompt with one seed: it uses a seed of its own, or "
            "rounds differently each time. Scores are right, but a repeated evaluation has other "
            "answers",
            engine.access.url,
        )
    return Served(
        tokenizer=tokenizer,
        engine=engine,
        eos_ids=ends,
        pad_id=ends[0] if pad is None else int(pad),  # pyright: ignore[reportArgumentType]
        template=template,
        session=session,
        prints=as_known(seen, asdict(session.server), output),
        seen=seen,
        trained_by=models.trained_by(place),
        vocabulary=_vocabulary(place, tokenizer),
        defaults_known=defaults_known,
    )


def _require_plain(session: Session, place: str, revision: str | None) -> bool:
    """Refuse settings of a model's folder that decide what is drawn; whether there are none is returned.

    `transformers serve` does not tell them: they are those of the served model where it is on this machine,
    else of the folder beside the tokenizer.

    Raises:
        ServerError: there are some.
    """
    if session.server.software != "transformers":
        return True
    name, _, commit = session.server.model.partition("@")
    for path, of in ((name, commit or None), (place, revision)):
        settings = _generation(path, of)
        if settings is not None:
            require_plain(settings, path)
            return True
    return False


def _generation(path: str, revision: str | None) -> dict[str, Any] | None:
    """Generation settings of a model on this machine, as `transformers` has them; None where it is not."""
    try:
        found = GenerationConfig.from_pretrained(
            path, local_files_only=True, revision=revision or "main"
        )
        return found.to_dict()
    except (OSError, ValueError):
        pass
    try:
        config = AutoConfig.from_pretrained(
            path, local_files_only=True, revision=revision or "main"
        )
        return GenerationConfig.from_model_config(config).to_dict()
    except (OSError, ValueError, AttributeError):
        return None


def _ends(path: str, tokenizer: PreTrainedTokenizerBase, revision: str | None) -> tuple[int, ...]:
    """The tokenizer's EOS and those of the model's generation settings, ascending; without these those of
    its configuration, as `transformers` has it."""
    settings = _generation(path, revision)
    found = settings["eos_token_id"] if settings else _written(path, "eos_token_id")
    listed = found if isinstance(found, list) else [found]
    ids = {end for end in [*listed, tokenizer.eos_token_id] if isinstance(end, int)}
    if not ids:
        raise ModelError(
            f"{path}: neither the tokenizer nor generation_config.json or config.json names an EOS"
        )
    return tuple(sorted(ids))


def _written(path: str, key: str) -> Any:
    """A value of `config.json`, of its part about text where it has one; None where there is none."""
    try:
        told = json.loads((Path(path) / "config.json").read_text())
        return (told.get("text_config") or {}).get(key) or told.get(key)
    except (OSError, ValueError, AttributeError):
        return None


def _vocabulary(path: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Entries of the model: it may have more than its tokenizer names."""
    size = _written(path, "vocab_size")
    return max(size if isinstance(size, int) else 0, len(tokenizer))
