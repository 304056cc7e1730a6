"""Every `opdlab` command that a page shows exists, with its options: a hook of MkDocs.

A fault is a warning, which ends a strict build.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

LOG = logging.getLogger("mkdocs.hooks.shown_commands")
IN_CONSOLE = re.compile(r"^\s*\$ (?:[A-Z_]+=\S+ )?(opdlab .*)$", re.MULTILINE)
IN_TEXT = re.compile(r"`(opdlab [^`\n]*)`")
ALWAYS = {"--help", "--version", "--install-completion"}


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> None:
    """Look at one page; its text stays as it is."""
    text = markdown.replace("\\\n", " ")
    for line in (*IN_CONSOLE.findall(text), *IN_TEXT.findall(text)):
        for fault in faults(line):
            LOG.warning("%s: `%s`: %s", page.file.src_uri, line, fault)


def faults(line: str) -> Iterator[str]:
    """What is wrong with a command line."""
    bare = re.split(r"\s+#\s", re.sub(r"\$\(.*?\)", "", line))[0]
    try:
        command, words = root(), shlex.split(bare)[1:]
    except ValueError as error:
        yield str(error)
        return
    while words and getattr(command, "commands", None) and not words[0].startswith("-"):
        name = words.pop(0)
        if name == "COMMAND":
            return
        if name not in command.commands:
            yield f"no command {name}"
            return
        command = command.commands[name]
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    for word in words:
        if word.startswith("--") and word.partition("=")[0] not in options | ALWAYS:
            yield f"no option {word}"


@cache
def root() -> Any:
    """The command `opdlab`."""
    import typer

    from opdlab.cli.program import app

    return typer.main.get_command(app)
