"""The teacher's answers about a rollout: log-probabilities, fidelity, confidence after each candidate.

One pass over the rows themselves (the trunk) answers everything about the sampled tokens and leaves its
keys and values in a cache. Candidates then run as leaves against that cache, in chunks. Results equal
those of a whole forward for each candidate (`opdlab.naive`) up to rounding.

Source of the tree: arXiv:2605.30833, which prefills the trunk once for every segment; here it runs once.
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from transformers import PreTrainedModel

from opdlab.attention_hook import (
    KeyStore,
    Lines,
    Own,
    PackedPass,
    UnsupportedError,
    hooked,
    running,
)
from opdlab.errors import ModelError, NonFiniteError
from opdlab.head import flat_states, hidden_states, vocabulary_statistics
from opdlab.leaf_attention import LeafPass
from opdlab.naive import naive_confidence, naive_scores
from opdlab.packing import packs, slots_fit
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.shapes import Float, Int, Tensor
from opdlab.shared_prompts import ANY_MASK
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
    same_prompts,
)
from opdlab.trial import settle
from opdlab.trunk import run_trunk

# Sharing prompts costs masks; it pays from this part of all tokens.
_WORTH_SHARING = 0.1
# Slots of filler that a rollout may have in all before it goes in several forwards.
_LITTLE_FILLER = 2048
LEAF_CHUNK = 1024
TRUNK_TOKENS = 16384
__all__ = ["Teacher", "check_finite", "naive_scores"]


class Teacher:
    """A frozen model that scores rollouts.

    Attributes:
        way: `tree`, or `naive` for a model whose attention cannot be hooked: exact too, but slow.
        shares: whether rows of one prompt share its pass.
        pieces: whether rows may go through the model in pieces.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: int | None = None,
        leaf_chunk: int = LEAF_CHUNK,
        trunk_chunk: int | None = None,
        trunk_tokens: int = TRUNK_TOKENS,
        head_chunk: int | None = None,
    ) -> None:
        """Take over a model and try the tree on it.

        Args:
            model: any causal language model; it is put in evaluation mode and gets no gradient.
            vocabulary: entries that student and teacher share; None for all.
            leaf_chunk: leaves computed at a time.
            trunk_chunk: tokens of whole rows computed at a time on a CPU, by default `trunk_piece`; an
                accelerator's kernels take whole rows.
            trunk_tokens: tokens of whole rows whose keys are kept at a time.
            head_chunk: vocabulary rows held at a time, at most.

        Raises:
            ModelError: what the model says at a token depends on later tokens or on filler.
        """
        self.model = model.eval().requires_grad_(False)
        self.vocabulary = vocabulary
        self.leaf_chunk = leaf_chunk
        self.trunk_chunk = trunk_chunk or trunk_piece(model.config.get_text_config().hidden_size)
        self.trunk_tokens = trunk_tokens
        self.head_chunk = head_chunk
        self.way, self.shares, self.pieces = "tree", True, True
        self._anchored = picks_by_length(model)
        settle(self)

    @torch.no_grad()
    def score(self, rollout: Rollout, questions: Questions, finite: bool = True) -> TeacherScores:
        """Answer the questions; nothing returned carries a gradient.

        Args:
            finite: refuse scores that are not; a token that nobody drew may be one the model rules out.

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
            scores = join(pieces)
        if finite:
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
        started = _now(rollout.tokens)
        tree = leaves(rollout, questions.candidates)
        sharing = own is not None and own.name in ANY_MASK and self.shares and not self._anchored
        states = response_states(rollout, _WORTH_SHARING if sharing else 1.0)
        trunk = None
        if own is None:
            hidden = hidden_states(self.model, rollout.tokens)
            rows = hidden[states.row, states.column][states.index]
        else:
            hidden, trunk = self._run_trunk(own, rollout, states, keep=len(tree) > 0)
            rows = hidden[states.index]
        del hidden
        drawn = torch.zeros_like(states.index, dtype=torch.float32)
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
        trunk_done = _now(rollout.tokens)
        if own is not None and trunk is not None:
            confidence = self._leaf_confidence(own, trunk, tree, questions, uniform)
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
            seconds={"trunk": trunk_done - started, "leaves": _now(rollout.tokens) - trunk_done},
            leaves=len(tree),
        )

    def _run_trunk(
        self, own: Own, rollout: Rollout, states: States, keep: bool
    ) -> tuple[Float[Tensor, "N H"], KeyStore]:
        if self._anchored:
            # Dynamic scaling remembers the longest row it has seen; a short one makes it forget.
            with running(PackedPass(own, Lines.of(states.row[:1], 1))):
                flat_states(self.model, states.token[:1], states.column[:1])
        in_pieces = self.pieces and not self._anchored and not rollout.tokens.is_cuda
        piece = self.trunk_chunk if in_pieces else None
        return run_trunk(self.model, own, rollout, states, keep, piece)

    def _leaf_confidence(
        self, own: Own, trunk: KeyStore, tree: Leaves, questions: Questions, uniform: Draws
    ) -> Float[Tensor, "T K"]:
        if not len(tree):
            return torch.full_like(uniform.candidate, torch.nan)
        measured = []
        drawn = uniform.candidate[tree.place, tree.slot]
        for chunk in chunks(torch.bincount(tree.row).tolist(), self.leaf_chunk, even=True):
            span = slice(chunk.start, chunk.stop)
            said = vocabulary_statistics(
                self.model,
                self._leaf_states(own, trunk, tree, chunk),
                None,
                self.vocabulary,
                self.head_chunk,
                entropy=questions.measure in ("entropy", "perplexity"),
                uniform=drawn[span] if questions.measure == "sampled_prob" else None,
            )
            measured.append(said.confidence(questions.measure))
        return torch.where(tree.index >= 0, torch.cat(measured)[tree.index], torch.nan)

    def _leaf_states(
        self, own: Own, trunk: KeyStore, tree: Leaves, chunk: Chunk
    ) -> Float[Tensor, "N H"]:
        span, rows = slice(chunk.start, chunk.stop), slice(chunk.first_row, chunk.last_row)
        token, column = tree.token[span], tree.column[span]
        leaf_pass = LeafPass(
            own,
            *trunk.of(rows),
            lines=Lines.of(tree.row[span] - chunk.first_row, chunk.last_row - chunk.first_row),
            column=column,
        )
        if self._anchored:
            # Rotary scaling that depends on the longest position must pick the trunk's factor.
            token = torch.cat([token, token[:1]])
            column = torch.cat([column, torch.full_like(column[:1], trunk.S - 1)])
        with running(leaf_pass):
            states = flat_states(self.model, token, column)
        layers = self.model.config.get_text_config().num_hidden_layers
        if len(leaf_pass.reached) != layers:
            reached = f"{len(leaf_pass.reached)} of its {layers} layers"
            raise UnsupportedError(f"only {reached} use transformers' attention interface")
        return states[: chunk.stop - chunk.start]


def trunk_piece(width: int) -> int:
    """Tokens that go through a model of this width at a time, where rows go in pieces.

    Measured on CPU: pieces of 1,024 tokens of width 512 are as fast as whole rows. A forward of a narrow
    model is overhead for the most part, so it takes more of them.
    """
    return max(1024, 2**19 // width)


def _now(tensor: Tensor) -> float:
    """Seconds on the clock once the tensor's device has done what it was told."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return perf_counter()


