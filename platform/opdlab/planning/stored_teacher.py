"""What a teacher that is on disk, or behind a service, leaves free, and what it still holds here."""

from __future__ import annotations

from pathlib import Path

from opdlab.configuration import Experiment, stored
from opdlab.modelling import DTYPES
from opdlab.planning.footprint import footprint

FREED = "teacher weights that are not loaded"


def head_bytes(run: Experiment) -> int:
    """Of the vocabulary projection that hidden states of a store, or from a service, need."""
    if run.teacher.server is not None and tells_states(run):
        size, dtype = footprint(run.teacher), DTYPES[run.teacher.dtype]
        return size.width * size.vocabulary * dtype.itemsize
    folder = run.teacher.scores
    manifest = None if folder is None else stored(folder)
    if folder is None or manifest is None:
        return 0
    head = Path(folder).expanduser() / "teacher" / "head.safetensors"
    return head.stat().st_size if head.is_file() else 0


def tells_states(run: Experiment) -> bool:
    """Whether whole distributions come as hidden states, of a store or from a service."""
    server = run.teacher.server
    if server is not None:
        return server.type == "opdlab" and run.method.needs.support == "full"
    manifest = None if run.teacher.scores is None else stored(run.teacher.scores)
    return manifest is not None and manifest.kind_of.name == "hidden"


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
