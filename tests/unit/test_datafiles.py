"""Files of data: what is in them is read, by the name that was given, or a fault is told with its row."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from decimal import Decimal

import datasets
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from opdlab.datafiles import is_dataset_folder, read_folder, read_rows
from opdlab.datafiles.folders import saved_rows
from opdlab.errors import DataError

ROWS = [{"q": 'a, "b"\n', "a": 12345678901234567}, {"q": "ü\u2028", "a": 0.5}]


def lines(rows=ROWS, ascii=False):
    return "".join(json.dumps(row, ensure_ascii=ascii) + "\n" for row in rows)


TEXTS = {
    "a.jsonl": lines(),
    "a.JSONL": lines(),
    "escaped.jsonl": lines(ascii=True),
    "windows.jsonl": lines().replace("\n", "\r\n"),
    "blank.jsonl": "\n\n" + lines().replace("\n", "\n\n"),
    "mark.jsonl": "\ufeff" + lines(),
    "list.jsonl": json.dumps(ROWS),
    "a.json": json.dumps(ROWS, indent=1),
    "lines.json": lines(),
    "splits.json": json.dumps({"train": ROWS[:1], "test": ROWS}),
    "one.json": json.dumps({"train": ROWS}, indent=1),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_json_is_read_in_every_form_and_whole_numbers_keep_their_digits(tmp_path, name, encoding):
    (tmp_path / name).write_bytes(TEXTS[name].encode(encoding))
    assert read_rows(tmp_path / name, split="test") == ROWS


@pytest.mark.parametrize(("name", "sign"), [("a.csv", ","), ("a.tsv", "\t")])
def test_cells_of_a_table_are_texts_of_any_length(tmp_path, name, sign):
    long = "x" * 200_000
    text = f'q{sign}a\r\n"say ""a{sign}b""\nmore"{sign}007\r\n\r\n{long}{sign}\r\n'
    (tmp_path / name).write_bytes(text.encode())
    assert read_rows(tmp_path / name) == [
        {"q": f'say "a{sign}b"\nmore', "a": "007"},
        {"q": long, "a": ""},
    ]


def test_binary_columns_are_texts_where_they_are_utf8(tmp_path):
    table = pa.table({"q": [b"a", "ü".encode()], "l": [[b"x"], None], "n": [b"\xff", None]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == [
        {"q": "a", "l": ["x"], "n": b"\xff"},
        {"q": "ü", "l": None, "n": None},
    ]
    assert read_rows(tmp_path / "a.parquet", columns=["q", "gone"])[1] == {"q": "ü"}


def test_the_file_that_was_named_is_read_and_no_other(tmp_path):
    for name in ("set[1]", "set1", "a?b", "aXb", "x::y", "x*", "x%20y", "~"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text(json.dumps({"folder": name}))
    for name in ("set[1]", "a?b", "x::y", "x*", "x%20y", "~"):
        assert read_rows(tmp_path / name / "a.jsonl") == [{"folder": name}]
    with pytest.raises(DataError, match="No such file"):
        read_rows(tmp_path / "set[12]" / "a.jsonl")


def test_other_contents_of_the_same_date_and_size_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    for gold in (1, 2):
        path.write_text(json.dumps({"gold": gold}))
        os.utime(path, (10**9, 10**9))
        assert read_rows(path) == [{"gold": gold}]


def bytes_of(names, write):
    stream = pa.BufferOutputStream()
    write(pa.Table.from_arrays([pa.array([name]) for name in "ab"], names=names), stream)
    return stream.getvalue().to_pybytes()


def write_stream(table, stream):
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)


def write_arrow(table, stream):
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)


def zstandard(content):
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, "zstd") as packed:
        packed.write(content)
    return stream.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress, zstandard], ids=["gz", "bz2", "xz", "zst"]
)
def test_a_packed_file_is_read_by_its_contents(tmp_path, request, pack):
    suffix = request.node.callspec.id
    for name in (f"a.jsonl.{suffix}", "b.jsonl", f"C.JSON.{suffix.upper()}"):
        (tmp_path / name).write_bytes(pack(lines().encode()))
        assert read_rows(tmp_path / name) == ROWS


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.arrow", write_arrow),
        ("a.arrow", write_stream),
        ("a.feather", feather.write_feather),
        ("a.parquet", pq.write_table),
        ("parquet.jsonl", pq.write_table),
        ("arrow.json", write_arrow),
    ],
)
def test_tables_of_arrow_are_read_by_their_contents(tmp_path, name, write):
    (tmp_path / name).write_bytes(bytes_of(["q", "a"], write))
    assert read_rows(tmp_path / name) == [{"q": "a", "a": "b"}]
    assert read_rows(tmp_path / name, columns=["a"]) == [{"a": "b"}]


FRAME = [{"q": "x", "a": 1}, {"q": "y", "a": 2}]
OBJECTS = {
    "data": {"data": FRAME},
    "version": {"version": "1", "examples": FRAME},
    "any name": {"exam": FRAME},
    "split beside others": {"about": "sums", "test": FRAME, "train": FRAME[:1]},
    "columns": {"q": ["x", "y"], "a": [1, 2]},
    "pandas columns": {"q": {"0": "x", "1": "y"}, "a": {"0": 1, "1": 2}},
    "pandas index": {"0": FRAME[0], "1": FRAME[1]},
    "pandas split": {"columns": ["q", "a"], "index": [0, 1], "data": [["x", 1], ["y", 2]]},
    "pandas table": {"schema": {"fields": []}, "data": FRAME},
    "columns by split": {"train": {"q": ["z"], "a": [3]}, "test": {"q": ["x", "y"], "a": [1, 2]}},
}


@pytest.mark.parametrize("form", OBJECTS)
@pytest.mark.parametrize("indent", [None, 1])
def test_one_json_object_gives_the_rows_that_it_holds(tmp_path, form, indent):
    (tmp_path / "a.json").write_text(json.dumps(OBJECTS[form], indent=indent))
    assert read_rows(tmp_path / "a.json", split="test") == FRAME


MESSAGES = [{"role": "user", "content": "x"}]
SINGLE = [
    {"prompt": MESSAGES},
    {"chosen": MESSAGES, "rejected": MESSAGES},
    {"conversations": [{"from": "human", "value": "x"}]},
    {"q": "x", "tests": [{"input": 1}]},
    {"q": "x", "tests": ["a", "b"]},
    {"q": "x", "reward": {"truth": "7"}},
    {"q": "x", "examples": [{"input": "1", "output": "2"}]},
    {"q": "x", "data": {"a": ["b"]}},
]


@pytest.mark.parametrize("row", SINGLE, ids=lambda row: "-".join(row))
def test_an_object_that_is_a_row_stays_one(tmp_path, row):
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert read_rows(tmp_path / "a.jsonl", split="train") == [row]


def test_numbers_keep_all_their_digits(tmp_path):
    written = ["9" * 5000, "0.1234567890123456789", "1e400", "0.10", "12345678901234567.5"]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"a": {each}}}\n' for each in written))
    assert [Decimal(str(row["a"])) for row in read_rows(tmp_path / "a.jsonl")] == [
        *map(Decimal, written)
    ]


def test_a_text_file_has_a_row_a_line_and_is_no_table_of_a_folder(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  two \r\n", newline="")
    assert read_rows(tmp_path / "a.txt") == [{"text": "one"}, {"text": "  two "}]
    (tmp_path / "b.txt").write_text("a\u2028b\x0cc\x85d\re", newline="")
    assert read_rows(tmp_path / "b.txt") == [{"text": "a\u2028b\x0cc\x85d"}, {"text": "e"}]
    write(tmp_path, "anything.jsonl")
    assert read_folder(tmp_path, "test") == [{"file": "anything.jsonl"}]


FAULTS = {
    "a.jsonl": [
        (b'{"q": 1}\n\n{bad\n', r"JSON parse error in row 2"),
        (b'{"q": 1}\n{"q": "cu', r"JSON parse error in row 2.*may have been cut there"),
        (b'{"q": 1}\n[3]\n', "row 2 is a list, not an object"),
        (
            b'{"q": "a"}\n\n{"q": "\xe4"}\n',
            r"row 2 \(line 3 of the file\) has a byte .*0xe4.*iconv",
        ),
        (b'{"q": ' + b"[" * 200_000, "JSON parse error in row 1"),
        (gzip.compress(b'{"q": 1}\n' * 1000, mtime=0)[:-9], "cannot be read"),
    ],
    "a.json": [
        (b'[{"q": 1}, 2]', "row 2 is a int, not an object"),
        (b'[{"q": 1}', "JSON parse error in the list"),
        (b'{"train": [{"q": 1}], "test": [{"q": 2}]}', "no split 'dev', only train, test"),
    ],
    "a.csv": [
        (b"q,a\n1,2\n3\n", "row 2 has 1 cells, not 2"),
        (b'q,a\n1,2\n"3,4\n', "row 2 is malformed"),
        (b"q,q\n1,2\n", "names a column twice"),
        (b"q\n\xff\xff\n", "cannot be read"),
    ],
    "a.parquet": [(b"PAR1 nothing", "cannot be read")],
    "a.xlsx": [(b"", "no known format")],
    "b.jsonl": [
        (b'{"q": 1}\n{"a": 1, "a": 2}\n', "row 2: it names 'a' twice"),
        (b"PK\x03\x04...", "it is a zip archive; unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "run `git lfs pull`"),
        (bz2.compress(lines().encode())[:-9], "cannot be read"),
        (lzma.compress(lines().encode())[:-9], "cannot be read"),
        (b"\x28\xb5\x2f\xfd....", "cannot be read: .*ZSTD"),
    ],
    "b.json": [
        (b'{"easy": [{"q": 1}], "hard": [{"q": 2}]}', "no split 'dev', only easy, hard"),
        (b'{"q": ["x", "y"], "a": [1]}', "its columns differ in length: q 2, a 1"),
        (b'{"train": {"q": ["x"]}, "test": {"q": ["y"]}}', "no split 'dev', only train, test"),
    ],
    "b.parquet": [(bytes_of(["q", "q"], pq.write_table), "has the column 'q' twice")],
    "b.arrow": [
        (bytes_of(["q", "q"], write_stream), "has the column 'q' twice"),
        (b"", "cannot be"),
    ],
}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [(name, content, said) for name, faults in FAULTS.items() for content, said in faults],
    ids=[f"{name}-{n}" for name, faults in FAULTS.items() for n in range(len(faults))],
)
def test_a_malformed_file_is_told_with_its_name_and_row(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_rows(tmp_path / name, split="dev")
    assert str(tmp_path / name) in str(caught.value)


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist([{"file": name}]), path)
        else:
            path.write_text(json.dumps({"file": name}))


@pytest.mark.parametrize(
    ("names", "config", "read"),
    [
        (["train.jsonl", "test.jsonl"], None, ["test.jsonl"]),
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001-5f.parquet"], None,
         ["data/test-00000-of-00001-5f.parquet"]),
        ([f"main/test-0000{n}-of-00002.parquet" for n in (1, 0)] + ["socratic/test.parquet"], "main",
         [f"main/test-0000{n}-of-00002.parquet" for n in (0, 1)]),
        (["full/test.jsonl", "sanitized/train.jsonl"], None, ["full/test.jsonl"]),
        (["test/part.jsonl", "train/part.jsonl"], None, ["test/part.jsonl"]),
        (["anything.jsonl", ".cache/test.jsonl"], None, ["anything.jsonl"]),
        (["train.jsonl"], None, ["train.jsonl"]),
    ],
)  # fmt: skip
def test_a_folder_gives_the_files_of_one_split_and_configuration(tmp_path, names, config, read):
    write(tmp_path, *names)
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert [row["file"] for row in read_folder(tmp_path, "test", config)] == read


def test_a_folder_without_the_split_says_what_it_has(tmp_path):
    with pytest.raises(DataError, match="none"):
        read_folder(tmp_path, "test")
    write(tmp_path, "train.jsonl", "dev.jsonl")
    with pytest.raises(DataError, match="no split 'test', only dev, train"):
        read_folder(tmp_path, "test")
    write(tmp_path, "a/test.jsonl", "b/test.jsonl")
    with pytest.raises(DataError, match=r"no data of one configuration, but of .*a, b"):
        read_folder(tmp_path, "test")


def test_saved_splits_may_have_any_name_where_there_is_one(tmp_path):
    rows = datasets.Dataset.from_list([{"q": "a"}])
    datasets.DatasetDict(odd=rows).save_to_disk(tmp_path / "one")
    datasets.DatasetDict(odd=rows, test=rows).save_to_disk(tmp_path / "two")
    assert read_folder(tmp_path / "one", "test") == [{"q": "a"}]
    assert read_folder(tmp_path / "two", "test") == [{"q": "a"}]
    with pytest.raises(DataError, match="no split 'train', only odd, test"):
        read_folder(tmp_path / "two", "train")
    (tmp_path / "one" / "dataset_dict.json").write_text("[]")
    with pytest.raises(DataError, match=r"dataset_dict.json cannot be read"):
        read_folder(tmp_path / "one", "test")


def test_a_saved_data_set_is_read_row_by_row(tmp_path):
    datasets.Dataset.from_list([{"a": n} for n in range(3)]).save_to_disk(str(tmp_path / "s"))
    rows = saved_rows(tmp_path / "s")
    assert next(rows) == {"a": 0}
    assert list(rows) == [{"a": 1}, {"a": 2}]
    (tmp_path / "s" / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        list(saved_rows(tmp_path / "s"))


def test_a_folder_of_several_benchmarks_is_no_data_set(tmp_path):
    write(tmp_path / "several", "aime_2025.jsonl", "gsm8k_test.jsonl")
    write(tmp_path / "set", "test.jsonl")
    write(tmp_path / "hub", "data/whatever.parquet")
    found = {name: is_dataset_folder(tmp_path / name) for name in ("several", "set", "hub")}
    assert found == {"several": False, "set": True, "hub": True}
