"""A worker's runtime whose executors are no JVMs, and dispatchers in the same event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from prometheus_client import CollectorRegistry

from common.executor import ExecutorFailedToStart, ExecutorPlan
from common.frames import Frame, FrameDecoder
from common.messages import DispatcherStatus, StartExecutor
from common.service import HttpServer
from common.settings import Home, Settings
from dispatcher.server import new_server
from tests.stubs import FIRST, KEY, SPARK, StubPool, application
from worker.runtime import Ended, Lent, Runtime, Started

TOKEN = "token-of-the-pool"
SLOTS = 2
MAX_FRAME = 65536


class StubProcess:
    """Takes the place of an executor JVM: says what a test wants it to say."""

    made: ClassVar[list[Any]] = []
    log_file = Path("stderr")

    def __init__(
        self, plan: ExecutorPlan | None, on_frames: Callable[[list[Frame]], None]
    ) -> None:
        self.say = on_frames
        self.taken: list[Frame] = []
        self.ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.made.append(self)

    async def start(self) -> int:
        await asyncio.wait({self.ready, self.exit}, return_when=asyncio.FIRST_COMPLETED)
        if not self.ready.done():
            raise ExecutorFailedToStart("exit status 1", self.log_file)
        return self.ready.result()

    def send(self, data: bytes) -> None:
        self.taken += FrameDecoder(MAX_FRAME).feed(data)

    async def ended(self) -> int:
        return await asyncio.shield(self.exit)

    async def stop(self) -> None:
        self.end(143)

    def end(self, code: int) -> None:
        if not self.exit.done():
            self.exit.set_result(code)

    @property
    def sequences(self) -> list[int]:
        return [frame.sequence for frame in self.taken]


def stub_processes(monkeypatch: pytest.MonkeyPatch) -> list[StubProcess]:
    """From here on executors are stubs; returns them as they are made."""
    made: list[StubProcess] = []
    monkeypatch.setattr(StubProcess, "made", made)
    monkeypatch.setattr("worker.runtime.ExecutorProcess", StubProcess)
    monkeypatch.setattr(Runtime, "_plan", lambda *_: None)
    return made


def lent(slots: int = SLOTS) -> Lent:
    return Lent(
        id="w1",
        host="localhost",
        slots=slots,
        memory_mb=4096,
        java=Path("java"),
        sparks={},
        pythons={},
        pythons_named=False,
        max_frame_bytes=MAX_FRAME,
    )


def runtime(started: Started, ended: Ended) -> Runtime:
    return Runtime(lent(), Home(root=Path(), conf=Path(), pids=Path()), started, ended)


def start_command(key: str = KEY, executor: int = FIRST, **changes: Any) -> StartExecutor:
    return StartExecutor(
        application=application(key, spark=SPARK, **changes), executor=executor, slots=SLOTS
    )


@asynccontextmanager
async def dispatcher_server(pool: StubPool, port: int = 0) -> AsyncIterator[str]:
    """A dispatcher's HTTP side with this pool; yields its URL."""
    status = DispatcherStatus(id="d", url="", pid=1, workers=0)
    app = new_server(pool, Settings(), TOKEN, CollectorRegistry(), lambda: status)
    server = HttpServer(app, "127.0.0.1", port, "dispatcher.port")
    serving = asyncio.create_task(server.serve())
    try:
        yield server.url
    finally:
        for worker in pool.workers.values():
            worker.outbox.close()
        server.stop()
        await serving
