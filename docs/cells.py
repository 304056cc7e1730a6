"""Text in the cells of Markdown's tables."""

from __future__ import annotations

import re


def cell(text: str | None) -> str:
    """A description on one line, safe in a table; what stands in backticks is left as it is."""
    parts = re.split(r"(`[^`]*`)", " ".join((text or "").split()))
    return "".join(
        part
        if part.startswith("`")
        else part.replace("|", "\\|").replace("<", "&lt;").replace("$", "&#36;")
        for part in parts
    )
