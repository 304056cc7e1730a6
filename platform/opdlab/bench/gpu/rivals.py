"""Other programs on the same work, where they are installed: TRL's training step, vLLM's decoding."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)

from opdlab.bench.gpu import vllm_decode
from opdlab.bench.gpu.figures import Card, Case, Figure
from opdlab.bench.gpu.rollout import lean_step_seconds
from opdlab.bench.gpu.step import medians, opened
from opdlab.bench.race import wait
from opdlab.bench.shapes import Shape
from opdlab.console import dies_with_parent
from opdlab.errors import OpdlabError

_STEPS = 2
_VLLM_STEPS = {"cuda": 256}
_TRL_GOAL = 2.0
# So that answers keep their length while both are timed.
_LEARNING_RATE = 1e-6


def trl(
    name: str, student: Shape, teacher: Shape, seconds: int, rows: int, tokens: int
) -> Iterator[Case]:
    """One: a step of OPD by TRL and by opdlab."""
    title = f"beside TRL, {name}, {rows} answers of {tokens:,} tokens"
    yield Case("step", title, seconds, partial(_trl, student, teacher, rows, tokens), "trl")


def vllm(name: str, shape: Shape, seconds: int, rows: int, tokens: int) -> Iterator[Case]:
    """One: a decoded token by vLLM and by opdlab."""
    title = f"beside vLLM, {name}, {rows} rows after {tokens:,} tokens"
    yield Case("rollout", title, seconds, partial(_vllm, shape, rows, tokens), "vllm")


def _trl(student: Shape, teacher: Shape, rows: int, tokens: int, card: Card) -> list[Figure]:
    card.drop()
    settings = [f"training.learning_rate={_LEARNING_RATE}"]
    with opened(student, teacher, rows, tokens, card, ["opd"], settings) as (one,):
        one.block(_STEPS)
        ours = sum(medians(one).values())
        assert one.module.rollout is not None
        prompts = one.module.rollout.prompt_lengths.tolist()
        theirs = _trl_seconds(one.pair.student, one.pair.teacher, prompts, tokens, card)
    return [
        Figure("a step of opdlab", ours, "s"),
        Figure("a step of TRL", theirs, "s"),
        Figure("TRL's step over ours", theirs / ours, "x", _TRL_GOAL),
    ]


def _trl_seconds(
    student: Any, teacher: Any, prompts: Sequence[int], tokens: int, card: Card
) -> float:
    """Of a step after the first, with full-vocabulary reverse KL on prompts of these lengths."""
    from datasets import Dataset
    from trl import (  # pyright: ignore[reportMissingImports]
        DistillationConfig,
        DistillationTrainer,
    )

    tokenizer = _words(min(student.config.vocab_size, teacher.config.vocab_size))
    texts = [" ".join(f"w{3 + (7 * i + j) % 97}" for j in range(n)) for i, n in enumerate(prompts)]
    clock = _Clock(card)
    with TemporaryDirectory(prefix="opdlab-", ignore_cleanup_errors=True) as folder:
        trainer = DistillationTrainer(
            model=student,
            teacher_model=teacher,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": texts * (_STEPS + 2)}),
            callbacks=[clock],
            args=DistillationConfig(
                output_dir=folder,
                per_device_train_batch_size=len(prompts),
                max_steps=_STEPS + 1,
                learning_rate=_LEARNING_RATE,
                lr_scheduler_type="constant",
                max_grad_norm=1.0,
                max_completion_length=tokens,
                gradient_checkpointing=False,
                beta=1.0,
                temperature=1.0,
                bf16=True,
                use_cpu=card.device.type == "cpu",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                report_to="none",
            ),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return sorted(clock.seconds[1:])[(_STEPS - 1) // 2]


class _Clock(TrainerCallback):
    """Seconds of each step."""

    def __init__(self, card: Card) -> None:
        self.device, self.seconds = card.device, list[float]()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        wait(self.device)
        self.started = perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        wait(self.device)
        self.seconds.append(perf_counter() - self.started)


def _words(count: int) -> PreTrainedTokenizerFast:
    """A word for each token."""
    words = {f"w{number}": number for number in range(count)}
    made = Tokenizer(WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="w0", pad_token="w0", bos_token="w1", eos_token="w2"
    )


def _vllm(shape: Shape, rows: int, tokens: int, card: Card) -> list[Figure]:
    steps = _VLLM_STEPS.get(card.device.type, 8)
    ours = lean_step_seconds(card, shape, rows, tokens, steps)
    # It takes what memory is left.
    card.drop()
    with _folder(shape, tokens + 2 * steps + 8) as folder:
        dtype = str(card.dtype).removeprefix("torch.")
        theirs = {
            name: vllm_seconds(sys.executable, folder, rows, tokens, steps, dtype, log_probs)
            for name, log_probs in (("vLLM", 0), ("vLLM with 8 log-probabilities", 8))
        }
    found = [Figure("a token of every row", ours * 1e3, "ms")]
    return found + [Figure(f"{name} over it", taken / ours, "x") for name, taken in theirs.items()]


@contextmanager
def _folder(shape: Shape, positions: int) -> Iterator[str]:
    """A model's folder without weights, which vLLM makes itself."""
    with TemporaryDirectory(prefix="opdlab-", ignore_cleanup_errors=True) as folder:
        config = shape.config(positions)
        with torch.device("meta"):
            name = type(AutoModelForCausalLM.from_config(config)).__name__
        config.architectures = [name]
        config.save_pretrained(folder)
        yield folder


def vllm_seconds(
    python: str, folder: str, rows: int, tokens: int, steps: int, dtype: str, log_probs: int
) -> float:
    """Of a step of vLLM in a process of its own, whose memory ends with it.

    Raises:
        OpdlabError: it failed; the message is its own.
    """
    order = json.dumps([folder, rows, tokens, steps, dtype, log_probs])
    script = str(Path(vllm_decode.__file__))
    done = subprocess.run(
        [python, script, order],
        capture_output=True,
        text=True,
        check=False,
        # Else it would keep the card's memory where the suite is ended.
        preexec_fn=dies_with_parent(signal.SIGKILL),
    )
    said = [
        line.split()[1] for line in done.stdout.splitlines() if line.startswith(vllm_decode.SAID)
    ]
    if not said:
        raise OpdlabError(f"vLLM ended so: {done.stderr[-300:]}")
    return float(said[0])
