"""What a training tells those who look on: its phase, an answer with what was made of it, its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import psutil
import torch

from opdlab.errors import DataError
from opdlab.files import read_live, tell_live
from opdlab.modelling import text_of
from opdlab.training.module import Distillation

EVERY_S = 1.0
"""Between two tellings of a step; steps may be shorter."""
LONGEST = 4000
"""Characters of a prompt or an answer that are told: its end, and of the answer its beginning too."""
_HALF = LONGEST // 2

Phase = Literal["training", "evaluating", "ended"]


class Onlookers:
    """Tells them in a file of the run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: dict[str, Any] = {}
        """What it said of the last step, or the process before it did."""
        with suppress(DataError):
            self.told = read_live(folder)
        self._at = -EVERY_S

    def step(self, module: Distillation, step: int, steps: int) -> None:
        """A step was taken."""
        if step < steps and monotonic() - self._at < EVERY_S:
            return
        self.told = {"step": step, "steps": steps, "memory": memory(module.device)}
        if sample := sample_of(module):
            self.told["sample"] = {"step": step, **sample}
        self.phase("training")

    def phase(self, phase: Phase) -> None:
        """It does something else now."""
        tell_live(self.folder, {**self.told, "phase": phase})
        self._at = monotonic()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """While the student is evaluated between two steps."""
        self.phase("evaluating")
        yield
        self.phase("training")


def memory(device: torch.device) -> dict[str, int]:
    """Bytes of this process, and of its accelerator: held, and there."""
    found = {"process": psutil.Process().memory_info().rss}
    if device.type == "cuda":
        found["device"] = torch.cuda.memory_reserved(device)
        found["device_total"] = torch.cuda.get_device_properties(device).total_memory
    return found


def sample_of(module: Distillation) -> dict[str, Any]:
    """The first answer of a step with the means of what teacher and method said of its tokens."""
    collected = module.collected
    if collected is None or not len(collected.rollout.token):
        return {}
    rollout, mine = collected.rollout, collected.rollout.row == 0
    start, length = int(rollout.prompt_lengths[0]), int(rollout.response_lengths[0])
    tokenizer, ids = module.subject.tokenizer, rollout.tokens[0].tolist()
    prompt = tokenizer.decode(ids[:start], clean_up_tokenization_spaces=False)
    answer = text_of(tokenizer, ids[start : start + length])
    rewards = {
        "advantage": collected.supervision.advantage[mine].mean().item(),
        "teacher's log-probability": collected.scores.log_prob[mine].mean().item(),
        "student's": rollout.log_prob[mine].mean().item(),
    }
    tokens, answers = collected.whole
    for name, value in collected.supervision.metrics.items():
        # Those of the first device come first. Where sizes are equal, it may be a figure of something else.
        if not isinstance(value, torch.Tensor) or tokens == answers:
            continue
        if value.shape == (tokens,):
            rewards[name] = value[: len(mine)][mine].float().nanmean().item()
        elif value.shape == (answers,):
            rewards[name] = float(value[0])
    return {
        "prompt": prompt[-LONGEST:],
        "answer": answer if len(answer) <= LONGEST else f"{answer[:_HALF]} […] {answer[-_HALF:]}",
        "tokens": length,
        "ended": bool(rollout.ended[0]),
        "rewards": {name: value for name, value in rewards.items() if abs(value) < float("inf")},
    }
