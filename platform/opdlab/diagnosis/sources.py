"""Which models a diagnosis looks at: those of an experiment, of a run before, during and after training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from opdlab.configuration import Experiment, Model, Teacher, loader
from opdlab.console import END, YELLOW, console
from opdlab.errors import ConfigError
from opdlab.evaluation import short_names
from opdlab.files import damaged, is_there, natural, unfinished
from opdlab.identity import EXECUTION, Execution
from opdlab.tracking import flatten
from opdlab.training import CONFIG, STATE, STUDENTS, Group


def what_to_look_at(
    asked: str | Experiment, overrides: list[str], students: Sequence[str], teacher: str | None
) -> tuple[Experiment, list[tuple[str, Model]]]:
    """The experiment, and students by name in the order of their training.

    Raises:
        ConfigError: no benchmarks to take problems from, or a folder of several runs.
    """
    loaded = isinstance(asked, Experiment)
    name = asked.name if loaded else asked
    folder = Path(name)
    is_run = not loaded and (folder / CONFIG).is_file()
    if not loaded and (folder / STATE).is_file() and not students:
        runs = ", ".join(str(folder / run) for run in Group(folder).state()["runs"])
        raise ConfigError(f"{name} is not a run, but the folder of several; name one: {runs}")
    # Nothing is trained: what single runs would be refused for, such as a temperature, is no matter here.
    alone = [] if is_run else ["runs=[]"]
    if loaded:
        config = asked.model_copy(update={"runs": []})
    else:
        config = loader.load_experiment(folder / CONFIG if is_run else name, [*overrides, *alone])
    if is_run:
        require_own_settings(folder)
    if teacher is not None:
        config = config.model_copy(
            update={"teacher": Teacher(path=teacher, dtype=config.teacher.dtype)}
        )
    if not config.evaluation.benchmarks:
        raise ConfigError(
            f"{name}: evaluation.benchmarks is empty, so there are no problems that an answer can be "
            "graded on; add one, such as 'evaluation.benchmarks=[{type: math}]'"
        )
    during = [str(path) for path in trained(folder)] if is_run else []
    if is_run and not students and (why := unfinished(folder)):
        console.print(f"{YELLOW}{why}{END}; until then what is there is looked at", soft_wrap=True)
    chosen = {path: source(path, config) for path in [*students] or during}
    before = {} if students else {config.student.path: config.student}
    names = short_names([*before, *chosen])
    return config, [(names[path], one) for path, one in {**before, **chosen}.items()]


def require_own_settings(run: Path) -> None:
    """Refuse a run whose configuration is not the one that its training was begun with.

    Raises:
        DataError: its configuration or its record is damaged.
    """
    if not is_there(run / EXECUTION):
        return
    began = dict(flatten(Execution.read(run).settings))
    now = dict(flatten(loader.load_experiment(run / CONFIG).model_dump(mode="json")))
    # Runs may be moved, and a later version may have other keys.
    common = (began.keys() & now.keys()) - {"output"}
    if odd := sorted(key for key in common if began[key] != now[key]):
        why = f"{EXECUTION} beside it has other values of {', '.join(odd)}"
        raise damaged(run / CONFIG, why, "restore both from a copy")


def trained(run: Path) -> Iterator[Path]:
    """Copies of a run's student kept during training, and the last one."""
    yield from sorted((run / STUDENTS).glob("step-*"), key=natural)
    if (run / "model").is_dir():
        yield run


def source(path: str, config: Experiment) -> Model:
    """The model at a path, which may be the folder of a run."""
    inside = Path(path) / "model"
    return Model(path=str(inside) if inside.is_dir() else path, dtype=config.student.dtype)
