"""What plugins return, checked where it comes in, so that a slip ends in one line and not in wrong numbers.

A method's loss of shape `[T, 1]` would broadcast against weights of shape `[T]` and train on, with its mask
ignored. Every error names the plugin, its function, and what was found and wanted.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from opdlab import secret_options
from opdlab.errors import OpdlabError, PluginError, Terminated
from opdlab.methods import MEASURES, Method
from opdlab.records import Questions, Rollout, Supervision, TeacherScores
from opdlab.shapes import Tensor

METRIC = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
RESERVED = re.compile(r"(step|time)|seconds/.*|.*/t\d+-\d+|.*(mean|pass|maj)_at_\d+(_low|_high)?")
"""Names of a step's own numbers, parts, bins of positions and scores of benchmarks."""
SMALL = 1e-3  # of a log-probability above 0, by rounding
INDEPENDENT = 1e-3
"""Largest difference of a token's loss, in nats, between a batch and a piece of it; rounding is less."""


@contextmanager
def said_by(plugin: Any, function: str, hint: str = "") -> Iterator[None]:
    """Turn what a plugin's function raises into one line; errors of opdlab and of memory pass.

    Raises:
        PluginError: naming the plugin, the function, and the file and line of the fault.
    """
    try:
        yield
    except (OpdlabError, torch.OutOfMemoryError, MemoryError, Terminated):
        raise
    except (
        Exception,
        SystemExit,
    ) as error:  # foreign code may fail in any way, and must not end us
        raise PluginError(
            f"{name_of(plugin)}.{function} failed: {reason(error, plugin)}{hint}"
        ) from error


@contextmanager
def unchanged(plugin: Any, function: str, *given: Any) -> Iterator[None]:
    """Refuse a plugin that writes into what it was given, which others read after it.

    Raises:
        PluginError: naming the field.
    """
    before = list(_versions(given))
    yield
    for name, tensor, version in before:
        if tensor._version != version:
            raise PluginError(
                f"{name_of(plugin)}.{function} changes {name} in place, which others read as well; work "
                "on a copy (x * 2 in place of x.mul_(2), and x.clone() before writing into it)"
            )


def _versions(given: Sequence[Any]) -> Iterator[tuple[str, Tensor, int]]:
    """Name, tensor, and how often it was written to, which torch does not count in inference mode."""
    for one in given:
        parts = (
            {f.name: getattr(one, f.name) for f in fields(one)}
            if is_dataclass(one)
            else {"an argument": one}
        )
        for name, value in parts.items():
            if isinstance(value, Tensor) and not value.is_inference():
                owner = type(one).__name__.lower()
                yield (name if one is value else f"{owner}.{name}"), value, value._version


def reason(error: BaseException, plugin: Any) -> str:
    """An exception in one line, with the place that it comes from: the plugin's own, where it is there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = getattr(sys.modules.get(type(plugin).__module__), "__file__", None)
    last = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
    words = secret_options.hide(" ".join(str(error).split()))
    return f"{type(error).__name__}: {words} ({Path(last.filename).name}, line {last.lineno})"


def name_of(plugin: Any) -> str:
    """A plugin's class; of a method that holds another one both."""
    inner = [getattr(plugin, f.name, None) for f in fields(plugin)]
    below = [type(one).__name__ for one in inner if isinstance(one, Method)]
    return type(plugin).__name__ + "".join(f"(base: {name})" for name in below)


def questions(method: Method, rollout: Rollout, vocabulary: int | None = None) -> Questions:
    """What a method asks the teacher about a rollout.

    Args:
        vocabulary: entries that student and teacher share.
    """
    with said_by(method, "questions"), unchanged(method, "questions", rollout):
        found = method.questions(rollout)
    where = f"{name_of(method)}.questions"
    _record(found, Questions, where)
    _shaped(f"{where}: candidates", found.candidates, (len(rollout.token), None), integer=True)
    _within(f"{where}: candidates", found.candidates, vocabulary)
    if not isinstance(found.full, bool):
        raise PluginError(f"{where}: full is {kind_of(found.full)}, wanted bool")
    if not isinstance(found.measure, str) or found.measure not in MEASURES:
        raise PluginError(
            f"{where}: measure is {found.measure!r}; use one of {', '.join(MEASURES)}"
        )
    _as_needed(method, found, where)
    return found


