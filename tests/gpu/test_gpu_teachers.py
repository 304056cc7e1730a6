"""Teachers that are not a model beside the student: behind a service, and several at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gpu.small_runs import Kept, experiment, models, train
from teach_server import teaching

from opdlab.configuration.config import Experiment
from opdlab.records import Rollout
from opdlab.scoring.teacher import Teacher

LGR = {"type": "lgr", "support": "full", "top_k": 4}


def assert_alike(one: Kept, other: Kept) -> None:
    assert one.gradients
    for name, gradient in other.gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(one.gradients[name], gradient, atol=1e-4 * scale, rtol=1e-4)


@pytest.mark.parametrize("method", [LGR, {"type": "jsd"}], ids=["scores", "distributions"])
def test_a_teacher_on_the_device_teaches_from_a_service_what_it_teaches_here(
    device: torch.device, method: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, score = set[torch.device](), Teacher._scores

    def watched(teacher: Teacher, *rest: Any) -> Any:
        places.add(teacher.model.device)
        return score(teacher, *rest)

    here = experiment(method)
    _, beside = train(here, tmp_path / "beside")
    raw = here.model_dump(mode="json")
    with teaching(str(models()[1])) as service:
        raw["teacher"]["server"] = {"type": "opdlab", "url": service.url}
        monkeypatch.setattr(Teacher, "_scores", watched)
        _, served = train(Experiment.model_validate(raw), tmp_path / "served")
    assert {served.device} == places == {device}
    assert_alike(served, beside)


def test_two_teachers_score_on_the_device(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each scores the rows of its domains there; they are one model, so the gradient is the same."""
    scored, score = list[tuple[Any, int, torch.device]](), Teacher.score

    def watched(teacher: Teacher, rollout: Rollout, *rest: Any, **named: Any) -> Any:
        if not named:  # else it is on trial
            scored.append((teacher, len(rollout.tokens), teacher.model.device))
        return score(teacher, rollout, *rest, **named)

    here = experiment({"type": "lgr", "support": "sampled", "top_k": 4}, prompts_per_step=4)
    raw = here.model_dump(mode="json")
    sources = [{"type": kind, "level": "short"} for kind in ("math", "code")]
    raw["prompts"] = {"type": "problems", "sources": sources}
    _, one = train(Experiment.model_validate(raw), tmp_path / "one")
    raw["specialists"] = [{"path": raw["teacher"]["path"], "domains": ["code/*"]}]
    monkeypatch.setattr(Teacher, "score", watched)
    module, both = train(Experiment.model_validate(raw), tmp_path / "both")
    (special,) = module.specialists
    assert scored == [(module.teacher, 2, device), (special.teacher, 6, device)]
    assert both.device == device
    assert_alike(both, one)
