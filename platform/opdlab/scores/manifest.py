"""What a store is of: read before anything else of it, and without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from opdlab.errors import DamagedError, DataError
from opdlab.files import built, damaged, is_there, read_json, write_whole
from opdlab.identity import digest
from opdlab.methods import Offers
from opdlab.scores.kinds import Candidates, Kind, offers_of

MANIFEST, TEACHER, SHARDS = "scores.json", "teacher", "shards"
"""Of a store's folder: the manifest, the teacher's shape with its tokenizer, and the answers."""
FORMAT = 2
SAID = ("server_print", "server_version")
"""Of a teacher behind a server, which is known again by likeness: these differ from day to day."""
NAMED = ("name", "revision", "trained_by", "path", "sources")
"""Where something lay whose contents are known by a hash: it may lie elsewhere now."""
HASHES = ("weights_sha256", "sha256")
AGAIN = "score the answers again into an empty folder"


@dataclass(frozen=True)
class Manifest:
    """What a store holds, and by what it was made.

    Attributes:
        id: of this store; every shard names it.
        kind, candidates: what is kept of each token, see `kind_of` and `candidates_of`.
        answers: `from` (given, teacher, student, run), `count` asked for, `keep` (all, correct) with the
            `graders`, and how they were sampled.
        vocabulary: entries that student and teacher share.
        rows: answers a shard, those left out included.
        student_told: whether the log-probabilities of the student that wrote, or read, them are kept.
        teacher, student, prompts: identities by contents.
        wording: how prompts were put to a model.
        files: SHA-256 of each file in the folder `teacher`.
        eos_ids, pad_id: of the student.
    """

    id: str
    begun: str
    kind: Mapping[str, Any]
    candidates: Mapping[str, Any] | None
    answers: Mapping[str, Any]
    vocabulary: int
    rows: int
    student_told: bool
    teacher: Mapping[str, Any]
    student: Mapping[str, Any]
    prompts: Mapping[str, Any]
    wording: str
    eos_ids: list[int]
    pad_id: int
    files: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @cached_property
    def kind_of(self) -> Kind:
        return Kind(**self.kind)

    @cached_property
    def candidates_of(self) -> Candidates | None:
        return None if self.candidates is None else Candidates(**self.candidates)

    @property
    def count(self) -> int:
        """Answers that were asked for."""
        return int(self.answers["count"])

    @property
    def shards(self) -> int:
        return -(-self.count // self.rows)

    @property
    def own_samples(self) -> bool:
        """Whether the answers are draws from the whole distribution of a student that is recorded."""
        told = self.answers
        whole = told.get("temperature") == 1 and told.get("top_p") == 1
        return told["from"] == "student" and told["keep"] == "all" and whole and self.student_told

    @property
    def imitable(self) -> bool:
        """Whether the answers are such as a student is to imitate."""
        told = self.answers
        by_teacher = told["from"] in ("given", "teacher") or told.get("by_teacher")
        return bool(by_teacher) or told["keep"] == "correct"

    def offers(self, where: str) -> Offers:
        return offers_of(self.kind_of, self.candidates_of, self.imitable, where)

    @property
    def made_of(self) -> dict[str, Any]:
        """All that decides what is in it: who goes on with a store must have the same."""
        told = asdict(self)
        for name in ("teacher", "student", "prompts"):
            told[name] = _by_contents(told[name])
        # How it is cut into shards is no part of what it says; who goes on keeps to it.
        return {name: told[name] for name in told if name not in ("id", "begun", "files", "rows")}

    def write(self, folder: Path) -> None:
        write_whole(folder / MANIFEST, json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")


def _by_contents(told: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies something, without names where its contents do."""
    left_out = {*SAID, *(NAMED if any(name in told for name in HASHES) else ())}
    return {key: value for key, value in told.items() if key not in left_out}


def has_store(folder: Path) -> bool:
    return is_there(folder / MANIFEST)


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with the id that follows from all else in it."""
    told = {name: value for name, value in asdict(manifest).items() if name not in ("id", "begun")}
    return replace(manifest, id=digest(told))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the store in a folder.

    Raises:
        DataError: there is no store, or its manifest is damaged, of another version or has changed.
    """
    if not has_store(folder):
        raise DataError(
            f"{folder.absolute()} holds no scores ({MANIFEST} is not there); make them by `opdlab score "
            f"EXPERIMENT --out {folder}`"
        )
    told = read_json(folder / MANIFEST, "format", remedy=AGAIN)
    if told["format"] != FORMAT:
        raise damaged(folder / MANIFEST, f"format {told['format']}, not {FORMAT}", AGAIN)
    try:
        found = built(Manifest, told)
        _ = found.kind_of, found.candidates_of, found.shards, found.imitable
    except (TypeError, KeyError, ValueError, ArithmeticError) as error:
        raise damaged(folder / MANIFEST, str(error), AGAIN) from error
    if sealed(found).id != found.id:
        raise DamagedError(
            f"{folder / MANIFEST} has changed since it was written: restore it from a copy, or {AGAIN}"
        )
    return found


def differences(one: Manifest, other: Manifest) -> list[str]:
    """Names of what two stores are made of that differ, with both values."""
    mine, theirs = _flat(one.made_of), _flat(other.made_of)
    names = dict.fromkeys([*mine, *theirs])
    return [
        "{}: {} there, {} now".format(name, *_shortened(theirs.get(name), mine.get(name)))
        for name in names
        if mine.get(name) != theirs.get(name)
    ]


def _flat(told: Mapping[str, Any]) -> dict[str, Any]:
    """The same with names of one level (`teacher.weights_sha256`): records may begin alike."""
    found: dict[str, Any] = {}
    for name, value in told.items():
        deeper = _flat(value) if isinstance(value, Mapping) else {}
        found |= {f"{name}.{key}": each for key, each in deeper.items()} or {name: value}
    return found


def _shortened(*both: Any) -> list[str]:
    """The beginnings of two values, or what is about their first difference where they begin alike."""
    texts = [json.dumps(value, sort_keys=True) for value in both]
    found = [_short(text) for text in texts]
    if len({*found}) == 1:
        pairs = enumerate(zip(*texts, strict=False))
        first = next((place for place, (one, other) in pairs if one != other), 0)
        found = [f"...{_short(text[max(0, first - 20) :])}" for text in texts]
    return found


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
