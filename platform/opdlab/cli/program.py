"""The command line. Only light modules are imported here, so that `--help` answers at once."""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typing_extensions import override

from opdlab import __version__, credentials, secret_options
from opdlab.cli import (
    bench,
    examinations,
    files,
    models,
    pages,
    scores,
    service,
    teachers_scores,
    trainings,
)
from opdlab.console import Stopped
from opdlab.errors import ConfigError, OpdlabError, Terminated, of_the_disk
from opdlab.files import shipped
from opdlab.postponed import postpone

_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

app = typer.Typer(
    help=(
        "opdlab: the laboratory for on-policy distillation of language models.\n\n"
        "Begin with [bold]opdlab train quickstart[/], which needs neither a GPU nor a download: it "
        "trains a small student by OPD and by LGR and compares the two."
    ),
    epilog=f"Documentation: {shipped.folder('docs') / 'index.md'}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    files.init,
    files.validate,
    files.plan,
    files.prompts,
    trainings.train,
    trainings.sweep,
    trainings.pretrain,
    trainings.merge,
    teachers_scores.score,
    service.teach,
    models.fetch,
    models.prune,
    scores.evaluate,
    scores.rate,
    scores.regrade,
    pages.watch,
    pages.samples,
    scores.compare,
    examinations.doctor,
    examinations.diagnose,
    scores.power,
    pages.leaderboard,
    pages.report,
    pages.ui,
    pages.sync,
    files.experiments,
    files.list_plugins,
    files.schema,
):
    app.command({"evaluate": "eval", "list_plugins": "plugins"}.get(command.__name__))(command)

data_app = typer.Typer(help="Data of benchmarks.", no_args_is_help=True)
data_app.command("check")(examinations.check_data)
app.add_typer(data_app, name="data")
judge_app = typer.Typer(help="Models as judges.", no_args_is_help=True)
judge_app.command("check")(examinations.check_judge)
app.add_typer(judge_app, name="judge")
app.add_typer(bench.app, name="bench")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"opdlab {__version__}")
        raise typer.Exit


@app.callback()
def _before(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    # What has something to finish first, such as a step and its checkpoint, takes them over meanwhile.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _terminate)


def _terminate(number: int, frame: Any) -> NoReturn:
    raise Terminated(128 + number)


_GOES_ON = ("eval", "fetch", "regrade", "diagnose", "score", "sweep", "sync", "gpu")
"""Commands that keep what they have done; others begin again."""


_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_OF_THE_DISK |= {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR}
_OF_THE_DISK |= {errno.ELOOP, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ESTALE}


def main() -> None:
    """Run a command; an error meant for people is one message on stderr, without a traceback."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    postpone("torch")
    bare = map(secret_options.cut_argument, sys.argv[1:])
    sys.argv[1:] = map(credentials.cut_argument, bare)
    sys.excepthook = _without_secrets
    _show_foreign_words()
    try:
        app(prog_name=Path(sys.argv[0]).name)
    except Terminated as ended:
        _stopped(int(str(ended.code)))
    except Stopped as stopped:
        _stopped(stopped.exit_code)
    except Exception as error:
        # Foreign code that the signal came in may make an error of its own of what its handler raised.
        if ended := re.search(r"\bTerminated: (\d+)", str(error)):
            _stopped(int(ended[1]))
        if isinstance(error, OpdlabError):
            _fail(f"{type(error).__name__}: {error}", 2 if isinstance(error, ConfigError) else 1)
        if isinstance(error, OSError) and _is_of_the_disk(error):
            _fail(f"StorageError: {of_the_disk(error)}", 1)
        raise


def _is_of_the_disk(error: OSError) -> bool:
    """Whether it is of a file or a disk; without a name it is a fault of the program's own.

    A file may be taken away from under a command. Of a full disk Python's own `tempfile` says that no
    folder can be used.
    """
    full = "No usable temporary directory" in str(error)
    return error.errno in _OF_THE_DISK or bool(error.filename and error.strerror) or full


class _Shown(logging.LogRecord):
    """A line of a log, without secrets and with what a terminal would obey shown as symbols.

    Handlers of libraries, which come with their import, print it by formats of their own.
    """

    @override
    def getMessage(self) -> str:
        if self.exc_info and not self.exc_text:
            self.exc_text = _for_people(logging.Formatter().formatException(self.exc_info))
        return _for_people(super().getMessage())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """What Python does with a warning, likewise."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    with suppress(OSError):
        (file or sys.stderr).write(_for_people(text))


def _show_foreign_words() -> None:
    """Warnings and log lines quote the words of files, servers and models."""
    warnings.showwarning = _show_warning
    logging.setLogRecordFactory(_Shown)


def _for_people(message: str) -> str:
    from opdlab.console import shown

    return shown(credentials.hide(secret_options.hide(message)))


def _without_secrets(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print a traceback, of a fault in a program, without what was cut from its options."""
    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(credentials.hide(secret_options.hide(text)))


def _stopped(code: int) -> NoReturn:
    """Say which command takes it up again, and end with the exit code of the signal."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    kept = {*_GOES_ON, "--resume"} & {*sys.argv[1:]}
    what = "continues from here" if kept else "begins again"
    _fail(f"stopped by {signal.Signals(code - 128).name}; `{command}` {what}.", code, "yellow")


def _fail(message: str, code: int, colour: str = "red") -> NoReturn:
    # https://no-color.org: any text in the variable asks for none.
    text = _for_people(message)
    typer.echo(text if os.environ.get("NO_COLOR") else typer.style(text, fg=colour), err=True)
    raise SystemExit(code) from None
