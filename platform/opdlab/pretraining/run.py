"""`opdlab pretrain`: make a model from nothing, or go on from one, by supervised training on traces."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from time import process_time
from typing import Any, final

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from typing_extensions import override

from opdlab import evaluation
from opdlab.configuration import Pretraining, loader
from opdlab.console import BOLD, END, YELLOW, Stopped, StopRequest, console, quieten
from opdlab.errors import ModelError, NonFiniteError, ResumeError
from opdlab.evaluation import Subject
from opdlab.files import LOCK, OWNER, claimed, is_partial, is_there, whole_folder
from opdlab.identity import Owner
from opdlab.modelling import models
from opdlab.pretraining.characters import BOS_ID, EOS_ID, PAD_ID, character_tokenizer
from opdlab.pretraining.model_card import model_card
from opdlab.pretraining.traces import Reading, TraceBatches
from opdlab.shapes import Float, Tensor
from opdlab.training import LAST, AtomicCheckpointIO, read_checkpoint, refuse_non_finite

CONFIG = "pretraining.yaml"


def pretrain(config: Pretraining, resume: bool = False) -> Path:
    """Train, evaluate and save a model; returns its folder, in Hugging Face's format.

    Args:
        resume: go on from the last checkpoint in `output/name`.

    Raises:
        ResumeError: the folder holds another pretraining, or nothing to resume, or is in use.
        SystemExit: a signal stopped the run (code 128 + signal); `resume` goes on.
    """
    folder = Path(config.output) / config.name
    _refuse_others(folder)
    if resume and not (folder / CONFIG).exists():
        raise ResumeError(f"{folder} holds no pretraining; begin it without --resume")
    folder.mkdir(parents=True, exist_ok=True)
    with claimed(folder):
        _begin(folder, config, resume)
        return _pretrain(config, folder)


def _pretrain(config: Pretraining, folder: Path) -> Path:
    """`pretrain`, in a folder that is this process's own."""
    model, tokenizer, batches = _opened(config)
    module = SupervisedTraining(model, batches)
    console.print(f"{BOLD}{config.name}{END}: {parameters(module.model):,} parameters -> {folder}")
    with StopRequest() as stop:
        try:
            fit(module, folder / "checkpoints" / LAST, stop)
            round_to(module.model, config.dtype)
            metrics = measure(
                module.model, tokenizer, batches.reading, config, folder / "samples", stop
            )
        except Stopped as stopped:
            console.print(f"{YELLOW}{stopped}; the same command with --resume continues from here.")
            raise SystemExit(stopped.exit_code) from stopped
    return save(module, tokenizer, folder, metrics)


def _opened(
    config: Pretraining,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, TraceBatches]:
    """What is trained: a new model, with the weights of `start` if there is one; or `start` as it is."""
    if config.characters is None or config.architecture is None:
        assert config.start is not None
        quieten()
        going_on, own = models.load_model(config.start), models.load_tokenizer(config.start)
        batches = TraceBatches(config, own, Reading.of_model(going_on, own))
        return going_on.train(), own, batches
    tokenizer = character_tokenizer(config.characters, config.architecture.max_positions)
    model = new_model(config, tokenizer)
    if config.start is not None:
        take_over(model, tokenizer, config.start)
    return model, tokenizer, TraceBatches(config, tokenizer)


def _refuse_others(folder: Path) -> None:
    """Refuse a folder that holds something and no pretraining."""
    found = folder.iterdir() if folder.exists() and not (folder / CONFIG).exists() else ()
    ours = (LOCK, OWNER)
    if other := next((one for one in found if not is_partial(one) and one.name not in ours), None):
        raise ResumeError(
            f"{folder} holds {other.name} and no pretraining: choose another `name` or `output`, so that "
            "nothing of yours is written over"
        )


def _begin(folder: Path, config: Pretraining, resume: bool) -> None:
    """Note what is begun in an unused folder, or see that it is the same one; this process holds it."""
    path = folder / CONFIG
    if not resume:
        if path.exists():
            raise ResumeError(
                f"{folder} already holds a pretraining: continue with --resume, choose another `name` or "
                "`output`, or remove the folder"
            )
        loader.save_resolved(config, path)
        return
    before = loader.load_pretraining(path).model_dump(mode="json")
    now = config.model_dump(mode="json")
    differing = [key for key in now if before[key] != now[key]]
    if differing:
        raise ResumeError(
            f"{folder} already exists with a different configuration; these differ: "
            f"{', '.join(differing)}. "
            "Give the same file and overrides, or start a new run without --resume"
        )


def new_model(config: Pretraining, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights that `seed` decides; torch's own random state stays as it was."""
    shape = config.architecture
    assert shape is not None
    special: dict[str, Any] = {
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=shape.hidden_size,
                intermediate_size=shape.intermediate_size,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.heads,
                max_position_embeddings=shape.max_positions,
                initializer_range=shape.initial_deviation,
                tie_word_embeddings=False,
                **special,
            )
        )
    model.generation_config = GenerationConfig(do_sample=True, **special)
    return model


