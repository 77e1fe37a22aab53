"""How our processes call each other: httpx with the token, and errors of our own."""

from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from common.errors import RefusedError, UnreachableError

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
    client: httpx.AsyncClient, method: str, url: str, message: BaseModel | None = None
) -> bytes:
    """One short request; returns the body of the answer.

    Raises:
        RefusedError: the other side answered 4xx or 5xx, with its reason.
        UnreachableError: it did not answer.
    """
    content = message.model_dump_json().encode() if message is not None else None
    headers = {"Content-Type": "application/json"} if message is not None else {}
    try:
        response = await client.request(method, url, content=content, headers=headers)
    except httpx.HTTPError as error:
        raise UnreachableError(url, _told(error)) from error
    check(response, url)
    return response.content


async def ask(
    client: httpx.AsyncClient, method: str, url: str, message: BaseModel, reply: type[Reply]
) -> Reply:
    """As `call`, with the answer as a message."""
    answer = await call(client, method, url, message)
    try:
        return reply.model_validate_json(answer)
    except ValidationError as error:
        problem = f"its answer is no {reply.__name__}; does it have another version?"
        raise UnreachableError(url, problem) from error


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
