"""A small laboratory: random models on disk, an experiment of seconds, the command as a process."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from end_to_end.warm import start
from mlflow import MlflowClient
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from opdlab.pretraining.characters import character_tokenizer

CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz+-*=;#:>,()MRC?"


def save_model(folder: Path, width: int, characters: str = CHARACTERS, scale: float = 1.0) -> Path:
    """A random Llama with a character tokenizer, as a Hugging Face folder."""
    tokenizer = character_tokenizer(characters, 512)
    torch.manual_seed(width)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02 if scale == 1.0 else 0.2,
    )
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data.mul_(scale)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Laboratory:
    """A folder with models, an experiment file, and an MLflow store that is ready for use."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder = folder
        self.output = folder / "runs"
        self.output.mkdir(parents=True)
        shutil.copy(store, self.output / "mlflow.db")
        self.student = save_model(folder / "student", 16)
        self.teacher = save_model(folder / "teacher", 32, scale=4.0)

    def experiment(self, **changes: Any) -> dict[str, Any]:
        """A valid experiment of a few seconds; dotted names change single values."""
        config: dict[str, Any] = {
            "name": "small",
            "description": "What does [/data/x] do to [lr]? :key:",
            "seed": 3,
            "student": {"path": str(self.student)},
            "teacher": {"path": str(self.teacher)},
            "prompts": {"type": "problems", "sources": [{"type": "math", "level": "short"}]},
            "rollout": {"type": "cached", "max_new_tokens": 16},
            "method": {"type": "lgr", "support": "full", "top_k": 4},
            "training": {"steps": 40, "prompts_per_step": 6, "checkpoint_every": 10},
            "evaluation": {
                "benchmarks": [{"type": "math", "level": "short", "limit": 3}],
                "samples": 2,
                "references": [],
            },
            "tracking": {"samples_every": 4},
            "output": str(self.output),
        }
        for key, value in changes.items():
            *parents, last = key.split("__")
            place = config
            for parent in parents:
                place = place[parent]
            place[last] = value
        return config

    def write(self, **changes: Any) -> Path:
        """The experiment as a file."""
        path = self.folder / "small.yaml"
        path.write_text(yaml.safe_dump(self.experiment(**changes)))
        return path

    start = staticmethod(start)

    def run(self, *arguments: str | Path, code: int = 0) -> str:
        """Run a command to its end, check its exit code, return what it printed."""
        process = self.start(*arguments)
        text, _ = process.communicate(timeout=240)
        assert process.returncode == code, text
        return text

    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.output / 'mlflow.db'}")

    def mlflow_runs(self) -> dict[str, Any]:
        """Runs of the store by name."""
        client = self.client()
        experiment = client.get_experiment_by_name("opdlab")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        return {run.info.run_name: run for run in runs}

    def metrics(self, run: str = "lgr", group: str = "small-001") -> list[dict[str, float]]:
        path = self.output / group / run / "metrics.jsonl"
        rows = (json.loads(line) for line in path.read_text().splitlines() if line)
        return [row for row in rows if "step" in row]  # the first says whose they are

    def weights(self, run: str = "lgr", group: str = "small-001") -> dict[str, torch.Tensor]:
        folder = self.output / group / run / "model"
        (file,) = folder.glob("*.safetensors")  # of adapters, or of a whole model
        return load_file(file)


def wait_for_step(
    laboratory: Laboratory, step: int, process: subprocess.Popen[str], run: str = "lgr"
) -> None:
    """Until a training process has recorded a step."""
    path = laboratory.output / "small-001" / run / "metrics.jsonl"
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count("\n") > step:
            return
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]
    raise AssertionError(f"step {step} did not come")


def comparable(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Metrics without the clock's."""
    timed = ("time", "tokens_per_second")
    return [
        {
            k: v
            for k, v in row.items()
            if k not in timed and not k.startswith("seconds/") and not k.endswith("mean_seconds")
        }
        for row in rows
    ]
