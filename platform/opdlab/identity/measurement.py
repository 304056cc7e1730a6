"""One measurement: which model answered which problems, how, and who judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, final

from opdlab.files import built
from opdlab.identity.digests import digest
from opdlab.identity.model_id import ModelId

Role = Literal["student", "teacher", "run", "model"]


@final
@dataclass(frozen=True)
class Owner:
    """Whose samples a measurement holds: see `Measurement` for each field."""

    model: str
    role: Role = "model"
    step: int | None = None
    execution: str = ""
    label: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The samples of one model on one benchmark: all that decides what is drawn and how it counts.

    Attributes:
        model: name under which it is shown; it decides nothing.
        role: `student` before training or `teacher` of an experiment, what a `run` trained, or any `model`.
        step: training step at which it was measured; None at the end of training.
        execution: id of the training or experiment that it belongs to; empty where there is none.
        label: where it was measured, below the output folder, such as `quickstart-001/lgr`; for people.
        subject: who answered.
        evaluator: type and options of the benchmark, as an experiment writes them.
        data: hash of the problems (see `opdlab.evaluation.store.data_hash`).
        shown: hash of the prompts as the model reads them.
        problems, samples: how many problems, and k.
        grader: version of the grader whose verdicts count.
        engine: what sampled, with the options of its own; see `opdlab.evaluation.engine_of`.
        software: versions and devices, for the record.
        id: of this measurement; it stays the same if it is repeated or graded again.
        number: order in which a store was asked; the highest counts.
        time: of the asking (see `now`).
    """

    model: str
    role: Role
    subject: ModelId
    benchmark: str
    evaluator: Mapping[str, Any]
    data: str
    shown: str
    problems: int
    template: str
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    samples: int
    grader: str
    software: Mapping[str, str]
    engine: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    execution: str = ""
    label: str = ""
    id: str = ""
    number: int = 0
    time: str = ""

    @property
    def checkpoint(self) -> str:
        """The name with the step, such as `lgr@40`."""
        return self.model if self.step is None else f"{self.model}@{self.step}"

    @property
    def sampling(self) -> dict[str, Any]:
        """What decides how a completion is drawn, but for its seed."""
        return {
            "template": self.template,
            "temperature": float(self.temperature),
            "top_p": float(self.top_p),
            "max_new_tokens": self.max_new_tokens,
        }

    @property
    def draws(self) -> str:
        """Equal for what draws the same completions, whatever k, grader and name."""
        drawn = {"subject": self.subject.key, "data": self.data, "shown": self.shown}
        drawn |= {"benchmark": self.benchmark, "seed": self.seed}
        return digest({**drawn, "engine": dict(self.engine), **self.sampling})

    @property
    def protocol(self) -> str:
        """Hash of all that makes two scores comparable: no seed, and no model."""
        counted = {"samples": self.samples, "grader": self.grader}
        options = {"engine": self.options} if self.options else {}
        return digest({"data": self.data, **self.sampling, **counted, **options})

    @property
    def options(self) -> dict[str, Any]:
        """The engine's own options, such as a top-k, which change the distribution that is sampled.

        The type of the engine is left out: it decides which tokens are drawn, not from which distribution.
        """
        return {name: value for name, value in self.engine.items() if name != "type"}

    @property
    def asked(self) -> Measurement:
        """The same without id, number and time: equal if the same model is measured in the same way."""
        return replace(self, id="", number=0, time="")

    def differences(self, other: Measurement) -> str:
        """In words, what makes the scores of two measurements incomparable; empty where nothing does."""
        names = (*self.sampling, "options", "samples", "data", "grader")
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return ", ".join(f"{name} {a} and {b}" for name, a, b in pairs if a != b)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Measurement:
        """From plain values; raises TypeError or KeyError where it is another version's."""
        if not isinstance(stored, Mapping):
            raise TypeError("no JSON object")
        return built(cls, {**stored, "subject": ModelId.read(stored["subject"])})
