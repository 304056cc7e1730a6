"""The teacher's answers about a rollout: log-probabilities, fidelity, confidence after each candidate.

One pass over the rows themselves (the trunk) answers everything about the sampled tokens and leaves its
keys and values in a cache. Candidates then run as leaves against that cache, in chunks. Results equal
those of a whole forward for each candidate (`opdlab.naive`) up to rounding.

Source of the tree: arXiv:2605.30833, which prefills the trunk once for every segment; here it runs once.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from transformers import PreTrainedModel

from opdlab.attention_hook import Lines, Own, PackedPass, UnsupportedError, hooked, running
from opdlab.errors import ModelError, NonFiniteError
from opdlab.head import CHUNK, flat_states, hidden_states, vocabulary_statistics
from opdlab.leaf_attention import LeafPass
from opdlab.naive import naive_confidence, naive_scores
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.shapes import Float, Int, Tensor
from opdlab.tree import (
    Chunk,
    Draws,
    Leaves,
    States,
    chunks,
    draws,
    leaves,
    part,
    response_states,
)

__all__ = ["Teacher", "check_finite", "naive_scores"]


class Teacher:
    """A frozen model that scores rollouts.

    Attributes:
        way: `tree`, or `naive` for a model whose attention cannot be hooked: exact too, but slow.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: int | None = None,
        leaf_chunk: int = 1024,
        trunk_tokens: int = 16384,
        head_chunk: int = CHUNK,
    ) -> None:
        """Take over a model and try the tree on it.

        Args:
            model: any causal language model; it is put in evaluation mode and gets no gradient.
            vocabulary: entries that student and teacher share; None for all.
            leaf_chunk: leaves computed at a time.
            trunk_tokens: tokens of whole rows computed, and whose keys are kept, at a time.
            head_chunk: vocabulary rows held at a time.

        Raises:
            ModelError: what the model says at a token depends on later tokens or on filler.
        """
        self.model = model.eval().requires_grad_(False)
        self.vocabulary = vocabulary
        self.leaf_chunk = leaf_chunk
        self.trunk_tokens = trunk_tokens
        self.head_chunk = head_chunk
        self.way = "tree"
        self._anchored = any(_picks_by_length(module) for module in model.modules())
        _try_out(self)

    @torch.no_grad()
    def score(self, rollout: Rollout, questions: Questions) -> TeacherScores:
        """Answer the questions; nothing returned carries a gradient.

        Raises:
            NonFiniteError: a score is NaN or infinite; the message names row and position.
            ModelError: the rollout holds a token outside the shared vocabulary, or an empty prompt.
        """
        _check_tokens(rollout, self.vocabulary)
        uniform = draws(rollout, questions)
        # Where rotary frequencies depend on the longest position of a forward, a row goes alone: its
        # scores must not depend on its company.
        groups = _rows_by_length(rollout, 1 if self._anchored else self.trunk_tokens)
        if len(groups) == 1:
            scores = self._score(rollout, questions, uniform)
        else:
            pieces = []
            for rows in groups:
                piece, place = part(rollout, rows)
                asked = replace(questions, candidates=questions.candidates[place])
                drawn = Draws(uniform.trunk[place], uniform.candidate[place])
                pieces.append((self._score(piece, asked, drawn), place))
            scores = _join(pieces)
        check_finite(scores, rollout, questions)
        return scores

    def _score(self, rollout: Rollout, questions: Questions, uniform: Draws) -> TeacherScores:
        if self.way == "naive":
            return self._answer(rollout, questions, uniform, None)
        with hooked(self.model) as own:
            return self._answer(rollout, questions, uniform, own)

    def _answer(
        self, rollout: Rollout, questions: Questions, uniform: Draws, own: Own | None
    ) -> TeacherScores:
        started = perf_counter()
        tree = leaves(rollout, questions.candidates)
        states = response_states(rollout)
        trunk = None
        if own is None:
            rows = hidden_states(self.model, rollout.tokens)[states.row, states.column]
        else:
            trunk = PackedPass(own, Lines.of(states.all_row, len(rollout.tokens)), len(tree) > 0)
            rows = self._trunk_states(trunk, states)[states.index]
        drawn = torch.zeros_like(states.row, dtype=torch.float32)
        drawn[states.before + 1] = uniform.trunk
        said = vocabulary_statistics(
            self.model,
            rows,
            states.following,
            self.vocabulary,
            self.head_chunk,
            uniform=drawn if questions.measure == "sampled_prob" else None,
        )
        sampled = said.confidence(questions.measure)[states.before + 1]
        trunk_done = perf_counter()
        if trunk is not None:
            confidence = self._leaf_confidence(trunk, tree, questions, uniform)
        else:
            confidence = naive_confidence(
                self.model, rollout, questions, tree.index >= 0, uniform, self.vocabulary
            )
        is_sampled = questions.candidates == rollout.token[:, None]
        fidelity = said.max_log_prob[states.before + 1].exp()
        return TeacherScores(
            log_prob=said.log_prob[states.before],
            entropy=said.entropy[states.before],
            fidelity=fidelity.masked_fill(rollout.is_eos, torch.nan),
            sampled_confidence=sampled.masked_fill(rollout.is_eos, torch.nan),
            confidence=torch.where(is_sampled, sampled[:, None], confidence),
            hidden=rows[states.before] if questions.full else None,
            seconds={"trunk": trunk_done - started, "leaves": perf_counter() - trunk_done},
            leaves=len(tree),
        )

    def _trunk_states(self, trunk: PackedPass, states: States) -> Float[Tensor, "N H"]:
        if self._anchored:
            # Dynamic scaling remembers the longest row it has seen; a short one makes it forget.
            short = PackedPass(trunk.own, Lines.of(states.all_row[:1], 1))
            with running(short):
                flat_states(self.model, states.all_token[:1], states.all_column[:1])
        with running(trunk):
            return flat_states(self.model, states.all_token, states.all_column)

    def _leaf_confidence(
        self, trunk: PackedPass, tree: Leaves, questions: Questions, uniform: Draws
    ) -> Float[Tensor, "T K"]:
        if not len(tree):
            return torch.full_like(uniform.candidate, torch.nan)
        measured = []
        drawn = uniform.candidate[tree.place, tree.slot]
        for chunk in chunks(torch.bincount(tree.row).tolist(), self.leaf_chunk):
            span = slice(chunk.start, chunk.stop)
            said = vocabulary_statistics(
                self.model,
                self._leaf_states(trunk, tree, chunk),
                None,
                self.vocabulary,
                self.head_chunk,
                entropy=questions.measure in ("entropy", "perplexity"),
                uniform=drawn[span] if questions.measure == "sampled_prob" else None,
            )
            measured.append(said.confidence(questions.measure))
        return torch.where(tree.index >= 0, torch.cat(measured)[tree.index], torch.nan)

    def _leaf_states(self, trunk: PackedPass, tree: Leaves, chunk: Chunk) -> Float[Tensor, "N H"]:
        span, rows = slice(chunk.start, chunk.stop), slice(chunk.first_row, chunk.last_row)
        token, column = tree.token[span], tree.column[span]
        leaf_pass = LeafPass(
            keys={layer: keys[rows] for layer, keys in trunk.keys.items()},
            values={layer: values[rows] for layer, values in trunk.values.items()},
            lines=Lines.of(tree.row[span] - chunk.first_row, chunk.last_row - chunk.first_row),
            column=column,
        )
        if self._anchored:
            # Rotary scaling that depends on the longest position must pick the trunk's factor.
            token = torch.cat([token, token[:1]])
            column = torch.cat([column, torch.full_like(column[:1], trunk.lines.C - 1)])
        with running(leaf_pass):
            states = flat_states(self.model, token, column)
        layers = self.model.config.get_text_config().num_hidden_layers
        if len(leaf_pass.reached) != layers:
            reached = f"{len(leaf_pass.reached)} of its {layers} layers"
            raise UnsupportedError(f"only {reached} use transformers' attention interface")
        return states[: chunk.stop - chunk.start]


