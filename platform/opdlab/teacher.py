"""The teacher's answers about a rollout: log-probabilities, fidelity, confidence after each candidate.

One pass over the rows themselves (the trunk) answers everything about the sampled tokens and leaves its keys
and values in a cache. Candidates then run as leaves against that cache, in chunks. Results equal those of a
whole forward for each candidate (`opdlab.naive`) up to rounding.

Source of the tree: arXiv:2605.30833, which prefills the trunk once for every segment; here it runs once.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from opdlab.errors import ModelError, NonFiniteError
from opdlab.head import CHUNK, hidden_states, vocabulary_statistics
from opdlab.leaf_attention import LeafPass, UnsupportedError, leaf_attention, running
from opdlab.naive import naive_confidence, naive_scores
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.shapes import Float, Int, Tensor
from opdlab.tree import Chunk, Draws, Leaves, chunks, draws, leaves, part

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
        groups = _rows_by_length(rollout, self.trunk_tokens)
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
        started = perf_counter()
        tree = leaves(rollout, questions.candidates)
        cache = DynamicCache() if len(tree) and self.way == "tree" else None
        hidden = hidden_states(
            self.model, rollout.tokens, past_key_values=cache, use_cache=cache is not None
        )
        row, column, before = _trunk_places(rollout)
        rows = hidden[row, column]
        following = rollout.tokens[row, (column + 1).clamp(max=rollout.tokens.shape[1] - 1)]
        drawn = torch.zeros_like(row, dtype=torch.float32)
        drawn[before + 1] = uniform.trunk
        said = vocabulary_statistics(
            self.model,
            rows,
            following,
            self.vocabulary,
            self.head_chunk,
            uniform=drawn if questions.measure == "sampled_prob" else None,
        )
        sampled = said.confidence(questions.measure)[before + 1]
        trunk_done = perf_counter()
        if cache is not None:
            confidence = self._leaf_confidence(cache, tree, questions, uniform)
        else:
            confidence = naive_confidence(
                self.model, rollout, questions, tree.index >= 0, uniform, self.vocabulary
            )
        is_sampled = questions.candidates == rollout.token[:, None]
        return TeacherScores(
            log_prob=said.log_prob[before],
            entropy=said.entropy[before],
            fidelity=said.max_log_prob[before + 1].exp().masked_fill(rollout.is_eos, torch.nan),
            sampled_confidence=sampled.masked_fill(rollout.is_eos, torch.nan),
            confidence=torch.where(is_sampled, sampled[:, None], confidence),
            hidden=rows[before] if questions.full else None,
            seconds={"trunk": trunk_done - started, "leaves": perf_counter() - trunk_done},
            leaves=len(tree),
        )

    def _leaf_confidence(
        self, cache: DynamicCache, tree: Leaves, questions: Questions, uniform: Draws
    ) -> Float[Tensor, "T K"]:
        measured = []
        drawn = uniform.candidate[tree.place, tree.slot]
        in_row = torch.bincount(tree.row).tolist()
        with leaf_attention(self.model):
            for chunk in chunks(in_row, self.leaf_chunk):
                span = slice(chunk.start, chunk.stop)
                said = vocabulary_statistics(
                    self.model,
                    self._leaf_hidden(cache, tree, chunk),
                    None,
                    self.vocabulary,
                    self.head_chunk,
                    entropy=questions.measure in ("entropy", "perplexity"),
                    uniform=drawn[span] if questions.measure == "sampled_prob" else None,
                )
                measured.append(said.confidence(questions.measure))
        return torch.where(tree.index >= 0, torch.cat(measured)[tree.index], torch.nan)

    def _leaf_hidden(self, cache: DynamicCache, tree: Leaves, chunk: Chunk) -> Float[Tensor, "N H"]:
        tokens, column = tree.token[chunk.start : chunk.stop], tree.column[chunk.start : chunk.stop]
        if self._anchored:
            # Rotary scaling that depends on the longest position must pick the trunk's factor.
            tokens = torch.cat([tokens, tokens[:1]])
            column = torch.cat([column, torch.full_like(column[:1], cache.get_seq_length() - 1)])
        leaf_pass = _leaf_pass(cache, tree, chunk)
        with running(leaf_pass):
            # With a mask of ones no model takes jumping positions for packed sequences.
            hidden = hidden_states(
                self.model,
                tokens[None],
                position_ids=column[None],
                attention_mask=torch.ones_like(tokens)[None],
            )
        layers = self.model.config.get_text_config().num_hidden_layers
        if len(leaf_pass.reached) != layers:
            raise UnsupportedError(
                f"only {len(leaf_pass.reached)} of its {layers} layers use transformers' attention interface"
            )
        return hidden[0, : chunk.stop - chunk.start]


def _leaf_pass(cache: DynamicCache, tree: Leaves, chunk: Chunk) -> LeafPass:
    rows = slice(chunk.first_row, chunk.last_row)
    row = tree.row[chunk.start : chunk.stop] - chunk.first_row
    column = tree.column[chunk.start : chunk.stop]
    count = torch.bincount(row, minlength=chunk.last_row - chunk.first_row)
    line = int(count.max())
    leaf = torch.arange(len(row), device=row.device)
    slot = leaf - (count.cumsum(0) - count)[row] + row * line
    filled = torch.zeros(len(count) * line, dtype=torch.long, device=row.device)
    filled[slot] = leaf
    return LeafPass(
        keys=[layer.keys[rows] for layer in cache.layers],
        values=[layer.values[rows] for layer in cache.layers],
        column=column[filled].view(len(count), line),
        slot=slot,
        leaf=filled,
    )


def _trunk_places(
    rollout: Rollout,
) -> tuple[Int[Tensor, "T+B"], Int[Tensor, "T+B"], Int[Tensor, "T"]]:
    """Row and column of every state of the responses, the one after the last token included.

    The third tells where s_t stands among them; what comes after y_t stands one further.
    """
    count = rollout.response_lengths + 1
    row = torch.arange(len(count), device=count.device).repeat_interleave(count)
    place = torch.arange(len(row), device=count.device)
    column = (rollout.prompt_lengths - 1 - (count.cumsum(0) - count))[row] + place
    return row, column, torch.arange(len(rollout.row), device=count.device) + rollout.row


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
