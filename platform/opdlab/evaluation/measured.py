"""Measure a model: k samples of every problem, graded, stored and summarised."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, final

from opdlab import plugins, secret_options
from opdlab.errors import (
    ConfigError,
    OtherDrawsError,
    RefusedError,
    naming_requests,
)
from opdlab.evaluation import store
from opdlab.evaluation.subjects import Answer, Measured, Subject
from opdlab.evaluation.weighing import PROBLEMS_AT_ONCE, weighed
from opdlab.evaluation.withdrawing import withdraw_unproven
from opdlab.identity import Measurement, ModelId, Owner, digest, learned
from opdlab.modelling import (
    as_wording,
    marks_of,
    own_part,
    read,
    text_of,
    written,
)
from opdlab.plugins import declared, posed, said_by, verdicts_on
from opdlab.prompts import encode, rendered, require_wording
from opdlab.records import (
    LONGEST_REASON,
    Generation,
    Grade,
    Problem,
    Refusal,
    Rollout,
    Sample,
    Verdict,
    storable,
)
from opdlab.serving import RECEIVED, Received

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from opdlab.configuration import Evaluation
    from opdlab.plugins import Evaluator
    from opdlab.sampling import RolloutEngine

LOG = logging.getLogger("opdlab")
STORE_ROWS, STORE_SECONDS = 64, 30.0
"""Completions are written when so many wait, or so much time has passed."""
MAX_SEED_BYTES = 7  # so that a seed fits an int64


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; `max_new_tokens` None leaves the rollout's."""

    temperature: float
    top_p: float
    max_new_tokens: int | None


PRESETS = {
    # What the makers of reasoning models recommend, and papers evaluate with.
    "reasoning": Sampling(0.6, 0.95, 32_768),
    "on_policy": Sampling(1.0, 1.0, None),
    "greedy": Sampling(0.0, 1.0, None),
}


@final
@dataclass(frozen=True)
class Share:
    """What one of several processes draws of an evaluation: every `size`-th answer, from its `rank`.

    Attributes:
        meet: returns when the others have drawn theirs; the first process then grades.
    """

    rank: int = 0
    size: int = 1
    meet: Callable[[], object] = lambda: None


ALONE = Share()


def sampling_engine(engine: RolloutEngine, settings: Evaluation) -> RolloutEngine:
    """The rollout engine with the sampling of the evaluation: its preset, single values replaced."""
    preset = PRESETS[settings.sampling]
    longest = settings.max_new_tokens or preset.max_new_tokens or engine.max_new_tokens
    return replace(
        engine,
        max_new_tokens=longest,
        temperature=preset.temperature if settings.temperature is None else settings.temperature,
        top_p=preset.top_p if settings.top_p is None else settings.top_p,
    )


def evaluate(
    subject: Measured,
    settings: Evaluation,
    owner: Owner,
    folder: Path,
    on_finished: Callable[[int], None] | None = None,
    on_graded: Callable[[int], None] | None = None,
    share: Share = ALONE,
) -> list[Sample]:
    """Sample and grade every benchmark; what an earlier call has stored is not drawn again.

    What a server refuses is stored as a fault, and asked again by the next call. Of several processes the
    first grades, and draws what others have not; the others return nothing.

    Args:
        owner: name and place of what is measured, for the record.
        folder: where the samples are kept, some at a time, so that an evaluation that was cut short
            goes on.
        on_finished: called with the number of responses finished since the last call; it may raise to
            stop, and what was drawn until then is kept.
        on_graded: the same for verdicts.
        share: of this process, where several draw.

    Raises:
        RefusedError: a server gave no answer that can be used.
        OpdlabError: a benchmark has no data, or its answers cannot be graded here.
    """
    if not share.rank:
        require(settings.benchmarks)
    for benchmark in settings.benchmarks:
        if not isinstance(subject, Subject) and benchmark.problems()[0].weighed:
            raise ConfigError(
                f"evaluation.benchmarks: {benchmark.benchmark} asks for the probabilities of given texts, "
                "which not all servers tell; measure the model in this process, without a server"
            )
        if isinstance(subject, Subject):
            longest = sampling_engine(subject.engine, settings).max_new_tokens
            subject.require_room(benchmark.problems(), longest)
    who = subject.identity()
    asked = [
        (benchmark, asked_of(benchmark, subject, settings, owner, who))
        for benchmark in settings.benchmarks
    ]
    for benchmark, wanted in asked:
        mine, _ = _shared_out(benchmark, settings, share)
        draw_missing(store.ask(folder, wanted), subject, settings, mine, on_finished)
    share.meet()
    if share.rank:
        return []
    measured: list[store.SampleSet] = []
    for benchmark, wanted in asked:
        # Again: another process may have asked last, and with weights that differ in rounding.
        kept = store.ask(folder, wanted)
        _, others = _shared_out(benchmark, settings, share)
        draw_missing(kept, subject, settings, others, on_finished)
        grade_missing(kept, benchmark, on_graded)
        measured.append(kept)
    return [sample for kept in measured for sample in kept.samples()]


