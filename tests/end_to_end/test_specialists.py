"""Teachers by domain: every row is scored by its own, in its place, and by nobody else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from end_to_end.laboratory import Laboratory
from small_models import VOCABULARY, random_rollout, small_model

from opdlab.configuration.loader import load_experiment
from opdlab.errors import ConfigError, DataError, RefusedError
from opdlab.evaluation.store import sample_sets
from opdlab.records import Questions, Rollout
from opdlab.scoring.specialists import Specialist, chosen, score_by_domain
from opdlab.scoring.teacher import Teacher
from opdlab.training.pair import load_pair

DOMAINS = ["math/short", "code/long", "math/long", "code/short", "poetry"]


def test_the_first_pattern_that_fits_counts() -> None:
    patterns = [["code/*"], ["code/short", "poetry"]]
    assert [chosen(domain, patterns) for domain in DOMAINS] == [None, 0, None, 0, 1]


def test_every_row_is_scored_by_the_teacher_of_its_domain() -> None:
    general, code, poetry = (
        Teacher(small_model("llama", seed), VOCABULARY).probe() for seed in range(3)
    )
    rollout = random_rollout([4, 6, 3, 5, 4], [7, 5, 9, 6, 8])
    asked = Questions(rollout.candidates)
    specialists = [Specialist(("code/*",), code), Specialist(("poetry",), poetry)]
    found = score_by_domain(general, specialists, rollout, asked, DOMAINS)
    for row, teacher in enumerate((general, code, general, code, poetry)):
        mine, alone = rollout.row == row, teacher.score(rollout, asked)
        for name in ("log_prob", "entropy", "fidelity", "confidence"):
            ours, theirs = getattr(found, name)[mine], getattr(alone, name)[mine]
            torch.testing.assert_close(ours, theirs, equal_nan=True, atol=1e-5, rtol=1e-5)
    others = code.score(rollout, asked).log_prob[rollout.row == 0]
    assert not torch.allclose(found.log_prob[rollout.row == 0], others, atol=1e-2)


def test_one_teacher_for_all_is_the_general_one() -> None:
    general, code = (Teacher(small_model("llama", seed), VOCABULARY).probe() for seed in range(2))
    rollout = random_rollout([4, 6], [7, 5])
    asked = Questions(rollout.candidates)
    found = score_by_domain(general, [Specialist(("x",), code)], rollout, asked, ["a", "b"])
    assert torch.equal(found.log_prob, general.score(rollout, asked).log_prob)


def test_each_teacher_has_its_turn_where_a_server_refuses_answers() -> None:
    """Else this process leaves the others alone in what a sharded specialist does together."""
    turns = []

    @dataclass
    class Asked:
        name: str
        refused: dict[int, str]

        def score(self, rollout: Rollout, questions: Questions) -> Any:
            turns.append(self.name)
            if self.refused:
                raise RefusedError(self.refused, len(rollout.prompt_lengths))

        def stand_by(self) -> None:
            turns.append(f"{self.name} stands by")

    general, code, poetry, idle = (
        cast("Teacher", Asked(name, refused))
        for name, refused in [
            ("general", {1: "too long"}),
            ("code", {}),
            ("poetry", {0: "not now"}),
            ("idle", {}),
        ]
    )
    patterns = [("code/*", code), ("poetry", poetry), ("chess", idle)]
    specialists = [Specialist((pattern,), teacher) for pattern, teacher in patterns]
    rollout = random_rollout([4, 6, 3, 5, 4], [7, 5, 9, 6, 8])
    with pytest.raises(RefusedError, match="2 of 5 requests") as told:
        score_by_domain(general, specialists, rollout, Questions(rollout.candidates), DOMAINS)
    assert turns == ["general", "code", "poetry", "idle stands by"]
    assert told.value.rows == {2: "too long", 4: "not now"}


def two_teachers(laboratory: Laboratory, **changes) -> Path:
    sources = [{"type": "math"}, {"type": "code"}]
    return laboratory.write(
        specialists=[{"path": str(laboratory.student), "domains": ["code/*"]}],
        prompts={"type": "problems", "sources": sources},
        method={"type": "lgr", "top_k": 4},
        training={"steps": 3, "prompts_per_step": 8},
        evaluation={
            "benchmarks": [{"type": name, "limit": 3} for name in ("math", "code")],
            "samples": 2,
            "references": ["teacher"],
        },
        **changes,
    )


def test_a_run_with_two_teachers_trains_and_each_is_measured_on_its_domain(
    laboratory: Laboratory,
) -> None:
    """The specialist of code is the student itself, so its first answers there have a KL of 0."""
    laboratory.run("train", two_teachers(laboratory))
    manifest = json.loads((laboratory.output / "small-001" / "lgr" / "manifest.json").read_text())
    (specialist,) = manifest["specialists"]
    assert specialist["name"] == str(laboratory.student)
    assert specialist["weights_sha256"] != manifest["teacher"]["weights_sha256"]
    rows = laboratory.metrics()
    assert len(rows) == 3
    assert all(row["teacher_score_share"] == 1.0 for row in rows)
    sets = sample_sets(laboratory.output / "small-001" / "teacher" / "samples")
    assert {one.asked.benchmark: one.asked.subject.name for one in sets} == {
        "math/short": str(laboratory.teacher),
        "code/short": str(laboratory.student),
    }


def test_rows_of_a_domain_whose_teacher_is_the_student_have_no_kl(laboratory: Laboratory) -> None:
    config = load_experiment(two_teachers(laboratory))
    pair = load_pair(config)
    assert pair.teacher_of("code/short") is not pair.teacher_of("math/short")
    general, (specialist,) = pair.scorers(config)
    rollout = config.rollout.sample(
        pair.student,
        [[1, 5, 6], [1, 7, 8]],
        [0, 1],
        eos_ids=(2,),
        pad_id=0,
        top_k=4,
        vocabulary=pair.vocabulary,
    )
    asked = Questions(rollout.candidates[:, :0])
    domains = ["math/short", "code/short"]
    found = score_by_domain(general, [specialist], rollout, asked, domains)
    gap = (rollout.log_prob - found.log_prob).abs()
    assert gap[rollout.row == 1].max() < 1e-4
    assert gap[rollout.row == 0].max() > 1e-2


def test_a_method_that_needs_one_distribution_is_refused_with_specialists(
    laboratory: Laboratory,
) -> None:
    file = two_teachers(laboratory)
    with pytest.raises(ConfigError, match="one teacher's whole distribution"):
        load_experiment(file, ["method={type: opd, support: full}"])
    with pytest.raises(ConfigError, match="or its answers"):
        load_experiment(file, ["method={type: sft}"])


def test_a_dataset_names_the_domain_of_each_row(tmp_path: Path) -> None:
    from opdlab.configuration.prompt_settings import DatasetPrompts
    from opdlab.modelling.models import load_tokenizer
    from opdlab.prompts.drawn import open_prompts

    rows = [{"prompt": f"M{n}", "domain": "code" if n % 2 else "math"} for n in range(6)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = DatasetPrompts(type="dataset", path=str(path), domain_column="domain")
    prompts = open_prompts(config, load_tokenizer("embedded:student"), 0)
    for index in range(6):
        problem = prompts.problem(index)
        assert problem.benchmark == ("code" if int(problem.prompt[1:]) % 2 else "math")
    with pytest.raises(DataError, match="no column 'kind'"):
        open_prompts(config.model_copy(update={"domain_column": "kind"}), prompts.tokenizer, 0)