def take_over(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, path: str) -> None:
    """Put the weights of another model into a new one.

    Raises:
        ModelError: it cannot be loaded, or its shape or its tokens are others.
    """
    other, theirs = models.load_model(path), models.load_tokenizer(path)
    shapes = [{name: t.shape for name, t in one.state_dict().items()} for one in (model, other)]
    if shapes[0] != shapes[1] or theirs.get_vocab() != tokenizer.get_vocab():
        what = "characters" if shapes[0] == shapes[1] else "architecture"
        raise ModelError(
            f"start: {path} has another {what} than this file says; give both the same"
        )
    model.load_state_dict(other.state_dict())


@final
class SupervisedTraining(L.LightningModule):
    """Next-token cross-entropy on traces and their EOS, AdamW, a cosine to 0."""

    def __init__(self, model: PreTrainedModel, batches: TraceBatches) -> None:
        super().__init__()
        self.model = model
        self.batches = batches
        self.config = batches.config
        self.seconds_before = 0.0
        self.started = process_time()

    def cpu_seconds(self) -> float:
        """CPU time spent so far, over all processes that worked on this training in turn."""
        return self.seconds_before + process_time() - self.started

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        refuse_non_finite(checkpoint, {})
        checkpoint["cpu_seconds"] = self.cpu_seconds()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seconds_before = checkpoint["cpu_seconds"]

    @override
    def train_dataloader(self) -> TraceBatches:
        return self.batches

    @override
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Float[Tensor, ""]:
        model: Any = self.model
        loss = model(**batch, use_cache=False).loss
        if not loss.isfinite():
            raise NonFiniteError(
                f"the loss is {loss.item()} at step {self.global_step}; lower learning_rate"
            )
        self.log("loss", loss, prog_bar=True)
        return loss

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not norm.isfinite():
            raise NonFiniteError(
                f"the norm of the gradient is {norm.item()} at step {self.global_step + 1}; weights and "
                "the last checkpoint are as they were before it. Lower learning_rate"
            )

    @override
    def configure_optimizers(self) -> Any:
        config = self.config
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def learning_rate_factor(self, step: int) -> float:
        """Share of the highest learning rate at a step."""
        warmup, steps = self.config.warmup_steps, self.config.steps
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@final
class Keep(L.Callback):
    """Writes checkpoints and obeys signals between steps."""

    def __init__(self, path: Path, every: int, stop: StopRequest) -> None:
        self.path = path
        self.every = every
        self.stop = stop

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop.listen()  # Lightning has put its own handlers in place

    @override
    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        last = trainer.global_step == trainer.max_steps
        if last or self.stop.signum is not None or trainer.global_step % self.every == 0:
            trainer.save_checkpoint(self.path)
        self.stop.check()


def fit(module: SupervisedTraining, path: Path, stop: StopRequest) -> None:
    """Lightning's loop, from the checkpoint where there is one."""
    config = module.config
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if is_there(path):
        read_checkpoint(path)
        console.print(f"continuing from {path}")
    trainer = L.Trainer(
        max_steps=config.steps,
        precision=config.precision,
        gradient_clip_val=config.gradient_clip or None,
        accelerator=config.accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[Keep(path, config.checkpoint_every, stop), RichProgressBar(leave=True)],
        plugins=[AtomicCheckpointIO()],
    )
    with warnings.catch_warnings():
        # Lightning 2.6 on torch 2.13; nothing that a user could change.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        trainer.fit(module, ckpt_path=path if is_there(path) else None)
    # A signal in the moment before ours replaced Lightning's handlers makes `fit` return early.
    stop.check()
    module.model.eval()


def round_to(model: PreTrainedModel, dtype: str) -> None:
    """Give a model, in float32, the weights that its file will hold."""
    any_model: Any = model  # whose `to` the library decorates out of its type
    any_model.to(models.DTYPES[dtype]).float()


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reading: Reading,
    config: Pretraining,
    folder: Path,
    stop: StopRequest,
) -> dict[str, float]:
    """Scores on the configured benchmarks, under the names that a tracker would get."""
    if not config.evaluation.benchmarks:
        return {}
    subject = Subject(
        model=model,
        tokenizer=tokenizer,
        engine=config.rollout,
        eos_ids=models.eos_ids(model, tokenizer),
        pad_id=models.pad_id(model, tokenizer),
        vocabulary=len(tokenizer),
        template=reading.template,
    )
    samples = evaluation.evaluate(
        subject, config.evaluation, Owner("final"), folder, lambda _: stop.check()
    )
    return evaluation.headline(samples)


def save(
    module: SupervisedTraining,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    metrics: dict[str, float],
) -> Path:
    """Write the model folder: weights, tokenizer, generation settings, configuration, card."""
    target = folder / "model"
    digest = models.weights_sha256(module.model)
    facts = {
        "parameters": f"{parameters(module.model):,}",
        "weights, SHA-256": f"{digest} (read as float32)",
        "training tokens, SHA-256 chain": module.batches.digest,
        "training took": f"{module.cpu_seconds() / 60:.1f} CPU-minutes",
    }
    card = model_card(module.config, CONFIG, facts, metrics)
    model: Any = module.model
    with whole_folder(target) as partial:
        model.to(models.DTYPES[module.config.dtype]).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        loader.save_resolved(module.config, partial / CONFIG)
        (partial / "README.md").write_text(card, encoding="utf-8")
    console.print(card.partition("\n# ")[2])
    console.print(f"model saved to {target}")
    return target


def parameters(model: PreTrainedModel) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in model.parameters())