def require(benchmarks: Sequence[Evaluator]) -> None:
    """Raise, before any work is done, where a benchmark's problems or its grader are not to be had."""
    for benchmark in benchmarks:
        posed.problems(benchmark)
        with said_by(benchmark, "require_grader"):
            benchmark.require_grader()


def asked_of(
    benchmark: Evaluator,
    subject: Measured,
    settings: Evaluation,
    owner: Owner,
    who: ModelId,
    described: Mapping[str, Any] | None = None,
) -> Measurement:
    """What an evaluation asks of a model on a benchmark.

    Args:
        described: type and options of a benchmark that is no plugin.
    """
    problems = benchmark.problems()
    engine = sampling_engine(subject.engine, settings)
    return Measurement(
        model=owner.model,
        role=owner.role,
        step=owner.step,
        execution=owner.execution,
        label=owner.label or owner.model,
        subject=who,
        benchmark=benchmark.benchmark,
        evaluator=secret_options.unmarked(described or plugins.describe(benchmark)),
        data=store.data_hash(problems),
        shown=_shown(problems, subject),
        problems=len(problems),
        template=str(subject.template),
        temperature=engine.temperature,
        top_p=engine.top_p,
        max_new_tokens=engine.max_new_tokens,
        seed=settings.seed,
        samples=settings.samples,
        grader=benchmark.grader_version,
        engine=engine_of(engine) | subject.sampled_with(),
        software={name: metadata.version(name) for name in ("opdlab", "torch", "transformers")}
        | subject.software(),
    )


def engine_of(engine: RolloutEngine) -> dict[str, Any]:
    """What samples, with the options of its own that decide what is drawn: an engine of somebody else's may
    have a top-k."""
    told = {*Sampling.__annotations__, "group_size", "ahead"}
    own = {
        f.name: secret_options.covered(f.name, getattr(engine, f.name))
        for f in fields(engine)
        if f.name not in told
    }
    decisive = learned({"rollout": secret_options.unmarked(own)})["rollout"]
    return {"type": type(engine).__name__, **json.loads(json.dumps(decisive, default=repr))}


def _shown(problems: Sequence[Problem], subject: Measured) -> str:
    """Hash of the prompts as the model reads them: a template may write the date into them."""
    tokenizer, template = subject.tokenizer, subject.template
    ordered = sorted(problems, key=lambda problem: problem.id)
    return digest([[p.id, encode(tokenizer, p, template)] for p in ordered])


def sample_seed(seed: int, problem: Problem, index: int) -> int:
    """Seed of one sample, the same for every model and independent of the order of problems."""
    text = f"{seed}/{problem.benchmark}/{problem.id}/{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:MAX_SEED_BYTES])


def all_answers(benchmark: Evaluator, settings: Evaluation) -> list[tuple[Problem, int]]:
    """Every answer of an evaluation: its problem, and which of the problem's answers it is."""
    return [(p, i) for p in benchmark.problems() for i in range(settings.samples)]


