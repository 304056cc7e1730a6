"""`livecodebench`: contest problems by release and date, judged by the official rule and a stricter one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from itertools import accumulate
from typing import Any, ClassVar, Literal

from opdlab.errors import ConfigError, DataError
from opdlab.evaluation import DISPUTED
from opdlab.plugins import DataReport
from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.benchmarks.benchmark import Fields, pick
from opdlab_evaluators.benchmarks.code_benchmark import CodeBenchmark, fenced
from opdlab_evaluators.data import Source
from opdlab_evaluators.programs import (
    Answered,
    Case,
    Worker,
    answer_named,
    answer_stdin,
    brief,
    cases,
    last_two_fences,
    rules,
)

COUNTS = {"v1": 400, "v2": 111, "v3": 101, "v4": 101, "v5": 167, "v6": 175}
"""Problems that each release added."""
V4_FROM = "2024-08-01"
"""v3 and v4 added 101 each; the contests of v3 end in July 2024, those of v4 in September."""
SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will "
    "generate a correct Python program that matches the specification and passes all tests. You will NOT "
    "return anything except for the program.\n\n"
)
STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code "
    "within delimiters."
)
STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on "
    "the sample inputs). Enclose your code within delimiters as follows."
)


@dataclass(frozen=True)
class LiveCodeBench(CodeBenchmark):
    """LiveCodeBench's code generation: contest problems with hidden tests, by release and date."""

    cpu_limit_s: float = option(6.0, "Processor time of each test, in seconds.", gt=0, le=3600)
    release: Literal[
        "v1", "v2", "v3", "v4", "v5", "v6",
        "release_v1", "release_v2", "release_v3", "release_v4", "release_v5", "release_v6",
    ] = option("v6", "`v6`: the 175 problems that v6 added; `release_v6`: all 1055 up to v6.")  # fmt: skip
    since: str | None = option(None, "Only problems of contests from this day on (YYYY-MM-DD).")
    until: str | None = option(None, "Only problems of contests up to this day (YYYY-MM-DD).")
    mode: Literal["official", "strict"] = option(
        "official", "The rule that decides; the other one is reported where it differs."
    )

    hub: ClassVar[str] = "livecodebench/code_generation_lite"

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            day = getattr(self, name)
            try:
                date.fromisoformat(day or "2000-01-01")
            except ValueError as error:
                raise ConfigError(
                    f"livecodebench: {name} {day!r} is no day; write YYYY-MM-DD"
                ) from error

    @property
    def source(self) -> Source:  # pyright: ignore
        parts = self._releases()
        files = tuple("test.jsonl" if p == "v1" else f"test{p[1:]}.jsonl" for p in parts)
        name = f"livecodebench_{self.release}"
        count = sum(COUNTS[part] for part in parts)
        return Source(name, self.hub, count, aliases=("livecodebench",), parts=files)

    def _releases(self) -> list[str]:
        single = self.release.removeprefix("release_")
        return [p for p in COUNTS if p <= single] if self.release != single else [single]

    def other_count(self, count: int) -> str:
        upto = dict(zip(COUNTS, accumulate(COUNTS.values()), strict=True))
        releases = [name for name, each in COUNTS.items() if each == count]
        releases += [f"release_{name}" for name in upto if upto[name] == count]
        if not releases:
            return super().other_count(count)
        return (
            f"{' or '.join(releases)} has as many. Name that release, or put the other file there"
        )

    @property
    def benchmark(self) -> str:
        window = f"/{self.since or ''}..{self.until or ''}" if self.since or self.until else ""
        return f"livecodebench/{self.release}{window}{self._first}"

    @property
    def grader_version(self) -> str:
        return f"{super().grader_version}-{self.mode}"

    def _whole(self) -> LiveCodeBench:
        """The same copy of the data, without the options that choose among it: it is read once."""
        return LiveCodeBench(self.path, self.revision, release=self.release)

    def problems(self) -> Sequence[Problem]:
        found = super(LiveCodeBench, self._whole()).problems()
        first, last = self.since or "", self.until or "9"
        kept = [p for p in found if first <= p.extra["date"] <= last]
        if not kept:
            raise DataError(
                f"{self.benchmark}: no contest of {self.release} is in this window; widen since and "
                "until, or take a cumulative release"
            )
        return [replace(p, benchmark=self.benchmark) for p in kept[: self.limit]]

    def data(self) -> DataReport:
        """See `Evaluator.data`; there are no right programs to judge, but every test must be readable."""
        whole = self._whole()
        report = super(LiveCodeBench, whole).data()
        problems = whole.problems()
        for problem in problems:
            _cases.__wrapped__(problem.extra["tests"], problem.id, problem.gold["function"])
        alone = self.release in COUNTS
        until = self.release.removeprefix("release_")
        what = f"of {until}" if alone else f"cumulative, up to {until}"
        return replace(report, standing=f"{report.count} problems {what}; {report.standing}")

    def require(self, problems: Sequence[Problem]) -> None:
        """Refuse the other release that has as many problems."""
        newest = max(problem.extra["date"] for problem in problems)
        other = {"v3": "v4", "v4": "v3"}.get(self.release)
        if other and (newest >= V4_FROM) != (self.release == "v4"):
            raise DataError(
                f"{self.source.name}: its newest contest is of {newest}, so these are the problems "
                f"of {other}, not of {self.release}. Name that release, or put the other file there"
            )

    def normalise(self, row: Mapping[str, Any], number: int) -> Fields:
        name = self.source.name
        private = pick(row, ("private_test_cases",), name, number)
        public = pick(row, ("public_test_cases",), name, number)
        metadata = json.loads(row.get("metadata") or "{}")
        return {
            "id": str(pick(row, ("question_id",), name, number)),
            "question": pick(row, ("question_content",), name, number),
            "starter": row.get("starter_code") or "",
            "function": metadata.get("func_name"),
            "date": _day(pick(row, ("contest_date",), name, number)),
            "gold": hashlib.sha256(f"{public}\n{private}".encode()).hexdigest()[:16],
            "_tests": (public, private),
        }

    def problem(self, fields: Fields) -> Problem:
        starter = fields["starter"]
        prompt = f"{SYSTEM}### Question:\n{fields['question']}\n\n### Format: "
        prompt += f"{STARTER if starter else STDIN}\n{fenced(starter or '# YOUR CODE HERE')}\n\n"
        prompt += "### Answer: (use the provided format with backticks)\n\n"
        gold = {"tests": fields["gold"], "function": fields["function"]}
        extra = {"date": fields["date"], "tests": fields["_tests"]}
        return Problem(self.benchmark, fields["id"], prompt, gold, extra)

    def program(self, problem: Problem, completion: str) -> str | None:
        return last_two_fences(completion)

    def asked_names(self, problem: Problem) -> Sequence[str]:
        return [name] if (name := problem.gold["function"]) else []

    def judge(self, problem: Problem, program: str, worker: Worker) -> Verdict:
        try:
            tests = _cases(problem.extra["tests"], problem.id, problem.gold["function"])
        except DataError as error:
            return Verdict("grader_error", program, str(error))
        failed: dict[str, str] = {}
        for number, case in enumerate(tests, start=1):
            answered, passed = self._passed(case, problem.gold["function"], program, worker)
            if answered.fault:
                return Verdict("sandbox_error", program, answered.error)
            for rule, right in passed.items():
                if not right:
                    failed.setdefault(rule, f"test {number}: {_said(answered, case)}")
            if len(failed) == len(passed):
                break
        return self._verdict(program, failed)

    def _passed(
        self, case: Case, function: str | None, program: str, worker: Worker
    ) -> tuple[Answered, dict[str, bool]]:
        if case.kind == "stdin":
            answered = answer_stdin(worker, program, case.input, self.limits, rules.PREAMBLE)
            official, strict = rules.official_text, rules.strict_text
        else:
            official, strict = rules.official_value, rules.strict_value
            answered = answer_named(worker, program, str(function), case.input, self.limits)
        return answered, {
            "official": official(answered, case.output),
            "strict": strict(answered, case.output),
        }

    def _verdict(self, program: str, failed: Mapping[str, str]) -> Verdict:
        """The verdict by this mode's rule; a difference to the other rule is told first."""
        status = "wrong" if self.mode in failed else "correct"
        reason = failed.get(self.mode, "")
        if len(failed) == 1:
            ((rule, why),) = failed.items()
            reason = f"{DISPUTED}wrong by the {rule} rule alone, {why}"
        return Verdict(status, program, reason)


def _day(value: Any) -> str:
    """The day of a contest, which is compared as text; raises ValueError."""
    return date.fromisoformat(str(value)[:10]).isoformat()


@lru_cache(maxsize=64)
def _cases(tests: tuple[str, str], problem: str, function: str | None) -> tuple[Case, ...]:
    """Public and private tests, unpacked when they are needed: they are large.

    Raises:
        DataError: they cannot be read, there are none, or they call a function that has no name.
    """
    where = f"livecodebench {problem}"
    found = tuple(case for text in tests for case in cases(text, where))
    if not found:
        raise DataError(f"{where}: it has no tests, so no program can fail; take another copy")
    if function is None and any(case.kind == "functional" for case in found):
        raise DataError(
            f"{where}: its tests call a function, and its metadata have no func_name; take another copy"
        )
    return found


def _said(answered: Answered, case: Case) -> str:
    if answered.error:
        return answered.error
    ending = f", exit code {answered.exit}" if answered.exit else ""
    return f"{brief(answered.value)!r}{ending}, expected {brief(case.output)!r}"
