"""Problems whose answer is the text that a model finds most probable: nothing is sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from opdlab.modelling import as_wording
from opdlab.prompts import continued, encode, rendered
from opdlab.records import Generation, Problem
from opdlab.sampling import scored

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from opdlab.modelling import Wording

PROBLEMS_AT_ONCE = 16
"""Problems that are weighed together, after which the caller hears of them."""


def log_probs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    template: Wording | str,
    vocabulary: int | None,
) -> list[list[float]]:
    """Log-probability, in nats, of each text of `Problem.weighed` after its prompt.

    A blank stands between a prompt that no chat template ends and a text, as lm-evaluation-harness has it.
    """
    prompts, texts = [], []
    templated = bool(tokenizer.chat_template) and as_wording(template).template != "none"
    for problem in problems:
        ids = encode(tokenizer, problem, template)
        shown = rendered(tokenizer, problem, template)
        blank = "" if templated or shown[-1:].isspace() else " "
        for text in problem.weighed:
            prompts.append(ids)
            said = continued(tokenizer, shown, blank + text)
            texts.append(torch.tensor(said))
    found = scored(model, prompts, texts, vocabulary, 0).log_prob.double().cpu()
    sums = [float(part.sum()) for part in found.split([len(text) for text in texts])]
    counts = [len(problem.weighed) for problem in problems]
    starts = [sum(counts[:n]) for n in range(len(counts))]
    return [sums[start : start + count] for start, count in zip(starts, counts, strict=True)]


def weighed(
    missing: Sequence[tuple[Problem, int]],
    seeds: Sequence[int],
    prompt_of: Callable[[Problem], str],
    weigh: Callable[[Sequence[Problem]], list[list[float]]],
    add: Callable[[Generation], None],
) -> None:
    """Store what a model says of the choices, a line each; all samples of a problem are the same.

    Args:
        missing: problems, and which of their samples.
        prompt_of: the prompt as the model reads it.
    """
    problems = list({problem.id: problem for problem, _ in missing}.values())
    wanted: dict[str, list[int]] = {}
    for place, (problem, _) in enumerate(missing):
        wanted.setdefault(problem.id, []).append(place)
    for first in range(0, len(problems), PROBLEMS_AT_ONCE):
        part = problems[first : first + PROBLEMS_AT_ONCE]
        for problem, values in zip(part, weigh(part), strict=True):
            lines = [
                f"{value:.6f}\t{' '.join(text.split())}"
                for value, text in zip(values, problem.weighed, strict=True)
            ]
            for place in wanted[problem.id]:
                add(
                    Generation(
                        problem=problem.id,
                        index=missing[place][1],
                        seed=seeds[place],
                        prompt=prompt_of(problem),
                        completion="\n".join(lines),
                        tokens=len(lines),
                        stop="eos",
                        seconds=0.0,
                    )
                )