def _rows_by_length(rollout: Rollout, tokens: int) -> list[Int[Tensor, "b"]]:
    """Rows of like length together, at most so many tokens with their filler; one row at least."""
    lengths = (rollout.prompt_lengths + rollout.response_lengths).tolist()
    if len(lengths) * max(lengths) <= tokens:
        return [torch.arange(len(lengths), device=rollout.tokens.device)]
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not groups or (len(groups[-1]) + 1) * lengths[groups[-1][0]] > tokens:
            groups.append([])
        groups[-1].append(row)
    return [torch.tensor(sorted(group), device=rollout.tokens.device) for group in groups]


def _join(pieces: list[tuple[TeacherScores, Int[Tensor, "t"]]]) -> TeacherScores:
    """Scores of the groups of rows, in the rollout's order."""
    order = torch.cat([place for _, place in pieces]).argsort()

    def all_of(name: str) -> Any:
        parts = [getattr(scores, name) for scores, _ in pieces]
        return None if parts[0] is None else torch.cat(parts)[order]

    names = ("log_prob", "entropy", "fidelity", "sampled_confidence", "confidence", "hidden")
    return TeacherScores(
        **{name: all_of(name) for name in names},
        seconds={
            name: sum(scores.seconds[name] for scores, _ in pieces) for name in ("trunk", "leaves")
        },
        leaves=sum(scores.leaves for scores, _ in pieces),
    )


