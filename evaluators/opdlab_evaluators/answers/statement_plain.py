"""A sentence without turns of speech that only look as if they changed its value."""

from __future__ import annotations

import re

# An ability is no doubt: `the machine could make 14 shirts`; `it could be 14` is one.
_ABLE = re.compile(
    r"(?<!\bit)(?<!\bthis)(?<!\bthat)(?<!answer)(?<!result)(?<!value)(?<!number)(?<!solution) could"
    r"(?= (?!(?:be|have|equal|also|still|possibly|either|not|take|reach|range|vary|mean|turn|come|work"
    r"|get|as|only|say|argue|he|she|we|you|they|I)\b)[a-z])"
)
# A part of a game or a year, and no half of a value.
_PART_OF_TIME = re.compile(r"\b(in|during|of) the (first|second|other) half\b")
_NO = r"(?:do|does|did|has|have|had|are|were|can|could|will|would)(?:n't| not)"
_NEGATED = rf"{_NO} [a-z' ]{{1,60}}(?=[.!]?\s*$)"
# `5 friends who do not get one`
_WHO_DOES_NOT = re.compile(rf"(?<=[a-z]) (?:who|that) {_NEGATED}")
# `57 balls he did not hit`
_HE_DOES_NOT = re.compile(
    r"^(?!.*\b(?:because|since|if|when|as|although|while|but|so)\b)(.*\d .*[a-z]) (?:he|she|they|we) "
    rf"{_NEGATED}"
)
_ANSWERS = re.compile(r"\b(answer|result|total|sum|value|solution|difference|product)'s (?=[-$\d])")
_TO_WAIT = re.compile(r"(?<=[a-z] )wait(?= )")
_MAKES_FOR = re.compile(r"\bmakes for(?= (?:a total of )?\d)")


def plainer(sentence: str) -> str:
    """The sentence in plainer words, with the same value and nothing new that is denied."""
    sentence = _MAKES_FOR.sub("makes", _ANSWERS.sub(r"\1 is ", _ABLE.sub("", sentence)))
    sentence = _TO_WAIT.sub("stay", _PART_OF_TIME.sub(r"\1 the \2 part", sentence))
    return _HE_DOES_NOT.sub(r"\1", _WHO_DOES_NOT.sub("", sentence))
