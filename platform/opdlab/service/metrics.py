"""What a service has done, in the text that Prometheus reads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import final

import psutil

Size = tuple[int, int, int, int]
"""Rows, tokens, the longest row and candidates of a request."""

TEXT = "text/plain; version=0.0.4; charset=utf-8"
_HELP = {
    "requests_total": ("counter", "Requests for scores by status."),
    "answers_scored_total": ("counter", "Answers scored."),
    "tokens_scored_total": ("counter", "Tokens of prompts and answers scored."),
    "candidates_scored_total": ("counter", "Candidates asked about."),
    "batches_total": ("counter", "Passes, each of requests that were scored together."),
    "batched_requests_total": ("counter", "Requests in these passes."),
    "scoring_seconds_total": ("counter", "Seconds that the passes took."),
    "requests_waiting": ("gauge", "Requests that are not scored yet."),
    "requests_admitted": ("gauge", "Requests that are being read, wait, or are answered."),
    "resident_memory_bytes": ("gauge", "Memory of the process."),
}


@final
class Metrics:
    """Counters; any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter(
            {name: 0 for name, (kind, _) in _HELP.items() if kind == "counter"}
        )
        del self._counts["requests_total"]

    def answered(self, status: int) -> None:
        """A request got an answer with this status."""
        with self._lock:
            self._counts[f'requests_total{{status="{status}"}}'] += 1

    def scored(self, sizes: Sequence[Size], seconds: float) -> None:
        """Requests were scored together."""
        with self._lock:
            self._counts.update(
                answers_scored_total=sum(one[0] for one in sizes),
                tokens_scored_total=sum(one[1] for one in sizes),
                candidates_scored_total=sum(one[3] for one in sizes),
                batches_total=1,
                batched_requests_total=len(sizes),
            )
            self._counts["scoring_seconds_total"] += seconds  # pyright: ignore[reportArgumentType]

    def text(self, waiting: int, admitted: int) -> str:
        """All figures."""
        with self._lock:
            found: dict[str, float] = dict(self._counts)
        found |= {"requests_waiting": waiting, "requests_admitted": admitted}
        found["resident_memory_bytes"] = psutil.Process().memory_info().rss
        lines = []
        for name, (kind, told) in _HELP.items():
            lines += [
                f"# HELP opdlab_teacher_{name} {told}",
                f"# TYPE opdlab_teacher_{name} {kind}",
            ]
            values = sorted((key, v) for key, v in found.items() if key.partition("{")[0] == name)
            lines += [f"opdlab_teacher_{key} {value!r}" for key, value in values]
        return "\n".join(lines) + "\n"
