"""The phrase that names the answer where a completion has no box, up to the end of its sentence."""

from __future__ import annotations

import re

from opdlab_evaluators.answers.closings import last_line, last_sentence, listed, without_farewell
from opdlab_evaluators.answers.doubts import (
    ANNOUNCING,
    DOUBTED,
    OF_ANSWER,
    OPENING,
    REMARK,
    is_supposed,
    is_taken_back,
)
from opdlab_evaluators.answers.sentences import SAYING
from opdlab_evaluators.answers.statements import CLOSE, OPEN, stated
from opdlab_evaluators.answers.tokens import DENYING

LONGEST = 1000
"""Characters of a phrase that are read."""
FAREWELL = 4000
"""Characters at the end of a completion that are looked at for its last statement."""
_ANSWER = re.compile(r"\banswers?\b|\b(?:correct|right) (?:option|choice)\b", re.IGNORECASE)
_LINK = re.compile(
    r"(?P<mark>[*_`]{0,4})(?P<of>\s{1,3}(?:to|of|for)\s[^.\n:=]{1,80}?)?[*_`]{0,4}\s{0,3}[*_`]{0,4}"
    r"(?:\b(?:is|are|was|equals|would be|should be|must be|will be|comes to|becomes|comes out to)\b"
    r"(?:\s{1,3}(?:therefore|thus|hence|then|so|simply|just|equal to|given by))?\s{0,3}[:=]?|[:：]|=>?)",
    re.IGNORECASE,
)
# The answer in other languages, of which a bare value is read.
_FOREIGN = re.compile(
    r"(?:答案|答え|正解|정답|답|答|ответ|antwort|lösung|respuesta|réponse|risposta|resposta)"
    r"(?:\s(?:final|finale|correcta|correta|lautet))?[*_]{0,3}\s?"
    r"(?:[:：=]|是|为|為|は|은|는|ist|lautet|es|est|è|é)\s?[:：]?[*_\s]{0,5}"
    r"(?P<value>\$[^$\n]{1,200}\$|\\\([^\n]{1,200}?\\\)|[-−]?[€$¥]?\d[\d.,]{0,30}\d(?:/\d{1,9})?%?|\d%?)"
    r"(?=[*_]{0,3}\s?(?:です|입니다|이다)?[.。!！]?[*_]{0,3}\s*(?:\n|$))",
    re.IGNORECASE,
)
_HEADING = re.compile(r"(?P<mark>[*_]{0,4})\s{0,3}[:.]?[*_]{0,4}[ \t]{0,5}\n")
_HASHES = re.compile(r"^[ \t]{0,3}####[ \t]{0,5}(?P<line>[^\n]{1,300})$", re.MULTILINE)
# A numbered heading, or one of a step, is no answer.
_VALUE_LINE = re.compile(
    r"[*_]{0,3}(?:\\?\$|\\\(|\\boxed|[-+−])?\s?(?:\\?\$)?\s?(?:\.?\d[\d.,]*(?!\s?[.):]\s)|\\[a-zA-Z]|[A-Z]$|\(?[A-Z]\)$)"
)
_STEP = re.compile(
    r"(?:\\\((?P<round>(?:(?!\\\)).){1,800})\\\)|\\\[(?P<square>(?:(?!\\\]).){1,800})\\\]"
    r"|\$\$(?P<double>[^$]{1,800})\$\$|(?<!\\)\$(?P<dollar>[^$\n]{1,400}?)(?<!\\)\$(?!\d))",
    re.DOTALL,
)
_BREAK = re.compile(r"\n|[.。](?=[*_`)]{0,4}(?:\s|$))")
_ABBREVIATED = re.compile(r"(?<![A-Za-z])(?:i\.e|e\.g|Rs|Mr|Mrs|Ms|Dr|vs|approx|St)$")
# No formula begins, and no sentence ends, in such a run.
_PLAIN = re.compile(r"[^\\$\n.。~]+")
# What follows explains the answer and is no part of it.
_REASONS = re.compile(
    r"(?:\s?\((?:which|since|because)"
    r"|[,;]?\s(?:because|since|as (?:the|we|it|there|shown|required|each)\b|where|so (?:that|we are)"
    r"|which(?! (?:is|are|was|were|does|do|can) ?(?:not|n't|impossible|wrong|incorrect|false))"
    r"(?! (?:contradicts|violates|fails))(?! (?!is|are|was|were)[a-z]+ [^.]*\d ?= ?\d)"
    r"(?! (?:gives|means|makes|leaves|equals|yields|rounds)\b[^.]*[\d\\])|given that|according to|based on"
    r"|by (?:the|symmetry|induction)\b|from (?:the|above|step)\b(?!.* and .*\d)))\b.*$",
    re.IGNORECASE | re.DOTALL,
)
_VALUED = re.compile(r"[\d\\]")
_CHECKED = re.compile(
    r"\s\((?!(?:base|only (?:when|if|for|where)|mod|modulo|approximately|about|roughly|not|maybe|possibly"
    r"|perhaps|unless|when|per|each|times|plus|minus|less|without|excluding|rounded)\b)(?:[a-z]{3,20}\s|[a-z]{3,20},)[^()]{0,200}\)\s*$",
    re.IGNORECASE,
)
# Directly behind a number, a letter or a bracket it is no exclamation.
_FACTORIAL = re.compile(r"(?:\d|\)|(?<![A-Za-z])[A-Za-z])!$")
_SIGNED = re.compile(r"(?:(?:A|Ans|Result|Solution)\s?[:=]|Ans\.)\s{0,5}(?=\S)")
# A choice with its text: `C: 12`.
_CHOSEN = re.compile(r"[A-H]: ")
_OPTIONS = re.compile(r"^\s{0,5}\(?B[).:]", re.MULTILINE)
_ALONE = re.compile(
    r"(?P<bold>\*\*|__)(?P<inside>[^*\n]{1,300})(?P=bold)\.?|[-+]?\\?\$?\d[\d,.]*%?"
)
_STATES = re.compile(
    rf"\b(?:{'|'.join(sorted(SAYING))})\b|=|≈|\\approx|[≤≥<>∈]|\\(?:le|ge|leq|geq|in)(?![a-zA-Z])"
)
# A verb that is an answer by itself.
_VERB_ALONE = re.compile(r"^(?:\w+,? ){0,2}[Tt]he \w+ (?:does not exist|diverges|converges)\W*$")
_LABELLED = re.compile(r"[A-Z][A-Za-z ]{2,60}[*_]{0,2}:(?=[*_]{0,2}\s)")
# A sentence in which a value stands, and which may say what it is by any verb.
_HOLDING = re.compile(r"(?:[A-Za-z(]|\d+\s[a-z])(?=[^\n]*(?:\d|\\[a-zA-Z]|\$))")
# A formula without a word of prose, or the letter of a choice.
_BARE = re.compile(
    r"(?=.*[\d\\])(?:\\(?:text|mathrm|textbf|mathbf)\{[^{}]{0,20}\}|\\[a-zA-Z]+|\b[a-zA-Z]\b|[^a-zA-Z\n])+"
    r"|[*_]{0,2}\(?[A-H][).]?[*_]{0,2}"
)
_TASK = re.compile(
    r"(?:please |now )?(?:find|compute|evaluate|simplify|calculate|determine|express|expand|factor|solve"
    r"|rewrite|what (?:is|are)(?! left| remaining)"
    r"|give|write|prove|show|state|list|convert|reduce|rationalize|round|estimate"
    r"|approximate|prove|let)\b",
    re.IGNORECASE,
)
_REACHED = re.compile(
    r"\b(?:to (?:get|obtain|reach|give|yield|find)|gives|yields|we (?:get|obtain|have))\b"
)
_ANNOUNCED = re.compile(r"(?:to (?:find|get|answer)|now,? we can|we can now)\b", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z]{3,}.*[\s:]\S")
_BRACED = re.compile(r"\{[^{}]*\}")
_DONE = " \t\r\n✓✔✅☑∎■□🎉👍\ufe0f"
_THEREFORE = re.compile(
    r"^(?:\s|[∴⇒→⟹➡👉✅✔️]|\\(?:therefore|Rightarrow|implies|Longrightarrow|to)(?![a-zA-Z]))+"
)
_QUOTE = re.compile(r"^>\s?(?=\S)")
_LAST = 40
"""Mentions of an answer that are looked at, from the end."""


