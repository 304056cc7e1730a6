"""Arithmetic on exact fractions and many-digit numbers that refuses what would cost too much.

The size of a result is bounded by logarithms first: a tower of powers is recognised and never worked out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath

MOST_BITS = 200_000
"""Bits of an exact number; of those beyond, only the magnitude is worked with."""
MOST_EXPONENT = 1 << 40
"""Binary exponent of a number that is not exact."""
MOST_FACTORIAL = 5000

Number = Any
"""A Fraction, an mpf or an mpc."""


class Beyond(Exception):
    """A number too large, or an operation too dear, to be worked out."""


class Undefined(Exception):
    """There is no such number: a division by zero."""


def bits(value: Number) -> float:
    """Logarithm to base 2 of the magnitude, about; 0 for what is smaller than 1."""
    if isinstance(value, Fraction):
        return max(value.numerator.bit_length(), value.denominator.bit_length())
    if not mpmath.isfinite(value) or value == 0:
        return 0
    return abs(float(mpmath.log(abs(value), 2)))


def real(value: Number) -> Number:
    """An exact number as one with many digits; others as they are."""
    if isinstance(value, Fraction):
        return mpmath.mpf(value.numerator) / value.denominator
    return value


def add(a: Number, b: Number) -> Number:
    """a + b."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a + b
    return real(a) + real(b)


