"""How long a text a served model takes, by what its server says."""

from __future__ import annotations

from opdlab.serving.session import Session


def context_of(session: Session) -> int | None:
    """Tokens of prompt and answer together, as vLLM's list of models says; None where it does not."""
    access = session.client.access
    told = session.client.ask("/v1/models" if access.root != access.url else "/models", tries=4)
    listed = told.get("data") if isinstance(told, dict) else None
    for card in listed if isinstance(listed, list) else []:
        if isinstance(card, dict) and card.get("id") == session.server.model:
            size = card.get("max_model_len")
            return size if isinstance(size, int) and size > 0 else None
    return None
