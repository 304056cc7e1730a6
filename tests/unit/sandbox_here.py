"""Whether this machine offers a sandbox: asked of bubblewrap itself, so that a broken one of ours fails."""

import shutil
import subprocess
from functools import cache

import pytest


@cache
def refusal() -> str:
    """Why there is none; empty where namespaces are to be had."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    command = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"bubblewrap is refused: {tried.stderr.strip()}"


def need_sandbox() -> None:
    """Skip the test where there can be no sandbox."""
    if refusal():
        pytest.skip(refusal())
