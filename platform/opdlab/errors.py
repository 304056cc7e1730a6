"""Every error that opdlab raises on purpose: each says what was wrong, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any


class OpdlabError(Exception):
    """Base of all errors whose message is meant for the person at the keyboard."""


class ConfigError(OpdlabError, ValueError):
    """An experiment file cannot be used; the message lists every fault with file, line and key."""


class ModelError(OpdlabError, ValueError):
    """A model or tokenizer cannot be loaded, or a teacher and a student do not fit together."""


class OutOfReachError(ModelError):
    """A model is not here yet: of the hub, which cannot be asked, or of a pretraining that was not run."""


class PluginError(OpdlabError, LookupError):
    """A plugin is missing, cannot be imported, or breaks the contract of its kind."""


class DataError(OpdlabError, ValueError):
    """Prompts or benchmark problems are missing or malformed."""


class UnfitError(DataError):
    """A prompt or an answer that models cannot take: why not, and what to do."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(f"{why}; {remedy}")
        self.why = why


class DamagedError(DataError):
    """A file that opdlab wrote is not as it was written; the message names it and says what to do."""


class MissingDataError(DataError):
    """A benchmark's data are not here and cannot be fetched; the message says what to put where."""


class UngradedError(DataError):
    """Samples have no verdict, since a grader failed or a server refused them, so a score is not known."""


class NonFiniteError(OpdlabError, ArithmeticError):
    """A loss or a teacher score is NaN or infinite; the message names row and position."""


class TrackingError(OpdlabError, ConnectionError):
    """The MLflow server cannot be reached before training starts."""


class ServerError(OpdlabError, ConnectionError):
    """A model's server cannot be reached, refuses a request, or does not give what is needed."""


class AwayError(ServerError):
    """A model's server does not answer, or works for somebody else: the same work may succeed later."""


class OtherWeightsError(ServerError):
    """A model's server was seen to have other weights than before: what came since is not the model's."""


class OtherDrawsError(ServerError):
    """A model's server was seen to draw otherwise than it was asked to.

    Attributes:
        proven: whether enough was seen of it before, and drawn as asked; else all may have been drawn so.
        how: server, temperature and top-p, as `Received.mark` notes them.
    """

    def __init__(self, said: str, proven: bool = False, how: str = "") -> None:
        super().__init__(said)
        self.proven, self.how = proven, how


class UnservedError(ServerError):
    """A server has no such model or path any more, or answers unlike it: another may be in its place."""


class RefusedError(ServerError):
    """A server gave some requests no answer that can be used; all others were answered and handed over.

    Attributes:
        rows: why, by the place of the request.
        count: requests in all.
        refused: those that got no answer; of one row there may be several.
        ended: whether the rest was not asked, since none was answered.
        part: of a row, if not all of it was asked, such as `a candidate of `.
        answered: the rollout of the other rows, where there is one.
        unusable: whether some were answered, by what cannot be used: as by another model.
    """

    def __init__(
        self,
        rows: Mapping[int, str],
        count: int,
        named: str = "",
        ended: bool = False,
        part: str = "",
        refused: int | None = None,
        answered: Any = None,
        unusable: bool = False,
    ) -> None:
        self.unusable = unusable
        self.rows, self.count, self.ended = dict(sorted(rows.items())), count, ended
        self.part, self.answered = part, answered
        self.refused = len(rows) if refused is None else refused
        first, why = next(iter(self.rows.items()))
        many = self.refused - 1
        others = f", and {many} other{'s' * (many > 1)} likewise" if many else ""
        rest = (
            "no more were asked"
            if ended
            else "the others were answered"
            if self.refused < count
            else "none was answered"
        )
        super().__init__(
            f"{self.refused} of {count} requests got no answer that can be used: "
            f"{part}{named or f'row {first}'}: {why}{others}; {rest}"
        )

    @property
    def of_all(self) -> dict[int, str]:
        """Why each request got no answer, where none did: those that were not asked as well."""
        why = next(iter(self.rows.values()))
        return {
            row: self.rows.get(row, f"not asked for; another was refused: {why}")
            for row in range(self.count)
        }

    def told_as(self, **changes: Any) -> RefusedError:
        """The same refusals by other rows or in other words; see `__init__`."""
        kept = ("rows", "count", "ended", "part", "refused", "answered", "unusable")
        return RefusedError(**{**{name: getattr(self, name) for name in kept}, **changes})


@contextmanager
def naming_requests(name: Callable[[int], str]) -> Iterator[None]:
    """Say of requests that a server refused what the first of them asks, by its row."""
    try:
        yield
    except RefusedError as error:
        raise error.told_as(named=name(next(iter(error.rows)))) from error


class StorageError(OpdlabError, OSError):
    """A checkpoint or a result could not be written; what was there before is still whole."""


class OutOfRoomError(OpdlabError, MemoryError):
    """A device's memory did not suffice.

    Attributes:
        phase: sampling, scoring, updating or stepping.
        said: by whoever could not get it.
    """

    def __init__(self, phase: str, said: str) -> None:
        super().__init__(f"the memory did not suffice while {phase}: {said}")
        self.phase, self.said = phase, said


class PeerError(OpdlabError, RuntimeError):
    """Another of the processes that train together failed; the message has its number and its reason."""


_NO_MEMORY = re.compile(
    r"out of memory|(can't|cannot) allocate memory|not enough memory", re.IGNORECASE
)


watching: list[Callable[[str], AbstractContextManager[None]]] = []
"""Entered around each phase of a step, by name: for what measures phases."""


@contextmanager
def needing_room(phase: str) -> Iterator[None]:
    """Say in which phase of a step the memory did not suffice.

    torch has a class of errors for the memory of accelerators only; its allocator for the host raises
    RuntimeError.

    Raises:
        OutOfRoomError: the memory of the device or of the host did not suffice.
        RuntimeError: any other one, unchanged.
    """  # noqa: DOC501  # a MemoryError is always turned into an OutOfRoomError
    try:
        with ExitStack() as around:
            for watch in watching:
                around.enter_context(watch(phase))
            yield
    except OutOfRoomError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise OutOfRoomError(phase, said) from error


def of_the_disk(error: OSError) -> str:
    """What to say of a file that the system refuses."""
    name = error.filename2 or error.filename
    return (
        f"{f'{name} cannot be used: ' if name else ''}{error.strerror}. What was written before is whole: "
        "make room, give the rights or put the file right, and run the same command again"
    )


@contextmanager
def writing_to(place: Path, option: str = "--to") -> Iterator[None]:
    """Say in words where a file or folder that the user named cannot be written; raises StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{error.filename2 or error.filename or place} cannot be written ({error.strerror or error}); "
            f"name another place with {option}"
        ) from error


class WorkersError(OpdlabError, RuntimeError):
    """Of several trainings side by side some failed, and all others are done.

    Attributes:
        faults: why, by the name of the run.
    """

    def __init__(self, faults: Mapping[str, str], count: int) -> None:
        self.faults = dict(faults)
        each = "".join(f"\n  {name}: {why}" for name, why in self.faults.items())
        super().__init__(
            f"{len(self.faults)} of {count} runs failed, and the others are done; --resume continues those "
            f"that failed:{each}"
        )


class ResumeError(OpdlabError, RuntimeError):
    """A run cannot go on: no checkpoint, or the teacher or the configuration changed."""


class Terminated(SystemExit):
    """A signal ends the process, wherever it is; foreign code that calls `sys.exit` raises another."""
