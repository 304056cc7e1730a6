"""What a teacher whose scores are on disk leaves free, and what it still holds."""

from __future__ import annotations

from pathlib import Path

from opdlab.configuration import Experiment, stored
from opdlab.planning.footprint import footprint

FREED = "teacher weights that are not loaded"


def head_bytes(run: Experiment) -> int:
    """Of the vocabulary projection of a stored teacher, which a store of hidden states needs."""
    folder = run.teacher.scores
    manifest = None if folder is None else stored(folder)
    if folder is None or manifest is None:
        return 0
    head = Path(folder).expanduser() / "teacher" / "head.safetensors"
    return head.stat().st_size if head.is_file() else 0


def freed_bytes(run: Experiment) -> int:
    """Of the teacher's weights that no device holds; 0 for a teacher that is loaded."""
    folder = run.teacher.scores
    manifest = None if folder is None else stored(folder)
    if manifest is None:
        return 0
    sizes = {"float32": 4, "bfloat16": 2, "float16": 2}
    parameters = manifest.teacher.get("parameters") or footprint(run.teacher).parameters
    whole = int(parameters) * sizes.get(str(manifest.teacher.get("dtype")), 2)
    return max(0, whole - head_bytes(run))
