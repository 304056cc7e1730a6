"""Files to begin with: an experiment, or a package with a plugin and its test."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from string import Template

from opdlab.errors import ConfigError

FOLDER = Path(__file__).parent.parent / "templates"
PLUGINS = ("method", "evaluator", "rollout")
_NO_TEXT = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def begin_experiment(name: str, folder: Path) -> Path:
    """Write `NAME.yaml`; returns its path.

    Raises:
        ConfigError: the name cannot be one, or the file is there.
    """
    return _written(FOLDER / "experiment.yaml", folder / f"{_checked(name)}.yaml", {"name": name})


def begin_plugin(kind: str, name: str, folder: Path) -> Path:
    """Write a package with a plugin of one of `PLUGINS`; returns its folder.

    Raises:
        ConfigError: the name cannot be one, or is taken, or the folder is there.
    """
    plain = _checked(name).replace("-", "_")
    package, module = f"opdlab-{plain.replace('_', '-')}", f"opdlab_{plain}"
    if plain in entry_points(group=f"opdlab.{kind}s").names or find_spec(module) is not None:
        raise ConfigError(f"{kind} {plain!r} is installed already ({module}); take another name")
    values = {"name": plain, "package": package, "module": module, "class": _class(kind, plain)}
    place = folder / package
    if place.exists():
        raise ConfigError(f"{place} is there already; take another name, or move it away")
    source = FOLDER / kind
    for file in sorted(source.rglob("*.*")):
        named = file.relative_to(source).as_posix().replace("pyproject.txt", "pyproject.toml")
        named = named.replace("module.txt", f"{values['module']}.py")
        _written(file, place / named, values)
    return place


def _class(kind: str, plain: str) -> str:
    """Name of a plugin's class: none that its file uses for something else."""
    name = "".join(part.capitalize() for part in plain.split("_"))
    used = re.findall(r"\w+", (FOLDER / kind / "module.txt").read_text(encoding="utf-8"))
    return f"{name}{kind.capitalize()}" if name in used else name


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a name: take small letters, digits, and - or _ between them"
        )
    if name in _NO_TEXT:
        raise ConfigError(f"{name!r} cannot be a name: in YAML it is not a text; take another")
    return name


def _written(template: Path, to: Path, values: dict[str, str]) -> Path:
    text = Template(template.read_text(encoding="utf-8")).safe_substitute(values)
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{to} is there already; take another name, or move it away") from None
    return to
