"""Random expressions stay right under every rewriting, and changed values are never right."""

from fractions import Fraction

from hypothesis import given, settings, strategies as st

from opdlab_evaluators.answers.matching import Matching
from opdlab_evaluators.answers.thing import Context
from opdlab_evaluators.answers.things import read

small = st.integers(1, 60)
fractions = st.builds(Fraction, st.integers(-90, 90), st.integers(1, 30))


def same(gold: str, answer: str) -> bool:
    """The reader's own verdict, without a second opinion."""
    return Matching().same(read(gold, Context(is_gold=True)), read(answer))


def as_fraction(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def term(coefficient: Fraction, factor: str) -> str:
    return rf"{as_fraction(coefficient)} {factor}"


@st.composite
def sums(draw):
    """Coefficients of 1, a root, pi and x, which no rational combination makes equal."""
    return tuple(draw(fractions) for _ in range(4))


FACTORS = ("", r"\sqrt{3}", r"\pi", "x")


def written(values, order):
    terms = [term(values[place], FACTORS[place]) for place in order]
    return " + ".join(f"({one})" for one in terms)


def set_in(text: str, style: int) -> str:
    """The same mathematics in another type."""
    return (
        text,
        text.replace(r"\frac", r"\dfrac"),
        rf"\left({text}\right)",
        text.replace(r"\sqrt{3}", "√3").replace(r"\pi", "π"),
        rf"\textcolor{{red}}{{{text}}}",
        rf"\displaystyle {text} \\",
        rf"\mathrm{{y}} = {text}",
        text.replace(" ", r" \, ").replace("x", r"x^{1}"),
        text.replace("+", r"+ {} +") if False else f"${text}$",
    )[style]


@settings(max_examples=150, deadline=None)
@given(sums(), st.permutations(range(4)), st.integers(0, 8))
def test_a_sum_stays_right_in_every_order_and_type(values, order, style):
    assert same(written(values, range(4)), set_in(written(values, order), style))


@settings(max_examples=150, deadline=None)
@given(sums(), st.integers(0, 3), fractions.filter(bool), st.permutations(range(4)))
def test_a_sum_with_one_coefficient_changed_is_never_right(values, place, change, order):
    other = [v + change if n == place else v for n, v in enumerate(values)]
    assert not same(written(values, range(4)), written(other, order))


@settings(max_examples=100, deadline=None)
@given(fractions, fractions)
def test_an_interval_is_its_inequalities_with_the_same_ends_alone(a, b):
    if a == b:
        return
    low, high = sorted((a, b))
    gold = rf"\left({as_fraction(low)}, {as_fraction(high)}\right]"
    assert same(gold, rf"{as_fraction(low)} < x \le {as_fraction(high)}")
    assert same(gold, rf"x > {as_fraction(low)} \text{{ and }} {as_fraction(high)} \geq x")
    assert not same(gold, rf"{as_fraction(low)} \le x \le {as_fraction(high)}")
    assert not same(gold, rf"{as_fraction(low)} < x < {as_fraction(high)}")
    assert not same(gold, rf"{as_fraction(low)} < x \le {as_fraction(high + 1)}")


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 99),
    st.text("0123456789", max_size=4),
    st.text("0123456789", min_size=1, max_size=6),
)
def test_a_repeating_decimal_is_its_fraction(whole, fixed, block):
    scale = 10 ** len(fixed)
    value = Fraction(int(f"{whole}{fixed}"), scale)
    value += Fraction(int(block), (10 ** len(block) - 1) * scale)
    gold = as_fraction(value)
    assert same(gold, rf"{whole}.{fixed}\overline{{{block}}}")
    if len(block) > 2:
        assert same(gold, rf"{whole}.{fixed}\dot{{{block[0]}}}{block[1:-1]}\dot{{{block[-1]}}}")
    if int(block):
        assert not same(gold, f"{whole}.{fixed}{block}{block}")


@settings(max_examples=100, deadline=None)
@given(small, small, small)
def test_a_mixed_number_is_its_value(whole, above, below):
    if above >= below:
        return
    value = whole + Fraction(above, below)
    for answer in (rf"{whole}\frac{{{above}}}{{{below}}}", f"{whole} {above}/{below}"):
        assert same(as_fraction(value), answer)
        assert same(as_fraction(-value), f"-{answer}")
        assert not same(as_fraction(Fraction(whole * above, below)), answer)


@settings(max_examples=100, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_a_number_in_groups_of_three_digits_is_that_number(value, other):
    for grouped in (
        f"{value:,}",
        f"{value:,}".replace(",", r"\,"),
        f"{value:,}".replace(",", "{,}"),
    ):
        assert same(str(value), grouped)
        assert (value == other) == same(str(other), grouped)
