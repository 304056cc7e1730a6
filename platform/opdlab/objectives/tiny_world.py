"""A world small enough to be enumerated: a tiny vocabulary, every answer, student and teacher as tables.

Everything is in float64 and exact. Where a model would be asked, a table answers; what a method
gets is a real `Rollout` and real `TeacherScores`, so that its own code runs on every answer there
is.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch

from opdlab.records import ONE_STEP, Lookahead, Questions, Rollout, TeacherScores
from opdlab.shapes import Float, Int, Tensor

Answer = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class World:
    """One prompt with all of its answers.

    States are prefixes without EOS, the empty one first, shorter ones before longer ones. The last entry of
    the vocabulary is EOS. An answer ends by it, or is cut at `length`.

    Attributes:
        vocabulary, length: tokens, EOS included; longest answer.
        student: logits of the student now, a leaf that takes gradients. `Float[S V]`
        sampler: log-probabilities of who wrote the answers. `Float[S V]`
        teacher: log-probabilities, one step further than the student's. `Float[S2 V]`
        grade: outcome of each answer, in the order of `answers`.
        temperature, top_p: how tokens are drawn from `sampler`. What is recorded of a token is, as in every
            engine, its log-probability before these.
        ahead: whether the answers of `sampler` are recorded as the student now sees them (`rollout.ahead`).
    """

    vocabulary: int
    length: int
    student: Float[Tensor, "S V"]
    sampler: Float[Tensor, "S V"]
    teacher: Float[Tensor, "S2 V"]
    grade: tuple[float, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    ahead: bool = False

    @cached_property
    def recorded(self) -> Float[Tensor, "S V"]:
        """Log-probabilities that are recorded with the answers."""
        return self.student.detach().log_softmax(-1) if self.ahead else self.sampler

    @property
    def eos(self) -> int:
        return self.vocabulary - 1

    @cached_property
    def states(self) -> dict[Answer, int]:
        """Number of every prefix that the teacher may be asked about."""
        found = [
            prefix for n in range(self.length + 1) for prefix in product(range(self.eos), repeat=n)
        ]
        return {prefix: number for number, prefix in enumerate(found)}

    @cached_property
    def student_states(self) -> list[Answer]:
        """Prefixes in which a token is sampled."""
        return [prefix for prefix in self.states if len(prefix) < self.length]

    @cached_property
    def answers(self) -> list[Answer]:
        """Every answer, those that end first."""
        ended = [(*prefix, self.eos) for prefix in self.student_states]
        return ended + list(product(range(self.eos), repeat=self.length))

    @cached_property
    def probability(self) -> dict[Answer, float]:
        """Of each answer, as it is drawn."""
        drawn = self.drawn(self.sampler)
        return {
            answer: float(torch.stack([drawn[s, y] for s, y in self.steps(answer)]).sum().exp())
            for answer in self.answers
        }

    def steps(self, answer: Answer) -> list[tuple[int, int]]:
        """The state before each token of an answer, with the token."""
        return [(self.states[answer[:t]], y) for t, y in enumerate(answer)]

    def drawn(self, log_probs: Float[Tensor, "S V"]) -> Float[Tensor, "S V"]:
        """The distributions that tokens are drawn from, at this temperature and top-p."""
        tempered = (log_probs / max(self.temperature, 1e-6)).log_softmax(-1)
        p, order = tempered.exp().sort(-1, descending=True)
        outside = p.cumsum(-1) - p >= self.top_p
        outside = torch.zeros_like(outside).scatter(-1, order, outside)
        return tempered.masked_fill(outside, -torch.inf).log_softmax(-1)

    def state_of(self, rollout: Rollout) -> Int[Tensor, "T"]:
        """Number of the state that each response token was sampled in."""
        rows = [self._answer(rollout, row) for row in range(len(rollout.tokens))]
        return torch.tensor([self.states[row[:t]] for row in rows for t in range(len(row))])

    def rollout(self, answers: Sequence[Answer], top_k: int, groups: int = 1) -> Rollout:
        """A batch of answers as the sampling engine would hand it over, in groups of equal size."""
        width = max(map(len, answers))
        tokens = [[0, *answer, *[0] * (width - len(answer))] for answer in answers]
        state = torch.tensor([self.states[a[:t]] for a in answers for t in range(len(a))])
        said = self.recorded[state]
        token = torch.tensor([y for answer in answers for y in answer])
        drawn = self.sampler[state].gather(-1, token[:, None])[:, 0]
        best = said.topk(min(top_k, self.vocabulary), dim=-1)
        number = {answer: i for i, answer in enumerate(self.answers)}
        return Rollout(
            tokens=torch.tensor(tokens),
            prompt_lengths=torch.ones(len(answers), dtype=torch.long),
            response_lengths=torch.tensor([len(answer) for answer in answers]),
            ended=torch.tensor([answer[-1] == self.eos for answer in answers]),
            log_prob=said.gather(-1, token[:, None])[:, 0],
            entropy=-(said.exp() * said).sum(-1),
            candidates=best.indices,
            seeds=torch.tensor([number[answer] for answer in answers]),
            eos_ids=(self.eos,),
            candidate_log_prob=best.values,
            group=torch.arange(groups).repeat_interleave(len(answers) // groups),
            outcome=torch.tensor([self.grade[number[a]] for a in answers], dtype=torch.float64),
            sampled_log_prob=drawn if self.ahead else None,
        )

    def scores(self, rollout: Rollout, questions: Questions) -> TeacherScores:
        """What the teacher's table says to a method's questions."""
        state = self.state_of(rollout)
        said = self.teacher[state]
        prefixes = [p for row in range(len(rollout.tokens)) for p in self._prefixes(rollout, row)]
        tokens = rollout.token.tolist()
        after = [
            self.confidence(p, y, questions.measure, questions.lookahead)
            for p, y in zip(prefixes, tokens, strict=True)
        ]
        fidelity = [
            self.confidence(p, y, "max_prob") for p, y in zip(prefixes, tokens, strict=True)
        ]
        asked = [
            [
                self.confidence(p, v, questions.measure, questions.lookahead)
                if v >= 0
                else torch.nan
                for v in row
            ]
            for p, row in zip(prefixes, questions.candidates.tolist(), strict=True)
        ]
        return TeacherScores(
            log_prob=said.gather(-1, rollout.token[:, None])[:, 0],
            entropy=-(said.exp() * said).sum(-1),
            fidelity=torch.tensor(fidelity, dtype=torch.float64),
            sampled_confidence=torch.tensor(after, dtype=torch.float64),
            confidence=torch.tensor(asked, dtype=torch.float64).reshape(questions.candidates.shape),
        )

    def confidence(
        self, prefix: Answer, token: int, measure: str, ahead: Lookahead = ONE_STEP
    ) -> float:
        """The teacher's confidence after a token, NaN after EOS; of `sampled_prob` the mean."""
        if token == self.eos:
            return torch.nan
        prefix = (*prefix, token)
        if ahead.steps == 1:
            return self._confidences[measure][self.states[prefix]]
        found = [self._confidences["max_prob"][self.states[prefix]]]
        # No answer is longer than the world.
        while len(found) < ahead.steps and len(prefix) < self.length:
            following = int(self.teacher[self.states[prefix]].argmax())
            if following == self.eos or found[-1] <= ahead.certain_above:
                break
            prefix = (*prefix, following)
            found.append(self._confidences["max_prob"][self.states[prefix]])
        made = {"last": found[-1], "minimum": min(found)}
        return made.get(ahead.over) or statistics.geometric_mean(found)

    @cached_property
    def _confidences(self) -> dict[str, list[float]]:
        """Of the teacher in every state, by measure."""
        q = self.teacher.exp()
        entropy = -(q * self.teacher).sum(-1)
        found = {
            "max_prob": q.amax(-1),
            "sampled_prob": q.square().sum(-1),
            "entropy": -entropy,
            "perplexity": -entropy.exp(),
        }
        return {measure: values.tolist() for measure, values in found.items()}

    def _answer(self, rollout: Rollout, row: int) -> Answer:
        first, length = int(rollout.prompt_lengths[row]), int(rollout.response_lengths[row])
        return tuple(rollout.tokens[row, first : first + length].tolist())

    def _prefixes(self, rollout: Rollout, row: int) -> Iterator[Answer]:
        answer = self._answer(rollout, row)
        return (answer[:t] for t in range(len(answer)))


