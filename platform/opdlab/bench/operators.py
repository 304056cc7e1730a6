"""Which operators of torch some work spends its time in, and its trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

_ROWS = 15


def operators(
    work: Callable[[], object], device: torch.device, trace: Path
) -> dict[str, dict[str, float]]:
    """Run some work under torch's profiler.

    Args:
        trace: file that is written; chrome://tracing and ui.perfetto.dev draw it as a flame chart.

    Returns:
        Share of the time that each operator takes itself, without those that it calls, and how often it
        was called; the largest share first.
    """
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as record:
        work()
    trace.parent.mkdir(parents=True, exist_ok=True)
    record.export_chrome_trace(str(trace))
    events: Any = record.key_averages()
    seconds = {
        event.key: event.self_device_time_total if on_cuda else event.self_cpu_time_total
        for event in events
    }
    calls = {event.key: event.count for event in events}
    total = sum(seconds.values())
    return {
        name: {"share": seconds[name] / total, "calls": calls[name]}
        for name in sorted(seconds, key=lambda name: -seconds[name])
    }


def operator_table(title: str, found: dict[str, dict[str, float]], steps: int) -> Table:
    """The operators that take most."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("operator")
    table.add_column("share", justify="right")
    table.add_column("calls a step", justify="right")
    for name, one in list(found.items())[:_ROWS]:
        table.add_row(name, f"{one['share']:.1%}", f"{one['calls'] / steps:,.0f}")
    return table
