"""Prompts from files as people have them: forms, columns, what is left out, and in which order."""

from __future__ import annotations

import datetime
import gzip
import json
import string
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from public_rows import PUBLIC

from opdlab.configuration.loader import load_experiment
from opdlab.configuration.prompt_settings import DatasetPrompts, DataSource
from opdlab.datafiles.conditions import condition
from opdlab.datafiles.reading import read_rows
from opdlab.datafiles.streams import iter_rows
from opdlab.datafiles.wrapping import wrap
from opdlab.errors import ConfigError, DataError, ModelError
from opdlab.modelling.wording import Wording
from opdlab.pretraining.characters import character_tokenizer
from opdlab.prompts.dataset import BLOCK, DatasetSource
from opdlab.prompts.drawn import open_dataset, open_prompts
from opdlab.prompts.encoding import encode, rendered, require_wording
from opdlab.prompts.preparing import _KNOWN, prepared
from opdlab.prompts.spilled import Spilled
from opdlab.records import Problem

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]"
    "{% if enable_thinking is defined and not enable_thinking %}<no>{% endif %}{% endif %}"
)
LETTERS = "".join(sorted(set(string.printable) - set("\x0b\x0c\r")))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    found = character_tokenizer(LETTERS, 512)
    found.chat_template = TEMPLATE
    return found


def opened(tokenizer: Any, seed: int = 0, **options: Any) -> DatasetSource:
    config = DatasetPrompts.model_validate({"type": "dataset", **options})
    source = open_prompts(config, tokenizer, seed)
    assert isinstance(source, DatasetSource)
    return source


def lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def seen(tokenizer: Any, source: DatasetSource, index: int = 0) -> str:
    return str(tokenizer.decode(list(source.prompt(index).tokens)))


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_public_sets_are_read_by_the_columns_that_their_cards_name(
    tmp_path: Path, tokenizer: Any, name: str, form: str
) -> None:
    public = PUBLIC[name]
    row, options = public.row(2), public.prompts
    path = tmp_path / f"a.{form}"
    if form == "jsonl":
        lines(path, [row])
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    source = opened(tokenizer, path=str(path), **options)
    assert seen(tokenizer, source) == "<bos>[user]2+2?\n[assistant]"
    assert source.problem(0).gold == public.gold


