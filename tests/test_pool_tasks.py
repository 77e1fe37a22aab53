"""What a dispatcher does with frames and reports, and how it shares slots."""

import asyncio

import pytest

from common.errors import FrameMalformed
from common.frames import PING, Frame, FrameDecoder, Kind
from common.messages import (
    ApplicationCounts,
    ApplicationState,
    EndCause,
    ExecutorReady,
    PoolChanged,
    SendReport,
    WorkerReport,
    WorkerState,
)
from common.outbox import Outbox
from dispatcher.members import Worker
from dispatcher.pool import REMEMBERED
from tests.stubs import (
    FIRST,
    KEY,
    OTHER_KEY,
    StubPool,
    asked,
    frame,
    release,
    starts,
    told,
    waiting_in,
    worker_hello,
)


def launch(executor: int = FIRST, task: int = 1, key: str = KEY, kind: Kind = Kind.LAUNCH) -> Frame:
    return frame(kind, b"task", executor=executor, key=key, task=task, sequence=task)


def report(worker: Worker, slots_busy: int = 0, running: int = 0, done: int = 0) -> WorkerReport:
    return WorkerReport(
        stream=worker.stream,
        slots_busy=slots_busy,
        tasks_done=done,
        tasks_failed=0,
        tasks_moved=0,
        applications={KEY: ApplicationCounts(running=running, done=done)},
    )


async def test_frames_go_to_the_worker_of_their_executor_byte_for_byte() -> None:
    pool = StubPool()
    workers = [pool.attach(worker_hello(name)) for name in ("w1", "w2")]
    app = pool.opened()
    frames = []
    for number, worker in enumerate(workers):
        pool.say_started(worker, executor=FIRST + number)
        pool.say_resume(app, FIRST + number)
        asked(worker)
        frames.append(launch(FIRST + number, task=number))
    pool.route(app, frames)
    assert [waiting_in(w.outbox) for w in workers] == [one.raw for one in frames]
    assert pool.frames_routed == 2


async def test_frames_for_executors_that_are_not_there_are_dropped() -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened()
    asked(worker)
    pool.route(app, [launch(), launch(executor=99)])
    pool.say_started(worker)
    pool.say_resume(app)
    pool.lose(worker, WorkerState.LOST, "its stream broke")
    pool.route(app, [launch()])
    assert (waiting_in(worker.outbox), pool.frames_routed) == (b"", 0)


@pytest.mark.parametrize(
    "foreign",
    [launch(key=OTHER_KEY), launch(kind=Kind.CONTROL), launch(kind=Kind.STATUS)],
    ids=["of another application", "a command to the worker", "no driver sends it"],
)
async def test_application_reaches_nothing_but_its_own_executors(foreign: Frame) -> None:
    pool = StubPool()
    worker, app = pool.ready()
    with pytest.raises(FrameMalformed):
        pool.route(app, [foreign])
    assert waiting_in(worker.outbox) == b""


def full(worker: Worker) -> Frame:
    """Fills what waits for the worker to above its bound, by one frame of some executor."""
    large = launch(executor=99)
    worker.outbox = Outbox(max_bytes=len(large.raw) - 1)
    worker.outbox.put(large.raw)
    assert worker.outbox.is_full
    return large


async def test_frames_for_a_worker_that_does_not_keep_up_are_dropped_and_then_repeated() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    large = full(worker)
    pool.route(app, [launch(task=1)])
    assert waiting_in(worker.outbox) == large.raw
    pool.route(app, [launch(task=2)])
    assert waiting_in(worker.outbox) == b"", "not before the one that was dropped"
    pool.placement.unstall(worker)
    (again,) = told(app)
    assert isinstance(again, ExecutorReady)
    assert (again.executor, again.attachment) == (FIRST, 1)
    pool.placement.unstall(worker)
    assert told(app) == [], "said once"
    pool.route(app, [launch(task=3)])
    assert waiting_in(worker.outbox) == b"", "it was on its way before the driver heard of that"
    pool.say_resume(app)
    for number in (1, 2, 3):
        pool.route(app, [launch(task=number)])
        assert waiting_in(worker.outbox) == launch(task=number).raw


