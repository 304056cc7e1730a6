"""Students and teachers with recurrent layers: sampled from cached states, scored by the tree, trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from end_to_end.laboratory import CHARACTERS
from small_models import small_model
from unit.test_training import build, fit, gradients

from opdlab.pretraining.characters import character_tokenizer

OPD = {"type": "opd", "support": "full"}
LGR = {"type": "lgr", "support": "sampled", "top_k": 4}


def save_pair(family: str, folder: Path) -> tuple[Path, Path]:
    tokenizer = character_tokenizer(CHARACTERS, 256)
    for number, name in enumerate(("student", "teacher")):
        model = small_model(family, number, vocab_size=len(tokenizer), num_hidden_layers=3)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "student", folder / "teacher"


@pytest.mark.parametrize("family", ["qwen3_5", "bamba"])
def test_every_weight_has_a_gradient_that_computing_layers_again_leaves_as_it_is(
    family: str, tmp_path: Path
) -> None:
    folders = save_pair(family, tmp_path)
    plain, again = (
        gradients(folders, method=OPD, activation_checkpointing=what) for what in ("none", "layers")
    )
    assert all(torch.equal(again[name], gradient) for name, gradient in plain.items())
    assert not [name for name, gradient in plain.items() if not gradient.any()]


@pytest.mark.parametrize("family", ["qwen3_5", "bamba"])
@pytest.mark.parametrize("method", [OPD, LGR], ids=lambda method: method["type"])
def test_steps_with_layers_that_are_computed_again_reach_every_weight(
    family: str, method: dict[str, Any], tmp_path: Path
) -> None:
    module = build(save_pair(family, tmp_path), method, steps=2, activation_checkpointing="layers")
    assert module.teacher.way == "tree"
    rows = fit(module)
    assert [row["teacher_score_share"] for row in rows] == [1.0, 1.0]
    assert all(row["updated_share"] == 1.0 and row["gradient_norm"] > 0 for row in rows)
