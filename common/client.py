"""How our processes call each other: httpx with the token, and errors of our own."""

from collections.abc import AsyncIterator
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from common import faults
from common.errors import RefusedError, UnreachableError
from common.frames import Frame, FrameDecoder

Reply = TypeVar("Reply", bound=BaseModel)
# A short request that is not answered by then will not be.
CALL_TIMEOUT_S = 10.0
# A stream stays open as long as it is needed; that it lives is seen by pings.
STREAM_TIMEOUT = httpx.Timeout(None, connect=CALL_TIMEOUT_S)


def new_client(token: str) -> httpx.AsyncClient:
    """A client that shows this token with every request."""
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {token}"},
        timeout=CALL_TIMEOUT_S,
        # Each stream holds a connection for as long as its other end lives.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=10),
        trust_env=False,
    )


async def call(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    message: BaseModel | None = None,
    timeout_s: float = CALL_TIMEOUT_S,
) -> bytes:
    """One short request; returns the body of the answer.

    Raises:
        RefusedError: the other side answered 4xx or 5xx, with its reason.
        UnreachableError: it did not answer.
    """
    content = message.model_dump_json().encode() if message is not None else None
    headers = {"Content-Type": "application/json"} if message is not None else {}
    if faults.active is not None:
        await faults.active.call(url)
    try:
        response = await client.request(
            method, url, content=content, headers=headers, timeout=timeout_s
        )
    except httpx.HTTPError as error:
        raise UnreachableError(url, _told(error)) from error
    check(response, url)
    return response.content


async def ask(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    message: BaseModel,
    reply: type[Reply],
    timeout_s: float = CALL_TIMEOUT_S,
) -> Reply:
    """As `call`, with the answer as a message."""
    answer = await call(client, method, url, message, timeout_s)
    try:
        return reply.model_validate_json(answer)
    except ValidationError as error:
        problem = f"its answer is no {reply.__name__}; does it have another version?"
        raise UnreachableError(url, problem) from error


async def pushed_frames(
    client: httpx.AsyncClient, url: str, silence_s: float, max_frame_bytes: int
) -> AsyncIterator[Frame]:
    """The frames that the other side pushes, for as long as it does.

    Args:
        silence_s: a longer pause means that it is gone: it pings when it has nothing to say.

    Raises:
        RefusedError: it does not open the stream.
        UnreachableError: the stream ended, by whatever cause.
        FrameError: what came is no stream of frames.
    """
    decoder = FrameDecoder(max_frame_bytes)
    timeout = httpx.Timeout(CALL_TIMEOUT_S, read=silence_s)
    try:
        async with client.stream("GET", url, timeout=timeout) as response:
            if response.is_error:
                await response.aread()
                check(response, url)
            async for chunk in faults.on("pushed", response.aiter_raw()):
                for frame in decoder.feed(chunk):
                    yield frame
    except httpx.HTTPError as error:
        raise UnreachableError(url, _told(error)) from error
    raise UnreachableError(url, "it ended the stream")


async def send_frames(
    client: httpx.AsyncClient, url: str, chunks: AsyncIterator[bytes], point: str
) -> None:
    """Sends frames for as long as there are any.

    Args:
        point: the name of this stream in `common.faults`.

    Raises:
        RefusedError: the other side refused them, and said so after the last one.
        UnreachableError: the connection broke.
    """
    try:
        content = faults.on(point, chunks)
        response = await client.post(url, content=content, timeout=STREAM_TIMEOUT)
    except httpx.HTTPError as error:
        raise UnreachableError(url, _told(error)) from error
    check(response, url)


def check(response: httpx.Response, url: str) -> None:
    """Raises `RefusedError` for a 4xx or 5xx answer whose body was read."""
    if response.is_error:
        raise RefusedError(url, response.status_code, _reason(response))


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text or response.reason_phrase


def _told(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
