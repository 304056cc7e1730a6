"""The models of an experiment, checked to fit together, and what is trained of them."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import lightning as L
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab.configuration import Experiment, Model, Student, Taught, Teacher, loader
from opdlab.errors import ConfigError, ModelError
from opdlab.evaluation import Subject
from opdlab.modelling import adapters, models
from opdlab.prompts import PromptSource, ScoredSource, open_prompts
from opdlab.records import Prompt
from opdlab.scores import read_manifest, require_teacher
from opdlab.scoring import Scorer, Specialist, chosen
from opdlab.seeds import small_seed
from opdlab.training.given import answer_ids, share_of
from opdlab.training.module import Distillation
from opdlab.training.optimizers import require_optimizer
from opdlab.training.stored_answers import require_ends
from opdlab.training.teachers import contexts, make_scorer

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]
"""A model with its tokenizer."""

Kept = dict[str, Loaded]
"""Models in memory, each by what its section of the experiment says."""


@dataclass(frozen=True)
class Pair:
    """Student and teacher as loaded, checked to speak the same vocabulary."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    teacher_tokenizer: PreTrainedTokenizerBase
    vocabulary: int
    specialists: tuple[tuple[tuple[str, ...], PreTrainedModel], ...] = ()
    """Teachers of single domains, by patterns."""
    specialist_tokenizers: tuple[PreTrainedTokenizerBase, ...] = ()

    def scorers(self, config: Experiment) -> tuple[Scorer, list[Specialist]]:
        """The teachers as scorers, the general one first."""
        return make_scorer(config.teacher, self.teacher, self.vocabulary), [
            Specialist(domains, make_scorer(source, model, self.vocabulary))
            for source, (domains, model) in zip(config.specialists, self.specialists, strict=True)
        ]

    def sources(self, config: Experiment) -> list[tuple[PreTrainedModel, Taught]]:
        """Each teacher's model with its section of the experiment, the general one first."""
        own = zip(self.specialists, config.specialists, strict=True)
        return [(self.teacher, config.teacher), *((model, one) for (_, model), one in own)]

    def teacher_of(self, benchmark: str) -> PreTrainedModel:
        """Who teaches a benchmark."""
        number = chosen(benchmark, [domains for domains, _ in self.specialists])
        return self.teacher if number is None else self.specialists[number][1]

    def subject(self, model: PreTrainedModel, config: Experiment) -> Subject:
        """A model of the pair with the sampling that the experiment uses."""
        # A server serves the student alone.
        engine = config.rollout if model is self.student else config.rollout.in_process()
        ends = self.ends(model)
        return Subject(
            model=model,
            tokenizer=self.tokenizer,
            engine=engine,
            eos_ids=ends,
            pad_id=models.pad_id(self.student, self.tokenizer, self.vocabulary),
            vocabulary=self.vocabulary
            if model is self.student
            else models.reach(ends, self.vocabulary),
            template=config.prompts.wording,
        )

    def ends(self, model: PreTrainedModel) -> tuple[int, ...]:
        """Tokens by which a model of the pair ends its answers: its own."""
        if model is self.student:
            return models.eos_ids(model, self.tokenizer)
        tokenizers = [self.teacher_tokenizer, *self.specialist_tokenizers]
        teachers = [self.teacher, *(one for _, one in self.specialists)]
        number = next(i for i, one in enumerate(teachers) if one is model)
        return models.eos_ids(model, tokenizers[number])


def load_pair(
    config: Experiment,
    student: Loaded | None = None,
    teacher: Loaded | None = None,
    kept: Kept | None = None,
) -> Pair:
    """Load all models and refuse teachers whose vocabulary differs from the student's.

    Args:
        student, teacher: in place of those that the experiment names.
        kept: models of the pair before, of which those are used that this one has as well; then its own.
            Whoever changes one takes it out.

    Raises:
        ModelError: a model cannot be loaded, the pair does not fit together, or the optimizer's library is
            not here.
        ConfigError: a method asks for more than the vocabulary has, or a teacher is given and named.
    """
    require_optimizer(config.training)
    if teacher is not None and not config.teacher.is_here:
        key = "server" if config.teacher.server is not None else "scores"
        raise ConfigError(
            f"{config.name}: teacher.{key} names a teacher, and a model in memory was given as well; "
            "leave one of them out"
        )
    given = student is not None or teacher is not None
    kept = {} if kept is None else kept
    sources = (config.student, config.teacher, *config.specialists)
    for other in kept.keys() - set(map(repr, sources)):
        del kept[other]
    own, tokenizer = student or _loaded(config.student, kept)
    if config.one_model and not given:
        teacher = adapters.twin(own), tokenizer
    return _fitting(config, (own, tokenizer), teacher or _loaded(config.teacher, kept), kept)


