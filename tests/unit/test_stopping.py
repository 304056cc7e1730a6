"""Ctrl-C and SIGTERM: every command ends with the signal's exit code and a line that says what goes on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest
from pydantic import BaseModel, field_serializer
from run_folders import draws, write_run

from opdlab.cli import program
from opdlab.console import StopRequest
from opdlab.errors import Terminated, TrackingError
from opdlab.tracking import mlflow_page

KEPT, ANEW = "continues from here", "begins again"
TINY = (
    "training.steps=2",
    "training.prompts_per_step=2",
    "rollout.max_new_tokens=8",
    "output=runs",
)
FEW = ("evaluation.benchmarks=[{type: math, level: short, limit: 2}]", "evaluation.samples=2")
STEP = ("bench", "step", "quickstart", *TINY, *FEW, "--rounds", "1", "--steps", "1")
GPU = ("bench", "gpu", "--device", "cpu", "--only", "step", "--dtype", "float32")
EVAL = ("eval", "quickstart", "--model", "embedded:student", *TINY, *FEW)
# Where a command is, deep in its work, when the signal comes; whether the same command goes on.
COMMANDS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("train", "quickstart", *TINY), "load_pair", ANEW),
    (("train", "quickstart", *TINY, "--resume"), "variants", KEPT),
    (("sweep", "sweeps/lookahead", *TINY), "open_study", KEPT),
    (EVAL, "load_model", KEPT),
    (EVAL, "save_pretrained|decoded_step|draw", KEPT),
    (("diagnose", "quickstart", *TINY), "load_model", KEPT),
    (("doctor", "quickstart", *TINY), "one_origin", ANEW),
    (("doctor", "objective"), "true_gradient|examine", ANEW),
    (("plan", "quickstart", *TINY), "show", ANEW),
    (("prompts", "quickstart", *TINY), "_show_prompt", ANEW),
    (("power", "quickstart"), "show", ANEW),
    (("regrade", "runs/try-001/opd"), "find_run", KEPT),
    (("compare", "runs/try-001/opd", "runs/try-001/lgr"), "find_run", ANEW),
    (("samples", "runs/try-001/opd"), "write_page", ANEW),
    (("report", "try-001"), "write_beside", ANEW),
    (("leaderboard",), "write_whole", ANEW),
    (("sync",), "_unsent_below", KEPT),
    (("data", "check", "gsm8k"), "check_one", ANEW),
    (STEP, "on_train_batch_end", ANEW),
    (GPU, "measure", KEPT),
    (("pretrain", "pretrain/student", "output=made"), "new_model", ANEW),
)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two runs below the folder that one stands in, whose name is none for a shell."""
    monkeypatch.chdir(tmp_path)
    for name in ("opd", "lgr"):
        write_run(tmp_path / "runs" / "try-001" / name, {"math/short": draws(0.5)})
    yield tmp_path / "runs"
    sys.setprofile(None)


def signalled(words: tuple[str, ...], number: int, inside: str) -> int:
    """Run a command to which a signal comes as soon as it is inside one of these functions."""
    names = inside.split("|")

    def look(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name in names and "opdlab" in code.co_filename:
            sys.setprofile(None)
            os.kill(os.getpid(), number)

    sys.argv = ["opdlab", *words]
    sys.setprofile(look)
    with pytest.raises(SystemExit) as ended:
        program.main()
    return int(str(ended.value.code))


def test_a_thread_beside_takes_no_signals_and_works_all_the_same() -> None:
    """As `opdlab.train` in a program that keeps its main thread for itself."""

    def beside() -> Any:
        with StopRequest() as stop:
            stop.listen()
            stop.check()
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(beside).result() == signal.getsignal(signal.SIGINT)


@pytest.mark.parametrize(
    ("words", "inside", "what"), COMMANDS, ids=[f"{one[0][0]} in {one[1]}" for one in COMMANDS]
)
def test_a_stopped_command_says_which_one_takes_it_up(
    words: tuple[str, ...],
    inside: str,
    what: str,
    runs: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(store, runs / "mlflow.db")
    monkeypatch.setattr(sys, "argv", sys.argv)
    before = sorted(path for path in runs.parent.rglob("*") if path.is_file())
    number = (signal.SIGINT, signal.SIGTERM)[len(inside) % 2]
    assert signalled(words, number, inside) == 128 + number
    said = capsys.readouterr()
    line = said.err.strip().splitlines()[-1]
    assert line.startswith(f"stopped by {number.name}; `opdlab {words[0]}")
    assert line.endswith(f"{what}.")
    assert "Traceback" not in said.out + said.err
    left = {path for path in runs.parent.rglob("*") if path.is_file()} - {*before}
    assert not {path.suffix for path in left} & {".html", ".csv", ".partial", ".md"}


def test_a_page_whose_port_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TrackingError, match=f"port {port} .*name another with --port"):
            mlflow_page.serve(str(tmp_path), port)
    assert not list(tmp_path.iterdir())


def test_a_server_that_is_ended_takes_its_processes_along() -> None:
    begin = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); print(1, flush=True)"
    begin += "; time.sleep(99)"
    words = [sys.executable, "-c", begin, "sleep", "99"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as server:
        assert server.stdout is not None
        server.stdout.readline()
        children = psutil.Process(server.pid).children()
        mlflow_page._end(server)
    assert not psutil.wait_procs(children, timeout=10)[1]


def test_a_signal_within_foreign_code_that_makes_an_error_of_it_ends_the_command_as_any(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Saved(BaseModel):
        when: int = 0

        @field_serializer("when")
        def told(self, value: int) -> int:
            raise Terminated(128 + signal.SIGTERM)

    monkeypatch.setattr(sys, "argv", ["opdlab", "train", "quickstart"])
    monkeypatch.setattr(program, "app", lambda **_: Saved().model_dump(mode="json"))
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; `opdlab train quickstart` begins again." in capsys.readouterr().err
