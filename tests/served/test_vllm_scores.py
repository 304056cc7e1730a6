"""Scores on disk of a teacher behind a real vLLM, gone on with after a stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stores
import torch
from served.vllm_server import VllmServer, small_llama, vllm_missing

from opdlab.configuration.config import Experiment
from opdlab.errors import ModelError, ResumeError, ServerError
from opdlab.offline import request

if missing := vllm_missing():
    pytest.skip(missing, allow_module_level=True)
pytestmark = pytest.mark.timeout(1200)
ASKED: dict[str, Any] = {"answers": "student", "kind": "top_k:4"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("served-scores")
    for seed, name in enumerate(("student", "teacher", "other")):
        small_llama(found / name, seed=seed)
    rows = [{"q": f"{n}+{n}="} for n in range(8)]
    (found / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[VllmServer]:
    with VllmServer(folder / "teacher") as server:
        yield server


def experiment(folder: Path, url: str | None, **own: Any) -> Experiment:
    teacher: dict[str, Any] = {"path": str(folder / "teacher")}
    if url is not None:
        teacher["server"] = {"url": url, "patience_s": 15.0}
    prompts = {"type": "dataset", "path": str(folder / "rows.jsonl"), "column": "q"}
    method = {"type": "forward_kl", "support": "top_k", "top_k": 4}
    rest = {"teacher": teacher, "prompts": prompts | {"template": "none"}, "method": method}
    told = {
        "name": "mine",
        "student": {"path": str(folder / "student")},
        "rollout": {"type": "cached", "max_new_tokens": 12},
        "training": {"steps": 2, "prompts_per_step": 4, "accelerator": "cpu", "threads": 1},
    }
    return Experiment.model_validate(told | rest | own)


def test_a_store_of_a_served_teacher_is_gone_on_with_and_refuses_another(
    server: VllmServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "MOST_ROWS", 2)
    here = stores.score(experiment(folder, None), folder / "here", **ASKED).scores
    out = folder / "there"
    there = stores.score(experiment(folder, server.url), out, **ASKED).scores
    for one, other in zip(here, there, strict=True):
        assert one.response == other.response
        for name in ("log_prob", "top_log_prob", "tail"):
            mine, theirs = one.numbers[name], other.numbers[name]
            torch.testing.assert_close(theirs, mine, atol=1e-4, rtol=0)
    for path in out.glob("shards/00001.*"):
        path.unlink()
    server.kill()
    with pytest.raises(ServerError):
        stores.score(experiment(folder, server.url), out, **ASKED)
    server.start()
    again = stores.score(experiment(folder, server.url), out, **ASKED)
    assert again.finished
    for one, other in zip(there, again.scores, strict=True):
        assert one.response == other.response
        torch.testing.assert_close(
            one.numbers["log_prob"], other.numbers["log_prob"], atol=1e-4, rtol=0
        )
    own = {"teacher": {"scores": str(out)}, "prompts": {"type": "scored", "template": "none"}}
    config = experiment(folder, None, **own)
    gradient, _ = stores.first_step(config)
    assert gradient.isfinite().all()
    for path in out.glob("shards/00001.*"):
        path.unlink()
    server.kill()
    server.model = folder / "other"
    server.start()
    with pytest.raises((ModelError, ResumeError, ServerError), match="teacher"):
        stores.score(experiment(folder, server.url), out, **ASKED)
    assert not (out / "shards" / "00001.json").exists()
