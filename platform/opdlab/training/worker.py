"""One training of an experiment in a process of its own, for `opdlab train --workers`.

Run as `python -m opdlab.training.worker CONFIG FOLDER NAME CARDS`: the experiment's configuration as it is
now, the folder of its execution, the name of the training, and its cards ("" for what there is). Started
again it goes on from its last checkpoint. Exit codes: 0 done; 128 + signal stopped or killed; 65 with the
reason as the last line of its log.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from opdlab.configuration import loader, repeats
from opdlab.console import StopRequest
from opdlab.modelling import models
from opdlab.tracking import mlflow_store
from opdlab.training.group import Group
from opdlab.training.processes import obey
from opdlab.training.ranks import rank
from opdlab.training.run import Session, follow_group, train_one


def work(settings: Path, folder: Path, name: str) -> None:
    """Train the run `name` of the execution in `folder`, or take part where another process leads."""
    config = loader.load_experiment(settings)
    models.use_threads(config.training.threads)
    group = Group(folder)
    (one,) = (one for one in repeats(loader.variants(config)) if one.name == name)
    if rank(one.config.training):
        follow_group(group, [one])
        return
    client, experiment = mlflow_store.open_experiment(
        Path(config.output), config.tracking.uri, config.tracking.experiment
    )
    with StopRequest() as stop:
        session = Session(group, client, experiment, group.state()["parent"], stop)
        train_one(session, name, one.config)


def main() -> None:
    """Entry of the process."""
    settings, folder, name, visible = sys.argv[1:]
    obey(visible, partial(work, Path(settings), Path(folder), name))


if __name__ == "__main__":
    main()
