"""Models are loaded once; what a method or mask may ask of the vocabulary that they share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from end_to_end.laboratory import Laboratory
from transformers import AutoModelForCausalLM

from opdlab.configuration.loader import load_experiment, with_values
from opdlab.errors import ConfigError
from opdlab.training.pair import Kept, pair_to_train, require_within
from opdlab.training.run import train


def test_a_training_takes_teachers_from_the_one_before_and_a_student_of_its_own(
    tmp_path: Path, store: Path
) -> None:
    laboratory = Laboratory(tmp_path / "laboratory", store)
    specialist = {"path": str(laboratory.student), "domains": ["math/*"]}
    config = load_experiment(laboratory.write(specialists=[specialist], method__support="sampled"))
    kept: Kept = {}
    first = pair_to_train(config, kept)
    again = pair_to_train(with_values(config, {"seed": 4}), kept)
    assert again.student is not first.student
    assert again.teacher is first.teacher
    assert again.specialists == first.specialists
    sharded = pair_to_train(with_values(config, {"training.strategy": "fsdp"}), kept)
    assert sharded.teacher is first.teacher
    assert not kept  # it will hold parts
    other = pair_to_train(with_values(config, {"teacher.path": str(laboratory.student)}), kept)
    assert other.teacher is not other.student
    assert len(kept) == 2
    pair_to_train(config, kept)
    assert not {id(other.teacher)} & {id(model) for model, _ in kept.values()}


def test_a_command_loads_each_model_once_for_its_references_and_its_training(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: Counter[str] = Counter()
    load = AutoModelForCausalLM.from_pretrained

    def counted(**options: Any) -> Any:
        loaded[Path(options["pretrained_model_name_or_path"]).name] += 1
        return load(**options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    laboratory = Laboratory(tmp_path / "laboratory", store)
    small = {"training__steps": 1, "training__prompts_per_step": 1, "rollout__max_new_tokens": 2}
    file = laboratory.write(**small, evaluation__references=["student", "teacher"])
    train(load_experiment(file))
    assert loaded == {"teacher": 1, "student": 1}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method={type: lgr, top_k: 43}", r"method\.top_k is 43, but .* share 42 tokens"),
        ("method={type: opd, support: top_k, top_k: 43}", r"method\.top_k is 43"),
        (
            "method={type: lgr, base: {type: opd, support: top_k, top_k: 43}}",
            r"method\.base\.top_k is 43",
        ),
        ("method={type: lgr, entropy_threshold: 3.74}", "so no position would be active"),
        ("training.mask.entropy_above=3.74", "so no token would carry loss"),
    ],
)
def test_what_no_vocabulary_of_this_size_can_meet_is_refused(override: str, said: str) -> None:
    config = load_experiment("quickstart", ["runs=[]", override])
    with pytest.raises(ConfigError, match=said):
        require_within(config, 42)
    require_within(config, 43)


def test_the_run_that_asks_too_much_is_named() -> None:
    config = load_experiment("quickstart", ["runs.1.set.method.top_k=43"])
    with pytest.raises(ConfigError, match=r"run lgr: method\.top_k is 43"):
        require_within(config, 42)
