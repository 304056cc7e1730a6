"""LaTeX of an answer made plain, so that two ways to write one thing become the same text."""

from __future__ import annotations

import re

from opdlab_evaluators.answers.extraction import brace_pairs

_NOISE = re.compile(
    r"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr|displaystyle|textstyle|limits)(?![a-zA-Z])"
    r"|(?<!\\)\\[,;:! ]|\\q?quad(?![a-zA-Z])|~|\$"
)
_DELIMITERS = re.compile(r"^\s*(?:\\\(|\\\[)|(?:\\\)|\\\])\s*$")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|texttt|mathrm|mathbf|mathsf|mbox|operatorname|rm|bf)\s*(?=\{)"
)
_DEGREE = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])|°")
_ANGLE = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\s*\^\s*(?:\d|\{\d+\}))?)\s*([({]?)\s*(\d+(?:\.\d+)?)DEGREE([)}]?)"
)
_GROUPED = re.compile(r"((?:^|=)\s*[-+]?\s*)(\d{1,3}(?:,\d{3})+)(?=(?:\.\d+)?\s*\\?%?\s*$)")
_BARE_FRACTION = re.compile(r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])")
_BARE_DENOMINATOR = re.compile(r"(\\frac\s*\{(?:[^{}]|\{[^{}]*\})*\})\s*([0-9a-zA-Z])")
_BARE_NUMERATOR = re.compile(r"\\frac\s*([0-9a-zA-Z])\s*(?=\{)")
_BARE_ROOT = re.compile(r"\\sqrt\s*([0-9a-zA-Z])")
_MEMBERSHIP = re.compile(r"^\s*[a-zA-Z]\s*\\in(?![a-zA-Z])\s*")
# Words that change what a number says; a text with one of them is never dropped.
_MEANING = re.compile(
    r"\b(?:not|no|non|less|more|least|most|than|over|under|about|approximately|infinite|infinitely"
    r"|undefined|none|never|except|mod|if|for|when|base|million|billion|thousand|hundred|dozen|half"
    r"|percent|negative|minus)\b",
    re.IGNORECASE,
)


def plain(latex: str, thousands: bool = True) -> str:
    """The answer without layout and units; degrees, `and` and `or` made uniform.

    Args:
        thousands: take `1,234` for one number; no, where a list is expected.
    """
    text = latex.replace("\\$", "").replace("\n", " ")
    text = _DELIMITERS.sub("", text.strip())
    text = text.replace("{,}", ",").replace("\\{", "\\lbrace ").replace("\\}", "\\rbrace ")
    text = re.sub(r"(?<=\d),\s*\\!\s*(?=\d{3})", ",", text)
    text = _NOISE.sub(" ", text)
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    text = text.replace("\\lbrace", "\\{").replace("\\rbrace", "\\}")
    text = re.sub(r"\\cdotp?(?![a-zA-Z])|\\times(?![a-zA-Z])", r"\\cdot ", text)
    text = _angles(_braced(text))
    text = _MEMBERSHIP.sub("", _texts(text))
    text = text.strip().rstrip(".,;").strip()
    if thousands:
        text = _GROUPED.sub(lambda found: found[1] + found[2].replace(",", ""), text)
    return re.sub(r"\s+", " ", text)


def _braced(text: str) -> str:
    r"""`\frac12` as `\frac{1}{2}`, `\frac{a}2` as `\frac{a}{2}`, `\sqrt2` as `\sqrt{2}`."""
    text = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _BARE_NUMERATOR.sub(r"\\frac{\1}", text)
    text = _BARE_DENOMINATOR.sub(r"\1{\2}", text)
    return _BARE_ROOT.sub(r"\\sqrt{\1}", text)


def _angles(text: str) -> str:
    """Degrees as radians inside a trigonometric function, elsewhere as a unit, which is dropped."""
    text = _DEGREE.sub("DEGREE", text)
    text = _ANGLE.sub(lambda m: rf"{m[1]}({m[3]}\cdot \pi/180)", text)
    return text.replace("DEGREE", " ")


