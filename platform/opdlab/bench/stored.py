"""Steps from scores on disk beside a step of SFT on the same rows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, models as vocabularies, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opdlab.bench.race import Side, machine, race, show, show_machine, write
from opdlab.bench.shapes import Shape
from opdlab.configuration import Experiment
from opdlab.offline import Asked, score
from opdlab.prompts import ScoredSource
from opdlab.scores import Kind, Scores, StoredTeacher
from opdlab.training import (
    Distillation,
    Place,
    load_module,
    load_pair,
    micro_batches,
    rows_in_parts,
)

SFT, HIDDEN = "sft", "forward KL, hidden"
WAYS = {
    SFT: ("sampled", {"type": "sft"}),
    "forward KL, drawn:12": ("drawn:12", {"type": "forward_kl"}),
    "forward KL, top_k:64": ("top_k:64", {"type": "forward_kl", "support": "top_k", "top_k": 64}),
    HIDDEN: ("hidden:float32", {"type": "forward_kl"}),
}
COLD = "the same, its files in no memory"
ROWS = 64


def bench_stored(
    shape: Shape, rows: int, tokens: int, rounds: int, device: str, json_file: str | None
) -> None:
    """Print a table of steps and write it; SFT reads the same rows and no distributions.

    Args:
        rows: answers of a step.
        tokens: of each answer.
    """
    found: dict[str, Any] = {"machine": machine(device), "shape": asdict(shape)}
    show_machine(found["machine"])
    with TemporaryDirectory() as name:
        folder = Path(name)
        _models_and_rows(folder, shape, tokens)
        sides: list[Side] = []
        stores: dict[str, Scores] = {}
        read: dict[str, list[float]] = {}
        for way, (kind, method) in WAYS.items():
            out = folder / kind.replace(":", "-")
            score(_experiment(folder, rows, tokens, device), Asked(kind=Kind.read(kind)), out)
            stores[way] = Scores(out)
            module = _module(folder, rows, tokens, device, method, out)
            read[way] = []
            sides.append(Side(way, _step(module, device, read[way])))
        store, method = folder / "hidden-float32", WAYS[HIDDEN][1]
        cold = _module(folder, rows, tokens, device, method, store)
        read[COLD] = []
        sides.append(Side(COLD, _step(cold, device, read[COLD], cold=True)))
        timings = race(sides, rounds, device)
        each = {
            way: f"{median(seconds) / median(timings[way].seconds):.2%} of it reading"
            + (
                f", {stores[way].bytes / stores[way].tokens:,.0f} bytes a token"
                if way != COLD
                else ""
            )
            for way, seconds in read.items()
        }
    title = f"a step of {rows} answers of {tokens} tokens"
    show(title, SFT, timings, each)
    write(json_file, {**found, "rows": rows, "tokens": tokens, "timings": timings})


def _models_and_rows(folder: Path, shape: Shape, tokens: int) -> None:
    """A student and a teacher with random weights, words for their tokens, and rows of such words."""
    words = {f"w{number}": number for number in range(shape.vocabulary - 1)} | {
        "</s>": shape.vocabulary - 1
    }
    raw = Tokenizer(vocabularies.WordLevel(words, "w0"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="w0")
    for name in ("student", "teacher"):
        model = shape.build("cpu", torch.float32, 2 * tokens + 32)
        model.config.eos_token_id = shape.vocabulary - 1
        assert model.generation_config is not None
        model.generation_config.eos_token_id = shape.vocabulary - 1
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    draw = Random(0)

    def text(length: int) -> str:
        return " ".join(f"w{draw.randrange(1, shape.vocabulary - 1)}" for _ in range(length))

    told = [json.dumps({"prompt": text(16), "answer": text(tokens - 1)}) for _ in range(ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(told) + "\n", encoding="utf-8")


def _experiment(folder: Path, rows: int, tokens: int, device: str, **own: Any) -> Experiment:
    data = {"type": "dataset", "path": str(folder / "rows.jsonl"), "given": 1}
    accelerator = "gpu" if device == "cuda" else "cpu"
    training = {"steps": 1_000_000, "prompts_per_step": rows, "accelerator": accelerator}
    return Experiment.model_validate(
        {
            "name": "bench",
            "student": {"path": str(folder / "student")},
            "teacher": {"path": str(folder / "teacher")},
            "prompts": {**data, "completion_column": "answer"},
            "rollout": {"type": "cached", "max_new_tokens": tokens},
            "method": {"type": "forward_kl"},
            "training": training,
            **own,
        }
    )


def _module(
    folder: Path, rows: int, tokens: int, device: str, method: dict[str, Any], store: Path
) -> Distillation:
    own = {"teacher": {"scores": str(store)}, "prompts": {"type": "scored"}, "method": method}
    config = _experiment(folder, rows, tokens, device, **own)
    module = load_module(load_pair(config), config)
    module.student.to(device)  # pyright: ignore[reportArgumentType]
    module.teacher.place(torch.device(device))
    module.teacher.probe()
    return module


def _step(
    module: Distillation, device: str, read: list[float], cold: bool = False
) -> Callable[[], None]:
    """Updates the student once, and reads the next answers with their scores.

    Args:
        read: gets the seconds of reading scores, by the clock, of each step.
        cold: nothing of the store is in the system's memory when the step begins.
    """
    optimizer = torch.optim.AdamW(module.student.parameters(), lr=1e-6)
    place, steps = Place(0, 1, torch.device(device)), count()
    rows = module.config.training.prompts_per_step
    kept = [module.collector.collect(place)]

    def run() -> None:
        number = next(steps) + 1
        if cold:
            drop(module)
            module.prompts.expect(range(number * rows, (number + 1) * rows))
        collected = kept.pop()
        groups = rows_in_parts(collected.rollout, module.config.training.update_tokens)
        optimizer.zero_grad()
        for _, batch in micro_batches(collected, groups, place.device, len(groups)):
            module.objective.loss(batch)[0].backward()
        optimizer.step()
        module.collector.go_on(place)
        kept.append(module.collector.collect(place))
        read.append(kept[0].seconds["teacher"])

    return run


def drop(module: Distillation) -> None:
    """Have the system forget the pages of a store's shards, as those of one larger than its memory."""
    teacher, prompts = module.teacher, module.prompts
    assert isinstance(teacher, StoredTeacher)
    assert isinstance(prompts, ScoredSource)
    teacher.scores.close()
    prompts.scores.close()
    if not hasattr(os, "posix_fadvise"):
        return
    for path in (teacher.scores.folder / "shards").glob("*.arrow"):
        file = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