async def test_nobody_waits_for_a_worker_that_does_not_keep_up() -> None:
    pool = StubPool()
    slow, app = pool.ready()
    quick = pool.attach(worker_hello("w2"))
    pool.say_started(quick, executor=FIRST + 1)
    pool.say_resume(app, FIRST + 1)
    waiting_in(quick.outbox)
    full(slow)
    pool.route(app, [launch(), launch(FIRST + 1)])
    assert waiting_in(quick.outbox) == launch(FIRST + 1).raw


async def test_stalled_executor_that_is_to_stop_is_not_told_as_ready_again() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    full(worker)
    pool.route(app, [launch(), release()])
    told(app)
    pool.placement.unstall(worker)
    assert told(app) == []
    pool.say_ended(worker, EndCause.RELEASED)
    assert app.refusals == {}, "another one may follow"


async def test_stalled_executor_of_an_application_that_is_over_does_not_revive_it() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    full(worker)
    pool.route(app, [launch()])
    pool.close(KEY, "over")
    pool.placement.unstall(worker)
    assert app.status().state is ApplicationState.FINISHED


async def test_application_is_not_silent_while_it_sends_anything() -> None:
    pool = StubPool()
    worker, app = pool.ready()
    ping = FrameDecoder(1024).feed(PING)
    for frames in ([launch()], [frame(Kind.ACK)], list(ping), [release()]):
        app.heard = float("-inf")
        pool.route(app, frames)
        assert app.heard > 0
    assert waiting_in(worker.outbox).startswith(launch().raw + frame(Kind.ACK).raw)


async def test_slots_of_one_application_are_capped() -> None:
    pool = StubPool(max_slots=3)
    workers = [pool.attach(worker_hello(name)) for name in ("w1", "w2", "w3")]
    app = pool.opened()
    assert [starts(worker) for worker in workers] == [[(FIRST, 2)], [(FIRST + 1, 1)], []]
    assert told(app) == [PoolChanged(slots=3)]
    pool.lose(workers[0], WorkerState.LOST, "its stream broke")
    assert starts(workers[2]) == [(FIRST + 2, 2)]


async def test_least_loaded_worker_serves_first() -> None:
    pool = StubPool(max_slots=2)
    busy, idle = (pool.attach(worker_hello(name)) for name in ("busy", "idle"))
    await pool.report(busy, report(busy, slots_busy=2))
    pool.opened()
    assert (starts(busy), starts(idle)) == ([], [(FIRST, 2)])


async def test_counts_of_a_lost_worker_keep_what_was_done() -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened()
    await pool.report(worker, report(worker, 2, running=2, done=5))
    assert (app.status().running, app.status().done) == (2, 5)
    pool.lose(worker, WorkerState.LOST, "its stream broke")
    assert (app.status().running, app.status().done) == (0, 5)


async def test_refresh_waits_for_reports_and_for_nobody_who_has_gone() -> None:
    pool = StubPool()
    here, gone = (pool.attach(worker_hello(name)) for name in ("here", "gone"))
    refreshing = asyncio.create_task(pool.refresh(timeout_s=10))
    await asyncio.sleep(0)
    assert asked(here) == [SendReport()]
    pool.lose(gone, WorkerState.LOST, "its stream broke")
    assert not refreshing.done()
    await pool.report(here, report(here))
    await asyncio.wait_for(refreshing, 5)


async def test_refresh_is_bounded() -> None:
    pool = StubPool()
    pool.attach(worker_hello())
    await asyncio.wait_for(pool.refresh(timeout_s=0.01), 5)


async def test_only_so_many_of_those_gone_are_remembered() -> None:
    pool = StubPool()
    for number in range(REMEMBERED + 5):
        worker = pool.attach(worker_hello(f"w{number}"))
        pool.lose(worker, WorkerState.LEFT, "it left")
        pool.opened(f"{number:016x}")
        pool.close(f"{number:016x}", "over")
    assert (len(pool.workers), len(pool.applications)) == (REMEMBERED, REMEMBERED)
