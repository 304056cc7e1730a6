"""`opdlab pretrain` as a user runs it: stopped, killed, and gone on with."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from end_to_end import warm
from safetensors.torch import load_file

from opdlab.configuration.loader import load_pretraining
from opdlab.files import shipped
from opdlab.modelling.models import EMBEDDED, load_model, load_tokenizer, weights_sha256

SHORT = (
    "architecture.hidden_size=16",
    "architecture.layers=1",
    "architecture.heads=2",
    "architecture.intermediate_size=16",
    "batch_size=8",
    "steps=90",
    "warmup_steps=5",
    "checkpoint_every=10",
    "evaluation.benchmarks=[]",
)


def start(output: Path, *more: str) -> warm.Command | subprocess.Popen[str]:
    return warm.start("pretrain", "pretrain/student", f"output={output}", *SHORT, *more)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    text, _ = process.communicate(timeout=120)
    assert process.returncode == code, text
    return text


def wait_for_checkpoint(output: Path, process: subprocess.Popen[str]) -> None:
    path = output / "student" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_words(words: str, process: warm.Command | subprocess.Popen[str]) -> None:
    assert process.stdout
    seen = ""
    while words not in seen:
        line = process.stdout.readline()
        assert line, seen
        seen += line


def test_a_pretraining_stopped_by_signals_ends_bit_equal_to_one_never_stopped(
    tmp_path: Path,
) -> None:
    whole = start(tmp_path / "whole")
    broken = start(tmp_path / "broken")
    wait_for_checkpoint(tmp_path / "broken", broken)
    broken.kill()
    finish(broken, -signal.SIGKILL)
    finish(whole)

    resumed = start(tmp_path / "broken", "--resume")
    wait_for_words("continuing from", resumed)
    resumed.send_signal(signal.SIGTERM)
    assert "--resume" in finish(resumed, 128 + signal.SIGTERM)

    assert "continuing from" in finish(start(tmp_path / "broken", "--resume"))
    models = [tmp_path / name / "student" / "model" for name in ("whole", "broken")]
    ours, theirs = (load_file(model / "model.safetensors") for model in models)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    cards = [(model / "README.md").read_text().splitlines() for model in models]
    chains = [[line for line in card if "chain" in line] for card in cards]
    assert chains[0] == chains[1] != []


SHIPPED = sorted(path.name for path in EMBEDDED.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_lies_beside_the_configuration_that_makes_it(name: str) -> None:
    made_with = load_pretraining(EMBEDDED / name / "pretraining.yaml")
    assert made_with == load_pretraining(shipped.find(f"pretrain/{name}"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_models_card_speaks_of_its_weights(name: str) -> None:
    digest = weights_sha256(load_model(f"embedded:{name}", dtype="float32"))
    assert digest in (EMBEDDED / name / "README.md").read_text()


def test_the_shipped_models_share_a_tokenizer_by_pairs_and_are_small() -> None:
    assert {"student", "teacher", "ledger-student", "ledger-teacher"} <= set(SHIPPED)
    for pair in ("", "ledger-"):
        student, teacher = (load_tokenizer(f"embedded:{pair}{n}") for n in ("student", "teacher"))
        assert student.get_vocab() == teacher.get_vocab()
    files = [EMBEDDED / name / "model.safetensors" for name in SHIPPED]
    assert sum(file.stat().st_size for file in files) < 2_000_000
