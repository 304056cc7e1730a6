"""The paths of a teacher's service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request as HttpRequest
from fastapi.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from opdlab import __version__
from opdlab.errors import DataError, OpdlabError, OutOfRoomError
from opdlab.records import TeacherScores
from opdlab.service.admission import JSON, RETRY_S, SCORE, Admission, media_of
from opdlab.service.batching import Batcher, Job
from opdlab.service.metrics import TEXT, Metrics
from opdlab.service.small import SmallRequest, read_small, written
from opdlab.serving import MEDIA, Limits, Request, answer_body, read_request, unpack

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": SmallRequest.model_json_schema()},
            MEDIA: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_TOLD = f"""A teacher of `opdlab teach`.

`{MEDIA}`: tensors of int32 or int64 `tokens` (prompts followed by their answers, end to end),
`prompt_lengths`, `response_lengths`, and, if wanted, `candidates` (a row for each token of answers, -1 for
none), `seeds`, `ends`; in the file's metadata, as JSON, `measure`, `full` (hidden states), `top_k` and
`vocabulary`.
The answer holds `log_prob`, `entropy`, `fidelity`, `sampled_confidence`, `confidence` in float32 and, if
wanted, `hidden`, or `top_ids` and `top_log_prob`, whose last column is all other tokens together.
"""


_PIECE = 1 << 20


@dataclass(frozen=True)
class Desk:
    """What answers requests.

    Attributes:
        told: what the service says of its teacher.
        entries: of the teacher's vocabulary.
        head: the file with its vocabulary projection.
    """

    batcher: Batcher
    metrics: Metrics
    limits: Limits
    told: dict[str, Any]
    entries: int
    head: Path


def make_app(desk: Desk, key: str = "", places: int = 128, local: bool = True) -> Admission:
    """The application; see `Admission` for what guards it."""
    app = FastAPI(title="opdlab teach", version=__version__, description=_TOLD, redoc_url=None)
    guarded = Admission(app, desk.limits, desk.metrics, key, places, local)

    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether it can score."""
        fine = desk.batcher.alive
        return JSONResponse({"status": "ok" if fine else "ended"}, 200 if fine else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Figures for Prometheus."""
        text = desk.metrics.text(desk.batcher.waiting, guarded.admitted)
        return PlainTextResponse(text, media_type=TEXT)

    @app.get("/v1/teacher")
    async def teacher() -> JSONResponse:
        """Which model it is, by hashes, and what a request may hold."""
        return JSONResponse(desk.told)

    @app.get("/v1/head", response_class=FileResponse)
    async def head() -> FileResponse:
        """Weights that make distributions of hidden states, as safetensors."""
        return FileResponse(desk.head, media_type=MEDIA)

    @app.post(SCORE, openapi_extra=_BODY)
    async def score(request: HttpRequest) -> Response:
        """Scores of answers."""
        small = media_of(request.headers) == JSON
        try:
            body = await request.body()
        except (ClientDisconnect, TimeoutError):
            raise HTTPException(408, "the body did not come whole, or not in time") from None
        try:
            asked = await run_in_threadpool(_read, body, small, desk)
        except DataError as error:
            raise HTTPException(422, str(error)) from None
        del body
        scores = await _scores(request, asked, desk)
        return await run_in_threadpool(_answer, scores, asked, small, desk.told["identity"])

    return guarded


def _read(body: bytes, small: bool, desk: Desk) -> Request:
    if small:
        return read_small(body, desk.limits, desk.entries)
    return read_request(*unpack(body), desk.limits, desk.entries)


def _answer(scores: TeacherScores, asked: Request, small: bool, identity: str) -> Response:
    if small:
        return JSONResponse({"identity": identity, "answers": written(scores, asked)})
    body = answer_body(scores, identity)
    length = {"Content-Length": str(len(body))}
    return StreamingResponse(_pieces(body), media_type=MEDIA, headers=length)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """Each of which goes out within the time that is allowed, on a slow line as well."""
    for first in range(0, len(body), _PIECE):
        yield body[first : first + _PIECE]


async def _scores(request: HttpRequest, asked: Request, desk: Desk) -> TeacherScores:
    """What the teacher says, unless whoever asked goes away."""
    sender = request.client.host if request.client else ""
    job = Job(asked, sender)
    found = asyncio.wrap_future(desk.batcher.submit(job))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({found, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not found.done():
            raise HTTPException(499, "no client waits for the answer")
        return found.result()
    except asyncio.CancelledError:
        if not job.scores.cancelled():
            raise
        wait = {"Retry-After": str(RETRY_S)}
        raise HTTPException(503, "the service is being stopped", wait) from None
    except OutOfRoomError as error:
        raise HTTPException(413, str(error)) from None
    except OpdlabError as error:
        raise HTTPException(422, str(error)) from None
    finally:
        gone.cancel()
        found.cancel()


async def _gone(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
