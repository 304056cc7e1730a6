"""What an experiment file may say: typed, frozen, unknown keys forbidden, one owner for each value."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from opdlab import plugins
from opdlab.configuration.evaluation_settings import Evaluation
from opdlab.configuration.model_settings import Specialist, Student, Taught, Teacher
from opdlab.configuration.prompt_settings import Prompts, ScoredPrompts
from opdlab.configuration.section import RoomSection, Section
from opdlab.configuration.stored_scores import (
    WITH_A_GROUP,
    own_samples,
    stored_misfits,
)
from opdlab.configuration.training_settings import Training
from opdlab.errors import ConfigError
from opdlab.methods import Method, unmet
from opdlab.plugins import declared, valid
from opdlab.sampling import RolloutEngine
from opdlab.seeds import LARGEST_SEED, training_name

AnyMethod = Annotated[
    Method, plugins.OneOf(plugins.METHODS), AfterValidator(valid(declared.method))
]
AnyEngine = Annotated[RolloutEngine, plugins.OneOf(plugins.ROLLOUTS)]
if TYPE_CHECKING:
    AnySweep = RoomSection
else:
    AnySweep = plugins.load(plugins.SECTIONS, "sweep")


RESERVED = (
    "student",
    "teacher",
    "model",
    "samples",
    "students",
    "tables",
    "checkpoints",
    "references",
    "config.yaml",
    "experiment.json",
    "results.json",
    "metrics.jsonl",
    "live.json",
    "unsent.json",
    "samples.html",
    "watch.html",
)
"""Names in the folder of an execution or of a run."""
LONGEST_NAME = 100
SMALLEST_IN_HALF = 1e-5
"""Learning rate below which next to no weight of 16 bits changes: 162 of 59,568 in 20 steps of 1e-6."""


with warnings.catch_warnings():
    # Models have an attribute of this name from their metaclass, which nothing here uses.
    warnings.filterwarnings("ignore", 'Field name "register"', UserWarning)

    class Tracking(Section):
        """Where runs are recorded."""

        uri: str | None = None
        """MLflow tracking URI; by default an SQLite file in the output folder. A password in it is not
        stored: other commands, such as `sync`, read it from MLFLOW_TRACKING_USERNAME and
        MLFLOW_TRACKING_PASSWORD."""
        experiment: str = "opdlab"
        """MLflow experiment."""
        samples_every: int = Field(default=20, ge=0)
        """Steps between tables of rollouts; 0 for none."""
        weights: bool = True
        """Also copy the trained student to the tracking store; it is always kept in the output folder."""
        register: str | None = Field(default=None, pattern=r"^[^/:]+$", max_length=LONGEST_NAME)
        """Make each trained student a version of this registered model of MLflow; needs `weights`."""

        @model_validator(mode="after")
        def _check(self) -> Tracking:
            if self.register is not None and not self.weights:
                raise ValueError(
                    "register needs the weights in MLflow: set weights: true, or leave it out"
                )
            return self


class Variant(Section):
    """One of several runs of an experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=LONGEST_NAME)
    """Name of the run in tables and folders."""
    set: dict[str, Any] = {}
    """What differs: dotted keys and their values, such as `method.reward_weight: 0.3`. A key that names
    a whole section replaces it."""


