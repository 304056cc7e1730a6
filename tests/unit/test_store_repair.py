"""What a store's folder refuses, and what the same command mends there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stores
import torch

from opdlab.errors import DamagedError, ResumeError
from opdlab.offline import request
from opdlab.records import Problem, Verdict
from opdlab.scores.manifest import differences, read_manifest
from opdlab.scores.reader import Scores
from opdlab.scores.writer import Writer
from opdlab_evaluators.graders.exact_text import ExactText

LGR = {"type": "lgr", "ratio_cap": 2.0, "top_k": 4, "entropy_threshold": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("repair")
    stores.models(found)
    return found


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A store of four shards, with a head."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request, "MOST_ROWS", 3)
        return stores.made(folder, "hidden", "whole")


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


@pytest.fixture
def again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command that made the store, once more."""
    monkeypatch.setattr(request, "MOST_ROWS", 3)
    return lambda store: stores.made(folder, "hidden", str(store))


def graded(folder: Path, right: Sequence[Any], method: Any = LGR) -> Any:
    """An experiment on answers that the student writes, with what is right."""
    path = folder / "graded.jsonl"
    rows = [{"q": f"{n}+1?", "right": text} for n, text in enumerate(right)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = {"type": "dataset", "path": str(path), "column": "q"}
    prompts |= {"answer_column": "right", "grader": "exact"}
    return stores.experiment(folder, method, prompts=prompts, given=False)


def test_right_answers_are_kept_with_their_candidates(folder: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"kind": "sampled", "answers": "student"}
    all_of = stores.score(graded(folder, ["2"] * 4), tmp_path / "all", **asked).scores
    tokenizer = all_of.tokenizer()
    texts = [tokenizer.decode(one.response, skip_special_tokens=True) for one in all_of]
    texts = [text if row in (0, 2) else f"not {text}" for row, text in enumerate(texts)]
    config = graded(folder, texts)
    right = stores.score(config, tmp_path / "right", keep="correct", **asked).scores
    assert [one.place for one in right] == [0, 2]
    for one in right:
        for name, numbers in one.numbers.items():
            torch.testing.assert_close(numbers, all_of[one.place].numbers[name])
    assert right[0].numbers["candidate_log_prob"].numel()


@pytest.mark.parametrize("name", ["teacher/config.json", "notes.txt", "shards/00000.arrow"])
def test_a_folder_with_other_files_is_refused_and_left_as_it_is(
    again: Any, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(ResumeError, match=r"holds other files .*name an empty folder"):
        again(out)
    assert [one for one in out.rglob("*") if one.is_file()] == [out / name]
    assert (out / name).read_text() == "mine"


def test_what_a_killed_command_left_is_no_part_of_the_store(
    again: Any, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / ".store.teacher").mkdir(parents=True)
    (out / "shards").mkdir()
    for name in (".store.lock", ".store.teacher/cut.json", ".scores.json.0123abcd.partial"):
        (out / name).write_text("cut")
    again(out)
    assert Scores(out).verify().manifest.files == Scores(whole).manifest.files


def test_a_file_of_the_teacher_that_was_removed_is_written_again(again: Any, store: Path) -> None:
    paths = [store / "teacher" / "head.safetensors", store / "teacher" / "tokenizer.json"]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_bytes(b"changed")
    with pytest.raises(DamagedError, match="remove it and run the command again that made it"):
        Scores(store).verify()
    for path in paths:
        path.unlink()
    again(store)
    assert [path.read_bytes() for path in paths] == before
    Scores(store).verify()


def test_the_remedy_for_a_changed_shard_makes_it_again(again: Any, store: Path) -> None:
    path = store / "shards" / "00001.arrow"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(DamagedError, match=r"remove it and 00001\.json, and run the command again"):
        Scores(store).verify()
    path.unlink()
    path.with_suffix(".json").unlink()
    again(store)
    assert path.read_bytes() == before
    Scores(store).verify()


def test_a_shard_whose_grader_failed_is_asked_for_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "MOST_ROWS", 2)
    config, out = graded(folder, ["2"] * 4), tmp_path / "out"
    asked: dict[str, Any] = {"kind": "sampled", "answers": "student", "keep": "correct"}

    def failing(self: ExactText, problem: Problem, completion: str) -> Verdict:
        if "3+1" in str(problem.asked):
            raise OSError("no room on the disk")
        return Verdict("correct", completion, "")

    with monkeypatch.context() as patch:
        patch.setattr(ExactText, "grade", failing)
        found = stores.score(config, out, **asked)
    assert (found.finished, found.missing, found.faults) == (False, 1, 1)
    assert "not finished, missing shards: 1 (answers not graded, or refused" in found.told
    assert found.mean is None
    assert "mean@" not in found.told
    again = stores.score(config, out, **asked)
    assert (again.finished, again.faults, again.answers + again.left_out) == (True, 0, 4)
    assert again.mean == again.answers / 4


def test_a_command_that_leaves_shards_to_others_says_so_and_fails(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "MOST_ROWS", 3)
    for path in store.glob("shards/00002.*"):
        path.unlink()
    other = Writer(store, read_manifest(store)).missing()
    assert next(other) == [2]
    found = stores.score(stores.experiment(folder), store)
    assert (found.finished, found.missing) == (False, 1)
    assert "missing shards: 1 (other processes held them" in found.told
    other.close()


def test_a_servers_version_and_rounding_do_not_make_it_another_teacher(store: Path) -> None:
    served = {"name": "big", "server_version": "1", "server_print": [-1.25, -0.5]}
    manifest = replace(read_manifest(store), teacher=served)
    again = replace(
        manifest, teacher=served | {"server_version": "2", "server_print": [-1.2501, -0.5]}
    )
    assert differences(again, manifest) == []
    (odd,) = differences(replace(manifest, teacher=served | {"name": "other"}), manifest)
    assert odd.startswith("teacher.name: ")


def test_long_values_are_told_apart_from_where_they_differ(store: Path) -> None:
    manifest = read_manifest(store)
    one, other = (replace(manifest, wording="w" * 200 + end) for end in ("one" * 40, "other"))
    (odd,) = differences(other, one)
    assert re.search(r'^wording: \.\.\.w+one(one)*o?n?\.\.\. there, \.\.\.w+other" now$', odd)
    assert len(odd) < 200


def test_a_store_is_gone_on_with_where_models_and_data_were_moved(
    folder: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "MOST_ROWS", 3)
    for path in store.glob("shards/00002.*"):
        path.unlink()
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    assert stores.score(stores.experiment(moved), store).finished
    Scores(store).verify()
    rows = stores.ROWS
    monkeypatch.setattr(stores, "ROWS", [*rows[:-1], rows[-1] | {"a": "0"}])
    with pytest.raises(ResumeError, match=r"made of something else \(prompts\.sha256: "):
        stores.score(stores.experiment(moved), store)


def test_another_grader_or_engine_is_another_store(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = graded(folder, ["2"] * 4, "forward_kl")
    asked: dict[str, Any] = {"kind": "sampled", "answers": "student", "keep": "correct"}
    found = stores.score(config, tmp_path / "out", **asked)
    answers = read_manifest(found.folder).answers
    assert answers["graders"] == [f"ExactText {ExactText().version}"]
    assert answers["engine"]["type"] == "cached"
    monkeypatch.setattr(ExactText, "version", "another")
    with pytest.raises(ResumeError, match=r"made of something else \(answers\.graders: "):
        stores.score(config, tmp_path / "out", **asked)


def test_an_answer_is_found_by_its_tokens_and_not_by_a_hash_alone(store: Path) -> None:
    scores = Scores(store)
    keys, order = scores._keys
    first, second = scores[0], scores[1]
    assert scores.find(first.prompt, first.response) == 0
    # The other answer is said to have the same hash, as it might.
    at = {int(row): place for place, row in enumerate(order)}
    keys = keys.copy()
    keys[at[1]] = keys[at[0]]
    again = np.argsort(keys, kind="stable")
    scores.__dict__["_keys"] = keys[again], order[again]
    assert scores.find(first.prompt, first.response) == 0
    assert scores.find(second.prompt, second.response) is None  # by a key that is not its own


def test_what_is_trained_on_is_known_by_its_shards(store: Path) -> None:
    scores = Scores(store)
    note = store / "shards" / "00001.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"sha256": "0" * 64}))
    assert Scores(store).sha256 != scores.sha256
