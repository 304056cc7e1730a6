"""One training: what it was made with, written when it begins and never again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from opdlab.errors import DataError, ResumeError
from opdlab.files import is_there, read_record, write_whole
from opdlab.identity.digests import digest, new_id, now
from opdlab.identity.model_id import network
from opdlab.identity.roles import learned

EXECUTION = "manifest.json"
Contents = Mapping[str, Any]
"""What `opdlab.modelling.models.manifest` says of a model."""
DECISIVE = {
    "weights_sha256": "weights",
    "config_sha256": "architecture settings (config.json)",
    "tokenizer_sha256": "tokenizer",
    "template_sha256": "chat template",
    "ends": "end tokens",
}


@final
@dataclass(frozen=True, kw_only=True)
class Execution:
    """A training of one run with one seed.

    Attributes:
        group: id of the execution of the whole experiment, or of a sweep's trial.
        label: where it was begun, below the output folder, such as `quickstart-001/lgr-0`; for people.
        experiment, run: names; trainings of one run differ in their seed alone.
        method: type of the training method.
        settings: the experiment as it was resolved, every default said.
        student, teacher, specialists: their contents, see `opdlab.modelling.models.manifest`.
        prompts: their hash and count.
        code, environment: version, commit, packages and machine.
        trial: of a sweep: its study, number and parameters; empty elsewhere.
        id, started: given when the training begins.
    """

    group: str
    label: str
    experiment: str
    run: str
    method: str
    seed: int
    settings: Mapping[str, Any]
    student: Contents
    teacher: Contents
    specialists: Sequence[Contents]
    prompts: Mapping[str, Any]
    code: Mapping[str, Any]
    environment: Mapping[str, Any]
    trial: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=new_id)
    started: str = field(default_factory=now)

    @property
    def system(self) -> str:
        """Equal for trainings of the same thing, that differ in their seed alone: by contents, no path."""
        models = [_contents(one) for one in (self.student, self.teacher, *self.specialists)]
        # Problems that are made up without end are told by the settings; their hash is of one seed's.
        prompts = None if self.prompts.get("count") is None else self.prompts.get("sha256")
        return digest({"models": models, "prompts": prompts, "settings": learned(self.settings)})

    @property
    def student_model(self) -> str:
        """`ModelId.model` of the student before training."""
        one = self.student
        names = ("weights_sha256", "config_sha256", "tokenizer_sha256")
        return network(*(one.get(name, "") for name in names))

    def write(self, folder: Path) -> None:
        """Keep it in the folder of the training; raises OSError where that cannot be written."""
        write_whole(folder / EXECUTION, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Execution:
        """What a folder's training was made with.

        Returns:
            The record.

        Raises:
            DataError: there is no sound record of this version.
        """
        return read_record(
            folder / EXECUTION, cls, "restore it from a copy, or train again from the start"
        )

    @classmethod
    def behind(cls, folder: Path, samples_of: str) -> Execution:
        """The training that samples in its folder are of, by the id that they name.

        Returns:
            The record of that training.

        Raises:
            DataError: there is no sound record of it, or the record is of another training.
        """
        found = cls.read(folder)
        if found.id != samples_of:
            raise DataError(
                f"{folder / EXECUTION} is of another training (id {found.id}) than the samples (id "
                f"{samples_of}): restore it from a copy"
            )
        return found

    def begun_in(self, folder: Path) -> Execution:
        """This training as it was begun in a folder; it is begun now where it was not.

        Returns:
            The record that is on disk: the earlier one if there is one.

        Raises:
            ResumeError: what is there was begun with other contents; the message names what differs.
        """
        if not is_there(folder / EXECUTION):
            self.write(folder)
            return self
        before = Execution.read(folder)
        for what, was, now_ in self._pairs(before):
            if was != now_:
                raise ResumeError(
                    f"{folder}: {what} changed since this run began (then {was}, now {now_}). Put the old "
                    "one back, or start a new run without --resume"
                )
        return before

    def other_code(self, before: Execution) -> str:
        """In words, that the code is not the one this run began with; empty where it is."""
        was, is_now = (_code(one.code) for one in (before, self))
        return (
            ""
            if was == is_now
            else f"this run began with opdlab {was}, and continues with {is_now}"
        )

    def _pairs(self, before: Execution) -> Sequence[tuple[str, str, str]]:
        """What must not change, as it was and as it is, in words."""
        count = (f"{len(one.specialists)} specialists" for one in (before, self))
        pairs = [
            ("the student", *_named(before.student, self.student)),
            ("the teacher", *_named(before.teacher, self.teacher)),
            ("the list of specialists", *count),
        ]
        for number, (was, now_) in enumerate(
            zip(before.specialists, self.specialists, strict=False)
        ):
            pairs.append((f"specialist {number}", *_named(was, now_)))
        pairs.append(("the prompts", _counted(before.prompts), _counted(self.prompts)))
        pairs.append(("the trial", _told(before.trial), _told(self.trial)))
        return pairs


def _contents(one: Contents) -> dict[str, Any]:
    """What decides what a model learns and says, by the words for it."""
    found = {word: one.get(key) for key, word in DECISIVE.items()}
    # Of one behind a server no weights are known, but where they come from.
    return found | ({"served from": one["server_root"]} if "server_root" in one else {})


def _named(before: Contents, now_: Contents) -> tuple[str, str]:
    """What differs between two models, as it was and as it is, in words; empty where nothing does."""
    was, is_now = _contents(before), _contents(now_)
    odd = [word for word in was | is_now if was.get(word) != is_now.get(word)]
    old, new = (
        ", ".join(f"{word} {str(one.get(word))[:12]}" for word in odd) for one in (was, is_now)
    )
    return old, new


def _counted(prompts: Mapping[str, Any]) -> str:
    count = prompts.get("count")
    rows = "" if count is None else f"{count} rows, "
    return f"{rows}hash {str(prompts.get('sha256'))[:12]}"


def _told(trial: Mapping[str, Any]) -> str:
    return json.dumps(dict(trial), sort_keys=True) if trial else "none"


def _code(code: Mapping[str, Any]) -> str:
    commit = str(code.get("commit") or "")[:10]
    changed = " with changes" if code.get("changed") else ""
    return f"{code.get('version')} {commit}{changed}".strip()
