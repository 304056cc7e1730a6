"""`opdlab doctor objective`: what an objective claims, and what its gradient is."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import isabstract
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from opdlab import plugins
from opdlab.configuration import Experiment, loader
from opdlab.errors import ConfigError, PluginError
from opdlab.methods import Method
from opdlab.objectives import CONTROLS, Finding, Setting, examine

# Options beyond the defaults whose gradient is another, or another way to the same. K is smaller than the
# oracle's vocabulary.
VARIANTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "opd": (
        {},
        {"support": "top_k", "top_k": 2},
        {"support": "top_k", "top_k": 2, "top_k_of": "teacher"},
        {"support": "full"},
        {"advantage_clip": 0.5},
        {"ratio_clip": 0.2},
    ),
    "kl_estimator": (
        {"estimator": "k1", "delivery": "policy_gradient"},
        {"estimator": "k2"},
        {"estimator": "k3", "direction": "forward"},
    ),
    "jsd": ({"beta": 0.1}, {"beta": 0.5}, {"beta": 0.9}, {"support": "top_k", "top_k": 2}),
    "forward_kl": ({}, {"support": "top_k", "top_k": 2}),
    "future_kl": ({"discount": 0.0}, {"discount": 0.99}, {"discount": 1.0}),
    "grpo": (
        {},
        {"scale": "none"},
        {"scale": "batch"},
        {"distillation_weight": 0.5},
        {"distillation_weight": 0.5, "support": "full"},
        {"distillation_weight": 0.5, "advantage_clip": 0.5},
    ),
    "reopold": ({}, {"mixture": 0.4}, {"advantage_clip": 0.5}),
    "sft": ({}, {"support": "full"}),
    "lgr": (
        {"top_k": 3},
        {"top_k": 3, "support": "full"},
        {"top_k": 3, "variant": "topk"},
        {"top_k": 3, "variant": "topk", "support": "full"},
        {"top_k": 4, "probability_mass": 0.7},
        {"top_k": 3, "reward_clip": 0.7, "reward_weight": 2.0},
        {"top_k": 3, "confidence": "entropy"},
        {"reward": "potential"},
        {"top_k": 3, "base": {"type": "opd", "support": "top_k", "top_k": 2}},
        {"top_k": 3, "base": {"type": "jsd", "beta": 0.9}},
        {"top_k": 3, "variant": "topk", "base": {"type": "reopold"}},
        {"top_k": 3, "base": {"type": "future_kl"}},
        {"top_k": 3, "base": {"type": "grpo", "distillation_weight": 0.5, "support": "full"}},
    ),
}

MOVED = 0.1
"""Logits by which a student has moved since it sampled one step ahead; the weights are not truncated."""


@dataclass(frozen=True)
class Examined:
    """A line of the table."""

    name: str
    method: Method
    finding: Finding

    @property
    def verdict(self) -> str:
        """`holds`, `DIFFERS`, or `no claim`."""
        if self.finding.declared is None:
            return "trains nothing" if self.finding.terms == {} else "no claim"
        return "holds" if self.finding.declared else "DIFFERS"


def installed() -> Iterator[tuple[str, Method]]:
    """Every method that is installed, in the variants that matter."""
    for name, kind in sorted(plugins.working(plugins.METHODS)):
        for options in VARIANTS.get(name, ({},)):
            shown = f"{name} {_shown(options)}" if options else name
            yield shown, kind(**{key: _made(value) for key, value in options.items()})


def _shown(value: Any) -> str:
    """Options as they stand in a YAML."""
    if not isinstance(value, Mapping):
        return str(value)
    return "{" + ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items()) + "}"


def _made(value: Any) -> Any:
    """An option's value; a method where it names one."""
    if not isinstance(value, Mapping):
        return value
    options = {key: inner for key, inner in value.items() if key != "type"}
    return plugins.load(plugins.METHODS, value["type"])(**options)


def objectives(target: str, overrides: Sequence[str]) -> Iterator[tuple[str, Method, Setting]]:
    """The objectives of a Python file or of an experiment's runs, with how they would be trained.

    Raises:
        ConfigError: the file has no method, or an override does not fit.
    """
    if target.endswith(".py"):
        kinds = _methods_in(Path(target))
        for kind, own in _shared_out(target, kinds, overrides).items():
            yield kind.__name__, _with_options(kind, own), Setting()
        return
    config = loader.load_experiment(target, overrides)
    for name, run in loader.variants(config):
        yield name, run.method, setting_of(run)


