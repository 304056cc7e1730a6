"""Memory that work takes beyond what was held before: of a fresh process, or of a CUDA device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from opdlab.errors import OpdlabError


def in_fresh_process(module: str, order: Any) -> Any:
    """What `python -m module ORDER` prints last, as JSON; the order is JSON, too.

    Raises:
        OpdlabError: that process failed; the message is its own.
    """
    command = [sys.executable, "-m", module, json.dumps(order)]
    # Freed tensors go back to the system at once, so that none hides in the next one's starting point.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise OpdlabError(f"a process that measures memory ended so: {done.stderr[-800:]}")
    return json.loads(done.stdout.splitlines()[-1])


def rise(run: Callable[[], Any], device: str) -> int:
    """Bytes that were held at a time beyond those held before."""
    before = begin(device)
    run()
    return highest(device) - before


def begin(device: torch.device | str) -> int:
    """Forget what was held before; bytes that are held now."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    # Linux forgets the highest mark of this process.
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def highest(device: torch.device | str) -> int:
    """Bytes that were held at a time since `begin`; off an accelerator, all of the process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024
