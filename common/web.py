"""What the HTTP side of every service has: the token, the limits, health and metrics."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import FrameError, FrameTooLarge
from common.frames import Frame, FrameDecoder
from common.security import same_token
from common.version import VERSION

HEALTH_PATH = "/healthz"
FRAMES = "application/octet-stream"
# Routes whose body is a stream of frames: each frame has a limit, the whole has none.
STREAM_ROUTE = re.compile(r"/applications/[^/]*/tasks|/results/[^/]*")
# Whoever is still sending does not look for an answer until the connection breaks.
CLOSE = {"Connection": "close"}


def new_app(
    title: str, is_token: Callable[[str], bool], max_body_bytes: int, metrics: CollectorRegistry
) -> FastAPI:
    """A FastAPI application with `/healthz`, `/metrics`, the token and the body limit."""
    app = FastAPI(title=title, version=VERSION, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    app.add_middleware(TokenGuard, is_token=is_token)

    @app.exception_handler(FrameError)
    async def refuse_frame(_: Request, error: FrameError) -> JSONResponse:
        status = 413 if isinstance(error, FrameTooLarge) else 400
        return JSONResponse({"detail": str(error)}, status_code=status, headers=CLOSE)

    @app.get(HEALTH_PATH)
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "service": title, "version": VERSION}

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    return app


def token_is(expected: str) -> Callable[[str], bool]:
    return lambda shown: same_token(shown, expected)


async def frames_of(request: Request, max_frame_bytes: int) -> AsyncIterator[list[Frame]]:
    """The frames of a request's body, until the sender ends or breaks.

    One batch for each chunk, an empty one while a large frame is on its way: the sender lives.

    Raises:
        FrameError: the body is not a stream of frames.
    """
    decoder = FrameDecoder(max_frame_bytes)
    try:
        async for chunk in request.stream():
            if chunk:
                yield list(decoder.feed(chunk))
    except ClientDisconnect:
        return


async def not_silent(
    batches: AsyncIterator[list[Frame]], limit_s: float
) -> AsyncIterator[list[Frame]]:
    """The same, for as long as the sender gives a sign of life."""
    while True:
        try:
            async with asyncio.timeout(limit_s):
                batch = await anext(batches)
        except (TimeoutError, StopAsyncIteration):
            return
        yield batch


def frame_stream(chunks: AsyncIterator[bytes]) -> StreamingResponse:
    return StreamingResponse(chunks, media_type=FRAMES)


class TokenGuard:
    """Refuses every request without the token with 401, before anything of it is read."""

    def __init__(self, app: ASGIApp, is_token: Callable[[str], bool]) -> None:
        self._app = app
        self._is_token = is_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._allowed(scope):
            await _refuse(send, 401, "a valid token is needed: Authorization: Bearer <token>")
            return
        await self._app(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        if scope["path"] == HEALTH_PATH:
            return True
        shown = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        scheme, _, token = shown.partition(" ")
        return scheme.lower() == "bearer" and self._is_token(token)


class BodyLimit:
    """Refuses a body above the limit with 413, before it is read where its length is told."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or STREAM_ROUTE.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            await _refuse(send, 413, self._reason())
            return
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, self._reason())
            return message

        return counted

    def _reason(self) -> str:
        return f"the body is above message.max.bytes ({self._max_bytes})"


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
