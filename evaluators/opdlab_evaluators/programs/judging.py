"""A program against tests: assertions in a process of their own, or inputs and the outputs they ask for."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from opdlab.records import Verdict
from opdlab_evaluators.programs.failing_tests import cannot_fail
from opdlab_evaluators.programs.names import class_names
from opdlab_evaluators.sandbox import Clock, Ended, Job, Limits, Sandbox, frames, plain, stop

JUDGE_LIMITS = Limits(cpu_s=60, wall_s=300)
"""Some tests of HumanEval+ compute their references for half a minute."""
LARGEST_VERDICT, LARGEST_ANSWER = 1 << 20, 4 << 20
"""Bytes of what is read in this process."""
SHOWN = 300
SHORTAGES = (
    *("MemoryError", "can't start new thread", "Resource temporarily unavailable"),
    *("Cannot allocate memory", "No space left on device", "Too many open files in system"),
)
"""What errors say of a machine that had too little of something, or of a program that took too much."""


class UnsettledError(RuntimeError):
    """What ended a program may have been the machine."""


@final
class Worker:
    """Two sandboxes: one in which programs run, one in which trusted tests are judged.

    Attributes:
        more: tries of a program that may follow this one; at the last, nothing is left unsettled.
    """

    def __init__(self, protected: bool = True) -> None:
        self.more = 0
        self.programs, self.judges = Sandbox(protected), Sandbox(protected)

    def start(self) -> None:
        """Start the sandbox for programs; raises SandboxMissingError."""
        self.programs.start()

    def close(self) -> None:
        """Kill everything in both."""
        self.programs.close()
        self.judges.close()


@dataclass(frozen=True)
class Assertions:
    """Tests as trusted code that calls functions of the program.

    Attributes:
        tests: fails by an exception.
        setup: trusted code that the tests need, run before them.
        names: function or class in the tests, and its name in the program.
        classes: those that are classes, whose operators the tests are about; None finds them by their
            capital letter and by how the tests use them.
    """

    tests: str
    setup: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    classes: Sequence[str] | None = None


def judge(worker: Worker, program: str, tests: Assertions, limits: Limits) -> Verdict:
    """Run the assertions in one process on what the program defines in another.

    Raises:
        SandboxDiedError: a sandbox ended before its work was done.
        UnsettledError: the machine may have done it, and more tries follow.
    """
    if cannot_fail(tests.tests):
        return Verdict(
            "grader_error", program, "the tests assert nothing of the program: no program can fail"
        )
    classes = tests.classes
    if classes is None:
        classes = class_names(tests.tests, tests.names)
    names = dict(tests.names)
    asked = {"preamble": tests.setup, "names": names, "classes": list(classes)}
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as open_jobs:
        open_jobs.callback(ours.close)
        open_jobs.callback(theirs.close)
        clock = os.memfd_create("clock")
        open_jobs.callback(os.close, clock)
        serve = {"limits": limits, "options": {"names": names}, "channel": False, "clock": clock}
        Clock(clock)
        served = open_jobs.enter_context(
            worker.programs.open("serve", program, passed=[theirs.fileno()], **serve)
        )
        theirs.close()
        judging = open_jobs.enter_context(
            worker.judges.open(
                "judge",
                tests.tests,
                b"",
                JUDGE_LIMITS,
                asked,
                passed=[ours.fileno(), clock],
                clock=clock,
                own_clock=True,
            )
        )
        ours.close()
        said, phase = _heard(judging)
        judged = judging.finish()
        stop(clock)
        ended = served.finish()
    verdict = _verdict(program, (said, phase), ended, judged, limits)
    if verdict.status != "correct":
        quiet = said is None and not judged.why
        _settle(worker, verdict.reason, ended, judged, quiet)
    return verdict


def _settle(
    worker: Worker, reason: str, ended: Ended, judged: Ended | None = None, doubtful: bool = False
) -> None:
    """Raise UnsettledError for a failure that the machine may have caused, unless this is the last try."""
    both = (ended, judged) if judged else (ended,)
    # One that waited to the end of its time is not made to do so a third time.
    waited = any(each.why in ("wall", "busy") for each in both)
    doubtful = doubtful or waited or any(each.doubtful for each in both)
    if worker.more > waited and (doubtful or any(each in reason for each in SHORTAGES)):
        raise UnsettledError(reason)


def _heard(judging: Job) -> tuple[dict | None, str]:
    """What the judge says at the end, None if nothing, and how far it came: it is trusted code."""
    assert judging.channel is not None
    phase = ""
    while (message := frames.receive(judging.channel.fileno(), LARGEST_VERDICT)) is not None:
        said = json.loads(message)
        if "passed" in said:
            return said, phase
        phase = said["phase"]
    return None, phase


def _verdict(
    program: str, heard: tuple[dict | None, str], ended: Ended, judged: Ended, limits: Limits
) -> Verdict:
    said, phase = heard
    limit = _limit(ended, limits)
    if limit is not None and (said is None or not said["passed"]):
        return replace(limit, answer=program)
    if said is None and judged.why == "busy":
        return Verdict("sandbox_error", program, "the machine was too busy to judge it")
    if said is None and phase == "began":
        status = "grader_timeout" if judged.why in ("cpu", "wall") else "grader_error"
        why = judged.why or f"exit code {judged.exit}"
        return Verdict(status, program, f"the tests used too much themselves ({why})")
    if said is None:
        # The tests cost next to nothing themselves: the rest is reading and comparing what came.
        why = judged.why or f"exit code {judged.exit}"
        return Verdict("wrong", program, f"what it gave costs too much to compare ({why})")
    if said.get("fault"):
        return Verdict("grader_error", program, f"{said['reason']}; {said['fault']}")
    if said["passed"]:
        return Verdict("correct", program)
    return Verdict("wrong", program, str(said["reason"]))


def _limit(ended: Ended, limits: Limits) -> Verdict | None:
    """The verdict on a program that was ended at a limit."""
    if ended.why == "busy":
        return Verdict("sandbox_error", reason="the machine was too busy to run it")
    words = {
        "cpu": f"more than {limits.cpu_s:g} s of processor time",
        "wall": f"no end within {limits.wall_s:g} s",
        "memory": f"more than {limits.memory >> 20} MB of memory",
    }
    return Verdict("wrong", reason=words[ended.why]) if ended.why else None


@dataclass(frozen=True)
class Answered:
    """What a program gave for one input.

    Attributes:
        value: the text it printed or the value it returned; None with an `error`.
        exit: its exit code.
        error: why there is no value.
        fault: whether that is a fault of this machine.
    """

    value: object = None
    exit: int = 0
    error: str = ""
    fault: bool = False


def answer_stdin(
    worker: Worker, program: str, stdin: str, limits: Limits, preamble: str = ""
) -> Answered:
    """Run a program with a standard input; raises SandboxDiedError, UnsettledError."""
    ended = worker.programs.run(program, stdin.encode(), limits, preamble=preamble)
    answered = _printed(ended, limits)
    if answered.error:
        _settle(worker, answered.error, ended)
    return answered


def _printed(ended: Ended, limits: Limits) -> Answered:
    limit = _limit(ended, limits)
    if limit is not None:
        return Answered(error=limit.reason, fault=limit.status == "sandbox_error")
    text = ended.stdout.decode(errors="replace")
    if len(ended.stdout) >= limits.file_size:
        return Answered(error=f"more than {limits.file_size >> 20} MB of output")
    if ended.exit and (ended.exit < 0 or b"Traceback (most recent call last)" in ended.stderr):
        last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2][:SHOWN]
        return Answered(exit=ended.exit, error=last or f"ended by signal {-ended.exit}")
    return Answered(text, ended.exit)


def answer_call(
    worker: Worker, program: str, target: str, args: list, limits: Limits, preamble: str = ""
) -> Answered:
    """Call a function of a program in a process of its own; raises SandboxDiedError, UnsettledError."""
    answer = None
    options = {"preamble": preamble}
    with worker.programs.open("call", program, limits=limits, options=options) as job:
        assert job.channel is not None
        with contextlib.suppress(ConnectionError):
            frames.send(job.channel.fileno(), {"target": target, "args": args})
            answer = frames.receive(job.channel.fileno(), LARGEST_ANSWER)
        ended = job.finish()
    answered = _returned(answer, ended, limits)
    if answered.error:
        _settle(worker, answered.error, ended)
    return answered


def _returned(answer: bytes | None, ended: Ended, limits: Limits) -> Answered:
    limit = _limit(ended, limits)
    if limit is not None:
        return Answered(error=limit.reason, fault=limit.status == "sandbox_error")
    if answer is None:
        return Answered(
            exit=ended.exit, error=f"the program ended without an answer ({ended.exit})"
        )
    try:
        said = plain.loads(answer)
        if "error" in said:
            return Answered(error=str(said["error"])[:SHOWN])
        return Answered(plain.decode(said["value"]))
    except (plain.UnplainError, LookupError, TypeError, RecursionError):
        return Answered(error="the program says nonsense")
