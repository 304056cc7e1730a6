"""MLflow's page as `opdlab ui` serves it: its assistant's panel is closed until somebody opens it.

MLflow opens the panel by itself on a browser's first visit, over a third of what was asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mlflow.server.fastapi_app import app as mlflow_app

KEY = "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1"
"""Where MLflow's page remembers in the browser that it has opened the panel."""
SCRIPT = f"<head><script>try {{ localStorage.setItem('{KEY}', 'true') }} catch {{ }}</script>"

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


def create_app() -> Callable[..., Awaitable[None]]:
    """The application: MLflow's server asks a factory for it."""
    return app


async def app(scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
    """MLflow's own application, with a line more at the head of its page."""
    if scope["type"] != "http" or scope["path"] != "/":
        await mlflow_app(scope, receive, send)
        return
    begun: list[Message] = []
    parts: list[bytes] = []

    async def take(message: Message) -> None:
        if message["type"] == "http.response.start":
            begun.append(message)
            return
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            body = b"".join(parts).replace(b"<head>", SCRIPT.encode(), 1)
            headers = [(k, v) for k, v in begun[0]["headers"] if k.lower() not in OLD]
            headers.append((b"content-length", str(len(body)).encode()))
            await send({**begun[0], "headers": headers})
            await send({"type": "http.response.body", "body": body})

    await mlflow_app({**scope, "headers": _whole(scope["headers"])}, receive, take)


OLD = (b"content-length", b"etag", b"last-modified")


def _whole(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those of a request for the whole page, uncompressed."""
    part = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")
    return [(key, value) for key, value in headers if key.lower() not in part]
