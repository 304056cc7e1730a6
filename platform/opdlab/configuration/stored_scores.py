"""An experiment whose teacher is a store of scores, or whose prompts are those of one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opdlab.methods import EVERYTHING, Method, Offers
from opdlab.scores import TEACHER, Manifest, has_store, read_manifest, too_many

WITH_A_GROUP = (
    "the method looks ahead without candidates (reward: potential), and confidences are kept with those; "
    "score the answers again with reward: group in the experiment, whose store has what is needed, or name "
    "a model as teacher"
)


def stored(folder: str) -> Manifest | None:
    """What a store is of; None where none is there yet, which is refused when a training begins.

    Raises:
        DataError: its manifest is damaged.
    """
    place = Path(folder).expanduser()
    return read_manifest(place) if has_store(place) else None


def offers(folder: str) -> Offers:
    """What a store can tell; of one that is not there yet, everything."""
    manifest = stored(folder)
    return EVERYTHING if manifest is None else manifest.offers(f"teacher.scores ({folder})")


def teachers_files(data: Any) -> Any:
    """The section `teacher`, with the place of a stored teacher's shape and tokenizer as its path.

    Raises:
        ValueError: it names a model as well.
    """
    if not isinstance(data, Mapping) or not isinstance(scores := data.get("scores"), str):
        return data
    place = os.path.join(scores, TEACHER)
    for key in ("path", "server", "revision"):
        if data.get(key) not in (None, place):
            raise ValueError(
                f"{key}: `scores` names a teacher whose scores are on disk; leave {key} out"
            )
    return {**data, "path": place}


def as_written(data: dict[str, Any]) -> dict[str, Any]:
    """Values of an experiment without those that follow from `teacher.scores`, which a run may set."""
    teacher, prompts = data["teacher"], data["prompts"]
    if (scores := teacher.get("scores")) is None:
        return data
    data = {**data, "teacher": {key: teacher[key] for key in teacher if key != "path"}}
    if prompts.get("type") == "scored" and prompts.get("path") == scores:
        data["prompts"] = {key: prompts[key] for key in prompts if key != "path"}
    return data


def stored_misfits(config: Any) -> Iterator[str]:
    """Where an experiment and the store of its teacher do not fit together."""
    scores, prompts = config.teacher.scores, config.prompts
    if prompts.type == "scored" and not prompts.path:
        yield "prompts.path: missing; name a folder that `opdlab score` made, or set teacher.scores to it"
        return
    if prompts.type == "scored":
        yield from _answers_misfit(config, prompts.path)
    if scores is None:
        return
    if prompts.type != "scored":
        yield (
            "prompts.type: teacher.scores are scores of certain answers to certain prompts; write "
            "`prompts: {type: scored}` to train on those"
        )
        return
    if os.path.abspath(prompts.path) != os.path.abspath(scores):
        yield (
            f"prompts.path: {prompts.path} is another folder than teacher.scores ({scores}); leave it out"
        )
    if prompts.given < 1:
        yield (
            "prompts.given: fresh answers need a teacher that scores them, and teacher.scores holds none "
            "of them; set it to 1, or name a model or a server as teacher and the store in prompts.path"
        )
    if config.specialists:
        yield "specialists: teacher.scores are of one teacher; leave specialists out"
    if config.evaluation.benchmarks and "teacher" in config.evaluation.references:
        yield (
            "evaluation.references: the teacher is scores on disk and answers nothing; set "
            "`references: [student]`"
        )
    manifest = stored(scores)
    if manifest is not None:
        yield from _beyond(config.method, manifest, scores)


def _answers_misfit(config: Any, where: str) -> Iterator[str]:
    """Why the answers of a store cannot be trained on, whoever scores them."""
    manifest = stored(where)
    if manifest is None:
        return
    # Of a teacher whose scores these are, its offers say so.
    if config.teacher.scores is None and config.method.needs.answers and not manifest.imitable:
        yield f"method.type: {manifest.offers(where).why_not['answers']}"
    longest, most = manifest.answers["max_new_tokens"], config.rollout.max_new_tokens
    if longest > most:
        yield (
            f"rollout.max_new_tokens ({most}): answers in {where} have up to {longest} tokens; set that"
        )


def asks_at_ends(method: Method) -> bool:
    """Whether a method asks about candidates where the token ends the answer, too."""
    return getattr(method, "variant", None) != "sampled"


def _beyond(method: Method, manifest: Manifest, where: str) -> Iterator[str]:
    """More than a store holds of the teacher whose scores are all there is."""
    needs = method.needs
    for fault in too_many(manifest.kind_of, manifest.candidates_of, needs.top_k, method.group):
        yield f"method.top_k: it asks for {fault} ({where}); set it lower, or score again"
    candidates, threshold = manifest.candidates_of, getattr(method, "entropy_threshold", None)
    if candidates is not None and needs.confidence is not None:
        if getattr(method, "active_share", None) is not None:
            yield (
                "method.active_share: it picks positions among all answers of a step, and a store holds "
                "confidences where the student's entropy was above a threshold; set "
                f"entropy_threshold: {candidates.entropy_threshold:g} or more"
            )
        elif threshold is not None and threshold < candidates.entropy_threshold:
            yield (
                f"method.entropy_threshold: {where} holds confidences where the student's entropy was "
                f"above {candidates.entropy_threshold:g} nats; set that or more"
            )
        if asks_at_ends(method) and not candidates.ends:
            yield (
                f"method.variant: {where} holds no confidences at tokens that end an answer, which were "
                "not asked for; set variant: sampled, or score again with this method in the experiment"
            )
        had, mass = candidates.probability_mass, getattr(method, "probability_mass", None)
        if had is not None and (mass is None or mass > had):
            yield (
                f"method.probability_mass: {where} holds confidences of the likeliest candidates that hold "
                f"{had:g}; set that or less, or score again"
            )


def own_samples(path: str) -> bool:
    """Whether a store's answers are draws of a student whose log-probabilities it holds."""
    manifest = stored(path)
    return manifest is None or manifest.own_samples
