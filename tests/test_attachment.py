"""A worker keeps what it runs, whichever dispatcher it is attached to, and loses no frame."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from common.client import new_client
from common.errors import FrameLost
from common.frames import Frame, Kind, TaskState, encode
from common.messages import (
    EndCause,
    ExecutorLost,
    ExecutorReady,
    StartExecutor,
    StopExecutor,
    WorkerHello,
    WorkerState,
)
from dispatcher.members import ServedApplication, Worker
from tests.agents import TOKEN as AGENT_TOKEN
from tests.agents import Agent, agent_server
from tests.stubs import FIRST, KEY, StubPool, frame, held, starts, told, worker_hello
from tests.workers import (
    MAX_FRAME,
    TOKEN,
    StubProcess,
    dispatcher_server,
    runtime,
    start_command,
    stub_processes,
)
from worker import attachment
from worker.attachment import Attachment
from worker.runtime import Runtime

WAIT_S = 10.0
END = "the executor ended with exit status 1; see stderr"


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[StubProcess]:
    monkeypatch.setattr(attachment, "RETRY_S", 0.02)
    monkeypatch.setattr("dispatcher.pool.RECONNECT_S", WAIT_S)
    return stub_processes(monkeypatch)


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with agent_server() as running:
        yield running


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - there is nothing to be told by
            await asyncio.sleep(0.001)


class Attached:
    """A worker without a process of its own: its attachment and what it runs."""

    def __init__(self, *urls: str) -> None:
        self.client = new_client(TOKEN)
        self.attachment = Attachment(self.client, self._hello, urls, MAX_FRAME)
        self.runtime = runtime(self.attachment.started, self.attachment.ended)
        # In the order that the test gives.
        self.attachment._urls = self.attachment._configured = urls

    def _hello(self, number: int) -> WorkerHello:
        return worker_hello(
            attachment=number, executors=self.runtime.held(), draining=self.runtime.draining
        )


@asynccontextmanager
async def attached(*urls: str) -> AsyncIterator[Attached]:
    worker = Attached(*urls)
    running = asyncio.create_task(worker.attachment.run(worker.runtime))
    try:
        yield worker
    finally:
        await worker.runtime.stop_all()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await worker.client.aclose()


def opened(pool: StubPool, agent: Agent) -> ServedApplication:
    return pool.opened(results_url=agent.url, results_token=AGENT_TOKEN)


def the_worker(pool: StubPool) -> Worker:
    return pool.workers["w1"]


def is_attached(pool: StubPool, number: int) -> bool:
    worker = pool.workers.get("w1")
    return worker is not None and worker.streaming and worker.hello.attachment == number


def launch(number: int) -> Frame:
    return frame(Kind.LAUNCH, b"task", task=number, sequence=number)


def message(number: int) -> Frame:
    """It waits for no slot."""
    return frame(Kind.MESSAGE, b"message", sequence=number)


async def serving(
    pool: StubPool, app: ServedApplication, processes: list[StubProcess]
) -> StubProcess:
    """Waits until the application's executor is ready on the worker."""
    await until(lambda: processes)
    processes[0].ready.set_result(7)
    await until_told(app, ExecutorReady)
    pool.say_resume(app)
    return processes[0]


async def until_told(app: ServedApplication, kind: type) -> list[object]:
    """Waits until its agent is told of an event of this kind; returns all up to it."""
    events: list[object] = []

    def has_come() -> bool:
        events.extend(told(app))
        return any(isinstance(event, kind) for event in events)

    await until(has_come)
    return events[: [isinstance(event, kind) for event in events].index(True) + 1]


async def test_executors_survive_a_broken_stream_and_get_each_frame_once(
    processes: list[StubProcess], agent: Agent
) -> None:
    pool = StubPool()
    async with dispatcher_server(pool) as url, attached(url):
        app = opened(pool, agent)
        process = await serving(pool, app, processes)
        pool.route(app, [launch(1)])
        await until(lambda: process.sequences == [1])
        the_worker(pool).outbox.close()
        await until(lambda: is_attached(pool, 2))
        (ready,) = told(app)
        assert isinstance(ready, ExecutorReady)
        assert (ready.executor, ready.attachment, ready.port) == (FIRST, 2, 7)
        pool.say_resume(app)
        pool.route(app, [launch(1), launch(2)])
        await until(lambda: process.sequences == [1, 2])
    assert len(processes) == 1


@pytest.mark.parametrize("break_", ["attached anew", "room again"])
async def test_frames_that_were_on_their_way_do_not_come_before_what_is_repeated(
    processes: list[StubProcess], agent: Agent, break_: str
) -> None:
    pool = StubPool()
    async with dispatcher_server(pool) as url, attached(url):
        app = opened(pool, agent)
        process = await serving(pool, app, processes)
        pool.route(app, [message(1)])
        await until(lambda: process.sequences == [1])
        attachments = 1
        if break_ == "attached anew":
            the_worker(pool).outbox.close()
            pool.route(app, [message(2)])
            await until(lambda: is_attached(pool, 2))
            attachments = 2
        else:
            the_worker(pool).outbox._max_bytes = -1
            pool.route(app, [message(2)])
            the_worker(pool).outbox._max_bytes = MAX_FRAME
            pool.placement.unstall(the_worker(pool))
        (again,) = told(app)
        assert isinstance(again, ExecutorReady)
        # Its driver sent this one before it heard of that, and the second is lost.
        pool.route(app, [message(3)])
        pool.say_resume(app)
        pool.route(app, [message(2), message(3), message(4)])
        await until(lambda: process.sequences == [1, 2, 3, 4])
        assert is_attached(pool, attachments), "a gap would have ended its stream"


