"""What a run was made with beside models and data: code and environment."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import opdlab

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
