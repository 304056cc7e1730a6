"""How many bytes and hours it takes to score answers, from the first of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from opdlab.configuration import Experiment
from opdlab.console import Result, duration
from opdlab.offline.request import Asked, rows_a_shard
from opdlab.offline.run import describe, opened, width_of
from opdlab.scores import Kind, bytes_of, columns_of, head_bytes

TRIED = 8
"""Prompts that are answered and scored for a plan."""
KINDS = ("sampled", "drawn:12", "top_k:64", "hidden:bfloat16", "hidden:float32")


@dataclass(frozen=True)
class ScorePlan(Result):
    """What scoring would take.

    Attributes:
        answers: asked for.
        tokens: of all responses, as long as those that were tried.
        most_tokens: were all as long as `rollout.max_new_tokens` allows.
        seconds: on this device.
        by_kind: bytes of each kind of store, for that many tokens: its shards with the vocabulary
            projection, without the teacher's tokenizer and what is noted of the shards.
        once: of these, what does not grow with the tokens: bytes of the files themselves, and of `hidden`
            the projection.
    """

    kind: str
    answers: int
    tokens: int
    most_tokens: int
    seconds: float
    by_kind: Mapping[str, int]
    once: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return self.by_kind[self.kind]

    def rows(self) -> list[Mapping[str, Any]]:
        return [{"kind": name, "bytes": size} for name, size in self.by_kind.items()]

    def shown(self) -> Iterable[RenderableType]:
        table = Table(box=None, pad_edge=False)
        for name in ("kind", "bytes a token", "in all", "at most"):
            table.add_column(name, justify="left" if name == "kind" else "right")
        for name, size in self.by_kind.items():
            once, mark = self.once[name], " (asked for)" if name == self.kind else ""
            each = (size - once) / self.tokens if self.tokens else math.nan
            most = _size(each * self.most_tokens + once) if self.tokens else "?"
            table.add_row(f"{name}{mark}", f"{each:,.0f}", _size(size), most)
        yield table
        if not self.tokens:
            yield "None of the first answers was kept, so sizes are not known from them."
        yield (
            f"{self.answers:,} answers of {self.tokens / max(1, self.answers):,.0f} tokens on average: "
            f"about {duration(self.seconds)} on this device, at "
            f"{self.tokens / max(self.seconds, 1e-9):,.0f} tokens a second (the first were tried)"
        )


def plan(config: Experiment, asked: Asked) -> ScorePlan:
    """Answer and score the first prompts, and reckon from them; nothing is written.

    Raises: as `score`.
    """
    job, pair = opened(config, asked)
    manifest, _ = describe(job, pair)
    job.teacher.probe()
    tried = min(TRIED * asked.samples, manifest.count)
    started = perf_counter()
    kept = job.scored(manifest, job.drawn(range(tried)), range(tried))
    took = perf_counter() - started
    tokens = sum(len(one.columns["response"]) for one in kept)
    scale = manifest.count / tried
    vocabulary, width = manifest.vocabulary, width_of(pair.teacher)
    each = {
        name: Kind.read(name).bytes_a_token(vocabulary, width)
        for name in dict.fromkeys([*KINDS, str(asked.kind)])
    }
    names = columns_of(manifest.kind_of, manifest.candidates_of, manifest.student_told)
    size, of_a_file = bytes_of(kept, names, vocabulary)
    beside = size - tokens * each[str(asked.kind)]
    head = head_bytes(pair.teacher)
    longest = job.config.rollout.max_new_tokens

    def once(name: str) -> int:
        rows = rows_a_shard(Kind.read(name), vocabulary, width, longest, asked.samples)
        files = of_a_file * -(-manifest.count // rows)
        return files + (head if name.startswith("hidden") else 0)

    return ScorePlan(
        kind=str(asked.kind),
        answers=manifest.count,
        tokens=round(scale * tokens),
        most_tokens=manifest.count * longest,
        seconds=scale * took,
        by_kind={name: round(scale * (tokens * each[name] + beside)) + once(name) for name in each},
        once={name: once(name) for name in each},
    )


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
