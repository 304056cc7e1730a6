"""Requests in turn, those that may be scored together at once; one thread for each copy of the teacher."""

from __future__ import annotations

import copy
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, final

import torch

from opdlab.errors import OpdlabError, OutOfRoomError
from opdlab.modelling import rows_at_a_time, slices
from opdlab.records import Distributions, Questions, Rollout, TeacherScores
from opdlab.scores import likeliest
from opdlab.scoring import Teacher, joined_rollouts, leaves
from opdlab.service.metrics import Metrics, Size
from opdlab.serving import Limits, Request
from opdlab.shapes import Tensor

LOG = logging.getLogger("opdlab")
VOCABULARIES = 8
"""Teachers that differ in how many entries count, which students decide."""


@dataclass(frozen=True, eq=False)
class Job:
    """A request, who sent it, and the scores to come."""

    request: Request
    sender: str
    scores: Future[TeacherScores] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Requests that have this in common may be scored together."""
        asked = self.request.questions
        whole = asked.full or asked.top_k > 0
        return self.request.vocabulary, asked.measure, whole, self.request.rollout.eos_ids

    @property
    def size(self) -> Size:
        """Rows, tokens, the longest row and candidates, as `Limits.fit` takes them."""
        rows, longest = self.request.rollout.tokens.shape
        return rows, self.request.tokens, longest, self.request.questions.candidates.numel()


@final
class Batcher:
    """Scores jobs. Senders take turns, so that many requests of one do not keep another's waiting."""

    def __init__(self, teachers: Sequence[Teacher], limits: Limits, metrics: Metrics) -> None:
        """Begin a thread for each of the teachers, which are copies on different devices."""
        self.limits, self.metrics = limits, metrics
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self.threads = [
            threading.Thread(target=self._work, args=(one,), daemon=True, name=f"teacher-{number}")
            for number, one in enumerate(teachers)
        ]
        for thread in self.threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether somebody scores."""
        return not self._closed and all(thread.is_alive() for thread in self.threads)

    @property
    def waiting(self) -> int:
        """Jobs that nobody works on yet."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    def submit(self, job: Job) -> Future[TeacherScores]:
        """Put a job in line."""
        with self._changed:
            if self._closed:
                job.scores.cancel()
            else:
                self._waiting.setdefault(job.sender, deque()).append(job)
                self._changed.notify()
        return job.scores

    def close(self) -> None:
        """Cancel what waits, and wait for what is being scored."""
        with self._changed:
            self._closed = True
            for jobs in self._waiting.values():
                for job in jobs:
                    job.scores.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self.threads:
            thread.join()

    def _work(self, teacher: Teacher) -> None:
        known: OrderedDict[int | None, Teacher] = OrderedDict()
        while jobs := self._next():
            mine = [one for one in jobs if one.scores.set_running_or_notify_cancel()]
            if mine:
                self._answer(_among(known, teacher, mine[0].request.vocabulary), mine)
            # What was scored must not be held until the next request.
            del jobs, mine

    def _next(self) -> list[Job]:
        """Jobs to score together, the first of whoever's turn it is; none once all is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return []
            first = self._take(next(iter(self._waiting)))
            found, sizes = [first], first.size
            for sender in list(self._waiting):
                while jobs := self._waiting.get(sender):
                    more = _sum(sizes, jobs[0].size)
                    if jobs[0].kind != first.kind or not self.limits.fit(*more):
                        break
                    found.append(self._take(sender))
                    sizes = more
            return found

    def _take(self, sender: str) -> Job:
        """The first job of a sender, whose turn is the last then."""
        jobs = self._waiting[sender]
        job = jobs.popleft()
        self._waiting.move_to_end(sender)
        if not jobs:
            del self._waiting[sender]
        return job

    def _answer(self, teacher: Teacher, jobs: Sequence[Job]) -> None:
        started = perf_counter()
        try:
            answers = list(_scored(teacher, [job.request for job in jobs]))
        except Exception as error:  # noqa: BLE001
            self._failed(teacher, jobs, error)
            return
        self.metrics.scored([job.size for job in jobs], perf_counter() - started)
        for job, scores in zip(jobs, answers, strict=True):
            job.scores.set_result(scores)

    def _failed(self, teacher: Teacher, jobs: Sequence[Job], error: Exception) -> None:
        """What one request brings about must hurt no other: each is scored alone."""
        if len(jobs) > 1:
            for job in jobs:
                self._answer(teacher, [job])
        elif isinstance(error, torch.OutOfMemoryError):
            room = OutOfRoomError("scoring", str(error))
            jobs[0].scores.set_exception(room)
        else:
            if not isinstance(error, OpdlabError):
                LOG.error("a request failed", exc_info=error)
            jobs[0].scores.set_exception(error)


def _among(
    known: OrderedDict[int | None, Teacher], teacher: Teacher, vocabulary: int | None
) -> Teacher:
    """The same teacher, tried already, with the entries that count."""
    if vocabulary not in known:
        other = copy.copy(teacher)
        other.vocabulary, other.unproven = vocabulary, list(teacher.unproven)
        known[vocabulary] = other
    known.move_to_end(vocabulary)
    if len(known) > VOCABULARIES:
        known.popitem(last=False)
    return known[vocabulary]


def _sum(one: Size, other: Size) -> Size:
    return one[0] + other[0], one[1] + other[1], max(one[2], other[2]), one[3] + other[3]


def _scored(teacher: Teacher, requests: Sequence[Request]) -> Iterator[TeacherScores]:
    """The scores of each request, all of which are of one kind; whether they are finite is for whoever
    asked to say."""
    rollout, questions = _together(requests)
    scores = teacher.score(rollout, questions, finite=False)
    first = 0
    for request in requests:
        count, width = request.questions.candidates.shape
        piece = slice(first, first + count)
        first += count
        share = count / len(rollout.token)
        mine = TeacherScores(
            **{
                name: getattr(scores, name)[piece].float().cpu()
                for name in ("log_prob", "entropy", "fidelity", "sampled_confidence")
            },
            confidence=scores.confidence[piece, :width].float().cpu(),
            seconds={name: share * value for name, value in scores.seconds.items()},
            leaves=len(leaves(request.rollout, request.questions.candidates)),
        )
        yield replace(mine, **_distributions(teacher, scores, piece, request.questions))


def _distributions(
    teacher: Teacher, scores: TeacherScores, piece: slice, asked: Questions
) -> dict[str, Tensor]:
    if scores.hidden is None:
        return {}
    # Of a slice, the whole batch would be kept.
    hidden = scores.hidden[piece].clone()
    if asked.full:
        return {"hidden": hidden.cpu()}
    with torch.no_grad(), teacher.head():
        logits = teacher.logits(Distributions(hidden=hidden))
        width = logits(slice(0, 1)).shape[-1]
        parts = list(slices(len(hidden), rows_at_a_time(width, hidden.device)[0]))
        top = likeliest(logits, parts, min(asked.top_k, width))
    none = torch.full((len(hidden), 1), -1)
    return {
        "top_ids": torch.cat([top["top_ids"], none], -1),
        "top_log_prob": torch.cat([top["top_log_prob"], top["tail"][:, None]], -1),
    }


def _together(requests: Sequence[Request]) -> tuple[Rollout, Questions]:
    width = max(one.questions.candidates.shape[1] for one in requests)
    candidates = [
        torch.nn.functional.pad(asked, (0, width - asked.shape[1]), value=-1)
        for asked in (one.questions.candidates for one in requests)
    ]
    asked = replace(requests[0].questions, candidates=torch.cat(candidates))
    return joined_rollouts([one.rollout for one in requests]), asked