async def test_executors_move_with_their_worker_to_another_dispatcher(
    processes: list[StubProcess], agent: Agent
) -> None:
    first, second = StubPool(), StubPool()
    async with (
        dispatcher_server(second) as there,
        dispatcher_server(first) as here,
        attached(here, there),
    ):
        process = await serving(first, opened(first, agent), processes)
        app = opened(second, agent)
        the_worker(first).outbox.close()
        await until(lambda: is_attached(second, 2))
        assert the_worker(first).state is WorkerState.DISCONNECTED
        ready = told(app)[0]
        assert isinstance(ready, ExecutorReady)
        assert (ready.executor, ready.attachment) == (FIRST, 2)
        second.say_resume(app)
        second.route(app, [launch(1)])
        await until(lambda: process.sequences == [1])
    assert len(processes) == 1


async def test_missing_frame_ends_the_attachment_and_not_the_executor(
    processes: list[StubProcess], agent: Agent
) -> None:
    pool = StubPool()
    async with dispatcher_server(pool) as url, attached(url):
        app = opened(pool, agent)
        process = await serving(pool, app, processes)
        pool.route(app, [launch(1), launch(3)])
        await until(lambda: is_attached(pool, 2))
        assert process.sequences == [1]
        pool.say_resume(app)
        pool.route(app, [launch(number) for number in (1, 2, 3)])
        await until(lambda: len(process.sequences) == 2)
        process.say([frame(Kind.STATUS, state=TaskState.FINISHED, task=1, sequence=1)])
        await until(lambda: process.sequences == [1, 2, 3])


@pytest.mark.parametrize("change", ["starts", "ends"])
async def test_what_happens_without_a_dispatcher_is_told_to_the_next_one(
    processes: list[StubProcess], agent: Agent, change: str
) -> None:
    first, second = StubPool(), StubPool()
    async with AsyncExitStack() as life:
        url = await life.enter_async_context(dispatcher_server(first))
        async with attached(url) as worker:
            app = opened(first, agent)
            await until(lambda: processes)
            if change == "ends":
                await serving(first, app, processes)
            await life.aclose()
            await until(lambda: not worker.attachment.dispatcher)
            if change == "ends":
                processes[0].end(1)
            else:
                processes[0].ready.set_result(7)
            app = opened(second, agent)
            async with dispatcher_server(second, int(url.rpartition(":")[2])):
                last = ExecutorLost if change == "ends" else ExecutorReady
                events = await until_told(app, last)
                ready = [event for event in events if isinstance(event, ExecutorReady)]
                assert [event.executor for event in ready] == [FIRST]
                if change == "ends":
                    assert events[-1] == ExecutorLost(executor=FIRST, worker="w1", reason=END)


async def test_worker_that_drains_says_so_wherever_it_attaches(
    processes: list[StubProcess], agent: Agent
) -> None:
    pool = StubPool()
    async with dispatcher_server(pool) as url, attached(url) as worker:
        await until(lambda: is_attached(pool, 1))
        pool.drain("w1")
        await asyncio.wait_for(worker.attachment.told_to_drain.wait(), WAIT_S)
        worker.runtime.draining = True
        await worker.attachment.drain()
        the_worker(pool).outbox.close()
        await until(lambda: is_attached(pool, 2))
        assert the_worker(pool).state is WorkerState.DRAINING
        assert the_worker(pool).hello.draining


# What it runs