def _rows_by_length(rollout: Rollout, tokens: int) -> list[Int[Tensor, "b"]]:
    """Rows in groups of like length, rows of one prompt together; at most so many tokens, or one row.

    Queries and keys stand in lines as long as the longest of a group, so its length must be like the
    others'. A rollout with little filler in all is one group: more forwards would cost more.
    """
    lengths = (rollout.prompt_lengths + rollout.response_lengths).tolist()
    device = rollout.tokens.device
    filler = len(lengths) * max(lengths) - sum(lengths)
    if sum(lengths) <= tokens and (
        filler <= _LITTLE_FILLER or slots_fit(len(lengths), max(lengths), sum(lengths))
    ):
        return [torch.arange(len(lengths), device=device)]
    units = _units(rollout, tokens)
    sizes = [(len(unit), max(lengths[row] for row in unit)) for unit in units]
    groups: list[list[int]] = []
    total = longest = 0
    for unit, (count, most) in sorted(zip(units, sizes, strict=True), key=lambda each: -each[1][1]):
        more = total + sum(lengths[row] for row in unit)
        fits = groups and more <= tokens and slots_fit(len(groups[-1]) + count, longest, more)
        if not fits:
            groups.append([])
            more, longest = sum(lengths[row] for row in unit), most
        groups[-1] += unit
        total = more
    return [torch.tensor(sorted(group), device=device) for group in groups]


def _units(rollout: Rollout, tokens: int) -> list[list[int]]:
    """Rows that stay together: those of one prompt whose answers are of like length."""
    answers, prompts = rollout.response_lengths.tolist(), rollout.prompt_lengths.tolist()
    of_prompt: dict[int, list[int]] = {}
    for row, number in enumerate(same_prompts(rollout)[0].tolist()):
        of_prompt.setdefault(number, []).append(row)
    return [
        [rows[place] for place in places]
        for rows in of_prompt.values()
        for unit in packs([answers[row] for row in rows], tokens)
        for places in _cut(unit, [prompts[row] + answers[row] for row in rows], tokens)
    ]


def _cut(unit: list[int], lengths: list[int], tokens: int) -> list[list[int]]:
    """The places of a unit in parts of at most so many tokens, or of one row."""
    parts: list[list[int]] = []
    total = tokens + 1
    for place in unit:
        total += lengths[place]
        if total > tokens:
            parts.append([])
            total = lengths[place]
        parts[-1].append(place)
    return parts


def join(pieces: list[tuple[TeacherScores, Int[Tensor, "_"]]]) -> TeacherScores:
    """Scores of groups of rows, each with where its tokens were, in the rollout's order."""
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
    if vocabulary is None:
        return
    columns = torch.arange(rollout.tokens.shape[1], device=rollout.tokens.device)
    foreign = (rollout.tokens >= vocabulary) & (columns < rollout.prompt_lengths[:, None])
    if foreign.any():
        row, column = foreign.nonzero()[0].tolist()
        raise ModelError(
            f"the prompt of row {row} holds token {int(rollout.tokens[row, column])} at place {column}, "
            f"outside the {vocabulary} entries that student and teacher share, so the teacher cannot read "
            "it; set prompts.template: none, or choose a teacher whose vocabulary has it"
        )
    if int(rollout.token.max()) >= vocabulary:
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


def picks_by_length(model: PreTrainedModel) -> bool:
    """Whether rotary frequencies of the model depend on the longest position of a forward."""
    kinds: list[str] = []
    for module in model.modules():
        kind = getattr(module, "rope_type", "")
        kinds += kind.values() if isinstance(kind, dict) else [str(kind)]
    return any("dynamic" in kind or "longrope" in kind for kind in kinds)
