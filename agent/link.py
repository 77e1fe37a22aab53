"""The agent's link to one dispatcher: tasks out, executor events in."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
from pydantic import ValidationError

from common.client import ask, call, pushed_frames, send_frames
from common.errors import FrameError, RefusedError, UnreachableError
from common.frames import Kind, encode
from common.logs import get_logger
from common.messages import (
    AGENT_EVENT,
    AgentEvent,
    ApplicationHello,
    ApplicationWelcome,
    ReleaseExecutor,
)
from common.outbox import Outbox
from common.registry import Entry

log = get_logger(__name__)
# A dispatcher that hangs takes connections, but does not answer.
OPEN_TIMEOUT_S = 3.0
OnEvent = Callable[["DispatcherLink", AgentEvent], Awaitable[None]]


class DispatcherLink:
    """One dispatcher, from opening the application there until it is lost or closed.

    Args:
        on_event: told, in order, what the dispatcher says of executors.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        entry: Entry,
        hello: ApplicationHello,
        settings_limits: tuple[float, int],
        on_event: OnEvent,
    ) -> None:
        self.entry = entry
        self.slots = 0
        self._client = client
        self._hello = hello
        self._heartbeat_s, self._max_frame_bytes = settings_limits
        self._on_event = on_event
        self._tasks = Outbox()
        self._base = f"{entry.url}/applications/{hello.application.key}"
        self._stream = ""

    async def open(self) -> None:
        """Opens the application.

        Raises:
            UnreachableError, RefusedError: it could not be opened.
        """
        url = f"{self.entry.url}/applications"
        welcome = await ask(
            self._client, "POST", url, self._hello, ApplicationWelcome, OPEN_TIMEOUT_S
        )
        self._stream = welcome.stream
        self.slots = welcome.slots

    def send(self, data: bytes) -> None:
        """Sends frames for executors of this dispatcher's workers."""
        self._tasks.put(data)

    def release(self, executor: int, reason: str) -> None:
        """The driver does not have this executor any more."""
        message = ReleaseExecutor(executor=executor, reason=reason)
        self._tasks.put(encode(Kind.CONTROL, message.model_dump_json().encode()))

    def ping(self) -> None:
        """Shows the dispatcher that this application lives."""
        self._tasks.ping()

    async def run(self) -> str:
        """Serves the open link; returns why it ended."""
        sending = asyncio.create_task(self._send())
        receiving = asyncio.create_task(self._receive())
        try:
            done, _ = await asyncio.wait(
                {sending, receiving}, return_when=asyncio.FIRST_COMPLETED
            )
            return _told(done.pop())
        finally:
            sending.cancel()
            receiving.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)

    async def close(self) -> None:
        """Says goodbye: the executors of the application stop."""
        try:
            await call(self._client, "DELETE", self._base)
        except (UnreachableError, RefusedError) as error:
            log.warning("dispatcher.goodbye", dispatcher=self.entry.id, reason=str(error))

    async def _send(self) -> None:
        url = f"{self._base}/tasks?stream={self._stream}"
        await send_frames(self._client, url, self._tasks.stream(), "tasks")

    async def _receive(self) -> None:
        url = f"{self._base}/events?stream={self._stream}"
        async for frame in pushed_frames(
            self._client, url, self._heartbeat_s, self._max_frame_bytes
        ):
            if frame.kind == Kind.CONTROL:
                await self._on_event(self, AGENT_EVENT.validate_json(frame.payload))


def _told(ended: asyncio.Task[None]) -> str:
    error = ended.exception()
    if error is None:
        return "the dispatcher ended the stream"
    if isinstance(error, RefusedError | UnreachableError | FrameError | ValidationError):
        return str(error)
    raise error
