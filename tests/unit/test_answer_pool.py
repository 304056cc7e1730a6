"""Equality is decided in processes that can be killed, and the pool lives on."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

from opdlab_evaluators.answers.equality import decide
from opdlab_evaluators.answers.grading import grade_answers
from opdlab_evaluators.answers.pool import AnswerPool

HARD = r"\boxed{\sum_{k=1}^{10^9} k^k}"
"""Known to nobody but math-verify, which works on it for ever."""
EASY = (r"\sqrt{8}", r"\boxed{2\sqrt{2}}")


@pytest.fixture(scope="module")
def pool():
    with AnswerPool(workers=2, cpu_limit_s=2) as pool:
        yield pool


def statuses(pairs, pool):
    return [verdict.status for verdict in grade_answers(pairs, pool)]


def test_a_costly_wrong_answer_is_wrong_and_the_pool_lives_on(pool):
    found = grade_answers([("42", HARD), EASY], pool)
    assert [verdict.status for verdict in found] == ["wrong", "correct"]
    assert "alone" in found[0].reason
    assert statuses([EASY, ("1", r"\boxed{2/2}")], pool) == ["correct", "correct"]


def test_towers_of_powers_are_wrong_before_they_are_worked_out():
    costly = [
        "9^{9^{9^{9}}}", "1000000!!!", "10^{10^{10^{10}}}", "2^{2^{2^{2^{2^2}}}}", "(10^7)!",
        r"\binom{10^9}{5\cdot 10^8}", r"7^{7^{7^7}} \bmod 1000", r"(10^{10^{10}})!", r"\sin(9^{9^{9}})",
        r"e^{e^{e^{e^{e}}}}", r"\log(9^{9^{9^9}})", r"\sqrt{10^{10^{10^{10}}}}", r"99999999999999!",
    ]  # fmt: skip
    began = time.process_time()
    for answer in costly:
        assert not decide("42", answer).equal
    assert time.process_time() - began < 5
    assert decide("10^{10^{10}}", "10^{10^{10}}").equal


def test_hundreds_of_roots_in_any_order_are_compared_at_once():
    roots = [rf"\sqrt{{{number}}}" for number in range(2, 302)]
    gold = rf"\{{{', '.join(roots)}\}}"
    began = time.process_time()
    assert decide(gold, rf"\{{{', '.join(reversed(roots))}\}}").equal
    assert not decide(gold, rf"\{{{', '.join([*roots[:-1], roots[0]])}\}}").equal
    assert not decide(gold, gold.replace(r"\sqrt{17}", r"-\sqrt{17}")).equal
    assert time.process_time() - began < 10


def test_an_answer_that_kills_its_process_twice_is_an_error_and_harms_no_other(pool):
    """The kernel's out-of-memory killer, played by the test."""
    statuses([EASY], pool)
    killer = threading.Thread(target=end_busy_workers, args=(pool, 2, signal.SIGKILL))
    killer.start()
    found = statuses([("42", HARD)], pool)
    killer.join()
    assert found == ["grader_error"]
    assert statuses([EASY], pool) == ["correct"]


def test_an_answer_that_crashes_its_process_alone_as_well_is_wrong(pool):
    statuses([EASY], pool)
    killer = threading.Thread(target=end_busy_workers, args=(pool, 2, signal.SIGSEGV))
    killer.start()
    (verdict,) = grade_answers([("42", HARD)], pool)
    killer.join()
    assert (verdict.status, "alone" in verdict.reason) == ("wrong", True)
    assert statuses([EASY], pool) == ["correct"]


def test_a_worker_that_got_no_processor_in_time_is_asked_again_alone():
    with AnswerPool(workers=1, wall_limit_s=2) as pool:
        statuses([EASY], pool)
        first = pool.workers[0].process
        first.send_signal(signal.SIGSTOP)
        assert statuses([("3", r"\boxed{\sqrt{8} + \pi}")], pool) == ["wrong"]
        assert pool.workers[0].process is not first


def end_busy_workers(pool, times, by):
    for _ in range(times):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            busy = [w for w in list(pool.workers) if w.busy is not None and w.busy >= 0]
            if busy:
                busy[0].process.send_signal(by)
                while busy[0] in pool.workers:
                    time.sleep(0.01)
                break
            time.sleep(0.01)


def test_the_pool_works_off_the_main_thread_and_leaves_alarms_alone(pool):
    before = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 500)
    found = []
    thread = threading.Thread(target=lambda: found.extend(statuses([EASY], pool)))
    thread.start()
    thread.join()
    assert found == ["correct"]
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 400
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_stopping_in_the_middle_leaves_a_usable_pool(pool):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.decide([EASY, ("42", r"\sum_{k=1}^{10^9} k^k")], on_decided=stop)
    assert statuses([EASY], pool) == ["correct"]


def test_equal_questions_are_worked_out_once_and_order_is_kept(pool):
    pairs = [EASY, ("1", r"\boxed{2}"), EASY, ("1", "nothing"), EASY]
    assert statuses(pairs, pool) == ["correct", "wrong", "correct", "no_answer", "correct"]


def test_no_worker_outlives_a_parent_that_was_killed():
    script = r"""
        import threading, time
        from opdlab_evaluators.answers.pool import AnswerPool
        pool = AnswerPool(workers=1)
        hard = [("42", r"\sum_{k=1}^{10^9} k^k")]
        threading.Thread(target=pool.decide, args=(hard,), daemon=True).start()
        while not (pool.workers and pool.workers[0].busy == 0):
            time.sleep(0.01)
        print(pool.workers[0].process.pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    worker = int(parent.stdout.readline())
    assert psutil.pid_exists(worker)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while psutil.pid_exists(worker) and time.monotonic() < deadline:
        if psutil.Process(worker).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    else:
        assert not psutil.pid_exists(worker)
