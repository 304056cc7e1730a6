"""Progress where nobody can see a bar: plain lines, now and then, with what is worth watching."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from io import StringIO

import pytest
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from opdlab.cli import program
from opdlab.console import terminal


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def watched(monkeypatch: pytest.MonkeyPatch, clock: Clock, is_terminal: bool) -> StringIO:
    written = StringIO()
    console = Console(file=written, get_time=clock, width=40, force_terminal=is_terminal)
    monkeypatch.setattr(terminal, "console", console)
    return written


def run(clock: Clock, steps: int, seconds: float, written: StringIO) -> list[str]:
    """Lines that were there before the bar was closed."""
    with terminal.progress_bar() as bar:
        task = bar.add_task("train lgr", total=steps)
        for step in range(1, steps + 1):
            clock.now += seconds
            bar.figures = f"loss {step}  ALARM: repetition [4-grams]"
            bar.update(task, completed=step)
        return written.getvalue().splitlines()


def test_a_long_run_without_a_terminal_says_once_a_minute_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    written = watched(monkeypatch, clock, is_terminal=False)
    lines = run(clock, steps=100, seconds=20.0, written=written)
    assert len(lines) == 33
    alarm = "ALARM: repetition [4-grams]"
    assert lines[0] == f"train lgr  3 of 100, 32 min 20 s left  loss 3  {alarm}"
    assert lines[-1] == f"train lgr  99 of 100, 20.0 s left  loss 99  {alarm}"
    assert "100/100" in written.getvalue()


def test_steps_that_take_minutes_are_told_one_by_one_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    lines = run(clock, 4, 600.0, watched(monkeypatch, clock, is_terminal=False))
    assert [line.partition("  loss")[0] for line in lines] == [
        "train lgr  1 of 4",
        "train lgr  2 of 4, 20 min 0 s left",
        "train lgr  3 of 4, 10 min 0 s left",
    ]


def test_work_under_a_minute_says_nothing_before_its_end(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    assert run(clock, 50, 1.0, watched(monkeypatch, clock, is_terminal=False)) == []


def test_a_task_without_an_end_says_how_much_is_done(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    written = watched(monkeypatch, clock, is_terminal=False)
    with terminal.progress_bar() as bar:
        task = bar.add_task("copy", total=None)
        clock.now = 61.0
        bar.advance(task)
        assert written.getvalue() == "copy  1\n"


def test_a_terminal_has_its_bar_and_no_plain_lines(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    written = watched(monkeypatch, clock, is_terminal=True)
    run(clock, 10, 60.0, written)
    assert "10/10" in written.getvalue()
    assert "of 10" not in written.getvalue()


HOSTILE = "a\x1b[2J\x1b]0;title\x07\x9b31mb\u202ec\u2066\u200b\ud83d\r\x00\x7f\u2028\U000e0041é漢"


def test_a_models_words_obey_no_terminal_and_are_seen_whole() -> None:
    """Escapes, marks of direction and halves of characters are symbols wherever the console prints them."""
    written = StringIO()
    console = terminal.SymbolConsole(file=written, width=200, force_terminal=True)
    table = Table("column")
    table.add_row(HOSTILE)
    for printed in (HOSTILE, Text(HOSTILE), table, Panel(HOSTILE), {"key": [HOSTILE]}):
        written.seek(0)
        written.truncate()
        console.print(printed)
        found = re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue())
        assert not set(found) & set(HOSTILE) - set("abcé漢[2J]0;title31m")
    assert terminal.shown(HOSTILE).encode()
    assert terminal.shown("\x1b[31m\u202e\n\té") == "\u241b[31m<U+202E>\n\té"


def test_warnings_and_log_lines_of_commands_obey_no_terminal_either(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(prog_name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(HOSTILE, stacklevel=1)
        # A library has a handler of its own, as `transformers` has; another has none.
        alone, handled = logging.Logger("alone"), logging.Logger("handled")
        handled.addHandler(handler := logging.StreamHandler())
        handler.setFormatter(logging.Formatter("[handled] %(message)s"))
        for logger in (alone, handled):
            try:
                raise ValueError(HOSTILE)
            except ValueError:
                logger.exception("%s", HOSTILE)

    monkeypatch.setattr(program, "app", command)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    factory = logging.getLogRecordFactory()
    try:
        with warnings.catch_warnings():  # which puts back who shows them
            program.main()
    finally:
        logging.setLogRecordFactory(factory)
    said = capsys.readouterr().err
    assert said.count(terminal.shown(HOSTILE)) == 5
    assert said.count("[handled]") == 1
    assert not set(said) & {"\x1b", "\x9b", "\u202e"}


MARKUP = "lr [/data/x] against [lr] :key: [bold]b[/] [link=x]l \\[red]"


def test_text_that_looks_like_markup_is_printed_as_it_is(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A description with `[/data/x]` ended training, and `[lr]` vanished from it."""
    written = StringIO()
    console = terminal.SymbolConsole(file=written, width=200, markup=False, emoji=False)
    table = Table(MARKUP, title=MARKUP, caption=MARKUP)
    table.add_row(MARKUP)
    styled = f"{terminal.BOLD}{MARKUP}{terminal.END} {terminal.RED}{MARKUP}"
    for printed, times in ((MARKUP, 1), (table, 4), (Panel(MARKUP), 1), (styled, 2)):
        written.seek(0)
        written.truncate()
        console.print(printed)
        assert written.getvalue().count(MARKUP) == times
    monkeypatch.setattr(terminal, "console", console)
    with terminal.progress_bar() as bar:
        bar.add_task(MARKUP)
    assert MARKUP in written.getvalue()


def test_marks_of_style_are_no_characters_of_what_is_printed() -> None:
    written = StringIO()
    console = terminal.SymbolConsole(file=written, width=200, force_terminal=True)
    console.print(f"{terminal.BOLD}a{terminal.DIM}b{terminal.END}c{terminal.END}d{terminal.END}e")
    assert written.getvalue() == "\x1b[1ma\x1b[0m\x1b[1;2mb\x1b[0m\x1b[1mc\x1b[0mde\n"
    table = Table(f"{terminal.GREEN}ab{terminal.END}", box=None, padding=0)
    table.add_row(f"{terminal.RED}cd{terminal.END}")
    assert terminal.styled(f"{terminal.RED}cd{terminal.END}").cell_len == 2
    assert console.measure(table).maximum == 2


PAIRS = [f"lgr-lookahead-reward-{n} - opd-linear-1" for n in range(3)]


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("first", ["benchmark", "trial"])
def test_a_table_that_does_not_fit_becomes_blocks_of_which_nothing_is_cut(
    width: int, first: str
) -> None:
    table = Table(title="Differences", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column(first)
    for pair in PAIRS:
        table.add_column(pair, justify="right", no_wrap=True)
    table.add_row("math/short", *(f"+{n}.5 [-94.10, +99.25] ▲" for n in range(3)))
    page = terminal.SymbolConsole(file=StringIO(), width=width)
    page.print(table)
    text = page.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert text.count("math/short") == (1 if width == 160 or first == "trial" else 3)
    for n, pair in enumerate(PAIRS):
        assert pair in text
        assert f"+{n}.5 [-94.10, +99.25] ▲" in text
    assert text.lstrip().startswith("Differences")
    assert all(len(line) <= width for line in text.splitlines())
