"""Answers that were sampled one step ahead: by the student as it was before the last update.

The student's log-probabilities, entropies and candidates are computed again, so that all but the tokens is
of the student as it is now; for these see `opdlab.methods.older_samples`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from opdlab.evaluation import Subject
from opdlab.methods import TRUNCATION, Method, ratios
from opdlab.records import Problem, Rollout
from opdlab.sampling import scored
from opdlab.training.measures import Figure, mean_of
from opdlab.transfers import to_device

SMALLEST = 1e-30  # of weights, squared: whole answers of a student that has moved far may have none


@dataclass(frozen=True, eq=False)
class Ahead:
    """Answers to a step's prompts by the student of the step before.

    Attributes:
        rollout: on the host.
        problems: of its rows.
        refused: prompts that are left out, and why.
        showed: what the engine says of the rollout.
    """

    rollout: Rollout
    problems: list[Problem]
    refused: list[dict[str, str]]
    showed: dict[str, float]

    def state(self) -> dict[str, Any]:
        """For a checkpoint: all but the problems, which their seeds tell."""
        rollout = {field.name: getattr(self.rollout, field.name) for field in fields(Rollout)}
        return {"rollout": rollout, "refused": self.refused, "showed": self.showed}

    @classmethod
    def restored(cls, state: Mapping[str, Any], asked: Mapping[int, Problem]) -> Ahead:
        """From a checkpoint's.

        Args:
            asked: the problems of the step, by the seeds of their rows; a server may have refused some.
        """
        rollout = Rollout(**state["rollout"])
        problems = [asked[seed] for seed in rollout.seeds.tolist()]
        return cls(rollout, problems, state["refused"], state["showed"])


def said_now(rollout: Rollout, subject: Subject, top_k: int) -> Rollout:
    """The same answers with what the student says of them now, beside what it said when it sampled."""
    ends = (rollout.prompt_lengths + rollout.response_lengths).tolist()
    starts, rows = rollout.prompt_lengths.tolist(), rollout.tokens
    prompts = [row[:start].tolist() for row, start in zip(rows, starts, strict=True)]
    responses = [row[a:b] for row, a, b in zip(rows, starts, ends, strict=True)]
    device, vocabulary = subject.model.device, subject.vocabulary
    there = [to_device(response, device) for response in responses]
    found = scored(subject.model, prompts, there, vocabulary, top_k)
    said = {field.name: getattr(found, field.name).cpu() for field in fields(found)}
    return replace(rollout, **said, sampled_log_prob=rollout.log_prob)


def figures(method: Method, rollout: Rollout) -> dict[str, Figure]:
    """The importance weights, which tell how far the student has moved, also where the loss needs none."""
    found = ratios(method, rollout)
    cut = found.clamp(max=TRUNCATION)
    effective = float(cut.sum().square() / (len(cut) * cut.square().sum()).clamp(min=SMALLEST))
    return {
        "importance_mean": mean_of(cut),
        "importance_truncated_share": mean_of((found > TRUNCATION).float()),
        "importance_effective_share": (effective, float(len(cut))),
    }