class Experiment(Section):
    """An experiment: student, teacher, prompts, rollout, method, training, evaluation."""

    kind: Literal["train"] = "train"
    """`train` distils a student; `pretrain` trains a small model on correct traces."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=LONGEST_NAME)
    """Names the folder and the MLflow runs."""
    description: str = ""
    """What the experiment is to find out."""
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    """Seed of prompts, rollouts and initialisation; the runs of an experiment share it."""
    student: Student
    """The model to train."""
    teacher: Teacher
    """The model that scores the student's answers."""
    specialists: list[Specialist] = []
    """Teachers for single domains; `teacher` scores the prompts of all others. The first match is
    used."""
    prompts: Prompts
    """What the student answers in training."""
    rollout: AnyEngine
    """How answers are sampled."""
    method: AnyMethod
    """How the teacher's scores become a loss."""
    training: Training
    """Optimisation: steps, batch, learning rate, devices."""
    evaluation: Evaluation = Evaluation()
    """What is measured after training, and how answers are sampled for it."""
    tracking: Tracking = Tracking()
    """Where results are sent."""
    output: str = "runs"
    """Folder for checkpoints, samples and the default MLflow store."""
    runs: list[Variant] = []
    """Several runs that share everything except what they `set`; trained one after the other."""
    sweep: AnySweep | None = None
    """A search over keys of this experiment, for `opdlab sweep`."""

    @model_validator(mode="after")
    def _prompts_of_the_store(self) -> Experiment:
        """Prompts of a store that name none are those of the teacher's."""
        prompts, scores = self.prompts, self.teacher.scores
        if isinstance(prompts, ScoredPrompts) and not prompts.path and scores is not None:
            object.__setattr__(self, "prompts", prompts.model_copy(update={"path": scores}))
        return self

    @model_validator(mode="after")
    def _seed_of_the_sweep(self) -> Experiment:
        """A sweep without seeds of its own takes the experiment's."""
        if self.sweep is not None:
            # Not before validation: of what passes through Python, lists are no longer taken for tuples.
            object.__setattr__(self, "sweep", self.sweep.filled(self))
        return self

    @model_validator(mode="after")
    def _cross_checks(self) -> Experiment:
        if self.seed + self.training.seeds - 1 > LARGEST_SEED:
            raise ValueError(
                f"training.seeds ({self.training.seeds}) counts up from seed ({self.seed}) to a number "
                f"above {LARGEST_SEED}, the largest seed; set a lower seed"
            )
        names = [run.name for run in self.runs]
        if self.training.seeds > 1:
            last = self.seed + self.training.seeds
            names += [
                training_name(name, seed) for name in names for seed in range(self.seed, last)
            ]
        _check_names(names, [one.benchmark for one in self.evaluation.benchmarks])
        if self.training.warmup_steps >= self.training.steps:
            raise ValueError(
                f"training.warmup_steps ({self.training.warmup_steps}) must be below "
                f"training.steps ({self.training.steps})"
            )
        if faults := list(misfits(self)):
            raise ValueError(faults[0])
        if self.sweep is not None:
            self.sweep.check(self)
        return self

    @property
    def taught_here(self) -> list[Taught]:
        """The teachers in this process, whose weights take room."""
        return [one for one in (self.teacher, *self.specialists) if one.is_here]

    @property
    def one_model(self) -> bool:
        """Whether the teacher is the model that the student's adapters belong to, where both find it: its
        weights are then in memory once."""
        student, teacher, training = self.student, self.teacher, self.training
        if student.lora is None or student.lora.quantize != "none":
            return False
        same = all(
            getattr(student, k) == getattr(teacher, k) for k in ("path", "revision", "dtype")
        )
        apart = (
            not teacher.is_here
            or teacher.offload
            or training.teacher_device
            or training.strategy == "fsdp"
        )
        # Lightning rounds all that the student is made of.
        rounded = training.precision == "bf16-true" and student.dtype != "bfloat16"
        return same and not apart and not rounded

    def measured_by(self) -> dict[str, Any]:
        """What decides how a run is measured, by key: runs that differ in it cannot be compared."""
        settings = self.evaluation.model_dump(
            mode="json", exclude={"every", "references", "batch_rows", "batch_tokens"}
        )
        found = {f"evaluation.{key}": value for key, value in settings.items()}
        if self.evaluation.max_new_tokens is None and self.evaluation.sampling != "reasoning":
            found["rollout.max_new_tokens"] = self.rollout.max_new_tokens
        return found | {"prompts.template": str(self.prompts.wording)}


def _check_names(runs: list[str], benchmarks: list[str]) -> None:
    """Refuse names that two share, on a disk that knows no case as well, and those of the layout."""
    for what, names in (("runs", runs), ("evaluation.benchmarks", benchmarks)):
        lower = [name.lower() for name in names]
        twice = next((name for name in names if lower.count(name.lower()) > 1), None)
        if twice is not None:
            raise ValueError(
                f"{what}: the name {twice!r} is used twice; names must differ in more than case"
            )
    for name in runs:
        if name.lower() in RESERVED:
            raise ValueError(
                f"runs: {name!r} is a name of opdlab's own folders and files ({', '.join(RESERVED)}); take "
                "another"
            )


