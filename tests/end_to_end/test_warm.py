"""Commands begin in a process that has imported everything, whatever was tested before."""

from __future__ import annotations

from end_to_end.warm import Command, start


def test_a_command_is_forked_where_a_test_changes_nothing() -> None:
    process = start("--version")
    text, _ = process.communicate(timeout=120)
    assert isinstance(process, Command), "an import has set a variable: see LATE"
    assert process.returncode == 0, text
    assert text.startswith("opdlab ")
