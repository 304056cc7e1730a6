"""Worked examples of the README and of the site, taken from their text and run as a reader would."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from end_to_end.warm import start

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLE = re.compile(r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


def shown() -> list[tuple[str, str]]:
    """Name and text of every example, on whatever page."""
    return [example for page in PAGES for example in EXAMPLE.findall(page.read_text())]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """The files in a folder, the packages installed beside them."""
    folder = tmp_path_factory.mktemp("examples")
    for name, text in shown():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    packages = [str(folder / "final"), str(folder / "jeffreys")]
    subprocess.run([*pip, "--target", str(folder / "site"), *packages], check=True)
    (folder / "runs").mkdir()
    (folder / "runs" / "mlflow.db").write_bytes(store.read_bytes())
    return folder


def opdlab(folder: Path, *arguments: str) -> str:
    """Run the command in a folder that is not the repository."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "site"), "COLUMNS": "100"}
    with contextlib.chdir(folder):
        process = start(*arguments, environment=environment)
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    return text


SHORT = ["training.steps=2", "training.prompts_per_step=4", "evaluation.samples=2"]


def test_the_example_experiment_trains_both_of_its_runs(examples: Path) -> None:
    text = opdlab(examples, "train", "my.yaml", *SHORT, "evaluation.benchmarks.0.limit=2")
    assert "heavy - light" in text
    assert "mean@2" in text


def test_folders_that_the_text_names_are_those_of_its_experiment() -> None:
    config = yaml.safe_load(dict(shown())["my.yaml"])
    runs = {f"{config['name']}-001/{run['name']}" for run in config["runs"]}
    for page in (ROOT / "README.md", ROOT / "docs" / "start" / "first-experiment.md"):
        named = set(re.findall(r"([\w-]+-\d{3}/\w+)", page.read_text()))
        assert named
        assert named <= runs


def test_an_example_on_two_pages_is_the_same_on_both() -> None:
    texts: dict[str, set[str]] = {}
    for name, text in shown():
        texts.setdefault(name, set()).add(text)
    assert {name for name, found in texts.items() if len(found) > 1} == set()


def test_the_example_evaluator_is_found_and_run(examples: Path) -> None:
    text = opdlab(
        examples,
        "eval",
        "my.yaml",
        "--model",
        "embedded:teacher",
        "evaluation.benchmarks=[{type: final, limit: 4}]",
    )
    assert re.search(r"^ *final +4 +100\.0 ", text, re.MULTILINE), text


def test_the_example_method_is_found_and_trained(examples: Path) -> None:
    text = opdlab(
        examples,
        "train",
        "my.yaml",
        *SHORT,
        "method={type: jeffreys, forward_weight: 0.5}",
        "runs=[]",
        "evaluation.benchmarks.0.limit=2",
        "name=jeffreys",
    )
    assert "jeffreys - student" in text


def test_plugins_of_the_examples_are_listed(examples: Path) -> None:
    text = opdlab(examples, "plugins")
    assert "opdlab-final" in text
    assert "opdlab-jeffreys" in text


def test_the_example_in_python_runs(examples: Path) -> None:
    text = (examples / "study.py").read_text()
    few = "evaluation.benchmarks=[{type: math, level: short, limit: 2}]"
    small = f'"training.steps=2", "{few}", "evaluation.samples=2"'
    (examples / "small_study.py").write_text(text.replace('"training.steps=20"', small))
    done = subprocess.run(
        [sys.executable, "small_study.py"], cwd=examples, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lgr - opd" in done.stdout
