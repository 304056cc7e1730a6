"""A program against tests: assertions in a process of their own, or inputs and the outputs they ask for."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

from opdlab.records import Verdict
from opdlab_evaluators.sandbox.inside import frames, plain
from opdlab_evaluators.sandbox.process import Ended, Job, Limits, Sandbox

JUDGE_LIMITS = Limits(cpu_s=60, wall_s=300)
SHOWN = 300


@final
class Worker:
    """Two sandboxes: one in which programs run, one in which trusted tests are judged."""

    def __init__(self, protected: bool = True) -> None:
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
    """

    tests: str
    setup: str = ""
    names: Mapping[str, str] = field(default_factory=dict)


def judge(worker: Worker, program: str, tests: Assertions, limits: Limits) -> Verdict:
    """Run the assertions; the program's functions answer with data, compared where the program is not.

    Raises:
        SandboxDiedError: a sandbox ended before its work was done.
    """
    options = {"preamble": tests.setup, "remote": dict(tests.names)}
    with worker.programs.open("serve", program, limits=limits) as served:
        refused = _refusal(served.channel)
        if refused is not None:
            return _limit(served.finish(), limits) or Verdict("wrong", program, refused)
        with worker.judges.open("judge", tests.tests, b"", JUDGE_LIMITS, options) as judging:
            said = _relay(judging, served)
            ended, judged = served.finish(), judging.finish()
    return _verdict(program, said, ended, judged, limits)


def _verdict(
    program: str, said: dict | None, ended: Ended, judged: Ended, limits: Limits
) -> Verdict:
    limit = _limit(ended, limits)
    if said is None and limit is None and judged.why == "busy":
        return Verdict("sandbox_error", program, "the machine was too busy to judge it")
    if said is None and limit is None and judged.why:
        status = "grader_error" if judged.why == "memory" else "grader_timeout"
        return Verdict(status, program, f"the tests used too much themselves ({judged.why})")
    if limit is not None and (said is None or not said["passed"]):
        return replace(limit, answer=program)
    if said is None and judged.exit == 0:
        return Verdict(
            "wrong", program, f"the program ended in the middle of a test ({ended.exit})"
        )
    if said is None:
        return Verdict("grader_error", program, f"the tests ended with {judged.exit}")
    if said["passed"]:
        return Verdict("correct", program)
    return Verdict("wrong", program, str(said["reason"]))


def _refusal(channel: socket.socket | None) -> str | None:
    """Why a program cannot be called; None if it can."""
    message = frames.receive(channel.fileno()) if channel else None
    if message is None:
        return "the program ended before it could be tested"
    try:
        error = plain.loads(message).get("error")
        return None if error is None else str(error[1])
    except (plain.UnplainError, AttributeError, LookupError, TypeError):
        return "the program says nonsense"


def _relay(judging: Job, served: Job) -> dict | None:
    """Carry calls to the program and answers back; what the judge says at the end, None if nothing."""
    assert judging.channel is not None
    assert served.channel is not None
    judge_fd, program_fd = judging.channel.fileno(), served.channel.fileno()
    try:
        while (message := frames.receive(judge_fd)) is not None:
            said = plain.loads(message)
            if "call" not in said:
                return said
            frames.forward(program_fd, message)
            answer = frames.receive(program_fd)
            if answer is None:
                judging.channel.shutdown(socket.SHUT_WR)
                # The judge meets the end of the program as an error, and says so.
                continue
            frames.forward(judge_fd, answer)
    except (ConnectionError, plain.UnplainError):
        return None
    return None


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
    """Run a program with a standard input; raises SandboxDiedError."""
    ended = worker.programs.run(program, stdin.encode(), limits, preamble=preamble)
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
    """Call a function of a program in a process of its own; raises SandboxDiedError."""
    options = {"preamble": preamble}
    answer = None
    with worker.programs.open("serve", program, limits=limits, options=options) as job:
        error = _refusal(job.channel)
        if error is None and job.channel is not None:
            encoded = [plain.encode(part) for part in (target, args, {})]
            with contextlib.suppress(ConnectionError):
                frames.send(job.channel.fileno(), {"call": encoded})
                answer = frames.receive(job.channel.fileno())
        ended = job.finish()
    limit = _limit(ended, limits)
    if limit is not None:
        return Answered(error=limit.reason, fault=limit.status == "sandbox_error")
    if error is not None:
        return Answered(error=error)
    if answer is None:
        return Answered(
            exit=ended.exit, error=f"the program ended without an answer ({ended.exit})"
        )
    try:
        said = plain.loads(answer)
        if "error" in said:
            return Answered(error=str(said["error"][1])[:SHOWN])
        return Answered(plain.decode(said["value"]))
    except (plain.UnplainError, LookupError, TypeError, RecursionError):
        return Answered(error="the program says nonsense")