def answer_phrase(text: str) -> str | None:
    """The last phrase that is said to be the answer; None where nothing is."""
    if not text.isascii():
        foreign = list(_FOREIGN.finditer(text, max(0, len(text) - LONGEST)))
        if foreign:
            return _trimmed(foreign[-1]["value"])
    hashes = [m for m in _HASHES.finditer(text) if _VALUE_LINE.match(m["line"])]
    line = hashes[-1] if hashes else None
    found = _named(text, line.start() if line else -1)
    if line is not None and (found is None or not _VALUE_LINE.match(found)):
        back = is_taken_back(text, line.start("line"), line["line"])
        return None if back else _trimmed(line["line"])
    return found


def last_statement(text: str) -> str | None:
    """What the last line states, where it is set alone, is an equation or says what something is."""
    text = without_farewell(text[-FAREWELL:].rstrip()).rstrip(_DONE)
    before, line = last_line(text)
    line = _THEREFORE.sub("", line)
    line = _QUOTE.sub("", line)
    if not line or len(line) >= LONGEST or line.endswith(","):
        return None
    alone, signed = _ALONE.fullmatch(line), _SIGNED.match(line)
    if alone and not _WORDS.search(alone["inside"] or ""):
        return _trimmed((alone["inside"] or line).rstrip("."))
    if alone:
        line = alone["inside"].strip()
    if signed:
        return None if _OPTIONS.search(text) else _phrase(line, signed.end())
    formula = _STEP.fullmatch(line.rstrip("."))
    listed = "boxed" in line or bool(_OPTIONS.search(text)) or _is_task(before, line)
    if formula is None and _BARE.fullmatch(line) and not listed:
        return _phrase(line, 0)
    if formula:
        inside = next(value for value in formula.groups() if value is not None)
        return None if _is_task(before, line) else _trimmed(inside)
    return _last_sentence(line, text)