def _check_tokens(rollout: Rollout, vocabulary: int | None) -> None:
    if int(rollout.prompt_lengths.min()) < 1:
        row = int(rollout.prompt_lengths.argmin())
        raise ModelError(f"row {row} has an empty prompt; begin it with a BOS token")
    if vocabulary is not None and int(rollout.token.max()) >= vocabulary:
        t = int(rollout.token.argmax())
        raise ModelError(
            f"row {int(rollout.row[t])} holds token {int(rollout.token[t])} at response position "
            f"{int(rollout.position[t])}, outside the {vocabulary} entries that student and teacher "
            "share; sample among those only"
        )


def check_finite(scores: TeacherScores, rollout: Rollout, questions: Questions) -> None:
    """Refuse scores that are NaN or infinite where a number belongs.

    Raises:
        NonFiniteError: names the first such row and position.
    """
    never = torch.zeros_like(rollout.is_eos)
    for name, allowed in (
        ("log_prob", never),
        ("entropy", never),
        ("fidelity", rollout.is_eos),
        ("sampled_confidence", rollout.is_eos),
        ("confidence", questions.candidates < 0),
    ):
        value: Tensor = getattr(scores, name)
        bad = ~torch.isfinite(value) & ~allowed
        if bad.any():
            t = int(bad.nonzero()[0, 0])
            raise NonFiniteError(
                f"the teacher's {name} is {value[t].tolist()} in row {int(rollout.row[t])} at response "
                f"position {int(rollout.position[t])} (token {int(rollout.token[t])}); load the teacher "
                "in bfloat16 or float32, or check its weights"
            )


def _picks_by_length(module: torch.nn.Module) -> bool:
    """Whether a rotary embedding picks its frequencies by the longest position of a forward."""
    kinds = getattr(module, "rope_type", "")
    kinds = kinds.values() if isinstance(kinds, dict) else [str(kinds)]
    return any("dynamic" in kind or "longrope" in kind for kind in kinds)


def _try_out(teacher: Teacher) -> None:
    """Hold the tree against whole forwards on a few tokens; settle which way this model is scored.

    Raises:
        ModelError: not even a trunk of padded rows can be scored.
    """
    rollout, questions = _trial(teacher)
    truth = naive_scores(teacher.model, rollout, questions, teacher.vocabulary)
    sampled = questions.candidates == rollout.token[:, None]
    reason = ""
    try:
        found = teacher.score(rollout, questions)
        error = (found.confidence.log() - truth.confidence.log()).abs().mean()
        if error > _tolerance(teacher.model):
            reason = f"its candidates' confidences come out wrong by {float(error):.2g} nats"
    except UnsupportedError as error:
        reason = str(error)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        # Model code that was not written for the hook can fail in any of these ways.
        reason = f"{type(error).__name__}: {error}"
    if not reason:
        return
    name = type(teacher.model).__name__
    teacher.way = "naive"
    found = teacher.score(rollout, questions)
    errors = [
        (found.log_prob - truth.log_prob).abs().mean(),
        (found.confidence.log() - truth.confidence.log())[sampled].abs().mean(),
    ]
    if max(errors) > _tolerance(teacher.model):
        raise ModelError(
            f"{name} cannot be a teacher: what it says at a token depends on later tokens or on filler "
            f"(off by {float(max(errors)):.2g} nats); choose a decoder-only model"
        )
    warnings.warn(
        f"{name} is scored by a whole forward for every candidate, which is exact but slow: {reason}",
        UserWarning,
        stacklevel=3,
    )


def _tolerance(model: PreTrainedModel) -> float:
    """Mean difference in log confidence, in nats, that rounding can explain."""
    return 1e-4 if model.dtype == torch.float32 else 0.05


def _trial(teacher: Teacher) -> tuple[Rollout, Questions]:
    """Two unequal rows of arbitrary tokens; each position asks for its own token and one other."""
    size = teacher.vocabulary or teacher.model.config.get_text_config().vocab_size
    device = teacher.model.device
    prompts, responses = torch.tensor([3, 2]), torch.tensor([3, 5])
    tokens = (torch.arange(14).reshape(2, 7) * 7919 + 11) % size
    T = int(responses.sum())
    rollout = Rollout(
        tokens=tokens,
        prompt_lengths=prompts,
        response_lengths=responses,
        ended=torch.zeros(2, dtype=torch.bool),
        log_prob=torch.zeros(T),
        entropy=torch.zeros(T),
        candidates=torch.zeros(T, 0, dtype=torch.long),
        seeds=torch.zeros(2, dtype=torch.long),
        eos_ids=(),
    ).to(device)
    other = (rollout.token * 31 + 17) % size
    return rollout, Questions(torch.stack([rollout.token, other], 1))
