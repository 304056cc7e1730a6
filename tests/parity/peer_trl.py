"""opdlab beside TRL's DistillationTrainer: the same models, prompts, batch, lengths and divergence.

    python tests/parity/peer_trl.py embedded     the embedded models: 32 answers of up to 80 tokens
    python tests/parity/peer_trl.py 30M 2 1      a student of 30 million parameters: 16 answers of 128,
                                                 two steps in turn, one round (by default 3 and 4)

Both train by full-vocabulary reverse KL on fresh answers of the student, a few steps in turn, one process.
On one thread (OMP_NUM_THREADS=1) steps are timed by processor seconds, else by the wall clock.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import lightning as L
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, TrainerCallback

from opdlab.bench.race import PROCESSOR, Timing, ceiling, clock_name, machine, show, show_machine
from opdlab.bench.shapes import Shape
from opdlab.configuration import loader
from opdlab.configuration.config import Experiment
from opdlab.console.quiet import quieten
from opdlab.modelling import models
from opdlab.modelling.head import chunked_loss
from opdlab.prompts.drawn import open_prompts
from opdlab.records import Questions, Rollout
from opdlab.scoring.length_groups import states_before_tokens
from opdlab.scoring.teacher import Teacher
from opdlab.training.module import Distillation
from opdlab.training.pair import load_pair

LEARNING_RATE = 1e-6  # so that answers keep their length while both are timed
STUDENT_30M = Shape(384, 4, 6, 2, 1024, 32000)
TEACHER_30M = Shape(512, 6, 8, 2, 1536, 32000)


def now() -> float:
    return process_time() if clock_name("cpu") == PROCESSOR else perf_counter()


def embedded(method: str) -> Experiment:
    """32 answers of up to 80 tokens to prompts of three families."""
    settings = [
        "rollout.max_new_tokens=80",
        "training.prompts_per_step=32",
        f"training.learning_rate={LEARNING_RATE}",
        "evaluation.benchmarks=[]",
        "training.hacking.grade_every=0",
        "training.gradient_clip=1.0",
    ]
    variants = dict(loader.variants(loader.load_experiment("quickstart", settings)))
    return variants[method]


def made(folder: Path, method: str) -> Experiment:
    """The same with random models of 30 million parameters and more, 16 answers of 128 tokens."""
    if not (folder / "student").exists():
        words = {f"w{number}": number for number in range(32000)}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")),
            unk_token="w0",
            pad_token="w0",
            bos_token="w1",
            eos_token="w2",
        )
        tokenizer.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
        for name, shape in (("student", STUDENT_30M), ("teacher", TEACHER_30M)):
            model = shape.build("cpu", torch.float32, 512)
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
        generator = torch.Generator().manual_seed(5)
        ids = torch.randint(3, 32000, (64, 24), generator=generator).tolist()
        rows = ["\n".join(" ".join(f"w{i}" for i in row) for row in ids)]
        (folder / "prompts.txt").write_text("\n".join(rows))
        Dataset.from_dict({"prompt": rows[0].split("\n")}).to_json(folder / "prompts.jsonl")
    settings = embedded(method).model_dump(mode="json")
    settings["student"] = {"path": str(folder / "student")}
    settings["teacher"] = {"path": str(folder / "teacher")}
    settings["prompts"] = {
        "type": "dataset",
        "path": str(folder / "prompts.jsonl"),
        "column": "prompt",
        "template": "none",
    }
    settings["rollout"] |= {"max_new_tokens": 128}
    settings["training"] |= {"prompts_per_step": 16, "threads": None}
    if method == "lgr":
        # Everywhere uncertain, a random student would make all positions active.
        settings["method"] |= {"active_share": 0.15}
    return Experiment.model_validate(settings)


@dataclass
class Ours(L.Callback):
    """A run of opdlab."""

    config: Experiment
    steps: int = 3
    seconds: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        L.seed_everything(self.config.seed, verbose=False)
        pair = load_pair(self.config)
        self.pair = pair
        prompts = open_prompts(self.config.prompts, pair.tokenizer, self.config.seed)
        self.module = Distillation(
            self.config,
            pair.subject(pair.student, self.config),
            Teacher(pair.teacher, pair.vocabulary).probe(),
            prompts,
        )

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = now()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.module.step_record()
        self.seconds.append(now() - self.started)
        self.tokens.append(self.module.metrics["response_tokens"][0])

    def block(self) -> None:
        """Some steps; the first warms up and is not counted."""
        before = len(self.seconds)
        trainer = L.Trainer(
            max_steps=self.steps + 1,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            callbacks=[self],
        )
        self.module.turn = 0
        trainer.fit(self.module, range(self.steps + 1))  # pyright: ignore[reportArgumentType]
        del self.seconds[before], self.tokens[before]


class Theirs(TrainerCallback):
    """TRL's trainer."""

    def __init__(self, config: Experiment, folder: Path, steps: int = 3) -> None:
        from trl import DistillationConfig, DistillationTrainer

        pair = load_pair(config)
        prompts = open_prompts(config.prompts, pair.tokenizer, config.seed)
        rows = config.training.prompts_per_step
        texts = [prompts.prompt(index).problem.prompt for index in range(4 * rows)]
        self.seconds: list[float] = []
        self.tokens: list[float] = []
        self.trainer = DistillationTrainer(
            model=pair.student,
            teacher_model=pair.teacher,
            processing_class=pair.tokenizer,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            callbacks=[self],
            args=DistillationConfig(
                output_dir=str(folder / "trl"),
                per_device_train_batch_size=rows,
                max_steps=steps + 1,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                max_grad_norm=1.0,
                max_completion_length=config.rollout.max_new_tokens,
                gradient_checkpointing=False,
                beta=1.0,
                temperature=1.0,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                report_to="none",
            ),
        )

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(now() - self.started)
        self.tokens.append(float(self.trainer._buffered_inputs[0]["completion_mask"].sum()))

    def block(self) -> None:
        before = len(self.seconds)
        self.trainer.train()
        del self.seconds[before], self.tokens[before]

    def loss(self, rollout: Rollout, student: torch.nn.Module) -> torch.Tensor:
        """TRL's loss of a rollout of ours: prompts padded on the left, responses on the right."""
        B = len(rollout.tokens)
        P, C = int(rollout.prompt_lengths.max()), int(rollout.response_lengths.max())
        inputs = {
            "prompt_ids": torch.zeros(B, P, dtype=torch.long),
            "prompt_mask": torch.zeros(B, P, dtype=torch.long),
            "completion_ids": torch.zeros(B, C, dtype=torch.long),
            "completion_mask": torch.zeros(B, C, dtype=torch.long),
        }
        for row in range(B):
            p, c = int(rollout.prompt_lengths[row]), int(rollout.response_lengths[row])
            inputs["prompt_ids"][row, P - p :] = rollout.tokens[row, :p]
            inputs["prompt_mask"][row, P - p :] = 1
            inputs["completion_ids"][row, :c] = rollout.tokens[row, p : p + c]
            inputs["completion_mask"][row, :c] = 1
        count = rollout.response_lengths.sum()
        return self.trainer._compute_loss(student, inputs, count)[0]


