"""The folder of a store: taken up after a kill, shared among processes, refused where it was changed."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stores
import torch

from opdlab.console import terminal
from opdlab.doctor.stored import stored
from opdlab.errors import ConfigError, DamagedError, DataError, ResumeError
from opdlab.files import write_whole
from opdlab.offline import plan, request, run
from opdlab.offline.page import CUT, band, page, pieces
from opdlab.offline.request import Asked, prepared
from opdlab.scores import writer
from opdlab.scores.kinds import Kind
from opdlab.scores.manifest import Manifest, read_manifest, sealed
from opdlab.scores.reader import Scores
from opdlab.scores.writer import Writer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("folders")
    stores.models(found)
    return found


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A store of four shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request, "MOST_ROWS", 3)
        return stores.made(folder, "drawn:3", "whole")


@pytest.fixture(scope="module")
def exact(folder: Path) -> Path:
    return stores.made(folder, "hidden", "exact")


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def hashes(store: Path) -> list[Any]:
    return [json.loads(path.read_text())["sha256"] for path in sorted(store.glob("shards/*.json"))]


def killed_at_the_second_note(folder: Path, out: Path, patch: pytest.MonkeyPatch) -> int:
    """How a process ended that scores into a folder and is killed when its second shard is written."""

    def dying(path: Path, content: str | bytes) -> None:
        if path.name == "00001.json":
            os.kill(os.getpid(), signal.SIGKILL)
        write_whole(path, content)

    if (child := os.fork()) == 0:
        try:
            patch.setattr(writer, "write_whole", dying)
            stores.made(folder, "drawn:3", str(out))
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_scoring_that_was_killed_goes_on_and_loses_or_doubles_nothing(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when a shard is written and not yet told of, with what an earlier kill left in the middle."""
    monkeypatch.setattr(request, "MOST_ROWS", 3)
    out = tmp_path / "killed"
    out.mkdir()
    (out / ".scores.json.0123abcd.partial").write_bytes(b"cut")
    assert killed_at_the_second_note(folder, out, monkeypatch) == -signal.SIGKILL
    assert len(hashes(out)) == 1
    assert (out / "shards" / "00001.arrow").is_file()
    (out / "shards" / ".00001.arrow.0123abcd.partial").write_bytes(b"cut")
    with pytest.raises(DataError, match="is not finished: 3 of 4 shards are missing"):
        Scores(out)
    stores.made(folder, "drawn:3", str(out))
    assert hashes(out) == hashes(whole)
    assert not [path for path in out.rglob(".*") if path.name != ".store.lock"]
    places = [answer.place for answer in Scores(out)]
    assert places == list(range(len(stores.ROWS)))


def test_two_processes_share_the_shards_and_take_none_twice(store: Path) -> None:
    for path in store.glob("shards/*"):
        path.unlink()
    manifest = read_manifest(store)
    one, other = Writer(store, manifest).missing(), Writer(store, manifest).missing()
    assert [next(one), next(other), next(one), next(other)] == [[0], [1], [2], [3]]
    assert list(other) == []
    one.close()
    other.close()


def test_progress_counts_what_other_processes_write_meanwhile(
    folder: Path, whole: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 1):
        (store / "shards" / f"0000{number}.json").unlink()
    assert Writer(store, read_manifest(store)).done == 6
    bars, write = [terminal.progress_bar()], Writer.write

    def beside(self: Writer, number: int, *rest: Any) -> writer.Note:
        shutil.copy(whole / "shards" / "00001.json", store / "shards")
        return write(self, number, *rest)

    monkeypatch.setattr(Writer, "write", beside)
    monkeypatch.setattr(run, "progress_bar", lambda: bars[0])
    stores.made(folder, "drawn:3", str(store))
    assert bars[0].tasks[0].completed == 12


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_cut_file_is_refused_by_name(store: Path) -> None:
    shard = store / "shards" / "00002.arrow"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(DamagedError, match=r"00002\.arrow has \d+ bytes, and \d+ were written"):
        Scores(store)
    shard.unlink()
    with pytest.raises(DamagedError, match=r"00002\.arrow is not there"):
        Scores(store)


