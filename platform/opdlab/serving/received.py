"""Answers of a server as they come, on disk before anything is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, final

from opdlab.errors import StorageError, of_the_disk
from opdlab.files import write_whole

Kind = TypeVar("Kind")
RECEIVED = "received.jsonl"
"""Name of their file, beside the samples that they become."""
UNPROVEN = "unproven"
"""Name of a file beside samples of a server that was not seen to draw as asked: a line says which, and how;
where they are being withdrawn, the next says why."""


@final
class Received:
    """A line for each answer, so that whoever is stopped or killed before it is checked finds it again.

    They are not yet seen to be the model's: whoever takes them from here checks them first.
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        """Nothing is written yet.

        Args:
            keys: what each row asks for, by which a later process finds its answer.
        """
        self.path, self.keys = path, keys
        self._open: set[str] = set()
        """Keys of answers that are in the file and nowhere else."""

    def only(self, rows: Sequence[int]) -> Received:
        """The same file for some of the rows."""
        some = Received(self.path, [self.keys[row] for row in rows])
        some._open = self._open
        return some

    def known(self, read: Callable[[Mapping[str, Any]], Kind] = dict) -> dict[int, Kind]:
        """What was answered before, by row.

        A line that a crash cut short is left out, and what another version wrote.

        Args:
            read: makes an answer of what was kept; raises ValueError, TypeError or LookupError where it is
                none.
        """
        found: dict[str, Any] = {}
        with suppress(FileNotFoundError):
            for line in self.path.read_bytes().split(b"\n"):
                with suppress(ValueError, TypeError, LookupError):
                    told = json.loads(line)
                    found[told["of"]] = told["answer"]
        self._open |= {key for key, answer in found.items() if answer is not None}
        rows, answers = {key: row for row, key in enumerate(self.keys)}, dict[int, Kind]()
        for key, answer in found.items():
            if key in rows and answer:
                with suppress(ValueError, TypeError, LookupError):
                    answers[rows[key]] = read(answer)
        return answers

    def add(self, row: int, answer: Mapping[str, Any]) -> None:
        """Keep an answer; raises StorageError where the disk takes none."""
        self._write([row], answer)
        self._open.add(self.keys[row])

    def forget(self, rows: Sequence[int]) -> None:
        """Answers that are not the model's."""
        self._write([row for row in rows if self.keys[row] in self._open], None)
        self.settled(self.keys[row] for row in rows)

    def mark(self, how: str, reason: str = "") -> None:
        """Note that the samples may have to be withdrawn, by a later process too.

        Args:
            how: server, temperature and top-p.
            reason: why they have to be; empty while nothing is known.

        Raises:
            StorageError: the disk does not take it.
        """
        mark = self.path.with_name(UNPROVEN)
        with _on_the_disk():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Another process of the same evaluation may have seen more.
            if reason or not (mark.exists() and mark.read_text().partition("\n")[2]):
                write_whole(mark, f"{how}\n{reason}")

    def unmark(self) -> None:
        """Note that they were drawn as asked; raises as `mark`."""
        with _on_the_disk():
            self.path.with_name(UNPROVEN).unlink(missing_ok=True)

    def settled(self, keys: Iterable[str]) -> None:
        """Answers that are stored elsewhere by now; with the last of them the file goes."""
        self._open.difference_update(keys)
        if not self._open:
            self.path.unlink(missing_ok=True)

    def _write(self, rows: Sequence[int], answer: Mapping[str, Any] | None) -> None:
        if rows:
            lines = [json.dumps({"of": self.keys[row], "answer": answer}) for row in rows]
            with _on_the_disk():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # Begun by an end of line: what a crash cut short swallows nothing.
                with self.path.open("a") as file:
                    file.write("".join(f"\n{line}" for line in lines))


@contextmanager
def _on_the_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(of_the_disk(error)) from error
