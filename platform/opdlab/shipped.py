"""The experiments that come with the package, found by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from opdlab.errors import ConfigError

SUFFIX = ".yaml"


def folder() -> Path:
    """Folder of the shipped experiments: inside an installed package, or of the repository."""
    package = Path(__file__).parent
    installed = package / "experiments"
    return installed if installed.is_dir() else package.parents[1] / "experiments"


def experiments() -> dict[str, Path]:
    """Every shipped experiment by name (`quickstart`, `paper/lgr`), sorted."""
    root = folder()
    found = {
        file.relative_to(root).with_suffix("").as_posix(): file for file in root.rglob(f"*{SUFFIX}")
    }
    return dict(sorted(found.items()))


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
