"""Some answers of a store as a page, each token coloured by what the teacher thought of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path

from opdlab.files import GENERATOR, write_page
from opdlab.scores import Scores, StoredAnswer

PAGE = "answers.html"
SHOWN = 20
"""Answers of a page, spread over the store."""
BANDS = (0.9, 0.5, 0.1, 0.01)
"""Probabilities of the teacher at which the colour changes, from sure to surprised."""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 62rem; margin: 2rem auto;
padding: 0 1rem; } h1 { font-size: 1.5rem; margin-bottom: 0; }
h2 { font-size: 1rem; margin: 1.8rem 0 .2rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f8fa; padding: .6rem; margin: .3rem 0;
color: #1c2430; } .why { color: #56606e; } .key span { padding: 0 .4rem; margin-right: .3rem; }
.b0 { background: #e3f4e8; } .b1 { background: #f4f6d8; } .b2 { background: #fdeac4; }
.b3 { background: #fbd0b5; } .b4 { background: #f2a3a0; }
"""


def write_answers(scores: Scores) -> Path:
    """Write the page into the store's folder.

    Raises:
        DataError: another file stands there.
    """
    path = scores.folder / PAGE
    write_page(path, page(scores))
    return path


def page(scores: Scores, shown: int = SHOWN) -> str:
    """The whole page; nothing is fetched when it is opened."""
    told, count = scores.manifest, len(scores)
    tokenizer = scores.tokenizer()
    parts = [
        f"<h1>{escape(scores.folder.name)}</h1>",
        f"<p class='why'>{count:,} answers ({escape(str(told.answers['from']))}), "
        f"{scores.tokens:,} tokens, {escape(str(scores.kind))}; teacher "
        f"{escape(str(told.teacher.get('name')))}. Point at a token for its probability.</p>",
        f"<p class='key'>{_key()}</p>",
    ]
    chosen = sorted({number * count // shown for number in range(min(shown, count))})
    for row in chosen if count > shown else range(count):
        answer = scores[row]
        prompt = str(tokenizer.decode(answer.prompt))
        mean = float(answer.numbers["log_prob"].mean())
        verdict = f", {answer.verdict}" if answer.verdict else ""
        parts += [
            f"<h2>{escape(answer.benchmark)} {escape(answer.problem)}{escape(verdict)}</h2>",
            f"<p class='why'>mean log-probability {mean:.3f} nats</p>",
            f"<pre>{escape(prompt)}</pre>",
            f"<pre>{''.join(_tokens(answer, tokenizer.decode))}</pre>",
        ]
    title = f"<title>Scores {escape(scores.folder.name)}</title>"
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{GENERATOR}{view}{title}<style>{STYLE}</style>'
    return (
        f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"
    )


def band(log_prob: float) -> int:
    """Which colour a log-probability has, from 0 for sure."""
    return sum(log_prob < math.log(limit) for limit in BANDS)


def _key() -> str:
    names = [f"above {BANDS[0]:.0%}", *(f"below {limit:.0%}" for limit in BANDS)]
    return "".join(f"<span class='b{number}'>{name}</span>" for number, name in enumerate(names))


def _tokens(answer: StoredAnswer, decode: object) -> Iterator[str]:
    assert callable(decode)
    for token, value in zip(answer.response, answer.numbers["log_prob"].tolist(), strict=True):
        text = escape(str(decode([token])))
        yield f"<span class='b{band(value)}' title='{math.exp(value):.2%}'>{text}</span>"
