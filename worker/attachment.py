"""The worker's place at a dispatcher: the stream it takes tasks from, and its reports."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

import httpx
from pydantic import BaseModel, ValidationError

from common.client import ask, call, pushed_frames
from common.errors import FrameError, RefusedError, UnreachableError
from common.frames import Frame, Kind
from common.logs import get_logger
from common.messages import (
    WORKER_COMMAND,
    Drain,
    EndCause,
    ExecutorEnded,
    ExecutorStarted,
    KnowDispatchers,
    SendReport,
    StartExecutor,
    StopExecutor,
    WorkerHello,
    WorkerReport,
    WorkerWelcome,
)
from worker.runtime import Runtime

log = get_logger(__name__)
RETRY_S = 0.5
# A dispatcher that hangs takes connections, but does not answer: then another one is tried.
ATTACH_TIMEOUT_S = 3.0
# Three reports a heartbeat: one may be late without the worker being given up.
REPORTS_PER_HEARTBEAT = 3


class Attachment:
    """Attaches to one of the dispatchers, again and again, and serves it while it lasts.

    What the worker runs goes on while it is attached nowhere; its hello says what that is.

    Args:
        hello: builds what the worker says of itself, given the number of the attachment.
        urls: the dispatchers to try, in turn; the one that is found tells of others.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        hello: Callable[[int], WorkerHello],
        urls: Sequence[str],
        max_frame_bytes: int,
    ) -> None:
        self._client = client
        self._hello = hello
        # Dispatchers share the workers without talking to each other: by chance.
        self._configured = tuple(random.sample(urls, len(urls)))
        self._urls = self._configured
        self._max_frame_bytes = max_frame_bytes
        self._attachments = 0
        self._home = ""
        self._welcome: WorkerWelcome | None = None
        self._reporting = asyncio.Lock()
        self._draining = False
        self._leaving = False
        self.told_to_drain = asyncio.Event()

    @property
    def dispatcher(self) -> str:
        """URL of the dispatcher that this worker is attached to, empty while there is none."""
        return self._home.rpartition("/workers/")[0] if self._welcome else ""

    async def run(self, runtime: Runtime) -> None:
        """Serves dispatchers until cancelled, or until it has left."""
        told, failures, url = "", 0, self._urls[0]
        while not self._leaving:
            began = asyncio.get_running_loop().time()
            try:
                await self._serve(url, runtime)
            except (UnreachableError, RefusedError, FrameError) as error:
                if str(error) != told:
                    log.warning("dispatcher.lost", dispatcher=url, reason=str(error))
                told = str(error)
            lasted_s = asyncio.get_running_loop().time() - began
            failures = 0 if self._welcome is not None and lasted_s > RETRY_S else failures + 1
            self._welcome = None
            # Another one is there at once, if there is one; else this one may be back soon.
            url = self._after(url)
            if failures >= len(self._urls):
                await asyncio.sleep(RETRY_S)

    async def drain(self) -> None:
        """Says that this worker is about to leave, to this dispatcher and to later ones."""
        self._draining = True
        if self._welcome is not None:
            with suppress(UnreachableError, RefusedError):
                await call(self._client, "POST", f"{self._home}/drain")

    async def leave(self) -> None:
        """Says goodbye, so that nobody waits for this worker."""
        self._leaving = True
        if self._welcome is not None:
            with suppress(UnreachableError, RefusedError):
                await call(self._client, "DELETE", f"{self._home}?stream={self._welcome.stream}")

    async def started(self, command: StartExecutor, port: int) -> None:
        await self._tell(
            lambda stream: ExecutorStarted(
                stream=stream,
                application=command.application.key,
                executor=command.executor,
                port=port,
            ),
        )

    async def ended(self, app: str, executor: int, reason: str, cause: EndCause) -> None:
        await self._tell(
            lambda stream: ExecutorEnded(
                stream=stream, application=app, executor=executor, reason=reason, cause=cause
            ),
        )

    async def report(self, runtime: Runtime) -> None:
        """Sends the heartbeat.

        Raises:
            RefusedError: this attachment is over.
        """
        async with self._reporting:
            if self._welcome is None:
                return
            report = WorkerReport(
                stream=self._welcome.stream,
                slots_busy=runtime.slots_busy,
                tasks_done=runtime.tasks_done,
                tasks_failed=runtime.tasks_failed,
                tasks_moved=0,
                applications=runtime.counts(),
            )
            try:
                await call(self._client, "POST", f"{self._home}/report", report)
            except UnreachableError as error:
                log.warning("dispatcher.untold", what="report", reason=str(error))

    async def _tell(self, message: Callable[[str], BaseModel]) -> None:
        """Tells the dispatcher of an executor, or the next one: until somebody knows."""
        while True:
            if self._welcome is not None:
                try:
                    content = message(self._welcome.stream)
                    await call(self._client, "POST", f"{self._home}/executors", content)
                    return
                except (UnreachableError, RefusedError) as error:
                    log.warning("dispatcher.untold", what="executors", reason=str(error))
            await asyncio.sleep(RETRY_S)

    async def _serve(self, url: str, runtime: Runtime) -> None:
        self._attachments += 1
        hello = self._hello(self._attachments)
        self._home = f"{url}/workers/{hello.id}"
        welcome = await ask(
            self._client, "POST", f"{url}/workers", hello, WorkerWelcome, ATTACH_TIMEOUT_S
        )
        self._welcome = welcome
        self._know(welcome.dispatchers)
        log.info("dispatcher.attached", dispatcher=url, held=len(hello.executors))
        if self._draining and not hello.draining:
            await self.drain()
        interval_s = welcome.heartbeat_s / REPORTS_PER_HEARTBEAT
        work = [
            asyncio.create_task(self._keep_reporting(runtime, interval_s)),
            asyncio.create_task(self._keep_taking(runtime, welcome)),
        ]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
        finally:
            for one in work:
                one.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _keep_taking(self, runtime: Runtime, welcome: WorkerWelcome) -> None:
        url = f"{self._home}/stream?stream={welcome.stream}"
        async for frame in pushed_frames(
            self._client, url, welcome.heartbeat_s, self._max_frame_bytes
        ):
            self._take(frame, runtime)

    async def _keep_reporting(self, runtime: Runtime, interval_s: float) -> None:
        while True:
            await self.report(runtime)
            await asyncio.sleep(interval_s)

    def _know(self, urls: Sequence[str]) -> None:
        known = tuple(dict.fromkeys((*self._configured, *urls)))
        if known != self._urls:
            log.info("dispatchers.known", urls=known)
        self._urls = known

    def _after(self, url: str) -> str:
        urls = self._urls
        return urls[(urls.index(url) + 1) % len(urls)] if url in urls else urls[0]

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
            case Drain():
                self.told_to_drain.set()
            case KnowDispatchers():
                self._know(command.urls)
            case SendReport():
                asyncio.create_task(self._report_now(runtime))  # noqa: RUF006 - ends by itself

    async def _report_now(self, runtime: Runtime) -> None:
        # The next regular report meets the same refusal, and ends the attachment.
        with suppress(RefusedError):
            await self.report(runtime)