def _last_sentence(line: str, text: str) -> str | None:
    """What the last sentence of a line states."""
    sentence = last_sentence(line)
    if is_supposed(sentence) or _is_asked(sentence):
        return None
    announced, _, rest = sentence.partition(": ")
    if rest and _ANNOUNCED.match(announced):
        # `To find the total we add: 31 + 19 = 50 shells.`
        sentence = rest
    value = None
    if not ANNOUNCING.match(sentence) and not _OPTIONS.search(text):
        value = stated(_marked(sentence, 0))
    return value or (_phrase(sentence, 0) if _is_statement(sentence, text) else None)


def _is_statement(sentence: str, text: str) -> bool:
    """Whether the last sentence of a text says what something is."""
    if sentence.endswith("?") or OPENING.match(sentence):
        return False
    if re.fullmatch(r"(?:yes|no|true|false)\W*", sentence, re.IGNORECASE):
        return True
    if _VERB_ALONE.search(sentence):
        return True
    states = _STATES.search(sentence)
    if states is None and not _OPTIONS.search(text) and not _TASK.match(sentence):
        states = _LABELLED.match(sentence)
        if states is None and _is_sure(sentence):
            states = _HOLDING.match(sentence)
    return states is not None and bool(sentence[states.end() :].strip(" .:*$"))


def _is_sure(sentence: str) -> bool:
    words = set(re.findall(r"[a-z']+", sentence.lower()))
    words -= {"approximately", "about", "roughly"}
    return not words & DENYING and not any(word.endswith("n't") for word in words)


def _is_task(before: str, formula: str) -> bool:
    """Whether a formula is what the words before it ask to work out: a question that was copied."""
    sentence = re.split(r"[.!?:]\s|\n\s*\n", before[-LONGEST:].rstrip(" \n:"))[-1]
    return _sets_task(sentence) and not _equates(formula)


def _is_asked(sentence: str) -> bool:
    """Whether a sentence asks for its formula to be worked out: a question that was copied."""
    return _sets_task(sentence) and not _equates(sentence) and _REACHED.search(sentence) is None


def _equates(text: str) -> bool:
    """Whether something equals something; the bounds of `\\sum_{j=1}^{9}` and of `\\sum_j=1^9` are none."""
    inner = None
    while inner != text:
        inner, text = text, _BRACED.sub("", text)
    return "=" in re.sub(r"_\s*\w\s*=", "", text)


def _sets_task(sentence: str) -> bool:
    return _TASK.match(sentence.lstrip(" \n*_#>")) is not None


