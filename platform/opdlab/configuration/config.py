"""What an experiment file may say: typed, frozen, unknown keys forbidden, one owner for each value."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from opdlab import plugins
from opdlab.configuration.adapter_settings import Lora
from opdlab.configuration.posing import AnyEvaluator
from opdlab.configuration.prompt_settings import Prompts, ScoredPrompts
from opdlab.configuration.section import RoomSection, Section, moved
from opdlab.configuration.server_settings import Server
from opdlab.configuration.stored_scores import (
    WITH_A_GROUP,
    offers,
    own_samples,
    stored_misfits,
    teachers_files,
)
from opdlab.errors import ConfigError
from opdlab.methods import EVERYTHING, Method, Offers, unmet
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


class Model(Section):
    """A causal language model with its tokenizer."""

    path: str
    """`embedded:NAME` for a model of this package, a folder, a GGUF file, or a name on the Hugging Face
    hub. A relative path that does not exist here is looked up in the folders that OPDLAB_MODELS
    names."""
    revision: str | None = None
    """Commit or tag on the hub; required for models from the hub, so that a run can be repeated."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights."""


class Student(Model):
    """The model that is trained."""

    dropout: bool = False
    """Apply the dropout of the model's own configuration in the loss. Answers are always sampled
    without dropout, so even a perfect student then has a loss above zero."""
    lora: Lora | None = None
    """Train low-rank adapters instead of all weights; null trains all weights."""
    drop_layers: list[Annotated[int, Field(ge=0)]] = []
    """Layers to leave out, numbered from 0; `opdlab prune` finds those that matter least."""

    @model_validator(mode="after")
    def _layers_once(self) -> Student:
        if len(set(self.drop_layers)) < len(self.drop_layers):
            raise ValueError(f"drop_layers ({self.drop_layers}): a layer is named twice")
        if self.drop_layers and self.lora is not None:
            raise ValueError(
                "drop_layers: adapters remember their model by its path, where no layer is missing; write "
                "the pruned model by `opdlab prune MODEL FOLDER --drop NUMBERS` and take that folder"
            )
        return self

    @model_validator(mode="after")
    def _dropout_acts(self) -> Student:
        if self.lora is not None and self.lora.dropout and not self.dropout:
            raise ValueError(
                "lora.dropout acts only in training mode; set student.dropout: true as well, or "
                "lora.dropout: 0"
            )
        return self


class Taught(Model):
    """A model that teaches, in this process or behind a server."""

    server: Server | None = None
    """A server that serves the teacher; null for a teacher in this process. With a server, only tokenizer
    and shape are read from `path`, and `dtype` has no effect."""

    @property
    def offers(self) -> Offers:
        """What it can tell of an answer."""
        return EVERYTHING if self.server is None else self.server.offers

    @property
    def is_here(self) -> bool:
        """Whether its weights are in this process."""
        return self.server is None


class Teacher(Taught):
    """The model that teaches."""

    offload: bool = False
    """Keep this teacher and all specialists in host memory, and on the device only while they answer or
    score. This frees device memory for the student and costs one copy of their weights per step."""
    scores: str | None = None
    """Folder of its scores on disk, made by `opdlab score`, in place of `path`: no teacher is loaded, and
    the answers trained on are those of the folder (`prompts: {type: scored}`)."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_store(cls, data: Any) -> Any:
        return teachers_files(data)

    @property
    def offers(self) -> Offers:
        return super().offers if self.scores is None else offers(self.scores)

    @property
    def is_here(self) -> bool:
        return self.server is None and self.scores is None


class Specialist(Taught):
    """A teacher for some domains."""

    domains: list[str] = Field(min_length=1)
    """Benchmarks whose prompts it scores (`code/*` for all that start with `code/`), or values of
    `prompts.domain_column`."""


class Mask(Section):
    """Response tokens that carry loss; all others do not enter the step's mean."""

    first: int = Field(default=0, ge=0)
    """First position in the response that carries loss, from 0."""
    last: int | None = Field(default=None, ge=0)
    """Last position that carries loss; null for no limit."""
    entropy_above: float | None = Field(default=None, ge=0)
    """Only where the student's entropy is above this, in nats."""
    entropy_share: float | None = Field(default=None, gt=0, le=1)
    """Only this share of a step's tokens, those of highest student entropy (REOPOLD's mask)."""

    @model_validator(mode="after")
    def _not_empty(self) -> Mask:
        if self.last is not None and self.last < self.first:
            raise ValueError(f"last ({self.last}) must not be below first ({self.first})")
        return self


