"""The last line of a completion: the row of a table, the formula of a display, the item of a list."""

from __future__ import annotations

import re

_TAG = re.compile(r"</?(?:b|i|u|em|strong|mark|center|p|br|h[1-6])\s?/?>", re.IGNORECASE)
_TAGGED = re.compile(
    r"<(?P<tag>(?:final_?)?answer)>(?P<inside>[^<>\[\]]{1,400})</(?P=tag)>"
    r"|\[(?P<bracket>(?:final_?)?answer)\](?P<bracketed>[^<>\[\]]{1,400})\[/(?P=bracket)\]",
    re.IGNORECASE,
)
_KEYED = re.compile(
    r"\{[^{}]{0,400}\"(?:final[_ ]?)?(?:answer|result)\"\s{0,3}:\s{0,3}(?:\"(?P<text>[^\"{}\n]{1,300})\""
    r"|(?P<number>-?\d[\d.]{0,40}))\s{0,3}(?:,\s{0,3}\"[^{}]{0,400})?\}",
    re.IGNORECASE,
)
_ITEM = re.compile(r"[ \t]{0,8}(?:[-*•+–]|\d{1,2}[.)])[ \t]{1,4}(?=\S)")
_FIRST_ITEM = re.compile(r"\s{0,6}\n\s{0,6}" + _ITEM.pattern)
_TOTAL = re.compile(
    r"\W{0,6}(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:(?:final|grand|overall|net|combined|correct) )?"
    r"(?:answer|total|result|sum|solution)\b",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"\W{0,6}(?:the )?(?:final |overall )?(?:answer|result|conclusion|solution)\W{0,6}",
    re.IGNORECASE,
)
_SAYING = re.compile(
    r"\b(?:is|are|was|were|equals)\b|(?i:(?:then|so|thus|therefore|hence|finally|lastly)\b)"
)
_CELL = re.compile(r"(?<!\\)\|")
_DISPLAYED = (("$$", "$$"), ("\\[", "\\]"))
_ENVIRONMENT = re.compile(
    r"\\end\{(align\*?|aligned|gather\*?|gathered|equation\*?|split|eqnarray\*?)\}\s?$"
)
_RULE = re.compile(r"\n[ \t]{0,3}(?:-{3,}|\*{3,}|_{3,})[ \t]{0,3}$")
_OFFER = re.compile(
    r"\n[ \t*_>#]{0,6}(?:Would you like|Do you want|Let me know|Want me to|Shall I)[^\n]{0,300}$"
)
# Words of farewell, and marks of the end, behind the last statement.
_FAREWELL = re.compile(
    r"(?:^|(?<=[.!?*$)\d])[ \t]{1,9})(?:Let me know|I hope|Hope this|Hope that|Feel free|Would you like"
    r"|If you (?:have|need|want|would)|Is there anything|Do you (?:want|have|need)|Happy to|Good luck"
    r"|Q\.?E\.?D)"
)
# Short sentences that state nothing.
_DONE_WITH = re.compile(
    r"(?:That(?:'s| is) (?:it|all|the answer|our answer|my answer)|Done"
    r"|(?:This|That) (?:completes|concludes|finishes) [^.!?\d\n]{0,60}|This is it|Great"
    r"|(?:Great|Good|Nice) (?:job|work|luck)"
    r"|Thank(?:s| you)[^.!?\n]{0,60}"
    r"|Hope[^.!?\n]{0,60}|We(?:'re| are) done|All done|Easy)[.!]{0,3}"
)
_SENTENCE_END = re.compile(
    r"(?:(?<=[.!?])|(?<=[a-z0-9})]\.\$))(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)\s+(?=[A-Z])"
)
# A displayed formula in front of a sentence on the same line.
_DISPLAY_END = re.compile(
    r"(?:\\\]|\\end\{(?:align|gather|equation|eqnarray|multline)\*?\})\s?(?=[A-Z][a-z]*[ ,.!])"
)
_HOLDS = re.compile(r"[\d\\$]")
_REST = 4000


def untagged(text: str) -> str:
    """A text without tags that set it, and with what is marked as the answer in words: `Answer: 37`."""
    if "</" in text or "<br" in text or "[/" in text:
        text = _TAGGED.sub(_as_words, _TAG.sub(" ", text))
    is_object = text.rstrip("` \n").endswith("}") and '"' in text
    keyed = _KEYED.search(text, max(0, len(text) - _REST)) if is_object else None
    if keyed and not text[keyed.end() :].strip("` \n"):
        text = f"{text[: keyed.start()]}\n\nAnswer: {keyed['text'] or keyed['number']}"
    return text


