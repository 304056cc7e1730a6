"""Who is measured: whatever answers prompts, and a model in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opdlab.errors import ModelError, PluginError
from opdlab.evaluation.weighing import log_probs
from opdlab.identity import ModelId
from opdlab.modelling import Wording, as_wording, learned_positions, models, text_of
from opdlab.plugins import name_of, said_by
from opdlab.prompts import encode
from opdlab.records import Problem
from opdlab.serving import OpenAIEngine, Received

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from opdlab.sampling import RolloutEngine


@dataclass(frozen=True)
class Answer:
    """What a model said to a prompt: text (see `own_part.text_of`), length in tokens, `eos` or `length`."""

    text: str
    tokens: int
    stop: str


OnAnswer = Callable[[int, Answer], None]
"""Takes the row and the answer that has just ended."""
OnTick = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Measured(ABC):
    """Something that answers prompts, with all that decides what it says.

    Attributes:
        engine: how it samples; an evaluation replaces its lengths, temperature and top-p.
        template: see `opdlab.prompts.encode`.
    """

    tokenizer: PreTrainedTokenizerBase
    engine: RolloutEngine
    eos_ids: tuple[int, ...]
    pad_id: int
    template: Wording | str

    @abstractmethod
    def identity(self) -> ModelId:
        """Who answers, by contents."""

    @abstractmethod
    def software(self) -> dict[str, str]:
        """The model and what runs it, for the record."""

    @abstractmethod
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
        """Answer every prompt, in whatever order.

        Args:
            engine: `engine` with the sampling of the evaluation.
            prompts: token ids, and the text that they are.
            seeds: one a prompt.
            rows: prompts worked on at a time, at most.
            tokens: of prompts and answers whose keys and values are held at a time, at most or those of one
                row, where this process holds them.
            on_tick: called now and then while nothing comes; it may raise to stop, like `on_answer`.
            received: keeps answers of a server that were not handed over yet, and has those of an earlier
                process.
        """

    def sampled_with(self) -> dict[str, Any]:
        """What else is known of the sampling; scores with other values do not compare."""
        return {}

    def notice(self) -> str:
        """What is being waited for, in words; empty where nothing is."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Subject(Measured):
    """A model in this process."""

    model: PreTrainedModel
    vocabulary: int | None = None

    def identity(self) -> ModelId:
        return models.identify(
            self.model,
            self.tokenizer,
            as_wording(self.template).template,
            self.eos_ids,
            self.vocabulary,
        )

    def software(self) -> dict[str, str]:
        return {
            "engine": type(self.engine).__name__,
            "model": str(self.model.name_or_path),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
        }

    def require_room(self, problems: Sequence[Problem], answer: int) -> None:
        """Refuse problems that leave an answer no place among the model's positions.

        Args:
            answer: tokens of it, at most: all must have a place where a model has numbers for so many.

        Raises:
            ModelError: naming the first.
        """
        size = models.positions(self.model)
        if size is None:
            return
        bounded = learned_positions(self.model) is not None
        for problem in problems:
            # Where given texts are weighed nothing is sampled.
            needed = answer if bounded and not problem.weighed else 1
            length = len(encode(self.tokenizer, problem, self.template))
            if length + needed > size:
                shorter = (
                    f"set evaluation.max_new_tokens: {size - length}, " if length < size else ""
                )
                raise ModelError(
                    f"problem {problem.id} of {problem.benchmark} has {length} tokens, its answer may have "
                    f"{answer}, and {self.model.name_or_path} has {size} positions: beyond them a model "
                    f"reads noise. Leave the benchmark out, {shorter}or measure a model with more context"
                )

    def weigh(self, problems: Sequence[Problem]) -> list[list[float]]:
        """Log-probability of each text of each problem's `weighed` after its prompt, in nats."""
        return log_probs(self.model, self.tokenizer, problems, self.template, self.vocabulary)

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
        answered: set[int] = set()

        def ended(row: int, said: list[int]) -> None:
            answered.add(row)
            text = text_of(self.tokenizer, said)
            stop = "eos" if said[-1] in self.eos_ids else "length"
            on_answer(row, Answer(text, len(said), stop))

        kept = {"received": received} if isinstance(engine, OpenAIEngine) else {}
        with said_by(engine, "answer"):
            engine.answer(
                self.model,
                [ids for ids, _ in prompts],
                seeds,
                eos_ids=self.eos_ids,
                pad_id=self.pad_id,
                vocabulary=self.vocabulary,
                max_rows=rows,
                max_tokens=tokens,
                on_response=ended,
                **kept,
            )
        if len(answered) < len(prompts):
            raise PluginError(
                f"{name_of(engine)}.answer called on_response for {len(answered)} of {len(prompts)} "
                "rows; it must be called once for each"
            )