def setting_of(config: Experiment) -> Setting:
    """The oracle's setting that trains as an experiment does."""
    return Setting(
        sequence_mean=config.training.normalisation == "sequence_mean",
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        stale=MOVED * config.rollout.ahead,
        truncation=math.inf if config.rollout.ahead else None,
    )


def report(target: str | None, overrides: Sequence[str], markdown: bool = False) -> bool:
    """Examine objectives and print the table; whether all that is claimed holds.

    Args:
        target: a Python file, or an experiment; None for everything installed, and the wrong controls.
    """
    from rich.progress import track

    from opdlab.console import console

    if target is not None:
        asked = list(objectives(target, overrides))
    else:
        asked = [(name, method, Setting()) for name, method in installed()]
    lines = [
        Examined(name, method, examine(method, setting))
        for name, method, setting in track(
            asked, "enumerating", console=console, transient=True, disable=markdown
        )
    ]
    show(lines, COLUMNS, markdown)
    if target is None:
        wrong = [Examined(name, m, examine(m)) for name, m in CONTROLS.items()]
        say = print if markdown else console.print
        say("\nControls that are known to be wrong, and must be seen to be:\n")
        show(wrong, COLUMNS[0:1] + COLUMNS[3:], markdown)
        if any(line.verdict != "DIFFERS" for line in wrong):
            return False
    return all(line.verdict in ("holds", "no claim") for line in lines)


COLUMNS = (
    "objective",
    "support",
    "delivery",
    "its expected gradient descends",
    "claim",
    "difference",
)


def show(lines: Sequence[Examined], columns: Sequence[str], markdown: bool) -> None:
    """Print the table."""
    rows = []
    for line in lines:
        contract = line.method.contract
        values = (contract.support, contract.delivery, str(line.finding), line.verdict)
        cells = (line.name, *values, f"{line.finding.difference:.1e}")
        rows.append([cells[COLUMNS.index(column)] for column in columns])
    if markdown:
        for row in (columns, ["---"] * len(columns), *rows):
            print("| " + " | ".join(row) + " |")
        return
    from rich.table import Column, Table

    from opdlab.console import console

    table = Table(*(Column(each, overflow="fold") for each in columns), box=None, pad_edge=False)
    for row, line in zip(rows, lines, strict=True):
        table.add_row(*row, style="red" if line.verdict in ("DIFFERS", "trains nothing") else None)
    console.print(table)


def _methods_in(path: Path) -> list[type[Method]]:
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is the user's and may fail in any way
        raise PluginError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    found = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Method) and kind.__module__ == path.stem
    ]
    unfinished = [kind for kind in found if isabstract(kind)]
    if not found or unfinished:
        missing = {kind.__name__: sorted(kind.__abstractmethods__) for kind in unfinished}
        raise ConfigError(
            f"{path}: {missing} lack what a method needs"
            if missing
            else f"{path}: no class in it subclasses opdlab.methods.base.Method"
        )
    return found


def _shared_out(
    target: str, kinds: Sequence[type[Method]], overrides: Sequence[str]
) -> dict[type[Method], dict[str, Any]]:
    """Options of each method of a file: `key=value` for all that have the key, `Name.key=value` for one.

    Raises:
        ConfigError: no method has the key.
    """
    found: dict[type[Method], dict[str, Any]] = {kind: {} for kind in kinds}
    for override in overrides:
        key, _, text = override.partition("=")
        name, dot, option = key.partition(".")
        named = [kind for kind in kinds if dot and kind.__name__ == name]
        option = option if named else key
        takers = [kind for kind in named or kinds if option in _options(kind)]
        if not takers:
            known = "; ".join(f"{kind.__name__} has {', '.join(_options(kind))}" for kind in kinds)
            raise ConfigError(f"{target}: no method in it has an option {key} ({known})")
        for kind in takers:
            found[kind][option] = yaml.safe_load(text)
    return found


def _options(kind: type[Method]) -> list[str]:
    return [field.name for field in fields(kind)] or ["none"]


def _with_options(kind: type[Method], values: Mapping[str, Any]) -> Method:
    model = plugins.options_model(kind.__name__, kind)
    try:
        parsed = model.model_validate({"type": kind.__name__, **values})
        options = {name: getattr(parsed, name) for name in model.model_fields if name != "type"}
        return kind(**options)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise ConfigError("\n".join(f"{kind.__name__}: {line}" for line in told)) from error
    except ValueError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from error
