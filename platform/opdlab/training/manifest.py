"""What a run was made with: code, environment, models, seeds."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import opdlab
from opdlab.errors import ResumeError

PACKAGES = (
    "opdlab",
    "torch",
    "transformers",
    "lightning",
    "mlflow",
    "datasets",
    "evaluate",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Versions, machine and devices."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": packages,
    }


def code_version() -> dict[str, Any]:
    """The package's version, and the commit where it runs from a git checkout."""
    found: dict[str, Any] = {"version": opdlab.__version__, "commit": None, "changed": None}
    folder = Path(opdlab.__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        tracked = subprocess.run([*git, "ls-files", "__init__.py"], capture_output=True, text=True)
        if not tracked.stdout.strip():
            return found
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except FileNotFoundError:  # no git on this machine
        return found
    return found | {"commit": head.stdout.strip(), "changed": bool(status.stdout.strip())}


def write(folder: Path, content: dict[str, Any]) -> Path:
    """Store a manifest in a run's folder."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def check_same_teacher(folder: Path, teachers: list[dict[str, Any]]) -> None:
    """Refuse to go on with other teachers than the run began with.

    Args:
        teachers: manifests of the general teacher and of the specialists in their order.

    Raises:
        ResumeError: naming what differs.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return
    content = json.loads(path.read_text())
    known = [content["teacher"], *content.get("specialists", [])]
    if len(known) != len(teachers):
        raise ResumeError(
            f"{folder}: this run began with {len(known)} teachers, and now there are {len(teachers)}. Put "
            "them back, or start a new run without --resume"
        )
    for before, teacher in zip(known, teachers, strict=True):
        differing = [
            key
            for key in ("weights_sha256", "vocabulary_sha256")
            if before.get(key) != teacher.get(key)
        ]
        if differing:
            raise ResumeError(
                f"{folder}: the teacher changed since this run began ({', '.join(differing)}; then "
                f"{before.get('name')}, now {teacher.get('name')}). Put the old one back, or start a new "
                "run without --resume"
            )


def check_same_prompts(folder: Path, prompts: dict[str, Any]) -> None:
    """Refuse to go on with other prompts than the run began with.

    Raises:
        ResumeError: their contents differ.
    """
    path = folder / "manifest.json"
    known = json.loads(path.read_text()).get("prompts") if path.exists() else None
    if known is None or known["sha256"] == prompts["sha256"]:
        return
    raise ResumeError(
        f"{folder}: the prompts changed since this run began (then {_counted(known)}, now "
        f"{_counted(prompts)}). Put the old ones back, or start a new run without --resume"
    )


def _counted(prompts: dict[str, Any]) -> str:
    count = "" if prompts["count"] is None else f"{prompts['count']} rows, "
    return f"{count}hash {prompts['sha256'][:16]}"
