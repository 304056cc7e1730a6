"""A right, quick program is correct on a machine that kills, stops, starves or refuses it once."""

import contextlib
import os
import signal
import threading
import time

import psutil
import pytest
from machine import need_sandbox

from opdlab_evaluators.programs import judging
from opdlab_evaluators.programs.judging import Assertions, UnsettledError, Worker
from opdlab_evaluators.programs.pool import ProgramPool
from opdlab_evaluators.sandbox.inside.clock import Clock, worked
from opdlab_evaluators.sandbox.inside.patience import STALL_S, Patience, Usage
from opdlab_evaluators.sandbox.process import Limits, Sandbox, SandboxDiedError

LIMITS = Limits(cpu_s=0.5, wall_s=1.0)
TESTS = Assertions("assert add(1, 2) == 3", names={"add": "add"})
SLOW = "import time\ndef add(a, b):\n    time.sleep(0.3)\n    return a + b"


@pytest.fixture(scope="module")
def worker():
    need_sandbox()
    worker = Worker()
    yield worker
    worker.close()


def job(sandbox):
    """The process that a sandbox runs at this moment, once it does."""
    while True:
        with contextlib.suppress(psutil.Error, AttributeError, ValueError):
            *above, last = psutil.Process(sandbox.process.pid).children(recursive=True)
            if above and last.parent().name() == last.name() == "python":
                return last
        time.sleep(0.001)


@pytest.mark.parametrize("which", ["programs", "judges"])
def test_one_that_the_kernel_kills_for_want_of_memory_is_judged_again(which):
    need_sandbox()
    with ProgramPool(workers=2) as pool:
        for worker in pool.workers:
            worker.programs.start()
            worker.judges.start()
        killed = []

        def kill():
            killed.append(job(getattr(pool.workers[0], which)))
            killed[0].kill()

        killer = threading.Thread(target=kill)
        killer.start()
        found = pool.judge([lambda worker: judging.judge(worker, SLOW, TESTS, LIMITS)] * 2)
        killer.join()
    assert len(killed) == 1
    assert [verdict.status for verdict in found] == ["correct", "correct"]


DOUBTFUL = {
    "waiting for ever": "import time\ndef add(a, b): time.sleep(60)",
    "killed": "import os\ndef add(a, b): os.kill(os.getpid(), 9)",
    "no thread": 'def add(a, b): raise RuntimeError("can\'t start new thread")',
    "no memory": "def add(a, b): raise MemoryError",
}
SETTLED = {
    "another result": "def add(a, b): return 4",
    "an error": "def add(a, b): return [][1]",
    "an exit": "def add(a, b): exit()",
    "too much processor time": "def add(a, b):\n    while True: pass",
}


@pytest.mark.parametrize("name", DOUBTFUL | SETTLED)
def test_what_the_machine_may_have_done_is_settled_alone_and_the_rest_at_once(worker, name):
    program = (DOUBTFUL | SETTLED)[name]
    worker.more = 2
    try:
        with pytest.raises(UnsettledError) if name in DOUBTFUL else contextlib.nullcontext():
            verdict = judging.judge(worker, program, TESTS, LIMITS)
            assert verdict.status == "wrong"
        printing = f"{program}\nprint(add(1, 2))"
        with pytest.raises(UnsettledError) if name in DOUBTFUL else contextlib.nullcontext():
            judging.answer_stdin(worker, printing, "", LIMITS)
        with pytest.raises(UnsettledError) if name in DOUBTFUL else contextlib.nullcontext():
            judging.answer_call(worker, program, "add", [1, 2], LIMITS)
    finally:
        worker.more = 0
    if name in DOUBTFUL:
        assert judging.judge(worker, program, TESTS, LIMITS).status == "wrong"


def test_time_in_which_the_whole_machine_stands_still_is_nobodys(worker):
    sandbox = worker.programs
    with sandbox.open("script", "import time\ntime.sleep(0.3)", limits=LIMITS) as running:
        program = job(sandbox)
        stopped = [program.parent(), program]
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        time.sleep(LIMITS.wall_s + 0.3)
        for process in stopped:
            process.send_signal(signal.SIGCONT)
        ended = running.finish()
    assert (ended.why, ended.exit) == ("", 0)
    assert ended.stalled > 0


