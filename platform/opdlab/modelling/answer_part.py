"""What a model said: the text of its tokens, and the part of it that is the answer and no thinking.

Evaluation, the rewards of training, regrading and diagnosis all ask here, so that none of them pays for a
guess in a thought that another one calls cut off. The marks of thinking come from the chat template; those
of the usual model families are known without one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Marks = tuple[tuple[str, str], ...]
"""Pairs of what opens and what closes thinking."""

_NAME = r"(?:[\w.-]{1,20}:)?(?:think|thinking|thoughts?|reasoning|reason)"
_OPENING = (
    rf"<{_NAME}>|\[{_NAME}\]|◁{_NAME}▷|<\|{_NAME}\|>|<\|(?:begin|start)_(?:of_)?{_NAME}\|>"
    r"|<\|channel>thought|<\|channel\|>(?!final)[^<]{0,80}(?:<\|message\|>)?|<unused94>"
    r"|<\|inner_prefix\|>|<\|open\|>think<\|sep\|>"
)
_CLOSING = (
    rf"</{_NAME}>(?:\s*<response>)?|\[/{_NAME}\]|◁/{_NAME}▷|<\|/{_NAME}\|>|<\|end_(?:of_)?{_NAME}\|>|<channel\|>"
    r"|<\|channel\|>final[^<]{0,80}<\|message\|>|<unused95>|<\|inner_suffix\|>"
    r"|<\|close\|>think<\|sep\|>(?:<\|open\|>response<\|sep\|>)?"
)
# Special tokens that a mark is made of, where it is more than one token.
_PIECES = (
    *("<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|channel>"),
    *("<|open|>", "<|close|>", "<|sep|>"),
)
_ANSWER_OPENED = re.compile(r"(?:<\|message\|>|<response>|<\|open\|>response<\|sep\|>)$")
_END_OF_ANSWER = re.compile(r"<\|(?:end|return)\|>|</response>|<\|close\|>response")
_TAG = re.compile(r"<([\w:.-]{1,40})>|\[([\w:.-]{1,40})\]|<\|([\w:.-]{1,40})\|>|◁([\w:.-]{1,40})▷")
_CUT = re.compile(r"split\((['\"])([^'\"]{3,60})\1\)\s*(?:\[\s*-\s*1|\|\s*last)")
# Words that open thinking, such as 'Here are my reasoning steps:\n'.
_ANNOUNCED = re.compile(r"(['\"])([^'\"\n]{0,60}(?:reasoning|think|thought)[^'\"\n]{0,60}:)\\n\1")
_REASONING = re.compile(r"reasoning|think|thought", re.IGNORECASE)
_QUOTES = "`'\""
NEAR = 200
"""Characters of a template within which a variable of reasoning belongs to a pair of tags."""


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of a response, blanks as they were; of special tokens only those that mark thinking."""
    dropped = _dropped(tokenizer, str(tokenizer.chat_template), len(tokenizer))
    kept = [token for token in ids if token not in dropped]
    return str(
        tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def marks_of(tokenizer: PreTrainedTokenizerBase) -> Marks:
    """The pairs of marks around thinking in a tokenizer's chat template."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = "\n".join(map(str, template.values()))
    return _marks(template or "")


def written(marks: Marks) -> str:
    """Marks as one text that can be stored beside a completion; empty where there are none."""
    return json.dumps(marks) if marks else ""


def read(text: str) -> Marks:
    """What `written` wrote."""
    return tuple((opening, closing) for opening, closing in json.loads(text)) if text else ()


def own_part(completion: str, prompt: str = "", marks: Marks = ()) -> str:
    """What follows the thinking; nothing if thinking was opened, there or by the prompt, and never closed.

    A mark in quotes or backticks is one that the text speaks about.

    Args:
        completion: with the special tokens that mark thinking.
        prompt: what the model was given; its template may have opened the thinking.
        marks: of the template, beside those that are known.
    """
    opening, closing = _patterns(marks)
    if not _beginnings(marks).search(completion):
        return "" if _opened(prompt, opening) else completion
    closed = None
    for match in closing.finditer(completion):
        closed = match if not _quoted(completion, match) else closed
    if closed is None and _opened(prompt, opening):
        return ""
    rest = completion[closed.end() :] if closed else completion
    for match in opening.finditer(rest):
        if not _quoted(rest, match):
            return rest[: match.start()]
    if _ANSWER_OPENED.search(closed[0] if closed else prompt[-NEAR:]):
        return _END_OF_ANSWER.split(rest, maxsplit=1)[0]
    return rest


def _opened(prompt: str, opening: re.Pattern[str]) -> bool:
    tail = prompt[-NEAR:].rstrip()
    return bool(tail) and any(match.end() == len(tail) for match in opening.finditer(tail))


def _quoted(text: str, match: re.Match[str]) -> bool:
    before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    if text[max(match.start() - 3, 0) : match.start()] == "```":
        # A fence that closes in front of it quotes nothing.
        return False
    return bool(before and after) and before in _QUOTES and after in _QUOTES


@lru_cache(maxsize=64)
def _patterns(marks: Marks) -> tuple[re.Pattern[str], re.Pattern[str]]:
    # Longest first, so that a mark is not taken for a shorter one that it begins with.
    listed = [sorted({re.escape(pair[side]) for pair in marks}, key=len)[::-1] for side in (0, 1)]
    opening, closing = ("|".join([*own, known]) for own, known in zip(listed, _KNOWN, strict=True))
    return re.compile(opening, re.IGNORECASE), re.compile(closing, re.IGNORECASE)


@lru_cache(maxsize=64)
def _beginnings(marks: Marks) -> re.Pattern[str]:
    """What every mark begins with: a text without it has none, which is told faster than by all of them."""
    own = "".join(re.escape(mark[:1]) for pair in marks for mark in pair)
    return re.compile(rf"[◁{own}]|<[/|]?[\w.-]|\[/?[\w.-]")


_KNOWN = (_OPENING, _CLOSING)


@lru_cache(maxsize=16)
def _marks(template: str) -> Marks:
    found: dict[tuple[str, str], None] = {}
    for match in _TAG.finditer(template):
        opening, closing = match[0], _closing(match)
        end = template.find(closing, match.end())
        if closing not in template or opening == closing:
            continue
        inside = template[match.end() : max(end, match.end())][:NEAR]
        if _REASONING.search(opening) or _REASONING.search(inside):
            found[opening, closing] = None
    # A template that keeps only what follows a mark of earlier answers calls the rest thinking.
    for match in _CUT.finditer(template):
        opening = re.sub(r"^(\W{1,2}?)/", r"\1", match[2])
        announced = _ANNOUNCED.search(template)
        if opening != match[2]:
            found[opening, match[2]] = None
        elif announced:
            found[announced[2], match[2]] = None
    return tuple(found)


def _closing(match: re.Match[str]) -> str:
    angle, square, bar, _ = match.groups()
    if angle:
        return f"</{angle}>"
    if square:
        return f"[/{square}]"
    if bar:
        ended = re.sub(r"^(?:begin|start)", "end", bar)
        ended = re.sub(r"^(?:BEGIN|START)", "END", ended)
        return f"<|{ended if ended != bar else f'/{bar}'}|>"
    return match[0].replace("◁", "◁/")


@lru_cache(maxsize=4)
def _dropped(tokenizer: PreTrainedTokenizerBase, template: str, size: int) -> frozenset[int]:
    """Ids of special tokens that mark no thinking. The later arguments are there to be hashed."""
    del template, size
    marks = marks_of(tokenizer)
    opening, closing = _patterns(marks)
    pieces = "".join(part for pair in marks for part in pair)
    special = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    ends = {str(tokenizer.eos_token), str(tokenizer.pad_token), str(tokenizer.bos_token)}
    return frozenset(
        number
        for number, text in special.items()
        if text in ends
        or not (
            opening.fullmatch(text)
            or closing.fullmatch(text)
            or text in _PIECES
            or (text and text in pieces)
        )
    )
