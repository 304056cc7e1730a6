"""Whether scores on disk are whole, and of answers that the student can be trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab.configuration import Experiment
from opdlab.doctor.lines import Line, failed, passed, skipped
from opdlab.errors import OpdlabError
from opdlab.modelling import models
from opdlab.prompts import ScoredSource, open_prompts
from opdlab.scores import Scores
from opdlab.training import require_ends

WHOLE = "the scores on disk are as they were written"
FITTING = "their answers are in the student's tokens, template and ends"
WITH_TEACHER = "log-probabilities, teacher scores, tree scoring, gradients and updates"


def stored(
    config: Experiment, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Line]:
    """The lines of a run whose teacher is scores on disk."""
    assert config.teacher.scores is not None
    try:
        scores = Scores(Path(config.teacher.scores)).verify()
    except OpdlabError as error:
        yield failed(WHOLE, str(error), "see the message")
        return
    told = f"{len(scores):,} answers, {scores.tokens:,} tokens, {scores.bytes / 1e6:,.1f} MB"
    yield passed(WHOLE, f"{told}, {scores.kind}")
    try:
        prompts = open_prompts(config.prompts, tokenizer, config.seed)
        assert isinstance(prompts, ScoredSource)
        require_ends(prompts, models.eos_ids(student, tokenizer))
        yield passed(FITTING, f"{scores.manifest.vocabulary} entries are shared")
    except OpdlabError as error:
        yield failed(FITTING, str(error), "see the message")
    yield skipped(WITH_TEACHER, "no teacher is loaded that could score fresh answers")
