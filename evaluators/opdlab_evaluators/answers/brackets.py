"""Tokens between separators and in brackets."""

from __future__ import annotations

from collections.abc import Sequence

from opdlab_evaluators.answers.tokens import Token

OPENING = ("(", "[", "{", "\\{", "\\lbrace", "\\lfloor", "\\lceil", "\\lvert")
CLOSING = (")", "]", "}", "\\}", "\\rbrace", "\\rfloor", "\\rceil", "\\rvert")


def split(tokens: Sequence[Token], *separators: str) -> tuple[list[list[Token]], list[str]]:
    """Parts between separators that stand in no bracket, and the separators."""
    texts = [str(token) for token in tokens]
    if set(separators).isdisjoint(texts):
        return [list(tokens)], []
    parts: list[list[Token]] = [[]]
    found, depth = [], 0
    for token, text in zip(tokens, texts, strict=True):
        if text in OPENING or text.startswith("\\begin "):
            depth += 1
        elif text in CLOSING or text.startswith("\\end "):
            depth -= 1
        if depth == 0 and text in separators:
            found.append(text)
            parts.append([])
        else:
            parts[-1].append(token)
    return parts, found


def enclosed(tokens: Sequence[Token]) -> tuple[str, str] | None:
    """The outer brackets of tokens that one pair encloses, also unequal ones of an interval."""
    if len(tokens) < 2:
        return None
    first, last = str(tokens[0]), str(tokens[-1])
    if first not in ("(", "[", "{", "\\{", "\\lbrace") or last not in (
        ")",
        "]",
        "}",
        "\\}",
        "\\rbrace",
    ):
        return None
    depth = 0
    for token in tokens[1:-1]:
        depth += (str(token) in OPENING) - (str(token) in CLOSING)
        if depth < 0:
            return None
    return (first, last) if depth == 0 else None


def with_usual_ends(tokens: list[Token]) -> list[Token]:
    r"""`[1, 2[ \cup ]3, 4]` with the open ends as `(` and `)`, and `\cup` for a `U`; others as they are."""
    tokens = [
        Token("command", "cup") if t.text == "U" and _parts_intervals(tokens, n) else t
        for n, t in enumerate(tokens)
    ]
    texts = [str(token) for token in tokens]
    unions = [place for place, text in enumerate(texts) if text == "\\cup"]
    if not unions:
        return tokens
    made = list(tokens)
    # `x \in` may stand before the first.
    begin = texts.index("\\in", 0, unions[0]) + 1 if "\\in" in texts[: unions[0]] else 0
    starts, ends = [begin, *(n + 1 for n in unions)], [*unions, len(texts)]
    for start, end in zip(starts, ends, strict=True):
        first, last = texts[start : start + 1], texts[end - 1 : end]
        if first not in (["["], ["]"]) or last not in (["["], ["]"]) or end - start < 3:
            return tokens
        if not {"[", "]"}.isdisjoint(texts[start + 1 : end - 1]):
            return tokens
        for place, text, usual in ((start, "]", "("), (end - 1, "[", ")")):
            if texts[place] == text:
                made[place] = Token("symbol", usual, tokens[place].spaced)
    return made


def _parts_intervals(tokens: Sequence[Token], place: int) -> bool:
    around = [str(tokens[n]) for n in (place - 1, place + 1) if 0 <= n < len(tokens)]
    return len(around) == 2 and around[0] in (")", "]") and around[1] in ("(", "[")


def readings(tokens: Sequence[Token]) -> list[list[Token]]:
    r"""Both readings of \pm and \mp, upper signs first; the tokens alone where there is none."""
    if not any(str(token) in ("\\pm", "\\mp") for token in tokens):
        return [list(tokens)]
    found = []
    for plus, minus in (("+", "-"), ("-", "+")):
        signs = {"\\pm": plus, "\\mp": minus}
        found.append(
            [Token("symbol", signs[str(t)], t.spaced) if str(t) in signs else t for t in tokens]
        )
    return found
