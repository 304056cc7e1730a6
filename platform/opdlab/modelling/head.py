"""From tokens to hidden rows, and from hidden rows to vocabulary numbers, for any causal model.

The vocabulary projection is the model's own: soft caps, scaling, biases and tied weights included. Rows are
projected in chunks, so that no tensor of all tokens by the whole vocabulary ever exists.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from opdlab.errors import ModelError
from opdlab.modelling.length_dependence import forget
from opdlab.modelling.listed import Listed
from opdlab.modelling.position_table import require_positions
from opdlab.modelling.precision import expectation, in_float32, log_prob
from opdlab.modelling.unasked import all_seen, unpacked_rows
from opdlab.modelling.vocabulary_loss import Rows, TokenLoss, TokenLosses, slices, token_losses
from opdlab.records import Supervision
from opdlab.shapes import Float, Int, Tensor


@dataclass
class _Hidden(ModelOutput):
    """A decoder's output that holds nothing but hidden states."""

    last_hidden_state: Tensor | None = None

    def __getattr__(self, name: str) -> None:
        """Causal models hand on caches, attentions, router logits ...: there are none."""
        if name.startswith("__"):
            raise AttributeError(name)


@dataclass(frozen=True, eq=False)
class VocabularyStatistics:
    """Of next-token distributions, in float32.

    Attributes:
        log_prob: of the target token, nats. `Float[T]`
        max_log_prob: of the most likely token, nats. `Float[T]`
        entropy: nats. `Float[T]`
        sampled_prob: of one token drawn from the distribution. `Float[T]`
    """

    log_prob: Float[Tensor, "T"]
    max_log_prob: Float[Tensor, "T"]
    entropy: Float[Tensor, "T"]
    sampled_prob: Float[Tensor, "T"]

    def confidence(self, measure: str) -> Float[Tensor, "T"]:
        """A confidence measure: `max_prob`, `sampled_prob`, `entropy` or `perplexity`; higher is surer."""
        if measure == "max_prob":
            return self.max_log_prob.exp()
        if measure == "sampled_prob":
            return self.sampled_prob
        if measure == "entropy":
            return -self.entropy
        if measure == "perplexity":
            return -self.entropy.exp()
        raise ValueError(f"unknown confidence measure {measure!r}")


def hidden_states(
    model: PreTrainedModel, tokens: Int[Tensor, "B S"], **options: Any
) -> Float[Tensor, "B S H"]:
    """Last hidden states, after the final norm; with a gradient where gradients are enabled.

    Rows are padded on the right: under causal attention no real token sees the filler, so no mask is
    needed. Each row is one text, whatever its positions. Forwards before this one have no influence; the
    length of this one may have (`opdlab.modelling.length_dependence`). `options` go to the model's forward.

    Raises:
        ModelError: a model has no positions for rows so long.
    """
    if "position_ids" not in options:
        require_positions(model, tokens.shape[1])
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        kept.append(output[0])

    # The causal model's own forward runs, with one row of logits: wrappers that shard parameters
    # gather them there, and whatever it passes on to the decoder stays its own business.
    if "logits_to_keep" in _parameters(type(model)):
        options["logits_to_keep"] = 1
    forget(model)
    handle = decoder(model).register_forward_hook(keep)
    try:
        with unpacked_rows():
            model(input_ids=tokens, **{"use_cache": False, **options})
    finally:
        handle.remove()
    return kept[0]


def flat_states(
    model: PreTrainedModel, tokens: Int[Tensor, "N"], column: Int[Tensor, "N"]
) -> Float[Tensor, "N H"]:
    """Last hidden states of tokens of several rows laid end to end, within a running `Pass`."""
    # With a mask of ones no model takes positions that jump for packed sequences of its own.
    ones = torch.ones_like(tokens)[None]
    with all_seen(ones):
        states = hidden_states(model, tokens[None], position_ids=column[None], attention_mask=ones)
    return states[0]


_DECODERS: WeakKeyDictionary[PreTrainedModel, nn.Module] = WeakKeyDictionary()


def decoder(model: PreTrainedModel) -> nn.Module:
    """The part of a causal model that turns tokens into what its head projects.

    Neither `base_model` nor `get_decoder()` is that part in every family, so it is found by looking: the
    outermost model that the causal model calls.
    """
    if model not in _DECODERS:
        inner = [
            module
            for module in model.modules()
            if isinstance(module, PreTrainedModel) and module is not model
        ]
        _DECODERS[model] = inner[0] if len(inner) == 1 else _outermost_called(model, inner)
    return _DECODERS[model]


