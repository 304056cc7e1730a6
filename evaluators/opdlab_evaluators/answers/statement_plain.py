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
# How often, and no factor: `she tapped 2450 times`, `5 times a week`.
_HOW_OFTEN = re.compile(
    r"(?<=\d) times(?=[.!]?\s*$|,| (?:in|during|per|altogether|in total|total|to [a-z]+)\b"
    r"| (?:a|each|every) (?:day|week|month|year|hour|minute|night|morning)\b)"
)
# `If each costs $4 then it will cost $16`
_IF_THEN = re.compile(r"(?<=[a-z0-9]) then(?= )")
# `We see that`, `If we add these up,`: whoever says so says it.
_WE_SEE = re.compile(
    r"^(\W*(?:(?:so|thus|hence|therefore|now|finally|from this),? )?)(?:we|i|you) "
    r"(?:can |now |also |then )?"
    r"(?:see|find|know|conclude|have|get|find out|deduce|say|determine) that (?=\S)",
    re.IGNORECASE,
)
_IF_WE_ADD = re.compile(
    r"^(\W*(?:so,? )?)(?:(?:if|when|once) (?:we|you|i) "
    r"(?:add|sum|combine|put|multiply|divide|subtract|total|count)"
    r"(?: (?:it|this|that|these|those|them|all|both|together|up|the"
    r"|of|everything|numbers|amounts|values|totals|costs|prices|results|parts)){0,6}"
    r"|(?:instead of|rather than|compared (?:to|with)) (?!that\b|this\b)[^,]{1,40}), "
    r"(?=(?:we|you|i|it|he|she|they|each|every|there|the|this|that|[A-Z][a-z]+)\b)",
    re.IGNORECASE,
)
_GIVE_HER = re.compile(
    r"\b(give|gives|gave|pay|pays|paid|owe|owes|owed|lend|lent|charge|charges|charged|hand|hands|handed"
    r"|save|saves|saved|earn|earns|earned) her (?=\$?\d)"
)
_TITLE = re.compile(r"\b(Mr|Mrs|Ms|Dr|St|Prof)\.(?= [A-Z])")
_NOT = re.compile(r"\b(has|have|had|should|would|could|need|must|were|might)n['’]t\b")
_ABOUT = re.compile(r"(?<=[a-z]{2} )[≈≃∼]\s?(?=\$?\d)")
_TO_WAIT = re.compile(r"(?<=[a-z] )wait(?= )")
_MAKES_FOR = re.compile(r"\bmakes for(?= (?:a total of )?\d)")


def plainer(sentence: str) -> str:
    """The sentence in plainer words, with the same value and nothing new that is denied."""
    sentence = _MAKES_FOR.sub("makes", _ANSWERS.sub(r"\1 is ", _ABLE.sub("", sentence)))
    sentence = _TITLE.sub(r"\1", _GIVE_HER.sub(r"\1 him ", sentence))
    sentence = _IF_WE_ADD.sub(r"\1", _WE_SEE.sub(r"\1", sentence))
    sentence = _HOW_OFTEN.sub(" occasions", sentence)
    if sentence.lstrip().lower().startswith(("if ", "so if ", "thus, if ", "when ")):
        sentence = _IF_THEN.sub(", then", sentence, count=1)
    sentence = _TO_WAIT.sub("stay", _PART_OF_TIME.sub(r"\1 the \2 part", sentence))
    sentence = _HE_DOES_NOT.sub(r"\1", _WHO_DOES_NOT.sub("", sentence))
    return _ABOUT.sub("about ", _NOT.sub(r"\1 not", sentence))
