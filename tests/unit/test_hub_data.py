"""Data from the hub: benchmarks and prompts, revisions, and a cache without a network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from code_rows import ROWS
from hub_server import Hub, served
from huggingface_hub import constants

from opdlab.configuration.loader import load_experiment
from opdlab.configuration.prompt_settings import DatasetPrompts
from opdlab.errors import DataError
from opdlab.plugins import registry as plugins
from opdlab.pretraining.characters import character_tokenizer
from opdlab.prompts.drawn import DatasetSource, open_prompts
from opdlab_evaluators.benchmarks import benchmark, dataset

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


@dataclass
class Laboratory:
    """This process with its settings for the hub; each question has a record of first uses."""

    hub: Hub
    monkeypatch: pytest.MonkeyPatch

    def ask(self, record: Path, *asked: tuple[str, dict], offline: bool = False) -> list:
        """Count, origin, standing and first gold of each benchmark; else the error."""
        self.monkeypatch.setenv("XDG_DATA_HOME", str(record))
        self.offline(offline)
        return [self._answer(name, options) for name, options in asked]

    def offline(self, is_it: bool) -> None:
        self.monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_it)

    def _answer(self, name: str, options: dict) -> list:
        benchmark._checked.cache_clear()
        evaluator = plugins.load(plugins.EVALUATORS, name)(**options)
        try:
            report, first = evaluator.data(), evaluator.problems()[0]
        except DataError as error:
            return [type(error).__name__, str(error), "", ""]
        return [report.count, report.origin, report.standing, first.gold]


@pytest.fixture
def laboratory(tmp_path, monkeypatch):
    """The client is the real one: it takes these settings from the environment when it is imported."""
    monkeypatch.delenv("OPDLAB_DATA", raising=False)
    hub = Hub()
    with served(hub) as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield Laboratory(hub, monkeypatch)


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


def test_every_benchmark_is_read_from_the_layout_of_its_data_set(laboratory, tmp_path):
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
        laboratory.hub.push(source.hub, files)
    online = laboratory.ask(tmp_path / "one", *((name, {}) for name in sources))
    # A machine without a network that shares the cache, and has used nothing before.
    assert (
        laboratory.ask(tmp_path / "two", *((name, {}) for name in sources), offline=True) == online
    )
    for (name, source), (count, origin, *_) in zip(sources.items(), online, strict=True):
        if name in KNOWN_ANSWERS:
            assert "its reference answers have the hash" in origin
        else:
            commit = laboratory.hub.names[source.hub, "main"]
            assert (count, origin) == (source.count, f"hub:{source.hub}@{commit}")
    asked = {path.rpartition("/")[2] for path in laboratory.hub.asked if "code_generation" in path}
    assert {name for name in asked if name.endswith(".jsonl")} == {"test6.jsonl"}


def exam(first: int) -> dict[str, bytes]:
    name = f"data/train-{SHARD}.parquet"
    return {name: file(name, [{"problem": f"q{n}", "answer": first + n} for n in range(30)])}


def test_a_revision_is_the_commit_it_stood_for_and_has_a_record_of_its_own(laboratory, tmp_path):
    repository = "MathArena/aime_2026"
    first = laboratory.hub.push(repository, exam(100), "v1")
    (default,) = laboratory.ask(tmp_path, ("aime_2026", {}))
    assert default[1:3] == [f"hub:{repository}@{first}", "content recorded on this first use"]
    second = laboratory.hub.push(repository, exam(500), "v2")
    asked = [("aime_2026", {"revision": each}) for each in ("v1", "v2", second, "v9")]
    default, tag, other, commit, missing = laboratory.ask(tmp_path, ("aime_2026", {}), *asked)
    # The first commit that was used stays the one that is meant.
    assert default[1] == tag[1] == f"hub:{repository}@{first}"
    assert other[1] == commit[1] == f"hub:{repository}@{second}"
    assert "as first used on" in default[2]
    assert other[2].startswith(f"another content than at revision {first}, ")
    assert "as first used on" in commit[2]
    assert missing[0] == "MissingDataError"
    assert "put aime_2026.jsonl" in missing[1]
    assert laboratory.ask(tmp_path, ("aime_2026", {}), offline=True) == [default]
    # The cache of another machine may hold another commit alone.
    laboratory.monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "other"))
    ((_, told, *_),) = laboratory.ask(tmp_path, ("aime_2026", {}), offline=True)
    assert f"at revision {first} (" in told
    assert f"; {first} was used here first, `revision` names another: put aime_2026" in told


MIXED = b"""---
license: mit
configs:
- config_name: easy
  default: true
  data_files:
  - {split: train, path: "part-*.jsonl"}
  - {split: held, path: [held.jsonl]}
- config_name: hard
  data_dir: deep
  data_files: {train: "more/*"}
