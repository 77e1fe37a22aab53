"""Who serves whom: what a dispatcher does when workers, executors and applications come and go.

The tests are coroutines because the pool reads the loop's clock.
"""

import asyncio
from typing import Any

import pytest

from common.errors import RefusedError
from common.frames import PING, FrameDecoder
from common.messages import (
    ApplicationState,
    EndCause,
    ExecutorLost,
    ExecutorReady,
    PoolChanged,
    StopExecutor,
    WorkerRefused,
    WorkerState,
)
from dispatcher.placement import RETRY_S
from tests.stubs import FIRST, KEY, OTHER_KEY, StubPool, asked, starts, told, worker_hello


async def test_executor_comes_from_worker_and_application_whoever_is_first() -> None:
    for worker_first in (True, False):
        pool = StubPool()
        if worker_first:
            worker, app = pool.attach(worker_hello()), pool.opened()
        else:
            app, worker = pool.opened(), pool.attach(worker_hello())
        assert starts(worker) == [(FIRST, 2)]
        assert told(app) == [PoolChanged(slots=2)]
        assert app.status().state is ApplicationState.WAITING
        pool.say_started(worker)
        ready = ExecutorReady(
            executor=FIRST, attachment=1, worker="w1", host="localhost", port=7, slots=2
        )
        assert told(app) == [ready]
        assert app.status().state is ApplicationState.RUNNING


async def test_every_application_gets_an_executor_on_every_worker() -> None:
    pool = StubPool()
    workers = [pool.attach(worker_hello(name)) for name in ("w1", "w2")]
    pool.opened()
    pool.opened(OTHER_KEY)
    for worker in workers:
        assert sorted(key for key, _ in worker.executors) == [KEY, OTHER_KEY]
    assert len({executor for w in workers for _, executor in w.executors}) == 2


async def test_started_said_twice_registers_once() -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened()
    pool.say_started(worker)
    pool.say_started(worker)
    pool.say_started(worker, executor=99)
    pool.say_started(worker, key=OTHER_KEY)
    assert [type(event) for event in told(app)] == [PoolChanged, ExecutorReady]


async def test_worker_lost_twice_is_lost_once() -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened()
    pool.say_started(worker)
    told(app)
    pool.lose(worker, WorkerState.LEFT, "it left")
    pool.lose(worker, WorkerState.LOST, "its stream broke")
    assert worker.state is WorkerState.LEFT
    assert [type(event) for event in told(app)] == [ExecutorLost, PoolChanged]
    assert (worker.executors, app.executors) == ({}, {})


async def test_unknown_and_ended_members_are_refused_apart() -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened()
    assert pool.worker("w1", worker.stream) is worker
    for find in (pool.worker, pool.application):
        with pytest.raises(RefusedError) as refusal:
            find("nobody", "s")
        assert refusal.value.status == 404
    pool.lose(worker, WorkerState.LEFT, "it left")
    pool.close(KEY, "over")
    for member, find_ in ((worker, pool.worker), (app, pool.application)):
        with pytest.raises(RefusedError) as refusal:
            find_("w1" if member is worker else KEY, member.stream)
        assert refusal.value.status == 409


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"spark": "3.5.9/2.12"}, "it has Spark 4.3.0/2.13; the driver runs 3.5.9/2.12"),
        ({"python": "3.12"}, "it has Python 3.11; the driver runs 3.12"),
        ({"task_cpus": 3}, "a task takes 3 slots and it has 2"),
        ({"memory_mb": 4097}, "an executor takes 4097 MB and it lends 4096 MB: "),
    ],
)
async def test_worker_that_does_not_fit_is_refused_with_the_reason(
    changes: dict[str, Any], reason: str
) -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened(**changes)
    assert starts(worker) == []
    (refused,) = told(app)
    assert isinstance(refused, WorkerRefused)
    assert refused.reason.startswith(reason)
    pool.placement.place()
    assert told(app) == [], "said once"
    assert app.status().refused == {"w1": refused.reason}


