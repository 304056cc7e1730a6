"""One optimizer step of on-policy distillation, as a Lightning module."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import lightning as L
import torch
from transformers import PreTrainedModel

from opdlab.configuration import Experiment, Training
from opdlab.errors import ModelError, NonFiniteError, ResumeError
from opdlab.evaluation import Subject
from opdlab.modelling import TokenLosses, chunked_loss, new_tensors_in_float32, reach
from opdlab.peers import failing_together
from opdlab.plugins import returned
from opdlab.prompts import PromptSource
from opdlab.records import Problem, Rollout, Supervision, TeacherScores, is_one_of
from opdlab.scoring import Specialist, Teacher, score_by_domain, states_before_tokens
from opdlab.seeds import row_seeds
from opdlab.shapes import Float, Tensor
from opdlab.training import ranks
from opdlab.training.averaging import WeightAverage
from opdlab.training.checkpoint import non_finite, refuse_non_finite
from opdlab.training.grading import outcomes
from opdlab.training.measures import SECONDS, Figure, step_metrics, whole_step
from opdlab.training.weights import token_weights
from opdlab.transfers import to_device, to_host

SMALLEST_SCALE = 2.0**-10  # of the loss in float16, where it is found by trying
SMALLEST_SUM = 1e-9  # of weights: a mask may leave no token, and then nothing is trained


@dataclass(frozen=True, eq=False)
class Answers:
    """A fresh rollout, what each row answers, and how many rollouts came before it."""

    rollout: Rollout
    problems: list[Problem]
    number: int


class Distillation(L.LightningModule):
    """Prompts -> rollout -> teacher scores -> advantages -> loss.

    Everything random is a function of the experiment's seed and of `drawn`, the number of prompts used so
    far; so a checkpoint needs no more than that number (and torch's own random state, for students
    with dropout).
    """

    def __init__(
        self,
        config: Experiment,
        student: Subject,
        teacher: Teacher,
        prompts: PromptSource,
        specialists: Sequence[Specialist] = (),
        teacher_ends: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.student: PreTrainedModel = student.model.train()
        self.subject = student
        self.teacher, self.specialists = teacher, specialists
        self.teacher_ends = teacher_ends or student.eos_ids
        self.prompts = prompts
        self.method = config.method
        self.token_loss = returned.TokenLoss(config.method)
        self.drawn = 0
        self.seconds: dict[str, float] = {}
        self.metrics: dict[str, Figure] = {}
        self.micro_batches: list[dict[str, Figure]] = []
        self.kept: list[tuple[Rollout, TeacherScores, Supervision]] = []
        self.ahead: Answers | None = None
        self.turn, self.turn_was_fresh = 0, True
        self.rollout: Rollout | None = None
        self.scores: TeacherScores | None = None
        self.weight = torch.zeros(())
        self.average = average_of(self.student, config.training)
        self.ruled_out = non_finite(self.state_dict())

    @new_tensors_in_float32()
    def training_step(self, batch: Any, batch_idx: int) -> Float[Tensor, ""]:
        """Sum of the losses of one micro-batch; `on_before_optimizer_step` makes it the mean."""
        with failing_together():
            return self.summed_loss()

    def summed_loss(self) -> Float[Tensor, ""]:
        """The work of a micro-batch, and what is kept of it for the records."""
        rollout, scores, supervision = self.supervised()
        graded = self.accuracy(self.answers) if self.turn_was_fresh else {}
        self.update_started = perf_counter()
        settings = self.config.training
        weights = token_weights(rollout.host, settings.normalisation, settings.mask)
        on_device = to_device(weights, self.device)
        losses = self.token_losses(rollout, scores, supervision.to(self.device), on_device)
        loss = (on_device * losses.loss).sum()
        seen = on_host(losses)
        check_finite(seen, rollout.host)
        self.weight = self.weight + weights.sum()
        self.rollout, self.scores = rollout, scores
        self.metrics = step_metrics(
            rollout.host,
            scores.host,
            supervision,
            seen,
            self.config.rollout.max_new_tokens,
            self.method.sampler,
        )
        weight = max(weights.sum().item(), SMALLEST_SUM)
        self.metrics["loss"] = (float((weights * seen.loss).sum()) / weight, weight)
        self.metrics |= graded
        self.metrics["loss_share"] = ((weights > 0).float().mean().item(), float(len(weights)))
        # In later epochs nothing is scored: the teacher's work is counted once.
        asked = len(rollout.token) + scores.leaves if self.turn_was_fresh else 0
        self.metrics["leaves"] = (float(scores.leaves if self.turn_was_fresh else 0), 1.0)
        self.metrics["teacher_tokens"] = (float(asked), 1.0)
        return loss

    def supervised(self) -> tuple[Rollout, TeacherScores, Supervision]:
        """A rollout with its scores, and on the host what is made of them: fresh ones, or in later epochs
        those of the first.
        """
        count = self.config.training.accumulate
        self.turn_was_fresh = self.fresh
        if self.turn_was_fresh:
            if self.whole:
                self.kept = []
            scores = self.overlapped() if self.config.training.overlap else self.in_turn()
            self.seconds |= scores.seconds
            rollout = self.answers.rollout
            supervision = returned.supervision(
                self.method, rollout.host, scores.host, self.subject.vocabulary
            )
            self.kept.append((rollout, scores, supervision))
        else:
            self.seconds = dict.fromkeys(self.seconds, 0.0)
        self.turn += 1
        return self.kept[(self.turn - 1) % count]

    def in_turn(self) -> TeacherScores:
        """Scores of fresh answers: first all are sampled, then all scored."""
        with self.clock("rollout"):
            self.answers = self.sample()
        with self.clock("teacher"):
            return self.score(self.answers)

    def overlapped(self) -> TeacherScores:
        """The same, while the answers of this step's next micro-batch are sampled by the same weights.

        `seconds/teacher` is what is then still waited for, `seconds/overlapped` what that saved.
        """
        last = (self.turn + 1) % self.config.training.accumulate == 0
        mixed = self.device.type, torch.get_autocast_dtype(self.device.type)
        enabled = torch.is_autocast_enabled(self.device.type)

        def score(answers: Answers) -> TeacherScores:
            # Lightning's precision is a setting of this thread alone.
            with torch.autocast(*mixed, enabled=enabled):
                return self.score(answers)

        with ThreadPoolExecutor(1) as beside:
            with self.clock("rollout"):
                self.answers = self.ahead or self.sample()
                scores = beside.submit(score, self.answers)
                self.ahead = None if last else self.sample()
            with self.clock("teacher"):
                found = scores.result()
        saved = sum(found.seconds.values()) - self.seconds["teacher"]
        self.seconds["overlapped"] = max(0.0, saved)
        return found

    def score(self, answers: Answers) -> TeacherScores:
        """The teacher's answers to the method's questions, each row by the teacher of its domain."""
        rollout = answers.rollout
        questions = returned.questions(self.method, rollout.host, self.subject.vocabulary)
        if not self.specialists:
            return self.teacher.score(rollout, questions).to(self.device)
        domains = [problem.benchmark for problem in answers.problems]
        found = score_by_domain(self.teacher, self.specialists, rollout, questions, domains)
        return found.to(self.device)

    @property
    def fresh(self) -> bool:
        """Whether the next micro-batch gets answers of its own."""
        settings = self.config.training
        return self.turn % (settings.accumulate * settings.epochs) < settings.accumulate

    @property
    def whole(self) -> bool:
        """Whether every rollout has been used in all of its epochs; else a checkpoint would lose one."""
        settings = self.config.training
        return self.turn % (settings.accumulate * settings.epochs) == 0

    def sample(self) -> Answers:
        """Answers to the next prompts: the student's own, in this very step, or the teacher's."""
        group = self.config.rollout.group_size
        count = self.config.training.prompts_per_step
        number = self.drawn // (count * self.trainer.world_size)
        first = self.drawn + self.trainer.global_rank * count
        self.drawn += count * self.trainer.world_size
        prompts = [self.prompts.prompt(index) for index in range(first, first + count)]
        asked = [prompt for prompt in prompts for _ in range(group)]
        by_student = self.method.sampler == "student"
        rollout = returned.sample(
            self.config.rollout,
            self.student if by_student else self.teacher.model,
            [prompt.tokens for prompt in asked],
            row_seeds(self.config.seed, range(first * group, (first + count) * group)),
            eos_ids=self.subject.eos_ids if by_student else self.teacher_ends,
            pad_id=self.subject.pad_id,
            top_k=self.method.group,
            vocabulary=self.subject.vocabulary if by_student else self.teacher_reach(),
            max_rows=self.config.training.rollout_rows,
        )
        rollout = ended_by(rollout.host, self.subject.eos_ids)
        require_shared(rollout, self.subject.vocabulary)
        problems = [prompt.problem for prompt in asked]
        if not self.method.graded:
            return Answers(rollout.to(self.device), problems, number)
        grades = outcomes(rollout, problems, self.prompts, self.subject.tokenizer)
        rows = torch.arange(count).repeat_interleave(group)
        rollout = replace(rollout, group=rows, outcome=grades)
        return Answers(rollout.to(self.device), problems, number)

    def teacher_reach(self) -> int | None:
        """Entries that the teacher answers from."""
        shared = self.subject.vocabulary
        return None if shared is None else reach(self.teacher_ends, shared)

    def accuracy(self, answers: Answers) -> dict[str, Figure]:
        """The share of right answers of a fresh rollout, where it is known or it is time to look."""
        every = self.config.training.hacking.grade_every
        rollout = answers.rollout.host
        grades = rollout.outcome
        due = every and answers.number // self.config.training.accumulate % every == 0
        if grades is None and due and self.prompts.graded:
            with self.clock("grading"):
                tokenizer = self.subject.tokenizer
                grades = outcomes(rollout, answers.problems, self.prompts, tokenizer)
        known = [] if grades is None else grades[grades.isfinite()].tolist()
        return {"accuracy": (sum(known) / len(known), float(len(known)))} if known else {}

    def token_losses(
        self,
        rollout: Rollout,
        scores: TeacherScores,
        supervision: Supervision,
        weights: Float[Tensor, "T"],
    ) -> TokenLosses:
        """The method's loss of every response token, with the student's gradient."""
        return chunked_loss(
            self.student,
            states_before_tokens(self.student, rollout, grouped=self.trainer.world_size == 1),
            self.teacher.model,
            scores.hidden,
            supervision,
            self.token_loss,
            self.subject.vocabulary,
            self.config.training.head_chunk,
            weights,
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn summed gradients into the exact mean over all micro-batches and devices.

        Lightning divided each loss by the number of micro-batches and averaged over devices, which
        would weigh a token of a short micro-batch more than one of a long one.
        """
        weight = to_device(self.weight, self.device)
        total = self.trainer.strategy.reduce(weight, reduce_op="sum")
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size
        scale = scale / torch.as_tensor(total).clamp(min=SMALLEST_SUM)
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        for gradient in gradients:
            gradient.mul_(scale)
        norm = float(torch.nn.utils.get_total_norm(gradients))
        self.metrics["gradient_norm"] = (norm, 1.0)
        # Read here: by the end of the batch it is that of the next step.
        self.metrics["learning_rate"] = (float(optimizer.param_groups[0]["lr"]), 1.0)
        self.weight = torch.zeros(())
        if not math.isfinite(norm) and not self.will_skip():
            raise NonFiniteError(
                f"the norm of the gradient is {norm} at step {self.trainer.global_step + 1} (not finite: "
                f"{self.broken_gradients()}). The step is not taken: weights and last checkpoint are "
                "as they were, and --resume would come here again. Start anew with a lower "
                "training.learning_rate or with a gradient_clip; precision 32-true rules out overflow"
            )

    def will_skip(self) -> bool:
        """Whether the precision's own scaler passes over this step and tries a smaller scale.

        So it finds its scale; at a scale this small it is the gradient itself that is not finite.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return (
            scaler is not None
            and scaler.get_scale() > SMALLEST_SCALE
            and bool(self.broken_gradients())
        )

    def broken_gradients(self) -> str:
        """Weights whose gradient holds NaN or infinity, the first of them by name."""
        broken = [
            name
            for name, p in self.student.named_parameters()
            if p.grad is not None and not bool(p.grad.isfinite().all())
        ]
        return f"{broken[0]} and {len(broken) - 1} others" if broken else ""

    def end_micro_batch(self) -> None:
        """Close the times of a micro-batch, optimizer step included, and keep its metrics."""
        self.seconds["update"] = perf_counter() - self.update_started
        self.metrics |= {SECONDS + part: (value, 1.0) for part, value in self.seconds.items()}
        self.micro_batches.append(self.metrics)

    def step_record(self) -> dict[str, float]:
        """Figures of the optimizer step that just ended, of all its micro-batches on all devices."""
        batches, self.micro_batches = ranks.gathered(self.trainer, self.micro_batches), []
        return whole_step(batches, self.trainer.world_size)

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        """Measure the seconds of one part of a step."""
        started = perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[part] = perf_counter() - started

    def on_train_start(self) -> None:
        """Dropout acts only where it is asked for: without it, a student equal to its teacher has no loss.

        Here, since Lightning warns of modules in evaluation mode just before.
        """
        self.student.train(self.config.student.dropout)

    def on_fit_start(self) -> None:
        """Put the teachers where the student is, or on the device of their own, and try them there."""
        device = self.config.training.teacher_device or self.device
        for teacher in (self.teacher, *(one.teacher for one in self.specialists)):
            teacher.model.to(device)  # pyright: ignore[reportArgumentType]
            teacher.probe()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """For a while the student has the weights that are evaluated and kept."""
        with self.average.applied() if self.average else nullcontext():
            yield

    def settle(self) -> None:
        """After the last step: give the student the weights that are evaluated and exported."""
        if self.average:
            self.average.apply()

    def configure_optimizers(self) -> Any:
        settings = self.config.training
        optimizer = torch.optim.AdamW(
            self.student.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        # A plain function: of any other callable a checkpoint would keep the attributes.
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(settings, step)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def refuse_non_finite(self) -> None:
        """Stop where the last step has made weights that are no numbers, before they are used or kept."""
        state = {"state_dict": self.state_dict(), "global_step": self.trainer.global_step}
        refuse_non_finite(state, self.ruled_out)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        refuse_non_finite(checkpoint, self.ruled_out)
        checkpoint["opdlab"] = {"drawn": self.drawn, "random_state": random_state(self.device)}
        if self.average:
            checkpoint["opdlab"]["average"] = self.average.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "opdlab" not in checkpoint:
            raise ResumeError("the checkpoint was not written by opdlab; start a new run")
        self.drawn = checkpoint["opdlab"]["drawn"]
        self.random_state = checkpoint["opdlab"]["random_state"]
        if self.average:
            self.average.load(checkpoint["opdlab"].get("average"))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Restore torch's random state here: what Lightning does before the first batch uses it."""
        if (state := self.__dict__.pop("random_state", None)) is not None:
            restore_random_state(state, self.device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """torch's random state, the host's and the device's, by their kind; dropout draws from the latter."""
    found = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        found[device.type] = torch.get_device_module(device).get_rng_state(device)
    return found


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Set what `random_state` found; a device of another kind draws anew."""
    torch.set_rng_state(state["cpu"])
    if device.type != "cpu" and device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type], device)


def average_of(student: PreTrainedModel, settings: Training) -> WeightAverage | None:
    """The average that a run asks for."""
    if settings.average == "none":
        return None
    trained = [weight for weight in student.parameters() if weight.requires_grad]
    return WeightAverage(trained, settings.average_decay)


def ended_by(rollout: Rollout, ends: tuple[int, ...]) -> Rollout:
    """The same answers with the student's EOS at their end: what it has to learn of another model's."""
    if rollout.eos_ids == ends:
        return rollout
    last = (rollout.prompt_lengths + rollout.response_lengths - 1)[:, None]
    token = rollout.tokens.gather(1, last)
    foreign = rollout.ended[:, None] & ~is_one_of(token, ends)
    tokens = rollout.tokens.scatter(1, last, token.masked_fill(foreign, ends[0]))
    return replace(rollout, tokens=tokens, eos_ids=ends)


def require_shared(rollout: Rollout, shared: int | None) -> None:
    """Refuse answers in tokens that the student does not have.

    Raises:
        ModelError: the teacher, which answers from its own vocabulary, wrote one.
    """
    foreign = rollout.token[rollout.token >= (shared or torch.inf)]
    if len(foreign):
        raise ModelError(
            f"the teacher wrote token {int(foreign[0])}, which is not among the {shared} entries "
            "that student and teacher share, so the student cannot learn its answers. Take a teacher that "
            "ends its answers by shared tokens (eos_token_id of its generation_config.json), or a method "
            "that trains on the student's own answers"
        )


def learning_rate_factor(settings: Training, step: int) -> float:
    """Share of the highest learning rate at a step."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    left = (settings.steps - step) / (settings.steps - settings.warmup_steps)
    if settings.schedule == "linear":
        return left
    if settings.schedule == "cosine":
        return 0.5 * (1 + torch.cos(torch.tensor((1 - left) * torch.pi)).item())
    return 1.0


def on_host(losses: TokenLosses) -> TokenLosses:
    """What is looked at of them, without gradient, read in one copy."""
    kl = losses.reverse_kl
    loss, entropy, *rest = to_host([losses.loss, losses.entropy, *([] if kl is None else [kl])])
    return TokenLosses(loss, entropy, rest[0] if rest else None)


def check_finite(losses: TokenLosses, rollout: Rollout) -> None:
    """Stop before a loss that is no number reaches the weights.

    Raises:
        NonFiniteError: naming the row and position of the first such token.
    """
    bad = (~losses.loss.isfinite()).nonzero()
    if len(bad):
        first = int(bad[0])
        row, position = int(rollout.row[first]), int(rollout.position[first])
        raise NonFiniteError(
            f"the loss is {losses.loss[first].item()} at row {row}, position {position} (token "
            f"{int(rollout.token[first])}) and at {len(bad)} of {len(losses.loss)} tokens. The weights "
            "are as they were before this step. A lower training.learning_rate or a gradient_clip "
            "often helps; precision 32-true rules out overflow"
        )
