"""`word_problems`: sums in natural language, for language models, in which every step is verified."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest
from random import Random

from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.embedded.family import CONTENT, Family, identity

HE, SHE = "He", "She"
_NAMES: dict[str, tuple[str, ...]] = {
    HE: (
        *("Tom", "Ben", "Sam", "Max", "Leo", "Jack"),
        *("Omar", "Ivan", "Hugo", "Paul", "Amir", "Finn"),
    ),
    SHE: (
        *("Ann", "Mia", "Zoe", "Eva", "Lily", "Sara"),
        *("Nora", "Ruth", "Anna", "Emma", "Aisha", "Yuki"),
    ),
}
PEOPLE: dict[str, str] = {name: pronoun for pronoun, names in _NAMES.items() for name in names}
THINGS = (
    *("apples", "books", "pencils", "marbles", "stamps", "coins", "cards", "shells", "buttons"),
    *("stickers", "eggs", "cookies", "oranges", "candles", "balloons", "ribbons", "plates"),
    *("bottles", "flowers", "stones", "beads", "tickets", "toys", "cups"),
)
START, ADDED, FACTORS = (3, 60), (2, 30), (2, 3, 4)
LARGEST = 200
"""Of any number in a problem or its solution."""
SMALLEST_TO_PART = 4
"""So that two are given and two stay: words and sentences stay in the plural."""
TIMES = {2: "twice", 3: "three times", 4: "four times"}
ASKED = (
    "Work it out step by step, one calculation a step. End with a line 'Answer: ' and the number."
)
_CALCULATION = re.compile(r"(\d{1,6}) *([-+*x×−]) *(\d{1,6}) *= *(\d{1,6})(?!\d)")
_ANSWER = re.compile(r"(?:^|\n)Answer: (\d{1,6})\.?\s*\Z")
_SIGNS = {"x": "*", "×": "*", "−": "-"}

Step = tuple[str, str, int]
"""What happens, its sign and its number."""


@dataclass(frozen=True)
class WordProblems(Family):
    """A start, then purchases, gifts, multiples and a comparison, in words; read through the chat template.

    Right are completions that make every calculation in its order, and no other, and end in the answer.
    """

    steps: int = option(1, "Steps of each problem.", ge=1, le=3)

    @property
    def benchmark(self) -> str:
        return f"word_problems/{self.steps}-step"

    @property
    def grader_version(self) -> str:
        return "1"

    def draw(self, rng: Random) -> Problem:
        start = rng.randint(*START)
        story = _story(rng, start, self.steps)
        name, other = rng.sample(list(PEOPLE), 2)
        thing = rng.choice(THINGS)
        sentences = [f"{name} has {start} {thing}.", *_told(rng, story, name, other, thing)]
        prompt = " ".join(sentences) + "\n" + ASKED
        gold, value = [], start
        for _, sign, number in story:
            result = _apply(sign, value, number)
            gold.append([value, sign, number, result])
            value = result
        # Names and things are left out: who trains on a sum for Tom is not tested with it for Ann.
        content = str(start) + "".join(f"{what} {sign}{n};" for what, sign, n in story)
        extra = {CONTENT: content, "name": name, "other": other, "thing": thing}
        kinds = [what for what, _, _ in story]
        return Problem(self.benchmark, identity(prompt), prompt, gold, extra | {"kinds": kinds})

    def trace(self, problem: Problem, rng: Random) -> str:
        """A line for the start, one for each step, and the answer, in one of several wordings."""
        name, other, thing = (problem.extra[key] for key in ("name", "other", "thing"))
        pronoun = PEOPLE[name]
        first = problem.gold[0][0]
        start = rng.choice(("{} starts with {} {}.", "At first {} has {} {}.", "{} has {} {}."))
        lines = [start.format(name, first, thing)]
        for kind, (left, sign, right, result) in zip(
            problem.extra["kinds"], problem.gold, strict=True
        ):
            words = rng.choice(_REASONS[kind]).format(
                who=pronoun, lower=pronoun.lower(), other=other, n=right, name=name
            )
            lines.append(f"{words}: {left} {sign} {right} = {result}.")
        return "\n".join([*lines, f"Answer: {problem.gold[-1][-1]}"])

    def grade(self, problem: Problem, completion: str) -> Verdict:
        """Correct if the calculations are those of the problem, in order, and the answer ends the text."""
        found = _ANSWER.search(completion)
        if found is None:
            return Verdict("no_answer", reason="does not end in a line 'Answer: ' and a number")
        answer = str(int(found[1]))
        made = [
            [int(left), _SIGNS.get(sign, sign), int(right), int(result)]
            for left, sign, right, result in _CALCULATION.findall(completion)
        ]
        if completion.count("=") != len(made):
            return Verdict("wrong", answer, "an '=' is outside of a calculation of two numbers")
        for number, (got, wanted) in enumerate(zip_longest(made, problem.gold), start=1):
            if got is None or wanted is None or not _same(got, wanted):
                said = "missing" if got is None else repr(" ".join(map(str, got)))
                meant = "one too many" if wanted is None else "not " + " ".join(map(str, wanted))
                return Verdict("wrong", answer, f"calculation {number} is {said}, {meant}")
        if int(answer) != problem.gold[-1][-1]:
            reason = f"the answer is {answer}, not {problem.gold[-1][-1]}"
            return Verdict("wrong", answer, reason)
        return Verdict("correct", answer)

    def right_answer(self, problem: Problem) -> str:
        return self.trace(problem, Random(problem.id))


def _same(got: list[int | str], wanted: list[int | str]) -> bool:
    """Whether two calculations are the same, the operands of a sum or a product in either order."""
    turned = [got[2], got[1], got[0], got[3]] if got[1] in "+*" else got  # type: ignore[operator]
    return wanted in (got, turned)


def _apply(sign: str, left: int, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def _story(rng: Random, value: int, steps: int) -> list[Step]:
    """What happens, step by step; a comparison with somebody else can only end it."""
    story: list[Step] = []
    for number in range(steps):
        last = number == steps - 1
        kinds = []
        if value >= SMALLEST_TO_PART:
            kinds += ["gives", "sells", *(["fewer"] if last else [])]
        if value + ADDED[1] <= LARGEST:
            kinds += ["buys", "gets", *(["more"] if last else [])]
        if value * min(FACTORS) <= LARGEST:
            kinds.append("multiplies")
        kind = rng.choice(kinds)
        if kind == "multiplies":
            sign, count = "*", rng.choice([one for one in FACTORS if value * one <= LARGEST])
        elif kind in ("gives", "sells", "fewer"):
            sign, count = "-", rng.randint(2, value - 2)
        else:
            sign, count = "+", rng.randint(*ADDED)
        story.append((kind, sign, count))
        value = _apply(sign, value, count)
    return story


_SENTENCES = {
    "buys": ("{who} buys {n} more.", "Then {lower} buys {n} more at the market."),
    "gets": ("{who} gets {n} more from {other}.", "From {other} {lower} gets {n} more."),
    "gives": ("{who} gives {n} of them to {other}.", "Then {lower} gives {n} to {other}."),
    "sells": ("{who} sells {n} of them.", "Then {lower} sells {n} of them."),
    "multiplies": (
        "A week later {lower} has {times} as many.",
        "By the end of the month {lower} has {times} as many {thing}.",
    ),
    "more": ("{other} has {n} more {thing} than {name} has now.",),
    "fewer": ("{other} has {n} fewer {thing} than {name} has now.",),
}
_REASONS = {
    "buys": ("{who} buys {n}", "{who} buys {n} more, so we add"),
    "gets": ("{who} gets {n} from {other}", "{other} gives {name} {n}, so we add"),
    "gives": ("{who} gives away {n}", "{who} gives {n} to {other}, so we subtract"),
    "sells": ("{who} sells {n}", "{who} sells {n} of them, so we subtract"),
    "multiplies": (
        "The number is multiplied by {n}",
        "{who} has {n} times as many, so we multiply",
    ),
    "more": ("{other} has {n} more than {name}", "{n} more than {name}"),
    "fewer": ("{other} has {n} fewer than {name}", "{n} fewer than {name}"),
}


def _told(rng: Random, story: list[Step], name: str, other: str, thing: str) -> list[str]:
    """The story and its question, in sentences."""
    pronoun = PEOPLE[name]
    sentences = [
        rng.choice(_SENTENCES[kind]).format(
            who=pronoun,
            lower=pronoun.lower(),
            other=other,
            name=name,
            n=number,
            thing=thing,
            times=TIMES.get(number, ""),
        )
        for kind, _, number in story
    ]
    whose = other if story[-1][0] in ("more", "fewer") else name
    return [*sentences, f"How many {thing} does {whose} have now?"]
