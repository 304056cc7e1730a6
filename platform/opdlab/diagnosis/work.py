"""One diagnosis at work: what is asked of every model, and what was seen, kept on disk as it comes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab import identity, plugins
from opdlab.configuration import Experiment, Model
from opdlab.console import progress_bar
from opdlab.diagnosis.findings import Observed
from opdlab.diagnosis.observation import HandOvers, Tokens, load, save
from opdlab.diagnosis.observe import Asked, Bench, hand_over, respond
from opdlab.errors import ConfigError, DataError
from opdlab.evaluation import label_of, require
from opdlab.files import is_there
from opdlab.modelling import Wording, as_wording, models
from opdlab.plugins import posed
from opdlab.prompts import encode
from opdlab.scoring import Teacher

TOP_K = 8
ROWS = 64
"""Responses looked at before what was seen is written."""
LOOKED_AT = 4000
"""Positions at which D_ahead is measured, of each model."""
CUTS_UP_TO = 0.9
"""The last cut is this quantile of the first student's lengths."""
SEED = 4321
CONTROL = "teacher, own prefixes"


@dataclass(frozen=True)
class Settings:
    """What is looked at.

    Attributes:
        problems: most test problems per benchmark; None for all.
        samples: answers to each.
        cuts: places of hand-over, the empty prefix among them.
        bins: of the position.
        least: fidelity that counts for the effective horizon.
    """

    problems: int | None
    samples: int
    cuts: int
    bins: int
    least: float