class HackingWatch(Section):
    """When to raise an alarm that the student earns its reward without getting better."""

    window: int = Field(default=20, ge=1)
    """Steps in a window: the last window is compared with the first. At most half of the training's
    steps."""
    repetition: float = Field(default=0.15, gt=0, le=1)
    """Increase in the share of repeated 4-grams, or of the part of an answer that one loop takes."""
    length_factor: float = Field(default=2.0, gt=1)
    """Factor by which answers get longer or shorter."""
    accuracy_drop: float = Field(default=0.1, gt=0, le=1)
    """Decrease in accuracy on training prompts while the teacher's confidence in the answers rises; it
    must also exceed two standard errors."""
    grade_every: int = Field(default=5, ge=0)
    """Rollouts between gradings of training answers; 0 for never. Only for prompts with a grader. A
    window needs two gradings."""
    stop: bool = False
    """End a run's training at its first alarm; the student is then evaluated."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class Training(Section):
    """The optimisation loop, run by Lightning."""

    model_config = moved(
        accumulate="prompts_per_step counts the prompts of a whole optimizer step on all devices, and "
        "update_tokens how much of it is trained on at a time",
        overlap="set rollout_parts: 2 or more for what overlap: true did",
    )

    steps: int = Field(ge=1)
    """Optimizer steps."""
    seeds: int = Field(default=1, ge=1)
    """Number of trainings of each run, with the seeds `seed`, `seed + 1` and so on; tables show them as
    one method, with its spread over seeds."""
    prompts_per_step: int = Field(default=32, ge=1)
    """Prompts of one optimizer step, over all devices; each is answered `rollout.group_size` times."""
    update_tokens: int = Field(default=65_536, ge=1)
    """Most tokens, prompts included, that a device trains on at a time; a longer answer is trained on
    alone. The loss is the exact mean over the step however it is split. Larger values need more
    memory."""
    activation_checkpointing: Literal["none", "layers"] = "none"
    """`layers` keeps only each layer's input and recomputes the rest in the backward pass: about a
    third more time, a fraction of the memory."""
    rollout_rows: int | None = Field(default=None, ge=1)
    """Answers sampled at a time, whose keys and values are in memory; a finished one makes room for the
    next prompt. Null samples all of a step at once; the answers are the same either way."""
    rollout_parts: int = Field(default=1, ge=1)
    """Parts in which a device samples its answers. Above 1, the teacher scores one part while the
    student samples the next with the same weights, so nothing is stale. Useful if the teacher has a
    device (`teacher_device`) or CPU cores of its own."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1e30)
    """AdamW's, at its highest."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up; `linear` and `cosine` end at 0."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from 0."""
    average: Literal["none", "ema"] = "none"
    """Weights that are evaluated, stored and exported: those after the last step, or an exponential
    moving average over the steps. Rollouts and gradients always use the current weights."""
    average_decay: float = Field(default=0.99, gt=0, lt=1)
    """Share of the average that each step keeps; before step 1 / (1 - decay) it is the plain mean."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """`adamw-8bit` keeps AdamW's two averages in 8 bits each (arXiv:2110.02861): 2 bytes per weight
    instead of 8, for tensors of 4,096 numbers or more. Needs bitsandbytes."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's."""
    gradient_clip: float = Field(default=1.0, ge=0)
    """Largest gradient norm; 0 for no clipping."""
    normalisation: Literal["token_mean", "sequence_mean"] = "token_mean"
    """Mean over all response tokens of the step, or mean of the means of each response."""
    epochs: int = Field(default=1, ge=1)
    """Optimizer steps on each rollout; `steps` counts them all. Above 1 the later ones train on answers
    of an earlier student, so the method must correct for it."""
    mask: Mask = Mask()
    """Tokens that carry loss; by default all."""
    precision: Literal["32-true", "bf16-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Lightning's precision of the student. `bf16-mixed` computes in bfloat16 and keeps the weights in
    `student.dtype`, so that in float32 small steps are not lost; `bf16-true` rounds them to
    bfloat16."""
    accelerator: Literal["cpu", "gpu", "auto"] = "auto"
    """Lightning's accelerator; `auto` uses a GPU if there is one."""
    devices: int = Field(default=1, ge=1)
    """Devices on each node. They share the prompts of a step; the result is the same as on one device."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices hold the models. `ddp` (also `auto`): each holds student, teachers and
    optimizer state. `fsdp` (FSDP2): each holds a shard of every weight and gathers a layer while it is
    computed, for models too large for one device."""
    nodes: int = Field(default=1, ge=1)
    """Number of machines; start the same command on each with torchrun or SLURM."""
    teacher_device: str | None = None
    """Device of the teachers, such as `cuda:1`; null for the student's own. Only for training on one
    device."""
    checkpoint_every: int = Field(default=25, ge=1)
    """Optimizer steps between checkpoints. With several epochs, a checkpoint waits until the rollout's
    epochs are over."""
    keep_every: int = Field(default=0, ge=0)
    """Optimizer steps between copies of the student that are kept in the run's folder, for `opdlab
    diagnose`; 0 for none."""
    hacking: HackingWatch = HackingWatch()
    """Alarms against reward hacking, in the progress line and as the tag `opdlab.alarms`."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads for torch; null leaves the choice to torch. Small models are fastest with 1: on a
    busy machine, threads that wait for each other cost more than they gain."""
    head_chunk: int = Field(default=1024, ge=1)
    """Response tokens whose vocabulary rows are in memory at a time."""

    @property
    def world(self) -> int:
        """Devices in all."""
        return self.devices * self.nodes

    @property
    def rollouts(self) -> int:
        """How often new prompts are answered."""
        return ceil(self.steps / self.epochs)

    @property
    def copies(self) -> int:
        """Copies of the student that stay, beside the last one."""
        return (self.steps - 1) // self.keep_every if self.keep_every else 0


class Evaluation(Section):
    """What is measured, and when."""

    benchmarks: list[AnyEvaluator] = []
    """Benchmarks to sample and grade."""
    samples: int = Field(default=8, ge=1)
    """Completions per problem: the k of mean@k."""
    every: int = Field(default=0, ge=0)
    """Also evaluate every N steps; 0 evaluates only at the end."""
    references: list[Literal["student", "teacher"]] = ["student", "teacher"]
    """Models evaluated for comparison: the student before training, the teacher."""
    sampling: Literal["reasoning", "on_policy", "greedy"] = "on_policy"
    """`reasoning`: temperature 0.6, top-p 0.95, 32,768 tokens. `on_policy`: temperature 1, top-p 1.
    `greedy`: temperature 0. The three keys below override single values."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest response in tokens; by default that of `sampling`, else that of the rollout."""
    temperature: float | None = Field(default=None, ge=0)
    """Sampling temperature, instead of that of `sampling`; 0 is greedy."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Top-p of nucleus sampling, instead of that of `sampling`."""
    seed: int = Field(default=1234, ge=-LARGEST_SEED, le=LARGEST_SEED)
    """Seed of sampling. The same for every checkpoint, so that they are compared pairwise."""
    batch_rows: int = Field(default=512, ge=1)
    """Most responses sampled at a time."""
    batch_tokens: int = Field(default=262_144, ge=1)
    """Most tokens, padding included, whose keys and values are in memory at a time; a longer response
    is sampled alone. Rows are sampled as long as there is room for what they have produced; the newest
    wait if longer ones need the room. Only for models in this process."""


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
