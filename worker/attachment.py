"""The worker's place at a dispatcher: the stream it takes tasks from, and its reports."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle

import httpx
from pydantic import BaseModel, ValidationError

from common.client import ask, call, pushed_frames
from common.errors import FrameError, RefusedError, UnreachableError
from common.frames import Frame, Kind
from common.logs import get_logger
from common.messages import (
    WORKER_COMMAND,
    EndCause,
    ExecutorEnded,
    ExecutorStarted,
    SendReport,
    StartExecutor,
    StopExecutor,
    WorkerHello,
    WorkerReport,
    WorkerWelcome,
)
from worker.runtime import Runtime

log = get_logger(__name__)
RETRY_S = 1.0
# Three reports a heartbeat: one may be late without the worker being given up.
REPORTS_PER_HEARTBEAT = 3


class Attachment:
    """Attaches to one of the dispatchers, again and again, and serves it while it lasts.

    Args:
        hello: builds what the worker says of itself.
        urls: the dispatchers to try, in turn.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        hello: Callable[[], WorkerHello],
        urls: Sequence[str],
        max_frame_bytes: int,
    ) -> None:
        self._client = client
        self._hello = hello
        # Dispatchers share the workers without talking to each other: by chance.
        self._urls = random.sample(urls, len(urls))
        self._max_frame_bytes = max_frame_bytes
        self._home = ""
        self._welcome: WorkerWelcome | None = None
        self._reporting = asyncio.Lock()
        self._leaving = False

    @property
    def dispatcher(self) -> str:
        """URL of the dispatcher that this worker is attached to, empty while there is none."""
        return self._home.rpartition("/workers/")[0] if self._welcome else ""

    async def run(self, runtime: Runtime) -> None:
        """Serves dispatchers until cancelled, or until it has left."""
        told = ""
        for url in cycle(self._urls):
            try:
                await self._serve(url, runtime)
            except (UnreachableError, RefusedError, FrameError) as error:
                if str(error) != told:
                    log.warning("dispatcher.lost", dispatcher=url, reason=str(error))
                told = str(error)
            finally:
                self._welcome = None
            # Whoever lost us has given up our executors, and their tasks run elsewhere.
            await runtime.stop_all()
            if self._leaving:
                return
            await asyncio.sleep(RETRY_S)

    async def leave(self) -> None:
        """Says goodbye, so that nobody waits for this worker."""
        self._leaving = True
        if self._welcome is not None:
            with suppress(UnreachableError, RefusedError):
                await call(self._client, "DELETE", f"{self._home}?stream={self._welcome.stream}")

    async def started(self, command: StartExecutor, port: int) -> None:
        await self._tell(
            "executors",
            lambda stream: ExecutorStarted(
                stream=stream,
                application=command.application.key,
                executor=command.executor,
                port=port,
            ),
        )

    async def ended(self, command: StartExecutor, reason: str, cause: EndCause) -> None:
        await self._tell(
            "executors",
            lambda stream: ExecutorEnded(
                stream=stream,
                application=command.application.key,
                executor=command.executor,
                reason=reason,
                cause=cause,
            ),
        )

    async def report(self, runtime: Runtime) -> None:
        async with self._reporting:
            await self._tell(
                "report",
                lambda stream: WorkerReport(
                    stream=stream,
                    slots_busy=runtime.slots_busy,
                    tasks_done=runtime.tasks_done,
                    tasks_failed=runtime.tasks_failed,
                    tasks_moved=0,
                    applications=runtime.counts(),
                ),
            )

    async def _tell(self, what: str, message: Callable[[str], BaseModel]) -> None:
        """Tells the dispatcher; when it is gone the stream breaks, which says the same."""
        if self._welcome is None:
            return
        try:
            await call(
                self._client, "POST", f"{self._home}/{what}", message(self._welcome.stream)
            )
        except (UnreachableError, RefusedError) as error:
            log.warning("dispatcher.untold", what=what, reason=str(error))

    async def _serve(self, url: str, runtime: Runtime) -> None:
        hello = self._hello()
        self._home = f"{url}/workers/{hello.id}"
        self._welcome = await ask(self._client, "POST", f"{url}/workers", hello, WorkerWelcome)
        log.info("dispatcher.attached", dispatcher=url)
        interval_s = self._welcome.heartbeat_s / REPORTS_PER_HEARTBEAT
        reports = asyncio.create_task(self._keep_reporting(runtime, interval_s))
        try:
            url = f"{self._home}/stream?stream={self._welcome.stream}"
            async for frame in pushed_frames(
                self._client, url, self._welcome.heartbeat_s, self._max_frame_bytes
            ):
                self._take(frame, runtime)
        finally:
            reports.cancel()

    async def _keep_reporting(self, runtime: Runtime, interval_s: float) -> None:
        while True:
            await self.report(runtime)
            await asyncio.sleep(interval_s)

    def _take(self, frame: Frame, runtime: Runtime) -> None:
        if frame.kind == Kind.CONTROL:
            self._obey(frame, runtime)
        elif frame.kind != Kind.PING:
            runtime.take(frame)

    def _obey(self, frame: Frame, runtime: Runtime) -> None:
        try:
            command = WORKER_COMMAND.validate_json(frame.payload)
        except ValidationError as error:
            log.error("dispatcher.malformed", reason=str(error))
            return
        match command:
            case StartExecutor():
                runtime.start(command)
            case StopExecutor():
                runtime.stop(command)
            case SendReport():
                asyncio.create_task(self.report(runtime))  # noqa: RUF006 - short, ends by itself
