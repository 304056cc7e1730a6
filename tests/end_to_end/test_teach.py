"""`opdlab teach` as a command: it serves a training, and ends when it is told to."""

from __future__ import annotations

import json
import re

import requests
from end_to_end.laboratory import Laboratory

import opdlab
from opdlab.modelling import models


def test_a_training_has_its_teacher_behind_the_command(laboratory: Laboratory) -> None:
    service = laboratory.start("teach", laboratory.teacher, "--port", "0")
    try:
        assert service.stdout is not None
        first = service.stdout.readline()
        found = re.search(r"serving .* at (http://127\.0\.0\.1:\d+) \(without an API key\)", first)
        assert found is not None, first + service.stdout.read()
        url = found[1]
        taken = laboratory.run("teach", laboratory.teacher, "--port", url.split(":")[-1], code=2)
        assert "cannot be served at" in taken
        file = laboratory.write(
            teacher={
                "path": str(laboratory.teacher),
                "server": {"type": "opdlab", "url": url},
            },
            training={"steps": 3, "prompts_per_step": 4},
            evaluation={"benchmarks": []},
        )
        laboratory.run("train", file)
        rows = laboratory.metrics()
        assert len(rows) == 3
        (said,) = opdlab.Teacher(url).score([[1, 5]], [[6]])
        assert said.log_prob.shape == (1,)
        assert 'status="200"' in requests.get(f"{url}/metrics").text
    finally:
        service.terminate()
        text, _ = service.communicate(timeout=60)
    assert service.returncode == 0, text
    assert "stopped; requests that were under way" in text
    # The record is that of the model itself, so that it may be continued with one in the process.
    record = laboratory.output / "small-001" / "lgr" / "manifest.json"
    teacher = json.loads(record.read_text())["teacher"]
    here = models.load_model(str(laboratory.teacher))
    assert teacher["weights_sha256"] == models.weights_sha256(here)
