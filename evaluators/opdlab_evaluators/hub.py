"""A benchmark's data set on the Hugging Face hub: one commit, from there or from the hub's cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from opdlab.errors import MissingDataError
from opdlab_evaluators.first_use import remembered

TIMEOUT_S = 10


def download(
    benchmark: str, repository: str, patterns: Sequence[str] | None, revision: str | None
) -> tuple[str, Path]:
    """Commit and local folder of the data set.

    Without a revision it is the commit that was used first here, else the newest. Where the hub is out of
    reach, what its cache holds of that revision is taken (`hf download` on a machine with a network).

    Args:
        patterns: globs of the files to fetch; None for all.

    Raises:
        MissingDataError: neither the hub nor the cache has it.
    """
    known = remembered(benchmark, f"hub:{repository}")
    wanted = revision or (known.revision if known else None)
    try:
        folder = _snapshot(repository, patterns, wanted)
    except Exception as error:
        # Any: the client raises what its HTTP library does, too.
        raise MissingDataError(
            f"{benchmark}: no local copy, and {repository} was not fetched from the hub "
            f"({_first_line(error)})"
        ) from error
    return folder.name, folder


def _snapshot(repository: str, patterns: Sequence[str] | None, revision: str | None) -> Path:
    """The folder that is named by the commit of a revision; the client notes which commit it stood for."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        repository,
        repo_type="dataset",
        revision=revision,
        allow_patterns=None if patterns is None else list(patterns),
        etag_timeout=TIMEOUT_S,
    )
    return Path(folder)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
