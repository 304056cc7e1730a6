"""Prompts of a dataset: a file that holds none says why."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_folders import write_run

from opdlab.configuration.loader import load_experiment, load_pretraining
from opdlab.configuration.prompt_settings import DatasetPrompts
from opdlab.doctor import models as doctor_models
from opdlab.errors import ConfigError, DataError, ResumeError
from opdlab.identity import Execution
from opdlab.modelling.models import load_tokenizer
from opdlab.planning import plan
from opdlab.pretraining.characters import character_tokenizer
from opdlab.prompts.drawn import DatasetSource, PromptSource, open_prompts, unknown
from opdlab.training.run import require_all


def opened(path: Path, **options: Any) -> PromptSource:
    config = DatasetPrompts(type="dataset", path=str(path), **options)
    return open_prompts(config, character_tokenizer("abc", 16), 0)


def first_prompt(path: Path) -> None:
    opened(path).prompt(0)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("b.jsonl", "\n\n"), ("c.json", "[]"), ("d.csv", "prompt\n")],
)
def test_a_file_without_rows_is_said_to_have_none(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name} has no rows"):
        first_prompt(tmp_path / name)


def test_a_line_that_is_no_json_is_told_once_with_its_number_from_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a"}\n{bad\n')
    with pytest.raises(DataError, match=r"cannot be read: JSON parse error.* row 2"):
        first_prompt(path)
    assert not "".join(capfd.readouterr())
    assert not caplog.records


def source(tmp_path: Path, texts: list[str]) -> PromptSource:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f"{json.dumps({'prompt': text})}\n" for text in texts))
    config = DatasetPrompts(type="dataset", path=str(path))
    return open_prompts(config, character_tokenizer("abc ", 16), 0)


def test_prompts_that_the_tokenizer_mostly_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"256 of 256 prompts hold unknown text, 44.4% of all tokens"
    ):
        source(tmp_path, ["ab XY", "Zac!"] * 2).require_known()


def test_few_unknown_prompts_are_counted_and_pass(tmp_path: Path) -> None:
    prompts = source(tmp_path, ["abc ", "ab c", "cab ", "bZa "])
    prompts.require_known()
    found = prompts.unknown()
    assert (found.bad_prompts, found.prompts, found.bad_tokens, found.tokens) == (64, 256, 64, 1024)
    assert "6.2% of all tokens; the first is 'bZa '" in str(found)


def test_a_special_token_that_is_also_the_unknown_one_is_not_counted(tmp_path: Path) -> None:
    tokenizer = character_tokenizer("abc ", 16)
    tokenizer.unk_token = tokenizer.bos_token
    assert unknown(tokenizer, ["abc"]).bad_tokens == 0


@pytest.mark.parametrize("benchmark", ["gsm8k", "humaneval"])
def test_a_benchmark_of_test_problems_alone_is_refused_as_prompts(benchmark: str) -> None:
    with pytest.raises(ConfigError, match=r"prompts.sources.1.*no training problems.*math.*routes"):
        load_experiment("quickstart", [f"prompts.sources=[{{type: math}}, {{type: {benchmark}}}]"])


def test_a_pretraining_on_a_benchmark_without_worked_solutions_is_refused() -> None:
    with pytest.raises(ConfigError, match="no training problems with worked solutions"):
        load_pretraining("pretrain/student", ["sources=[{type: gsm8k}]"])


def test_doctor_and_plan_show_the_share_of_unknown_text_and_training_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "english.jsonl"
    path.write_text('{"prompt": "What is 2+2?"}\n')
    prompts = f"prompts={{type: dataset, path: {path}}}"
    config = load_experiment("quickstart", [prompts, "runs=[]"])
    tokenizer = load_tokenizer("embedded:student")
    line = doctor_models.prompts_agree(config, tokenizer, tokenizer)
    assert (line.status, "256 of 256 prompts hold unknown text" in line.found) == ("FAIL", True)
    with pytest.raises(DataError, match="hold unknown text"):
        require_all(config)
    plan.show(config)
    assert "256 of 256 prompts hold unknown text" in " ".join(capsys.readouterr().out.split())


def texts(path: Path) -> list[str]:
    source = opened(path)
    assert isinstance(source, DatasetSource)
    return source.texts


def test_the_prompts_are_those_that_are_in_the_file_now(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for words in (["one"], ["two", "three"]):
        path.write_text("\n".join(json.dumps({"prompt": word}) for word in words))
        os.utime(path, (10**9, 10**9))
        assert texts(path) == words


def test_a_name_of_a_file_is_no_pattern(tmp_path: Path) -> None:
    for name in ("a?.jsonl", "ab.jsonl", "[v1].jsonl", "x::y.jsonl"):
        (tmp_path / name).write_text(json.dumps({"prompt": name}))
        assert texts(tmp_path / name) == [name]


def test_a_row_without_a_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": null}\n{"prompt": 3}\n')
    with pytest.raises(DataError, match="2 of 3 rows have no text in column 'prompt', row 2 first"):
        opened(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": " \\n"}\n')
    with pytest.raises(DataError, match="1 of 2 rows have no text in column 'prompt', row 2 first"):
        opened(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": "\\ud800"}\n')
    with pytest.raises(DataError, match="row 2 has half a character in column 'prompt'"):
        opened(tmp_path / "a.jsonl")


def test_a_file_in_latin_1_is_refused_by_name_and_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"prompt": "a"}\n{"prompt": "ä"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.jsonl cannot be read: row 2 .* no UTF-8"):
        opened(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "train[:5]"}, "'train\\[:5\\]' is not a name of a split: it is read whole"),
        ({"revision": "main"}, "prompts.revision is for a data set on the hub, but .* is a file"),
        ({"name": "main"}, "prompts.name is for a data set on the hub, but .* is a file"),
    ],
)
def test_what_means_nothing_beside_a_file_is_refused(
    tmp_path: Path, options: dict[str, str], said: str
) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}')
    with pytest.raises(DataError, match=said):
        opened(tmp_path / "a.jsonl", **options)


def test_a_manifest_knows_prompts_by_their_contents_and_a_run_goes_on_with_no_others(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.jsonl"

    def described(rows: list[dict[str, Any]]) -> dict[str, Any]:
        path.write_text("\n".join(map(json.dumps, rows)))
        return opened(path).manifest()

    begun = described([{"prompt": "a"}, {"prompt": "b"}])
    assert (begun["count"], begun["path"], len(begun["sha256"])) == (2, str(path), 64)
    assert described([{"prompt": "a", "more": 1}, {"prompt": "b"}]) == begun
    changed = [described([{"prompt": one}, {"prompt": two}]) for one, two in ("ba", "ac")]
    run = write_run(tmp_path / "try-001" / "opd", {}, made={"prompts": begun})
    execution = Execution.read(run)
    assert replace(execution, id="later").begun_in(run) == execution
    for other in changed:
        with pytest.raises(ResumeError, match=r"the prompts changed .*2 rows, hash .*, now 2 rows"):
            replace(execution, prompts=other).begun_in(run)
