"""`code`: statements compiled to a small stack language, run on test inputs by the interpreter here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.embedded.family import Family, identity

STATEMENTS = {"short": (1, 2), "long": (3, 4)}
OPERATORS = (1, 2)
INPUTS, TARGETS = "abc", "pqrs"
TEST_INPUTS = 3
# A prime: no product of inputs vanishes, and values stay small whatever a completion multiplies.
MODULUS = 97

Expression = str | tuple[str, "Expression", "Expression"]
"""A variable, or an operator with its operands."""


@dataclass(frozen=True)
class StackCode(Family):
    """Programs to compile: `Cp=a-(b-c),q=p*a:` is solved by `p=abc--;q=pa*#`.

    In the stack language a letter pushes a variable and an operator replaces the two values on top.
    """

    level: Literal["short", "long"] = option("short", "Statements: 1, 2 (short) or 3, 4 (long).")

    @property
    def benchmark(self) -> str:
        return f"code/{self.level}"

    @property
    def grader_version(self) -> str:
        return "1"

    def draw(self, rng: Random) -> Problem:
        targets = TARGETS[: rng.randint(*STATEMENTS[self.level])]
        program = {
            target: draw_expression(rng, rng.randint(*OPERATORS), INPUTS + TARGETS[:number])
            for number, target in enumerate(targets)
        }
        prompt = "C" + ",".join(f"{t}={infix(e)}" for t, e in program.items()) + ":"
        gold = expectation(prompt, program)
        return Problem(self.benchmark, identity(prompt), prompt, gold, extra={"program": program})

    def trace(self, problem: Problem, rng: Random) -> str:
        """Compiled statements; the operands of `+` and `*` swapped half of the time."""
        program = problem.extra["program"]
        return ";".join(f"{target}={postfix(e, rng)}" for target, e in program.items()) + "#"

    def grade(self, problem: Problem, completion: str) -> Verdict:
        """Correct if every statement gives the expected value on every test input.

        The answer is what the program computes, so equivalent programs vote for the same.
        """
        program, mark, rest = completion.partition("#")
        if not mark or rest:
            return Verdict("no_answer", reason="the program does not end with '#'")
        got = [execute(program, inputs) for inputs in problem.gold["inputs"]]
        expected = problem.gold["outputs"]
        answer = None if got[0][-1][1] is None else str(got)
        for number in range(max(len(got[0]), len(expected[0]))):
            here, wanted = ([run[number : number + 1] for run in runs] for runs in (got, expected))
            if here != wanted:
                reason = f"statement {number + 1} gives {here} on the test inputs, not {wanted}"
                return Verdict("wrong", answer, reason)
        return Verdict("correct", answer)


def expectation(prompt: str, program: Mapping[str, Expression]) -> dict[str, Any]:
    """Test inputs, fixed by the prompt, and what every statement assigns on each of them."""
    rng = Random(prompt)
    inputs = [{name: rng.randrange(2, MODULUS) for name in INPUTS} for _ in range(TEST_INPUTS)]
    outputs = []
    for values in inputs:
        memory = dict(values)
        for target, expression in program.items():
            memory[target] = evaluate(expression, memory)
        outputs.append([[target, memory[target]] for target in program])
    return {"inputs": inputs, "outputs": outputs}


def draw_expression(rng: Random, operators: int, variables: str) -> Expression:
    """A random expression tree with so many operators."""
    if operators == 0:
        return rng.choice(variables)
    left = rng.randrange(operators)
    return (
        rng.choice("+-*"),
        draw_expression(rng, left, variables),
        draw_expression(rng, operators - 1 - left, variables),
    )


def infix(expression: Expression, outermost: bool = True) -> str:
    """As people write it, every inner operation in brackets: `a-(b-c)`."""
    if isinstance(expression, str):
        return expression
    operator, left, right = expression
    text = f"{infix(left, False)}{operator}{infix(right, False)}"
    return text if outermost else f"({text})"


def postfix(expression: Expression, rng: Random) -> str:
    """Stack code; `rng` decides about swapping the operands of `+` and `*`."""
    if isinstance(expression, str):
        return expression
    operator, left, right = expression
    parts = [postfix(left, rng), postfix(right, rng)]
    if operator != "-" and rng.random() < 0.5:
        parts.reverse()
    return "".join(parts) + operator


def evaluate(expression: Expression, memory: Mapping[str, int]) -> int:
    """Value of an expression tree, modulo `MODULUS`; independent of the stack language."""
    if isinstance(expression, str):
        return memory[expression]
    operator, left, right = expression
    return apply(operator, evaluate(left, memory), evaluate(right, memory))


def execute(program: str, inputs: Mapping[str, int]) -> list[list[str | int | None]]:
    """Run statements in turn: `[target, value]` of each, up to the first that has no value.

    Total: no text makes it raise, and its time is proportional to the text's length.
    """
    memory, trail = dict(inputs), []
    for statement in program.split(";"):
        target, _, code = statement.partition("=")
        value = run(code, memory)
        trail.append([target, value])
        if value is None:
            break
        memory[target] = value
    return trail


def run(code: str, memory: Mapping[str, int]) -> int | None:
    """Interpret stack code; None where it does not end with one value on the stack."""
    stack: list[int] = []
    for symbol in code:
        if symbol in memory:
            stack.append(memory[symbol])
        elif symbol in "+-*" and len(stack) >= 2:
            right, left = stack.pop(), stack.pop()
            stack.append(apply(symbol, left, right))
        else:
            return None
    return stack[0] if len(stack) == 1 else None


def apply(operator: str, left: int, right: int) -> int:
    """One operation modulo `MODULUS`."""
    return {"+": left + right, "-": left - right, "*": left * right}[operator] % MODULUS
