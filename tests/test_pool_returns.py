"""What a dispatcher keeps when workers and agents break off, and what it takes over from others.

The tests are coroutines because the pool reads the loop's clock.
"""

import asyncio

import pytest

from common.errors import FrameMalformed, RefusedError
from common.frames import Kind
from common.messages import (
    ApplicationState,
    Drain,
    EndCause,
    ExecutorDraining,
    ExecutorLost,
    ExecutorReady,
    PoolChanged,
    StopExecutor,
    WorkerReport,
    WorkerState,
)
from dispatcher.members import Worker
from tests.stubs import (
    FIRST,
    KEY,
    OTHER_KEY,
    StubPool,
    application_hello,
    asked,
    frame,
    held,
    release,
    starts,
    told,
    worker_hello,
)

WAIT_S = 10.0


def ready(executor: int = FIRST, attachment: int = 1, port: int = 7) -> ExecutorReady:
    return ExecutorReady(
        executor=executor,
        attachment=attachment,
        worker="w1",
        host="localhost",
        port=port,
        slots=2,
    )


async def until_lost(worker: Worker) -> None:
    async with asyncio.timeout(WAIT_S):
        while worker.state is not WorkerState.LOST:  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0)


# A worker comes back


async def test_worker_that_attaches_again_keeps_its_executors() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    pool.disconnect(worker, worker.stream)
    assert (worker.state, told(app)) == (WorkerState.DISCONNECTED, [])
    back = pool.attach(worker_hello(attachment=2, executors=(held(),)))
    assert back is worker
    assert told(app) == [ready(attachment=2)], "reached by another stream"
    assert starts(worker) == [], "and nothing new"
    assert worker.state is WorkerState.ATTACHED


async def test_worker_may_attach_again_before_its_broken_stream_is_noticed() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    old = worker.stream, worker.outbox
    pool.attach(worker_hello(attachment=2, executors=(held(),)))
    pool.disconnect(worker, old[0])
    assert worker.state is WorkerState.ATTACHED
    assert [chunk async for chunk in old[1].stream()] == [], "its reader is let go"
    assert told(app) == [ready(attachment=2)]
    with pytest.raises(RefusedError) as refusal:
        pool.worker("w1", old[0])
    assert refusal.value.status == 409


@pytest.mark.parametrize("gone", [False, True], ids=["attached", "lost"])
async def test_older_attachment_is_refused(gone: bool) -> None:
    pool = StubPool()
    worker = pool.attach(worker_hello(attachment=3))
    if gone:
        pool.lose(worker, WorkerState.LOST, "its stream broke")
    for attachment in (1, 2, 3) if gone else (1, 2):
        with pytest.raises(RefusedError) as refusal:
            pool.attach(worker_hello(attachment=attachment))
        assert refusal.value.status == 409
        assert refusal.value.reason.endswith("attach again")


async def test_attachment_whose_stream_broke_is_not_taken_up_again() -> None:
    pool = StubPool()
    worker = pool.attach(worker_hello())
    pool.disconnect(worker, worker.stream)
    with pytest.raises(RefusedError, match="w1 is DISCONNECTED"):
        pool.attach(worker_hello())


async def test_executor_that_a_worker_comes_back_without_is_lost_and_replaced() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    pool.attach(worker_hello(attachment=2))
    (lost,) = [event for event in told(app) if isinstance(event, ExecutorLost)]
    assert (lost.executor, lost.by_application) == (FIRST, False)
    assert "came back without it" in lost.reason
    assert starts(worker) == [(FIRST + 1, 2)]


async def test_executor_that_got_ready_meanwhile_is_ready_by_the_new_attachment() -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened()
    told(app)
    pool.attach(worker_hello(attachment=2, executors=(held(port=9),)))
    assert told(app) == [ready(attachment=2, port=9)]
    pool.say_started(worker)
    assert told(app) == [], "said twice"


async def test_executor_that_is_starting_still_is_awaited() -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened()
    asked(worker)
    told(app)
    pool.attach(worker_hello(attachment=2, executors=(held(port=0),)))
    assert (told(app), asked(worker)) == ([], [])
    pool.say_started(worker)
    assert told(app) == [ready(attachment=2)]


async def test_executor_that_was_to_stop_is_told_again() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    pool.route(app, [release()])
    assert asked(worker) == [StopExecutor(application=KEY, executor=FIRST)]
    pool.attach(worker_hello(attachment=2, executors=(held(),)))
    assert asked(worker) == [StopExecutor(application=KEY, executor=FIRST)]
    assert told(app)[1:] == [], "its agent does not want to hear of it"


async def test_broken_worker_is_lost_when_it_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dispatcher.pool.RECONNECT_S", 0.01)
    pool = StubPool()
    worker, app = pool.ready()
    pool.disconnect(worker, worker.stream)
    await until_lost(worker)
    lost, changed = told(app)
    assert isinstance(lost, ExecutorLost)
    assert "its stream broke" in lost.reason
    assert changed == PoolChanged(slots=0)
    assert (worker.executors, app.executors) == ({}, {})


