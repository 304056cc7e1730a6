"""The command line: quick to answer, clear when it refuses, honest exit codes."""

import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from opdlab import __version__, cli
from opdlab.configuration.loader import json_schema
from opdlab.errors import ModelError
from opdlab.files import shipped

HEAVY = ("torch", "transformers", "mlflow", "lightning", "datasets", "numpy", "yaml")
COMMANDS = (
    "validate",
    "plan",
    "train",
    "pretrain",
    "merge",
    "eval",
    "compare",
    "leaderboard",
    "report",
    "ui",
    "sync",
    "experiments",
    "plugins",
    "schema",
)


def opdlab(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["opdlab", *arguments])
    monkeypatch.setenv("COLUMNS", "80")
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_help_answers_in_under_a_second():
    """Processor time, which other programs on the machine do not lengthen; it waits for nothing."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", "from opdlab.cli import main; main()", "--help"],
            check=True,
            capture_output=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert statistics.median(seconds) < 1.0, seconds


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nfrom opdlab.cli import main\ntry:\n    main()\n"
        "except SystemExit:\n    assert type(sys.modules.pop('torch')).__name__ == '_Postponed'\n"
        f"    print('heavy:', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "train", "--help"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_help_names_every_command_and_where_to_begin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert opdlab(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert "opdlab train quickstart" in shown
    pages = shown[shown.index("Documentation:") :].removeprefix("Documentation:")
    assert Path("".join(pages.split())).is_file()
    assert {one.name for one in cli.app.registered_commands if one.name} <= set(COMMANDS)
    for command in COMMANDS:
        assert f" {command} " in shown
        assert opdlab(monkeypatch, command, "-h") == 0


@pytest.mark.parametrize(
    "command", ["eval", "regrade", "samples", "compare", "power", "data check"]
)
def test_help_of_what_measures_teaches_by_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
):
    assert opdlab(monkeypatch, *command.split(), "-h") == 0
    shown = capsys.readouterr().out
    examples = shown.partition("Examples:")[2].partition("╭")[0]
    assert examples.count(f"opdlab {command} ") >= 2


def test_a_remark_beside_an_example_is_no_part_of_its_command():
    """Without colour nothing else tells them apart."""
    files = Path(cli.__file__).parent.glob("*.py")
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    remarks = re.findall(r"(?m)^ *\[bold\]opdlab .*\[/\](.+)$", text)
    assert remarks
    assert [remark for remark in remarks if not remark.startswith("  # ")] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sweep", "sweeps/lookahead", "--cluster", "foo"), "'foo' is not one of 'slurm'"),
        (("ui", "--port", "0"), "Invalid value for '--port'"),
        (("ui", "--port", "65536"), "Invalid value for '--port'"),
    ],
)
def test_options_that_nothing_could_be_done_with_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
):
    assert opdlab(monkeypatch, *arguments) == 2
    assert said in capsys.readouterr().err


def test_an_evaluation_of_nothing_and_an_address_that_is_none_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    measured = ("eval", "quickstart", "--model", "embedded:student")
    assert opdlab(monkeypatch, *measured, "evaluation.benchmarks=[]") == 2
    assert "no evaluation.benchmarks" in capsys.readouterr().err
    assert opdlab(monkeypatch, *measured, "--server", "localhost:8000") == 2
    assert "begins with http:// or https://" in capsys.readouterr().err


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert opdlab(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"opdlab {__version__}\n"


def test_a_valid_experiment_is_called_valid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert opdlab(monkeypatch, "validate", "quickstart", "training.steps=20") == 0
    assert capsys.readouterr().out == "quickstart is valid: train quickstart, runs: opd, lgr\n"


def test_a_wrong_experiment_is_refused_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert opdlab(monkeypatch, "validate", "quickstart", "training.stepz=20") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "ConfigError: command line: unknown key training.stepz. Did you mean training.steps?\n"
    )


def test_a_missing_model_is_refused_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert opdlab(monkeypatch, "plan", "quickstart", "student.path=/no/such/folder") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("ModelError: /no/such/folder")
    assert "Traceback" not in shown.err


def test_an_unknown_command_is_a_mistake_of_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert opdlab(monkeypatch, "trian") == 2
    assert "train" in capsys.readouterr().err


def test_an_error_that_is_not_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shipped, "experiments", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        opdlab(monkeypatch, "experiments")


def test_the_schema_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert opdlab(monkeypatch, "schema") == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_shipped_experiments_are_listed_with_their_purpose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert opdlab(monkeypatch, "experiments") == 0
    shown = capsys.readouterr().out
    for name in shipped.experiments():
        assert any(line.startswith(f"{name} ") for line in shown.splitlines())
    assert "Does on-policy distillation teach" in shown


def test_plugins_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert opdlab(monkeypatch, "plugins") == 0
    shown = capsys.readouterr().out
    for kind, name in (("methods", "lgr"), ("rollouts", "cached"), ("evaluators", "routes")):
        assert any(line.split()[:2] == [kind, name] for line in shown.splitlines())


def test_telemetry_is_off(monkeypatch: pytest.MonkeyPatch):
    for name in ("MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    opdlab(monkeypatch, "--version")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "1"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_stopped_command_says_so_by_its_exit_code(number: signal.Signals, code: int):
    script = (
        "import time\nfrom opdlab import cli\n"
        "@cli.app.command()\ndef wait():\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "cli.main()"
    )
    command = [sys.executable, "-c", script, "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(timeout=20) == code
        said = process.stderr.read().decode()
        assert said == f"stopped by {number.name}; `-c wait` begins again.\n"


def test_errors_other_than_of_configuration_exit_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse() -> dict[str, Path]:
        raise ModelError("[red] is no markup here")

    monkeypatch.setattr(shipped, "experiments", refuse)
    assert opdlab(monkeypatch, "experiments") == 1
    assert capsys.readouterr().err == "ModelError: [red] is no markup here\n"


def test_no_color_holds_for_errors() -> None:
    near, far = os.openpty()
    code = "from opdlab.cli import main; main()"
    command = [sys.executable, "-c", code, "validate", "nothing.yaml"]
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm"}
    assert subprocess.run(command, stderr=far, env=environment).returncode == 2
    os.close(far)
    text = os.read(near, 10_000).decode()
    os.close(near)
    assert "nothing.yaml" in text
    assert "\x1b" not in text
