"""The one console that everything for people is written to."""

from __future__ import annotations

from rich.console import Console

console = Console(stderr=False, highlight=False, soft_wrap=False)