def _named(text: str, after: int) -> str | None:
    """The phrase behind the last mention of an answer that names one, if that stands behind a place."""
    mentions = [m.end() for m in _ANSWER.finditer(text, max(after, 0))]
    for place in reversed(mentions[-_LAST:]):
        link = _LINK.match(text, place) or _HEADING.match(text, place)
        if link is None:
            continue
        if link.re is _HEADING and not _is_heading(text, place, link["mark"]):
            continue
        start = listed(text, link.end())
        phrase = None if start is None else _phrase(text, start)
        before = text[max(0, place - 80) : place]
        if phrase and not REMARK.match(phrase) and not OF_ANSWER.search(before):
            if DOUBTED.search(before):
                continue
            if is_taken_back(text, place, phrase):
                return None
            value = stated(_marked(text, start or 0), named=True)
            if _CHOSEN.match(phrase) and value:
                # The letter or the value is the answer: the comparison knows which is asked for.
                return f"{phrase[:3]}{value}"
            return value or phrase
    return None


def _is_heading(text: str, place: int, mark: str) -> bool:
    """Whether the line that ends with the mention is a heading or bold, and no sentence."""
    line = text[max(text.rfind("\n", max(0, place - 80), place) + 1, place - 80) : place].strip()
    return line.startswith("#") or bool(mark) or len(line.split()) <= 3


def _phrase(text: str, start: int) -> str | None:
    """From a place to the end of the sentence; formulas are whole, whatever they contain."""
    said = _marked(text, start).replace(f"**{OPEN}", "**").replace(f"{CLOSE}**", "**")
    said = said.replace(OPEN, " ").replace(CLOSE, " ").rstrip(" *")
    while said.endswith("!") and not _FACTORIAL.search(said):
        said = said[:-1].rstrip(" *")
    return _trimmed(said)


def _marked(text: str, start: int) -> str:
    """From a place to the end of the sentence, with OPEN and CLOSE around formulas."""
    window = text[start : start + LONGEST].replace(OPEN, " ").replace(CLOSE, " ")
    lead = re.match(
        r"(?:[\s*_`:=}]|(?<=[=\-\n])>|-{1,3}(?=>)|-{3,}(?=\n)|(?:…|\.{3})(?=\s*\n)){0,40}", window
    )
    place = lead.end() if lead else 0
    # Behind an emphasis that was opened for the answer its end is cut off again by `tidy`.
    pieces: list[str] = []
    while place < len(window):
        plain = _PLAIN.match(window, place)
        if plain:
            pieces += plain[0]
            place = plain.end()
            continue
        formula = _STEP.match(window, place)
        if formula:
            inside = next(value for value in formula.groups() if value is not None)
            if formula.group("dollar") is None or not _is_money(window, place):
                pieces.append(f"{OPEN}{inside}{CLOSE}")
                place = formula.end()
                if formula["square"] is not None or formula["double"] is not None:
                    rest = window[place : place + 40].lstrip(" \t*.,")
                    if not rest or rest[0] == "\n":
                        break
                continue
        stop = _BREAK.match(window, place)
        if stop and not (stop[0] != "\n" and _goes_on(window, place)):
            break
        about = window[place] == "~" and window[place + 1 : place + 2].isdigit()
        pieces.append(" about " if about else window[place])
        place += 1
    return "".join(pieces)


def _goes_on(window: str, place: int) -> bool:
    """Whether a dot ends no sentence: a small letter follows, or it ends an abbreviation."""
    small = re.match(r"[.。]\s[a-z]", window[place : place + 3])
    return bool(small or _ABBREVIATED.search(window[max(place - 8, 0) : place]))


def _is_money(window: str, place: int) -> bool:
    """Whether `$18 and $20` names two sums and no formula."""
    return bool(re.match(r"\$\d[\d,.]*\s(?!\s?[+*/=<>^\\-])[^$\n]{0,300}\$\d", window[place:]))


def _trimmed(phrase: str) -> str | None:
    stated = _REASONS.sub("", phrase)
    # `So, by the end of the week, he has run 28 miles` begins with what tells more.
    phrase = stated if _VALUED.search(stated) or not _VALUED.search(phrase) else phrase
    phrase = _CHECKED.sub("", phrase)
    phrase = phrase.strip().rstrip(_DONE).strip("*_`").rstrip(" .").strip()
    if phrase.endswith(")") and phrase.count(")") > phrase.count("(") + phrase.count("["):
        # `(Answer: 44)`
        phrase = phrase[:-1].strip()
    return phrase or None
