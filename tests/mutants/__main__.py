"""Mutation tests: break the code on purpose, and see the tests that guard it fail.

    python tests/mutants                        the listed mutants; fails if one survives
    python tests/mutants --only reopold         those whose name holds a word
    python tests/mutants --random 100 --seed 1  random changes of the same files; prints those that survive

Everything happens in a copy; the working tree is not touched.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter

import pytest
from changes import Mutant, random_mutants
from listed import MUTANTS

ROOT = Path(__file__).parents[2]
COPIED = ("platform", "evaluators", "dashboards", "tests", "experiments")
SOURCES = ("platform", "evaluators", "dashboards")
LARGE = ("torch", "transformers", "lightning", "pydantic")
TIMEOUT_S = 900


def copied(folder: Path) -> Path:
    """A copy of all that tests need, without compiled files, which could outlive a change."""
    ignored = shutil.ignore_patterns("__pycache__", "mutants")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def outcome(place: Path, mutant: Mutant) -> str:
    """`killed`, `SURVIVED`, or what else came of it."""
    path = place / mutant.file
    before = path.read_text()
    if before.count(mutant.before) != 1 and mutant.after_text is None:
        return f"STALE: its text stands {before.count(mutant.before)} times in {mutant.file}"
    path.write_text(mutant.after_text or before.replace(mutant.before, mutant.after))
    try:
        code, said = tested(place, mutant.tests)
    finally:
        path.write_text(before)
    if code == pytest.ExitCode.OK:
        return "SURVIVED"
    if code == pytest.ExitCode.TESTS_FAILED or code < 0:  # below 0: a loop without an end
        return "killed"
    # A module that cannot be imported is noticed by everything.
    return "killed" if "rror" in said and "no tests ran" not in said else f"NO TEST RAN: {said}"


def tested(place: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit code of pytest, below 0 for a signal, and its last line. In a fork of this process, which has
    imported the large libraries, so that a mutant costs little more than its tests."""
    # Imported here, plugins of pytest can no longer be rewritten, which is a warning.
    excused = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
    words = ["-q", "-x", "--no-header", "-p", "no:cacheprovider", *excused, *tests]
    log = place / "pytest.log"
    child = os.fork()
    if child == 0:
        code = pytest.ExitCode.INTERNAL_ERROR
        try:
            signal.alarm(TIMEOUT_S)
            with log.open("w") as written:
                os.dup2(written.fileno(), 1)
                os.dup2(written.fileno(), 2)
            code = pytest.main(words)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(code))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), (log.read_text().strip().splitlines() or [""])[-1]


def prepare(place: Path) -> None:
    """Let this process, and those that tests start, import the copy."""
    sources = [str(place / name) for name in SOURCES]
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(sources),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    sys.dont_write_bytecode = True
    sys.path[:0] = sources
    os.chdir(place)
    for name in LARGE:
        importlib.import_module(name)


def report(mutants: Iterable[Mutant]) -> int:
    """Run them and print a line each; how many were not killed."""
    left, count, started = [], 0, perf_counter()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        place = copied(Path(folder))
        prepare(place)
        for mutant in mutants:
            began, count = perf_counter(), count + 1
            result = outcome(place, mutant)
            print(f"{result:9} {perf_counter() - began:6.1f} s  {mutant.name}", flush=True)
            if result != "killed":
                left.append((mutant, result))
    print(f"\n{count - len(left)} of {count} killed in {perf_counter() - started:.0f} s")
    for mutant, result in left:
        print(f"\n{result}: {mutant.name} ({mutant.file})")
        print(f"  - {mutant.before.strip()}\n  + {mutant.after.strip()}")
    return len(left)


def main() -> int:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    words.add_argument("--only", default="", help="a word of the names of those to run")
    words.add_argument("--random", type=int, default=0, help="so many random changes instead")
    words.add_argument("--seed", type=int, default=0, help="of the random changes")
    asked = words.parse_args()
    if asked.random:
        report(random_mutants(ROOT, asked.random, asked.seed))
        return 0
    return min(1, report(one for one in MUTANTS if asked.only in one.name))


if __name__ == "__main__":
    sys.exit(main())
