"""Numbered frames on ways that break: a driver by its model, the real dispatchers and worker."""

from collections import Counter, deque
from collections.abc import Callable
from itertools import count as count_from

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.results import _check
from common.errors import FrameLost
from common.frames import Frame, FrameDecoder, Kind
from common.messages import ExecutorReady
from common.outbox import Outbox
from dispatcher.members import Worker
from tests.driver_model import DriverModel, finished
from tests.placing_stubs import StillLoop
from tests.stubs import (
    FIRST,
    KEY,
    StubPool,
    application_hello,
    events,
    held,
    waiting_in,
    worker_hello,
)
from tests.workers import runtime, start_command
from worker.results import ResultStream
from worker.runtime import RunningExecutor

STEPS = [
    *[("launch", 0), ("arrive", 0), ("arrive", 0), ("finish", 0), ("finish", 0)],
    *[("route", 0), ("route", 1), ("hear", 0), ("hear", 1), ("confirm", 0)],
    *[("beat", 0), ("leave_worker", 0), ("leave_worker", 0)],
    *[("reach_agent", -1), ("reach_agent", -1), ("reach_agent", -2)],
]


class Delivery(RuleBasedStateMachine):
    """One executor, the frames to it and from it, and connections that break anywhere.

    No break costs a second one: the worker finds no number missing in what it is sent.

    Two dispatchers route what the agent sends to the present stream of the worker, which reads
    one stream at a time. Its result streams may overlap: an old one still brings what was on
    its way when the next one is there already.
    """

    def __init__(self) -> None:
        super().__init__()
        self.driver = DriverModel(self._to_agent)
        # Agent
        self.known = 0
        self.present = 0
        self.way: int | None = None
        self.links: list[deque[Frame]] = [deque(), deque()]
        self.events: list[deque[int]] = [deque(), deque()]
        # Dispatchers
        self.loop = StillLoop()
        self.openings = count_from(FIRST + 100)
        self.pools = [StubPool(), StubPool()]
        for dispatcher in (0, 1):
            self.open(dispatcher)
        # Worker
        self.runtime = runtime(_unheard, _unheard)
        self.stream: deque[Frame] = deque()
        self.attachment = 0
        self.home = 0
        self.process = StubJvm()
        self.results = ResultStream("", "", FIRST, lambda: self.runtime._confirm(self.owner))
        self.executor = RunningExecutor(start_command(), self.process, self.results, port=7)  # type: ignore[arg-type]
        self.owner = self.executor.owner
        self.runtime._executors[self.owner] = self.executor
        self.numbered = 0
        self.began: list[int] = []
        # Result connections: what is in flight, and the number that the agent has come to.
        self.connections: list[tuple[deque[Frame], list[int]]] = [(deque(), [0])]
        self.next_task = 0
        self.attach(0)
        self.hear(0)

    def run(self, call: Callable[[], object]) -> None:
        """For what wants to know the time."""

        async def calling() -> None:
            call()

        self.loop.run_until_complete(calling())

    # Driver to executor

    def _to_agent(self, one: Frame) -> None:
        if one.kind == Kind.RESUME:
            self.way = self.present
        if self.way is not None:
            self.links[self.way].append(one)

    def launch(self) -> None:
        if not self.driver.removed:
            self.driver.launch(self.next_task)
            self.next_task += 1

    @precondition(lambda self: self.driver.launched)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        self.driver.kill(data.draw(st.sampled_from(sorted(self.driver.launched))))

    @precondition(lambda self: not self.driver.removed)
    @rule()
    def repeat(self) -> None:
        self.driver.repeat()

    def route(self, dispatcher: int, count: int = 2) -> None:
        """A dispatcher passes on what it has."""
        link, pool = self.links[dispatcher], self.pools[dispatcher]
        if frames := [link.popleft() for _ in range(min(count, len(link)))]:
            self.run(lambda: pool.route(pool.applications[KEY], frames))
            self.push()

    def push(self) -> None:
        """What waits for the worker at its dispatcher is on its way."""
        sent = FrameDecoder(2**20).feed(waiting_in(self.member.outbox))
        self.stream.extend(one for one in sent if one.kind != Kind.CONTROL)

    def announced(self, dispatcher: int) -> None:
        """What a dispatcher says of the executor is on its way to the agent."""
        for event in events(waiting_in(self.pools[dispatcher].applications[KEY].events)):
            if isinstance(event, ExecutorReady):
                self.events[dispatcher].append(event.attachment)

    def arrive(self, count: int = 2) -> None:
        while self.stream and count:
            count -= 1
            self.runtime.take(self.stream.popleft())

    @rule(count=st.integers(1, 5))
    def stall(self, count: int) -> None:
        """The worker has no room on its stream."""
        outbox, self.member.outbox = self.member.outbox, Outbox(max_bytes=-1)
        self.route(self.home, count)
        self.member.outbox = outbox

    @rule()
    def unstall(self) -> None:
        """It has taken all that there was, and has room again."""
        self.arrive(len(self.stream))
        self.run(lambda: self.pools[self.home].placement.unstall(self.member))
        self.announced(self.home)

    @rule(dispatcher=st.integers(0, 1))
    def attach(self, dispatcher: int) -> None:
        """What was in flight on the old stream is lost."""
        self.stream.clear()
        self.attachment += 1
        self.home = dispatcher
        pool = self.pools[dispatcher]
        hello = worker_hello(attachment=self.attachment, executors=(held(),))
        self.run(lambda: pool.attach(hello))
        self.member: Worker = pool.workers["w1"]
        self.announced(dispatcher)

    def hear(self, dispatcher: int) -> None:
        """The agent hears of an attachment; see `agent.executors.Executors.ready`."""
        if self.events[dispatcher]:
            attachment = self.events[dispatcher].popleft()
            if attachment >= self.known and not self.driver.removed:
                self.known, self.present, self.way = attachment, dispatcher, None
                self.driver.register()

    @rule(dispatcher=st.integers(0, 1))
    def break_link(self, dispatcher: int) -> None:
        """The agent's streams at a dispatcher break, and are opened again at once."""
        self.links[dispatcher].clear()
        self.events[dispatcher].clear()
        if self.way == dispatcher:
            self.way = None
        self.open(dispatcher)

    def open(self, dispatcher: int) -> None:
        hello = application_hello(first_executor=next(self.openings))
        self.run(lambda: self.pools[dispatcher].open(hello))
        self.announced(dispatcher)

    # Executor to driver

    def finish(self) -> None:
        if self.process.running:
            self.numbered += 1
            ended = finished(self.process.running.pop(), self.numbered)
            self.runtime._collect(self.owner, [ended])

    def beat(self) -> None:
        self.results._outbox.put(self.results._beat())

    def leave_worker(self) -> None:
        """What waits goes into the present connection."""
        data = waiting_in(self.results._outbox)
        self.connections[-1][0].extend(FrameDecoder(2**20).feed(data))

    def reach_agent(self, which: int = -1, count: int = 2) -> None:
        flight, last = connection = self.connections[which % len(self.connections)]
        while flight and count:
            count -= 1
            one = flight.popleft()
            try:
                last[0] = _check(one, FIRST, last[0])
            except FrameLost:
                flight.clear()
                if connection is self.connections[-1]:
                    self.reconnect(False)
                return
            self.driver.take(one)

    @rule(drop=st.booleans())
    def reconnect(self, drop: bool) -> None:
        """The result stream breaks; what was in flight is lost, or comes late."""
        if drop:
            self.connections[-1][0].clear()
        self.connections = [*self.connections[-2:], (deque(), [0])]
        self.results._repeat()

    def confirm(self) -> None:
        self.driver.confirm()

    # Both at once

    @rule(steps=st.lists(st.sampled_from(STEPS), min_size=10, max_size=60))
    def flow(self, steps: list[tuple[str, int]]) -> None:
        """What goes on while nothing breaks."""
        for name, argument in steps:
            step = getattr(self, name)
            step(argument) if name in {"route", "hear", "reach_agent"} else step()

    # The end

    @precondition(lambda self: self.next_task > 20)
    @rule()
    def remove(self) -> None:
        self.driver.remove()

    @invariant()
    def each_task_begins_once(self) -> None:
        assert max(self.process.begun.values(), default=1) == 1

    @invariant()
    def each_end_is_told_once(self) -> None:
        assert max(self.driver.reports.values(), default=1) == 1

    @invariant()
    def frames_reach_the_executor_in_order(self) -> None:
        launches = [one.sequence for one in self.process.taken if one.kind == Kind.MESSAGE]
        assert launches == sorted(set(launches))

    def teardown(self) -> None:
        """Everything is reconnected, and gets the time that it needs."""
        try:
            self._settle()
        finally:
            self.loop.close()

    def _settle(self) -> None:
        self.attach(0)
        self.reconnect(True)
        for _ in range(20 + 4 * self.next_task):
            for dispatcher in (1, 0):
                while self.events[dispatcher]:
                    self.hear(dispatcher)
                self.route(dispatcher, 1000)
            self.arrive(1000)
            while self.process.running:
                self.finish()
            self.beat()
            self.leave_worker()
            for which in range(len(self.connections)):
                self.reach_agent(which, 1000)
            self.confirm()
        if not self.driver.removed:
            tasks = set(range(self.next_task))
            assert set(self.process.begun) == tasks
            assert set(self.driver.reports) == tasks
            assert (self.driver.unconfirmed, list(self.results._kept)) == ([], [])
        assert self.driver.lost | set(self.driver.reports) == set(range(self.next_task))
        assert not self.driver.lost & set(self.driver.reports)


async def _unheard(*_: object) -> None:
    """Nobody is told."""


class StubJvm:
    """An executor JVM that runs what it is sent until it is told to finish it."""

    def __init__(self) -> None:
        self.taken: list[Frame] = []
        self.begun: Counter[int] = Counter()
        self.running: set[int] = set()

    def send(self, data: bytes) -> None:
        for one in FrameDecoder(2**20).feed(data):
            self.taken.append(one)
            if one.kind == Kind.LAUNCH:
                self.begun[one.task] += 1
                self.running.add(one.task)