def misfits(config: Experiment) -> Iterator[str]:
    """Where the method and what it is given do not fit together."""
    method, training, mask = config.method, config.training, config.training.mask
    if training.epochs > 1 and not method.corrected:
        yield (
            "training.epochs: steps after the first would train on answers of an earlier student as if "
            "they were its own; set method.ratio_cap or method.ratio_clip, or another support"
        )
    yield from _not_offered(config)
    yield from stored_misfits(config)
    yield from _not_its_own(config)
    yield from _too_coarse(config)
    yield from _misplaced(training, method, config.rollout)
    lora = config.student.lora
    if lora is not None and lora.quantize != "none" and training.strategy == "fsdp":
        yield (
            "student.lora.quantize: with training.strategy: fsdp weights are parted, and the blocks of "
            "four bits are not; set it to none, or take training.strategy: ddp"
        )
    if config.teacher.offload:
        yield from _not_offloaded(training)
    yield from _graded(config)
    if method.sampler == "teacher" and config.rollout.served and config.prompts.given < 1:
        yield "rollout.type: a server serves the student, and the method trains on the teacher's answers"
    yield from _given(config)
    yield from _not_ahead(config)
    if config.specialists and (method.full or method.sampler == "teacher"):
        yield (
            "specialists: the method needs one teacher's whole distribution, or its answers; take one that "
            "asks about tokens (support: sampled), or a single teacher"
        )
    if mask.first >= config.rollout.max_new_tokens:
        yield (
            f"training.mask.first ({mask.first}) must be below rollout.max_new_tokens "
            f"({config.rollout.max_new_tokens}): no token would carry loss"
        )
    if method.sampler == "teacher" and (mask.entropy_above is not None or mask.entropy_share):
        yield "training.mask: the answers are the teacher's, so there is no student entropy to mask by"


def _graded(config: Experiment) -> Iterator[str]:
    """Answers that a method needs graded, and cannot have."""
    method = config.method
    if method.graded and config.prompts.type == "scored":
        yield "method.type: it compares fresh graded answers with each other, and a store has none"
    elif method.graded and not config.prompts.graded:
        yield (
            "prompts.type: the method needs graded answers, and these prompts have no grader; set "
            "prompts.answer_column and prompts.grader, or take prompts of `type: problems`"
        )
    if method.graded and config.rollout.group_size < 2:
        yield (
            "rollout.group_size: the method compares answers to one prompt with each other; with one "
            "answer its gradient is zero. Set 2 or more"
        )


def require_fitting(config: Experiment) -> None:
    """Refuse an experiment of which parts were exchanged and do not fit together.

    Raises:
        ConfigError: naming the first such key.
    """
    for fault in misfits(config):
        raise ConfigError(f"{config.name}: {fault}")


def _not_offered(config: Experiment) -> Iterator[str]:
    """What the method needs of a teacher that cannot tell it, and settings of one that is elsewhere."""
    method, training = config.method, config.training
    teachers = [("teacher", config.teacher)]
    teachers += [(f"specialists.{n}", one) for n, one in enumerate(config.specialists)]
    keys = _keys_of_needs(method)
    for name, one in teachers:
        for what, told in unmet(method.needs, one.offers):
            stored = getattr(one, "scores", None) is not None
            why = WITH_A_GROUP if stored and what == "confidence" and not method.group else told
            where = f"is behind a server ({name}.server)"
            if stored:
                where = f"is scores on disk ({name}.scores)"
            yield f"{keys[what]}: {name} {where}; {why}"
    evaluated = config.evaluation.benchmarks and "teacher" in config.evaluation.references
    for name, one in teachers:
        if evaluated and one.server is not None and one.server.type == "opdlab":
            yield (
                f"evaluation.references: {name} is a service of `opdlab teach`, which scores and answers "
                "nothing; set `references: [student]`"
            )
    if config.taught_here:
        return
    where = "behind a server" if config.teacher.scores is None else "scores on disk"
    for key, is_set in (
        ("teacher.offload", config.teacher.offload),
        ("training.teacher_device", training.teacher_device),
    ):
        if is_set:
            yield f"{key}: the teacher is {where} and takes no room here; leave it out"


