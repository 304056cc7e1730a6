"""What README and the site show can be typed as it stands: files load, commands parse, programs run."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import runpy
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from typer.exceptions import TyperException

import opdlab
from opdlab.cli.program import app
from opdlab.configuration import load
from opdlab.errors import ConfigError

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
EXAMPLES = [
    "opdlab.api.commands",
    "opdlab.api.teacher",
    "opdlab.api.trainer",
    "opdlab_evaluators.statistics.intervals",
    "opdlab_evaluators.statistics.ranking",
    "opdlab_evaluators.statistics.resampling",
]
"""Modules of the reference whose docstrings hold examples."""
each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(ROOT).with_suffix(""))
)
BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
IN_TEXT = re.compile(r"`(opdlab [^`\n]*)`")


def blocks(page: Path, language: str) -> list[str]:
    """Texts of the page's blocks in a language, those that include a shipped file left out."""
    found = [
        re.sub(f"^{indent}", "", text, flags=re.MULTILINE)
        for indent, kind, text in BLOCK.findall(page.read_text())
        if kind == language
    ]
    return [text for text in found if "--8<--" not in text]


@cache
def root() -> Any:
    """The command `opdlab`."""
    return typer.main.get_command(app)


def merged(fragment: dict[str, Any]) -> str:
    """A whole experiment: the README's, with sections of a page in place of its own."""
    (example,) = blocks(ROOT / "README.md", "yaml")
    whole = {**yaml.safe_load(example), "method": {"type": "opd"}}
    del whole["runs"]
    for key, value in fragment.items():
        adds = (
            key in whole and isinstance(value, dict) and not {"type", "path", "scores"} & set(value)
        )
        whole[key] = {**whole[key], **value} if adds else value
    return yaml.safe_dump(whole)


def written(page: Path) -> Iterator[str]:
    """Every experiment of the page, made whole."""
    for text in blocks(page, "yaml"):
        fragment = yaml.safe_load(text)
        if fragment:
            yield text if "name" in fragment else merged(fragment)


