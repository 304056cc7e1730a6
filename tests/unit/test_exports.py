"""Results as files: LaTeX and Markdown of what is shown, CSV and JSON of all digits."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from opdlab.console import BOLD, END, GREEN, Result, as_latex, as_markdown
from opdlab.errors import DataError
from opdlab.evaluation import export
from opdlab.evaluation.results import Comparison

NAME = r"50% of a_b & {c} #1 \cut ~x^2 $5 <i>*|"


@dataclass(frozen=True)
class Found(Result):
    value: float = 1 / 3

    def rows(self) -> list[Mapping[str, Any]]:
        return [{"run": NAME, "mean": {"value": self.value, "low": -0.25}}]

    def shown(self) -> Iterator[RenderableType]:
        table = Table(title=f"{BOLD}Scores{END} in %")
        table.add_column("run")
        table.add_column("d", justify="right")
        table.add_row(NAME, f"{GREEN}-1.5 [-4, 2] ▲{END}")
        table.add_row("  mean@8-2")
        yield Group(table, "A sentence: p < 0.05 with `--seeds 5`.")
        yield Text("first line\n  second | line")


def test_a_name_cannot_leave_its_place() -> None:
    table = Table("a|b\nc", "d")
    table.add_row("x\n\ny", "z")
    text = Text("first\n\\end{verbatim}\\input{mine}\n```\n# mine")
    latex, markdown = as_latex([table, text]), as_markdown([table, text])
    assert "a\\textbar{}b c & d \\\\" in latex
    assert "x y & z \\\\" in latex
    assert latex.count("\\end{verbatim}") == 1
    assert "| a\\|b c | d |\n| --- | --- |\n| x  y | z |" in markdown
    assert markdown.count("\n````") == 2, "a longer fence"


def test_a_latex_table_takes_every_sign_for_itself() -> None:
    text = Found().written_as(".tex")
    assert "\\usepackage{booktabs,amssymb}" in text
    assert "\\caption{Scores in \\%}" in text
    assert "\\begin{tabular}{lr}" in text
    assert "$-$1.5 {[}$-$4, 2] $\\blacktriangle$ \\\\" in text
    assert "\\quad mean@8-2 &  \\\\" in text
    assert "`-{}-seeds 5".replace("`", r"\textasciigrave{}") in text
    assert "\\begin{verbatim}\nfirst line\n  second | line\n\\end{verbatim}" in text
    (row,) = re.findall(r"50.*?(?= & \$-\$1\.5)", text)
    back = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^"}
    back |= {r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|", "{*}": "*"}
    assert not re.search(r"(?<!\\)[&%$#_]", row)
    signs = r"\\text\w+\{\}|\{\*\}|\\[&%$#_{}]"
    assert re.sub(signs, lambda found: back.get(found[0], found[0][-1]), row) == NAME


def test_a_markdown_table_keeps_its_columns() -> None:
    lines = Found().written_as(".md").split("\n")
    assert lines[:4] == ["**Scores in %**", "", "| run | d |", "| --- | ---: |"]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines[2:6])
    assert lines[5].startswith("| &nbsp;&nbsp;mean@8-2 |")
    assert "&lt;i>" in lines[4]
    assert lines[-5:] == ["```text", "first line", "  second | line", "```", ""]


def test_numbers_are_written_with_all_digits_and_what_was_there_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "found.csv"
    export(Found(), str(target))
    (row,) = csv.DictReader(target.read_text().splitlines())
    assert float(row["mean.value"]) == 1 / 3
    assert json.loads(Found().written_as(".json"))[0]["mean"]["value"] == 1 / 3
    assert json.loads(Found(math.nan).written_as(".json"))[0]["mean"]["value"] is None
    export(Found(), str(target))
    assert len(list(target.parent.iterdir())) == 1
    export(Found(0.5), str(target))
    assert len(list(target.parent.iterdir())) == 2
    assert "is kept as" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"end its name in \.md, \.tex"):
        export(Found(), str(tmp_path / "found.xls"))
    (tmp_path / "a.md").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        export(Found(), str(tmp_path / "a.md"))


def side(value: float | None, p: float = 0.5) -> Any:
    ends = {"low": -0.1, "high": 0.2} if value is not None else {"low": None, "high": None}
    return SimpleNamespace(value=value, p_holm=p, worst=-0.3, best=0.1, **ends)


def test_a_comparison_is_plotted_with_every_pair_and_benchmark(tmp_path: Path) -> None:
    each = [
        SimpleNamespace(benchmark="math/short", mean=side(0.05, 0.01)),
        SimpleNamespace(benchmark="code", mean=side(None)),
    ]
    over_seeds = SimpleNamespace(benchmark="routes", **vars(side(-0.05)))
    found = Comparison({}, {"lgr - $opd": each, "sft - opd": [over_seeds]})
    for kind, begin in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        target = tmp_path / f"found{kind}"
        export(found, str(target))
        export(found, str(target))
        assert target.read_bytes().startswith(begin)
    assert len(list(tmp_path.iterdir())) == 3, "the same differences are the same bytes"
    names = re.findall(r"<!-- (.*?) -->", (tmp_path / "found.svg").read_text())
    wanted = ["lgr - $opd", "math/short", "code", "sft - opd", "routes"]
    assert [name.replace("\\", "") for name in names if name.replace("\\", "") in wanted] == wanted
