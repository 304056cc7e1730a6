"""Processes of a sweep: a forked one is as good as a fresh one, and none outlives who began it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

JOB = """
import os, sys, time

def main():
    print("job", sys.argv[1:], os.getsid(0) == os.getpid(), flush=True)
    exec(sys.argv[1])

if __name__ == "__main__":
    main()
"""
OWNER = """
import os, signal, subprocess, sys, time
from pathlib import Path
from opdlab.training.processes import Zygote, end

def start(code, name="log"):
    return zygote.start("job", [code], Path(name), signal.SIGKILL)

with Zygote() as zygote:
    exec(sys.argv[1])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "job.py").write_text(JOB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def owner(folder: Path, code: str) -> subprocess.Popen[str]:
    """A process with a zygote that runs some code; not this one, which has threads."""
    command = [sys.executable, "-c", OWNER, code]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)


def answer(folder: Path, code: str) -> str:
    text, _ = owner(folder, code).communicate(timeout=60)
    return text.strip()


def test_a_forked_process_ends_with_the_code_of_a_fresh_one(folder: Path):
    codes = ["sys.exit(3)", "pass", "1 / 0", "os.kill(os.getpid(), 9)", "sys.exit('words')"]
    asked = f"print([start(code, 'log').wait(60) for code in {codes!r}])"
    assert answer(folder, asked) == "[3, 0, 1, -9, 1]"
    log = (folder / "log").read_text()
    assert "job ['sys.exit(3)'] True" in log
    assert "ZeroDivisionError" in log
    assert "words" in log


def test_several_run_at_once_and_a_wait_ends_when_its_time_is_up(folder: Path):
    code = """
slow, fast = start("time.sleep(60)"), start("sys.exit(7)")
print(fast.wait(), slow.poll())
try:
    slow.wait(0.2)
except subprocess.TimeoutExpired:
    print("late")
end(slow, 5)
print(slow.returncode)
"""
    assert answer(folder, code).split() == ["7", "None", "late", "-15"]


def test_one_that_ignores_a_request_to_stop_is_killed_with_its_group(folder: Path):
    stubborn = "import signal, subprocess; signal.signal(15, signal.SIG_IGN); print(subprocess."
    stubborn += "Popen(['sleep', '300']).pid, flush=True); time.sleep(300)"
    code = f"""
Path("log").touch()
child = start({stubborn!r})
while len(Path("log").read_text().splitlines()) < 2: time.sleep(0.01)
end(child, 0.2)
print(child.returncode)
"""
    assert answer(folder, code) == "-9"
    assert_gone([int((folder / "log").read_text().split()[-1])])


def test_when_the_zygote_is_killed_its_children_are_and_the_next_starts_afresh(folder: Path):
    code = """
child = start("time.sleep(300)")
os.kill(zygote._process.pid, 9)
print(child.wait(30), child.pid)
print(start("sys.exit(5)", "second").wait(60))
"""
    first, pid, second = answer(folder, code).split()
    assert (first, second) == ("-9", "5")
    assert_gone([int(pid)])
    assert "True" in (folder / "second").read_text()


@pytest.mark.parametrize("number", [9, 15])
def test_nothing_outlives_the_owner_however_it_ends(folder: Path, number: int):
    process = owner(folder, 'start("time.sleep(300)"); print("begun", flush=True); time.sleep(300)')
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    family = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert len(family) == 2
    os.kill(process.pid, number)
    process.communicate()
    assert_gone(family)


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