def multiply(a: Number, b: Number) -> Number:
    """a * b; raises Beyond."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        if bits(a) + bits(b) > MOST_BITS:
            return _inexact(real(a) * real(b))
        return a * b
    return _inexact(real(a) * real(b))


def divide(a: Number, b: Number) -> Number:
    """a / b; raises Undefined, Beyond."""
    if b == 0:
        raise Undefined("a division by zero")
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return multiply(a, 1 / b)
    return _inexact(real(a) / real(b))


def power(base: Number, exponent: Number) -> Number:
    """base ** exponent; odd roots of negative numbers are real. Raises Undefined, Beyond."""
    if isinstance(exponent, Fraction):
        return _rational_power(base, exponent)
    if base == 0:
        return Fraction(0)
    return _general_power(real(base), real(exponent))


def _rational_power(base: Number, exponent: Fraction) -> Number:
    if exponent.denominator == 1:
        return _integer_power(base, exponent.numerator)
    if base == 0:
        if exponent < 0:
            raise Undefined("a division by zero")
        return Fraction(0)
    if isinstance(base, Fraction):
        exact = _exact_root(base, exponent.denominator)
        if exact is not None:
            return _integer_power(exact, exponent.numerator)
    value = real(base)
    if exponent.denominator % 2 and mpmath.im(value) == 0 and mpmath.re(value) < 0:
        sign = -1 if exponent.numerator % 2 else 1
        return sign * _general_power(-mpmath.re(value), real(exponent))
    return _general_power(value, real(exponent))


def _integer_power(base: Number, exponent: int) -> Number:
    if base == 0 and exponent < 0:
        raise Undefined("a division by zero")
    if base in (0, 1) or exponent == 0:
        return Fraction(1) if exponent == 0 else base
    if base == -1:
        return Fraction(-1 if exponent % 2 else 1)
    if isinstance(base, Fraction) and bits(base) * abs(exponent) <= MOST_BITS:
        return base**exponent
    return _general_power(real(base), mpmath.mpf(exponent))


def _exact_root(base: Fraction, degree: int) -> Fraction | None:
    if degree > 64 or (base < 0 and degree % 2 == 0):
        return None
    parts = []
    for part in (abs(base.numerator), base.denominator):
        if part.bit_length() > 4000:
            return None
        root = math.isqrt(part) if degree == 2 else _integer_root(part, degree)
        if root**degree != part:
            return None
        parts.append(root)
    found = Fraction(*parts)
    return -found if base < 0 else found


def _integer_root(value: int, degree: int) -> int:
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    return low


def _general_power(base: Number, exponent: Number) -> Number:
    if bits(base) * float(abs(exponent) if abs(exponent) < 1e300 else 1e300) > MOST_EXPONENT:
        raise Beyond("a power too large to be worked out")
    return _inexact(mpmath.power(base, exponent))


def _inexact(value: Number) -> Number:
    if mpmath.isnan(value):
        raise Undefined("no number")
    if mpmath.isfinite(value) and value != 0 and bits(value) > MOST_EXPONENT:
        raise Beyond("a number too large to be worked out")
    return value


def factorial(value: Number, step: int = 1) -> Number:
    """n!, or n!! with a step of 2; of what is no natural number by the gamma function."""
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise Undefined("the factorial of a negative number")
        if step == 1 and value <= MOST_FACTORIAL:
            return Fraction(math.factorial(int(value)))
        if value > MOST_FACTORIAL and bits(value) * float(min(value, 10**15)) > MOST_EXPONENT:
            raise Beyond("a factorial too large to be worked out")
        if step == 2 and value <= MOST_FACTORIAL:
            return Fraction(math.prod(range(int(value), 0, -2)))
    if step != 1:
        raise Beyond("a double factorial too large to be worked out")
    if bits(value) > 48:
        raise Beyond("a factorial too large to be worked out")
    return _inexact(mpmath.factorial(real(value)))


def binomial(n: Number, k: Number) -> Number:
    """n over k; exact for natural numbers."""
    if all(isinstance(x, Fraction) and x.denominator == 1 for x in (n, k)) and 0 <= k <= n:
        small = min(int(k), int(n - k))
        if small * bits(n) <= MOST_BITS:
            return Fraction(math.comb(int(n), small))
    if max(bits(n), bits(k)) > 40:
        raise Beyond("a binomial too large to be worked out")
    return _inexact(mpmath.binomial(real(n), real(k)))


def arrangements(n: Number, k: Number) -> Number:
    """n! / (n - k)! for natural numbers; raises Undefined, Beyond."""
    if not all(isinstance(x, Fraction) and x.denominator == 1 for x in (n, k)) or not 0 <= k <= n:
        raise Undefined("arrangements of what are no natural numbers")
    if k > MOST_FACTORIAL or k * bits(n) > MOST_BITS:
        raise Beyond("a number of arrangements too large to be worked out")
    return Fraction(math.perm(int(n), int(k)))


def function(name: str, value: Number) -> Number:
    """A function of one number; raises Undefined, Beyond."""
    if name in _ROUNDING:
        return Fraction(_ROUNDING[name](_real_only(value)))
    if name in ("Re", "Im"):
        if isinstance(value, Fraction):
            return value if name == "Re" else Fraction(0)
        return mpmath.re(value) if name == "Re" else mpmath.im(value)
    if name == "sgn":
        value = _real_only(value)
        return Fraction((value > 0) - (value < 0))
    if bits(value) > 2000 or (name in _GROWING and abs(real(value)) > 1 << 40):
        raise Beyond(f"{name} of a number too large")
    if value == 0 and name in ("ln", "log"):
        raise Undefined("the logarithm of zero")
    if value == 0 and name in ("sin", "tan", "arcsin", "arctan", "sinh", "tanh"):
        return Fraction(0)
    if (value == 1 and name == "ln") or (value == 0 and name in ("exp", "cos", "cosh")):
        return Fraction(0 if name == "ln" else 1)
    try:
        return _inexact(_FUNCTIONS[name](real(value)))
    except ZeroDivisionError as error:
        raise Undefined(f"{name} has no value there") from error


def _real_only(value: Number) -> Number:
    if isinstance(value, Fraction):
        return value
    if mpmath.im(value) != 0 or not mpmath.isfinite(value) or bits(value) > 600:
        raise Undefined("no real number of usual size")
    return mpmath.re(value)


def _gamma(value: Any) -> Any:
    if mpmath.im(value) == 0 and value <= 0 and mpmath.isint(value):
        raise Undefined("gamma of zero or of a negative whole number")
    if not mpmath.isfinite(value) or abs(value) > MOST_FACTORIAL:
        raise Beyond("gamma of a large number")
    return mpmath.gamma(value)


def _zeta(value: Any) -> Any:
    if mpmath.im(value) != 0 or not 1 < value < 1000:
        raise Undefined("zeta of what is not above 1")
    return mpmath.zeta(value)


_ROUNDING: dict[str, Callable[[Any], int]] = {
    "floor": lambda x: math.floor(x) if isinstance(x, Fraction) else int(mpmath.floor(x)),
    "ceil": lambda x: math.ceil(x) if isinstance(x, Fraction) else int(mpmath.ceil(x)),
}
_GROWING = ("exp", "sinh", "cosh")
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "cot": mpmath.cot,
    "sec": mpmath.sec,
    "csc": mpmath.csc,
    "arcsin": mpmath.asin,
    "arccos": mpmath.acos,
    "arctan": mpmath.atan,
    "arccot": mpmath.acot,
    "arcsec": mpmath.asec,
    "arccsc": mpmath.acsc,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "tanh": mpmath.tanh,
    "coth": mpmath.coth,
    "ln": mpmath.log,
    "exp": mpmath.exp,
    "zeta": _zeta,
    "gamma": _gamma,
    "cis": mpmath.expj,
}
