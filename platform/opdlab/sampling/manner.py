"""How a model can be decoded: found by trying, against forwards of whole rows alone.

A model whose layers keep state, count tokens themselves, or have been changed by somebody else does not say
so anywhere. So a few tokens are sampled, and their log-probabilities held against plain forwards: again
where a rollout reaches places in a text at which its layers may begin to do something else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules import module as every_module
from transformers import AttentionInterface, GenerationConfig, PreTrainedModel

from opdlab.errors import ModelError, NonFiniteError
from opdlab.modelling import (
    ORDERS,
    InParts,
    UnsupportedError,
    check_prefixes,
    code_of,
    counts_from,
    hidden_states,
    hides_faults,
    in_float32,
    log_distribution,
    original_length,
    replaced,
    thresholds,
)
from opdlab.shapes import Float, Tensor

# Model code that was not written for a cache of ours can fail in any of these ways.
FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
SAID = 3
"""Tokens that a trial samples."""
MARGIN = 4.0
"""Times that rounding may move a row by what another order of sums does."""
LARGEST = 1e-2
"""Nats that a single token may be off in float32."""
WHOLE = 1e-4
"""Nats that rounding can explain in float32."""
_REMEDY = "set rollout.type to `generate`"


@dataclass(frozen=True)
class Manner:
    """How the rollout engine `cached` decodes a model.

    Attributes:
        step: `written`, by `LlamaStep`; `lean`, by `LeanStep`; `static`, by `StaticStep`; `plain`, by
            the model's own forward.
        alike: only rows of equal length together.
    """

    step: Literal["written", "lean", "static", "plain"]
    alike: bool = False

    @property
    def recorded(self) -> bool:
        """Whether an accelerator records the step and replays it."""
        return self.step in ("lean", "static")


Sample = Callable[[list[list[int]]], tuple[list[list[int]], Tensor]]
"""A `Trial` of one manner."""
Trial = Callable[[Manner, list[list[int]]], tuple[list[list[int]], Tensor]]
"""Samples `SAID` tokens after each prompt: whole rows, and the log-probabilities recorded."""

_FOUND: WeakKeyDictionary[nn.Module, dict[str, tuple[Any, int, Any]]] = WeakKeyDictionary()


def manner(model: PreTrainedModel, longest: int, quicker: Sequence[Manner], trial: Trial) -> Manner:
    """The quickest manner that is right for rows of so many tokens.

    Args:
        quicker: to be tried before the model's own forward.

    Raises:
        ModelError: none is, or `check_prefixes` refuses rows so long.
    """
    original = original_length(model)
    if original is not None and longest > original:
        raise ModelError(
            f"the rotary frequencies of {type(model).__name__} change beyond {original} positions, and "
            f"prompts and responses may take {longest}: keys cached before would be wrong in the rollout "
            f"engine `cached`; lower rollout.max_new_tokens, or {_REMEDY}"
        )
    before = _known(model, "cached")
    if before is not None and before[1] >= longest:
        return before[2]
    check_prefixes(model, longest)
    faults: list[str] = []
    for one in (Manner("plain"), Manner("plain", alike=True)):
        sample = partial(trial, one)
        fault = _fault(model, longest, sample, unlike=not one.alike)
        if fault is None:
            if one.alike:
                warnings.warn(
                    f"{type(model).__name__} counts the tokens of its cache itself: only rows of equal "
                    f"length are decoded together, which is exact but slow ({faults[-1]})",
                    UserWarning,
                    stacklevel=2,
                )
            else:
                found = (
                    way
                    for way in quicker
                    if _fault(model, longest, partial(trial, way), exact=False) is None
                )
                one = next(found, one)
            _keep(model, "cached", longest, one)
            return one
        faults.append(fault)
    raise ModelError(
        f"{type(model).__name__} cannot be decoded from cached keys and values alone, as the rollout "
        f"engine `cached` does ({faults[-1]}); {_REMEDY}"
    )


@dataclass(frozen=True)
class Company:
    """Which rows the library's `generate` may sample together so that none has a part in another's.

    Attributes:
        padded: rows of any length; else of equal length alone.
        several: more than one row.
        cached: with the model's own cache; else each token takes a forward of all before it.
    """

    padded: bool
    several: bool
    cached: bool


def company(model: PreTrainedModel, longest: int) -> Company:
    """The quickest way to use `generate` that is right for rows of so many tokens.

    Raises:
        ModelError: none is, or `check_prefixes` refuses rows so long.
    """
    before = _known(model, "generate")
    if before is not None and before[1] >= longest:
        return before[2]
    check_prefixes(model, longest)
    original, faults = original_length(model), []
    within = longest if original is None else min(longest, original)
    for one in (
        # A padded row takes another forward's length for its own.
        *([Company(True, True, True)] if within == longest else []),
        Company(False, True, True),
        Company(False, False, True),
        Company(False, False, False),
    ):
        fault = _fault(
            model,
            within,
            partial(_generated, model, cached=one.cached),
            unlike=one.padded,
            rows=2 if one.several else 1,
        )
        if fault is None:
            _keep(model, "generate", longest, one)
            return one
        faults.append(fault)
    raise ModelError(
        f"{type(model).__name__} cannot be sampled by transformers' `generate` ({faults[-1]}); choose "
        "another model, or another version of transformers"
    )


@torch.no_grad()
def _generated(
    model: PreTrainedModel, prompts: list[list[int]], cached: bool
) -> tuple[list[list[int]], Tensor]:
    width = max(map(len, prompts))
    padded = [[prompt[0]] * (width - len(prompt)) + prompt for prompt in prompts]
    real = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    before = model.generation_config
    # Whatever ends an answer, also what an argument leaves out is taken from there.
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=SAID, pad_token_id=0, use_cache=cached
    )
    try:
        found: Any = model.generate(  # type: ignore[operator]
            input_ids=torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(real, device=model.device),
            output_logits=True,
            return_dict_in_generate=True,
        )
    finally:
        model.generation_config = before
    said = found.sequences[:, width:]
    log_p = torch.stack(found.logits, 1).float().log_softmax(-1)
    rows = [prompt + more for prompt, more in zip(prompts, said.tolist(), strict=True)]
    return rows, log_p.gather(-1, said[..., None]).flatten()


def _fault(
    model: PreTrainedModel,
    longest: int,
    sample: Sample,
    unlike: bool = True,
    rows: int = 2,
    exact: bool = True,
) -> str | None:
    """What goes wrong with a way to sample; None if nothing does.

    Args:
        unlike: whether rows have unequal lengths.
        exact: whether it is operations of torch, so that half precision can be told from faults.
    """
    size = model.config.get_text_config().vocab_size
    places = [place for place in thresholds(model) if place < longest]
    # What rounding would hide.
    counted = counts_from(model.config)
    for place in (6, *places):
        # Of what is held by the median alone, two of the tokens stand beyond the place.
        first = max(1, min(place, longest - SAID) - exact)
        lengths = [first, 2 if unlike else first][:rows]
        if unlike and place == counted and not _is_whole(model):
            return f"its layers count the tokens before them, from {place} on"
        prompts = [
            [(i * 7919 + row * 31 + 11) % size for i in range(n)] for row, n in enumerate(lengths)
        ]
        try:
            gap, largest, said = _gap(model, prompts, sample)
            allowed = _rounding(model, said)
            if exact and gap <= allowed:
                gap, allowed = _of_each(model, prompts, sample, largest)
        except NonFiniteError as error:
            if not _alone(model, [[*prompt, *[0] * SAID] for prompt in prompts]).isnan().any():
                return str(error)
            # What is wrong is the weights; who samples will say where.
            return None
        except torch.OutOfMemoryError:
            raise
        except (UnsupportedError, *FAILURES) as error:
            return f"{type(error).__name__}: {error}"
        if not gap <= allowed:
            return f"log-probabilities are off by {gap:.2g} nats in a text of {len(said[0])} tokens"
    return None


def _of_each(
    model: PreTrainedModel,
    prompts: list[list[int]],
    sample: Sample,
    largest: float,
) -> tuple[float, float]:
    """By how much each token is off in float32, and may be."""
    if not hides_faults(model):
        return largest, LARGEST if _is_whole(model) else torch.inf
    gap, allowed = _gap_in_float32(model, prompts, sample), WHOLE
    if gap > allowed:
        # Tables of decays in half precision are off, too, but not by company.
        alone = [_gap_in_float32(model, [one], sample) for one in prompts]
        allowed = min(LARGEST, max(allowed, MARGIN * max(alone)))
    return gap, allowed


def _gap(
    model: PreTrainedModel,
    prompts: list[list[int]],
    sample: Sample,
) -> tuple[float, float, list[list[int]]]:
    """Nats by which a way to sample is off, by median and at one token, and the rows that it found."""
    said, log_prob = sample(prompts)
    apart = (log_prob - _alone(model, said)).abs().view(-1, SAID)
    # Right rows must not hide a wrong one; a single token rounding may send to another expert.
    return float(apart.median(1).values.max()), float(apart.max()), said


def _gap_in_float32(
    model: PreTrainedModel,
    prompts: list[list[int]],
    sample: Sample,
) -> float:
    """The gap beside rounding; 0 where operations of the model's own take no float32."""
    try:
        with in_float32(model):
            return _gap(model, prompts, sample)[1]
    except FAILURES:
        return 0.0