def _outermost_called(model: PreTrainedModel, inner: Sequence[nn.Module]) -> nn.Module:
    called: list[nn.Module] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _inputs: called.append(module))
        for module in inner
    ]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            model(input_ids=torch.ones(1, 1, dtype=torch.long, device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise ModelError(f"{type(model).__name__}: no decoder is found inside this causal model")
    return called[0]


def project(model: PreTrainedModel, hidden: Float[Tensor, "T H"]) -> Float[Tensor, "T V"]:
    """The model's logits for hidden rows, in float32."""
    return in_float32(raw_logits(model, hidden))


def raw_logits(model: PreTrainedModel, hidden: Float[Tensor, "T H"]) -> Float[Tensor, "T V"]:
    """The model's logits for hidden rows, as it gives them.

    The causal model's forward runs with its decoder standing aside, so everything that it does to
    logits is done.
    """
    stem: Any = decoder(model)
    stem.forward = lambda *_args, **_options: _Hidden(last_hidden_state=hidden[None])
    try:
        output = model(inputs_embeds=hidden[None], use_cache=False)
    finally:
        del stem.forward
    return output.logits[0]


def _parameters(kind: type[PreTrainedModel]) -> set[str]:
    return set(inspect.signature(kind.forward).parameters)


def log_distribution(
    model: PreTrainedModel, hidden: Float[Tensor, "T H"], vocabulary: int | None
) -> Float[Tensor, "T V"]:
    """Next-token log-probabilities, in float32, over the first `vocabulary` entries."""
    return project(model, hidden)[:, :vocabulary].log_softmax(-1)


@torch.no_grad()
def vocabulary_statistics(
    model: PreTrainedModel,
    hidden: Float[Tensor, "T H"],
    targets: Int[Tensor, "T"] | None,
    vocabulary: int | None = None,
    chunk: int | None = None,
    entropy: bool = True,
    uniform: Float[Tensor, "T"] | None = None,
) -> VocabularyStatistics:
    """Numbers of each next-token distribution over the shared vocabulary; NaN for what was not asked.

    Args:
        targets: whose log-probabilities are wanted.
        chunk: vocabulary rows held at a time, at most.
        uniform: asks for `sampled_prob`: the number in [0, 1) that picks the token.
    """
    width = vocabulary or model.config.get_text_config().vocab_size
    together, at_once = rows_at_a_time(width, hidden.device, chunk)
    found = hidden.new_full((4, len(hidden)), torch.nan, dtype=torch.float32)
    kernel = None if uniform is not None else _row_kernel(hidden.device.type)
    for part in slices(len(hidden), together):
        if kernel is not None:
            some = None if targets is None else targets[part]
            found[:3, part] = kernel(raw_logits(model, hidden[part])[:, :vocabulary], some)
            continue
        logits = project(model, hidden[part])[:, :vocabulary]
        for block in slices(len(logits), at_once):
            place = slice(part.start + block.start, part.start + block.stop)
            found[:, place] = _statistics(
                logits[block],
                None if targets is None else targets[place],
                entropy,
                None if uniform is None else uniform[place],
            )
        # Else it would still be there while the next rows are projected.
        del logits
    return VocabularyStatistics(*found)


@torch.no_grad()
def likeliest(
    model: PreTrainedModel,
    hidden: Float[Tensor, "T H"],
    vocabulary: int | None = None,
    chunk: int | None = None,
) -> tuple[Float[Tensor, "T"], Int[Tensor, "T"]]:
    """The likeliest token of each next-token distribution: its log-probability in nats, and which it is.

    Args:
        chunk: vocabulary rows held at a time, at most.
    """
    width = vocabulary or model.config.get_text_config().vocab_size
    together, _ = rows_at_a_time(width, hidden.device, chunk)
    log_probs, tokens = [hidden.new_zeros(0, dtype=torch.float32)], [hidden.new_zeros(0).long()]
    for part in slices(len(hidden), together):
        logits = project(model, hidden[part])[:, :vocabulary]
        top, token = logits.max(-1)
        # In place: a sum of exponentials would take as much again.
        log_probs.append(-logits.sub_(top[:, None]).exp_().sum(-1).log())
        tokens.append(token)
    return torch.cat(log_probs), torch.cat(tokens)


@cache
def _row_kernel(device: str) -> Callable[[Tensor, Tensor | None], Tensor] | None:
    """`row_statistics`, where there is a compiler for it."""
    if device != "cuda" or find_spec("triton") is None:
        return None
    from opdlab.modelling.row_kernel import row_statistics

    return row_statistics


def _statistics(
    logits: Float[Tensor, "C V"],
    targets: Int[Tensor, "C"] | None,
    entropy: bool,
    uniform: Float[Tensor, "C"] | None,
) -> Float[Tensor, "4 C"]:
    """The four statistics of some rows; `logits` is overwritten."""
    found = torch.full((4, len(logits)), torch.nan, device=logits.device, dtype=torch.float32)
    top = logits.amax(-1)
    target = None if targets is None else logits.gather(1, targets[:, None]).squeeze(1) - top
    # The logits are the caller's chunk: overwritten, they serve as the exponentials' buffer.
    shifted = logits.sub_(top[:, None])
    p = shifted.exp() if entropy else shifted.exp_()
    total = p.sum(-1)
    log_total = total.log()
    if target is not None:
        found[0] = log_prob(target, log_total)
    found[1] = -log_total
    if entropy:
        found[2] = log_total - expectation(p, shifted) / total
    if uniform is not None:
        found[3] = _probability_of_draw(p, total, uniform)
    return found


def _probability_of_draw(
    p: Float[Tensor, "T V"], total: Float[Tensor, "T"], uniform: Float[Tensor, "T"]
) -> Float[Tensor, "T"]:
    """Probability of the token that the inverse of the cumulative distribution picks in each row."""
    # Of their own sum, in float64: else rounding may carry the largest numbers past the last entry that
    # has a probability.
    cumulative = p.cumsum(-1, dtype=torch.float64)
    reached = uniform.double()[:, None] * cumulative[:, -1:]
    picked = torch.searchsorted(cumulative, reached, right=True)
    return p.gather(1, picked.clamp_(max=p.shape[1] - 1)).squeeze(1) / total


TeacherLogits = Callable[[slice], Tensor]
"""Logits of a teacher at a slice of the response tokens. `slice -> Float[C V]`"""


def logits_of(model: PreTrainedModel, hidden: Float[Tensor, "T H"]) -> TeacherLogits:
    """A model's logits for its hidden rows, which may lie on another device."""
    return lambda part: project(model, hidden[part].to(model.device))


def chunked_loss(
    student_model: PreTrainedModel,
    student_hidden: Float[Tensor, "T H"],
    teacher: TeacherLogits | Listed | None,
    supervision: Supervision,
    token_loss: TokenLoss,
    vocabulary: int | None = None,
    chunk: int | None = None,
    weights: Float[Tensor, "T"] | None = None,
) -> TokenLosses:
    """`token_loss` of every response token, a chunk of vocabulary rows at a time.

    Args:
        student_hidden: the student's hidden state before each response token; gradients flow to it and
            to the head's weights.
        teacher: gives the teacher's logits at a slice of the tokens, on any device; of one that tells some
            tokens alone these; None for losses that need no teacher distribution.
        token_loss: `Method.token_loss`: log-probabilities of student and teacher, supervision -> losses;
            `Method.listed_loss` of a teacher that tells some tokens alone.
        chunk: vocabulary rows held at a time, at most.
        weights: what the losses will be multiplied by, up to a factor; None for all the same. Others
            are right too, but cost the forward pass of the head again.
    """
    width = vocabulary or student_model.config.get_text_config().vocab_size

    def said(part: slice) -> Float[Tensor, "C V"]:
        assert callable(teacher)
        return teacher(part)[:, :vocabulary].to(student_hidden.device)

    rows = Rows(
        student=lambda hidden: _shared_entries(project(student_model, hidden), vocabulary),
        teacher=said if callable(teacher) else None,
        listed=teacher.to(student_hidden.device) if isinstance(teacher, Listed) else None,
        supervision=supervision,
        token_loss=token_loss,
        weights=student_hidden.new_ones(len(student_hidden), dtype=torch.float32)
        if weights is None
        else _largest_one(weights.detach()),
        at_a_time=rows_at_a_time(width, student_hidden.device, chunk),
        head=_plain_head(student_model),
    )
    return token_losses(rows, student_hidden, head_parameters(student_model))


def _largest_one(weights: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
    """Up to a factor the same: gradients of logits with weights of 1 / length would vanish in float16."""
    return weights / weights.amax().clamp(min=1e-30) if len(weights) else weights


def _shared_entries(logits: Float[Tensor, "C V"], vocabulary: int | None) -> Float[Tensor, "C W"]:
    """Without a slice of everything, whose backward pass would copy it."""
    return logits if vocabulary is None else logits[:, :vocabulary]


def _plain_head(model: PreTrainedModel) -> nn.Linear | None:
    """The model's linear vocabulary projection, if calling it does nothing else."""
    head = model.get_output_embeddings()
    # Exactly a linear layer: a subclass may do more. Autocast would choose other formats.
    if type(head) is not nn.Linear or torch.is_autocast_enabled(head.weight.device.type):
        return None
    hooks = (head._forward_hooks, head._forward_pre_hooks, head._backward_hooks)
    # Sharded weights are gathered by whoever sharded them.
    plain = type(head.weight.data) is torch.Tensor and "forward" not in vars(head)
    return head if plain and not any(hooks) else None


def head_parameters(model: PreTrainedModel) -> list[nn.Parameter]:
    """Weights that turn hidden rows into logits, those tied to the embeddings included."""
    inside = {id(weight) for weight in decoder(model).parameters()}
    outside = [weight for weight in model.parameters() if id(weight) not in inside]
    projection = model.get_output_embeddings()
    tied = [] if projection is None else list(projection.parameters())
    return [*outside, *(weight for weight in tied if id(weight) in inside)]


def rows_at_a_time(
    vocabulary: int, device: torch.device, chunk: int | None = None
) -> tuple[int, int]:
    """Vocabulary rows to project together, and those to work on together, which a cache should hold.

    Measured on CPU: fewer rows than about 256 of 32,000 entries slow the products down; more only cost
    memory. Elementwise work is fastest on 2 MB. `chunk` is an upper limit to both.
    """
    on_cpu = device.type == "cpu"
    together = min(chunk or 2**20, max(32, (2**23 if on_cpu else 2**27) // vocabulary))
    return together, min(together, max(1, 2**19 // vocabulary)) if on_cpu else together