def _keys_of_needs(method: AnyMethod) -> dict[str, str]:
    """The keys of a method by what they make it need."""
    base = getattr(method, "base", None)
    where, own = ("method.base", base) if base is not None else ("method", method)
    support = "support" if hasattr(own, "support") else "type"
    confidence = "confidence" if hasattr(method, "confidence") else "type"
    return {
        "support": f"{where}.{support}",
        "confidence": f"method.{confidence}",
        "steps": "method.lookahead",
        "answers": "method.type",
    }


def _not_ahead(config: Experiment) -> Iterator[str]:
    """Why answers cannot be sampled one step ahead."""
    if not config.rollout.ahead:
        return
    if not config.rollout.served:
        yield (
            "rollout.ahead: an engine in this process samples on what the student is trained on, one after "
            "the other, so old answers would save no time; set it to 0, or take a server (rollout.type: "
            "openai) with a device or cores of its own"
        )
    if config.prompts.given:
        yield "rollout.ahead: given answers (prompts.given) are not sampled; set it to 0"
    if config.training.rollout_parts > 1:
        yield (
            "rollout.ahead: answers have come before any is scored, and training.rollout_parts would score "
            "some while others are sampled; set one of them to its default"
        )
    if config.training.world > 1:
        yield "rollout.ahead: it is for training on one device; set it to 0"


def _given(config: Experiment) -> Iterator[str]:
    """Given answers where a method cannot use them."""
    prompts, method = config.prompts, config.method
    if not prompts.given:
        return
    if method.graded or (method.own_samples and prompts.type == "dataset"):
        name = plugins.called(plugins.METHODS, method)
        yield (
            f"prompts.given: method {name} trains on samples of the student's own and can use no given "
            "answers. Take sft, or a method over whole distributions (opd with support: full, jsd, "
            "forward_kl); or set prompts.given to 0"
        )
    elif isinstance(prompts, ScoredPrompts) and method.own_samples and prompts.path:
        yield from _not_sampled_now(config, prompts.path)
    if config.rollout.group_size > 1:
        yield (
            f"rollout.group_size ({config.rollout.group_size}): a prompt has one given answer; set it to 1"
        )
    if config.training.rollout_parts > 1:
        yield "training.rollout_parts: given answers are not sampled in parts; set it to 1"


def _not_sampled_now(config: Experiment, path: str) -> Iterator[str]:
    """Why a policy gradient cannot use the answers of a store, where it cannot."""
    if config.method.corrected and own_samples(path):
        return
    name = plugins.called(plugins.METHODS, config.method)
    others = (
        "take a method over whole distributions (opd with support: full, jsd, forward_kl), or sft"
    )
    if own_samples(path):
        yield (
            f"method: {name} trains on fresh samples of the student's own, and those of {path} are of the "
            f"student as it was; set method.ratio_cap or method.ratio_clip, which weigh them, or {others}"
        )
    else:
        yield (
            f"method: {name} trains on samples of the student's own, with their log-probabilities, and "
            f"{path} holds other answers; make a store by --answers student at temperature 1 and top-p 1 "
            f"with all of them kept, or {others}"
        )


def _not_its_own(config: Experiment) -> Iterator[str]:
    """A policy gradient over samples of another distribution than the student's; no ratio sets it right.

    The importance ratio is that of the student now to the student then, both at temperature 1; and what
    top-p never draws cannot be weighed.
    """
    if not config.method.own_samples or config.prompts.given == 1:
        return
    for key in ("temperature", "top_p"):
        if (value := getattr(config.rollout, key)) != 1:
            name = plugins.called(plugins.METHODS, config.method)
            yield (
                f"rollout.{key}: method {name} takes sampled tokens for draws from the student's own "
                f"distribution, and at {value:g} its gradient is biased. Set it to 1, or take a method "
                "that differentiates over the whole distribution, such as opd with support: full"
            )


