"""What tests need of the machine they run on.

Where it is missing a test skips and says what to do about it. Where `CI` is set it fails instead, so that a
machine that is there to test never leaves out the sandbox, the pages or the servers unnoticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from opdlab.errors import OutOfReachError
from opdlab.modelling import place_of
from opdlab.plugins import registry as plugins
from opdlab_evaluators.data.source import find_local

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def missing(what: str, remedy: str) -> NoReturn:
    """Skip the test, or fail it where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}: {remedy}. Without CI in the environment such tests are skipped")
    pytest.skip(f"{what}: {remedy}")


def need_chromium() -> str:
    """The browser's path."""
    if CHROMIUM is None:
        missing("Chromium is not installed", "apt install chromium")
    return CHROMIUM


SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def need_smollm2() -> str:
    """The path of a real language model."""
    try:
        place_of(SMOLLM2, None)
    except OutOfReachError:
        missing(f"{SMOLLM2} is not here", f"opdlab fetch {SMOLLM2}")
    return SMOLLM2


def need_sandbox() -> None:
    """A sandbox can be made here."""
    if found := no_sandbox():
        missing(*found)


@cache
def no_sandbox() -> tuple[str, str] | None:
    """Why there is none, and the remedy: asked of bubblewrap itself, so that a broken one of ours fails."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed", "apt install bubblewrap"
    command = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return None
    return (
        f"bubblewrap is refused ({tried.stderr.strip()})",
        "allow user namespaces (INSTALL in opdlab_evaluators/sandbox/refusal.py says how)",
    )


def no_data(file: str) -> NoReturn:
    """Skip the test: data that may not be copied into this repository are no fault of a machine."""
    pytest.skip(f"no {file}: put it into a folder and name that by OPDLAB_DATA")


def of_own_data(title: str, file: str, base: type, **members: object) -> type:
    """Tests on the real file of a benchmark; one test alone, which skips, where it is not at hand."""
    if find_local(plugins.load(plugins.EVALUATORS, file)().source, None) is not None:
        return type(title, (base,), members)
    return type(title, (), {"test_real_data": staticmethod(lambda: no_data(f"{file}.jsonl"))})


def own_data(files: Mapping[str, Path | None]) -> dict[str, Path]:
    """The real files of benchmarks that are at hand; the test is skipped where none is."""
    found = {name: path for name, path in files.items() if path is not None}
    if not found:
        no_data(f"{next(iter(files))}.jsonl")
    return found
