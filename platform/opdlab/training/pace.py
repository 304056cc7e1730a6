"""What every rank does around a training step: its figures, checkpoints, and stopping with the others."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from contextlib import nullcontext
from pathlib import Path
from threading import Event
from typing import Any, final

import lightning as L
from typing_extensions import override

from opdlab.console import Stopped, StopRequest
from opdlab.errors import OtherDrawsError
from opdlab.identity import EXECUTION
from opdlab.peers import failing_together
from opdlab.training import evaluating, ranks
from opdlab.training.checkpoint import LAST
from opdlab.training.module import Distillation

LOG = logging.getLogger("opdlab")


class Pace(L.Callback, ABC):
    """Around each optimizer step of one rank; what one rank is told, all of them do together."""

    def __init__(self, folder: Path, stop: StopRequest) -> None:
        self.folder = folder
        self.stop = stop
        self.step = self.saved = self.began = self.final = 0
        self.enough = False
        """Whether training is to end after this step for what was seen in it."""
        self.over = Event()
        """Set when the training has ended, however."""

    @abstractmethod
    def record(self, module: Distillation, metrics: dict[str, float]) -> None:
        """Take note of an optimizer step."""

    def keep(self, module: Distillation) -> None:
        """Save a copy of the student."""

    def due(self, every: int) -> bool:
        """Whether something that is done every so many steps, but for the last, is to be done now."""
        return bool(every) and self.step % every == 0 and self.step < self.final

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # By now Lightning has put its own handlers in place, which end a fit after any step.
        self.stop.listen()
        ranks.give_time(self.over)
        self.step = self.saved = self.began = trainer.global_step
        assert isinstance(pl_module, Distillation)
        self.final = pl_module.config.training.steps

    @override
    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, Distillation)
        self.step = trainer.global_step
        metrics = pl_module.step_record()
        evaluates = self.due(pl_module.config.evaluation.every) and pl_module.whole
        if evaluates:
            # Whoever is stopped in an evaluation goes on with it: what another process trains again may
            # be another student.
            pl_module.unrecorded = metrics
            self.saved = self.step
            trainer.save_checkpoint(checkpoint_path(self.folder))
        self.after_step(pl_module, metrics)
        if not pl_module.whole:
            return  # a checkpoint now would lose the epochs that a rollout still has
        signum = ranks.agreed(trainer, self.stop.signum or 0)
        every = pl_module.config.training.checkpoint_every
        # With the evaluation done: else whoever goes on would take note of it again.
        if signum or evaluates or self.step // every > self.saved // every:
            self.saved = self.step
            trainer.save_checkpoint(checkpoint_path(self.folder))
        if signum:
            raise Stopped(signum)
        if ranks.agreed(trainer, self.enough):
            trainer.should_stop = True

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate where the process before this one was stopped while it did; end where that is enough."""
        assert isinstance(pl_module, Distillation)
        if pl_module.unrecorded is not None:
            self.after_step(pl_module, pl_module.unrecorded)
        if self.step == self.began and ranks.agreed(trainer, self.enough):
            trainer.should_stop = pl_module.ended = True

    def after_step(self, module: Distillation, metrics: dict[str, float]) -> None:
        """Take note of the step; evaluate, and keep a copy, where that is due."""
        evaluates = self.due(module.config.evaluation.every)
        with module.whole_student() if evaluates else nullcontext():
            self.record(module, metrics)
        module.unrecorded = None
        if self.due(module.config.training.keep_every):
            with failing_together():
                module.refuse_non_finite()
            with module.averaged():
                module.exported = module.weights.exported()
                self.keep(module)
            module.exported = None

    @override
    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Keep the steps until here where a signal came while a server was waited for: none is half done.

        Of several processes the others may be elsewhere; they go on from the checkpoint before.
        """
        assert isinstance(pl_module, Distillation)
        if isinstance(exception, OtherDrawsError) and not exception.proven:
            self._tell_unproven()
        waiting = isinstance(exception, Stopped) and pl_module.collecting
        if waiting and trainer.world_size == 1 and self.step > self.saved:
            trainer.save_checkpoint(checkpoint_path(self.folder))
            self.saved = self.step

    def _tell_unproven(self) -> None:
        """Say which steps used answers of a server that was seen to draw otherwise than asked."""
        path = checkpoint_path(self.folder)
        if self.step > self.began:
            LOG.warning(
                "steps %d to %d were trained on answers that the server may have drawn so as well; %s",
                self.began + 1,
                self.step,
                f"so was the checkpoint of step {self.saved}: remove {path} to train from the beginning"
                if self.saved > self.began
                else "--resume trains them again",
            )
        if self.began:
            LOG.warning(
                "an earlier process trained to step %d. If it had the same server, its steps may hold such "
                "answers too: if in doubt, remove %s to train from the beginning",
                self.began,
                path,
            )
        trained = [one.parent for one in sorted(self.folder.parent.glob(f"*/{EXECUTION}"))]
        if others := [one.name for one in trained if one != self.folder]:
            LOG.warning(
                "what was trained here before (%s) may hold such answers if it had the same server: if "
                "in doubt, train it again in a new run",
                ", ".join(others),
            )


@final
class Follow(Pace):
    """A follower's: the leader has the records."""

    @override
    def record(self, module: Distillation, metrics: dict[str, float]) -> None:
        if self.due(module.config.evaluation.every):
            evaluating.follow(module.config, lambda _: nullcontext(module.subject), self.stop.check)


def checkpoint_path(folder: Path) -> Path:
    """Where a run keeps its newest checkpoint."""
    return folder / "checkpoints" / LAST