def our_loss(ours: Ours, rollout: Rollout) -> torch.Tensor:
    """Mean full-vocabulary reverse KL of a rollout, with the student's gradient."""
    method, teacher = ours.config.method, ours.module.teacher
    nothing = Questions(rollout.candidates[:, :0], full=True)
    scores = teacher.score(rollout, nothing)
    losses = chunked_loss(
        ours.module.student,
        states_before_tokens(ours.module.student, rollout),
        teacher.logits(scores.distributions) if scores.distributions else None,
        method.supervise(rollout, scores),
        method.token_loss,
        ours.pair.vocabulary,
    )
    return losses.loss.mean()


def operations(student: Shape, teacher: Shape, prompt: float, tokens: float, rows: int) -> float:
    """Least arithmetic of an OPD step: sample, score, and forward and backward of the student."""
    response = tokens / rows
    keys = rows * (prompt + response) ** 2 / 2
    read = rows * prompt + tokens

    def forward(shape: Shape) -> float:
        return read * shape.token_operations() + shape.attention_operations(1) * keys

    heads = tokens * (student.head_operations() * 4 + teacher.head_operations())
    return 4 * forward(student) + forward(teacher) + heads


def shape_of(model: Any) -> Shape:
    config = model.config
    return Shape(
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.intermediate_size,
        config.vocab_size,
    )


def main(size: str = "embedded", steps: str = "3", rounds: str = "4") -> None:
    """Race OPD and LGR of opdlab against TRL's OPD."""
    if find_spec("trl") is None:
        raise SystemExit("the comparison needs TRL: pip install -e '.[compare]'")
    quieten()
    folder = Path(tempfile.mkdtemp())
    configs = {
        name: embedded(name) if size == "embedded" else made(folder, name)
        for name in ("opd", "lgr")
    }
    models.use_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or None)
    sides: dict[str, Any] = {
        f"opdlab {name}": Ours(config, int(steps)) for name, config in configs.items()
    }
    sides["TRL opd"] = Theirs(configs["opd"], folder, int(steps))
    for _ in range(int(rounds)):
        for side in sides.values():
            side.block()
    show_machine(machine())
    top = ceiling("cpu", torch.float32)
    ours: Ours = sides["opdlab opd"]
    prompts = [ours.module.prompts.prompt(i).tokens for i in range(64)]
    prompt = sum(map(len, prompts)) / len(prompts)
    rows = ours.config.training.prompts_per_step
    notes = {}
    for name, side in sides.items():
        tokens = sum(side.tokens) / len(side.tokens)
        todo = operations(
            shape_of(ours.pair.student), shape_of(ours.pair.teacher), prompt, tokens, rows
        )
        reached = todo / Timing(tuple(side.seconds)).median / top
        notes[name] = f"{tokens:.0f} tokens, {reached:.0%} of ceiling"
    timings = {name: Timing(tuple(side.seconds)) for name, side in sides.items()}
    show(
        f"{size}: {rows} rows of up to {ours.config.rollout.max_new_tokens}",
        "opdlab opd",
        timings,
        notes,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
