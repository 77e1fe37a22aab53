"""An agent's HTTP side, and a way to it that a test can cut."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx
from prometheus_client import CollectorRegistry

from agent.driver import DriverError
from agent.executors import Executors
from agent.results import new_results_app
from common.frames import Frame, FrameDecoder, Kind
from common.service import HttpServer
from common.settings import Settings

TOKEN = "token-of-one-application"
EXECUTOR = 1_000_000
MAX_BODY = 4096
MAX_FRAME = 65536
WAIT_S = 10.0


class StubDriver:
    """What an agent tells a driver JVM of executors."""

    def __init__(self) -> None:
        self.registered: list[int] = []
        """By registration, so that an executor which is reached anew stands there again."""
        self.removed: dict[int, tuple[str, bool]] = {}
        """Why, and whether by the application's own tasks."""
        self.drained: list[int] = []
        self.refuses: set[int] = set()
        self.fails: set[int] = set()

    async def register_executor(
        self, executor: int, host: str, port: int, slots: int, inside: bool
    ) -> bool:
        # As py4j does, which leaves the loop to others meanwhile.
        await asyncio.sleep(0)
        if executor in self.fails:
            raise DriverError("registerExecutor", "it is stopping")
        if executor in self.refuses or executor in self.removed:
            return False
        self.registered.append(executor)
        return True

    async def remove_executor(self, executor: int, reason: str, by_application: bool) -> None:
        await asyncio.sleep(0)
        self.removed[executor] = reason, by_application

    async def drain_executor(self, executor: int, reason: str) -> None:
        await asyncio.sleep(0)
        self.drained.append(executor)


@dataclass
class Agent:
    """The agent's HTTP side, and what it has handed to its driver."""

    executors: Executors
    url: str = ""
    delivered: bytearray = field(default_factory=bytearray)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def frames(self) -> list[Frame]:
        """All but the signs of life."""
        decoded = FrameDecoder(MAX_FRAME).feed(bytes(self.delivered))
        return [frame for frame in decoded if frame.kind != Kind.ACK]

    @property
    def sequences(self) -> list[int]:
        return [frame.sequence for frame in self.frames]

    def deliver(self, data: bytes) -> None:
        self.delivered += data
        self.arrived.set()

    async def has_delivered(self, count: int) -> None:
        """Waits until that many frames are there."""
        await self.until(lambda: len(self.frames) >= count)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until something arrives that makes this true."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self.arrived.clear()
                await self.arrived.wait()

    def client(self, token: str = TOKEN) -> httpx.AsyncClient:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False)


@asynccontextmanager
async def agent_server(port: int = 0) -> AsyncIterator[Agent]:
    """The agent's results application on a real server."""
    agent = Agent(Executors(StubDriver(), heartbeat_s=10.0))
    limits = {"message.max.bytes": MAX_BODY, "frame.max.bytes": MAX_FRAME}
    app = new_results_app(
        Settings.model_validate(limits),
        TOKEN,
        CollectorRegistry(),
        agent.deliver,
        agent.executors,
    )
    server = HttpServer(app, "127.0.0.1", port, "agent.host")
    agent.url = server.url
    serving = asyncio.create_task(server.serve())
    try:
        yield agent
    finally:
        server.stop()
        await asyncio.wait_for(serving, WAIT_S)


class Way:
    """A TCP way to a port on loopback, which can be cut."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.url = ""

    def cut(self) -> None:
        """Breaks every connection; new ones get through."""
        for writer in self._writers:
            writer.transport.abort()

    async def open(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        both = {writer, back}
        self._writers |= both
        try:
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        finally:
            self._writers -= both


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def way_to(agent: Agent) -> AsyncIterator[Way]:
    way = Way(agent.port)
    await way.open()
    try:
        yield way
    finally:
        await way.close()
