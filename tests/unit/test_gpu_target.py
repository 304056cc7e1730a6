"""`make gpu`: one command, which ends in its minutes whatever hangs."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tests_that_hang_leave_the_benchmark_its_time_and_fail(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, does in (("python", 'echo "$@" >&2; exec sleep 600'), ("opdlab", 'echo "$@"')):
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    (tmp_path / ".installed-dev").touch()
    done = subprocess.run(
        ["make", "--silent", "gpu", f"VENV={tmp_path}", "GPU=0.02", "DEVICE=cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    # So that the report of all others is printed.
    assert "tests/gpu --verbose --timeout 90 --session-timeout 0.48" in done.stderr
    words = done.stdout.split()
    assert words[:3] == ["bench", "gpu", "--minutes"], done
    assert float(words[3]) <= 0.02
    assert words[4:] == ["--device", "cpu", "--to", "gpu-cpu.json"]
