"""What comes with the package: experiments, found by name, and the documentation."""

from __future__ import annotations

import difflib
from pathlib import Path

from opdlab.errors import ConfigError

SUFFIX = ".yaml"


def folder(what: str = "experiments") -> Path:
    """Folder of the shipped `experiments` or `docs`: inside an installed package, or of the repository."""
    package = Path(__file__).parent.parent
    installed = package / what
    return installed if installed.is_dir() else package.parents[1] / what


def experiments() -> dict[str, Path]:
    """Every shipped experiment by name (`quickstart`, `paper/lgr`), sorted."""
    root = folder()
    found = {
        file.relative_to(root).with_suffix("").as_posix(): file for file in root.rglob(f"*{SUFFIX}")
    }
    return dict(sorted(found.items()))


def maker(model: Path) -> str | None:
    """The shipped pretraining that makes the model of a folder `.../NAME/model`, by its own `name`."""
    import yaml

    for name, file in experiments().items() if model.name == "model" else ():
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
        if told.get("kind") == "pretrain" and told["name"] == model.parent.name:
            return name
    return None


def find(name_or_path: str) -> Path:
    """The file that a path or the name of a shipped experiment stands for.

    Raises:
        ConfigError: neither; the message lists the shipped names.
    """
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    known = experiments()
    name = name_or_path.removesuffix(SUFFIX)
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    listed = "".join(f"\n  {one}" for one in known)
    raise ConfigError(
        f"{name_or_path}: no such file, and no shipped experiment has this name.{hint}\n"
        f"Shipped experiments:{listed}"
    )
