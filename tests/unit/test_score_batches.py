"""Answers of a shard and answers that are sampled together are two numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stores
import torch
from misbehaving_server import MisbehavingServer
from transformers import AutoTokenizer

from opdlab.errors import ModelError
from opdlab.offline import request, scoring
from opdlab.offline.request import rows_a_shard
from opdlab.records import Distributions
from opdlab.scores.kinds import Kind
from opdlab.scores.packing import distribution_columns
from opdlab.scores.reader import Scores
from opdlab.scores.writer import Writer
from opdlab.serving.told_tokens import listed

ASKED = {"answers": "student", "samples": 6, "prompts": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("batches")
    stores.models(found)
    return found


@pytest.mark.parametrize(
    ("longest", "samples", "rows"),
    [
        (100, 1, 130),
        (100, 64, 128),
        (100, 100, 100),  # whole prompts
        (4096, 1, 3),
        (4096, 64, 2),  # not 64, which would be of 2.7 GB
        (4096, 9, 3),
        (40_960, 64, 1),
    ],
)
def test_a_shard_is_as_large_as_its_bytes_and_no_larger(
    longest: int, samples: int, rows: int
) -> None:
    found = rows_a_shard(Kind.read("hidden"), 151_936, 5120, longest, samples)
    assert found == rows
    assert samples % found == 0 or found % samples == 0


def made(folder: Path, name: str, patch: pytest.MonkeyPatch, rows: int) -> tuple[Scores, list[Any]]:
    """A store by shards of so many answers, and what was sampled together."""
    drawn, work = [], scoring.Job.drawn

    def watched(job: scoring.Job, places: range) -> scoring.Drawn:
        drawn.append(places)
        return work(job, places)

    patch.setattr(scoring.Job, "drawn", watched)
    patch.setattr(request, "MOST_ROWS", rows)
    config = stores.experiment(folder, "forward_kl", given=False, training={"prompts_per_step": 12})
    found = stores.score(config, folder / name, kind="top_k:4", **ASKED)
    patch.undo()
    return Scores(found.folder), drawn


def test_small_shards_are_sampled_together_and_large_ones_in_turn(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, drawn = made(folder, "small", monkeypatch, 3)
    assert (len(small.notes), drawn) == (8, [range(12), range(12, 24)])
    large, drawn = made(folder, "large", monkeypatch, 24)
    assert (len(large.notes), drawn) == (1, [range(12), range(12, 24)])
    for one, other in zip(small, large, strict=True):
        assert (one.place, one.problem, one.seed) == (other.place, other.problem, other.seed)
        assert one.response == other.response
        for name, numbers in one.numbers.items():
            torch.testing.assert_close(numbers, other.numbers[name])


def test_shards_that_are_missing_alone_are_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, _ = made(folder, "again", monkeypatch, 3)
    kept = [note.sha256 for note in small.notes]
    for number in (2, 7):
        for path in small.folder.glob(f"shards/{number:05}.*"):
            path.unlink()
    again, drawn = made(folder, "again", monkeypatch, 3)
    assert [note.sha256 for note in again.notes] == kept
    assert drawn == [range(12), range(12, 24)]


def test_a_store_is_gone_on_with_by_the_shards_that_it_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, _ = made(folder, "by-three", monkeypatch, 3)
    for path in small.folder.glob("shards/00003.*"):
        path.unlink()
    again, drawn = made(folder, "by-three", monkeypatch, 24)
    assert [note.sha256 for note in again.notes] == [note.sha256 for note in small.notes]
    assert drawn == [range(12)]


def test_shards_of_a_batch_that_another_process_holds_are_left_to_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, _ = made(folder, "shared", monkeypatch, 3)
    for path in small.folder.glob("shards/*"):
        path.unlink()
    one, other = (Writer(small.folder, small.manifest) for _ in range(2))
    held = one.missing(3)
    assert next(held) == [0, 1, 2]
    assert list(other.missing(4)) == [[3], [4, 5, 6, 7]]
    held.close()
    assert next(other.missing(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("who", ["teacher", "rollout"])
def test_what_a_server_refuses_costs_no_shard_of_others(
    folder: Path, who: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(request, "MOST_ROWS", 4)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "student")
    ids = ",".join(map(str, tokenizer.encode(stores.ROWS[5]["q"], add_special_tokens=False)))
    with MisbehavingServer(folder / ("teacher" if who == "teacher" else "student")) as server:
        server.refuses_for_ever = lambda body: (
            ids in ",".join(map(str, body["prompt"]))
            and (who == "rollout" or "prompt_logprobs" in body)
        )
        at = {"url": server.url, "patience_s": 60}
        own: dict[str, Any] = {"rollout": {"type": "openai", "max_new_tokens": 8, **at}}
        if who == "teacher":
            own = {"teacher": {"path": str(folder / "teacher"), "server": at}}
        method = {"type": "opd", "support": "sampled"}
        few = {"prompts_per_step": 4}
        config = stores.experiment(folder, method, given=False, training=few, **own)
        asked: dict[str, Any] = {"kind": "sampled", "answers": "student", "prompts": 12}
        found = stores.score(config, folder / f"refused-{who}", **asked)
        assert (found.finished, found.missing, found.answers) == (False, 1, 8)
        assert "problem" in caplog.text
        server.refuses_for_ever = lambda body: False
        found = stores.score(config, folder / f"refused-{who}", **asked)
        assert (found.finished, found.faults, found.answers) == (True, 0, 12)


def test_places_where_a_server_told_no_token_are_not_stored_as_tokens() -> None:
    said = Distributions(
        top_ids=torch.tensor([[3, -1]]), top_log_prob=torch.tensor([[-0.5, -torch.inf]])
    )
    assert said.top_ids is not None
    assert said.top_log_prob is not None
    told: Any = SimpleNamespace(listed=lambda _: listed(said.top_ids, said.top_log_prob, 10))
    nothing: Any = None
    with pytest.raises(ModelError, match="returns fewer than 2 tokens that the student has"):
        distribution_columns(Kind("top_k", 2), said, told, nothing, [])