def _as_words(match: re.Match[str]) -> str:
    return f"\n\nAnswer: {(match['inside'] or match['bracketed']).strip()}\n\n"


def last_line(text: str) -> tuple[str, str]:
    """What stands before the last line, and that line, as one line of prose or one formula."""
    text = _RULE.sub("", _OFFER.sub("", text.rstrip()).rstrip()).rstrip()
    for opening, closing in _DISPLAYED:
        if text.rstrip(".").endswith(closing):
            inner = text.rstrip(".")[: -len(closing)]
            start = inner.rfind(opening)
            if start >= 0 and "\n" in inner[start:]:
                return text[:start], _row(inner[start + len(opening) :])
    environment = _ENVIRONMENT.search(text)
    if environment:
        begin = f"\\begin{{{environment[1]}}}"
        start = text.rfind(begin)
        if start >= 0:
            return text[:start], _row(text[start:])
    if text.endswith("```"):
        fenced = re.search(r"\n?```[a-z]{0,10}\n([^\n`]{1,300})\n```$", text)
        if fenced:
            return text[: fenced.start()], fenced[1].strip()
    place = text.rfind("\n") + 1
    before, line = text[:place], text[place:].strip()
    if line.startswith("|") and line.endswith("|"):
        cells = [cell.strip().strip("*_` ") for cell in _CELL.split(line[1:-1])]
        labelled = len(cells) == 2 and _TOTAL.match(cells[0])
        return before, f"{cells[0].rstrip(':')}: {cells[1]}" if labelled else ""
    shown, line = _behind_display(line)
    before += shown
    item = _ITEM.match(line)
    return before, _of_item(before, line[item.end() :]) if item else line


def _behind_display(line: str) -> tuple[str, str]:
    """A line parted behind its last displayed formula, where a value may follow; whole where none does."""
    displays = list(_DISPLAY_END.finditer(line))
    if not displays:
        return "", line
    place = displays[-1].end()
    if _DONE_WITH.fullmatch(line[place:]):
        return "", line[:place].rstrip()
    return (line[:place], line[place:]) if _HOLDS.search(line[place:]) else ("", line)


def _row(block: str) -> str:
    """The last row of a displayed formula, as one formula."""
    environment = _ENVIRONMENT.search(block.strip())
    if environment:
        block = block.strip()[: environment.start()]
        _, _, block = block.partition(f"\\begin{{{environment[1]}}}")
    if environment or "\\begin" not in block:
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]{0,10}\])?", block) if row.strip()]
        block = rows[-1].replace("&", " ") if rows else ""
    inside = " ".join(block.split()).rstrip(".")
    return f"${inside}$" if inside else ""


def _of_item(before: str, said: str) -> str:
    """The last item of a list, where it names the answer or stands alone under a heading that does."""
    above = before.rstrip()
    above = above[above.rfind("\n") + 1 :]
    if _ITEM.match(above):
        bold = re.fullmatch(r"(\*\*|__)[^*_\n]+\1\.?", said.strip())
        return said if bold or _TOTAL.match(said) or _SAYING.search(said) else ""
    return f"Answer: {said}" if _HEADING.fullmatch(above) else said


def listed(text: str, place: int) -> int | None:
    """Where the only item of a list at a place begins; None of several; the place where no list is."""
    item = _FIRST_ITEM.match(text, place)
    if item is None:
        return place
    following = text[item.end() : item.end() + _REST].partition("\n")[2].lstrip("\n")
    return None if _ITEM.match(following) else item.end()


def without_farewell(text: str) -> str:
    """Without the words of farewell behind the last statement."""
    start = text.rfind("\n") + 1
    line = text[start:].lstrip()
    farewell = _FAREWELL.search(line)
    return text if farewell is None else f"{text[:start]}{line[: farewell.start()]}"


def last_sentence(line: str) -> str:
    """The last sentence of a line that is more than `That's it!`."""
    sentences = _SENTENCE_END.split(line)
    if len(sentences) > 1 and _DONE_WITH.fullmatch(sentences[-1]):
        sentences.pop()
    if len(sentences) > 1 and sentences[-2].endswith(".$") and not _HOLDS.search(sentences[-1]):
        # What follows such a formula is read with it, unless it states something itself.
        return " ".join(sentences[-2:])
    return sentences[-1]