def _as_needed(method: Method, found: Questions, where: str) -> None:
    """Refuse questions after more or less than the method's `needs`, by which a teacher was chosen."""
    needs = method.needs
    if not isinstance(found.top_k, int) or isinstance(found.top_k, bool) or found.top_k < 0:
        raise PluginError(f"{where}: top_k is {found.top_k!r}, wanted a whole number of 0 or more")
    if (needs.support == "full") != found.full or needs.top_k != found.top_k:
        raise PluginError(
            f"{where}: full is {found.full} and top_k {found.top_k}, yet the method's `needs` are "
            f"support={needs.support!r}, top_k={needs.top_k}: ask for what is needed "
            "(super().questions(rollout) does), or correct `needs`"
        )
    if needs.confidence != found.measure and bool((found.candidates >= 0).any()):
        raise PluginError(
            f"{where}: it asks about candidates by {found.measure}, yet the method's `needs` have "
            f"confidence={needs.confidence!r}; name the measure there"
        )


def supervision(
    method: Method, rollout: Rollout, scores: TeacherScores, vocabulary: int | None = None
) -> Supervision:
    """A method's advantages, one row for each response token.

    Args:
        vocabulary: entries that student and teacher share.
    """
    with said_by(method, "supervise"), unchanged(method, "supervise", rollout, scores):
        found = method.supervise(rollout, scores)
    where, tokens = f"{name_of(method)}.supervise", len(rollout.token)
    _record(found, Supervision, where)
    _shaped(f"{where}: token", found.token, (tokens,), integer=True)
    for name in ("log_prob", "advantage"):
        _shaped(f"{where}: {name}", getattr(found, name), (tokens,))
    if not torch.equal(found.token, rollout.token):
        raise PluginError(f"{where}: token holds others than the sampled ones; give rollout.token")
    _shaped(f"{where}: candidates", found.candidates, (tokens, None), integer=True)
    _within(f"{where}: candidates", found.candidates, vocabulary)
    wanted = tuple(found.candidates.shape)
    _shaped(f"{where}: candidate_advantage", found.candidate_advantage, wanted)
    for name in ("log_prob", "advantage", "candidate_advantage"):
        if getattr(found, name).requires_grad:
            raise PluginError(f"{where}: {name} carries a gradient; detach it")
    if len(nan := found.advantage.isnan().nonzero()):
        raise PluginError(
            f"{where}: advantage is NaN at {len(nan)} of {tokens} tokens, token {int(nan[0])} first"
        )
    _check_metrics(where, found.metrics)
    return found


