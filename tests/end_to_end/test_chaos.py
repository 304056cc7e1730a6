"""All commands in bad weather, for a short while; `make chaos` goes on longer."""

from __future__ import annotations

from pathlib import Path

from chaos import Weather

ROUNDS = 11  # each kind of disturbance comes once, killing and full disks twice


def test_every_command_ends_well_after_whatever_happened_to_it(tmp_path: Path, store: Path) -> None:
    Weather(tmp_path, store, seed=26).blow(ROUNDS)
