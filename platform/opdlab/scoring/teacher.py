"""The teacher's answers about a rollout: log-probabilities, fidelity, confidence after each candidate.

One pass over the rows themselves (the trunk) answers everything about the sampled tokens and leaves its
keys and values in a cache. Candidates then run as leaves against that cache, in chunks. Results equal
those of a whole forward for each prefix and candidate (`opdlab.scoring.naive`) up to rounding, whatever
rows a row is scored with and whatever was scored before: see `opdlab.modelling.length_dependence` for what
that means where a forward's length changes what it says.

Source of the tree: arXiv:2605.30833, which prefills the trunk once for every segment; here it runs once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from time import perf_counter

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel

from opdlab.methods import EVERYTHING, Offers
from opdlab.modelling import (
    KeyStore,
    Lines,
    OffloadedWeights,
    Own,
    ShardedWeights,
    Stretch,
    TeacherLogits,
    UnsupportedError,
    Weights,
    WholeWeights,
    check_prefixes,
    flat_states,
    hooked,
    learned_positions,
    log_distribution,
    logits_of,
    original_length,
    rotary,
    running,
    stretches,
    unpacked_rows,
    vocabulary_statistics,
)
from opdlab.records import Distributions, Questions, Rollout, TeacherScores
from opdlab.scoring.chains import Branch, follow, with_sampled
from opdlab.scoring.checks import check_finite, check_tokens
from opdlab.scoring.leaf_attention import Chain, LeafPass
from opdlab.scoring.length_groups import prefix_states
from opdlab.scoring.naive import naive_confidence, naive_log_probs, naive_scores
from opdlab.scoring.packing import packs, parts_of, slots_fit
from opdlab.scoring.pieces import join
from opdlab.scoring.recurrent_leaves import RecurrentLeaves
from opdlab.scoring.shared_prompts import ANY_MASK
from opdlab.scoring.tree import (
    Draws,
    Leaves,
    States,
    draws,
    leaf_chunks,
    leaves,
    part,
    response_states,
    same_prompts,
)
from opdlab.scoring.trial import prove, settle, try_chains
from opdlab.scoring.trunk import run_trunk
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import to_device, to_host, wait

# Sharing prompts costs masks; it pays from this part of all tokens.
WORTH_SHARING = 0.1
# Slots of filler that a rollout may have in all before it goes in several forwards.
_LITTLE_FILLER = 2048
# An accelerator does so few as a CPU takes at a time faster than they are launched.
LEAF_CHUNK, LEAF_CHUNK_ON_ACCELERATOR = 1024, 8192
TRUNK_TOKENS = 16384
Trunk = tuple[Stretch, KeyStore]
"""Keys and values of rows, and the prefixes that they are right for."""
__all__ = ["Teacher", "check_finite", "naive_scores"]


class Teacher:
    """A frozen model in this process that scores rollouts: a `Scorer`.

    Attributes:
        way: `tree`, or `naive` for a model whose attention cannot be hooked: exact too, but slow.
        shares: whether rows of one prompt share its pass.
        pieces: whether rows may go through the model in pieces.
        reach: tokens that a pass may take, at most, since the model counts them itself; None for any
            number. Longer rows are scored by whole forwards.
        unproven: places in a text from which the tree has not been held against whole forwards yet.
        follows: whether leaves may grow into chains; None as long as that was not tried.
        weights: where the model's are. Of sharded ones every process scores equally often, each rows of its
            own; `stand_by` where it has none.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: int | None = None,
        leaf_chunk: int | None = None,
        trunk_chunk: int | None = None,
        trunk_tokens: int = TRUNK_TOKENS,
        head_chunk: int | None = None,
    ) -> None:
        """Take over a model; `probe` tries on it how it is scored, once it lies where it will be used.

        Args:
            model: any causal language model; it is put in evaluation mode and gets no gradient.
            vocabulary: entries that student and teacher share; None for all.
            leaf_chunk: leaves computed at a time, by default `leaves_at_once`.
            trunk_chunk: tokens of whole rows computed at a time on a CPU, by default `trunk_piece`; an
                accelerator's kernels take whole rows.
            trunk_tokens: tokens of whole rows whose keys are kept at a time.
            head_chunk: vocabulary rows held at a time, at most.
        """
        self.model = model.eval().requires_grad_(False)
        self.vocabulary = vocabulary
        # Training moves a teacher to its device after this.
        self._leaf_chunk = leaf_chunk
        self.trunk_chunk = trunk_chunk or trunk_piece(model.config.get_text_config().hidden_size)
        self.trunk_tokens = trunk_tokens
        self.head_chunk = head_chunk
        self.way, self.shares, self.pieces = "tree", True, True
        self.reach: int | None = None
        self.unproven: list[int] = []
        self.follows: bool | None = None
        self.probed = False
        self.weights: Weights = WholeWeights()

    @property
    def offers(self) -> Offers:
        return EVERYTHING

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def place(self, device: torch.device, offload: bool = False) -> None:
        """Put it on the device that it will be used on; see `Scorer.place`."""
        if offload:
            self.weights = OffloadedWeights(self.model, device)
        else:
            self.model.to(device)  # pyright: ignore[reportArgumentType]

    def shard(self, mesh: DeviceMesh) -> None:
        """Part its weights over the processes of a mesh."""
        self.weights = ShardedWeights(self.model, mesh, MixedPrecisionPolicy())

    def head(self) -> AbstractContextManager[None]:
        """Within, its vocabulary projection is whole and where it is used."""
        return self.weights.head()

    def logits(self, said: Distributions) -> TeacherLogits:
        """Logits of its last hidden states, over the shared vocabulary."""
        assert said.hidden is not None
        of_all = logits_of(self.model, said.hidden)
        return lambda part: of_all(part)[:, : self.vocabulary]

    def listed(self, said: Distributions) -> None:
        """It tells whole distributions."""

    def log_probs(self, hidden: Float[Tensor, "T H"]) -> Float[Tensor, "T V"]:
        """Log-probabilities by its last hidden states, nats."""
        return log_distribution(self.model, hidden, self.vocabulary)

    @contextmanager
    def answering(self) -> Iterator[PreTrainedModel]:
        """Within, its model may sample; every process comes here, whatever its own rows are."""
        with self.weights.sampling():
            yield self.model

    def within(self, vocabulary: int | None) -> Teacher:
        """The same model, not probed yet, beside a student with which it shares other entries."""
        return Teacher(self.model, vocabulary)

    def in_pieces(self, trunk: int, leaf: int, head: int) -> Teacher:
        """The same teacher as it is set now, with other sizes of what is computed at a time."""
        small = copy.copy(self)
        small.trunk_chunk, small.leaf_chunk, small.head_chunk = trunk, leaf, head
        return small

    def reference(self, rollout: Rollout, questions: Questions) -> TeacherScores:
        """The same scores by a whole plain forward for every candidate, without `hidden`."""
        return naive_scores(self.model, rollout, questions, self.vocabulary)

    def reference_log_probs(self, rollout: Rollout, row: int) -> Float[Tensor, "t V"]:
        """What a whole plain forward says before each response token of a row, in log-probabilities."""
        return naive_log_probs(self.model, rollout, row, self.vocabulary)

    def probe(self) -> Teacher:
        """Try how the model can be scored, against whole forwards; only once, by the first scores at last.

        Raises:
            ModelError: what the model says at a token depends on later tokens or on filler.
            NonFiniteError: what it says is NaN.
        """
        if not self.probed:
            self.probed = True
            try:
                with self.weights.together():
                    settle(self)
            except Exception:
                self.probed = False
                raise
        return self

    @torch.no_grad()
    def score(self, rollout: Rollout, questions: Questions, finite: bool = True) -> TeacherScores:
        """Answer the questions; nothing returned carries a gradient.

        Args:
            finite: refuse scores that are not; a token that nobody drew may be one the model rules out.

        Raises:
            NonFiniteError: a score is NaN or infinite; the message names row and position.
            ModelError: the rollout holds a token outside the shared vocabulary, an empty prompt, or rows so
                long that `check_prefixes` refuses them.
        """
        self.probe()
        with self.weights.together():
            return self._scores(rollout, questions, finite)

    def stand_by(self) -> None:
        """Take part in the forwards by which others score."""
        self.probe()
        with self.weights.together():
            pass

    def _scores(self, rollout: Rollout, questions: Questions, finite: bool) -> TeacherScores:
        # What to compute is found on the host: on a device, each number that is looked at is waited for.
        rollout = rollout.host
        (candidates,) = to_host([questions.candidates])
        questions = replace(questions, candidates=candidates)
        check_tokens(rollout, self.vocabulary)
        uniform = draws(rollout, questions.candidates)
        beyond = questions.lookahead.beyond
        longest = int((rollout.prompt_lengths + rollout.response_lengths).max())
        positions = learned_positions(self.model) or longest + beyond
        check_prefixes(self.model, max(longest, min(longest + beyond, positions)))
        prove(self, max(longest + beyond, self._largest_pass(rollout, questions)))
        if beyond and self.follows is None:
            try_chains(self)
        groups = self._groups(rollout, beyond)
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
        return scores.to(self.model.device)

    def _largest_pass(self, rollout: Rollout, questions: Questions) -> int:
        """Tokens of the largest forward that scoring these takes, at most."""
        lengths = rollout.prompt_lengths + rollout.response_lengths
        together = min(int(lengths.sum()), self.trunk_tokens)
        return max(int(lengths.max()), together, min(questions.candidates.numel(), self.leaf_chunk))

    @property
    def leaf_chunk(self) -> int:
        """Leaves computed at a time, where the model is now."""
        return self._leaf_chunk or leaves_at_once(self.model.device.type == "cpu")

    @leaf_chunk.setter
    def leaf_chunk(self, size: int) -> None:
        self._leaf_chunk = size

    def _limit(self, tokens: int) -> int:
        return tokens if self.reach is None else min(tokens, self.reach)

    def _groups(self, rollout: Rollout, beyond: int = 0) -> list[Int[Tensor, "b"]]:
        """Rows that are scored together; each alone that takes more than one forward, or whole ones.

        Args:
            beyond: tokens that may follow their candidates.
        """
        lengths = rollout.prompt_lengths + rollout.response_lengths + beyond
        longest, tokens = int(lengths.max()), self._limit(self.trunk_tokens)
        alone = min(original_length(self.model) or longest, self._limit(longest))
        if self.way == "naive" or longest <= alone:
            return _rows_by_length(rollout, tokens)
        near = (lengths <= alone).nonzero().squeeze(1)
        far = list((lengths > alone).nonzero())
        if not len(near):
            return far
        return [*(near[rows] for rows in _rows_by_length(part(rollout, near)[0], tokens)), *far]

    def _score(self, rollout: Rollout, questions: Questions, uniform: Draws) -> TeacherScores:
        longest = int((rollout.prompt_lengths + rollout.response_lengths).max())
        beyond = questions.lookahead.beyond
        reached = longest + beyond
        # A tree has one trunk for each stretch; of dynamic frequencies, one for each token.
        changing = any(one.dynamic and reached > one.original for one in rotary(self.model))
        # A chain would go from one stretch to the next.
        changing |= beyond > 0 and (not self.follows or len(stretches(self.model, reached)) > 1)
        if self.way == "naive" or changing or reached > self._limit(reached):
            return self._answer(rollout, questions, uniform, None)
        with hooked(self.model) as own:
            return self._answer(rollout, questions, uniform, own)

    def _answer(
        self, rollout: Rollout, questions: Questions, uniform: Draws, own: Own | None
    ) -> TeacherScores:
        device = self.model.device
        started = _now(device)
        beyond = questions.lookahead.beyond
        asked = with_sampled(rollout, questions) if beyond else questions
        tree = leaves(rollout, asked.candidates, sampled=beyond > 0)
        lengths = rollout.prompt_lengths + rollout.response_lengths
        spans = stretches(self.model, int(lengths.max()))
        sharing = own is not None and own.name in ANY_MASK and self.shares and len(spans) == 1
        states = response_states(rollout, WORTH_SHARING if sharing else 1.0)
        trunks: list[Trunk] = []
        if own is None:
            row, prefix = states.row[states.index], states.column[states.index] + 1
            tokens = to_device(rollout.tokens, device)
            rows = prefix_states(self.model, tokens, lengths, row, prefix)
        else:
            hidden, trunks = self._run_trunks(own, lengths.tolist(), states, spans, len(tree) > 0)
            rows = hidden[to_device(states.index, device)]
            del hidden
        drawn = torch.zeros_like(states.index, dtype=torch.float32)
        drawn[states.before + 1] = uniform.trunk
        said = vocabulary_statistics(
            self.model,
            rows,
            to_device(states.following, device),
            self.vocabulary,
            self.head_chunk,
            uniform=to_device(drawn, device) if questions.measure == "sampled_prob" else None,
        )
        trunk_done = _now(device)
        if own is not None:
            found = self._leaf_confidence(own, trunks, tree, asked, uniform, rollout.eos_ids)
        else:
            found = self._naive_confidence(rollout, asked, tree, uniform)
        at_trunk = said.confidence(questions.measure)
        statistics = [said.log_prob, said.entropy, said.max_log_prob]
        *statistics, at_trunk, confidence = to_host([*statistics, at_trunk, found])
        log_prob, entropy, max_log_prob = statistics
        if own is not None:
            none = torch.full((), torch.nan)
            placed = confidence[tree.index] if len(tree) else none
            confidence = torch.where(tree.index >= 0, placed, none)
        if beyond:
            confidence, sampled = confidence[:, :-1], confidence[:, -1]
        else:
            sampled = at_trunk[states.before + 1]
            is_sampled = questions.candidates == rollout.token[:, None]
            confidence = torch.where(is_sampled, sampled[:, None], confidence)
        fidelity = max_log_prob[states.before + 1].exp()
        return TeacherScores(
            log_prob=log_prob[states.before],
            entropy=entropy[states.before],
            fidelity=fidelity.masked_fill(rollout.is_eos, torch.nan),
            sampled_confidence=sampled.masked_fill(rollout.is_eos, torch.nan),
            confidence=confidence,
            hidden=rows[to_device(states.before, device)]
            if questions.full or questions.top_k
            else None,
            seconds={"trunk": trunk_done - started, "leaves": _now(device) - trunk_done},
            leaves=len(tree),
        )

    def _run_trunks(
        self, own: Own, lengths: list[int], states: States, spans: list[Stretch], keep: bool
    ) -> tuple[Float[Tensor, "N H"], list[Trunk]]:
        """Last hidden states of all tokens, and a trunk for each stretch; of several, for a row alone."""
        if len(spans) == 1:
            on_cpu = self.model.device.type == "cpu"
            piece = self.trunk_chunk if self.pieces and on_cpu else None
            found, store = run_trunk(self.model, own, lengths, states, keep, piece)
            return found, [(spans[0], store)]
        parts, trunks = [], []
        for span in spans:
            cut = slice(0, span.last)
            some = replace(
                states, token=states.token[cut], row=states.row[cut], column=states.column[cut]
            )
            found, store = run_trunk(self.model, own, [span.last], some, keep, None)
            parts.append(found[span.first - 1 :])
            trunks.append((span, store))
        return torch.cat(parts), trunks

    def _leaf_confidence(
        self,
        own: Own,
        trunks: list[Trunk],
        tree: Leaves,
        questions: Questions,
        uniform: Draws,
        ends: tuple[int, ...],
    ) -> Float[Tensor, "N"]:
        """The measure after each leaf."""
        measured = [torch.zeros(0, device=self.model.device)]
        drawn: Tensor | None = None
        if questions.measure == "sampled_prob":
            drawn = to_device(uniform.candidate[tree.place, tree.slot], self.model.device)
        last = [span.last for span, _ in trunks]
        parts = leaf_chunks(tree, last, self._limit(self.leaf_chunk))
        for trunk, chunk in (
            (trunk, one) for (_, trunk), some in zip(trunks, parts, strict=True) for one in some
        ):
            span, rows = slice(chunk.start, chunk.stop), slice(chunk.first_row, chunk.last_row)
            branch = Branch(tree.row[span], tree.column[span], tree.token[span])
            states_of = partial(self._leaf_states, own, trunk, rows)
            if questions.lookahead.beyond:
                how, sizes = (questions.lookahead, ends), (self.vocabulary, self.head_chunk)
                found = follow(self.model, *how, branch, states_of, *sizes)
                measured.append(to_device(found, self.model.device))
                continue
            said = vocabulary_statistics(
                self.model,
                states_of(branch),
                None,
                self.vocabulary,
                self.head_chunk,
                entropy=questions.measure in ("entropy", "perplexity"),
                uniform=None if drawn is None else drawn[span],
            )
            measured.append(said.confidence(questions.measure))
        return torch.cat(measured)

    def _naive_confidence(
        self, rollout: Rollout, questions: Questions, tree: Leaves, uniform: Draws
    ) -> Float[Tensor, "T K"]:
        device = self.model.device
        candidates = to_device(questions.candidates, device)
        drawn = Draws(to_device(uniform.trunk, device), to_device(uniform.candidate, device))
        with unpacked_rows():
            return naive_confidence(
                self.model,
                rollout.to(device),
                replace(questions, candidates=candidates),
                tree.index >= 0,
                drawn,
                self.vocabulary,
            )

    def _leaf_states(
        self, own: Own, trunk: KeyStore, rows: slice, leaves: Branch, chain: Chain | None = None
    ) -> Float[Tensor, "N H"]:
        device, here = self.model.device, leaves.column
        lines = Lines.of(leaves.row - rows.start, rows.stop - rows.start)
        column = to_device(here, device)
        leaf_pass = LeafPass(
            own,
            *trunk.of(rows),
            lines=lines.to(device),
            column=column,
            places=here[lines.token].view(lines.R, lines.C),
            recurrent=RecurrentLeaves(trunk.states, leaves.row, here),
            chain=chain,
        )
        with running(leaf_pass):
            states = flat_states(self.model, to_device(leaves.token, device), column)
        layers = self.model.config.get_text_config().num_hidden_layers
        # Of hybrid models some layers mix no tokens; that the rest is reached is what the trial shows.
        if not own.recurrent and len(leaf_pass.reached) != layers:
            reached = f"{len(leaf_pass.reached)} of its {layers} layers"
            raise UnsupportedError(f"only {reached} use transformers' attention interface")
        return states


def leaves_at_once(on_cpu: bool) -> int:
    """Leaves that go through the model at a time."""
    return LEAF_CHUNK if on_cpu else LEAF_CHUNK_ON_ACCELERATOR


def trunk_piece(width: int) -> int:
    """Tokens that go through a model of this width at a time, where rows go in pieces.

    Measured on CPU: pieces of 1,024 tokens of width 512 are as fast as whole rows. A forward of a narrow
    model is overhead for the most part, so it takes more of them.
    """
    return max(1024, 2**19 // width)


def _now(device: torch.device) -> float:
    """Seconds on the clock once the device has done what it was told."""
    wait(device)
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
        for places in parts_of(unit, [prompts[row] + answers[row] for row in rows], tokens)
    ]