def test_structs_that_are_written_as_json_texts_are_looked_into(
    tmp_path: Path, tokenizer: Any
) -> None:
    row = {
        "prompt": json.dumps([{"role": "user", "content": "hi"}]),
        "extra_info": json.dumps({"split": "train", "n": [7]}),
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    wrap = "{prompt} {extra_info.split} {extra_info.n.0}"
    source = opened(tokenizer, path=str(tmp_path / "a.parquet"), wrap=wrap)
    assert source.problem(0).prompt == "hi train 7"
    nested = opened(tokenizer, path=str(tmp_path / "a.parquet"), column="prompt.0.content")
    assert nested.problem(0).prompt == "hi"


def test_the_assistants_last_turn_is_a_given_answer_and_no_part_of_the_prompt(
    tmp_path: Path, tokenizer: Any
) -> None:
    turns = [("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]
    rows = [{"conversations": [{"from": who, "value": said} for who, said in turns]}]
    source = opened(tokenizer, path=lines(tmp_path / "a.jsonl", rows), column="conversations")
    assert seen(tokenizer, source) == "<bos>[user]a\n[assistant]b\n[user]c\n[assistant]"
    assert source.problem(0).extra["given"] == "d"
    assert (
        rendered(tokenizer, source.problem(0), "none")
        == "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant:"
    )


def test_a_system_prompt_takes_the_place_of_the_datas_own(tmp_path: Path, tokenizer: Any) -> None:
    turns = [{"role": "system", "content": "old"}, {"role": "user", "content": "a"}]
    path = lines(tmp_path / "a.jsonl", [{"prompt": turns}])
    assert seen(tokenizer, opened(tokenizer, path=path)) == "<bos>[system]old\n[user]a\n[assistant]"
    new = opened(tokenizer, path=path, system="new", prefill="So")
    assert seen(tokenizer, new) == "<bos>[system]new\n[user]a\n[assistant]So"
    plain = opened(tokenizer, path=path, system="new", template="none", prefill=" =")
    assert seen(tokenizer, plain) == "<bos>new\n\na ="


def test_bos_stands_once_however_often_it_is_written(tokenizer: Any) -> None:
    bos = tokenizer.bos_token_id
    for template in ("none", "chat"):
        ids = encode(tokenizer, "<bos>a" if template == "none" else "a", template)
        assert ids.count(bos) == 1
    twice = character_tokenizer(LETTERS, 512)
    twice.chat_template = "{{ bos_token }}" + TEMPLATE
    assert encode(twice, "a", "chat") == encode(tokenizer, "a", "chat")


def test_options_of_a_template_change_what_the_model_reads_and_unknown_ones_are_refused(
    tokenizer: Any,
) -> None:
    off = Wording("auto", {"enable_thinking": False})
    assert rendered(tokenizer, "a", off).endswith("[assistant]<no>")
    assert str(off) != str(Wording()) == "auto"
    require_wording(tokenizer, off)
    with pytest.raises(ModelError, match="reads no `enable_thinkin`"):
        require_wording(tokenizer, Wording("auto", {"enable_thinkin": False}))
    with pytest.raises(ModelError, match="no chat template is applied"):
        require_wording(character_tokenizer("abc", 16), off)
    refusing = character_tokenizer(LETTERS, 512)
    refusing.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ModelError, match=r"messages of system, user .*System role not supported"):
        encode(refusing, "a", Wording(system="s"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("template_options", "{tokenize: true}"),
        ("wrap", "'{prompt'"),
        ("wrap", "'{prompt!r}'"),
        ("wrap", "'{}'"),
        ("wrap", "'Put the answer in a box.'"),
        ("where", "'level >= '"),
        ("where", "__import__('os')"),
        ("where", "'[].__class__ == 1'"),
        ("where", "'level + 1 > 2'"),
        ("where", "'3'"),
        ("grader", "maths"),
        ("grader", "math"),
        ("answer_column", "answer"),
        ("weight", "2"),
        ("sources", "[{path: b.jsonl}]"),
        ("sources", "[{path: b.jsonl, weight: 0}]"),
        ("drop", "[dublicate]"),
    ],
)
def test_settings_that_mean_nothing_are_refused_when_they_are_read(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match="prompts"):
        load_experiment(
            "quickstart", ["prompts={type: dataset, path: a.jsonl}", f"prompts.{key}={value}"]
        )


CONDITIONS = [
    ("level >= 3", [3, 4]),
    ("level >= 3 and not level == 4", [3]),
    ("1 < level <= 3", [2, 3]),
    ('kind in ["b", "c"] or level == 0', [0, 2, 3]),
    ('kind == "b"', [2]),
    ("kind is None", [4]),
    ("kind != None and level < 2", [0, 1]),
    ("info.deep == -1", [0]),
    ('"x" in info.tags', [1]),
    ("number > 9", [4]),
    ("level in [1, 2.0]", [1, 2]),
]


@pytest.mark.parametrize(("text", "kept"), CONDITIONS)
def test_a_condition_compares_columns(text: str, kept: list[int]) -> None:
    rows: list[dict[str, Any]] = [
        {"level": 0, "kind": "a", "info": {"deep": -1}},
        {"level": 1, "kind": "a", "info": {"tags": ["x"]}},
        {"level": 2, "kind": "b", "number": "9"},
        {"level": 3, "kind": "c", "number": None},
        {"level": 4, "kind": None, "number": " 10.5 "},
    ]
    wanted = condition(text)
    assert [number for number, row in enumerate(rows) if wanted(row)] == kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("level >= 3", ["b"]),
        ("level != 3", ["nan", "b", "low"]),
        ("solved", ["nan", "b"]),
        ("not solved", ["low"]),
        ("solved == True", ["nan", "b"]),
        ("solved != True", ["low"]),
        ("price == 0.1", ["b"]),
        ('when >= "2024-06-01"', ["b", "low"]),
        ("[1] in info", []),
    ],
)
def test_a_condition_reads_values_as_tables_hold_them(text: str, kept: list[str]) -> None:
    day, tenth = datetime.date, Decimal("0.1")
    rows: list[dict[str, Any]] = [
        {"id": "nan", "level": "nan", "solved": "True", "price": Decimal(1)},
        {"id": "b", "level": 4, "solved": True, "price": tenth, "when": day(2024, 6, 2)},
        {"id": "low", "level": float("nan"), "solved": "false", "info": {"a": 1}, "price": 2.0},
    ]
    rows[2]["when"] = datetime.datetime(2025, 1, 1, 12)
    assert [row["id"] for row in rows if condition(text)(row)] == kept
    truths = ["0", "0.0", "", " ", "FALSE", "nan", "1", "no", "true"]
    assert [condition("level")({"level": one}) for one in truths] == [False] * 6 + [True] * 3
    for odd in ("sNaN", "-inf", "NaN"):
        assert not condition("level >= 3")({"level": odd})
    assert not condition("level >= '3'")({"level": float("nan")})