def _texts(text: str) -> str:
    r"""`\text{and}` as a comma; other texts dropped where a formula remains, unless they mean something."""
    spans, closing = [], brace_pairs(text)
    for match in _TEXT.finditer(text):
        end = closing.get(match.end())
        if end is not None:
            spans.append((match.start(), end + 1, text[match.end() + 1 : end].strip()))
    if not spans:
        return re.sub(r"\s+(?:and|or)\s+", " , ", text)
    words = " ".join(word for *_, word in spans)
    remains = _cut(text, spans, {"and": ",", "or": ","})
    # A unit's exponent goes with the unit.
    remains = re.sub(r"^\s*\^\s*(?:\d|\{\d\})\s*$|(?<=\x00)\s*\^\s*(?:\d|\{\d\})", "", remains)
    remains = remains.replace("\x00", " ").strip()
    if re.search(r"\d|\\[a-zA-Z]|^[a-zA-Z]$", remains) and not _MEANING.search(words):
        return remains
    return _cut(text, spans, {}, keep=True)


def _cut(
    text: str, spans: list[tuple[int, int, str]], kept: dict[str, str], keep: bool = False
) -> str:
    pieces, place = [], 0
    for start, end, word in spans:
        pieces.append(text[place:start])
        pieces.append(word if keep else kept.get(word.lower(), "\x00"))
        place = end
    return "".join([*pieces, text[place:]])


def compact(text: str) -> str:
    """For comparison as text: without spaces and redundant braces."""
    text = re.sub(r"\s+", "", text)
    return re.sub(r"([\^_])\{([0-9a-zA-Z])\}", r"\1\2", text)


def letter(text: str) -> str | None:
    """The choice that an answer such as `(C)`, `C.` or `C` names."""
    match = re.fullmatch(r"\(?\s*([A-Z])\s*\)?\.?", text.strip())
    return match[1] if match else None


def integer(text: str) -> int | None:
    """The integer that a plain text writes out, `073` and `18.00` included."""
    match = re.fullmatch(r"([-+]?)\s*0*(\d+)(?:\.0*)?", text.replace(" ", ""))
    return int(match[1] + match[2]) if match and len(match[2]) <= 4000 else None


def numeral(text: str) -> tuple[str, int] | None:
    """Digits and base of a numeral such as `10101_2`."""
    match = re.fullmatch(r"([0-9A-Z]+)_\{?(\d+)\}?", text.replace(" ", ""))
    if match is None or not 2 <= int(match[2]) <= 36:
        return None
    return match[1], int(match[2])


def alternatives(text: str) -> list[str]:
    r"""The two readings of a `\pm` (or `\mp`), upper signs first; the text alone where there is none."""
    if not re.search(r"\\(?:pm|mp)(?![a-zA-Z])", text):
        return [text]
    signs = (("+", "-"), ("-", "+"))
    return [
        re.sub(
            r"\\(pm|mp)(?![a-zA-Z])", lambda m, s=sign: s[0] if m[1] == "pm" else s[1], text
        ).strip()
        for sign in signs
    ]


OPENING, CLOSING = ("(", "[", "{", "\\{"), (")", "]", "}", "\\}")


def split_list(text: str) -> list[str]:
    """Parts between commas (or semicolons) that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\\[{}]|[()\[\]{},;]", text):
        if match[0] in ",;":
            if depth == 0:
                parts.append(text[start : match.start()])
                start = match.end()
        else:
            depth += 1 if match[0] in OPENING else -1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def brackets(text: str) -> tuple[str, str, str]:
    r"""Opening, inside, closing of a text in one pair of outer brackets; empty brackets where not.

    A pair of unequal brackets, as of an interval open at one end, counts.
    """
    for opening in ("\\{", "(", "["):
        for closing in ("\\}", ")", "]"):
            if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening):
                inside = text[len(opening) : len(text) - len(closing)]
                if _stays_open(inside):
                    return opening, inside.strip(), closing
    return "", text, ""


def _stays_open(inside: str) -> bool:
    depth = 0
    for match in re.finditer(r"\\[{}]|[()\[\]{}]", inside):
        depth += 1 if match[0] in OPENING else -1
        if depth < 0:
            return False
    return depth == 0
