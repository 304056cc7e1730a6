"""What a step is trained on: answers to the next prompts, scored, with what the method makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from time import perf_counter
from typing import Any

import torch
from transformers import PreTrainedModel

from opdlab.configuration import Experiment
from opdlab.errors import ModelError, PluginError, RefusedError, naming_requests, needing_room
from opdlab.evaluation import Subject
from opdlab.methods import importance
from opdlab.modelling import Weights, WholeWeights, closing, reach
from opdlab.peers import gathered
from opdlab.plugins import returned
from opdlab.prompts import PromptSource, ScoredSource
from opdlab.records import (
    Problem,
    Prompt,
    Questions,
    Rollout,
    Supervision,
    TeacherScores,
    is_one_of,
)
from opdlab.scoring import Scorer, Specialist, joined_rollouts, score_by_domain
from opdlab.seeds import row_seeds
from opdlab.shapes import Float, Tensor
from opdlab.training.ahead import PromptsAhead
from opdlab.training.given import given_rollout, is_given, share_of
from opdlab.training.grading import outcomes
from opdlab.training.measures import Figure
from opdlab.training.one_ahead import Ahead, figures, said_now
from opdlab.training.stored_answers import stored_rollout
from opdlab.training.unanswered import left_out, only, require_enough, without_refused
from opdlab.training.weights import token_weights
from opdlab.training.whole_step import (
    Place,
    joined_scores,
    whole_rollout,
    whole_scores,
)
from opdlab.transfers import wait

SMALLEST_SUM = 1e-9  # of weights: a mask may leave no token, and then nothing is trained


@dataclass(frozen=True, eq=False)
class Answers:
    """Fresh answers of one device, on the host, and the problem of each row.

    Attributes:
        whole: the answers of all devices to the same part of a step.
        mine: which of their tokens are this device's.
        drawn: how many of the answers were sampled; the rows after them hold given ones.
        idle: whether this device was refused all of its own, beside other devices: then it has those to the
            first prompt of the step, which weigh nothing, for all devices compute equally often.
    """

    rollout: Rollout
    problems: list[Problem]
    whole: Rollout
    mine: slice
    drawn: int
    idle: bool = False


@dataclass(frozen=True, eq=False)
class Asked:
    """What one device's answers are to.

    Attributes:
        prompts, seeds: of each row.
        drawn: how many of the rows are sampled; those after them have given answers.
        wait: where they are sampled by now, waits for the answers.
    """

    prompts: list[Prompt]
    seeds: list[int]
    drawn: int
    wait: Callable[[], Rollout] | None = None


@dataclass(frozen=True, eq=False)
class Collected:
    """A step's answers of one device, ready to be trained on as often as there are epochs.

    Attributes:
        rollout: on the host.
        scores: on the host, but for `hidden`, which lies with the student.
        supervision: on the host; its metrics are those of the whole step.
        weights: share of each token in the mean over the whole step, 1 over all devices; times its
            importance weight where answers are a step ahead. `Float[T]`
        seconds: spent, by part.
        graded: the share of right answers, where it is known.
        whole: tokens and answers of the whole step, this device's among them.
        idle: see `Answers`; its figures are none of the step's.
    """

    rollout: Rollout
    scores: TeacherScores
    supervision: Supervision
    weights: Float[Tensor, "T"]
    seconds: dict[str, float]
    graded: dict[str, Figure]
    whole: tuple[int, int]
    idle: bool = False


class Collector:
    """Draws prompts, has the student (or the teacher) answer them and the teacher score the answers.

    What a method asks and what it makes of the scores is found from the answers of all devices
    together, so that a step is the same on one device and on eight.

    Attributes:
        drawn: prompts used so far, over all devices; with the seed it decides everything random.
        weights: where the student's are.
    """

    def __init__(
        self,
        config: Experiment,
        student: Subject,
        teacher: Scorer,
        prompts: PromptSource,
        specialists: Sequence[Specialist],
        teacher_ends: tuple[int, ...],
    ) -> None:
        self.config, self.subject, self.prompts = config, student, prompts
        self.ahead = PromptsAhead(prompts)
        self.teacher, self.specialists, self.teacher_ends = teacher, specialists, teacher_ends
        self.teacher_served = any(
            one is not None and one.server is not None
            for one in (config.teacher, *config.specialists)
        )
        self.served = config.rollout.served or self.teacher_served
        self.drawn = 0
        self.weights: Weights = WholeWeights()
        self.seconds: dict[str, float] = {}
        self.showed: dict[str, float] = {}
        """What the engine says of the last rollouts."""
        self.sampled: Ahead | None = None
        """Answers to the next prompts, where they were sampled one step ahead."""
        self.begun: Asked | None = None
        """The prompts after these, which a server samples answers to by now."""
        self.refused: list[dict[str, str]] = []
        """Prompts that the last step went on without, of all devices, and why."""

    @property
    def count(self) -> int:
        """Prompts of a step, over all devices."""
        return self.config.training.prompts_per_step

    def collect(self, place: Place) -> Collected:
        """The next step's answers, those of this device."""
        self.seconds, self.showed, self.refused = {}, {}, []
        number = self.drawn // self.count
        mine = self.places(number, place)
        parts = self.config.training.rollout_parts
        cuts = [len(mine) * part // parts for part in range(parts + 1)]
        indices = [mine[a:b] for a, b in pairwise(cuts)]
        found = self.in_turn(indices[0], place) if parts == 1 else self.overlapped(indices, place)
        answers, own_scores = found
        collected = self.supervised(answers, own_scores, place, number)
        if self.served:
            share = len(self.refused) / len(mine)
            collected.graded["refused_share"] = (share, float(len(mine)))
            everyones = gathered(self.refused, alone=place.world == 1)
            self.refused = [one for their in everyones for one in their]
        following = number + 1 + self.config.rollout.ahead
        if following < self.config.training.rollouts:
            places = self.places(following, place)
            self.prompts.expect(places)
            self.ahead.begin(places)
        return collected

    def go_on(self, place: Place) -> None:
        """Done with the step's answers but for the update, before which those begun must have come.

        Who stops while answers are waited for has drawn nothing.
        """
        if self.config.rollout.ahead:
            with self.clock("rollout"):
                self.sampled = self.begun and self.sample_ahead(self.begun, place)
            self.begun = None
        self.drawn += self.count

    def places(self, number: int, place: Place) -> range:
        """Places of a step's prompts, of those that this device answers."""
        share = self.count // place.world
        first = number * self.count + place.rank * share
        return range(first, first + share)

    def supervised(
        self, answers: Answers, scores: TeacherScores, place: Place, number: int
    ) -> Collected:
        """What the method makes of the whole step, and this device's part of it."""
        settings, method = self.config.training, self.config.method
        whole, mine = answers.whole, answers.mine
        supervision = returned.supervision(
            method,
            whole,
            whole_scores(None if answers.idle else scores, place),
            self.subject.vocabulary,
        )
        weights = token_weights(whole, settings.normalisation, settings.mask)
        weights = weights / weights.sum().clamp(min=SMALLEST_SUM)
        own = replace(supervision[mine], metrics=supervision.metrics)
        graded = self.accuracy(answers, number)
        graded |= {name: (value, 1.0) for name, value in self.showed.items()}
        sizes = len(whole.token), len(whole.response_lengths)
        mean = weights[mine] * (not answers.idle) * importance(method, answers.rollout)
        if self.config.rollout.ahead:
            graded |= figures(method, answers.rollout)
        told = (self.seconds, graded, sizes, answers.idle)
        return Collected(answers.rollout, scores, own, mean, *told)

    def in_turn(self, indices: range, place: Place) -> tuple[Answers, TeacherScores]:
        """First all are sampled, then all scored."""
        with self.clock("rollout"):
            if self.config.rollout.ahead:
                answers = self.sampled_before(place)
            else:
                answers = self.sample(indices, place)
        with self.clock("teacher"):
            answers, scores = self.scored(answers, place)
        self.seconds |= scores.seconds
        return answers, scores

    def sampled_before(self, place: Place) -> Answers:
        """The step's answers by the student of the step before, while those of the next step are begun."""
        number = self.drawn // self.count
        if self.sampled is None:
            self.sampled = self.sample_ahead(self.asked(self.places(number, place)), place)
        found = self.sampled
        if number + 1 < self.config.training.rollouts:
            asked = self.asked(self.places(number + 1, place))
            with self.answering() as model:
                tokens = [prompt.tokens for prompt in asked.prompts]
                wait = returned.begin(
                    self.config.rollout, model, tokens, asked.seeds, **self.manner()
                )
            self.begun = replace(asked, wait=wait)
        self.refused, self.showed = [*found.refused], dict(found.showed)
        with self.weights.sampling():
            rollout = said_now(found.rollout, self.subject, self.config.method.group)
        return self.together(rollout, found.problems, len(found.problems), place)

    def sample_ahead(self, asked: Asked, place: Place) -> Ahead:
        """Answers of the student as it is now, and what is told of them with the next step's figures."""
        told = self.refused, self.showed
        self.refused, self.showed = [], {}
        answers = self.answers_to(asked, place)
        found = Ahead(answers.rollout, answers.problems, self.refused, self.showed)
        self.refused, self.showed = told
        return found

    def restore(self, drawn: int, sampled: Mapping[str, Any] | None, place: Place) -> None:
        """Go on from a checkpoint, with the answers that were sampled ahead by then."""
        self.drawn = drawn
        self.sampled = self.begun = None
        if sampled is not None:
            asked = self.asked(self.places(drawn // self.count, place))
            problems = [prompt.problem for prompt in asked.prompts]
            self.sampled = Ahead.restored(sampled, dict(zip(asked.seeds, problems, strict=True)))

    def scored(self, answers: Answers, place: Place) -> tuple[Answers, TeacherScores]:
        """Answers with the teacher's scores, without those that its server refuses to score."""
        group, alone = self.config.rollout.group_size, place.world == 1
        again = False
        while True:
            scores, rows = None, list(range(len(answers.problems)))
            fault: RefusedError | None = None
            try:
                scores = self.score(answers, self.questions(answers), place)
            except RefusedError as error:
                fault = error
                if answers.idle and again:
                    raise
                if not answers.idle:
                    earlier = len(self.refused)
                    rows, refused = left_out(error, answers.problems, group, earlier, alone)
                    self.refused += refused
            # The answers of the others are a part of what is asked about these.
            elsewhere = alone or not self.teacher_served
            if all(gathered(scores is not None, alone=elsewhere)) and scores is not None:
                return answers, scores
            if not alone:
                require_enough(fault, len(self.refused), self.count)
            again = fault is not None
            answers = self.only(answers, rows, place)

    def only(self, answers: Answers, rows: Sequence[int], place: Place) -> Answers:
        """Some of the answers of this device, beside those that the others are left with."""
        kept = None
        if rows and not answers.idle:
            kept = only(answers.rollout, rows, self.config.rollout.group_size)
        problems = [answers.problems[row] for row in rows]
        drawn = sum(row < answers.drawn for row in rows)
        return self.together(kept, problems, drawn, place)

    def together(
        self, rollout: Rollout | None, problems: list[Problem], drawn: int, place: Place
    ) -> Answers:
        """This device's answers beside those of the others; None where it has none."""
        whole, mine, first = whole_rollout(rollout, problems, place)
        if rollout is not None:
            return Answers(rollout, problems, whole, mine, drawn)
        group = self.config.rollout.group_size
        few = only(whole, range(group), group)
        return Answers(few, [first] * group, whole, slice(0, len(few.token)), 0, idle=True)

    def overlapped(self, parts: Sequence[range], place: Place) -> tuple[Answers, TeacherScores]:
        """The same, while the next part is sampled by the same weights.

        `seconds/teacher` is what is then still waited for, `seconds/overlapped` what that saved.
        """
        kind = place.device.type
        mixed = kind, torch.get_autocast_dtype(kind)
        enabled = torch.is_autocast_enabled(kind)

        def score(answers: Answers, asked: Questions) -> TeacherScores:
            # Lightning's precision is a setting of this thread alone.
            with torch.autocast(*mixed, enabled=enabled):
                return self.score(answers, asked, place)

        sampled, pending, wanted = [], [], []
        with ThreadPoolExecutor(1) as beside:
            with self.clock("rollout"):
                for indices in parts:
                    answers = self.sample(indices, place)
                    if answers.idle:
                        continue
                    sampled.append(answers)
                    wanted.append(self.questions(answers))
                    pending.append(beside.submit(score, answers, wanted[-1]))
            with self.clock("teacher"):
                scored = [_scores_of(one) for one in pending]
        rollout = joined_rollouts([one.rollout for one in sampled]) if sampled else None
        problems = [problem for one in sampled for problem in one.problems]
        # With answers that are given there is one part.
        answers = self.together(rollout, problems, len(problems), place)
        together = [asked.candidates for asked in wanted]
        if together and not torch.equal(self.questions(answers).candidates, torch.cat(together)):
            raise PluginError(
                f"{returned.name_of(self.config.method)}.questions: the candidates of an answer "
                "depend on the other answers of the step, which are missing when a part of it is "
                "scored; set training.rollout_parts: 1"
            )
        alone = place.world == 1
        found = [one for one in scored if isinstance(one, TeacherScores)]
        whole = len(found) == len(scored) and not answers.idle
        if self.served and not all(gathered(whole, alone=alone)):
            rows = self.not_refused(sampled, scored, place)
            with self.clock("teacher"):
                answers, scores = self.scored(self.only(answers, rows, place), place)
            self.seconds |= scores.seconds
            return answers, scores
        scores = joined_scores(found)
        saved = sum(scores.seconds.values()) - self.seconds["teacher"]
        self.seconds |= {**scores.seconds, "overlapped": max(0.0, saved)}
        return answers, scores

    def not_refused(
        self,
        parts: Sequence[Answers],
        scored: Sequence[TeacherScores | RefusedError],
        place: Place,
    ) -> list[int]:
        """Rows of all parts but for the prompts whose answers a teacher's server refused to score."""
        problems, why = list[Problem](), dict[int, str]()
        for one, found in zip(parts, scored, strict=True):
            # Of a part without any answer more is asked before it is given up.
            if isinstance(found, RefusedError) and not found.ended:
                why |= {len(problems) + row: said for row, said in found.rows.items()}
            problems += one.problems
        alone, rows, error = place.world == 1, list(range(len(problems))), None
        if why:
            error = RefusedError(why, len(problems), f"the answer to {problems[min(why)].named}")
            group = self.config.rollout.group_size
            rows, refused = left_out(error, problems, group, len(self.refused), alone)
            self.refused += refused
        if not alone:
            require_enough(error, len(self.refused), self.count)
        return rows

    def questions(self, answers: Answers) -> Questions:
        """What the method asks of these answers, seen among those of the other devices."""
        asked = returned.questions(self.config.method, answers.whole, self.subject.vocabulary)
        return replace(asked, candidates=asked.candidates[answers.mine])

    @needing_room("scoring")
    def score(self, answers: Answers, asked: Questions, place: Place) -> TeacherScores:
        """The teacher's answers to the method's questions, each row by the teacher of its domain."""
        domains = [problem.benchmark for problem in answers.problems]
        with naming_requests(lambda row: f"the answer to {answers.problems[row].named}"):
            if not self.specialists:
                return self.teacher.score(answers.rollout, asked).beside(place.device)
            found = score_by_domain(self.teacher, self.specialists, answers.rollout, asked, domains)
            return found.beside(place.device)

    def asked(self, indices: range) -> Asked:
        """The prompts at some places, each as often as it is answered."""
        group, share = self.config.rollout.group_size, share_of(self.config)
        # Given answers stand last: the order of rows is no part of a step.
        ordered = sorted(indices, key=lambda index: is_given(index, share))
        prompts = [self.ahead.prompt(index) for index in ordered]
        seeds = row_seeds(self.config.seed, [n * group + k for n in ordered for k in range(group)])
        drawn = sum(not is_given(index, share) for index in ordered) * group
        return Asked([prompt for prompt in prompts for _ in range(group)], seeds, drawn)

    def sample(self, indices: range, place: Place) -> Answers:
        """Answers to the prompts at some places, see `answers_to`."""
        return self.answers_to(self.asked(indices), place)

    @needing_room("sampling")
    def answers_to(self, asking: Asked, place: Place) -> Answers:
        """Answers to some prompts: the student's own, as it is now, the teacher's, or given ones."""
        group, method = self.config.rollout.group_size, self.config.method
        share, asked, drawn = share_of(self.config), asking.prompts, asking.drawn
        parts, given = [], (asked[drawn:], asking.seeds[drawn:])
        # Every device gathers the weights, whatever its own rows are.
        with self.answering() if share < 1 else nullcontext() as model:
            if model is not None and (drawn or (self.config.rollout.served and place.world > 1)):
                first, alone = (asked[:drawn], asking.seeds[:drawn]), place.world == 1
                found, rows = self.drawn_answers(model, *first, alone, asking.wait)
                parts += [] if found is None else [found]
                drawn, asked = len(rows), [*(asked[row] for row in rows), *given[0]]
        with self.weights.sampling() if share else nullcontext():
            if given[0]:
                parts.append(self.given_answers(*given))
        rollout = joined_rollouts(parts) if parts else None
        problems = [prompt.problem for prompt in asked]
        if method.graded and rollout is not None:
            grades = outcomes(rollout, problems, self.prompts, self.subject.tokenizer)
            places = torch.arange(len(asked) // group).repeat_interleave(group)
            rollout = replace(rollout, group=places, outcome=grades)
        return self.together(rollout, problems, drawn, place)

    def given_answers(self, asked: Sequence[Prompt], seeds: Sequence[int]) -> Rollout:
        """Answers of the data, or of a store of scores."""
        if isinstance(self.prompts, ScoredSource):
            return stored_rollout(self.prompts, asked, self.subject, seeds, self.config).host
        most, group = self.config.rollout.max_new_tokens, self.config.method.group
        return given_rollout(asked, self.subject, seeds, most, group).host

    @contextmanager
    def answering(self) -> Iterator[PreTrainedModel]:
        """Within, the model that writes the answers: the student's, or the teacher's."""
        if self.config.method.sampler == "student":
            with self.weights.sampling():
                yield self.subject.model
        else:
            with self.teacher.answering() as model:
                yield model

    def drawn_answers(
        self,
        model: PreTrainedModel,
        asked: Sequence[Prompt],
        seeds: Sequence[int],
        alone: bool = True,
        wait: Callable[[], Rollout] | None = None,
    ) -> tuple[Rollout | None, list[int]]:
        """Answers that the student or the teacher samples, and to which rows: a server may refuse some.

        Args:
            asked: none where the data answers all prompts of this device, one of several.
            alone: whether no other device has a part of the step; one of several may be left without
                answers.
            wait: waits for the answers, where they are sampled by now.
        """
        by_student, rows = self.config.method.sampler == "student", list(range(len(asked)))
        rollout: Rollout | None = None
        fault: RefusedError | None = None
        try:
            with naming_requests(lambda row: asked[row].problem.named):
                if wait is not None:
                    rollout = wait()
                elif asked:
                    tokens = [prompt.tokens for prompt in asked]
                    rollout = returned.sample(
                        self.config.rollout, model, tokens, seeds, **self.manner()
                    )
                else:
                    # The others exchange at their server.
                    self.config.rollout.attend(model)
        except RefusedError as error:
            fault, group = error, self.config.rollout.group_size
            problems = [prompt.problem for prompt in asked]
            rollout, rows, refused = without_refused(error, problems, group, alone)
            self.refused += refused
        if self.config.rollout.served and not alone:
            require_enough(fault, len(self.refused), self.count)
        self.showed |= self.config.rollout.figures(self.subject.model)
        own = self.subject
        if rollout is None:
            return None, []
        if not by_student:
            end = closing(own.tokenizer, own.eos_ids, own.template)
            rollout = ended_by(rollout.host, own.eos_ids, end)
        require_shared(rollout.host, own.vocabulary)
        return rollout.host, rows

    def manner(self) -> dict[str, Any]:
        """How answers are sampled, as engines take it."""
        by_student = self.config.method.sampler == "student"
        return {
            "eos_ids": self.subject.eos_ids if by_student else self.teacher_ends,
            "pad_id": self.subject.pad_id,
            "top_k": self.config.method.group,
            "vocabulary": self.subject.vocabulary if by_student else self.teacher_reach(),
            "max_rows": self.config.training.rollout_rows,
        }

    def teacher_reach(self) -> int | None:
        """Entries that the teacher answers from."""
        shared = self.subject.vocabulary
        return None if shared is None else reach(self.teacher_ends, shared)

    def accuracy(self, answers: Answers, number: int) -> dict[str, Figure]:
        """The share of right answers of a fresh rollout, where it is known or it is time to look."""
        every = self.config.training.hacking.grade_every
        grades = answers.rollout.outcome
        due = every and number % every == 0 and answers.drawn == len(answers.problems)
        if grades is None and due and self.prompts.graded:
            with self.clock("grading"):
                tokenizer = self.subject.tokenizer
                grades = outcomes(answers.rollout, answers.problems, self.prompts, tokenizer)
        if answers.idle:
            return {}
        known = [] if grades is None else grades[grades.isfinite()].tolist()
        return {"accuracy": (sum(known) / len(known), float(len(known)))} if known else {}

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        """Add up the seconds of one part of a step."""
        started = perf_counter()
        yield
        wait(self.subject.model.device)
        self.seconds[part] = self.seconds.get(part, 0.0) + perf_counter() - started


def _scores_of(pending: Future[TeacherScores]) -> TeacherScores | RefusedError:
    """A part's scores, or which of its answers a teacher's server refused."""
    try:
        return pending.result()
    except RefusedError as error:
        return error


def ended_by(rollout: Rollout, ends: tuple[int, ...], end: int) -> Rollout:
    """The same answers with the student's own end: what it has to learn of another model's.

    Args:
        ends: tokens by which it may end.
        end: stands in place of any other.
    """
    if rollout.eos_ids == ends:
        return rollout
    last = (rollout.prompt_lengths + rollout.response_lengths - 1)[:, None]
    token = rollout.tokens.gather(1, last)
    foreign = rollout.ended[:, None] & ~is_one_of(token, ends)
    tokens = rollout.tokens.scatter(1, last, token.masked_fill(foreign, end))
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
