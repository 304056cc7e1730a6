"""Sentences in which an answer is doubted, spoken of, taken back or only announced."""

from __future__ import annotations

import re

# The answer is spoken of and not named.
REMARK = re.compile(
    r"(?:very |also |indeed |now )?(?:helpful|clear|correct|right|wrong|incorrect|reasonable|verified"
    r"|consistent|confirmed|complete|useful|obvious|found|obtained|given|expected|in the box"
    r"|below|above|answer)\b",
    re.IGNORECASE,
)
# Another value is said of the answer: `the reciprocal of the answer is`.
OF_ANSWER = re.compile(
    r"\b(?:reciprocal|square|cube|half|double|twice|thrice|triple|negative|opposite|inverse|root|complement|negation"
    r"|digits?|multiple|factors?)(?: of)? (?:the |this |my |our )?(?:final |correct )?\w{0,7}$",
    re.IGNORECASE,
)
# Spoken of in doubt, or as a case that is tried: `suppose the answer is`, `not sure if the answer is`.
DOUBTED = re.compile(
    r"\b(?:suppose|supposing|assume|assuming|if|whether|unless|unsure|not sure|doubt|thought"
    r"|(?:might|would|could) think)\b[^.!?\n]*$"
    r"|\b(?:wrong|incorrect|false|naive|tempting|mistaken|previous|initial) (?:final )?answers?$"
    r"|\b(?:some|people|they|he|she|someone|everybody|everyone|many|students?)"
    r" (?:says?|claims?|thinks?|believes?) (?:that )?(?:the )?(?:final |correct )?answers?$",
    re.IGNORECASE,
)
# A sentence that may take back what was said, and the rest of its line.
_RETHOUGHT = re.compile(
    r"(?:^|[.!?\n])[\s*_(]{0,6}(?:(?:but|oh|no|and|hmm+),? )?(?:wait|hmm+|oops|no(?=[,:])|actually"
    r"|sorry|correction|hold on|scratch that|on second thought|I made an? (?:[a-z]+ )?(?:mistake|error)"
    r"|(?:that|this|it)(?:'s| is| was) (?:wrong|incorrect|not (?:right|correct)))\b[^\n]{0,200}",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:that|this|it|answer)(?:'s| is| was) (?:wrong|incorrect|not (?:right|correct))"
    r"(?! (?:if|when|unless|to)\b)|\b(?:scratch that|correction:|wait,? no[.!])"
    r"|\bI made an? (?:[a-z]+ )?(?:mistake|error)[.!]",
    re.IGNORECASE,
)
_VALUE = r"-?\d+(?:,\d{3})*(?:\.\d+)?"
_NUMBER = re.compile(_VALUE)
_CORRECTED = re.compile(
    r"(?:\b(?:it(?:'s| is| was)|(?:it|that|this) should (?:be|have been)|answer is)|(?:mistake|error):)"
    rf" [*\\($]{{0,4}}(?P<value>{_VALUE})(?=[*\\)$]{{0,4}}(?: [a-z]+)?(?:[.,;!)]|$))",
    re.IGNORECASE,
)
# It announces a step, or asks, or doubts; of one's need it may state how much: `we need 7 buses`.
ANNOUNCING = re.compile(
    r"\W*(?:say|imagine|plug|insert"
    r"|substitute|add|subtract|multiply|divide|let(?:'?s| us)?|next|first|step|wait"
    r"|hmm|maybe|perhaps|suppose|assume|consider|try|check|note|recall|see|hint|case|either|otherwise"
    r"|we (?:(?:still )?(?:need|want|have) to|must|can try|will)"
    r"|i (?:(?:still )?(?:need|want) to|will|think)"
    r"|to (?:find|solve|compute|check)|now,? (?:we(?! know that)|let|i)|for example|e\.g)\b",
    re.IGNORECASE,
)
# A sentence that states nothing.
OPENING = re.compile(
    ANNOUNCING.pattern + r"|\W*(?:if|we (?:need|want)|i (?:need|want))\b", re.IGNORECASE
)
# What somebody thinks, wants or once had, or a part of an answer.
SUPPOSED = re.compile(
    r"\b(?<!who )(?<!that )(?:thinks|claims|claimed|hopes|hoped|wishes|wished|believes|believed|pretends"
    r"|pretended|denies|denied|refuses|refused|fails|failed|forgets|forgot)"
    r" (?:that|to|having|he|she|they|it|there|we)\b(?=(?:(?! and [a-z]| but )[^,;]){0,200}"
    r"(?:[\d\\]|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|[a-z]+teen)\b))"
    r"|\bused to (?:be|have|cost|weigh)\b|\bsupposed to (?:be|have|weigh|take|get)\b"
    r"|\b(?:he|she|they|it) wants? (?:to have )?\$?\d|\b[A-Z][a-z]+ wants (?:to have )?\$?\d"
    r"|^\W*(?:[Nn]ot (?:counting|including)|[Ii]gnoring|[Dd]isregarding|[Nn]eglecting)\b"
    r"|\b[Ii]n the (?:first|second|third|other) case\b|\banswers? (?:has|have|had|contains?|plus|minus)\b"
    r"|\b(?:wrong|incorrect|false|naive|tempting|mistaken) answer\b"
    r"|\b(?i:some|people|they|he|she|many|students?) (?:says?|claims?|thinks?|believes?)"
    r" (?:that )?the answer\b"
    r"|\b(?:digits?|square|cube|root|reciprocal|half|double|multiple|factors?|complement|negative) of"
    r" (?:the |this |my |our )?(?:final )?answer\b|"
    r"\b(?:should|would|could|might) have been\b|\b(?:thought|(?:might|would|could) think)\b"
    r"|\b(?:up to|a (?:minimum|maximum) of) \$?\d[\d.,]*\s?[-+*/×÷−]\s?\$?\d"
    r"|\b[Ss]o far\b|\b[Ww]ith luck\b"
    r"|\b(?:doubt|unsure|not sure|unclear|uncertain)\b|\bfor every \d"
    r"|\b(?:[Ii]ts|[Tt]heir) (?:square|cube|reciprocal|inverse|double|half|opposite) (?:is|equals)\b"
    r"|\b(?:remains?|must|needs?|has|have)(?: to)? be"
    r" (?:checked|found|computed|determined|shown|added|removed)\b"
)


def is_taken_back(text: str, place: int, phrase: str) -> bool:
    """Whether a sentence behind a place denies the phrase that stands there, or gives another value."""
    said = set(_NUMBER.findall(phrase))
    for rethought in _RETHOUGHT.finditer(text, place):
        if _DENIED.search(rethought[0]):
            return True
        values = {match["value"] for match in _CORRECTED.finditer(rethought[0])}
        # Of a fraction the same value may be given in decimals.
        if values and len(said) == 1 and not values & said:
            return True
    return False
