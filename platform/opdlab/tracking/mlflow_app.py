"""MLflow's page as `opdlab ui` serves it: its assistant's panel is closed until somebody opens it.

MLflow opens the panel by itself on a browser's first visit, over a third of what was asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

KEY = "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1"
"""Where MLflow's page remembers in the browser that it has opened the panel."""
SCRIPT = f"<head><script>try {{ localStorage.setItem('{KEY}', 'true') }} catch {{ }}</script>"

OLD = (b"content-length", b"etag", b"last-modified")
"""Headers of an answer that are no longer true of the page."""
PARTIAL = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")
"""Headers of a request by which it would get the page compressed, in part or not at all."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def create_app() -> App:
    """MLflow's own application, closed; its server asks a factory for it."""
    from mlflow.server.fastapi_app import app

    return closed(app)


def closed(served: App) -> App:
    """An application with a line more at the head of its page."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await served(scope, receive, send)
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

        asked = [(k, v) for k, v in scope["headers"] if k.lower() not in PARTIAL]
        await served({**scope, "headers": asked}, receive, take)

    return app
