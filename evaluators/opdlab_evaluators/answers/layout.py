"""An answer's text without what only sets it: spaces, sizes, colours, delimiters, odd characters.

Nothing that could mean something is dropped here.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_CHARACTERS = {
    "−": "-",
    "﹣": "-",
    "⁻": "^{-",
    "×": r"\cdot ",
    "⋅": r"\cdot ",
    "·": r"\cdot ",
    "∙": r"\cdot ",
    "•": r"\cdot ",
    "÷": r"\div ",
    "∕": "/",
    "⁄": "/",
    "±": r"\pm ",
    "∓": r"\mp ",
    "√": r"\sqrt ",
    "∛": r"\sqrt[3]",
    "∞": r"\infty ",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "≈": r"\approx ",
    "≡": r"\equiv ",
    "≤": r"\le ",
    "⩽": r"\le ",
    "≥": r"\ge ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "∈": r"\in ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∖": r"\setminus ",
    "∅": r"\emptyset ",
    "ℝ": r"\mathbb{R}",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "′": "'",
    "″": "''",
    "’": "'",
    "…": r"\dots ",
    "∨": r"\lor ",
    "∧": r"\land ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "∣": "|",
    "⟨": "(",
    "⟩": ")",
    "π": r"\pi ",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "γ": r"\gamma ",
    "δ": r"\delta ",
    "λ": r"\lambda ",
    "μ": r"\mu ",
    "φ": r"\phi ",
    "ϕ": r"\phi ",
    "ω": r"\omega ",
    "σ": r"\sigma ",
    "ρ": r"\rho ",
    "τ": r"\tau ",
    "€": r"\text{ euros }",
    "£": r"\text{ GBP }",
    "¥": r"\text{ yen }",
    "₹": r"\text{ rupees }",
    "¢": r"\text{ cents }",
    "￠": r"\text{ cents }",
    "\u200b": "",
    "\ufeff": "",
    "\u2061": "",
    "\u2062": "",
    "\u2060": "",
}
_UPPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿⁱˣ", "0123456789-+nix", strict=True))
_LOWER = dict(zip("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n", strict=True))
_SCRIPTS = re.compile(f"([{''.join(_UPPER)}]+)|([{''.join(_LOWER)}]+)")
_FRACTION = re.compile("[¼½¾⅐-⅞]")
_ODD = re.compile("|".join(map(re.escape, sorted(_CHARACTERS, key=len, reverse=True))))
_SIZES = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|hfill"
    r"|notag|nonumber|tiny|small|large|Large|LARGE|huge|Huge|bf|rm|it|normalsize|strut|mathstrut"
    r"|centering|allowbreak|nobreak|noindent)(?![a-zA-Z])"
)
_COLOUR = re.compile(
    r"\\(?:(?:text)?color)\s{0,5}(?:\[[a-zA-Z]{1,10}\])?\{[^{}]{1,40}\}"
    r"|\\colorbox\{[^{}]{1,40}\}"
)
_SPACE = re.compile(
    r"(?<!\\)(?:\\\\)*?(\\[,;:!> ]|\\(?:q?quad|enspace|thinspace|medspace|thickspace|space)(?![a-zA-Z])|~)"
)
_SKIP = re.compile(
    r"\\(?:hspace|vspace|phantom|hphantom|vphantom|tag|label)\*?\s{0,5}\{[^{}]{0,40}\}"
)
_DELIMITERS = re.compile(r"(?<!\\)(?:\\[()]|\\\[|\\\])|(?<!\\)\${1,2}")
_EMPTY_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textrm)\s{0,5}\{\s{0,20}\}")
_BLANKS = re.compile(r"\s+")
_SEPARATED = re.compile(r"(?<=\d)(?:\\!)?(?:\{,\}(?:\\!)?|,\\!)\s{0,3}(?=\d{3})")
_MONEY = re.compile(
    r"(?:\\(?:text|mathrm|mbox)\s?\{\s?(?=[€£¥₹]\s?\}))?([€£¥₹])(?:\s?\})?\s?(\d[\d,]*(?:\.\d+)?)"
)
# As programs write them: `1_234_567`. A base is never three digits long.
_UNDERSCORED = re.compile(r"(?<![\w.])\d{1,3}(?:_\d{3})+(?![\w{])")
# A sign of money that opens no formula.
_DOLLAR = re.compile(r"(?<!\\)\$")
_LONE_DOLLAR = re.compile(r"(?<!\\)\$(?=\s?\d)")
_BOLD = re.compile(r"(?:\*\*|__)(?=\S)|(?<=\S)(?:\*\*|__)")
_POWER = re.compile(r"(?<=[\w)}])\*\*(?=[\w({-])")
# A dash that no number precedes is a minus; `5–6` is a range.
_DASH = re.compile(r"(?<![^\s({\[=,])–(?=\s?[\d\\.])")
_ANGLES = re.compile(r"\\([lr])angle(?![a-zA-Z])")
_SQUARE = re.compile(r"\\([lr])brack(?![a-zA-Z])")
_ROW_SPACE = re.compile(r"(\\\\)\s?\[\s?-?[\d.]{1,6}\s?[a-z]{2}\s?\]")
_DEGREES = re.compile(
    r"(?<=[\d}])\s?\^\s?(?:o(?![a-zA-Z])|\{\s?o\s?\}|\{?\s?\\(?:text|mathrm|textrm)\s?\{\s?o\s?\}\s?\}?)"
)
_MARKS = re.compile(
    r"^\s?\\therefore(?![a-zA-Z])|\\(?:checkmark|blacksquare|square|Box|qed)(?![a-zA-Z])\s?$"
)
_ALIGNED = re.compile(
    r"\s?\\begin\s?\{(aligned|align\*?|gathered|split|equation\*?)\}(?P<row>.*)\\end\s?\{\1\}\s?",
    re.DOTALL,
)
_CURRENCY = re.compile(
    r"(?<![A-Za-z])(?:USD?|Rs\.?|INR|\\(?:text|mathrm)\s?\{\s?(?:USD?|Rs\.?)\s?\})\s?(?=\\dollar|\d)"
)
_SCALE = re.compile(
    r"\s?(?:°|\^\s?\{?\s?\\circ\s?\}?)\s?(?:(?:\\(?:text|mathrm|textrm)\s?\{\s?([CF])\s?\})|([CF])(?![a-zA-Z]))"
)
_INTERCEPT = re.compile(r"(^|\s)\$?[xyz]\$?\s?-\s?intercept")
_FEET = re.compile(r"(?<!\w)(\d+)'\s?(\d+(?:\.\d+)?)\s?(?:''|\")")
# `22^\circ 30'`, and `22^\circ 30' 15''`.
_MINUTES = re.compile(
    r"(?<![\d.])(\d+)\s?(?:\^\s?\{?\s?\\circ\s?\}?|\\degree)\s?([0-5]?\d)\s?(?:'(?!')|\^\s?\{?\s?\\prime\s?\}?)"
    r"(?:\s?([0-5]?\d(?:\.\d+)?)\s?(?:''|\"|\^\s?\{\s?\\prime\s?\\prime\s?\}))?"
)
# A sign of multiplication as it is typed: `3 x 10^5`.
_TYPED_TIMES = re.compile(r"(?<=\d) x (?=\d)")
_POINT = re.compile(r"(?<=\d)\{\.\}(?=\d)")
# The full stop of a sentence in the last row.
_ROW_END = re.compile(r"(?<=[\w)}])\.(?=\s?\}?\s?\\end)")
# The fraction of a mixed number in braces of its own: `2{\frac37}`.
_BRACED_FRACTION = re.compile(
    r"(?<=\d)\s?\{\s?(\\frac\s?(?:\d\d|\{\s?\d+\s?\}\s?\{\s?\d+\s?\}))\s?\}"
)
_INCHES = re.compile(r"(?<=\d)\"(?!\w)")
_THAT_IS = re.compile(r"\bi\.\s?e\.,?")
_HALF_OF_DAY = re.compile(r"\b([aApP])\.\s?([mM])(?:\.|$)(?=\s|\}|$)")
_INFIX = re.compile(r"\\(?:over|choose)(?![a-zA-Z])|\\.|[{}]", re.DOTALL)
_ENDS = " \t\n.,;:"
_PLAIN_NUMBER = re.compile(r"-?[0-9]+")
LAYERS = 12
"""Layers of Markdown and punctuation that are taken off; more would cost the square of their number."""
SHORT = 500
"""Characters of a text that is looked at several times, so that what came out is kept."""
APART = "\ue000"
"""A comma that stands in a number for certain: `10,\\!080`."""


# A whole answer in quotes, or with a mark that it is right.
_QUOTED = re.compile(r"^\s*([\"'])(?P<inside>[^\"']{1,200})\1\s*$|(?<!\s)\s*[✓✔✅]\ufe0f?\s*$")


def tidy(text: str) -> str:
    """The text in plain LaTeX with single blanks; linear in its length."""
    if _PLAIN_NUMBER.fullmatch(text):
        return text
    return _tidied(text) if len(text) > SHORT else _remembered(text)


@lru_cache(maxsize=2048)
def _remembered(text: str) -> str:
    return _tidied(text)


def _tidied(text: str) -> str:
    text = _unicode(_QUOTED.sub(r"\g<inside>", text))
    text = _UNDERSCORED.sub(lambda m: m[0].replace("_", ""), text)
    if len(_DOLLAR.findall(text)) == 1:
        text = _LONE_DOLLAR.sub(r"\\$", text)
    if ">=" in text or "<=" in text:
        text = text.replace(">=", r"\ge ").replace("<=", r"\le ")
    text = _TYPED_TIMES.sub(r"\\cdot ", text).replace("+/-", r"\pm ").replace("\\dollar", " ")
    text = text.replace("\\$", r"\dollar ").replace("\\%", "%")
    text = _rewritten(text)
    text = _SEPARATED.sub(APART, text)
    text = _SIZES.sub(" ", text)
    # After \left and \right there may be a dot that closes nothing.
    text = _COLOUR.sub(" ", _SKIP.sub(" ", text))
    text = _SPACE.sub(lambda m: m[0][: -len(m[1])] + " ", text)
    text = _EMPTY_TEXT.sub(" ", _DELIMITERS.sub(" ", text))
    text = _SQUARE.sub(lambda m: "[" if m[1] == "l" else "]", text)
    text = re.sub(r"\\(?:[dtcs]|nice)frac(?![a-zA-Z])", r"\\frac", text)
    text = _ROW_END.sub("", text) if "\\\\" in text else text
    text = _BRACED_FRACTION.sub(r"\1", text)
    text = _strip(_BLANKS.sub(" ", text))
    return _BLANKS.sub(" ", text).strip()


def _rewritten(text: str) -> str:
    """Older or rarer ways to write something, in the usual one."""
    text = _ANGLES.sub(lambda m: "(" if m[1] == "l" else ")", _ROW_SPACE.sub(r"\1", text))
    text = _HALF_OF_DAY.sub(r"\1\2", _CURRENCY.sub("", _DEGREES.sub(r"^\\circ ", text)))
    if "circ" in text or "°" in text:
        text = _SCALE.sub(_scale_of, text)
    if "intercept" in text:
        text = _INTERCEPT.sub(r"\1intercept", text)
    if "circ" in text or "degree" in text:
        text = _MINUTES.sub(_with_minutes, text)
    if "'" in text or '"' in text:
        text = _INCHES.sub("''", _FEET.sub(r"\1 feet \2 inches", text))
    text = text.replace("{:}", ":").replace("\\colon", ":")
    text = _infix(_THAT_IS.sub("that is ", _POINT.sub(".", text)))
    lines = _ALIGNED.fullmatch(_DELIMITERS.sub(" ", text.strip()))
    if lines and r"\\" not in lines["row"].strip().removesuffix(r"\\"):
        text = lines["row"].replace(r"\&", " ").replace("&", " ")
    return _MARKS.sub(" ", text.strip())


def _scale_of(match: re.Match[str]) -> str:
    return rf"\text{{ {'celsius' if 'C' in (match[1], match[2]) else 'fahrenheit'} }}"


def _with_minutes(match: re.Match[str]) -> str:
    seconds = rf"+\frac{{{match[3]}}}{{3600}}" if match[3] else ""
    return rf"({match[1]}+\frac{{{match[2]}}}{{60}}{seconds})^\circ "


def _infix(text: str) -> str:
    r"""`{a \over b}` as `\frac{a}{b}` and `{n \choose k}` as `\binom{n}{k}`."""
    if r"\over" not in text and r"\choose" not in text:
        return text
    pieces: list[str] = []
    # Of every open group: where it begins in `pieces`, and the command in front of it once one is met.
    groups: list[tuple[int, str]] = [(0, "")]
    place = 0
    for match in _INFIX.finditer(text):
        pieces.append(text[place : match.start()])
        place = match.end()
        start, command = groups[-1]
        if match[0] == "{":
            groups.append((len(pieces), ""))
            pieces.append("{")
        elif match[0] == "}":
            pieces.append("}}" if command else "}")
            if len(groups) > 1:
                groups.pop()
        elif match[0] in (r"\over", r"\choose") and not command:
            command = r"\frac" if match[0] == r"\over" else r"\binom"
            inside = "{" if len(groups) > 1 else ""
            pieces.insert(start, "") if not inside else None
            pieces[start] = inside + command + "{"
            pieces.append("}{")
            groups[-1] = (start, command)
        else:
            pieces.append(match[0])
    pieces.append(text[place:])
    return "".join(pieces) + ("}" if groups[0][1] else "")


def _strip(text: str) -> str:
    """Without Markdown around it, and the punctuation that ends a sentence."""
    for _ in range(LAYERS):
        before = text
        text = text.strip()
        for mark in ("**", "__", "`", "*"):
            if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
                text = text[len(mark) : -len(mark)]
        if text.endswith("\\\\"):
            text = text[:-2]
        if not re.search(r"\.\.\.?$", text):
            text = text.rstrip(_ENDS).removesuffix("\\")
        text = re.sub(r"\\text\s?\{\s?[.,;]\s?\}$", "", text)
        text = re.sub(r"(?<=[\w)])[.,;](?=\s?\}$)", "", text)
        if text == before:
            break
    text = _POWER.sub("^", text)
    return _BOLD.sub("", text).replace("`", "")


def _unicode(text: str) -> str:
    if text.isascii():
        return text
    text = _MONEY.sub(r"\2 \1", text)
    text = _FRACTION.sub(_vulgar, _DASH.sub("-", text))
    text = _SCRIPTS.sub(_scripts, text)
    text = _ODD.sub(lambda m: _CHARACTERS[m[0]], text)
    if text.isascii():
        return text
    # Full-width and mathematical letters, and every sort of blank.
    text = text.replace("，", ", ").replace("、", ", ").replace("；", "; ").replace("。", ".")
    text = unicodedata.normalize("NFKC", text)
    return _ODD.sub(lambda m: _CHARACTERS[m[0]], text)


def _vulgar(match: re.Match[str]) -> str:
    above, _, below = unicodedata.normalize("NFKD", match[0]).partition("⁄")
    return rf"\frac{{{above}}}{{{below}}}" if below else match[0]


def _scripts(match: re.Match[str]) -> str:
    upper, lower = match.groups()
    if upper:
        return "^{" + "".join(_UPPER[c] for c in upper) + "}"
    return "_{" + "".join(_LOWER[c] for c in lower) + "}"
