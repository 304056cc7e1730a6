"""The model card of a pretrained model: what it is, how it was made, how well it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from platform import python_version

from opdlab.configuration import Pretraining
from opdlab.evaluation import sampling_engine

PACKAGES = ("opdlab", "torch", "transformers", "lightning")


def model_card(
    config: Pretraining,
    file: str,
    facts: Mapping[str, str],
    metrics: Mapping[str, float],
) -> str:
    """Markdown with the front matter that Hugging Face reads.

    Args:
        file: name of the configuration that lies beside the card.
        facts: what identifies the model and its data, in the order to show.
        metrics: scores under their names (`math/short/mean_at_8`).
    """
    software = {package: version(package) for package in PACKAGES} | {"Python": python_version()}
    rows = {
        "seed": str(config.seed),
        "steps": f"{config.steps:,} of {config.batch_size} traces",
        **facts,
        "made with": ", ".join(f"{name} {number}" for name, number in software.items()),
    }
    beginning = "nothing" if config.start is None else f"`{config.start}`"
    # One that goes on from another has that one's licence.
    licence = "" if config.architecture is None else "license: apache-2.0\n"
    parts = [
        f"---\nlibrary_name: transformers\n{licence}pipeline_tag: text-generation\n---\n",
        f"# {config.name}\n",
        f"{config.description.strip()}\n",
        f"Made from {beginning}, by supervised training on generated traces, with the file beside this "
        "card:\n",
        f"    opdlab pretrain {file}\n",
        table(("", ""), list(rows.items())),
    ]
    if scores := score_rows(metrics, config.evaluation.samples):
        k = config.evaluation.samples
        temperature = sampling_engine(config.rollout, config.evaluation).temperature
        parts += [
            f"## Accuracy on test problems, {k} samples each at temperature {temperature:g}\n",
            table(("benchmark", f"mean@{k}", f"pass@{k}", "problems"), scores),
        ]
    return "\n".join(parts)


def score_rows(metrics: Mapping[str, float], k: int) -> list[Sequence[str]]:
    """A row of each benchmark whose mean@k is known, with its 95 % interval."""
    mean = f"/mean_at_{k}"
    rows = []
    for benchmark in (name.removesuffix(mean) for name in metrics if name.endswith(mean)):
        cells = []
        for name in (f"{benchmark}{mean}", f"{benchmark}/pass_at_{k}"):
            low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
            cells.append(f"{metrics[name]:.3f} ({low:.3f} to {high:.3f})")
        rows.append((benchmark, *cells, f"{metrics[f'{benchmark}/problems']:.0f}"))
    return rows


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