def test_half_a_character_in_an_answer_or_a_wrap_is_a_broken_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "answer": "\\ud800"}\n{"prompt": "b", "answer": "1"}\n')
    for options in (
        {"answer_column": "answer", "grader": "exact"},
        {"answer_column": "answer", "grader": {"type": "exact", "case": True}},
        {"wrap": "{prompt} {answer}"},
    ):
        settings = DatasetPrompts.model_validate({"type": "dataset", "path": str(path), **options})
        found = prepared(settings.resolved()[0])
        assert [fault.kind for fault in found.faults] == ["broken"]
        assert "half a character" in found.faults[0].reason
        assert len(found.keys) == 1


def test_columns_in_a_wrap_are_written_as_people_read_them() -> None:
    row = {"n": Decimal("1.10"), "day": datetime.date(2024, 1, 2), "list": [Decimal(2), "é"]}
    assert wrap("{prompt} {n} {day} {list}")("a", row) == 'a 1.10 2024-01-02 [2, "é"]'
    with pytest.raises(
        ValueError, match="a value of type bytes, which is not a text, in column 'x'"
    ):
        wrap("{x}")("a", {"x": [b"\xff"]})


def test_rows_whose_values_cannot_be_compared_are_named(tmp_path: Path, tokenizer: Any) -> None:
    path = lines(
        tmp_path / "a.jsonl", [{"prompt": "a", "level": 1}, {"prompt": "b", "level": "Level 5"}]
    )
    with pytest.raises(
        DataError, match=r"prompts.where: .*row 2: 'Level 5' and 3 cannot be compared"
    ):
        opened(tokenizer, path=path, where="level >= 3")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"column": "question"}, "no column 'question'; it has prompt, extra.id"),
        ({"column": "extra.question"}, "no column 'extra.question'; it has prompt, extra.id"),
        ({"wrap": "{prompt} {hint}"}, "prompts.wrap: .* no column 'hint'; it has"),
        ({"where": "level > 1"}, "prompts.where: .* no column 'level'; it has"),
        ({"domain_column": "d"}, "prompts.domain_column: .* no column 'd'; it has"),
        ({"answer_column": "a", "grader": "math"}, "prompts.answer_column: .* no column 'a'"),
    ],
)
def test_a_column_that_is_not_there_is_told_with_those_that_are(
    tmp_path: Path, tokenizer: Any, options: dict[str, Any], said: str
) -> None:
    path = lines(tmp_path / "a.jsonl", [{"prompt": "a", "extra": {"id": 1}}])
    with pytest.raises(DataError, match=said):
        opened(tokenizer, path=path, **options)


