"""Student sampling: prompts in, a `Rollout` with log-probabilities, entropy and candidates out.

An experiment is checked by the engine that it names, so what samples is imported when it does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from opdlab.errors import DataError
from opdlab.records import Covered, Rollout, option
from opdlab.shapes import Int, Tensor
from opdlab.transfers import sent, to_host

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from opdlab.modelling import Stretch
    from opdlab.sampling.draws import Recorded
    from opdlab.sampling.recording import OnResponse


@dataclass(frozen=True, kw_only=True)
class RolloutEngine(Covered, ABC):
    """Samples responses from a model. Register an engine under the entry point `opdlab.rollouts`."""

    max_new_tokens: int = option(128, "Longest response, in tokens, its EOS included.", ge=1)
    temperature: float = option(1.0, "Sampling temperature; 0 is greedy.", ge=0)
    top_p: float = option(
        1.0,
        "Top-p of nucleus sampling; below 1, samples are not from the student's own distribution.",
        gt=0,
        le=1,
    )
    group_size: int = option(1, "Responses to each prompt.", ge=1)
    ahead: int = option(
        0,
        "With 1, a server samples the answers to the next step's prompts while this step is scored "
        "and its gradient is computed. They are one update old, which truncated importance weights "
        "correct.",
        ge=0,
        le=1,
    )

    @property
    def served(self) -> bool:
        """Whether a server samples: from the one model that it was given, not from any in memory."""
        return False

    @property
    def keeps_up(self) -> bool:
        """Whether it always samples from the current weights of a model in training."""
        return True

    def in_process(self) -> RolloutEngine:
        """An engine that samples in the same way from any model in memory."""
        return self

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # An engine that samples in a way of its own must not be measured by the way that it inherits.
        if "sample" in vars(cls) and "answer" not in vars(cls):
            cls.answer = RolloutEngine.answer

    @abstractmethod
    def sample(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        eos_ids: tuple[int, ...],
        pad_id: int,
        top_k: int = 0,
        vocabulary: int | None = None,
        max_rows: int | None = None,
        on_response: OnResponse | None = None,
    ) -> Rollout:
        """Sample one response to each prompt; the caller repeats prompts for `group_size`.

        Args:
            model: the student.
            prompts: token ids, of any lengths.
            seeds: one per row; the same seed and prompt give the same response whatever else is in the
                batch.
            eos_ids: tokens that end a response.
            pad_id: padding on the right of the returned rows.
            top_k: number of candidates to return with every sampled token.
            vocabulary: sample only among the first N entries (the part that student and teacher share);
                None for all.
            max_rows: rows decoded at a time; a finished row makes room for the next prompt.
            on_response: called with the row and the tokens of each response, its EOS included, when it
                ends; what it raises ends the sampling.

        Returns:
            One response to each prompt. `log_prob` and `entropy`, in nats, are those of the whole
            distribution at temperature 1, in float32, whatever the temperature and top-p of sampling are.
        """

    def begin(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        **asked: Any,
    ) -> Callable[[], Rollout]:
        """Have the responses of `sample` made while the caller uses the model; only if `served`.

        It takes what `sample` does, but for `on_response`.

        Returns:
            Waits for them, and returns what `sample` does; to be called before the model's weights change.
        """
        return partial(self.sample, model, prompts, seeds, **asked)

    def answer(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        eos_ids: tuple[int, ...],
        pad_id: int,
        vocabulary: int | None = None,
        max_rows: int,
        max_tokens: int,
        on_response: OnResponse,
    ) -> None:
        """Sample the responses of `sample` and pass each to `on_response`: a whole benchmark is never held.

        Args:
            model: the student.
            prompts: token ids, of any lengths.
            seeds: one per row, as for `sample`.
            eos_ids: tokens that end a response.
            pad_id: padding on the right.
            vocabulary: sample only among the first N entries; None for all.
            max_rows: rows decoded at a time.
            max_tokens: most tokens of prompts and responses whose keys and values are in memory at a time;
                one row is always sampled. Here each row counts with the longest prompt and response.
            on_response: called with the row and the tokens of each response when it ends.
        """
        rows = rows_of(prompts, self.max_new_tokens, max_rows, max_tokens)
        self.sample(
            model,
            prompts,
            seeds,
            eos_ids=eos_ids,
            pad_id=pad_id,
            vocabulary=vocabulary,
            max_rows=rows,
            on_response=on_response,
        )

    def attend(self, model: PreTrainedModel) -> None:
        """Take part in what other processes sample, without prompts of one's own; only if `served`."""

    def figures(self, model: PreTrainedModel) -> dict[str, float]:
        """Metrics of a model's rollouts since the last call, for the record of a step."""
        return {}