async def test_application_without_python_fits_a_worker_without_one() -> None:
    pool = StubPool()
    worker = pool.attach(worker_hello(pythons=()))
    pool.opened(python=None)
    assert starts(worker) == [(FIRST, 2)]


async def test_refused_start_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened()
    starts(worker)
    pool.say_ended(worker, EndCause.REFUSED)
    kinds = [type(event) for event in told(app)]
    assert kinds == [PoolChanged, WorkerRefused, ExecutorLost, PoolChanged]
    pool.placement.place()
    assert starts(worker) == [], "not in a tight loop"
    loop = asyncio.get_running_loop()
    later = loop.time() + RETRY_S + 1
    monkeypatch.setattr(loop, "time", lambda: later)
    pool.placement.place()
    assert starts(worker) == [(FIRST + 1, 2)]
    pool.say_started(worker, executor=FIRST + 1)
    assert app.status().refused == {}


async def test_memory_that_comes_free_lets_a_refused_application_in_at_once() -> None:
    pool = StubPool()
    worker = pool.attach(worker_hello())
    pool.opened()
    pool.say_started(worker)
    pool.opened(OTHER_KEY)
    pool.say_ended(worker, EndCause.REFUSED, OTHER_KEY)
    starts(worker)
    pool.close(KEY, "over")
    pool.say_ended(worker, EndCause.RELEASED)
    assert starts(worker) == [(FIRST + 1, 2)]


@pytest.mark.parametrize(
    ("cause", "by_application", "again"),
    [
        (EndCause.LOST, False, True),
        (EndCause.APPLICATION, True, True),
        (EndCause.REFUSED, False, False),
        (EndCause.RELEASED, False, False),
    ],
)
async def test_cause_of_an_end_says_what_comes_next(
    cause: EndCause, by_application: bool, again: bool
) -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened()
    pool.say_started(worker)
    starts(worker)
    told(app)
    for _ in range(2):
        pool.say_ended(worker, cause)
    (lost,) = [event for event in told(app) if isinstance(event, ExecutorLost)]
    assert (lost.executor, lost.by_application) == (FIRST, by_application)
    assert starts(worker) == ([(FIRST + 1, 2)] if again else [])


async def test_closed_application_stops_its_executors_and_hears_no_more() -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened()
    pool.say_started(worker)
    asked(worker)
    told(app)
    pool.close(KEY, "over")
    pool.close(KEY, "over again")
    pool.close("nobody", "over")
    assert asked(worker) == [StopExecutor(application=KEY, executor=FIRST)]
    pool.say_ended(worker, EndCause.RELEASED)
    assert told(app) == []
    assert (asked(worker), worker.executors) == ([], {})
    assert app.status().state is ApplicationState.FINISHED


async def test_application_opened_again_after_its_end_starts_anew() -> None:
    pool = StubPool()
    worker, before = pool.ready()
    pool.close(KEY, "over")
    after = pool.opened(first_executor=FIRST + 100)
    assert (before.state, after.state) == (ApplicationState.FINISHED, ApplicationState.WAITING)
    assert asked(worker) == [StopExecutor(application=KEY, executor=FIRST)]
    pool.say_ended(worker, EndCause.RELEASED)
    assert starts(worker) == [(FIRST + 100, 2)]
    assert list(after.executors) == [FIRST + 100]


async def test_who_is_silent_for_a_heartbeat_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("dispatcher.pool.now", lambda: clock)
    pool = StubPool()
    silent, app = pool.attach(worker_hello("silent")), pool.opened()
    clock = 6.0
    loud = pool.attach(worker_hello("loud"))
    clock = 11.0
    pool.lose_silent(10.0)
    assert (silent.state, loud.state) == (WorkerState.LOST, WorkerState.ATTACHED)
    assert app.state is ApplicationState.FINISHED


async def test_an_agent_that_pings_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("dispatcher.pool.now", lambda: clock)
    pool = StubPool()
    app = pool.opened()
    clock = 9.0
    pool.route(app, FrameDecoder(1024).feed(PING))
    clock = 11.0
    pool.lose_silent(10.0)
    assert app.state is not ApplicationState.FINISHED