def _check_metrics(where: str, metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise PluginError(f"{where}: metrics is {kind_of(metrics)}, wanted a mapping")
    for name, value in metrics.items():
        if not isinstance(name, str) or not METRIC.fullmatch(name):
            raise PluginError(
                f"{where}: {name!r} is not a name of a metric; take letters, digits and _ - . / only"
            )
        if RESERVED.fullmatch(name):
            raise PluginError(
                f"{where}: {name!r} is the name of something that opdlab measures itself; take another"
            )
        if not _is_metric(value):
            raise PluginError(
                f"{where}: metric {name!r} is {kind_of(value)}, wanted one number, or one for each "
                "token or answer"
            )


def _is_metric(value: Any) -> bool:
    """Whether it is a number, or a plain tensor of numbers that are averaged."""
    if isinstance(value, Tensor):
        return value.ndim <= 1 and not value.is_complex() and _is_plain(value)
    if not isinstance(value, int | float) and getattr(value, "ndim", 1) != 0:
        return False
    try:
        float(value)
    except (OverflowError, TypeError, ValueError):
        return False
    return True


def _is_plain(value: Tensor) -> bool:
    """Whether its numbers lie in memory, one beside the other."""
    return value.layout == torch.strided and not value.is_meta


class TokenLoss:
    """A method's `token_loss`, or its `listed_loss`: its shape and gradient are checked at each call, its
    independence once."""

    def __init__(self, method: Method, name: str = "token_loss") -> None:
        self.method, self.name, self.looked = method, name, False

    def __call__(self, student: Tensor, teacher: Tensor | None, supervision: Supervision) -> Tensor:
        loss = self._loss(student, teacher, supervision)
        if not self.looked and len(student) > 2:
            self.looked = True
            self._depends_on_its_own_token(loss, student, teacher, supervision)
        return loss

    def _loss(self, student: Tensor, teacher: Tensor | None, supervision: Supervision) -> Tensor:
        missing = """; `teacher` is None: the method does not say `needs = Needs("full")`"""
        hint = missing if teacher is None else ""
        given = (student, teacher, supervision)
        with (
            said_by(self.method, self.name, hint),
            unchanged(self.method, self.name, *given),
        ):
            loss = getattr(self.method, self.name)(student, teacher, supervision)
        where = f"{name_of(self.method)}.{self.name}"
        _shaped(where, loss, (len(student),))
        if loss.dtype.itemsize < student.dtype.itemsize:
            raise PluginError(
                f"{where}: the loss is {loss.dtype}, wanted {student.dtype} like the student's "
                "log-probabilities; sums in half precision are wrong in the second digit"
            )
        if torch.is_grad_enabled() and student.requires_grad and not loss.requires_grad:
            raise PluginError(
                f"{where}: the loss carries no gradient to the student; make it from the argument "
                "`student`, without detach(), item() or torch.no_grad()"
            )
        return loss

    def _depends_on_its_own_token(
        self, loss: Tensor, student: Tensor, teacher: Tensor | None, supervision: Supervision
    ) -> None:
        """Else a mask would not hold, and the loss would change with the size of a chunk."""
        third = len(student) // 3
        part = slice(third, 2 * third)
        there = None if teacher is None else teacher[part]
        with torch.no_grad():
            alone = self._loss(student[part], there, supervision[part])
        gap = (alone - loss[part].detach()).abs().nan_to_num()
        if bool((gap > INDEPENDENT * loss[part].abs().clamp(min=1)).any()):
            raise PluginError(
                f"{name_of(self.method)}.{self.name}: the loss of a token depends on other tokens of the "
                f"batch (alone it differs by {float(gap.max()):.2g}), so training.mask would not hold; "
                "compare tokens in `supervise`, which sees all of them"
            )


def sample(
    engine: Any, model: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], **asked: Any
) -> Rollout:
    """`engine.sample`, checked; `asked` are its other arguments."""
    with said_by(engine, "sample"):
        found = engine.sample(model, prompts, seeds, **asked)
    return sampled(engine, found, prompts, asked.get("top_k", 0), asked.get("vocabulary"))


def begin(
    engine: Any, model: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], **asked: Any
) -> Callable[[], Rollout]:
    """`engine.begin`, with what it comes to checked; arguments as those of `sample`."""
    with said_by(engine, "begin"):
        wait = engine.begin(model, prompts, seeds, **asked)

    def checked() -> Rollout:
        with said_by(engine, "begin"):
            found = wait()
        return sampled(engine, found, prompts, asked["top_k"], asked["vocabulary"])

    return checked


