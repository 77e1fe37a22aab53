"""The stream of one executor's task states to its application's agent."""

import asyncio
from collections import deque

from common.client import ask, new_client, send_frames
from common.errors import RefusedError, UnreachableError
from common.frames import Frame
from common.logs import get_logger
from common.messages import ResultsHello, ResultsWelcome
from common.outbox import Outbox

log = get_logger(__name__)
RETRY_S = 0.2
# A broken connection shows only when something is written to it.
PING_S = 1.0


class ResultStream:
    """Keeps every state until the driver has confirmed it, and repeats it after a break.

    A stream gives no answer per frame. Confirmations come as ACK frames along the way that
    tasks travel.
    """

    def __init__(self, url: str, token: str, executor: int) -> None:
        self._url = url
        self._executor = executor
        self._client = new_client(token)
        self._kept: deque[Frame] = deque()
        self._outbox = Outbox()
        self._closing = False

    def put(self, frame: Frame) -> None:
        """Sends a STATUS or REPLY frame."""
        if frame.sequence and frame.is_status:
            self._kept.append(frame)
        self._outbox.put(frame.raw)

    def acknowledge(self, sequence: int) -> None:
        """The driver has all states up to this one."""
        while self._kept and self._kept[0].sequence <= sequence:
            self._kept.popleft()

    async def run(self) -> None:
        """Sends until `close`; ends early when the agent refuses this executor."""
        pinging = asyncio.create_task(self._ping())
        try:
            while not await self._stream():
                await asyncio.sleep(RETRY_S)
                self._repeat()
        except RefusedError as error:
            log.warning("results.refused", executor=self._executor, reason=str(error))
        finally:
            pinging.cancel()
            await self._client.aclose()

    def close(self) -> None:
        """Lets `run` end once what is here has been sent."""
        self._closing = True
        self._outbox.close()

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            self._outbox.ping()

    async def _stream(self) -> bool:
        """One connection, from opening to end; whether everything was sent."""
        try:
            hello = ResultsHello(executor=self._executor)
            welcome = await ask(
                self._client, "POST", f"{self._url}/results", hello, ResultsWelcome
            )
            target = f"{self._url}/results/{welcome.stream}"
            await send_frames(self._client, target, self._outbox.stream())
        except UnreachableError as error:
            log.warning("results.broken", executor=self._executor, reason=str(error))
            # A driver that is gone takes no results any more.
            return self._closing
        return True

    def _repeat(self) -> None:
        """What was in the broken connection may be lost: all that is kept goes out again."""
        self._outbox.close()
        self._outbox = Outbox()
        for frame in self._kept:
            self._outbox.put(frame.raw)
        if self._closing:
            self._outbox.close()
