"""`opdlab eval --workers`: answers of one model drawn by several processes, on cards of their own."""

from __future__ import annotations

import signal
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from opdlab.configuration import Experiment, loader
from opdlab.console import END, YELLOW, check_stop, console
from opdlab.evaluation import Scores, Share, evaluate_alone
from opdlab.training import cards, eval_worker
from opdlab.training.group import CONFIG
from opdlab.training.processes import STOP_S, Process, Zygote, dismiss, may_fork, starter

POLL_S = 0.1
"""Between two looks at who has ended."""


def evaluate_with_workers(config: Experiment, model: str, workers: int) -> Scores:
    """As `evaluate_alone`, with answers drawn by `workers` processes, of which this one is the first.

    It grades, and draws what a process that failed has not.
    """
    alone = config.training.model_copy(update={"devices": 1, "teacher_device": None})
    places = cards.shared_out(cards.here(alone), workers, None, alone)
    with (
        tempfile.TemporaryDirectory(prefix="opdlab-") as scratch,
        Zygote() if may_fork(alone) else nullcontext() as zygote,
    ):
        settings, start = Path(scratch) / CONFIG, starter(zygote, alone)
        loader.save_resolved(config, settings)
        others: dict[Path, Process] = {}
        for rank, place in enumerate(places[1:], 1):
            log = Path(scratch) / f"{rank}.txt"
            told = [str(settings), model, str(rank), str(workers), place]
            others[log] = start(eval_worker.__name__, told, log, signal.SIGTERM)

        def meet() -> None:
            for log, process in others.items():
                while process.poll() is None:
                    time.sleep(POLL_S)
                    check_stop()
                if process.returncode:
                    console.print(
                        f"{YELLOW}process {log.stem} of the evaluation ended with code "
                        f"{process.returncode}; this process draws the rest of its samples{END}\n"
                        f"{log.read_text(errors='replace').strip()}"
                    )

        try:
            return evaluate_alone(config, model, share=Share(0, workers, meet))
        finally:
            dismiss(others.values(), STOP_S)