def _shared_out(
    benchmark: Evaluator, settings: Evaluation, share: Share
) -> tuple[list[tuple[Problem, int]], list[tuple[Problem, int]]]:
    """The answers of this process, and those of all others."""
    answers = all_answers(benchmark, settings)
    # What one process weighs together is rounded together.
    block = PROBLEMS_AT_ONCE * settings.samples if answers[0][0].weighed else 1
    mine: list[tuple[Problem, int]] = []
    others: list[tuple[Problem, int]] = []
    for number, answer in enumerate(answers):
        (mine if number // block % share.size == share.rank else others).append(answer)
    return mine, others


def draw_missing(
    kept: store.SampleSet,
    subject: Measured,
    settings: Evaluation,
    wanted: Sequence[tuple[Problem, int]],
    on_finished: Callable[[int], None] | None = None,
) -> None:
    """Draw those completions that are not there yet, and store them some at a time.

    What a server refuses is stored, too, and drawn by the next call.

    Raises:
        RefusedError: a server gave no answer that can be used.
        OtherDrawsError: it draws otherwise than asked; what it may have drawn so is withdrawn.
    """
    known = kept.generations()
    missing = [(problem, i) for problem, i in wanted if (problem.id, i) not in known]
    finished = on_finished or (lambda rows: None)
    if len(missing) < len(wanted):
        finished(len(wanted) - len(missing))
    if not missing:
        return
    asked = _Asked(kept, subject, settings, missing, finished)
    try:
        if missing[0][0].weighed:
            assert isinstance(subject, Subject)
            shown = asked.shown
            weighed(missing, asked.seeds, lambda one: shown[one.id], subject.weigh, asked.add)
            return
        with naming_requests(asked.named):
            subject.answer(
                sampling_engine(subject.engine, settings),
                [(asked.encoded[problem.id], asked.shown[problem.id]) for problem, _ in missing],
                asked.seeds,
                settings.batch_rows,
                settings.batch_tokens,
                asked.arrived,
                asked.waiting,
                asked.arrivals.received,
            )
    except RefusedError as error:
        asked.arrivals.store()
        refused = error.rows | (asked.likewise(error.rows) if error.ended else {})
        _keep_refused(kept, [asked.refusal(*one) for one in refused.items()], wanted, error)
    except OtherDrawsError as error:
        asked.arrivals.store()
        withdraw_unproven([kept.folder], error)
        raise
    finally:
        # Whatever ended the sampling, what came is kept.
        asked.arrivals.store()


@final
class _Asked:
    """What is asked for, and what becomes of each answer as it comes.

    Attributes:
        missing: problem of each answer, and which of the problem's answers it is.
        encoded, shown: each problem's prompt, as tokens and as text.
    """

    def __init__(
        self,
        kept: store.SampleSet,
        subject: Measured,
        settings: Evaluation,
        missing: Sequence[tuple[Problem, int]],
        finished: Callable[[int], None],
    ) -> None:
        problems = {problem.id: problem for problem, _ in missing}
        tokenizer, self.wording = subject.tokenizer, as_wording(subject.template)
        require_wording(tokenizer, self.wording)
        self.missing, self.finished = missing, finished
        self.arrivals = _Arrivals(kept, [f"{problem.id}/{index}" for problem, index in missing])
        self.encoded = {k: encode(tokenizer, one, self.wording) for k, one in problems.items()}
        self.shown = {k: rendered(tokenizer, one, self.wording) for k, one in problems.items()}
        self.seeds = [sample_seed(settings.seed, problem, i) for problem, i in missing]
        self.thinking = written(marks_of(tokenizer))

    def add(self, generation: Generation) -> None:
        self.arrivals.add(generation)
        self.finished(1)

    def arrived(self, row: int, answer: Answer) -> None:
        problem, index = self.missing[row]
        self.add(
            Generation(
                problem=problem.id,
                index=index,
                seed=self.seeds[row],
                prompt=self._prompt(problem),
                completion=self.wording.prefill + answer.text,
                tokens=answer.tokens,
                stop=answer.stop,
                seconds=0.0,
                thinking=self.thinking,
            )
        )

    def waiting(self) -> None:
        self.arrivals.look()
        self.finished(0)

    def named(self, row: int) -> str:
        problem, index = self.missing[row]
        return f"{problem.named} (sample {index})"

    def likewise(self, refused: Mapping[int, str]) -> dict[int, str]:
        """Why other samples of the same problems are refused, which were not asked for any more."""
        why = {self.missing[row][0].id: reason for row, reason in refused.items()}
        known = self.arrivals.kept.generations()
        return {
            row: f"not asked for, as another sample of the problem was refused: {why[problem.id]}"
            for row, (problem, index) in enumerate(self.missing)
            if problem.id in why and row not in refused and (problem.id, index) not in known
        }

    def refusal(self, row: int, reason: str) -> Refusal:
        problem, index = self.missing[row]
        why = storable(reason)[:LONGEST_REASON]
        return Refusal(problem.id, index, self.seeds[row], self._prompt(problem), why)

    def _prompt(self, problem: Problem) -> str:
        return self.shown[problem.id].removesuffix(self.wording.prefill)


def _keep_refused(
    kept: store.SampleSet,
    rows: Sequence[Refusal],
    wanted: Sequence[tuple[Problem, int]],
    error: RefusedError,
) -> None:
    """Store what a server refused; raises `error` where it answered nothing, or was not asked all."""
    drawn, refused = kept.generations(), {(row.problem, row.index) for row in rows}
    known = {*drawn, *refused, *kept.refusals()}
    if not drawn or any((problem.id, index) not in known for problem, index in wanted):
        raise error
    kept.add_refusals(rows)
    again = "run the same command again (train: with --resume) to ask for it again"
    if kept.asked.step is not None:
        again = "of this evaluation within a training only bounds remain"
    LOG.warning(
        "%s. What is missing is stored as server_error and not counted as wrong; %s", error, again
    )


class _Arrivals:
    """Completions on their way to the disk, written when there are many or some time has passed."""

    def __init__(self, kept: store.SampleSet, keys: Sequence[str]) -> None:
        self.kept = kept
        self.received = Received(kept.path / RECEIVED, keys)
        self.waiting: list[Generation] = []
        self.since = perf_counter()

    def add(self, generation: Generation) -> None:
        self.waiting.append(generation)
        self.look()

    def look(self) -> None:
        """Write what waits if it is time."""
        if len(self.waiting) >= STORE_ROWS or perf_counter() - self.since > STORE_SECONDS:
            self.store()

    def store(self) -> None:
        """Write what waits; the wall time since the last write is shared by its rows."""
        now = perf_counter()
        if self.waiting:
            share = (now - self.since) / len(self.waiting)
            self.kept.add_generations([replace(row, seconds=share) for row in self.waiting])
            self.received.settled(f"{row.problem}/{row.index}" for row in self.waiting)
        self.waiting, self.since = [], now


def grade_missing(
    kept: store.SampleSet,
    benchmark: Evaluator,
    on_graded: Callable[[int], None] | None = None,
) -> None:
    """Grade the completions that this grader has not judged yet, or could not for a fault of its own."""
    declared.evaluator(benchmark)
    problems = {problem.id: problem for problem in benchmark.problems()}
    grader = benchmark.grader_version
    drawn, judged = kept.generations(), kept.grades(grader)
    waiting = [
        row
        for key, row in drawn.items()
        if key not in judged or judged[key].status in Verdict.FAULTS
    ]
    if on_graded is not None and len(waiting) < len(drawn):
        on_graded(len(drawn) - len(waiting))
    for first in range(0, len(waiting), benchmark.graded_at_once):
        part = waiting[first : first + benchmark.graded_at_once]
        verdicts = judge(benchmark, [(problems[row.problem], row) for row in part], on_graded)
        kept.add_grades(
            [
                Grade(row.problem, row.index, grader, found.status, found.answer, found.reason)
                for row, found in zip(part, verdicts, strict=True)
            ]
        )


def judge(
    benchmark: Evaluator,
    answers: Sequence[tuple[Problem, Generation]],
    on_graded: Callable[[int], None] | None = None,
) -> list[Verdict]:
    """The grader's verdicts; a response cut at the length limit is `truncated` unless it is right.

    The grader is given the answer's own part: what follows the model's thinking.
    """
    texts = [
        (
            problem,
            row.completion
            if problem.weighed
            else own_part(row.completion, row.prompt, read(row.thinking)),
        )
        for problem, row in answers
    ]
    verdicts = verdicts_on(benchmark, texts, on_graded)
    return [
        replace(verdict, status="truncated")
        if row.stop == "length" and verdict.status in ("wrong", "no_answer")
        else verdict
        for verdict, (_, row) in zip(verdicts, answers, strict=True)
    ]


def decode(rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Text of every response; of special tokens only those that mark thinking are kept."""
    texts = []
    for row, (start, length) in enumerate(
        zip(rollout.prompt_lengths.tolist(), rollout.response_lengths.tolist(), strict=True)
    ):
        ids = rollout.tokens[row, start : start + length].tolist()
        texts.append(text_of(tokenizer, ids))
    return texts


def headline(samples: Sequence[Sample], every: bool = False) -> dict[str, float]:
    """Metrics of a set of samples under the names that MLflow accepts (`math/short/mean_at_8`).

    Args:
        every: scores and bounds, NaN where a score is not known, so that nothing of an earlier evaluation
            is left where these replace it.
    """
    metrics: dict[str, float] = {}
    for summary in plugins.load(plugins.STATISTICS, "scores")(samples):
        for name, value in summary.metrics(every).items():
            metrics[f"{summary.benchmark}/{name}"] = value
    return metrics
