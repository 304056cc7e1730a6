"""The next step's prompts are made beside the update, and are what they would have been."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
from unit.test_training import OPD, build, fit, folders

from opdlab.errors import DataError
from opdlab.training.ahead import PromptsAhead

__all__ = ["folders"]


class Numbers:
    """A source whose prompts are their places, and that notes who made which."""

    def __init__(self, faulty: int | None = None) -> None:
        self.made: dict[int, str] = {}
        self.faulty = faulty

    def prompt(self, place: int) -> Any:
        self.made[place] = threading.current_thread().name
        if place == self.faulty:
            raise DataError(f"place {place} is empty")
        return place


def ahead(source: Numbers) -> PromptsAhead:
    return PromptsAhead(source)  # type: ignore[arg-type]


def test_places_made_ahead_are_made_once_and_by_another_thread() -> None:
    source = Numbers()
    prompts = ahead(source)
    assert prompts.prompt(0) == 0
    prompts.begin(range(1, 4))
    assert [prompts.prompt(place) for place in (3, 1, 2, 4)] == [3, 1, 2, 4]
    here = threading.current_thread().name
    assert [source.made[place] == here for place in range(5)] == [True, False, False, False, True]


def test_a_prompt_that_cannot_be_made_fails_when_it_is_asked_for() -> None:
    prompts = ahead(Numbers(faulty=2))
    prompts.begin(range(1, 4))
    assert prompts.prompt(1) == 1
    assert prompts.prompt(3) == 3
    with pytest.raises(DataError, match="place 2 is empty"):
        prompts.prompt(2)


def test_after_its_first_step_a_training_finds_its_prompts_ready(folders) -> None:
    module = build(folders, OPD, prompts_per_step=4, steps=3)
    source = module.collector.prompts
    made: dict[int, list[str]] = {}
    prompt = source.prompt

    def noted(place: int) -> Any:
        made.setdefault(place, []).append(threading.current_thread().name)
        return prompt(place)

    source.prompt = noted  # type: ignore[method-assign]
    fit(module)
    here = threading.current_thread().name
    assert sorted(made) == list(range(12))  # and none for a step after the last
    assert all(made[place] == [here] for place in range(4))
    assert all(len(names) == 1 and names != [here] for names in list(made.values())[4:])


def test_a_process_that_ends_waits_for_one_prompt_at_most() -> None:
    script = """
import time
from opdlab.training.ahead import PromptsAhead
class Slow:
    def prompt(self, place):
        print(place, flush=True)
        time.sleep(0.2)
prompts = PromptsAhead(Slow())
prompts.begin(range(1000))
prompts.prompt(0)
raise SystemExit(3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert len(done.stdout.split()) < 5


def test_places_that_nobody_asked_for_are_not_made_when_others_are_wanted() -> None:
    source = Numbers()
    prompts = ahead(source)
    prompts.begin(range(200_000))
    prompts.begin([7000])
    assert prompts.prompt(7000) == 7000
    assert len(source.made) < 200_000