BAD: list[tuple[Any, str, str]] = [
    (None, "empty", "no text in column 'prompt'"),
    (" \n", "empty", "no text in column 'prompt'"),
    (3, "broken", "no text in column 'prompt'"),
    ("\ud800", "broken", "half a character"),
    ([], "empty", "an empty list of messages"),
    ([{"content": "x"}], "broken", "a message without a role"),
    (["x"], "broken", "a message without a role"),
    ([{"role": "alien", "content": "x"}], "broken", "a message of role 'alien'"),
    ([{"role": "user", "content": None}], "empty", "a message without text"),
    ([{"role": "user", "content": [{"type": "image"}]}], "broken", "more than text"),
    ([{"role": "system", "content": "x"}], "empty", "no turn of a user"),
    ([{"role": "assistant", "content": "x"}], "empty", "no turn of a user"),
]


@pytest.mark.parametrize(("value", "kind", "reason"), BAD, ids=range(len(BAD)))
def test_a_bad_row_is_named_and_left_out_only_where_that_is_asked(
    tmp_path: Path, tokenizer: Any, value: Any, kind: str, reason: str
) -> None:
    path = lines(tmp_path / "a.jsonl", [{"prompt": "good"}, {"prompt": value}])
    with pytest.raises(DataError, match=rf"row 2 .*{reason}|{reason}.*, row 2 first"):
        opened(tokenizer, path=path)
    other = {"empty": "broken", "broken": "empty"}[kind]
    with pytest.raises(DataError, match=reason):
        opened(tokenizer, path=path, drop=[other])
    assert opened(tokenizer, path=path, drop=[kind]).texts == ["good"]


def test_duplicates_are_told_and_left_out_where_that_is_asked(
    tmp_path: Path, tokenizer: Any
) -> None:
    path = lines(
        tmp_path / "a.jsonl", [{"prompt": one} for one in ("a b", "c", " a\r\n b ", "a b")]
    )
    config = DatasetPrompts(type="dataset", path=path)
    (loss,) = open_dataset(config, tokenizer, 0).losses
    assert (loss.count, loss.dropped, loss.first[:5]) == (2, False, "row 3")
    assert opened(tokenizer, path=path).count == 4
    assert opened(tokenizer, path=path, drop=["duplicate"]).texts == ["a b", "c"]
    both = [{"path": path}, {"path": path, "where": 'prompt == "c" or prompt == "a b"'}]
    with pytest.raises(DataError, match="no rows that are kept"):
        opened(tokenizer, sources=both, drop=["duplicate"])


def test_long_prompts_are_an_error_that_names_the_row_or_left_out(
    tmp_path: Path, tokenizer: Any
) -> None:
    path = lines(
        tmp_path / "a.jsonl", [{"prompt": "a"}, {"prompt": "b" * 50}, {"prompt": "é" * 50}]
    )
    short = len(encode(tokenizer, "a", "auto"))
    with pytest.raises(
        DataError, match=rf"2 prompts are longer .*row 2, {short + 49} tokens first"
    ):
        opened(tokenizer, path=path, max_prompt_tokens=short)
    left = opened(tokenizer, path=path, max_prompt_tokens=short, too_long="drop")
    assert left.texts == ["a"]
    assert opened(tokenizer, path=path, max_prompt_tokens=short + 49).count == 3