def pair_to_train(config: Experiment, kept: Kept) -> Pair:
    """The models of a training; those that it changes are its own."""
    # Models of the run before would be kept on their device by cycles that nobody collects in time.
    gc.collect()
    pair = load_pair(config, kept=kept)
    if config.training.strategy == "fsdp":  # it leaves each process parts of the teachers
        kept.clear()
    kept.pop(repr(config.student), None)
    return pair


def _loaded(source: Model, kept: Kept) -> Loaded:
    key = repr(source)
    if key not in kept:
        kept[key] = load_source(source)
    return kept[key]


def _fitting(config: Experiment, trained: Loaded, taught: Loaded, kept: Kept) -> Pair:
    """The pair with the experiment's specialists; see `load_pair`."""
    student, tokenizer = trained
    teacher, teacher_tokenizer = taught
    shared = models.shared_vocabulary(tokenizer, teacher_tokenizer, student, teacher)
    specialists, tokenizers = [], []
    for one in config.specialists:
        model, theirs = _loaded(one, kept)
        shared = min(shared, models.shared_vocabulary(tokenizer, theirs, student, model))
        specialists.append((tuple(one.domains), model))
        tokenizers.append(theirs)
    require_within(config, shared)
    teachers = [(teacher, teacher_tokenizer)]
    teachers += [(one[1], theirs) for one, theirs in zip(specialists, tokenizers, strict=True)]
    end = teachers_end(config, teachers)
    models.require_end(student, tokenizer, shared, config.prompts.wording, end)
    return Pair(
        student,
        teacher,
        tokenizer,
        teacher_tokenizer,
        shared,
        tuple(specialists),
        tuple(tokenizers),
    )


def teachers_end(
    config: Experiment, teachers: Sequence[tuple[PreTrainedModel, PreTrainedTokenizerBase]]
) -> int | None:
    """The end that a student's own may be mapped to: that of all teachers, where one process samples."""
    # A server samples by the student's files, which say nothing of another model's end.
    served = config.rollout.in_process() is not config.rollout
    return None if served else models.common_end(teachers, config.prompts.wording)


def require_prompts(config: Experiment, pair: Pair) -> None:
    """Refuse prompts that the teacher cannot read, or that leave an answer no room among the positions.

    All that the training asks are looked at; of endless problems the first `LOOKED_AT`.

    Raises:
        ModelError: naming the first such prompt, and the token or the lengths.
    """
    for runs in by_prompts(config):
        first = runs[0]
        prompts = open_prompts(
            first.prompts, pair.tokenizer, first.seed, first.evaluation.benchmarks
        )
        asked = max(run.training.prompts_per_step * run.training.rollouts for run in runs)
        lengths = [run.rollout.max_new_tokens for run in runs]
        if share_of(first):
            _require_given(prompts, asked, min(lengths), pair)
        _require_prompts(prompts, asked, max(lengths), pair, contexts(runs))


def by_prompts(config: Experiment) -> list[list[Experiment]]:
    """The runs of an experiment, those that share their prompts together."""
    found: list[list[Experiment]] = []
    for _, run in loader.variants(config):
        same = [one for one in found if one[0].prompts == run.prompts and one[0].seed == run.seed]
        if same:
            same[0].append(run)
        else:
            found.append([run])
    return found


def _require_given(prompts: PromptSource, asked: int, answer: int, pair: Pair) -> None:
    """Refuse given answers that cannot be trained on whole; a row may be drawn again where its is taken."""
    ends = pair.ends(pair.student)
    if isinstance(prompts, ScoredSource):
        require_ends(prompts, ends)
        return
    for index in prompts.places(asked):
        answer_ids(
            prompts.prompt(index), pair.tokenizer, ends, answer, pair.vocabulary, prompts.wording
        )