def make_world(
    seed: int,
    vocabulary: int,
    length: int,
    writer: str = "student",
    stale: float = 0.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    ahead: bool = False,
) -> World:
    """Random tables.

    Args:
        writer: who wrote the answers, `student` or `teacher`.
        stale: how far, in logits, the student has moved since it wrote them.
        temperature, top_p: how it drew them.
        ahead: see `World`.
    """
    draw = torch.Generator().manual_seed(seed)
    inner = sum((vocabulary - 1) ** n for n in range(length))
    deep = inner + (vocabulary - 1) ** length

    def table(rows: int, scale: float) -> Float[Tensor, "rows V"]:
        return scale * torch.randn(rows, vocabulary, generator=draw, dtype=torch.float64)

    student, teacher = table(inner, 1.2), table(deep, 1.5).log_softmax(-1)
    moved = (student + stale * table(inner, 1.0)).log_softmax(-1)
    sampler = teacher[:inner] if writer == "teacher" else moved
    answers = inner + (vocabulary - 1) ** length
    grade = torch.rand(answers, generator=draw).lt(0.4).double().tolist()
    grade[0], grade[-1] = 0.0, 1.0  # or there might be nothing to learn
    tables = (student.requires_grad_(), sampler, teacher)
    return World(vocabulary, length, *tables, tuple(grade), temperature, top_p, ahead)