def _too_coarse(config: Experiment) -> Iterator[str]:
    """Weights in half precision that steps of this size leave as they are."""
    training, dtype = config.training, config.student.dtype
    if dtype == "float16":
        yield (
            "student.dtype: in float16 the squares that AdamW keeps of gradients are 0, and its steps no "
            "numbers. Set float32, and training.precision: 16-mixed to compute in float16 all the same"
        )
        return
    # Adapters are in float32 whatever the model is in, unless Lightning rounds all there is.
    low = training.precision == "bf16-true" or (dtype != "float32" and config.student.lora is None)
    if low and training.learning_rate < SMALLEST_IN_HALF:
        key = "training.precision" if training.precision == "bf16-true" else "student.dtype"
        yield (
            f"{key}: weights in half precision do not move in steps of {training.learning_rate:g} "
            "(training.learning_rate): the next number to 0.02 is 1e-4 away in bfloat16, 1.5e-5 in "
            "float16. Set student.dtype: float32, and training.precision: bf16-mixed to compute in "
            f"bfloat16 all the same; or take a rate of {SMALLEST_IN_HALF:g} or more"
        )


def _not_sharded(training: Training, engine: AnyEngine) -> Iterator[str]:
    """What FSDP rules out, where weights lie in parts on all devices."""
    instead = "or take training.strategy: ddp"
    if training.rollout_parts > 1:
        yield (
            "training.rollout_parts: with strategy: fsdp all devices gather weights in one order, so "
            f"student and teacher cannot work at the same time; set it to 1, {instead}"
        )
    if training.precision == "16-mixed":
        yield (
            "training.precision: 16-mixed finds its scale on each device separately, but with strategy: "
            "fsdp each has a part of the gradient; set bf16-mixed, or take training.strategy: ddp"
        )
    if training.optimizer != "adamw":
        yield (
            "training.optimizer: adamw-8bit has one scale for 256 adjacent numbers, and with "
            f"strategy: fsdp each device has a part of a weight; set adamw, {instead}"
        )
    if training.teacher_device:
        yield (
            "training.teacher_device: with strategy: fsdp every device has a part of the teacher; leave it "
            f"out, {instead}"
        )
    if engine.served:
        yield (
            "rollout: a server gets the student's weights from one process, and with strategy: fsdp none "
            f"has them; take an engine in this process, {instead}"
        )


def _not_offloaded(training: Training) -> Iterator[str]:
    """What rules out a teacher that is not on the device all the time."""
    if training.strategy == "fsdp":
        yield (
            "teacher.offload: with strategy: fsdp every device holds a part of the teacher all the time; "
            "set it to false, or take training.strategy: ddp"
        )
    if training.rollout_parts > 1:
        yield (
            "teacher.offload: with training.rollout_parts above 1 the teacher scores while the student "
            "samples, so both need their room at once; set one of them to its default"
        )


def _misplaced(training: Training, method: AnyMethod, engine: AnyEngine) -> Iterator[str]:
    """What cannot be done where or when it is said to be."""
    if training.prompts_per_step % training.world:
        yield (
            f"training.prompts_per_step ({training.prompts_per_step}) must be a multiple of the devices "
            f"({training.world}), which share a step's prompts"
        )
    share = training.prompts_per_step // training.world
    if training.rollout_parts > max(1, share):
        yield (
            f"training.rollout_parts ({training.rollout_parts}) must be at most the prompts of a step on a "
            f"device ({share})"
        )
    if training.rollout_parts > 1 and method.sampler == "teacher":
        yield (
            "training.rollout_parts: the teacher writes the answers, so it cannot score others meanwhile; "
            "set it to 1"
        )
    if training.rollout_parts > 1 and getattr(method, "active_share", None) is not None:
        yield (
            "training.rollout_parts: method.active_share picks among all answers of a step before any is "
            "scored; set rollout_parts to 1, or method.entropy_threshold instead of the share"
        )
    if training.strategy == "ddp" and training.world == 1:
        yield "training.strategy: ddp is for several devices; set training.devices, or leave it out"
    if training.strategy == "fsdp":
        yield from _not_sharded(training, engine)
    if training.world > 1 and len(getattr(engine, "urls", ())) > 1:
        yield "rollout.url: several servers are for training on one device; set one of them"
    if training.teacher_device and training.world > 1:
        yield "training.teacher_device: it is for training on one device; each of several has a teacher"
    if training.teacher_device and (fault := _no_device(training.teacher_device)):
        yield f"training.teacher_device: {fault}"


def _no_device(name: str) -> str:
    """Why it does not name a device; empty if it does."""
    kind, _, number = name.partition(":")
    if kind in ("cpu", "cuda", "mps", "xpu") and (number.isdigit() or name == kind):
        return ""
    return f"{name!r} names no device; write for example cuda:1"
