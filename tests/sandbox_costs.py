"""What a test of a program costs by the way it is run: `python tests/sandbox_costs.py`."""

import os
import platform
import statistics
import subprocess
import sys
import time

from opdlab_evaluators.programs.judging import Assertions, Worker, judge
from opdlab_evaluators.programs.pool import ProgramPool
from opdlab_evaluators.sandbox.process import Limits, Sandbox

PROGRAM = "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n"
STDIN = b"1 2 3\n"
ROUNDS, WARM = 60, 5
TESTS = 1000


def fresh_sandbox():
    with Sandbox() as sandbox:
        sandbox.run(PROGRAM, STDIN)


def fresh_process():
    command = [sys.executable, "-I", "-S", "-c", PROGRAM]
    subprocess.run(command, input=STDIN, capture_output=True, check=True)


def ways(sandbox, bare, worker):
    asked = Assertions("assert add(1, 2) == 3", names={"add": "add"})
    program = "def add(a, b): return a + b"
    return {
        "zygote in a sandbox": lambda: sandbox.run(PROGRAM, STDIN),
        "zygote without a sandbox": lambda: bare.run(PROGRAM, STDIN),
        "fresh interpreter without a sandbox": fresh_process,
        "fresh sandbox for each test": fresh_sandbox,
        "assertions: two sandboxes, values as data": lambda: judge(
            worker, program, asked, Limits()
        ),
    }


def main():
    worker = Worker()
    with Sandbox() as sandbox, Sandbox(protected=False) as bare:
        times = {}
        for number in range(ROUNDS + WARM):
            for name, run in ways(sandbox, bare, worker).items():
                began = time.perf_counter()
                run()
                if number >= WARM:
                    times.setdefault(name, []).append(time.perf_counter() - began)
    worker.close()
    medians = {name: statistics.median(each) for name, each in times.items()}
    base = medians["zygote in a sandbox"]
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.1f}"
    )
    for name, median in medians.items():
        least = min(times[name])
        print(f"| {name} | {median / base:.1f} | {1000 * median:.1f} ms | {1000 * least:.1f} ms |")
    with ProgramPool() as pool:
        tasks = [lambda worker: judge_one(worker)] * TESTS
        pool.judge(tasks[:20])
        began = time.perf_counter()
        pool.judge(tasks)
        print(f"{TESTS} tests: {time.perf_counter() - began:.1f} s with {pool.size} workers")


def judge_one(worker):
    from opdlab.records import Verdict

    right = worker.programs.run(PROGRAM, STDIN).stdout == b"6\n"
    return Verdict("correct" if right else "wrong")


if __name__ == "__main__":
    main()