def sampled(
    engine: Any,
    rollout: Rollout,
    prompts: Sequence[Sequence[int]],
    top_k: int,
    vocabulary: int | None,
) -> Rollout:
    """What a rollout engine sampled to these prompts."""
    where, rows = f"{name_of(engine)}.sample", len(prompts)
    given_back = _record(rollout, Rollout, where)
    _shaped(f"{where}: tokens", rollout.tokens, (rows, None), integer=True)
    rollout = rollout.host
    for name in ("prompt_lengths", "response_lengths", "seeds"):
        _shaped(f"{where}: {name}", getattr(rollout, name), (rows,), integer=True)
    _shaped(f"{where}: ended", rollout.ended, (rows,), integer=True)
    if rollout.prompt_lengths.tolist() != [len(prompt) for prompt in prompts]:
        raise PluginError(
            f"{where}: prompt_lengths are not the lengths of the prompts, in their order"
        )
    longest = int((rollout.prompt_lengths + rollout.response_lengths).max())
    if int(rollout.response_lengths.min()) < 1 or longest > rollout.tokens.shape[1]:
        raise PluginError(
            f"{where}: response_lengths must be 1 or more and, with the prompt, fit into the "
            f"{rollout.tokens.shape[1]} columns of tokens; found {rollout.response_lengths.tolist()}"
        )
    tokens = len(rollout.token)
    for name in ("log_prob", "entropy"):
        _shaped(f"{where}: {name}", getattr(rollout, name), (tokens,))
    _numbers(where, rollout)
    shared = vocabulary or torch.iinfo(torch.int64).max
    _shaped(f"{where}: candidates", rollout.candidates, (tokens, None), integer=True)
    _within(f"{where}: candidates", rollout.candidates, vocabulary)
    if rollout.candidates.shape[1] < min(top_k, shared):
        _shaped(f"{where}: candidates", rollout.candidates, (tokens, top_k), integer=True)
    if bool((rollout.token < 0).any()) or bool((rollout.token >= shared).any()):
        entries = (
            f"the first {vocabulary} entries of the vocabulary" if vocabulary else "the vocabulary"
        )
        raise PluginError(f"{where}: tokens outside {entries}")
    for row, (given, found) in enumerate(zip(prompts, rollout.tokens.tolist(), strict=True)):
        if list(given) != found[: len(given)]:
            raise PluginError(f"{where}: row {row} does not begin with its prompt")
    return given_back


def _numbers(where: str, rollout: Rollout) -> None:
    """Refuse log-probabilities and entropies that none can be."""
    if not bool((rollout.log_prob <= SMALL).all()):  # NaN is not
        worst = rollout.log_prob.nan_to_num(torch.inf).argmax()
        raise PluginError(
            f"{where}: log_prob is {float(rollout.log_prob[worst]):g} at token {int(worst)}; a "
            "log-probability is 0 or less"
        )
    if not bool(((rollout.entropy >= -SMALL) & (rollout.entropy < torch.inf)).all()):
        worst = rollout.entropy.nan_to_num(-torch.inf, -torch.inf).argmin()
        raise PluginError(
            f"{where}: entropy is {float(rollout.entropy[worst]):g} at token {int(worst)}; an entropy is "
            "0 or more, and finite"
        )


def _record(found: Any, wanted: type, where: str) -> Any:
    if not isinstance(found, wanted):
        raise PluginError(f"{where} returned {kind_of(found)}, wanted {wanted.__name__}")
    return found


def _within(where: str, tokens: Tensor, vocabulary: int | None) -> None:
    """Refuse what is neither a token nor -1, which stands for none."""
    shared = vocabulary or torch.iinfo(torch.int64).max
    if tokens.numel() and (int(tokens.min()) < -1 or int(tokens.max()) >= shared):
        worst = int(tokens.min()) if int(tokens.min()) < -1 else int(tokens.max())
        size = f"from 0 to {shared - 1}" if vocabulary else "of 0 or more"
        raise PluginError(
            f"{where}: {worst} is not a token; tokens are {size}, and -1 stands for none"
        )


def _shaped(where: str, found: Any, wanted: tuple[int | None, ...], integer: bool = False) -> None:
    """Refuse what is not a tensor of this shape, None for any size, of numbers of this kind."""
    size = ", ".join("any" if n is None else str(n) for n in wanted)
    kind = "whole numbers" if integer else "floating-point numbers"
    fits = (
        isinstance(found, Tensor)
        and found.dim() == len(wanted)
        and all(n is None or n == m for n, m in zip(wanted, found.shape, strict=True))
        and found.is_floating_point() != integer
        and _is_plain(found)
    )
    if not fits:
        raise PluginError(
            f"{where}: found {kind_of(found)}, wanted a tensor of shape [{size}] of {kind}"
        )


def kind_of(found: Any) -> str:
    """What something is, in words."""
    if isinstance(found, Tensor):
        size = ", ".join(map(str, found.shape))
        kind = str(found.dtype).removeprefix("torch.")
        if found.is_meta:
            kind += " without values (device meta)"
        elif found.layout != torch.strided:
            kind += f" in the layout {str(found.layout).removeprefix('torch.')}"
        return f"a tensor of shape [{size}] of {kind}"
    return "None" if found is None else f"a {type(found).__name__}"
