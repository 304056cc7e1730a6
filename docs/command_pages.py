"""Reference pages of the commands and of the shipped experiments, for `reference.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cells import cell


def shipped() -> Iterator[str]:
    """The experiments that come with the package, each with its question."""
    from opdlab.configuration import documents
    from opdlab.files import shipped as files

    yield "# Shipped experiments\n"
    yield "Every command that takes a file takes such a name as well: `opdlab train quickstart`."
    yield "\n| name | kind | what it is to find out |\n| --- | --- | --- |"
    for name, path in files.experiments().items():
        told = documents.read(path, str(path)).data
        yield f"| `{name}` | {told.get('kind', 'train')} | {cell(told.get('description'))} |"


def commands() -> Iterator[str]:
    """Every command with its help, arguments and options."""
    import typer

    from opdlab.cli.program import app

    yield "# Commands\n\nThe text of `opdlab COMMAND --help`. `KEY.PATH=VALUE` sets a key of the file.\n"
    root = typer.main.get_command(app)
    yield "| command | what it does |\n| --- | --- |"
    yield from glance(root, "opdlab")
    yield from group(root, "opdlab")


def glance(command: Any, name: str) -> Iterator[str]:
    """A row for each command, with the first sentence of its help."""
    for word, one in command.commands.items():
        if getattr(one, "commands", None):
            yield from glance(one, f"{name} {word}")
        elif not one.hidden:
            first = plain(" ".join((one.help or "").split("\n\n")[0].split()))
            link = f"#{name.replace(' ', '-')}-{word}"
            yield f"| [`{name} {word}`]({link}) | {cell(first)} |"


def group(command: Any, name: str) -> Iterator[str]:
    """The commands of a group."""
    for word, one in command.commands.items():
        if getattr(one, "commands", None):
            yield from group(one, f"{name} {word}")
        elif not one.hidden:
            yield f"\n## `{name} {word}` {{ #{name.replace(' ', '-')}-{word} }}\n"
            yield described(one.help or "")
            yield parameters(one)


def described(text: str) -> str:
    """Help as Markdown: what stands in bold is a command, what follows it a comment."""
    parts: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        line = " ".join(paragraph.split())
        found = re.match(r"(?:Example: )?\[bold\](.*?)\[/\]\s*(.*)", line)
        if found is None:
            parts.append(cell(plain(line)))
            continue
        if line.startswith("Example: "):
            parts.append("Example:")
        comment = plain(found[2]).lstrip("# ")
        shown = f"$ {found[1]}" + (f"  # {comment}" if comment else "")
        parts.append(f"```console\n{shown}\n```")
    return "\n\n".join(parts).replace("\n```\n\n```console\n", "\n") + "\n"


def plain(text: str) -> str:
    """Without rich's markup."""
    return re.sub(r"\[/?[a-z]*\]", "", text)


def parameters(command: Any) -> str:
    """Arguments and options as a table, from the records that `--help` prints."""
    context = command.make_context(command.name, [], resilient_parsing=True)
    rows = ["| argument or option | meaning |", "| --- | --- |"]
    for one in command.get_params(context):
        record = one.get_help_record(context)
        if record is not None and not record[0].startswith("--help"):
            rows.append(f"| `{record[0].replace('|', ', ')}` | {cell(record[1])} |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else ""
