"""Sentences in which an answer is doubted, spoken of, taken back or only announced."""

from __future__ import annotations

import re
from fractions import Fraction

from opdlab_evaluators.answers.words import NUMBER_WORDS

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
    r"(?:^|[.!?\n])[\s*_()]{0,6}(?:(?:but|so|well|ah|oh|ok|okay|no|and|hmm+),? )?"
    r"(?:wait|hmm+|oops|no(?=[,:])|actually|sorry|correction|hold on|scratch that|on second thought|I meant"
    r"|my (?:mistake|bad)|apologies|let me correct"
    r"|I made an? (?:[a-z]+ )?(?:mistake|error)"
    r"|(?P<bare>(?:that|this|it)(?:'s| is| was) (?:wrong|incorrect|not (?:right|correct))))\b[^\n]{0,200}",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:(?:that|this|it|answer)(?:'s| is| was) (?:wrong|incorrect|not (?:right|correct))"
    r"|(?:cannot|can't|isn't|is not) (?:be )?(?:right|correct))"
    r"(?! (?:if|when|unless|to)\b)|\b(?:scratch that|correction:|wait,? no[.!])"
    r"|\bI made an? (?:[a-z]+ )?(?:mistake|error)[.!]",
    re.IGNORECASE,
)
_BEFORE = 400
"""Characters in front of a denial in which it may speak of another value."""
_SENTENCE_END = re.compile(r"[.!?][\s*)$]|\n")
# What an equation starts from, and what a value is not, is no value of its own.
_WORKING = re.compile(r"(?:[\d.,\s$%(){}^+*/×÷·−-]|\\[a-zA-Z]+|[a-zA-Z]+(?= ?[-+*/×÷·=)^]))+[=≈]")
_NOT = re.compile(
    r"(?:\b[Nn]ot|\b[Ii]nstead of|\b[Rr]ather than|n't be)(?: just| only| option)? "
    r"[*(\\$]{0,4}[-−]?(?:\\?\$?[\d.,/]*\d|\\?[dt]?frac\{\d+\}\{\d+\}|[A-H]\b)"
)
_MINUS = r"(?:[-−]|(?:(?<=[)}\d] )|(?<=[\W\d][a-z] ))[-−] )"
_COUNTS = "|".join(word for word in NUMBER_WORDS if word != "one")
_VALUE = re.compile(
    rf"(?P<minus>{_MINUS})?\\[dt]?frac\{{?(?P<over>\d+)\}}?\{{?(?P<under>\d+)\}}?"
    rf"|(?P<number>(?:{_MINUS}\\?\$?)?(?:\d+(?:\{{?,\}}?\d{{3}})*(?:\.\d+)?|(?<!\d)\.\d+)(?:/\d+)?)"
    rf"|\b(?P<count>(?i:{_COUNTS})(?:[- ](?i:{_COUNTS}|one))?)\b"
    r"|(?<!other )(?<!this )(?<!that )(?<!right )(?<!only )\b(?P<one>one)(?=[.!]|$)"
    r"|\b(?P<scale>hundred|thousand|million|dozen)\b"
    r"|(?:(?<=\d)|(?<=\d ))(?P<half>[AaPp])\.?[Mm]\b"
    r"|(?P<command>[-−]?\\[a-zA-Z]{2,})"
    r"|(?:\(|[Oo]ption |[Cc]hoice )(?P<option>[A-H])\b|\b(?P<letter>[B-HJ-Z]|A(?! [a-z]))\b(?!')"
)
# They set a formula and are no part of its value.
_SETTING = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|left|right|quad|boxed|times|cdot|therefore|circ"
    r"|degree|approx|ldots|dots|implies|Rightarrow|checkmark|qquad|div)(?![a-zA-Z])"
)
_NAME = re.compile(
    r"(?:^|(?<=[a-z,:;] ))[*\"]{0,2}(?!(?:Let|The|That|This|It|So|We|There|All|If|In|As|To|Wait|Hmm"
    r"|Actually|Oops|Sorry)\b)([A-Z][a-z]+|true|false)\b"
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
# What somebody thinks, wants or hopes, up to an amount; a comma may part the two.
_THOUGHT = re.compile(
    r"\b(?<!who )(?<!that )(?:thinks|claims|claimed|hopes|hoped|wishes|wished|believes|believed|pretends"
    r"|pretended|denies|denied|refuses|refused|fails|failed|forgets|forgot)"
    r" (?:that|to|having|he|she|they|it|there|we)\b"
    r"(?=(?:(?! and [a-z]| but |, (?:so|yet|but|which|therefore|thus|hence|then|[a-z]+ing)\b)[^;]){0,200}?"
    rf"(?:[\d\\]|\b(?:{_COUNTS}|hundred|thousand|million|dozen)\b))"
)
# An amount that is wished for, and nothing behind that tells what is so.
_WISHED = re.compile(
    r"\b(?<!who )(?<!that )(?:wants?|wanted|would like|plans?|planned|intends?|intended|decides?|decided"
    r"|(?:is|are|was|were) supposed|needs? to (?:find|know)|(?:is|are) trying|tries|tried) (?:to|how)\b"
    r"(?![^;]*(?:,|\b(?:so|total|for which|and [a-z]+s)\b))[^;]*\d"
)
# A clause in front, which the sentence itself goes beyond: `Although he hoped to win, he lost 12 games`.
_IN_FRONT = re.compile(
    r"\W*(?:although|though|even though|while|whereas|since|because|as|when|after|before)\b[^,]*,",
    re.IGNORECASE,
)
# What somebody once had, or a part of an answer.
_SUPPOSED = re.compile(
    r"\bused to (?:be|have|cost|weigh)\b|\bsupposed to (?:be|have|cost|weigh|take|get)\b"
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


def is_supposed(sentence: str) -> bool:
    """Whether a sentence tells what somebody thinks, wants or once had, or a part of an answer."""
    main = _IN_FRONT.sub("", sentence, count=1)
    return bool(_SUPPOSED.search(sentence) or _THOUGHT.search(main) or _WISHED.search(main))


def is_taken_back(text: str, place: int, phrase: str) -> bool:
    """Whether a sentence behind the phrase that begins at a place denies it, or holds another value."""
    phrase = _RETHOUGHT.sub("", phrase)
    names = not any(character.isdigit() for character in phrase)
    said = _values(phrase, names)
    for rethought in _RETHOUGHT.finditer(text, place):
        if rethought["bare"] and _speaks_of_another(text[place : rethought.start() + 1], said):
            continue
        denied = [match[0] for match in _NOT.finditer(rethought[0])]
        if _DENIED.search(rethought[0]) or any(_was_said(each, said) for each in denied):
            return True
        given = _values(rethought[0].lstrip(".!?\n *_()"), names)
        if given and not _agree(said, given):
            return True
    return False


def _was_said(denied: str, said: list[Fraction | str]) -> bool:
    """Whether what is denied, `not 12`, was said."""
    return not set(said).isdisjoint(_values(denied.split(" ")[-1], False))


def _speaks_of_another(between: str, said: list[Fraction | str]) -> bool:
    """Whether a sentence behind the one with the answer names another value."""
    end = _SENTENCE_END.search(between, len(between) - len(between.lstrip(" \n:*")))
    given = _values(between[end.end() :][-_BEFORE:], False) if end else []
    return any(value not in said for value in given)


def _values(text: str, names: bool) -> list[Fraction | str]:
    """The numbers, letters of choices, commands and, where asked for, names of a text."""
    text = _SETTING.sub(" ", _WORKING.sub(" ", _NOT.sub(" ", text)))
    found: list[Fraction | str] = [*_NAME.findall(text)] if names else []
    for match in _VALUE.finditer(text):
        number = re.sub(r"[,{}$\\\s]", "", match["number"] or "").replace("−", "-")
        if match["over"]:
            number = f"{'-' if match['minus'] else ''}{match['over']}/{match['under']}"
        if number:
            top, _, bottom = number.partition("/")
            found.append(Fraction(top) / int(bottom or 1) if int(bottom or 1) else number)
        elif match["count"]:
            parts = re.split("[- ]", match["count"].lower())
            found.append(Fraction(sum(NUMBER_WORDS[part] for part in parts)))
        elif match["half"]:
            found.append(match["half"].lower() + "m")
        else:
            letter = match["option"] or match["letter"] or match["scale"] or match["command"]
            found.append(letter or Fraction(1))
    return found


def _agree(said: list[Fraction | str], given: list[Fraction | str]) -> bool:
    """Whether values are those that were said; of a choice and its text one is enough."""
    if len(said) == len(given) > 1:
        # `(2, 1)` is another pair than `(1, 2)`.
        return said == given
    if not set(given) <= set(said):
        return False
    return any(str(value).isupper() for value in said) or set(said) <= set(given)