async def test_worker_that_came_back_is_not_given_up_by_its_earlier_break(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dispatcher.pool.RECONNECT_S", 0.01)
    pool = StubPool()
    worker, other = pool.attach(worker_hello()), pool.attach(worker_hello("w2"))
    pool.disconnect(worker, worker.stream)
    pool.attach(worker_hello(attachment=2))
    # Its time is over after that of the first one.
    pool.disconnect(other, other.stream)
    await until_lost(other)
    assert worker.state is WorkerState.ATTACHED


async def test_worker_is_not_asked_for_anything_while_it_is_disconnected() -> None:
    pool = StubPool()
    worker = pool.attach(worker_hello())
    pool.disconnect(worker, worker.stream)
    pool.opened()
    assert starts(worker) == []
    pool.attach(worker_hello(attachment=2))
    assert starts(worker) == [(FIRST, 2)]


# A worker comes from another dispatcher


async def test_executors_that_come_with_a_worker_are_taken_over() -> None:
    pool = StubPool()
    app = pool.opened()
    worker = pool.attach(worker_hello(attachment=4, executors=(held(77),)))
    assert told(app) == [ready(77, attachment=4), PoolChanged(slots=2)]
    assert starts(worker) == [], "it serves this application"
    assert list(app.executors) == [77]
    assert app.state is ApplicationState.RUNNING


async def test_executors_of_applications_that_open_later_are_taken_over_then() -> None:
    pool = StubPool()
    worker = pool.attach(worker_hello(executors=(held(77), held(78, OTHER_KEY))))
    assert worker.executors == {}
    app = pool.opened()
    assert told(app) == [ready(77), PoolChanged(slots=2)]
    assert list(worker.unclaimed) == [(OTHER_KEY, 78)]
    assert told(pool.opened(OTHER_KEY))[0] == ready(78)


async def test_starting_executor_that_comes_with_a_worker_is_awaited() -> None:
    pool = StubPool()
    app = pool.opened()
    worker = pool.attach(worker_hello(executors=(held(77, port=0),)))
    assert (told(app), starts(worker)) == ([PoolChanged(slots=2)], [])
    pool.say_started(worker, executor=77)
    assert told(app) == [ready(77)]


async def test_executor_that_starts_before_its_application_opens_is_ready_when_it_does() -> None:
    pool = StubPool()
    worker = pool.attach(worker_hello(executors=(held(77, port=0),)))
    pool.say_started(worker, executor=77)
    assert ready(77) in told(pool.opened())


async def test_executor_that_ends_before_its_application_opens_is_not_taken_over() -> None:
    pool = StubPool()
    worker = pool.attach(worker_hello(executors=(held(77),)))
    pool.say_ended(worker, EndCause.LOST, executor=77)
    app = pool.opened()
    assert told(app) == [PoolChanged(slots=2)]
    assert starts(worker) == [(FIRST, 2)]


async def test_executor_of_an_application_that_is_over_is_stopped() -> None:
    pool = StubPool()
    pool.opened()
    pool.close(KEY, "over")
    worker = pool.attach(worker_hello(executors=(held(77),)))
    assert asked(worker) == [StopExecutor(application=KEY, executor=77)]
    assert worker.executors == {}


# An agent comes back


async def test_application_of_a_broken_agent_goes_on_and_hears_of_its_executors_again() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    pool.break_off(app, app.stream)
    assert (app.connected, app.state) == (False, ApplicationState.RUNNING)
    assert asked(worker) == []
    back = pool.opened(first_executor=FIRST + 100)
    assert back is app
    assert told(back) == [ready()]
    assert (asked(worker), back.connected) == ([], True)


async def test_executor_lost_while_the_agent_was_away_is_not_there_when_it_is_back() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    pool.break_off(app, app.stream)
    pool.say_ended(worker, EndCause.LOST)
    assert starts(worker) == [], "nobody is there who could be told of it"
    told(pool.opened(first_executor=FIRST + 100))
    assert starts(worker) == [(FIRST + 100, 2)], "of the ids of this opening"


async def test_old_stream_of_an_agent_breaks_nothing_that_was_opened_since() -> None:
    pool = StubPool()
    app = pool.opened()
    old = app.stream
    pool.opened(first_executor=FIRST + 100)
    pool.break_off(app, old)
    assert app.connected
    with pytest.raises(RefusedError) as refusal:
        pool.application(KEY, old)
    assert refusal.value.status == 409


@pytest.mark.parametrize("end", ["older", "broken", "closed"])
async def test_opening_that_is_over_is_refused(end: str) -> None:
    pool = StubPool()
    app = pool.opened()
    if end == "older":
        pool.opened(first_executor=FIRST + 1)
    elif end == "broken":
        pool.break_off(app, app.stream)
    else:
        pool.close(KEY, "over")
    with pytest.raises(RefusedError) as refusal:
        pool.open(application_hello())
    assert refusal.value.status == 409
    assert refusal.value.reason.endswith("open it again")


async def test_application_whose_agent_stays_away_for_a_heartbeat_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0
    monkeypatch.setattr("dispatcher.pool.now", lambda: clock)
    pool = StubPool()
    worker, app = pool.ready()
    clock = 5.0
    pool.break_off(app, app.stream)
    clock = 14.0
    worker.heard = clock
    pool.lose_silent(10.0)
    assert app.status().state is ApplicationState.RUNNING
    clock = 15.5
    pool.lose_silent(10.0)
    assert app.status().state is ApplicationState.FINISHED
    assert asked(worker) == [StopExecutor(application=KEY, executor=FIRST)]


# The driver does not have it


async def test_released_executor_stops_and_is_replaced_when_it_has_ended() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    for _ in range(2):
        pool.route(app, [release()])
    assert asked(worker) == [StopExecutor(application=KEY, executor=FIRST)]
    assert app.executors == {}
    pool.route(app, [frame(Kind.LAUNCH)])
    pool.say_ended(worker, EndCause.RELEASED)
    assert told(app) == [], "it knows"
    assert starts(worker) == [(FIRST + 1, 2)]
    assert app.refusals == {}


async def test_malformed_release_is_refused() -> None:
    pool = StubPool()
    _, app = pool.ready()
    with pytest.raises(FrameMalformed, match="a release of an executor"):
        pool.route(app, [frame(Kind.CONTROL, b'{"executor": "all"}')])
    assert list(app.executors) == [FIRST]


# A worker is about to leave


async def test_draining_worker_finishes_what_it_runs_and_gets_nothing_new() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    starting = pool.opened(OTHER_KEY)
    told(starting)
    asked(worker)
    for _ in range(2):
        pool.drain("w1")
    assert worker.status("d").state is WorkerState.DRAINING
    assert asked(worker) == [Drain(), StopExecutor(application=OTHER_KEY, executor=FIRST)]
    reason = "worker w1 is about to leave"
    draining = ExecutorDraining(executor=FIRST, reason=reason)
    assert told(app) == [draining, PoolChanged(slots=0)]
    assert told(starting) == [PoolChanged(slots=0)], "it had not heard of its executor"
    pool.opened("00000000000000c3")
    assert asked(worker) == []
    pool.route(app, [launch := frame(Kind.LAUNCH, sequence=1)])
    assert worker.outbox._take() == [launch.raw], "what was on its way arrives"


async def test_worker_that_has_left_is_neither_busy_nor_said_to_refuse() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    pool.drain("w1")
    busy = WorkerReport(
        stream=worker.stream,
        slots_busy=1,
        tasks_done=0,
        tasks_failed=0,
        tasks_moved=0,
        applications={},
    )
    await pool.report(worker, busy)
    assert worker.status("d").slots_busy == 1
    pool.say_ended(worker, EndCause.RELEASED)
    pool.lose(worker, WorkerState.LEFT, "it left")
    assert worker.status("d").slots_busy == 0
    assert app.status().refused == {}


async def test_worker_drains_on_when_it_attaches_again_here_or_elsewhere() -> None:
    here, elsewhere = StubPool(), StubPool()
    worker, app = here.ready()
    here.drain("w1")
    told(app)
    asked(worker)
    here.attach(worker_hello(attachment=2, executors=(held(),)))
    assert worker.state is WorkerState.DRAINING
    assert asked(worker) == [Drain()], "it may not have heard of it"
    assert [type(event) for event in told(app)] == [ExecutorReady, ExecutorDraining]

    other = elsewhere.opened()
    moved = elsewhere.attach(worker_hello(attachment=3, draining=True, executors=(held(),)))
    assert (moved.state, asked(moved)) == (WorkerState.DRAINING, [])
    assert [type(event) for event in told(other)] == [ExecutorReady, ExecutorDraining]
    assert other.slots == 0


async def test_worker_that_was_lost_before_it_read_that_it_is_to_drain_is_told_again() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    pool.drain("w1")
    pool.lose(worker, WorkerState.LOST, "it was silent")
    told(app)
    back = pool.attach(worker_hello(attachment=2, executors=(held(),)))
    assert back is not worker
    assert (back.state, asked(back)) == (WorkerState.DRAINING, [Drain()])
    assert [type(event) for event in told(app)] == [ExecutorReady, ExecutorDraining]
    assert app.slots == 0
    pool.opened(OTHER_KEY)
    assert asked(back) == [], "it takes nothing new"


@pytest.mark.parametrize(
    ("state", "status"), [(None, 404), (WorkerState.LEFT, 409), (WorkerState.DISCONNECTED, 409)]
)
async def test_worker_that_is_not_here_cannot_be_drained(
    state: WorkerState | None, status: int
) -> None:
    pool = StubPool()
    if state is not None:
        worker = pool.attach(worker_hello())
        if state is WorkerState.LEFT:
            pool.lose(worker, state, "it left")
        else:
            pool.disconnect(worker, worker.stream)
    with pytest.raises(RefusedError) as refusal:
        pool.drain("w1")
    assert refusal.value.status == status
