"""Workers and agents that lose and find each other, and the dispatchers between them."""

from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from itertools import count, product
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.executors import VANISHED_S
from common.errors import RefusedError
from common.frames import Kind
from common.messages import (
    PRESENT,
    ApplicationState,
    Drain,
    EndCause,
    ExecutorLost,
    StartExecutor,
    StopExecutor,
)
from common.outbox import Outbox
from dispatcher.members import ExecutorState, Worker
from dispatcher.pool import RECONNECT_S
from tests.placing_stubs import HEARTBEAT_S, Life, StillLoop, StubAgent, StubLink, StubWorker
from tests.stubs import (
    FIRST,
    KEY,
    OTHER_KEY,
    StubPool,
    application_hello,
    asked,
    events,
    frame,
)

# What goes on while nothing breaks.
STEPS = ("obey", "start", "tell", "unstall", "open", "hear", "flush")
which = st.integers(0, 1)


class Placing(RuleBasedStateMachine):
    """Two dispatchers, two workers and two applications, that lose and find each other.

    Each call at a dispatcher is repeated at once: that changes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = StillLoop()
        self.pools = [StubPool(), StubPool()]
        self.workers = [StubWorker("w1"), StubWorker("w2")]
        self.agents = [StubAgent(KEY), StubAgent(OTHER_KEY)]
        self.by_key = {agent.key: agent for agent in self.agents}
        self.openings = count(FIRST, 100)
        self.late: list[Callable[[], None]] = []
        """Breaks that a dispatcher has not noticed yet."""
        for one in (0, 1):
            self.attach(one, one)
            self.open(one, one)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)

    def twice(self, pool: StubPool, call: Callable[[], object]) -> None:
        """Runs it two times; whoever is refused is refused again."""

        async def both() -> None:
            with suppress(RefusedError):
                call()
            before = pool.everything()
            with suppress(RefusedError):
                call()
            assert pool.everything() == before

        self.run(both())

    # Workers

    @rule(worker=which, dispatcher=which)
    def attach(self, worker: int, dispatcher: int) -> None:
        one, pool = self.workers[worker], self.pools[dispatcher]
        self.break_worker(worker)
        one.attachments += 1
        hello = one.hello()
        self.twice(pool, lambda: pool.attach(hello))
        one.home, one.member = dispatcher, pool.workers[one.name]
        one.stream = one.member.stream

    @rule(worker=which)
    def break_worker(self, worker: int) -> None:
        one = self.workers[worker]
        if one.home is not None:
            pool, member, stream = self.pools[one.home], one.member, one.stream
            self.late.append(
                lambda: self.twice(pool, lambda: pool.disconnect(member, stream))
            )
            one.home = None

    @rule()
    def notice(self) -> None:
        if self.late:
            self.late.pop(0)()

    @rule(worker=which)
    def obey(self, worker: int) -> None:
        one = self.workers[worker]
        if one.home is None:
            return
        if one.member.stream != one.stream or one.member.state not in PRESENT:
            one.home = None
            return
        for command in asked(one.member):
            if isinstance(command, StartExecutor):
                self._begin(one, (command.application.key, command.executor))
            elif isinstance(command, StopExecutor):
                self._stop(one, (command.application, command.executor))
            elif isinstance(command, Drain):
                one.draining = True

    def _begin(self, one: StubWorker, executor: tuple[str, int]) -> None:
        if executor in one.held:
            return
        agent = self.by_key[executor[0]]
        if one.draining or agent.executors.is_removed(executor[1]):
            one.held[executor] = Life.OVER
            one.untold.append((executor, EndCause.REFUSED))
        else:
            one.held[executor] = Life.STARTING
            self.run(_calling(agent.executors.stream_opened, executor[1]))

    def _stop(self, one: StubWorker, executor: tuple[str, int]) -> None:
        if executor in one.held:
            self._end(one, executor, EndCause.LOST)
        else:
            one.untold.append((executor, EndCause.LOST))

    def _end(self, one: StubWorker, executor: tuple[str, int], cause: EndCause) -> None:
        if one.held.get(executor, Life.OVER) is not Life.OVER:
            one.held[executor] = Life.OVER
            one.untold.append((executor, cause))
            agent = self.by_key[executor[0]]
            self.run(_calling(agent.executors.stream_closed, executor[1]))

    @rule(worker=which)
    def start(self, worker: int) -> None:
        one = self.workers[worker]
        for executor in one.having(Life.STARTING):
            one.held[executor] = Life.READY
            one.untold.append((executor, None))

    @rule(worker=which)
    def die(self, worker: int) -> None:
        for executor in self.workers[worker].having(Life.READY)[:1]:
            self._end(self.workers[worker], executor, EndCause.LOST)

    @rule(worker=which)
    def tell(self, worker: int) -> None:
        one = self.workers[worker]
        while one.untold and one.home is not None:
            executor, cause = one.untold[0]
            pool = self.pools[one.home]
            try:
                member = pool.worker(one.name, one.stream)
            except RefusedError:
                one.home = None
                return
            self.twice(pool, partial(_say, pool, member, executor, cause))
            del one.untold[0]
            if cause is not None:
                one.held.pop(executor, None)

    @rule(worker=which)
    def drain(self, worker: int) -> None:
        one = self.workers[worker]
        if one.home is not None:
            pool = self.pools[one.home]
            self.twice(pool, lambda: pool.drain(one.name))

    @rule(worker=which)
    def stall(self, worker: int) -> None:
        """What an application sends finds no room."""
        one = self.workers[worker]
        if one.home is None or one.member.stream != one.stream:
            return
        outbox, one.member.outbox = one.member.outbox, Outbox(max_bytes=-1)
        for agent in self.agents:
            link = agent.links.get(one.home)
            if link is not None and link.whole:
                launches = [
                    frame(Kind.LAUNCH, key=agent.key, executor=executor)
                    for executor in link.app.executors
                ]
                self.run(_calling(link.pool.route, link.app, launches))
        one.member.outbox = outbox

    @rule(worker=which)
    def unstall(self, worker: int) -> None:
        one = self.workers[worker]
        if one.home is not None and one.member.stream == one.stream:
            placement = self.pools[one.home].placement
            self.twice(self.pools[one.home], lambda: placement.unstall(one.member))

    # Agents

    @rule(agent=which, dispatcher=which)
    def open(self, agent: int, dispatcher: int) -> None:
        one, pool = self.agents[agent], self.pools[dispatcher]
        if one.over or dispatcher in one.links:
            return
        hello = application_hello(one.key, next(self.openings))
        self.twice(pool, lambda: pool.open(hello))
        one.links[dispatcher] = StubLink(pool, pool.applications[one.key])

    @rule(agent=which, dispatcher=which)
    def break_agent(self, agent: int, dispatcher: int) -> None:
        one = self.agents[agent]
        if (link := one.links.get(dispatcher)) is not None:
            self.run(_calling(one.lose, dispatcher))
            self.late.append(
                lambda: self.twice(link.pool, lambda: link.pool.break_off(link.app, link.stream))
            )

    @rule(agent=which, dispatcher=which)
    def hear(self, agent: int, dispatcher: int) -> None:
        if dispatcher in self.agents[agent].links:
            self.run(self.agents[agent].hear(dispatcher))

    @rule(agent=which, dispatcher=which)
    def flush(self, agent: int, dispatcher: int) -> None:
        """What the agent says reaches the dispatcher."""
        link = self.agents[agent].links.get(dispatcher)
        if link is not None and link.whole:
            frames, link.out = link.out, []
            self.twice(link.pool, lambda: link.pool.route(link.app, frames))

    @precondition(lambda self: not self.agents[1].over)
    @rule()
    def close(self) -> None:
        """The second application ends."""
        agent = self.agents[1]
        agent.over = True
        for dispatcher in list(agent.links):
            pool = self.pools[dispatcher]
            self.twice(pool, partial(pool.close, agent.key, "over"))
            self.run(_calling(agent.lose, dispatcher))

    @rule(steps=st.lists(st.tuples(st.sampled_from(STEPS), which, which), min_size=5, max_size=25))
    def flow(self, steps: list[tuple[str, int, int]]) -> None:
        for name, one, dispatcher in steps:
            step = getattr(self, name)
            step(one, dispatcher) if name in {"open", "hear", "flush"} else step(one)

    # Time

    @rule(seconds=st.sampled_from([0.5, RECONNECT_S, VANISHED_S + 1]))
    def wait(self, seconds: float) -> None:
        """Time passes in which everybody who is connected shows it."""
        self.loop.clock += seconds
        self.run(self._look())

    @rule(worker=which)
    def silence(self, worker: int) -> None:
        """One worker hangs for a heartbeat, and everything on it."""
        self.loop.clock += HEARTBEAT_S + 1
        self.run(self._look(silent=worker))

    @rule(agent=which)
    def hang(self, agent: int) -> None:
        """One agent hangs for a heartbeat."""
        self.loop.clock += HEARTBEAT_S + 1
        self.run(self._look(hanging=agent))

    async def _look(self, silent: int = -1, hanging: int = -1) -> None:
        """All but these show that they live, and then everybody judges."""
        for number, worker in enumerate(self.workers):
            if number != silent:
                self._show(worker)
        for number, agent in enumerate(self.agents):
            for link in agent.links.values():
                if link.whole and number != hanging:
                    link.app.heard = self.loop.clock
        self.loop.run_timers()
        for pool in self.pools:
            pool.lose_silent(HEARTBEAT_S)
            pool.placement.place()
        for agent in self.agents:
            if not agent.over:
                await agent.executors.judge(len(agent.links))

    def _show(self, worker: StubWorker) -> None:
        if worker.home is not None and worker.member.stream == worker.stream:
            worker.member.heard = self.loop.clock
        for (key, executor), life in worker.held.items():
            if life is not Life.OVER:
                self.by_key[key].executors.heard(executor)

    # What always holds

    @invariant()
    def no_application_has_two_executors_on_a_worker(self) -> None:
        for member in self._members():
            assert max(Counter(key for key, _ in member.executors).values(), default=1) == 1

    @invariant()
    def books_mirror_each_other(self) -> None:
        for pool in self.pools:
            for member in pool.workers.values():
                for key, executor in member.executors.items():
                    assert (executor.worker, executor.key) == (member, key)
                    if executor.state is not ExecutorState.STOPPING:
                        assert executor.app is pool.applications[key[0]]
                        assert executor.app.executors[key[1]] is executor
            for app in pool.applications.values():
                for number, executor in app.executors.items():
                    assert executor.worker.executors[app.key, number] is executor

    @invariant()
    def nothing_is_ready_for_an_application_that_is_over(self) -> None:
        for pool in self.pools:
            for app in pool.applications.values():
                if app.state is ApplicationState.FINISHED:
                    states = {executor.state for executor in app.executors.values()}
                    assert states <= {ExecutorState.STOPPING}

    @invariant()
    def executor_that_an_agent_was_told_of_is_here_or_told_as_lost(self) -> None:
        for agent in self.agents:
            for link in agent.links.values():
                if link.whole:
                    on_their_way = {
                        event.executor
                        for event in events(b"".join(link.events._waiting))
                        if isinstance(event, ExecutorLost)
                    }
                    here = set(link.app.executors) | on_their_way
                    assert set(agent.executors.by_way(link)) <= here

    def _members(self) -> list[Worker]:
        return [member for pool in self.pools for member in pool.workers.values()]

    # The end

    def teardown(self) -> None:
        """Everybody finds each other again, and then all agree."""
        try:
            for _ in range(30):
                self._settle()
            self._agree()
        finally:
            self.loop.close()

    def _settle(self) -> None:
        while self.late:
            self.notice()
        for worker, one in enumerate(self.workers):
            self.obey(worker)
            if one.home is None:
                self.attach(worker, worker)
            self.obey(worker)
            for executor in list(one.held):
                agent = self.by_key[executor[0]]
                # Its result stream is refused, or there is nobody who would take it.
                if agent.over or agent.executors.is_removed(executor[1]):
                    self._end(one, executor, EndCause.LOST)
            self.start(worker)
            self.tell(worker)
            self.unstall(worker)
        for number, dispatcher in product((0, 1), (0, 1)):
            self.open(number, dispatcher)
            self.hear(number, dispatcher)
            self.flush(number, dispatcher)
        self.wait(RECONNECT_S)

    def _agree(self) -> None:
        for agent in self.agents:
            serving: dict[int, int | None] = {}
            for worker in self.workers:
                mine = [number for key, number in worker.held if key == agent.key]
                serving |= dict.fromkeys(mine, worker.home)
                wanted = 0 if agent.over or worker.draining else 1
                assert wanted <= len(mine) <= (0 if agent.over else 1), worker.name
            for dispatcher, pool in enumerate(self.pools):
                app = pool.applications.get(agent.key)
                here = {number for number, home in serving.items() if home == dispatcher}
                assert here == (set(app.executors) if app else set())
                if app:
                    states = {executor.state for executor in app.executors.values()}
                    assert states <= {ExecutorState.READY}
                    assert not any(executor.stalled for executor in app.executors.values())
            if not agent.over:
                ways = {number: agent.links[home or 0] for number, home in serving.items()}
                assert agent.executors.ways == ways
                assert len(agent.executors) == len(ways)


async def _calling(call: Callable[..., object], *arguments: object) -> None:
    """For what wants to know the time, and so a running loop."""
    call(*arguments)


def _say(
    pool: StubPool, member: Worker, executor: tuple[str, int], cause: EndCause | None
) -> None:
    if cause is None:
        pool.say_started(member, *executor)
    else:
        pool.say_ended(member, cause, *executor)