@dataclass(frozen=True)
class Work:
    """One diagnosis: where it is kept, and what stays the same for all models.

    Attributes:
        folder: `OUTPUT/diagnoses/NAME-HASH`; the hash is of all that decides what is seen of a model.
        teacher: its model, which writes answers of its own as well.
        problems: how many.
    """

    folder: Path
    bench: Bench
    teacher: PreTrainedModel
    problems: int
    config: Experiment
    settings: Settings
    device: str

    @classmethod
    def begin(cls, config: Experiment, settings: Settings) -> Work:
        """Load the teacher, and list what is asked.

        Raises:
            ModelError: the teacher cannot be loaded.
            DataError: the problems cannot be read.
        """
        device = models.device(config.training.accelerator)
        source, engine = config.teacher, config.rollout
        if source.server is not None:
            raise ConfigError(
                f"{config.name}: a diagnosis lets the teacher complete answers and needs its whole "
                "distributions, which a server (teacher.server) does not give; override "
                "teacher.server=null where the model fits into this process"
            )
        if not source.is_here:
            raise ConfigError(
                f"{config.name}: a diagnosis lets the teacher finish answers, and scores on disk "
                "(teacher.scores) finish none; override teacher with a model, such as "
                "'teacher={path: MODEL}'"
            )
        teacher = models.load_model(source.path, source.revision, source.dtype, device)
        tokenizer = models.load_tokenizer(source.path, source.revision)
        require(config.evaluation.benchmarks)
        asked = list(what_is_asked(config, settings))
        bench = Bench(
            teacher=Teacher(teacher).probe(),
            context=getattr(teacher.config.get_text_config(), "max_position_embeddings", None),
            # A server serves a training student alone.
            engine=engine.in_process(),
            top_k=config.method.group or TOP_K,
            tokenizer=tokenizer,
            template=config.prompts.wording,
            eos_ids=models.eos_ids(teacher, tokenizer),
            teacher_ends=models.eos_ids(teacher, tokenizer),
            pad_id=models.pad_id(teacher, tokenizer),
            vocabulary=None,
            asked=asked,
            seed=SEED,
        )
        decisive = {
            "teacher": models.identify(
                teacher, tokenizer, config.prompts.template, bench.teacher_ends, None
            ).key,
            "asked": what(asked, tokenizer, bench.template),
            "graders": [one.grader_version for one in config.evaluation.benchmarks],
            "rollout": plugins.describe(config.rollout),
            "template": str(config.prompts.wording),
            "samples": settings.samples,
            "top_k": bench.top_k,
        }
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
        folder = Path(config.output) / "diagnoses" / f"{config.name}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        problems = max(one.number for one in asked) + 1
        return cls(folder, bench, teacher, problems, config, settings, device)

    def look(
        self, sources: Sequence[tuple[str, Model]], check: Callable[[], None]
    ) -> list[Observed]:
        """Everything that is seen of the students, then of the teacher on its own prefixes."""
        benches: dict[str, tuple[Bench, str]] = {}
        seen: dict[str, list[Tokens]] = {}
        for name, one in sources:
            model, bench, label = self.load(name, one)
            benches[name] = bench, label
            seen[name] = self.all_responses(bench, model, name, label, check)
        bench = self.control(benches[sources[0][0]][0])
        benches[CONTROL] = bench, f"teacher-{bench.vocabulary}"
        seen[CONTROL] = self.all_responses(bench, self.teacher, CONTROL, benches[CONTROL][1], check)
        cuts = self.cuts(Tokens.join(seen[sources[0][0]]))
        observed = []
        for name, (bench, label) in benches.items():
            handed = self.all_handed(bench, seen[name], name, label, cuts, check)
            observed.append(Observed(name, name == CONTROL, Tokens.join(seen[name]), handed))
        return observed

    def control(self, first: Bench) -> Bench:
        """The teacher's own answers: in the vocabulary of the first student, as in training, and ended by
        the teacher's own tokens; in its whole vocabulary where those are not shared."""
        assert first.vocabulary is not None
        shared = models.reach(first.teacher_ends, first.vocabulary) is not None
        return replace(first, eos_ids=first.teacher_ends) if shared else self.bench

    def all_responses(
        self,
        bench: Bench,
        model: PreTrainedModel,
        name: str,
        label: str,
        check: Callable[[], None],
    ) -> list[Tokens]:
        """The responses of a model, chunk by chunk, with a bar."""
        parts = []
        with progress_bar() as progress:
            task = progress.add_task(f"answers of {name}", total=len(bench.asked))
            for rows in chunks(len(bench.asked)):
                parts.append(self.responses(bench, model, label, rows))
                progress.advance(task, len(rows))
                check()
        return parts

    def all_handed(
        self,
        bench: Bench,
        seen: Sequence[Tokens],
        name: str,
        label: str,
        cuts: Sequence[int],
        check: Callable[[], None],
    ) -> HandOvers:
        """The hand-overs from a model's responses at every cut, with a bar."""
        parts = []
        with progress_bar() as progress:
            total = len(bench.asked) * len(cuts)
            task = progress.add_task(f"hand-over from {name}", total=total)
            for cut in cuts:
                for rows, tokens in zip(chunks(len(bench.asked)), seen, strict=True):
                    parts.append(self.handed(bench, tokens, label, rows, cut))
                    progress.advance(task, len(rows))
                    check()
        return HandOvers.join(parts)

    def load(self, name: str, source: Model) -> tuple[PreTrainedModel, Bench, str]:
        """A student, the bench with the vocabulary it shares with the teacher, and its name in files."""
        teacher = self.teacher
        model = models.load_model(
            source.path,
            source.revision,
            source.dtype,
            self.device,
            drop_layers=getattr(source, "drop_layers", ()),
        )
        tokenizer = models.load_tokenizer(source.path, source.revision)
        shared = models.shared_vocabulary(tokenizer, self.bench.tokenizer, model, teacher)
        end = models.common_end([(teacher, self.bench.tokenizer)], self.bench.template)
        bench = replace(
            self.bench,
            teacher=Teacher(teacher, shared).probe(),
            tokenizer=tokenizer,
            eos_ids=models.require_end(model, tokenizer, shared, self.bench.template, end),
            pad_id=models.pad_id(model, tokenizer, shared),
            vocabulary=shared,
        )
        who = models.identify(
            model, tokenizer, as_wording(bench.template).template, bench.eos_ids, shared
        )
        reads = what(bench.asked, tokenizer, bench.template)
        return model, bench, label_of(name, identity.digest([who.key, reads]))

    def responses(self, bench: Bench, model: PreTrainedModel, label: str, rows: range) -> Tokens:
        """Some responses, from the disk where they are there."""
        path = self.folder / "seen" / label / f"responses-{rows.start:06d}.npz"
        if not is_there(path):
            share = math.ceil(LOOKED_AT * len(rows) / len(bench.asked))
            save(respond(bench, model, rows, share), path)
        return load(Tokens, path)

    def handed(self, bench: Bench, tokens: Tokens, label: str, rows: range, cut: int) -> HandOvers:
        """Some hand-overs, from the disk where they are there."""
        path = self.folder / "seen" / label / f"handed-{cut:06d}-{rows.start:06d}.npz"
        if not is_there(path):
            save(hand_over(bench, tokens.responses(), rows, cut), path)
        return load(HandOvers, path)

    def cuts(self, tokens: Tokens) -> list[int]:
        """Places of hand-over, evenly spread over most of the first student's lengths."""
        lengths = [len(one) for one in tokens.responses()]
        last = max(1, int(np.quantile(lengths, CUTS_UP_TO)) - 1)
        return sorted(
            {round(last * k / (self.settings.cuts - 1)) for k in range(self.settings.cuts)}
        )


def chunks(count: int) -> Iterator[range]:
    """Rows looked at together."""
    for first in range(0, count, ROWS):
        yield range(first, min(first + ROWS, count))


def what(
    asked: Sequence[Asked], tokenizer: PreTrainedTokenizerBase, template: Wording | str
) -> str:
    """Hash of the problems in their order, by which they are numbered, as a model reads them."""
    first = [(one.benchmark.benchmark, one.problem) for one in asked if one.sample == 0]
    return identity.digest(
        [[name, p.id, p.gold, encode(tokenizer, p, template)] for name, p in first]
    )


def what_is_asked(config: Experiment, settings: Settings) -> Iterator[Asked]:
    """Every problem as often as it is answered.

    Raises:
        DataError: fewer than two problems, of which no interval could be given.
    """
    number = 0
    for benchmark in config.evaluation.benchmarks:
        for problem in posed.problems(benchmark)[: settings.problems]:
            for sample in range(settings.samples):
                yield Asked(number, sample, problem, benchmark)
            number += 1
    if number < 2:
        raise DataError(
            f"{number} problem is too few: intervals are over problems; take two or more"
        )
