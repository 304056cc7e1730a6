"""Reference answers in one form, as far as a form can be told for certain."""

from __future__ import annotations

import re

from opdlab_evaluators.answers.layout import APART, tidy
from opdlab_evaluators.answers.things import ambiguous_list

_INTEGER = re.compile(r"([-+]?)\s?0*(\d+)(?:\.0*)?")


def tidy_gold(text: str) -> str:
    r"""`073`, `$73$` and `73` are all `73`; `\$32,\!348` is `32348`; anything else stays as it is."""
    text = text.strip().strip("$").strip()
    bare = tidy(text).replace("\\dollar", "").replace("^\\circ", "").replace("^{\\circ}", "")
    bare = re.sub(r"\\(?:text|mbox)\{\s?degrees\s?\}", "", bare).strip()
    if re.fullmatch(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.0*)?", bare) and not ambiguous_list(bare):
        bare = bare.replace(",", "")
    match = _INTEGER.fullmatch(bare.replace(APART, ""))
    return str(int(match[1] + match[2])) if match and len(match[2]) <= 4000 else text