def rows_of(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, max_rows: int, max_tokens: int
) -> int:
    """Rows that go together however long their responses become."""
    longest = max(map(len, prompts), default=0) + max_new_tokens
    return min(max_rows, max(1, max_tokens // longest))


def check_prompts(prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> None:
    """Refuse what no engine can sample from.

    Raises:
        DataError: no prompts, an empty one, or not one seed for each.
    """
    if not prompts:
        raise DataError("rollout: no prompts to sample responses to")
    if len(prompts) != len(seeds):
        raise DataError(f"rollout: {len(prompts)} prompts but {len(seeds)} seeds; give one a row")
    for row, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise DataError(
                f"rollout: prompt {row} has no tokens; a prompt needs at least one, such as BOS"
            )


def assemble(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Int[Tensor, "_"]],
    recorded: Recorded,
    seeds: Sequence[int],
    eos_ids: tuple[int, ...],
    pad_id: int,
) -> Rollout:
    """The record of responses to prompts, rows in the order of the prompts."""
    from torch.nn.utils.rnn import pad_sequence

    device = responses[0].device
    numbers = recorded.log_prob, recorded.entropy, recorded.candidates, recorded.candidate_log_prob
    found, *numbers = to_host([torch.cat(list(responses)), *numbers])
    # Copies: what was made in inference mode cannot be saved for a backward pass.
    log_prob, entropy, candidates, candidate_log_prob = (one.clone() for one in numbers)
    lengths = [len(response) for response in responses]
    parts = found.split(lengths)
    rows = [
        torch.cat([torch.tensor(list(prompt)), part])
        for prompt, part in zip(prompts, parts, strict=True)
    ]
    return Rollout(
        tokens=pad_sequence(rows, batch_first=True, padding_value=pad_id),
        prompt_lengths=torch.tensor([len(prompt) for prompt in prompts]),
        response_lengths=torch.tensor(lengths),
        ended=torch.tensor([int(part[-1]) in eos_ids for part in parts]),
        log_prob=log_prob,
        entropy=entropy,
        candidates=candidates,
        seeds=torch.tensor(list(seeds)),
        eos_ids=tuple(eos_ids),
        pad_id=pad_id,
        candidate_log_prob=candidate_log_prob,
    ).to(device)


@dataclass(frozen=True, kw_only=True)
class CachedEngine(RolloutEngine):
    """Own decode loop over the model's forward: finished rows are dropped, free places refilled."""

    def sample(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        eos_ids: tuple[int, ...],
        pad_id: int,
        top_k: int = 0,
        vocabulary: int | None = None,
        max_rows: int | None = None,
        on_response: OnResponse | None = None,
    ) -> Rollout:
        from opdlab.modelling import packed_weights, sampling_mode
        from opdlab.sampling.decoding import decode
        from opdlab.sampling.recording import Draw

        check_prompts(prompts, seeds)
        draw = Draw(
            self.temperature, self.top_p, top_k, vocabulary, self.max_new_tokens, tuple(eos_ids)
        )
        with sampling_mode(model), packed_weights(model):
            decoded = decode(model, prompts, seeds, draw, max_rows, on_response)
        return assemble(prompts, decoded.responses, decoded.recorded, seeds, eos_ids, pad_id)

    def answer(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        eos_ids: tuple[int, ...],
        pad_id: int,
        vocabulary: int | None = None,
        max_rows: int,
        max_tokens: int,
        on_response: OnResponse,
    ) -> None:
        from opdlab.modelling import packed_weights, sampling_mode
        from opdlab.sampling.decoder import Room
        from opdlab.sampling.decoding import answer
        from opdlab.sampling.recording import Draw

        check_prompts(prompts, seeds)
        draw = Draw(
            self.temperature, self.top_p, 0, vocabulary, self.max_new_tokens, tuple(eos_ids)
        )
        with sampling_mode(model), packed_weights(model):
            answer(model, prompts, seeds, draw, Room(max_rows, max_tokens), on_response)


@dataclass(frozen=True, kw_only=True)
class GenerateEngine(RolloutEngine):
    """The library's own `generate`, then one forward for the log-probabilities: slow, for reference.

    On a GPU the library makes the host wait twice per token, to see which rows have ended.
    """

    def sample(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        eos_ids: tuple[int, ...],
        pad_id: int,
        top_k: int = 0,
        vocabulary: int | None = None,
        max_rows: int | None = None,
        on_response: OnResponse | None = None,
    ) -> Rollout:
        from opdlab.modelling import sampling_mode
        from opdlab.sampling.recording import refuse_non_finite
        from opdlab.sampling.rescoring import scored

        check_prompts(prompts, seeds)
        rows, found = max_rows or len(prompts), {}
        with (
            sampling_mode(model),
            _own_generation_config(model, eos_ids, pad_id, self.max_new_tokens),
        ):
            for row, response in self._responses(model, prompts, seeds, vocabulary, rows):
                found[row] = response
                if on_response is not None:
                    on_response(row, response.tolist())
        responses = [found[row] for row in range(len(prompts))]
        recorded = scored(model, prompts, responses, vocabulary, top_k)
        rollout = assemble(prompts, responses, recorded, seeds, eos_ids, pad_id)
        refuse_non_finite(rollout.log_prob, rollout.row, rollout.position)
        return rollout

    def answer(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        eos_ids: tuple[int, ...],
        pad_id: int,
        vocabulary: int | None = None,
        max_rows: int,
        max_tokens: int,
        on_response: OnResponse,
    ) -> None:
        from opdlab.modelling import sampling_mode

        check_prompts(prompts, seeds)
        rows = rows_of(prompts, self.max_new_tokens, max_rows, max_tokens)
        with (
            sampling_mode(model),
            _own_generation_config(model, eos_ids, pad_id, self.max_new_tokens),
        ):
            for row, response in self._responses(model, prompts, seeds, vocabulary, rows):
                on_response(row, response.tolist())

    def _responses(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        vocabulary: int | None,
        rows: int,
    ) -> Iterator[tuple[int, Int[Tensor, "_"]]]:
        """Row and tokens of each response, so many rows at a time."""
        from opdlab.modelling import slices, stretches
        from opdlab.sampling.manner import company

        longest = max(map(len, prompts)) + self.max_new_tokens
        spans = stretches(model, longest)
        together = [list(range(len(prompts)))]
        manner = company(model, longest)
        if not manner.padded:
            rows = rows if manner.several else 1
            lengths: defaultdict[int, list[int]] = defaultdict(list)
            for row, prompt in enumerate(prompts):
                lengths[len(prompt)].append(row)
            together = list(lengths.values())
        for some in together:
            for part in slices(len(some), rows):
                batch = some[part]
                asked = [list(prompts[row]) for row in batch], [seeds[row] for row in batch]
                found = self._batch(model, *asked, vocabulary, spans, manner.cached)
                yield from zip(batch, found, strict=True)

    def _batch(
        self,
        model: PreTrainedModel,
        prompts: list[list[int]],
        seeds: list[int],
        vocabulary: int | None,
        spans: list[Stretch],
        cached: bool,
    ) -> list[Int[Tensor, "_"]]:
        """Token ids of responses, each up to and with its first EOS.

        With several stretches, prompts have equal lengths: each stretch begins without a cache.

        Returns:
            One tensor per prompt.
        """
        eos = model.generation_config.eos_token_id or []  # type: ignore[union-attr]
        said: list[list[int]] = [[] for _ in prompts]
        live, width = list(range(len(prompts))), max(map(len, prompts))
        for last in [*(span.last for span in spans[:-1]), width + self.max_new_tokens]:
            done = len(said[live[0]]) if live else self.max_new_tokens
            count = min(last + 1 - width, self.max_new_tokens) - done
            if count < 1:
                continue
            known = [prompts[row] + said[row] for row in live]
            fresh = self._generate(
                model, known, [seeds[row] for row in live], vocabulary, (count, done), cached
            )
            for row, tokens in zip(live, fresh, strict=True):
                said[row] += tokens
            live = [row for row in live if said[row][-1] not in eos]
        return [sent(tokens, model.device) for tokens in said]

    def _generate(
        self,
        model: PreTrainedModel,
        prompts: list[list[int]],
        seeds: list[int],
        vocabulary: int | None,
        tokens: tuple[int, int],
        cached: bool,
    ) -> list[list[int]]:
        """More tokens of each row, up to and with its first EOS.

        `tokens` is the largest number of new tokens, and the number that was sampled before.

        Returns:
            Token ids, one list per row.
        """
        from torch.nn.utils.rnn import pad_sequence
        from transformers import LogitsProcessorList

        from opdlab.modelling import forget
        from opdlab.sampling.seeded import Seeded

        count, done = tokens
        rows = [torch.tensor(prompt) for prompt in prompts]
        padded = pad_sequence(rows, batch_first=True, padding_side="left")
        real = pad_sequence(
            [torch.ones_like(row) for row in rows], batch_first=True, padding_side="left"
        )
        width = padded.shape[1]
        own = torch.tensor(seeds, device=model.device)
        seeded = Seeded(self.temperature, self.top_p, own, width - done, vocabulary)
        forget(model)
        produced = model.generate(  # type: ignore[operator]
            input_ids=padded.to(model.device),
            attention_mask=real.to(model.device),
            logits_processor=LogitsProcessorList([seeded]),
            max_new_tokens=count,
            use_cache=cached,
        )[:, width:]
        eos = model.generation_config.eos_token_id or []  # type: ignore[union-attr]
        return [
            row[: next((i for i, token in enumerate(row, 1) if token in eos), len(row))]
            for row in produced.tolist()
        ]


@contextmanager
def _own_generation_config(
    model: PreTrainedModel, eos_ids: tuple[int, ...], pad_id: int, max_new_tokens: int
) -> Iterator[None]:
    """Plain greedy search; what a checkpoint says of sampling would silently be mixed in."""
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(eos_ids) or None,
        pad_token_id=pad_id,
    )
    try:
        yield
    finally:
        model.generation_config = before
