"""What was found, as a file for a paper or another program."""

from __future__ import annotations

from pathlib import Path

from opdlab.console import BOLD, END, Result, console
from opdlab.errors import writing_to
from opdlab.files import write_beside


def export(result: Result, to: str) -> None:
    """Write a result into a file, whose ending says as what; one that was there is kept beside it.

    Raises:
        DataError: the ending is none of those of `Result.written_as`, or what is there is no file.
    """
    path = Path(to)
    content = result.written_as(path.suffix)
    with writing_to(path):
        older = write_beside(path, content)
    console.print(f"Written to {BOLD}{path}{END}", soft_wrap=True)
    if older:
        console.print(f"The file that was there is kept as {older}", soft_wrap=True)