def require_askable(prompts: PromptSource, config: Experiment, pair: Pair) -> None:
    """Refuse prompts of a source that a run cannot be trained on, as `require_prompts` does.

    Raises:
        DataError: the student does not know most of what they are written in.
        ModelError: naming the first such prompt, and the token or the lengths.
    """
    prompts.require_known()
    asked = config.training.prompts_per_step * config.training.rollouts
    _require_prompts(prompts, asked, config.rollout.max_new_tokens, pair, contexts([config]))


def require_answered(
    prompts: PromptSource, asked: int, config: Experiment, pair: Pair, given: bool
) -> None:
    """Refuse prompts of a source, or given answers to them, that no run could be trained on.

    Args:
        asked: how many prompts.
        given: whether their given answers are taken.

    Raises:
        DataError: the student does not know most of them, or a given answer is too long or goes on after
            its end.
        ModelError: see `require_prompts`.
    """
    prompts.require_known()
    if given:
        _require_given(prompts, asked, config.rollout.max_new_tokens, pair)
    _require_prompts(prompts, asked, config.rollout.max_new_tokens, pair, contexts([config]))


def _require_prompts(
    prompts: PromptSource, asked: int, answer: int, pair: Pair, served: Mapping[str, int]
) -> None:
    room = _room(pair, served)
    foreign = max(pair.tokenizer.get_vocab().values()) >= pair.vocabulary
    most = math.inf if room is None else room[1] - answer
    if most == math.inf and not foreign:
        return
    for index in prompts.places(asked):
        if not foreign and prompts.at_most(index) <= most:
            continue
        if odd := misfit(prompts.prompt(index), answer, pair, served):
            raise ModelError(". ".join(odd))


def misfit(
    prompt: Prompt, answer: int, pair: Pair, served: Mapping[str, int]
) -> tuple[str, str] | None:
    """Why a prompt cannot be asked, and what to do; None where it can.

    Args:
        answer: tokens of the longest answer.
        served: tokens of a row that servers take, see `contexts`.
    """
    own = f"prompt {prompt.problem.id} of {prompt.problem.benchmark}"
    if foreign := [token for token in prompt.tokens if token >= pair.vocabulary]:
        shown = pair.tokenizer.convert_ids_to_tokens(foreign[0])
        return (
            f"{own} holds the student's token {shown!r} (id {foreign[0]}), which is not among the "
            f"{pair.vocabulary} entries that it shares with its teacher, so the teacher could not read it",
            "Set prompts.template: none where the template writes it, take other prompts, or a teacher "
            "whose vocabulary has it",
        )
    room, count = _room(pair, served), len(prompt.tokens)
    if room is not None and count + answer > room[1]:
        who, size = room
        return (
            f"{own} has {count} tokens, which are {count + answer} with rollout.max_new_tokens ({answer}), "
            f"and the {who} {_takes(who in served, size)}",
            f"Leave such ones out by prompts.max_prompt_tokens: {max(1, size - answer)} and "
            f"prompts.too_long: drop, allow shorter answers, or take a {who} with more context",
        )
    return None


def _takes(served: bool, size: int) -> str:
    if served:
        return f"takes {size} (max_model_len of vLLM less a token, or opdlab teach: --tokens)"
    return f"has {size} positions: beyond them a model reads noise"


def _room(pair: Pair, served: Mapping[str, int]) -> tuple[str, int] | None:
    """Who has the fewest positions, and how many; None where nobody names a number."""
    found = {"student": pair.student, "teacher": pair.teacher}
    found |= {f"specialist {number}": one for number, (_, one) in enumerate(pair.specialists)}
    sizes = [(name, size) for name, one in found.items() if (size := models.positions(one))]
    return min([*sizes, *served.items()], key=itemgetter(1), default=None)


def require_within(config: Experiment, vocabulary: int) -> None:
    """Refuse methods that ask for more than a vocabulary has.

    Raises:
        ConfigError: naming the key and the size.
    """
    for fault in beyond(config, vocabulary):
        raise ConfigError(f"{config.name}: {fault}")


