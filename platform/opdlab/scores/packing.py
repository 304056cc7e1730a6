"""From a teacher's scores of a rollout to the columns that are kept of each answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from opdlab.errors import ModelError
from opdlab.modelling import DTYPES, TeacherLogits, rows_at_a_time, slices
from opdlab.records import Distributions, Questions, Rollout, TeacherScores
from opdlab.scores.kinds import Candidates, Kind
from opdlab.scores.shards import Answer, key_of
from opdlab.scoring import Scorer
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import to_host

KEPT = {"sampled": (), "top_k": ("top_ids", "top_log_prob", "tail"), "drawn": ("drawn",)}
STUDENT = ("student_log_prob", "student_entropy")
OF_CANDIDATES = (
    *("fidelity", "sampled_confidence"),
    *("candidate_at", "candidates", "candidate_log_prob", "confidence"),
)


def columns_of(kind: Kind, candidates: Candidates | None, student_told: bool) -> list[str]:
    """Names of the ragged columns of a store."""
    own = KEPT.get(kind.name, ("hidden",))
    group = () if candidates is None else OF_CANDIDATES
    return ["prompt", "response", "log_prob", *own, *(STUDENT if student_told else ()), *group]


def asked_for(kind: Kind, questions: Questions) -> Questions:
    """A method's questions about candidates, with what a kind of store keeps of distributions."""
    full = kind.name in ("hidden", "drawn")
    top_k = kind.size if kind.name == "top_k" else 0
    return Questions(questions.candidates, questions.measure, full, top_k)


def packed(
    kind: Kind,
    names: Sequence[str],
    rollout: Rollout,
    questions: Questions,
    scores: TeacherScores,
    teacher: Scorer,
    known: Sequence[tuple[int, int, str, str, str | None]],
    rows: Sequence[int],
) -> list[Answer]:
    """Answers of a rollout as they are stored.

    Args:
        names: of the columns, see `columns_of`.
        questions: that were asked, on the host.
        known: place, seed, benchmark, problem and verdict of each row.
        rows: those that are kept.
    """
    rollout, scores = rollout.host, scores.host
    keys = [key_of(*tokens_of(rollout, row)) for row in range(len(rollout.tokens))]
    columns = {"log_prob": scores.log_prob.float()}
    columns |= {"student_log_prob": rollout.log_prob, "student_entropy": rollout.entropy}
    columns |= {"fidelity": scores.fidelity, "sampled_confidence": scores.sampled_confidence}
    if scores.distributions is not None:
        columns |= distribution_columns(kind, scores.distributions, teacher, rollout, keys)
    parts = {
        name: column.split(rollout.response_lengths.tolist())
        for name, column in columns.items()
        if name in names
    }
    answers = []
    for row in rows:
        place, seed, benchmark, problem, verdict = known[row]
        prompt, response = tokens_of(rollout, row)
        own = {name: part[row] for name, part in parts.items()}
        own |= {"prompt": torch.tensor(prompt), "response": torch.tensor(response)}
        if "candidates" in names:
            own |= _candidates(rollout, questions, scores, row)
        answers.append(Answer(place, keys[row], seed, benchmark, problem, verdict, own))
    return answers


def tokens_of(rollout: Rollout, row: int) -> tuple[list[int], list[int]]:
    """Prompt and response of a row."""
    first = int(rollout.prompt_lengths[row])
    ids = rollout.tokens[row, : first + int(rollout.response_lengths[row])].tolist()
    return ids[:first], ids[first:]


def _candidates(
    rollout: Rollout, questions: Questions, scores: TeacherScores, row: int
) -> dict[str, Tensor]:
    """What is known of the candidates of an answer, at the positions that have any."""
    assert rollout.candidate_log_prob is not None
    mine = (rollout.row == row).nonzero()[:, 0]
    at = ((questions.candidates[mine] >= 0).any(-1)).nonzero()[:, 0]
    there = mine[at]
    return {
        "candidate_at": at.int(),
        "candidates": rollout.candidates[there],
        "candidate_log_prob": rollout.candidate_log_prob[there].float(),
        "confidence": scores.confidence[there].float(),
    }


@torch.no_grad()
def distribution_columns(
    kind: Kind,
    said: Distributions,
    teacher: Scorer,
    rollout: Rollout,
    keys: Sequence[int],
) -> dict[str, Tensor]:
    """What a kind keeps of the teacher's distributions, on the host."""
    if kind.name == "sampled":
        return {}
    if kind.name == "hidden":
        assert said.hidden is not None
        return {"hidden": to_host([said.hidden])[0].to(DTYPES[kind.precision])}
    if said.hidden is None:  # of a teacher that tells its likeliest tokens
        listed = teacher.listed(said)
        if listed is None or (listed.ids < 0).any():
            raise ModelError(
                f"--kind {kind}: the server returns fewer than {kind.size} tokens that the student "
                "has; take a smaller number"
            )
        assert listed.rest is not None
        found = (listed.ids, listed.log_prob, listed.rest)
        return dict(zip(KEPT["top_k"], found, strict=True))
    with teacher.head():
        logits, count = teacher.logits(said), len(said.hidden)
        width = teacher.vocabulary or logits(slice(0, 1)).shape[-1]
        at_once, _ = rows_at_a_time(width, said.hidden.device)
        parts = list(slices(count, at_once))
        if kind.name == "top_k":
            return likeliest(logits, parts, kind.listed(width))
        return {"drawn": _drawn(logits, parts, uniforms(rollout, keys, kind.size))}


def likeliest(logits: TeacherLogits, parts: Sequence[slice], top_k: int) -> dict[str, Tensor]:
    """The likeliest tokens of some rows, most likely first, and the rest as one, on the host."""
    ids, values, tails = [], [], []
    for part in parts:
        said = logits(part).float().log_softmax(-1)
        top = said.topk(top_k, dim=-1)
        rest = said.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
        found = to_host([top.indices, top.values, rest])
        for kept, one in zip((ids, values, tails), found, strict=True):
            kept.append(one)
    found = [torch.cat(each) for each in (ids, values, tails)]
    return dict(zip(KEPT["top_k"], found, strict=True))


def _drawn(
    logits: TeacherLogits, parts: Sequence[slice], uniform: Float[Tensor, "T N"]
) -> Int[Tensor, "T N"]:
    found = []
    for part in parts:
        # Of a long sum in float32 the rounding alone would favour some tokens.
        below = logits(part).double().softmax(-1).cumsum(-1)
        found += to_host([drawn_from(below, uniform[part].to(below.device))])
    return torch.cat(found)


def drawn_from(below: Float[Tensor, "T V"], uniform: Float[Tensor, "T N"]) -> Int[Tensor, "T N"]:
    """Tokens at numbers from [0, 1), by cumulative probabilities; none that has no probability."""
    places = torch.searchsorted(below, uniform * below[:, -1:], right=True)
    return places.clamp(max=below.shape[-1] - 1)


def uniforms(rollout: Rollout, keys: Sequence[int], count: int) -> Float[Tensor, "T N"]:
    """Numbers from [0, 1) that are functions of an answer's tokens and the position alone."""
    found = []
    for key, length in zip(keys, rollout.response_lengths.tolist(), strict=True):
        generator = torch.Generator().manual_seed(key)
        found.append(torch.rand((length, count), generator=generator, dtype=torch.float64))
    return torch.cat(found)
