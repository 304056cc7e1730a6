"""Some answers of a store as a page, each token coloured by what the teacher thought of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

from opdlab.console import shown
from opdlab.files import GENERATOR, require_own_page, write_page
from opdlab.scores import Scores, StoredAnswer

PAGE = "answers.html"
SHOWN = 20
"""Answers of a page, spread over the store."""
BANDS = (0.9, 0.5, 0.1, 0.01)
"""Probabilities of the teacher at which the colour changes, from sure to surprised."""
WRITTEN = {
    "given": "given by the data",
    "teacher": "by the teacher",
    "student": "by the student",
    "run": "of a run",
}
CUT = "\N{REPLACEMENT CHARACTER}"
"""What stands for a part of a character."""
MOST_PARTS = 8
"""Tokens that are shown as one, at most: a character has up to four bytes."""
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --soft: #f6f8fa; --ink: #1c2430; --dim: #56606e;
--b0: #e3f4e8; --b1: #f4f6d8; --b2: #fdeac4; --b3: #fbd0b5; --b4: #f2a3a0; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #12151a; --soft: #1b2027; --ink: #e7eaee;
--dim: #9aa5b3; --b0: #17402a; --b1: #44481a; --b2: #5a431a; --b3: #6b3418; --b4: #7a2522; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
max-width: 62rem; margin: 2rem auto; padding: 0 1rem; } h1 { font-size: 1.5rem; margin-bottom: 0; }
h2 { font-size: 1rem; margin: 1.8rem 0 .2rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .6rem;
margin: .3rem 0; } .why { color: var(--dim); } .key span { padding: 0 .4rem; margin-right: .3rem;
display: inline-block; } span { print-color-adjust: exact; }
.b0 { background: var(--b0); } .b1 { background: var(--b1); } .b2 { background: var(--b2); }
.b3 { background: var(--b3); } .b4 { background: var(--b4); }
"""


def write_answers(scores: Scores) -> Path:
    """Write the page into the store's folder.

    Raises:
        DataError: another file stands there.
    """
    path = scores.folder / PAGE
    write_page(path, page(scores))
    return path


def require_free_page(folder: Path) -> None:
    """Refuse a store's folder, before anything is scored, where another file stands in the page's place.

    Raises:
        DataError: naming it.
    """
    require_own_page(folder / PAGE, "remove it, or name another folder with --out")


def page(scores: Scores, most: int = SHOWN) -> str:
    """The whole page; nothing is fetched when it is opened."""
    told, count = scores.manifest, len(scores)
    tokenizer = scores.tokenizer()

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    parts = [
        f"<h1>{_words(scores.folder.name)}</h1>",
        f"<p class='why'>{count:,} answers {WRITTEN[told.answers['from']]}, {scores.tokens:,} tokens, "
        f"{_words(str(scores.kind))}. Each token is coloured by the probability that the teacher "
        f"({_words(str(told.teacher.get('name')))}) gives it; point at one for the number.</p>",
        f"<p class='key'>{_key()}</p>",
    ]
    chosen = sorted({number * count // most for number in range(min(most, count))})
    for row in chosen if count > most else range(count):
        answer = scores[row]
        prompt = decode(answer.prompt)
        mean = -float(answer.numbers["log_prob"].mean())
        verdict = f", {answer.verdict}" if answer.verdict else ""
        parts += [
            f"<h2>{_words(answer.benchmark)} {_words(answer.problem)}{_words(verdict)}</h2>",
            f"<p class='why'>{len(answer.response):,} tokens, on average {mean:.3f} nats of surprise</p>",
            # Of a line break that comes first a browser shows nothing.
            f"<pre>\n{_words(prompt)}</pre>",
            f"<pre>{''.join(_tokens(answer, decode))}</pre>",
        ]
    title = f"<title>Scores {_words(scores.folder.name)}</title>"
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{GENERATOR}{view}{title}<style>{STYLE}</style>'
    body = f"<body><main>{''.join(parts)}</main></body>"
    return f"<!doctype html><html lang='en'><head>{head}</head>{body}</html>\n"


def _words(text: str) -> str:
    """Foreign words as they are: nothing in them is markup, turns the direction of writing or is unseen."""
    return escape(shown(text))


def band(log_prob: float) -> int:
    """Which colour a log-probability has, from 0 for sure."""
    return sum(log_prob < math.log(limit) for limit in BANDS)


def _key() -> str:
    limits = (1.0, *BANDS, 0.0)
    names = [f"{low:.0%} to {high:.0%}" for high, low in pairwise(limits)]
    return "".join(f"<span class='b{number}'>{name}</span>" for number, name in enumerate(names))


def _tokens(answer: StoredAnswer, decode: Callable[[Sequence[int]], str]) -> Iterator[str]:
    values = answer.numbers["log_prob"].tolist()
    for places, text in pieces(answer.response, decode):
        own = [values[place] for place in places]
        told = ", ".join(f"{math.exp(value):.2%}" for value in own)
        yield f"<span class='b{band(min(own))}' title='{told}'>{_words(text)}</span>"


def pieces(
    ids: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> Iterator[tuple[range, str]]:
    """Tokens with their text as it stands in the whole: several where they are one character together.

    Alone a token of SentencePiece has no blank before it, and one of bytes may be a part of a character.
    """
    before, begun = 0, 0
    for place in range(len(ids)):
        known, text = decode(ids[before:begun]), decode(ids[before : place + 1])
        whole = text.startswith(known) and not text.endswith(CUT)
        if whole or place + 1 - begun == MOST_PARTS or place + 1 == len(ids):
            yield range(begun, place + 1), text[len(known) :]
            before, begun = begun, place + 1
