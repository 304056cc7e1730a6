"""Who is let in, with how much, and how much of it at once; decided before a byte of a body is read."""

from __future__ import annotations

import asyncio
import hmac
from ipaddress import ip_address
from typing import final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opdlab.service.metrics import Metrics
from opdlab.serving import MEDIA, Limits

SCORE = "/v1/score"
OPEN = ("/health", "/docs", "/openapi.json")
"""Paths for everybody: they tell nothing of the model."""
JSON = "application/json"
RETRY_S = 1
STALLED_S = 60.0
"""A client that neither sends nor takes a byte for so long is cut off."""


def media_of(headers: Headers) -> str:
    """The type of a body."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


@final
class Admission:
    """Stands before the application.

    Attributes:
        admitted: requests for scores that are being read, wait, or are answered.
        reserved: bytes of their bodies.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, metrics: Metrics, key: str, places: int, local: bool
    ) -> None:
        """Guard `app`.

        Args:
            key: that each request must bring; empty for none.
            places: requests for scores at once.
            local: whether this machine alone is served, so that a web page that was sent here by another
                name of this machine is not.
        """
        self.app, self.limits, self.metrics = app, limits, metrics
        self.key, self.places, self.local = key.encode(), places, local
        self.admitted = self.reserved = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, scores = Headers(scope=scope), scope["path"] == SCORE and scope["method"] == "POST"
        refusal = self._stranger(scope["path"], headers) or (scores and self._refusal(headers))
        if refusal:
            if scores:
                self.metrics.answered(refusal.status_code)
            # What it would have sent is not read.
            refusal.headers["Connection"] = "close"
            await refusal(scope, receive, send)
            return
        size = int(headers.get("content-length", 0)) if scores else 0
        self.admitted += scores
        self.reserved += size
        try:
            await self.app(scope, _in_time(receive), self._counted(send) if scores else send)
        except TimeoutError:
            # Of one that takes no answer nobody waits for a reason.
            return
        finally:
            self.admitted -= scores
            self.reserved -= size

    def _stranger(self, path: str, headers: Headers) -> Response | None:
        if self.local and not is_loopback(_host(headers.get("host", ""))):
            return _said(421, "this service is for programs on its own machine")
        if path in OPEN or not self.key:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.key):
            return None
        return _said(401, "the API key is missing or wrong", {"WWW-Authenticate": "Bearer"})

    def _refusal(self, headers: Headers) -> Response | None:
        """Why a request for scores is not read, if it is not."""
        media, length = media_of(headers), headers.get("content-length", "")
        if media not in (MEDIA, JSON):
            return _said(415, f"send {MEDIA}, or {JSON} for a few answers")
        if not (length.isascii() and length.isdigit()) or "transfer-encoding" in headers:
            return _said(411, "say how long the body is (Content-Length)")
        most = self.limits.small if media == JSON else self.limits.body
        # Of a number with thousands of digits the digits are not read either.
        if len(length) > len(str(most)) or int(length) > most:
            return _said(413, f"the body has more than {most} bytes; send fewer answers at once")
        full = self.admitted >= self.places
        if full or self.reserved + int(length) > max(8 * self.limits.body, most):
            wait = {"Retry-After": str(RETRY_S)}
            return _said(429, "too many requests at once; try again in a moment", wait)
        return None

    def _counted(self, send: Send) -> Send:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.answered(message["status"])
            async with asyncio.timeout(STALLED_S):
                await send(message)

        return counting


def _in_time(receive: Receive) -> Receive:
    """Bytes of a body, each of which comes in time; what comes after it may take any."""
    left = True

    async def receiving() -> Message:
        nonlocal left
        async with asyncio.timeout(STALLED_S if left else None):
            message = await receive()
        left = left and message.get("more_body", False)
        return message

    return receiving


def is_loopback(host: str) -> bool:
    """Whether a host is this machine as it calls itself."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _said(status: int, why: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": why}, status, headers)
