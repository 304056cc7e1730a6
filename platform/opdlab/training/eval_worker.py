"""A share of an evaluation in a process of its own, for `opdlab eval --workers`.

Run as `python -m opdlab.training.eval_worker CONFIG MODEL RANK SIZE CARDS`: the configuration as it is now,
the model that is measured, which share of how many, and its cards ("" for what there is). Exit codes are
those of `opdlab.training.worker`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from opdlab.configuration import loader
from opdlab.evaluation import Share, draw_share
from opdlab.modelling import models
from opdlab.training.processes import obey


def work(settings: Path, model: str, share: Share) -> None:
    """Draw a share of the answers of a model."""
    config = loader.load_experiment(settings)
    models.use_threads(config.training.threads)
    draw_share(config, model, share)


def main() -> None:
    """Entry of the process."""
    settings, model, rank, size, visible = sys.argv[1:]
    obey(visible, partial(work, Path(settings), model, Share(int(rank), int(size))))


if __name__ == "__main__":
    main()