@pytest.mark.parametrize("name", ["shards/00001.arrow", "teacher/tokenizer.json"])
def test_a_changed_file_is_refused_by_name_before_the_first_step(
    folder: Path, store: Path, name: str
) -> None:
    config = stores.from_store(folder, store)
    changed(store / name)
    with pytest.raises(DamagedError, match=rf"{Path(name).name} has changed since it was written"):
        stores.first_step(config)


@pytest.mark.parametrize("name", ["head.safetensors", "tokenizer.json", "config.json"])
def test_a_cut_file_of_the_teacher_is_refused_by_name_before_it_is_read(
    folder: Path, exact: Path, tmp_path: Path, name: str
) -> None:
    """Also by scoring that goes on, which needs it only in the end."""
    store = Path(shutil.copytree(exact, tmp_path / "store"))
    config, path = stores.from_store(folder, store), store / "teacher" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedError, match=rf"{name} has changed since it was written"):
        stores.first_step(config)
    with pytest.raises(DamagedError, match=rf"{name} has changed since it was written"):
        stores.made(folder, "hidden", str(store))
    path.unlink()
    with pytest.raises(DamagedError, match=f"{name} is not there"):
        stores.first_step(config)
    path.mkdir()
    with pytest.raises(DamagedError, match=f"{name} is not a file: remove it"):
        stores.made(folder, "hidden", str(store))


def test_another_file_in_the_place_of_the_page_is_refused_before_anything_is_scored(
    folder: Path, store: Path
) -> None:
    (store / "shards" / "00003.json").unlink()
    (store / "answers.html").write_text("mine")
    with pytest.raises(
        DataError, match=r"answers\.html was not written by opdlab: remove it, or name"
    ):
        stores.made(folder, "drawn:3", str(store))
    assert not (store / "shards" / "00003.json").exists()


def test_a_changed_manifest_and_a_foreign_shard_are_refused(store: Path, whole: Path) -> None:
    path = store / "scores.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"vocabulary": told["vocabulary"] - 1}))
    with pytest.raises(DamagedError, match=r"scores\.json has changed since it was written"):
        Scores(store)
    path.write_text(json.dumps(told | {"format": 99}))
    with pytest.raises(DamagedError, match="format 99, not 2"):
        Scores(store)
    path.write_text(json.dumps(told))
    note = store / "shards" / "00003.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"store": "another"}))
    with pytest.raises(DamagedError, match=r"00003\.json is of another store"):
        Scores(store)


def resealed(store: Path, **changes: Any) -> None:
    """Change a manifest and its id with it, which every note tells."""
    path = store / "scores.json"
    found = sealed(Manifest(**json.loads(path.read_text()) | changes))
    found.write(store)
    for note in store.glob("shards/*.json"):
        note.write_text(json.dumps(json.loads(note.read_text()) | {"store": found.id}))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kind": {"name": "drawn", "size": 2, "precision": "bfloat16"}}, r"00000\.arrow holds other"),
        ({"kind": {"name": "hidden", "size": 0, "precision": "bfloat16"}}, r"00000\.arrow holds other"),
        ({"student_told": True}, r"00000\.arrow holds other answers, or other columns"),
        ({"answers": {"count": 11, "from": "given", "keep": "all"}}, r"00003\.json tells of 3 answers"),
        ({"rows": 0}, r"scores\.json is damaged"),
        ({"answers": {}}, r"scores\.json is damaged"),
    ],
)  # fmt: skip
def test_files_that_tell_different_things_are_refused(
    store: Path, changes: dict[str, Any], why: str
) -> None:
    resealed(store, **changes)
    with pytest.raises(DamagedError, match=why):
        list(Scores(store))


@pytest.mark.parametrize("answers", [2, -1, 7])
def test_a_note_that_tells_of_another_number_of_answers_is_refused(
    store: Path, answers: int
) -> None:
    note = store / "shards" / "00001.json"
    told = json.loads(note.read_text())
    note.write_text(json.dumps(told | {"answers": answers}))
    with pytest.raises(
        DamagedError, match=rf"00001\.json tells of {answers} answers and 0 left out"
    ):
        Scores(store)
    note.write_text(json.dumps(told | {"answers": 2, "left_out": 1}))
    with pytest.raises(DamagedError, match=r"00001\.arrow holds other answers"):
        list(Scores(store))