@each_page
def test_every_yaml_of_a_page_loads(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in written(page):
        (tmp_path / "my.yaml").write_text(text)
        load("my.yaml")


def rows(page: str, heading: str) -> list[str]:
    """What the second column of a table says to write."""
    table = (ROOT / "docs" / page).read_text().split(heading)[1].split("\n\n")[0]
    found = [re.search(r"\| `([^`]+)`", row) for row in table.splitlines()[2:]]
    return [one[1] for one in found if one]


PROMPTS = rows("how-to/prompts.md", "| the file you have |")
BENCHMARKS = rows("how-to/benchmark.md", "| the answers you have |")


@pytest.mark.parametrize("cell", PROMPTS)
def test_every_row_of_the_table_of_files_loads(
    cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = yaml.safe_load("{" + cell + "}")
    place = {} if "sources" in given else {"path": "data.jsonl"}
    sections: dict[str, Any] = {"prompts": {"type": "dataset", **place, **given}}
    if "given" in given:
        sections["method"] = {"type": "sft"}
    (tmp_path / "my.yaml").write_text(merged(sections))
    load("my.yaml")


@pytest.mark.parametrize("cell", BENCHMARKS)
def test_every_row_of_the_table_of_answers_loads(
    cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = yaml.safe_load("{" + cell.replace(", ...]", "]") + "}")
    if "choose" in given:
        given |= {"choices": ["options"], "answer_column": "answer"}
    benchmark = {"type": "dataset", "name": "mine", "path": "data.jsonl", "column": "question"}
    sections = {"evaluation": {"benchmarks": [benchmark | given], "samples": 2}}
    (tmp_path / "my.yaml").write_text(merged(sections))
    load("my.yaml")


def typed(page: Path) -> list[str]:
    """Command lines of the page's consoles that start with `opdlab`."""
    text = "\n".join(blocks(page, "console")).replace("\\\n", " ")
    lines = re.findall(r"^\$ (?:[A-Z_]+=\S+ )?(?:.*--no-python )?(opdlab .*)$", text, re.MULTILINE)
    return [re.split(r"\s+#\s", re.sub(r"\$\(.*?\)", "", line))[0] for line in lines]


def command_of(words: list[str]) -> Any:
    """The command that the words begin with; they are taken away."""
    command = root()
    while words and getattr(command, "commands", None) and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    return command


SHOWN_PLUGINS = ("type: final", "type: jeffreys")
"""Made on pages; tests/end_to_end/test_documented_examples.py installs and runs them."""


@each_page
def test_every_command_of_a_console_is_accepted(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in typed(page):
        words = shlex.split(line)[1:]
        command = command_of(words)
        if command is root():  # `opdlab --version`: what it does is done while it is parsed
            assert set(words) <= {name for one in command.params for name in one.opts}, line
            continue
        try:
            values = command.make_context(command.name, words).params
        except TyperException as error:
            pytest.fail(f"{line}: {error}")
        overrides = values.get("overrides")
        if overrides and not any(mark in line for mark in SHOWN_PLUGINS):
            # What measures a model looks at no run of the experiment.
            alone = ["runs=[]"] if command.name in ("eval", "diagnose") else []
            accepted(page, values["experiment"], [*alone, *overrides], line)


def accepted(page: Path, experiment: str, overrides: list[str], line: str) -> None:
    """The named shipped experiment, or one of the page or of that on sweeps, takes the overrides."""
    (example,) = blocks(ROOT / "README.md", "yaml")
    faults = []
    for text in (example, *written(page), *written(ROOT / "docs" / "how-to" / "sweep.md")):
        Path("my.yaml").write_text(text)
        try:
            load("pretrain/teacher" if "teacher" in experiment else experiment, overrides)
            return
        except ConfigError as error:
            faults.append(str(error))
    pytest.fail(f"{line}:\n" + "\n".join(dict.fromkeys(faults)))


@each_page
def test_every_command_in_a_sentence_exists_with_its_options(page: Path) -> None:
    for line in IN_TEXT.findall(page.read_text()):
        words = shlex.split(line)[1:]
        command = command_of([] if words[:1] == ["COMMAND"] else words)
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known | {"--help"}, f"{line}: no option {word}"


@each_page
def test_every_program_of_a_page_compiles_and_what_it_imports_exists(page: Path) -> None:
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "opdlab":
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, one.name) for one in node.names), ast.unparse(node)
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "opdlab":
                assert node.attr in dir(opdlab), ast.unparse(node)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem
)
def test_every_link_of_a_page_outside_of_the_site_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("number", [1, 2])
def test_the_short_programs_of_the_page_on_python_run(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(blocks(ROOT / "docs" / "how-to" / "notebook.md", "python")[number], {})
    assert "tensor(" in capsys.readouterr().out


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_a_wide_diagram_scrolls_in_a_box_of_its_own() -> None:
    """On a telephone a row of ten boxes would be unreadably small."""
    hook = runpy.run_path(str(ROOT / "docs" / "local_scripts.py"))["on_post_page"]
    drawn = '<pre class="mermaid"><code>flowchart {}\nA --&gt; B</code></pre>'
    page = drawn.format("LR") + drawn.format("TD") + '<script src="a.js"></script>'
    made = hook(page, page=SimpleNamespace(url="start/"))
    assert made.count('<div class="wide-diagram" tabindex="0"><pre') == 1
    assert made.index("wide-diagram") < made.index("LR") < made.index("</div>") < made.index("TD")


def test_no_page_hides_what_docstrings_say() -> None:
    """Hiding the description of a module hid those of all its functions, too."""
    assert not [page for page in PAGES if "show_docstring_" in page.read_text()]


def test_examples_of_docstrings_are_shown_as_code() -> None:
    """Under `Example:` a page shows the prompts as quotations, and reads a list as a link."""
    sources = [
        file.read_text()
        for room in ("platform", "evaluators", "dashboards")
        for file in (ROOT / room).rglob("*.py")
    ]
    assert sum("Examples:\n" in source and ">>>" in source for source in sources) > 5
    assert not [s for s in sources if re.search(r"^ *Example:\n\s*>>>", s, re.MULTILINE)]


def test_points_of_a_list_begin_on_lines_of_their_own() -> None:
    """Wrapping of lines had drawn `- ` into the sentence before it, and merges had doubled entries."""
    told = re.findall(r"^- (.{60,})$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert not sorted(line for line in {*told} if [t[:60] for t in told].count(line[:60]) > 1)
    pages = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "experiments" / "LOG.md"]
    assert not [page for page in pages if re.search(r"\.\**\)? - [*`A-Z]", page.read_text())]


class Silent(doctest.OutputChecker):
    """An example that says no output may print its progress."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_docstrings_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(Silent(), verbose=False)
    for test in doctest.DocTestFinder().find(module):
        runner.run(test)
    assert runner.tries > 0
    assert runner.failures == 0
