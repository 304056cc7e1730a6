"""The teachers of an experiment as scorers: models in this process, servers, or scores on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab.configuration import Experiment, Taught, Teacher
from opdlab.evaluation import Measured, open_served
from opdlab.modelling import models
from opdlab.scores import StoredTeacher, read_manifest
from opdlab.scoring import Scorer, Teacher as TeacherHere
from opdlab.serving import OpenAIEngine, RemoteTeacher, ServedTeacher, same_way

TEXT = (
    "Question: A shop sells pencils at 3 for 2 dollars. Anna buys 12 pencils and pays with a 20 dollar "
    "bill. How much change does she get?\nAnswer: She buys 12 / 3 = 4 sets of pencils, and each set "
    "costs 2 dollars, so she pays 4 * 2 = 8 dollars. Her change is 20 - 8 = 12 dollars. The answer is 12.\n"
)
"""Ordinary words, whose probability rounding hardly changes, whatever the model."""

LONGEST_TEXT = 128
"""Tokens of it, at most: where each is a letter, it is long."""


def make_scorer(source: Taught, model: PreTrainedModel, vocabulary: int | None) -> Scorer:
    """A teacher as everything else speaks to it; nothing is computed, or asked of a server, yet.

    Args:
        model: the teacher's; of one that is elsewhere without weights.
        vocabulary: entries that student and teacher share.
    """
    server = source.server
    if isinstance(source, Teacher) and source.scores is not None:
        return StoredTeacher(Path(source.scores).expanduser(), vocabulary)
    if server is None:
        return TeacherHere(model, vocabulary)
    if server.type == "opdlab":
        remote = RemoteTeacher(server.access, vocabulary, model)
        remote.expect(_of_the_files(source, model))
        return remote
    entries = int(model.config.get_text_config().vocab_size)
    tokenizer = models.load_tokenizer(source.path, source.revision)
    return ServedTeacher(
        server.access, server.served_model, vocabulary, entries, _known_by(tokenizer, entries)
    )


def _known_by(tokenizer: PreTrainedTokenizerBase, entries: int) -> list[int]:
    """Tokens of `TEXT` that a model has; two of any where it has none of its words."""
    found = [token for token in tokenizer.encode(TEXT) if token < entries][:LONGEST_TEXT]
    return found if len(found) > 1 else [0, 1]


def _of_the_files(source: Taught, model: PreTrainedModel) -> dict[str, Any]:
    """What a service must say of its teacher, by the tokenizer and the shape that are read here."""
    tokenizer = models.load_tokenizer(source.path, source.revision)
    told = {"tokenizer_sha256": models.tokenizer_sha256(tokenizer)}
    if models.adapted(source.path) is None:  # else the shape here is that of the model below
        told["config_sha256"] = models.config_sha256(model)
    return told


def contents(source: Taught, model: PreTrainedModel, template: str) -> dict[str, Any]:
    """What identifies a teacher: a run that resumes refuses another one.

    Raises:
        ServerError: it is behind a server, which does not answer.
        DataError: it is scores on disk, which are damaged.
    """
    if isinstance(source, Teacher) and source.scores is not None:
        manifest = read_manifest(Path(source.scores).expanduser())
        return {**manifest.teacher, "scores": manifest.id}
    if source.server is None:
        return models.manifest(model, source.path, source.revision, template)
    tokenizer = models.load_tokenizer(source.path, source.revision)
    scorer = make_scorer(source, model, None)
    if isinstance(scorer, RemoteTeacher):
        own = {"template_sha256": models.template_sha256(tokenizer, template)}
        return {**scorer.record(), "name": source.path, "revision": source.revision, **own}
    assert isinstance(scorer, ServedTeacher)
    return {
        "name": source.path,
        "revision": source.revision,
        "architecture": type(model).__name__,
        **scorer.record(),
        "config_sha256": models.config_sha256(model),
        "tokenizer_sha256": models.tokenizer_sha256(tokenizer),
        "template_sha256": models.template_sha256(tokenizer, template),
        "ends": list(models.eos_ids(model, tokenizer)),
    }


def contexts(runs: Iterable[Experiment]) -> dict[str, int]:
    """Tokens of a row that each server of a teacher takes, by how the server is named in messages.

    Each is asked once, however many runs it teaches.

    Raises:
        ServerError: one does not answer, or is no teacher.
    """
    sources: list[tuple[str, Taught]] = []
    for run in runs:
        specialists = [(f"specialist {number}", one) for number, one in enumerate(run.specialists)]
        every = [("teacher", run.teacher), *specialists]
        sources += [one for one in every if one not in sources]
    found = {}
    for who, source in sources:
        if source.server is None:
            continue
        scorer = make_scorer(source, models.load_shell(source.path, source.revision), None)
        assert isinstance(scorer, (ServedTeacher, RemoteTeacher))
        if (size := scorer.context()) is not None:
            found[f"server of the {who} ({source.server.url})"] = size
    return found


def expect(scorers: Sequence[Scorer], records: Sequence[Mapping[str, Any]]) -> None:
    """Hold teachers behind servers to what the record of a training says of them; models are compared by
    their contents."""
    for scorer, record in zip(scorers, records, strict=True):
        if isinstance(scorer, (ServedTeacher, RemoteTeacher)):
            scorer.expect(record)


def measured(source: Taught, config: Experiment) -> Measured:
    """A teacher behind a server, to be evaluated there.

    Raises:
        ServerError: nobody answers, or the model is not served.
    """
    assert source.server is not None
    # Its keys are the engine's.
    engine = OpenAIEngine(
        max_new_tokens=config.rollout.max_new_tokens, **source.server.model_dump()
    )
    how = same_way(config.rollout, engine)
    output = Path(config.output)
    return open_served(how, source.path, config.prompts.wording, output, source.revision)
