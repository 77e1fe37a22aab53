"""Workers and agents that do as they are told, and remember what they know."""

import asyncio
from collections.abc import Callable
from enum import StrEnum

from agent.executors import Executors
from common.frames import Frame, Kind
from common.messages import (
    EndCause,
    ExecutorDraining,
    ExecutorLost,
    ExecutorReady,
    WorkerHello,
)
from dispatcher.members import ServedApplication, Worker
from tests.agents import StubDriver
from tests.stubs import StubPool, events, frame, held, release, waiting_in, worker_hello

HEARTBEAT_S = 10.0


class StillLoop(asyncio.SelectorEventLoop):
    """Its clock stands still until somebody moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 1000.0
        self.timers: list[tuple[float, Callable[..., object]]] = []

    def time(self) -> float:
        return self.clock

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *_: object, **__: object
    ) -> None:
        self.timers.append((self.clock + delay, callback))

    def run_timers(self) -> None:
        due = [callback for at, callback in self.timers if at <= self.clock]
        self.timers = [(at, callback) for at, callback in self.timers if at > self.clock]
        for callback in due:
            callback()


class StubLink:
    """An agent's streams at a dispatcher."""

    def __init__(self, pool: StubPool, app: ServedApplication) -> None:
        self.pool, self.app = pool, app
        self.stream, self.events = app.stream, app.events
        self.out: list[Frame] = []

    @property
    def whole(self) -> bool:
        """Whether the dispatcher knows it too."""
        return self.app.stream == self.stream and self.app.connected

    def send(self, data: bytes) -> None:
        raise NotImplementedError

    def release(self, executor: int, reason: str) -> None:
        self.out.append(release(executor, self.app.key))


class StubAgent:
    """An application's agent: what it believes is the real thing."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.driver = StubDriver()
        self.executors = Executors(self.driver, HEARTBEAT_S)
        self.links: dict[int, StubLink] = {}
        self.attachments: dict[int, int] = {}
        """The highest that was told of each executor."""
        self.over = False

    def lose(self, dispatcher: int) -> None:
        link = self.links.pop(dispatcher)
        self.executors.way_lost(link)
        assert self.executors.by_way(link) == []

    async def hear(self, dispatcher: int) -> None:
        link = self.links[dispatcher]
        for event in events(waiting_in(link.events)):
            match event:
                case ExecutorReady():
                    await self._ready(link, event)
                case ExecutorLost():
                    await self._lost(link, event)
                case ExecutorDraining():
                    await self.executors.draining(link, event.executor, event.reason)
        if not link.whole:
            self.lose(dispatcher)

    async def _ready(self, link: StubLink, event: ExecutorReady) -> None:
        before = self.executors.by_way(link)
        await self.executors.ready(link, event)
        if event.attachment < self.attachments.get(event.executor, 0):
            assert self.executors.by_way(link) == before, "an older one"
        else:
            self.attachments[event.executor] = event.attachment
            self._resume(event.executor)

    def _resume(self, executor: int) -> None:
        """The driver has it; see `agent.service.AgentService._take`."""
        self.executors.resume(executor)
        if (way := self.executors.ways.get(executor)) is not None:
            assert isinstance(way, StubLink)
            way.out.append(frame(Kind.RESUME, key=self.key, executor=executor))

    async def _lost(self, link: StubLink, event: ExecutorLost) -> None:
        """Another dispatcher's word is not believed."""
        number, before = event.executor, len(self.executors)
        here = number in self.executors.by_way(link)
        await self.executors.lost(link, number, event.reason, False)
        assert len(self.executors) == before - here


class Life(StrEnum):
    """Of an executor, as its worker knows it."""

    STARTING = "STARTING"
    READY = "READY"
    OVER = "OVER"  # its dispatcher may not know yet


class StubWorker:
    """A worker that does what it is told, and says what happens to its executors."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.attachments = 0
        self.home: int | None = None
        self.member: Worker
        self.stream = ""
        self.draining = False
        self.held: dict[tuple[str, int], Life] = {}
        self.untold: list[tuple[tuple[str, int], EndCause | None]] = []
        """Ends with their causes, and starts with none."""

    def hello(self) -> WorkerHello:
        return worker_hello(
            self.name,
            attachment=self.attachments,
            draining=self.draining,
            executors=tuple(
                held(executor, key, port=0 if life is Life.STARTING else 7)
                for (key, executor), life in self.held.items()
            ),
        )

    def having(self, life: Life) -> list[tuple[str, int]]:
        return [one for one, its in self.held.items() if its is life]
