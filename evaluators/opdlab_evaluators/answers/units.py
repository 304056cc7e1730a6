"""Units that may follow a number: those with a size, and things that are counted.

A word that is not listed is never a unit. `5 trillion`, `5 squared` and `cannot be 5` are not 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

COUNTED_FILE = Path(__file__).with_name("counted.txt")


@dataclass(frozen=True)
class Unit:
    """A product of powers of units.

    Attributes:
        dimension: (kind, exponent) pairs, sorted; empty for what is counted.
        scale: its size in the kind's first unit.
    """

    dimension: tuple[tuple[str, int], ...] = ()
    scale: Fraction = Fraction(1)

    def times(self, other: Unit, power: int = 1) -> Unit:
        """The product with a power of another unit."""
        found = dict(self.dimension)
        for kind, exponent in other.dimension:
            found[kind] = found.get(kind, 0) + exponent * power
        kept = tuple(sorted((kind, n) for kind, n in found.items() if n))
        return Unit(kept, self.scale * other.scale**power)


_SIZED = """
length 1: m meter meters metre metres
length 1/100: cm centimeter centimeters centimetre centimetres
length 1/1000: mm millimeter millimeters millimetre millimetres
length 1000: km kilometer kilometers kilometre kilometres kms
length 254/10000: in inch inches
length 3048/10000: ft foot feet
length 9144/10000: yd yard yards yds
length 1609344/1000: mi mile miles
mass 1: g gram grams
mass 1000: kg kilogram kilograms kgs kilo kilos
mass 1/1000: mg milligram milligrams
mass 45359237/100000: lb lbs pound pounds
mass 28349523125/1000000000: oz ounce ounces
mass 1000000: tonne tonnes ton tons
time 1: s sec secs second seconds
time 60: min mins minute minutes
time 3600: h hr hrs hour hours
time 86400: day days
time 604800: week weeks weekly
time 2629800: month months monthly
time 31557600: yr yrs year years yearly
volume 1: L l liter liters litre litres
volume 1/1000: ml mL milliliter milliliters millilitre millilitres
volume 3785411784/1000000000: gal gallon gallons
volume 946352946/1000000000: qt quart quarts
volume 473176473/1000000000: pt pint pints
volume 2365882365/10000000000: cup cups
volume 15/1000: tablespoon tablespoons tbsp
volume 5/1000: teaspoon teaspoons tsp
money 1: dollar dollars usd USD bucks
money 1/100: cent cents penny pennies
euro 1: euro euros
peso 1: peso pesos
rupee 1: rupee rupees Rs INR
yen 1: yen
sterling 1: GBP
angle 1: degree degrees deg
radian 1: rad radian radians
area 4046856422/1000000: acre acres
area 10000: hectare hectares ha
power 1: W watt watts
power 1000: kW kilowatt kilowatts
energy 1: J joule joules
energy 4184/1000: calorie calories cal
energy 4184: kcal
energy 3600000: kWh
force 1: N newton newtons
voltage 1: V volt volts
current 1: A amp amps ampere amperes
frequency 1: Hz hertz
temperature 1: C celsius Celsius K kelvin
fahrenheit 1: F fahrenheit Fahrenheit
length 1/1000000: micrometer micrometers micron microns
length 1/1000000000: nm nanometer nanometers
length 1/10000000000: angstrom angstroms
length 149597870700: AU au
length 9460730472580800: ly lightyear lightyears
length 30856775814913673: pc parsec parsecs
length 30856775814913673000: kpc
length 30856775814913673000000: Mpc
time 1/1000: ms millisecond milliseconds
time 1/1000000000: ns nanosecond nanoseconds
energy 1000: kJ kilojoule kilojoules
energy 1602176634/10000000000000000000000000000: eV
energy 1602176634/10000000000000000000000000: keV
energy 1602176634/10000000000000000000000: MeV
energy 1602176634/10000000000000000000: GeV
energy 1/10000000: erg ergs
power 1000000: MW megawatt megawatts
power 1/1000: mW milliwatt milliwatts
force 1000: kN
pressure 1: Pa pascal pascals
pressure 1000: kPa
pressure 1000000: MPa
pressure 100000: bar bars
pressure 101325: atm atmospheres
frequency 1000: kHz
frequency 1000000: MHz
frequency 1000000000: GHz
charge 1: coulomb coulombs
field 1: tesla
resistance 1: ohm ohms
amount 1: mol mole moles
information 1: bit bits
information 8: byte bytes
count 1: unit units
"""
_BY_HOUR = {"mph": "mi", "kph": "km", "kmh": "km", "kmph": "km"}
_PARTS_OF_DAY = {"am": "morning", "AM": "morning", "pm": "afternoon", "PM": "afternoon"}
# Single letters are units only where they stand upright behind a number.
LETTERS = frozenset("mgshLlWJNVCFKA")
PREFIX = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
# Words that may follow a unit and change nothing.
TAILS = (
    ("in", "total"),
    ("in", "all"),
    ("altogether",),
    ("now",),
    ("daily",),
    ("together",),
    ("this", "week"),
    ("this", "month"),
    ("this", "year"),
    ("total",),
    ("each",),
    ("old",),
    ("long",),
    ("tall",),
    ("left",),
    ("remaining",),
    ("away",),
    ("of", "age"),
    ("more",),
    ("times",),
    ("wide",),
    ("high",),
    ("deep",),
    ("apart",),
    ("per", "person"),
    ("profit",),
    ("increase",),
    ("interest",),
    ("tip",),
    ("tax",),
    ("discount",),
)
ADJECTIVES = frozenset(
    (
        *(
            "more",
            "fewer",
            "additional",
            "extra",
            "other",
            "different",
            "distinct",
            "total",
            "whole",
        ),
        *("full", "possible", "complete", "new", "old", "red", "blue", "green", "white", "black"),
        *("yellow", "brown", "orange", "pink", "purple", "large", "small", "big", "short", "long"),
        *("adult", "young", "ordered", "positive", "unique", "such", "real", "complex", "rational"),
        *(
            "prime",
            "odd",
            "even",
            "integer",
            "valid",
            "nonnegative",
            "negative",
            "nonzero",
            "nonempty",
            "empty",
            "working",
            "equal",
            "favorable",
            "proper",
            "available",
            "remaining",
            "individual",
            "single",
            "real-valued",
        ),
    )
)
"""Words before something counted that do not change how many there are."""
PER = ("per", "a", "an", "each", "every", "/")


@cache
def units() -> dict[str, Unit]:
    """Every unit by its name."""
    found = {}
    for line in _SIZED.strip().splitlines():
        head, _, names = line.partition(": ")
        kind, size = head.split()
        found |= {name: Unit(((kind, 1),), Fraction(size)) for name in names.split()}
    hour = found["hour"]
    found |= {name: found[of].times(hour, -1) for name, of in _BY_HOUR.items()}
    found |= {name: Unit(((part, 1),)) for name, part in _PARTS_OF_DAY.items()}
    for word in COUNTED_FILE.read_text(encoding="ascii").split():
        found.setdefault(word, Unit())
    # Volumes and areas are lengths to a power.
    litre = Unit((("length", 3),), Fraction(1, 1000))
    for name, unit in found.items():
        if unit.dimension == (("volume", 1),):
            found[name] = Unit((("length", 3),), unit.scale * litre.scale)
        elif unit.dimension == (("area", 1),):
            found[name] = Unit((("length", 2),), unit.scale)
        elif unit.dimension in ((("count", 1),),):
            found[name] = Unit()
    return found


def unit(word: str) -> Unit | None:
    """The unit of a name; None for a word that is none."""
    return units().get(word) or (units().get(word.lower()) if len(word) > 2 else None)