def _rounding(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> float:
    """By how many nats rounding can move a row."""
    if _is_whole(model):
        return WHOLE
    alone, noise = _alone(model, rows), 1e-3
    for parts in ORDERS:
        with InParts(parts):
            apart = (_alone(model, rows) - alone).abs().view(-1, SAID)
        noise = max(noise, float(apart.mean(1).max()))
    return MARGIN * noise


@torch.no_grad()
def _alone(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> Float[Tensor, "T"]:
    """Log-probabilities of the last `SAID` tokens of each row, by a forward of it alone."""
    found = []
    for row in rows:
        tokens = torch.tensor(row, device=model.device)
        states = hidden_states(model, tokens[None])[0, -SAID - 1 : -1]
        said = log_distribution(model, states, None)
        found.append(said.gather(-1, tokens[-SAID:, None])[:, 0])
    return torch.cat(found)


def _is_whole(model: PreTrainedModel) -> bool:
    """Whether it computes in float32."""
    return model.dtype == torch.float32 and not torch.is_autocast_enabled(model.device.type)


def _known(model: nn.Module, kind: str) -> tuple[Any, int, Any] | None:
    """What was found before, if the model is still made as it was then."""
    found = _FOUND.get(model, {}).get(kind)
    return found if found is not None and found[0] == _made(model) else None


def _keep(model: nn.Module, kind: str, longest: int, found: Any) -> None:
    _FOUND.setdefault(model, {})[kind] = (_made(model), longest, found)


def _made(model: Any) -> int:
    """Tells whether modules or what they call were replaced, put elsewhere, hooked, or given other weights,
    numbers or formats.
    """
    kinds = {parameter.device.type for parameter in model.parameters()}
    parts: list[Any] = [(kind, torch.is_autocast_enabled(kind)) for kind in sorted(kinds)]
    classes = dict.fromkeys(type(module) for module in model.modules())
    parts += [id(one) for each in classes for one in code_of(each)]
    config = model.config.get_text_config()
    name = config._attn_implementation
    parts += [name, AttentionInterface().get(name), functional.scaled_dot_product_attention]
    parts += [one for one in vars(config).values() if type(one) in (float, int, bool)]
    parts += [len(every_module._global_forward_hooks), len(every_module._global_forward_pre_hooks)]
    for module in model.modules():
        hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
        numbers = [
            one
            for name, one in vars(module).items()
            if type(one) in (float, int, bool) and name != "training"
        ]
        weights = [(name, one.dtype) for name, one in module._parameters.items() if one is not None]
        parts += [id(module), type(module), *hooks, *numbers, *weights]
        if replaced(module):
            parts.append(vars(module)["forward"])
    return hash(tuple(parts))
