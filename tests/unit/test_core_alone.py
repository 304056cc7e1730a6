"""Scoring, sampling and methods run where only torch and transformers are installed."""

from __future__ import annotations

import subprocess
import sys

ALONE = """
import sys

class Missing:
    names = ("mlflow", "optuna", "datasets", "evaluate", "pydantic", "typer", "lightning", "jaxtyping",
             "rich", "scipy", "pyarrow", "opdlab_evaluators", "opdlab_dashboards")

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.meta_path.insert(0, Missing())
from opdlab.methods import LGR, OPD
from opdlab.sampling import CachedEngine
from opdlab.scoring import Teacher

torch.manual_seed(0)
shape = dict(vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
             num_attention_heads=2)
student, teacher = (LlamaForCausalLM(LlamaConfig(**shape)) for _ in range(2))
method = LGR(top_k=3, entropy_threshold=0.0)
rollout = CachedEngine(max_new_tokens=5).sample(
    student, [[1, 4], [1, 5, 6]], [0, 1], eos_ids=(2,), pad_id=0, top_k=method.group)
scores = Teacher(teacher).score(rollout, method.questions(rollout))
print("reward", float(method.supervise(rollout, scores).metrics["reward"].nanmean()))
"""


def test_a_rollout_is_scored_and_rewarded_with_nothing_else_installed() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reward ")
