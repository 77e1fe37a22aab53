"""The stream of one executor's task states to its application's agent."""

import asyncio
from collections import deque
from collections.abc import Callable

from common.client import ask, new_client, send_frames
from common.errors import RefusedError, UnreachableError
from common.frames import Frame
from common.logs import get_logger
from common.messages import ResultsHello, ResultsWelcome
from common.outbox import Outbox

log = get_logger(__name__)
RETRY_S = 0.2
# A broken connection shows only when something is written to it.
BEAT_S = 1.0
# The driver confirms each second: what took so much longer was lost on the way.
REPEAT_S = 5.0
# A driver that was not reachable for so long has ended, or never will be again. Its agent may
# have to be started anew meanwhile, on a busy machine.
ABANDON_S = 60.0
# What a dead executor had already finished may take this long to reach the driver; what one has
# that was asked to leave longer, for its agent may have to be started anew.
FLUSH_S = 1.0
LEAVING_FLUSH_S = 5.0
# The stream broke, and may be opened again; any other refusal is meant for the executor.
BROKEN_STATUS = frozenset({400, 409})


class ResultStream:
    """Keeps every state until the driver has confirmed it, and repeats it after a break.

    A stream gives no answer per frame. Confirmations come as ACK frames along the way that
    tasks travel.

    Args:
        beat: the ACK frame that confirms what this executor has taken, sent when nothing else is.
    """

    def __init__(self, url: str, token: str, executor: int, beat: Callable[[], bytes]) -> None:
        self._url = url
        self._executor = executor
        self._beat = beat
        self._client = new_client(token)
        self._kept: deque[Frame] = deque()
        self._outbox = Outbox()
        self._openings = 0
        self._closing = False
        self._closing_until = float("inf")
        self._beat_s = BEAT_S
        # When the oldest frame was sent, or something was confirmed; seconds of the loop's clock.
        self._progress = 0.0
        self._reached = 0.0

    def put(self, frame: Frame) -> None:
        """Sends a STATUS or REPLY frame."""
        if not self._kept:
            self._progress = _now()
        self._kept.append(frame)
        self._outbox.put(frame.raw)

    def acknowledge(self, sequence: int) -> None:
        """The driver has all frames up to this one."""
        while self._kept and self._kept[0].sequence <= sequence:
            self._kept.popleft()
            self._progress = _now()

    async def run(self) -> None:
        """Sends until `close`; ends early when the agent refuses this executor, or is gone."""
        beating = asyncio.create_task(self._keep_beating())
        self._reached = _now()
        try:
            while not (await self._stream() and self._closing):
                if _now() > self._closing_until or _now() - self._reached > ABANDON_S:
                    break
                await asyncio.sleep(RETRY_S)
                self._repeat()
        except RefusedError as error:
            log.warning("results.refused", executor=self._executor, reason=str(error))
        finally:
            beating.cancel()
            await self._client.aclose()

    def close(self, patience_s: float = FLUSH_S) -> None:
        """Lets `run` end once what is here has been sent, or after so long."""
        self._closing = True
        self._closing_until = _now() + patience_s
        self._outbox.close()

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            if not self._outbox.is_empty:
                # A large result on a slow line is no lost one.
                self._progress = _now()
            elif self._kept and _now() - self._progress > REPEAT_S:
                log.warning("results.unconfirmed", executor=self._executor)
                self._outbox.close()
            else:
                self._outbox.put(self._beat())

    async def _stream(self) -> bool:
        """One connection, from opening to end; whether everything was sent."""
        self._openings += 1
        try:
            hello = ResultsHello(executor=self._executor, opening=self._openings)
            welcome = await ask(
                self._client, "POST", f"{self._url}/results", hello, ResultsWelcome
            )
            self._beat_s = min(BEAT_S, welcome.heartbeat_s / 3)
            self._reached = _now()
            target = f"{self._url}/results/{welcome.stream}"
            try:
                await send_frames(self._client, target, self._outbox.stream(), "results")
            finally:
                self._reached = _now()
        except UnreachableError as error:
            log.warning("results.broken", executor=self._executor, reason=str(error))
            return False
        except RefusedError as error:
            if error.status not in BROKEN_STATUS:
                raise
            log.warning("results.broken", executor=self._executor, reason=str(error))
            return False
        finally:
            self._progress = _now()
        return True

    def _repeat(self) -> None:
        """What was in the broken connection may be lost: all that is kept goes out again."""
        self._outbox.close()
        self._outbox = Outbox()
        self._outbox.put(self._beat())
        for frame in self._kept:
            self._outbox.put(frame.raw)
        if self._closing:
            self._outbox.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