def test_a_process_that_cannot_be_made_ready_is_a_fault_of_the_sandbox(worker):
    with pytest.raises(SandboxDiedError, match="could not make a process ready"):
        worker.programs.run("print(1)", limits=Limits(open_files=1 << 40))
    assert worker.programs.run("print(1)").stdout == b"1\n"


def test_the_judges_wait_for_a_program_is_no_time_of_the_tests(worker, monkeypatch):
    monkeypatch.setattr(judging, "JUDGE_LIMITS", Limits(cpu_s=2, wall_s=0.1))
    assert judging.judge(worker, SLOW, TESTS, LIMITS).status == "correct"
    waits = Assertions("import time\ntime.sleep(9)\nassert add(1, 2) == 3", names={"add": "add"})
    assert judging.judge(worker, SLOW, waits, LIMITS).status == "grader_timeout"


def test_a_lone_process_is_charged_what_it_used_and_what_it_waited():
    def after(seconds, usage, patience):
        patience.last -= seconds
        patience.look(usage)
        return patience.own

    patience = Patience(None, own_clock=False)
    assert after(0.4, Usage(processes=1), patience) == pytest.approx(0.4, abs=0.1)
    # Ready to run and given a tenth of the time: nine tenths are the machine's.
    assert after(0.4, Usage(0.04, 0, 1, ready=True), patience) == pytest.approx(0.44, abs=0.1)
    assert after(9.0, Usage(0.04, 0, 1), patience) == pytest.approx(0.44 + STALL_S, abs=0.1)
    assert patience.stalled == pytest.approx(9 - STALL_S, abs=0.1)
    # Several keep each other from running.
    assert after(0.4, Usage(0.04, 0, 2, ready=True), patience) == pytest.approx(1.34, abs=0.1)


def test_the_clock_of_a_pair_gives_each_its_own_time(tmp_path):
    with open(tmp_path / "clock", "wb+") as file:
        clock = Clock(file.fileno())
        judge, program = (Patience(file.fileno(), own_clock) for own_clock in (True, False))
        clock.since -= 0.4  # it has worked for so long
        clock.pause()
        for patience in (judge, program):
            patience.last -= 0.45
            patience.look(Usage(processes=1))
        assert judge.own == pytest.approx(0.4, abs=0.04)
        assert program.own == pytest.approx(0.05, abs=0.04)
        # The judge begins anew in its sandbox: what was its time stays its time.
        Clock(file.fileno()).pause()
        program.look(Usage(processes=1))
        assert program.own == pytest.approx(0.05, abs=0.04)


def test_a_judge_that_waits_for_a_processor_is_no_idle_program(tmp_path):
    with open(tmp_path / "clock", "wb+") as file:
        clock = Clock(file.fileno())
        clock.know_delays()
        clock.pause()
        before = worked(file.fileno())
        clock.delayed -= 0.5  # the kernel says it was ready for so long, and did not run
        clock.resume()
        clock.pause()
        assert worked(file.fileno()) - before >= (0.5 if clock.schedule >= 0 else 0)
        if clock.schedule >= 0:
            os.close(clock.schedule)


def test_a_judge_in_its_sandbox_learns_how_long_it_waited_for_a_processor():
    need_sandbox()
    program = "print(len(open('/proc/self/schedstat').read().split()))"
    with Sandbox() as sandbox:
        if os.path.exists("/proc/self/schedstat"):
            assert sandbox.run(program).stdout == b"3\n"


def test_one_that_waits_to_the_end_of_its_time_does_so_twice_and_one_that_is_killed_thrice():
    need_sandbox()
    tried = []

    def task(name):
        def judged(worker):
            tried.append(name)
            return judging.judge(worker, DOUBTFUL[name], TESTS, LIMITS)

        return judged

    with ProgramPool(workers=1) as pool:
        found = pool.judge([task("waiting for ever"), task("killed")])
    assert [verdict.status for verdict in found] == ["wrong", "wrong"]
    assert (tried.count("waiting for ever"), tried.count("killed")) == (2, 3)
