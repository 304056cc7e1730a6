"""Data from the hub: every benchmark's own layout, revisions, and a cache without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from code_rows import ROWS
from hub_server import Hub, served

from opdlab import plugins

SHARD = "00000-of-00001"
LAYOUTS = {
    "HuggingFaceH4/aime_2024": [f"data/train-{SHARD}.parquet"],
    "MathArena/aime_2025": [f"data/train-{SHARD}.parquet"],
    "MathArena/aime_2026": [f"data/train-{SHARD}.parquet"],
    "MathArena/hmmt_feb_2025": [f"data/train-{SHARD}.parquet"],
    "MathArena/hmmt_feb_2026": [f"data/train-{SHARD}.parquet"],
    "HuggingFaceH4/MATH-500": ["test.jsonl"],
    "openai/gsm8k": [f"main/test-{SHARD}.parquet", f"main/train-{SHARD}.parquet",
                     f"socratic/test-{SHARD}.parquet"],
    "openai/openai_humaneval": [f"openai_humaneval/test-{SHARD}.parquet"],
    "google-research-datasets/mbpp": [f"full/{split}-{SHARD}.parquet" for split in
                                      ("test", "prompt", "train", "validation")]
                                     + [f"sanitized/test-{SHARD}.parquet"],
    "evalplus/humanevalplus": [f"data/test-{SHARD}-5973903632b82d40.parquet"],
    "evalplus/mbppplus": [f"data/test-{SHARD}-d5781c9c51e02795.parquet"],
    "livecodebench/code_generation_lite": ["test.jsonl", "test5.jsonl", "test6.jsonl"],
}  # fmt: skip
CARD = b"---\nconfigs:\n- config_name: main\n---\n"
# Made-up rows are no copies of these: that they are refused for their answers shows that they were read.
KNOWN_ANSWERS = ("aime_2024", "aime_2025", "gsm8k")
ASK = """
import json, os, sys, warnings
from opdlab import plugins
from opdlab.errors import DataError
from opdlab_evaluators import benchmark
for line in sys.stdin:
    os.environ["XDG_DATA_HOME"], asked = json.loads(line)
    answers = []
    for name, options in asked:
        benchmark._checked.cache_clear()
        evaluator = plugins.load(plugins.EVALUATORS, name)(**options)
        try:
            report, first = evaluator.data(), evaluator.problems()[0]
            answers.append([report.count, report.origin, report.standing, first.gold])
        except DataError as error:
            answers.append([type(error).__name__, str(error), "", ""])
    print(json.dumps(answers), flush=True)
"""


@dataclass
class Machine:
    """A process with its settings for the hub, asked with a record of first uses for each question."""

    process: subprocess.Popen[str]

    def ask(self, record: Path, *asked: tuple[str, dict]) -> list:
        """Count, origin, standing and first gold of each benchmark; else the error."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([str(record), asked]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def hub():
    return Hub()


@pytest.fixture(scope="module")
def machines(hub, tmp_path_factory):
    """One that reaches the hub, and one that only shares its cache."""
    home = tmp_path_factory.mktemp("home")
    with served(hub) as endpoint, ExitStack() as stack:
        own = {
            "HF_HOME": str(home),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        others = {k: v for k, v in os.environ.items() if k != "OPDLAB_DATA"}
        found = []
        for offline in "01":
            process = subprocess.Popen(
                [sys.executable, "-c", ASK],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=others | own | {"HF_HUB_OFFLINE": offline},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            found.append(Machine(process))
        yield found


def rows_of(name: str, count: int) -> list[dict]:
    if name in ROWS:
        return [ROWS[name][0](number) for number in range(count)]
    mark = "#### " if name == "gsm8k" else ""
    return [{"problem": f"{n} and {n}?", "answer": f"{mark}{n}"} for n in range(count)]


def file(name: str, rows: list[dict]) -> bytes:
    if name.endswith(".jsonl"):
        return "\n".join(map(json.dumps, rows)).encode()
    stream = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue().to_pybytes()


def test_every_benchmark_is_read_from_the_layout_of_its_data_set(hub, machines, tmp_path):
    kinds = {
        name: plugins.load(plugins.EVALUATORS, name) for name in plugins.names(plugins.EVALUATORS)
    }
    sources = {name: kind().source for name, kind in kinds.items() if hasattr(kind, "source")}
    assert {source.hub for source in sources.values()} == LAYOUTS.keys()
    for name, source in sources.items():
        files = {"README.md": CARD, ".gitattributes": b"", "loader.py": b"raise SystemExit(1)"}
        for one in LAYOUTS[source.hub]:
            wanted = source.split in one and not any(
                part in one for part in ("socratic", "sanitized")
            )
            wanted = one in source.parts if source.parts else wanted
            files[one] = file(one, rows_of(name, source.count if wanted else 7))
        hub.push(source.hub, files)
    online = machines[0].ask(tmp_path / "one", *((name, {}) for name in sources))
    # A machine without a network that shares the cache, and has used nothing before.
    assert machines[1].ask(tmp_path / "two", *((name, {}) for name in sources)) == online
    for (name, source), (count, origin, *_) in zip(sources.items(), online, strict=True):
        if name in KNOWN_ANSWERS:
            assert "its gold answers have the hash" in origin
        else:
            commit = hub.names[source.hub, "main"]
            assert (count, origin) == (source.count, f"hub:{source.hub}@{commit}")
    asked = {path.rpartition("/")[2] for path in hub.asked if "code_generation" in path}
    assert {name for name in asked if name.endswith(".jsonl")} == {"test6.jsonl"}


def exam(first: int) -> dict[str, bytes]:
    name = f"data/train-{SHARD}.parquet"
    return {name: file(name, [{"problem": f"q{n}", "answer": first + n} for n in range(30)])}


def test_a_revision_is_the_commit_it_stood_for_and_has_a_record_of_its_own(hub, machines, tmp_path):
    repository = "MathArena/aime_2026"
    first = hub.push(repository, exam(100), "v1")
    (default,) = machines[0].ask(tmp_path, ("aime_2026", {}))
    assert default[1:3] == [f"hub:{repository}@{first}", "content recorded on this first use"]
    second = hub.push(repository, exam(500), "v2")
    asked = [("aime_2026", {"revision": each}) for each in ("v1", "v2", second, "v9")]
    default, tag, other, commit, missing = machines[0].ask(tmp_path, ("aime_2026", {}), *asked)
    # The first commit that was used stays the one that is meant.
    assert default[1] == tag[1] == f"hub:{repository}@{first}"
    assert other[1] == commit[1] == f"hub:{repository}@{second}"
    assert "as first used on" in default[2]
    assert other[2].startswith(f"another content than at revision {first}, ")
    assert "as first used on" in commit[2]
    assert missing[0] == "MissingDataError"
    assert "put aime_2026.jsonl" in missing[1]
    assert machines[1].ask(tmp_path, ("aime_2026", {}))[0] == default