class Books:
    """Who was told what of a runtime's executors."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int]] = []
        self.ended: list[tuple[int, EndCause]] = []
        self.may_hear = asyncio.Event()
        self.may_hear.set()

    async def start(self, command: StartExecutor, port: int) -> None:
        await self.may_hear.wait()
        self.started.append((command.executor, port))

    async def end(self, app: str, executor: int, reason: str, cause: EndCause) -> None:
        assert app == KEY
        await self.may_hear.wait()
        self.ended.append((executor, cause))


@asynccontextmanager
async def running(
    agent: Agent, processes: list[StubProcess]
) -> AsyncIterator[tuple[Runtime, Books]]:
    """A runtime with one executor that takes tasks."""
    books = Books()
    one = runtime(books.start, books.end)
    one.start(command_for(agent))
    processes[0].ready.set_result(7)
    await until(lambda: books.started)
    try:
        yield one, books
    finally:
        await one.stop_all()


def command_for(agent: Agent, executor: int = FIRST) -> StartExecutor:
    return start_command(
        executor=executor, results_url=agent.url, results_token=AGENT_TOKEN
    )


async def test_frames_that_come_again_are_dropped(
    processes: list[StubProcess], agent: Agent
) -> None:
    async with running(agent, processes) as (one, _):
        kill = frame(Kind.MESSAGE, b"kill", task=1, sequence=2)
        for sent in (launch(1), launch(1), kill, launch(1), kill, launch(3)):
            one.take(sent)
        assert processes[0].sequences == [1, 2, 3]
        with pytest.raises(FrameLost) as lost:
            one.take(launch(5))
        assert (lost.value.expected, lost.value.found) == (4, 5)
        one.take(frame(Kind.LAUNCH, executor=99, sequence=8))


async def test_worker_confirms_what_it_has_taken(
    processes: list[StubProcess], agent: Agent
) -> None:
    async with running(agent, processes) as (one, _):
        for number in (1, 2, 3):
            one.take(launch(number))
        confirmed = encode(Kind.ACK, app=int(KEY, 16), executor=FIRST, sequence=3)
        await agent.until(lambda: agent.delivered.endswith(confirmed))


async def test_commands_that_are_repeated_change_nothing(
    processes: list[StubProcess], agent: Agent
) -> None:
    async with running(agent, processes) as (one, books):
        one.start(command_for(agent))
        assert len(processes) == 1
        stop = StopExecutor(application=KEY, executor=FIRST)
        for _ in range(2):
            one.stop(stop)
        await until(lambda: not one.held())
        assert books.ended == [(FIRST, EndCause.LOST)]


async def test_word_to_stop_an_executor_that_is_not_there_is_answered_each_time(
    processes: list[StubProcess], agent: Agent
) -> None:
    """Whoever says so waits for its end: it did not hear of it, or is another dispatcher."""
    async with running(agent, processes) as (one, books):
        processes[0].end(1)
        await until(lambda: not one.held())
        books.ended.clear()
        for executor in (FIRST, FIRST, FIRST + 9):
            one.stop(StopExecutor(application=KEY, executor=executor))
        await until(lambda: len(books.ended) == 3)
        assert books.ended == [(e, EndCause.LOST) for e in (FIRST, FIRST, FIRST + 9)]


async def test_stop_of_an_executor_that_has_ended_leaves_nothing_behind_at_its_dispatcher(
    processes: list[StubProcess], agent: Agent
) -> None:
    pool = StubPool()
    async with dispatcher_server(pool) as url, attached(url):
        app = opened(pool, agent)
        await until(lambda: processes)
        # As at a dispatcher that was told by nobody.
        worker = the_worker(pool)
        pool.placement._adopt(app, worker, held(FIRST + 9))
        pool.placement.release(app, FIRST + 9, "its driver removed it")
        await until(lambda: (KEY, FIRST + 9) not in worker.executors)


async def test_executor_that_one_dispatcher_stopped_does_not_bar_its_worker_at_the_next(
    processes: list[StubProcess], agent: Agent
) -> None:
    async with running(agent, processes) as (one, books):
        before = one.held()
        one.stop(StopExecutor(application=KEY, executor=FIRST))
        await until(lambda: books.ended)
    # It moves before it has told anybody, to where nobody knows of the stop.
    pool = StubPool()
    app = pool.opened(first_executor=FIRST + 100)
    worker = pool.attach(worker_hello(attachment=2, executors=before))
    pool.say_ended(worker, books.ended[0][1])
    assert app.refusals == {}
    assert starts(worker) == [(FIRST + 100, 2)]


async def test_executor_whose_end_is_not_known_yet_is_held_and_takes_no_slots(
    processes: list[StubProcess], agent: Agent
) -> None:
    async with running(agent, processes) as (one, books):
        for number in (1, 2, 3):
            one.take(launch(number))
        assert one.slots_busy == 2
        books.may_hear.clear()
        processes[0].end(1)
        await until(lambda: one.slots_busy == 0)
        await until(lambda: one._executors[int(KEY, 16), FIRST].over.is_set())
        assert [its.executor for its in one.held()] == [FIRST]
        assert one.counts() == {}
        # Its driver does not know yet either.
        one.take(launch(4))
        assert one.slots_busy == 0, "nobody would give it back"
        books.may_hear.set()
        await until(lambda: not one.held())
        assert books.ended == [(FIRST, EndCause.LOST)]


async def test_draining_worker_starts_nothing_and_waits_for_what_it_runs(
    processes: list[StubProcess], agent: Agent
) -> None:
    async with running(agent, processes) as (one, books):
        one.draining = True
        one.start(command_for(agent, FIRST + 1))
        emptied = asyncio.create_task(one.empty())
        await until(lambda: books.ended == [(FIRST + 1, EndCause.REFUSED)])
        assert not emptied.done()
        processes[0].end(0)
        await asyncio.wait_for(emptied, WAIT_S)
        assert books.ended[1:] == [(FIRST, EndCause.RELEASED)]


async def test_executor_that_its_agent_removed_is_ended(
    processes: list[StubProcess], agent: Agent
) -> None:
    async with running(agent, processes) as (_, books):
        await agent.executors.remove(FIRST, "silent", by_application=False)
        await until(lambda: books.ended == [(FIRST, EndCause.LOST)])
        assert processes[0].exit.done()