---
# A card
"""


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"prompt": text, "n": 1}) + "\n" for text in texts).encode()


CARDED = {
    "README.md": MIXED,
    "part-1.jsonl": lines("a"),
    "part-2.jsonl": lines("b"),
    "held.jsonl": lines("h"),
    "deep/more/x.jsonl": lines("d"),
    "deep/train.jsonl": lines("no"),
    "loader.py": b"raise SystemExit(1)",
}
NAMED = {
    f"data/train-0000{n}-of-00002.parquet": file("a.parquet", [{"prompt": str(n)}]) for n in (0, 1)
}
NAMED |= {
    f"data/test-{SHARD}.parquet": file("a.parquet", [{"prompt": "t"}]),
    "README.md": b"# none",
}


def prompts(**options):
    config = DatasetPrompts(type="dataset", path="some/prompts", **options)
    source = open_prompts(config, character_tokenizer("abcdht01", 16), 0)
    assert isinstance(source, DatasetSource)
    return source.texts, source.manifest()["revision"]


@pytest.mark.parametrize(
    ("files", "options", "found"),
    [
        (CARDED, {}, ["a", "b"]),
        (CARDED, {"split": "held"}, ["h"]),
        (CARDED, {"name": "hard"}, ["d"]),
        (NAMED, {}, ["0", "1"]),
        (NAMED, {"split": "test"}, ["t"]),
    ],
)
def test_prompts_come_from_the_files_that_a_card_or_their_names_say(
    laboratory, files, options, found
):
    commit = laboratory.hub.push("some/prompts", files, "v1")
    assert prompts(revision="v1", **options) == (found, commit)
    laboratory.hub.push("some/prompts", {}, "v1")
    laboratory.offline(True)
    # The cache notes what the tag stood for.
    assert prompts(revision="v1", **options) == (found, commit)


@pytest.mark.parametrize(
    ("files", "options", "said"),
    [
        (CARDED, {"split": "dev"}, "names no split 'dev', only train, held"),
        (CARDED, {"name": "odd"}, "no configuration 'odd': choose one of easy, hard"),
        (CARDED, {"split": "train[:5]"}, "is not a name of a split"),
        (CARDED, {"column": "text"}, "no column 'text'; it has prompt, n"),
        (CARDED, {"revision": "v9"}, "some/prompts was not fetched from the hub"),
        (CARDED, {"revision": None}, "needs prompts.revision"),
        ({"loader.py": b""}, {}, "has no data of one configuration, but of none"),
        ({**NAMED, "x/train.jsonl": b""}, {"split": "dev"}, "of one configuration, but of , x"),
        (dict(list(NAMED.items())[1:]), {}, "holds 1 of the 2 shards of data/train: number 0"),
        ({"train.jsonl": b"{bad"}, {}, "JSON parse error"),
    ],
)  # fmt: skip
def test_what_the_hub_does_not_have_is_told_in_words(laboratory, files, options, said):
    laboratory.hub.push("some/prompts", files, "v1")
    with pytest.raises(DataError, match=said) as caught:
        prompts(**{"revision": "v1", **options})
    assert str(caught.value).startswith("prompts")


def test_prompts_of_a_hub_that_is_away_come_from_its_cache_or_it_is_said_what_to_do(
    laboratory, monkeypatch
):
    commit = laboratory.hub.push("some/prompts", CARDED, "v1")
    assert prompts(revision="v1") == (["a", "b"], commit)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert prompts(revision="v1") == (["a", "b"], commit)
    remedy = "prompts.path: some/prompts was not fetched.*`hf download some/prompts .* v2`"
    with pytest.raises(DataError, match=remedy):
        prompts(revision="v2")


ARC = {
    "id": "q1",
    "question": "What melts?",
    "choices": {"text": ["Ice", "Air", "Light"], "label": ["1", "2", "3"]},
    "answerKey": "1",
}
ARC_CARD = b"""---
configs:
- config_name: ARC-Challenge
  data_files: [{split: train, path: ARC-Challenge/train-*}, {split: test, path: ARC-Challenge/test-*}]
- config_name: ARC-Easy
  data_files: [{split: train, path: ARC-Easy/train-*}, {split: test, path: ARC-Easy/test-*}]
---
"""
PRO = {
    "question_id": 70,
    "question": "Which of these?",
    "options": [f"choice {n}" for n in range(10)],
    "answer": "I",
    "answer_index": 8,
    "cot_content": "",
    "category": "business",
    "src": "ori_mmlu-business_ethics",
}
GPQA = (
    b"Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\r\n"
    + b"".join(b'r%d,"Which, of %d?",yes %d,"no\n",never,"1, 2"\r\n' % (n, n, n) for n in range(12))
)
GPQA_CARD = b"---\nconfigs:\n- config_name: gpqa_diamond\n  data_files: gpqa_diamond.csv\n---\n"
CHOSEN = {
    "gpqa": ("Idavidrein/gpqa", {"README.md": GPQA_CARD, "gpqa_diamond.csv": GPQA}, 12),
    "mmlu-pro": (
        "TIGER-Lab/MMLU-Pro",
        {f"data/test-{SHARD}.parquet": file("a.parquet", [PRO, PRO])},
        1,
    ),
    "arc": (
        "allenai/ai2_arc",
        {"README.md": ARC_CARD}
        | {
            f"{part}/test-{SHARD}.parquet": file("a.parquet", [ARC])
            for part in ("ARC-Challenge", "ARC-Easy")
        },
        1,
    ),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_shipped_benchmarks_of_choices_read_the_columns_that_the_cards_of_their_sets_name(
    laboratory, name
):
    repository, files, count = CHOSEN[name]
    laboratory.hub.push(repository, files)
    dataset._problems.cache_clear()
    for one in load_experiment(f"benchmarks/{name}").evaluation.benchmarks:
        problems = one.problems()
        assert len(problems) == count
        report = one.data()
        assert report is not None
        assert report.origin.startswith(f"hub:{repository}@")
        first = problems[0]
        if name == "arc":
            assert first.gold == {"right": 0, "choices": ["Ice", "Air", "Light"]}
            assert first.prompt == "Question: What melts?\nAnswer:"
        elif name == "mmlu-pro":
            assert (first.gold, "\nJ. choice 9\n" in first.prompt) == ("I", True)
        else:
            assert len({problem.gold for problem in problems}) > 1
            assert f"\n{first.gold}. yes 0\n" in first.prompt
