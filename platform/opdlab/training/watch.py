"""What the leader of a training does around a step: records, alarms, copies, evaluations."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, final

import lightning as L
from typing_extensions import override

from opdlab import evaluation
from opdlab.configuration import Training
from opdlab.console import ALARM, END, YELLOW, StopRequest, progress_bar
from opdlab.evaluation import decode
from opdlab.files import read_metrics, whole_folder
from opdlab.identity import Owner
from opdlab.records import Rollout, TeacherScores
from opdlab.shapes import Bool, Float, Tensor
from opdlab.tracking import Tracker
from opdlab.training import evaluating
from opdlab.training.hacking import Alarms, unwatched
from opdlab.training.module import Distillation
from opdlab.training.onlookers import Onlookers
from opdlab.training.pace import Pace
from opdlab.training.unanswered import REFUSED_FILE

TABLE_ROWS = 8
STUDENTS = "students"
"""Folder of a run's kept copies of its student."""
SHOWN = {
    "loss": "loss",
    "reverse_kl": "reverse KL",
    "reward": "reward",
    "active_share": "active",
    "tokens_per_second": "tokens/s",
}


@final
class Watch(Pace):
    """The leader's: records every step, raises alarms, keeps copies, evaluates."""

    def __init__(
        self, tracker: Tracker, stop: StopRequest, training: Training, owner: Owner
    ) -> None:
        super().__init__(tracker.folder, stop)
        self.tracker, self.owner = tracker, owner
        self.alarms = Alarms(training.hacking, training.steps)
        self.logging: float | None = None
        self.onlookers = Onlookers(tracker.folder)
        self.progress = progress_bar()
        self.task = self.progress.add_task(f"train {tracker.folder.name}")

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.progress.update(self.task, completed=self.step, total=trainer.max_steps)
        self.progress.start()
        assert isinstance(pl_module, Distillation)
        for what in unwatched(pl_module.config):
            self.progress.console.print(f"{YELLOW}not watched: {what}")
        before = self.step - (pl_module.unrecorded is not None)
        if pl_module.config.rollout.served:
            # A server's answers are others each time, and may have been refused since.
            self.tracker.forget(before)
        self.alarms.replay(read_metrics(self.tracker.folder), before)

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.progress.stop()

    def _alarm(self, metrics: Mapping[str, float]) -> None:
        """Say and record what looks like reward hacking."""
        for name, why in self.alarms.see(metrics, self.step).items():
            self.progress.console.print(f"{ALARM}alarm: {name}{END} at step {self.step}: {why}")
        if self.alarms.raised:
            self.progress.figures += f"  ALARM: {', '.join(self.alarms.raised)}"
            self.tracker.tags({"opdlab.alarms": ", ".join(self.alarms.raised)})
            self.enough = self.alarms.settings.stop

    @override
    def record(self, module: Distillation, metrics: dict[str, float]) -> None:
        started = perf_counter()
        self._note_refused(module)
        if self.logging is not None:
            # Of the step before: this one's is known when its record is written.
            metrics["seconds/logging"] = self.logging
        self.progress.figures = figures(metrics)
        self._alarm(metrics)
        self.progress.update(self.task, completed=self.step)
        self.onlookers.step(module, self.step, self.final)
        evaluated = 0.0
        if self.due(module.config.evaluation.every):
            began = perf_counter()
            owner = replace(self.owner, step=self.step)
            with self.onlookers.evaluating():
                samples = evaluation.evaluate(
                    module.subject,
                    module.config.evaluation,
                    owner,
                    self.tracker.folder / "samples",
                    self.stop.check,
                    share=evaluating.lead(module.config, owner, self.tracker.folder),
                )
            evaluated = perf_counter() - began
            metrics |= evaluation.headline(samples) | {"seconds/evaluation": evaluated}
        self.tracker.log(metrics, self.step)
        tables = module.config.tracking.samples_every
        if tables and self.step % tables == 0 and module.rollout and module.scores:
            columns = rollout_table(module.rollout, module.scores, module)
            self.tracker.table(columns, f"rollouts-{self.step:06d}.json")
        self.logging = perf_counter() - started - evaluated

    def _note_refused(self, module: Distillation) -> None:
        """Name the prompts that the step went on without, once, however many epochs use its answers."""
        refused, module.collector.refused = module.collector.refused, []
        if refused:
            with (self.tracker.folder / REFUSED_FILE).open("a") as file:
                file.writelines(json.dumps({"step": self.step} | one) + "\n" for one in refused)

    @override
    def keep(self, module: Distillation) -> None:
        keep_copy(module, self.folder / STUDENTS / f"step-{self.step:06d}")


def figures(metrics: Mapping[str, float]) -> str:
    """The figures that are worth watching, on one line."""
    found = [(label, metrics[name]) for name, label in SHOWN.items() if name in metrics]
    return "  ".join(f"{label} {value:.4g}" for label, value in found)


def rollout_table(
    rollout: Rollout, scores: TeacherScores, module: Distillation
) -> dict[str, list[Any]]:
    """The first rows of a rollout with what student and teacher say of every token."""
    tokenizer = module.subject.tokenizer
    texts = decode(rollout, tokenizer)
    columns: dict[str, list[Any]] = {}
    for row, text in list(enumerate(texts))[:TABLE_ROWS]:
        mine = rollout.row == row
        prompt = rollout.tokens[row, : rollout.prompt_lengths[row]].tolist()
        cells: dict[str, Any] = {
            "prompt": tokenizer.decode(
                prompt, skip_special_tokens=True, clean_up_tokenization_spaces=False
            ),
            "response": text,
            "ended": bool(rollout.ended[row]),
            "tokens": tokenizer.convert_ids_to_tokens(rollout.token[mine].tolist()),
            "student_log_prob": rounded(rollout.log_prob[mine]),
            "teacher_log_prob": rounded(scores.log_prob[mine]),
            "student_entropy": rounded(rollout.entropy[mine]),
            "fidelity": rounded(scores.fidelity[mine]),
            "candidates": [
                dict(zip(tokenizer.convert_ids_to_tokens(ids), rounded(confidence), strict=True))
                for ids, confidence in asked(rollout, scores, mine)
            ],
        }
        for name, value in cells.items():
            columns.setdefault(name, []).append(value)
    return columns


def asked(
    rollout: Rollout, scores: TeacherScores, mine: Bool[Tensor, "T"]
) -> Iterator[tuple[list[int], Float[Tensor, "k"]]]:
    """Candidates of each token of a row with the confidence they induce; none where none were asked."""
    known = scores.confidence[mine].isfinite()
    ids = rollout.candidates[mine][:, : known.shape[1]]
    for row, found in enumerate(known):
        yield ids[row][found].tolist(), scores.confidence[mine][row][found]


def rounded(values: Any) -> list[float | str | None]:
    """Numbers short enough to read; NaN (nothing there) as null, infinity in words: JSON has neither."""
    return [
        None if math.isnan(v) else round(v, 4) if math.isfinite(v) else str(v)
        for v in values.tolist()
    ]


def keep_copy(module: Distillation, folder: Path) -> None:
    """Save the student as it is now; the folder is whole or not there.

    Raises:
        NonFiniteError: its weights are not finite.
    """
    module.refuse_non_finite()
    with whole_folder(folder) as partial:
        module.save(partial)
        module.subject.tokenizer.save_pretrained(partial)