def test_a_pattern_a_folder_and_packed_files_are_read_row_by_row(
    tmp_path: Path, tokenizer: Any
) -> None:
    for name in ("b", "a"):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.write(
                json.dumps({"prompt": f"{name}1"}) + "\n" + json.dumps({"prompt": f"{name}2"})
            )
    wanted = ["a1", "a2", "b1", "b2"]
    assert opened(tokenizer, path=str(tmp_path)).texts == wanted
    source = opened(tokenizer, path=str(tmp_path / "*.jsonl.gz"), shuffle=False)
    assert source.texts == wanted
    assert source.problem(3).id == "b.jsonl.gz row 2"
    with pytest.raises(DataError, match=r"no file of a known format .* fits the pattern"):
        opened(tokenizer, path=str(tmp_path / "*.parquet"))
    with pytest.raises(DataError, match="there is no file"):
        opened(tokenizer, path="data/of/nobody")
    with pytest.raises(
        DataError, match=r"nor a folder; a dataset on the hub needs prompts.revision"
    ):
        opened(tokenizer, path="nobody/nothing")


def test_a_file_beside_the_experiment_is_found_whatever_names_it(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    base = load_experiment("quickstart").model_dump(mode="json")
    base |= {"runs": [], "prompts": {"type": "dataset", "sources": []}}
    for path in ("a.jsonl", "parts", "*.jsonl"):
        base["prompts"]["sources"] = [{"path": path}]
        (tmp_path / "e.yaml").write_text(json.dumps(base))
        prompts = load_experiment(tmp_path / "e.yaml").prompts
        assert isinstance(prompts, DatasetPrompts)
        assert prompts.resolved()[0].path == str(tmp_path / path)


def test_sources_are_mixed_by_their_weights_and_each_is_drawn_whole_before_it_comes_again(
    tmp_path: Path, tokenizer: Any
) -> None:
    sizes = {"a": 40, "b": 7}
    for name, size in sizes.items():
        lines(tmp_path / f"{name}.jsonl", [{"prompt": f"{name}{n}"} for n in range(size)])
    sources = [
        {"path": str(tmp_path / f"{name}.jsonl"), "domain": name, "weight": weight}
        for name, weight in (("a", 3), ("b", 1))
    ]
    source = opened(tokenizer, sources=sources, seed=3)
    drawn = [source.problem(index) for index in range(2 * BLOCK)]
    counts = Counter(problem.benchmark for problem in drawn)
    assert counts == {"a": 1500, "b": 500}
    for name, size in sizes.items():
        mine = [problem.prompt for problem in drawn if problem.benchmark == name]
        for first in range(0, len(mine) - size, size):
            assert len(set(mine[first : first + size])) == size
    again = opened(tokenizer, sources=sources, seed=3)
    assert [again.problem(index) for index in (1999, 5, 1000)] == [
        drawn[n] for n in (1999, 5, 1000)
    ]
    assert again.manifest() == source.manifest()
    assert opened(tokenizer, sources=sources, seed=4).problem(0) != drawn[0] or True
    new = list(source.places(200))
    assert len({(drawn[n].benchmark, drawn[n].prompt) for n in new}) == len(new) == 47


def test_a_limit_counts_rows_that_are_kept_and_the_order_may_be_the_files(
    tmp_path: Path, tokenizer: Any
) -> None:
    rows = [{"prompt": f"p{n}", "n": n} for n in range(10)]
    path = lines(tmp_path / "a.jsonl", rows)
    source = opened(tokenizer, path=path, where="n >= 4", limit=3, shuffle=False)
    assert [source.problem(index).prompt for index in range(4)] == ["p4", "p5", "p6", "p4"]
    assert source.problem(0).id == "5"


def test_what_decides_a_prompt_is_part_of_what_a_run_is_known_by(
    tmp_path: Path, tokenizer: Any
) -> None:
    path = lines(tmp_path / "a.jsonl", [{"prompt": f"p{n}", "a": "1", "d": "x"} for n in range(3)])
    plain = opened(tokenizer, path=path).manifest()["sha256"]
    for options in (
        {"wrap": "{prompt}!"},
        {"limit": 2},
        {"where": 'prompt != "p1"'},
        {"domain_column": "d"},
        {"answer_column": "a", "grader": "exact"},
    ):
        assert opened(tokenizer, path=path, **options).manifest()["sha256"] != plain


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz", "a.csv.bz2"])
def test_streamed_rows_are_those_of_a_file_that_is_read_at_once(tmp_path: Path, name: str) -> None:
    texts = ["x", "é\u2028ü", "a,b", 'say "hi"', "tab\there", "日本"]
    path = tmp_path / name
    if ".csv" in name or ".tsv" in name:
        mark = "\t" if ".tsv" in name else ","
        quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
        content = f"text{mark}n\r\n" + "".join(
            f"{text}{mark}{n}\r\n" for n, text in enumerate(quoted)
        )
    elif ".txt" in name:
        content = "\r\n\n".join([*texts, "form\x0cfeed", "next\x85line", "old\rmac"])
    else:
        content = "".join(json.dumps({"text": text, "n": 10**30}) + "\r\n" for text in texts)
    packing = {".gz": gzip.compress, ".bz2": __import__("bz2").compress}
    data = content.encode()
    path.write_bytes(packing.get(path.suffix, bytes)(data))
    assert list(iter_rows(path, whole=4)) == read_rows(path)


def test_a_stream_names_the_row_that_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "b"}\n{"text"')
    with pytest.raises(DataError, match=r"row 3.*may have been cut"):
        list(iter_rows(tmp_path / "a.jsonl", whole=4))
    (tmp_path / "b.csv").write_bytes(b"text,n\na,1\nb\n")
    with pytest.raises(DataError, match="row 2 has 1 cells, not 2"):
        list(iter_rows(tmp_path / "b.csv", whole=4))
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe4"}\n')
    with pytest.raises(DataError, match="no UTF-8"):
        list(iter_rows(tmp_path / "c.jsonl", whole=4))


def test_rows_that_lie_in_a_mapped_file_are_drawn_as_those_in_memory(
    tmp_path: Path, tokenizer: Any
) -> None:
    rows = [{"prompt": f"{n} " + "x" * 200, "a": str(n)} for n in range(5000)]
    path = lines(tmp_path / "a.jsonl", rows)
    options = {"path": path, "answer_column": "a", "grader": "exact"}
    held = opened(tokenizer, **options)
    (config,) = DatasetPrompts.model_validate({"type": "dataset", **options}).resolved()
    _KNOWN.clear()
    mapped = prepared(config, in_memory=1 << 16)
    assert mapped.table.column("prompt").num_chunks > 1
    assert mapped.sha256 == held.parts[0].data.sha256
    assert opened(tokenizer, **options).parts[0].data is mapped
    assert [held.problem(n).gold for n in (0, 4999, 5001)] == [
        opened(tokenizer, **options).problem(n).gold for n in (0, 4999, 5001)
    ]


def test_few_rows_of_many_characters_are_put_away_as_many_rows_are() -> None:
    kept = Spilled(in_memory=1 << 20)
    text = "x" * (1 << 20)
    for row in range(6):
        kept.add({"file": 0, "row": row, "prompt": text, "domain": "d"})
    assert len(kept.rows) == 2
    assert kept.path
    table = kept.table()
    assert table.column("row").to_pylist() == [*range(6)]
    assert table.column("prompt")[5].as_py() == text


def test_a_problem_tells_what_it_asks_as_text_or_as_turns() -> None:
    turns = [{"role": "user", "content": "a"}]
    assert Problem("b", "1", "text", None).asked == "text"
    assert Problem("b", "1", "text", None, {"messages": turns}).asked == turns


def test_weights_become_whole_places_of_a_block() -> None:
    with pytest.raises(ValueError, match="finite"):
        DataSource(path="a.jsonl", weight=float("inf"))
    from opdlab.prompts.dataset import shares

    assert shares([1]) == [1000]
    assert shares([1, 1, 1]) == [334, 333, 333]
    assert shares([0.7, 0.3]) == [700, 300]
    assert shares([1e9, 1e-9]) == [999, 1]
    assert sum(shares(list(np.linspace(0.01, 5, 400)))) == 1000