def test_a_folder_of_other_scores_is_not_gone_on_with(folder: Path, store: Path) -> None:
    with pytest.raises(
        ResumeError, match=r"something else \(kind\.size: 3 there, 4 now\); name another"
    ):
        stores.made(folder, "drawn:4", str(store))
    other = stores.experiment(folder, teacher={"path": str(folder / "student")}, seed=3)
    with pytest.raises(ResumeError) as refused:
        stores.score(other, store, kind="drawn:3")
    told = str(refused.value)
    assert "answers.seed: 0 there, 3 now" in told
    assert re.search(r'teacher\.weights_sha256: "(\w{64})" there, "(?!\1)\w{64}" now', told)
    assert "tokenizer_sha256" not in told


def test_doctor_looks_at_the_store_in_the_teachers_place(folder: Path, store: Path) -> None:
    config = stores.from_store(folder, store)
    student, tokenizer = stores.load_source(config.student)
    found = [line.status for line in stored(config, student, tokenizer)]
    assert found == ["pass", "pass", "skip"]
    changed(store / "shards" / "00000.arrow")
    (line,) = stored(config, student, tokenizer)
    assert line.status == "FAIL"
    assert "00000.arrow has changed since it was written" in line.found


def test_no_store_is_refused_with_the_command_that_makes_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make them by `opdlab score EXPERIMENT --out"):
        stores.module_of(stores.from_store(folder, tmp_path / "none"))


def test_a_store_opens_as_a_dataset_and_row_by_row(whole: Path) -> None:
    scores = Scores(whole)
    dataset = scores.dataset()
    assert len(dataset) == len(scores) == len(stores.ROWS)
    for row in (0, 5, 11):
        answer, told = scores[row], dataset[row]
        assert answer.response == told["response"]
        assert answer.numbers["drawn"].flatten().tolist() == told["drawn"]
        assert answer.numbers["log_prob"].tolist() == told["log_prob"]
    assert [one.place for one in scores[2:5]] == [2, 3, 4]
    assert scores[-1].place == 11
    text = scores.tokenizer().decode(scores[4].response, skip_special_tokens=True)
    assert text == stores.ROWS[4]["a"]


def test_a_store_is_read_from_another_folder_and_by_another_process(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader of data may send it to processes of its own."""
    monkeypatch.chdir(store.parent)
    scores = Scores(store.name)
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(scores))
    assert [one.place for one in again] == [one.place for one in scores] == list(range(12))
    assert repr(again) == f"Scores({str(store)!r}): 12 answers, 27 tokens, drawn:3"


def test_a_damaged_shard_is_named_by_its_dataset(store: Path) -> None:
    shard = store / "shards" / "00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-2] + b"\1\0")
    with pytest.raises(DamagedError, match=r"00001\.arrow is damaged.*and 00001\.json, and run"):
        Scores(store).dataset()


def test_a_page_shows_each_token_with_the_teachers_probability(whole: Path) -> None:
    text = (whole / "answers.html").read_text()
    answer = Scores(whole)[0]
    spans = re.findall(r"<span class='b\d' title='([\d.]+)%'>", text)
    probabilities = answer.numbers["log_prob"].exp().tolist()
    assert [float(one) for one in spans[: len(probabilities)]] == pytest.approx(
        [100 * one for one in probabilities], abs=0.006
    )
    assert [band(math.log(p)) for p in (0.95, 0.6, 0.2, 0.05, 0.001)] == [0, 1, 2, 3, 4]


def test_words_on_a_page_are_no_markup_and_none_is_unseen(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do they turn the direction of what follows, and a line break that comes first is one."""

    class Foreign:
        def decode(self, ids: list[int], **options: object) -> str:
            return "\n<b>\u202e\0" * len(ids)

    monkeypatch.setattr(Scores, "tokenizer", lambda _: Foreign())
    text = page(Scores(whole))
    assert "<pre>\n\n&lt;b&gt;&lt;U+202E&gt;\u2400" in text
    assert not {"\u202e", "\0"} & set(text)
    assert "<b>" not in text


def test_tokens_are_shown_as_they_stand_in_the_text() -> None:
    """Parts of a character as one, and with the blank that a word of SentencePiece has before it."""
    text = "a né 😀!"
    byte = list(text.encode())
    found = list(pieces(byte, lambda ids: bytes(ids).decode(errors="replace")))
    assert [piece for _, piece in found] == list(text)
    assert [len(places) for places, _ in found] == [len(one.encode()) for one in text]
    cut = list(pieces(byte[:-2], lambda ids: bytes(ids).decode(errors="replace")))
    assert cut[-1] == (range(6, 9), CUT)
    words = ["▁The", "▁end", "s", "▁.", "\n"]

    def joined(ids: Any) -> str:
        return "".join(words[one] for one in ids).replace("▁", " ").removeprefix(" ")

    found = list(pieces(range(len(words)), joined))
    assert [piece for _, piece in found] == ["The", " end", "s", " .", "\n"]


def test_right_answers_alone_are_kept_and_the_others_counted(folder: Path, tmp_path: Path) -> None:
    rows = [{"q": "1+1?", "a": text, "right": "2"} for text in ("2", "3", "2", "5")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    graded = {"type": "dataset", "path": str(path), "column": "q", "completion_column": "a"}
    graded |= {"given": 1, "answer_column": "right", "grader": "exact"}
    config = stores.experiment(folder, prompts=graded)
    found = stores.score(config, tmp_path / "right", kind="sampled", keep="correct")
    assert (found.answers, found.left_out, found.mean) == (2, 2, 0.5)
    assert "2 answers (2 left out; mean@1 50.0%), " in found.told
    assert [(one.place, one.verdict) for one in found.scores] == [(0, "correct"), (2, "correct")]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"answers": "teacher", "samples": 2, "keep": "correct"}, "needs prompts that can be graded"),
        ({"answers": "given", "samples": 2}, "a prompt has one given answer"),
        ({"answers": "nobody"}, "it is one of given, teacher, student"),
        ({"keep": "right"}, "--keep right: it is one of all, correct"),
        ({"answers": "teacher", "samples": 0}, "--samples 0: it is 1 or more"),
        ({"answers": "teacher", "prompts": -1}, "--prompts -1: it is 1 or more"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(folder: Path, asked: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        prepared(stores.experiment(folder), Asked(**asked))


def test_a_server_keeps_no_whole_distributions(folder: Path) -> None:
    config = stores.experiment(folder, "sft")
    served = {"path": str(folder / "teacher"), "server": {"url": "http://localhost:1/v1"}}
    method = {"type": "forward_kl", "support": "top_k", "top_k": 2}
    config = stores.experiment(folder, method, teacher=served)
    with pytest.raises(ConfigError, match="a server returns only likely tokens"):
        prepared(config, Asked(kind=Kind("hidden")))


def test_a_plan_tells_the_bytes_that_are_written(
    folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "MOST_ROWS", 3)
    told = plan(stores.experiment(folder), Asked(kind=Kind("drawn", 3)))
    scores = Scores(whole)
    assert told.answers == len(scores)
    assert told.seconds > 0
    written = sum(path.stat().st_size for path in whole.glob("shards/*.arrow"))
    assert told.bytes == pytest.approx(written, rel=0.02)  # from the first answers
    assert told.by_kind["hidden:float32"] > told.by_kind["hidden:bfloat16"] > told.bytes
    most, all_ = Kind("top_k", 10**5), scores.manifest.vocabulary - 1
    assert most.bytes_a_token(all_ + 1, 1) == Kind("top_k", all_).bytes_a_token(all_ + 1, 1)


def test_numbers_of_half_precision_are_kept_bit_for_bit(tmp_path: Path) -> None:
    from opdlab.scores.shards import Answer, Shard, write_shard

    values = torch.randn(6, 2).to(torch.bfloat16)
    parts = [values[:2], values[2:2], values[2:]]
    answers = [
        Answer(n, n, n, "b", "p", None, {"hidden": part, "response": torch.arange(len(part))})
        for n, part in enumerate(parts)
    ]
    write_shard(tmp_path / "x.arrow", answers, ("response", "hidden"), 70_000)
    shard = Shard(tmp_path / "x.arrow")
    found = [shard.tensor("hidden", row).view(-1, 2) for row in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(found, parts, strict=True))
    assert shard.values["response"].dtype == np.uint32
    first, length = shard.where("hidden", 2)
    assert (tmp_path / "x.arrow").read_bytes()[first : first + length] == parts[2].view(
        torch.int16
    ).numpy().tobytes()
