"""What a dispatcher does with frames and reports, and how it shares slots."""

import asyncio

import pytest

from common.errors import FrameMalformed
from common.frames import Frame, FrameDecoder, Kind, encode
from common.messages import (
    ApplicationCounts,
    PoolChanged,
    SendReport,
    WorkerReport,
    WorkerState,
)
from dispatcher.members import Worker
from dispatcher.pool import REMEMBERED
from tests.stubs import (
    FIRST,
    KEY,
    OTHER_KEY,
    StubPool,
    asked,
    starts,
    told,
    waiting_in,
    worker_hello,
)


def launch(executor: int = FIRST, task: int = 1, key: str = KEY, kind: Kind = Kind.LAUNCH) -> Frame:
    raw = encode(kind, b"task", executor=executor, app=int(key, 16), task=task)
    (frame,) = FrameDecoder(2**20).feed(raw)
    return frame


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
        asked(worker)
        frames.append(launch(FIRST + number, task=number))
    await pool.route(app, frames)
    assert [waiting_in(w.outbox) for w in workers] == [frame.raw for frame in frames]
    assert pool.frames_routed == 2


async def test_frames_for_executors_that_are_not_there_are_dropped() -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened()
    asked(worker)
    await pool.route(app, [launch(), launch(executor=99)])
    pool.say_started(worker)
    pool.lose(worker, WorkerState.LOST, "its stream broke")
    await pool.route(app, [launch()])
    assert (waiting_in(worker.outbox), pool.frames_routed) == (b"", 0)


@pytest.mark.parametrize(
    "frame",
    [launch(key=OTHER_KEY), launch(kind=Kind.CONTROL), launch(kind=Kind.STATUS)],
    ids=["of another application", "a command to the worker", "no driver sends it"],
)
async def test_application_reaches_nothing_but_its_own_executors(frame: Frame) -> None:
    pool = StubPool()
    worker, app = pool.attach(worker_hello()), pool.opened()
    pool.say_started(worker)
    asked(worker)
    with pytest.raises(FrameMalformed):
        await pool.route(app, [frame])
    assert waiting_in(worker.outbox) == b""


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