def beyond(config: Experiment, vocabulary: int) -> Iterator[str]:
    """Options of methods that no vocabulary of this size can meet."""
    highest = math.log(vocabulary)
    for name, run in loader.variants(config):
        where = f"run {name}: " if config.runs else ""
        for key, method in (
            ("method", run.method),
            ("method.base", getattr(run.method, "base", None)),
        ):
            top_k = getattr(method, "top_k", None) or getattr(method, "group", 0)
            if top_k > vocabulary:
                yield (
                    f"{where}{key}.top_k is {top_k}, but student and teacher share {vocabulary} tokens; "
                    f"set it to {vocabulary} at most"
                )
            threshold = getattr(method, "entropy_threshold", 0.0)
            if threshold >= highest and getattr(method, "active_share", None) is None:
                yield (
                    f"{where}{key}.entropy_threshold is {threshold:g} nats, but a distribution over "
                    f"{vocabulary} tokens has an entropy of {highest:.3g} at most, so no position would be "
                    "active; set it lower"
                )
        above = run.training.mask.entropy_above
        if above is not None and above >= highest:
            yield (
                f"{where}training.mask.entropy_above is {above:g} nats, but a distribution over "
                f"{vocabulary} tokens has an entropy of {highest:.3g} at most, so no token would carry "
                "loss; set it lower"
            )


def load_source(source: Model) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer; of a teacher that is elsewhere a model without weights.

    Raises:
        ModelError: it cannot be loaded; or adapters, which are trained no further, are to be the student.
    """
    lora = getattr(source, "lora", None)
    if isinstance(source, Student) and models.adapted(source.path) is not None:
        raise ModelError(
            f"student.path: {source.path} holds adapters; `opdlab merge {source.path} FOLDER` "
            "makes of them and their model one that can be a student"
        )
    if isinstance(source, Taught) and not source.is_here:
        if isinstance(source, Teacher) and source.scores is not None:
            folder = Path(source.scores).expanduser()
            require_teacher(folder, read_manifest(folder))  # its absence is said in its own words
        shell = models.load_shell(source.path, source.revision)
        return shell, models.load_tokenizer(source.path, source.revision)
    model = models.load_model(
        source.path,
        source.revision,
        source.dtype,
        quantize="none" if lora is None else lora.quantize,
        drop_layers=getattr(source, "drop_layers", ()),
    )
    return model, models.load_tokenizer(source.path, source.revision)


def adapt(student: PreTrainedModel, config: Experiment) -> None:
    """Give a student the adapters that its experiment asks for, if any.

    Raises:
        ModelError: the layers that are to have some are not there.
    """
    if (lora := config.student.lora) is not None:
        adapters.add(
            student,
            rank=lora.rank,
            alpha=lora.alpha,
            targets=lora.targets,
            dropout=lora.dropout,
            seed=small_seed(config.seed),
        )


@contextmanager
def working(model: PreTrainedModel, config: Experiment) -> Iterator[None]:
    """Put a model on the accelerator for a while; training, and other models, need the room later."""
    model.to(models.device(config.training.accelerator))  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        model.cpu()


def load_module(
    pair: Pair, config: Experiment, prompts: PromptSource | None = None
) -> Distillation:
    """What is trained, with its teachers and prompts.

    Args:
        prompts: in place of those that the experiment names.
    """
    L.seed_everything(small_seed(config.seed), verbose=False)
    teacher, specialists = pair.scorers(config)
    if prompts is None:
        benchmarks = config.evaluation.benchmarks
        prompts = open_prompts(config.prompts, pair.tokenizer, config.seed, benchmarks)
    adapt(pair.student, config)
    require_trained(pair.student)
    student = pair.subject(pair.student, config)
    ends = pair.ends(pair.teacher)
    module = Distillation(config, student, teacher, prompts, specialists, ends)
    source = config.student
    if source.lora is not None:
        module.base = {
            "path": source.path,
            "revision": source.revision,
            "dtype": source.dtype,
            "quantize": source.lora.quantize,
            "files_sha256": models.files_sha256(source.path, source.revision),
        }
    return module


def require_trained(student: PreTrainedModel) -> None:
    """Refuse a student of which no weight is trained.

    Raises:
        ModelError: `requires_grad` is off for all of them.
    """
    if not any(weight.requires_grad for weight in student.parameters()):
        raise ModelError(
            "no weight of the student is trained (requires_grad is off for all of them); turn it on for "
            "those that are to be: student.requires_grad_(True)"
        )
