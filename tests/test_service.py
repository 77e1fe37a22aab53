"""What of several things ends first ends them all."""

import asyncio

import pytest

from common.service import first


class Work:
    """Goes on until a test ends it, and knows whether it was cancelled."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.cancelled = False
        self.cleared_up = False

    async def run(self, error: Exception | None = None) -> None:
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            await asyncio.sleep(0)
            self.cleared_up = True
            raise
        if error is not None:
            raise error


async def begun(task: "asyncio.Task[None]") -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()


async def test_first_that_ends_cancels_the_others_and_waits_for_them() -> None:
    one, other = Work(), Work()
    task = asyncio.create_task(first(one.run(), other.run()))
    await begun(task)
    one.end.set()
    await task
    assert (one.cancelled, other.cancelled, other.cleared_up) == (False, True, True)


async def test_first_that_fails_is_raised_and_the_others_are_cancelled() -> None:
    one, other = Work(), Work()
    task = asyncio.create_task(first(one.run(ValueError("why")), other.run()))
    await begun(task)
    one.end.set()
    with pytest.raises(ValueError, match="why"):
        await task
    assert (other.cancelled, other.cleared_up) == (True, True)


@pytest.mark.parametrize("error", [None, ValueError("why")], ids=["ends", "fails"])
async def test_what_is_only_waited_for_ends_it_too(error: ValueError | None) -> None:
    one, until = Work(), Work()
    serving = asyncio.create_task(until.run(error))
    task = asyncio.create_task(first(one.run(), until=serving))
    await begun(task)
    until.end.set()
    if error is None:
        await task
    else:
        with pytest.raises(ValueError, match="why"):
            await task
    assert one.cancelled


async def test_what_is_only_waited_for_is_left_alone() -> None:
    one, until = Work(), Work()
    serving = asyncio.create_task(until.run())
    task = asyncio.create_task(first(one.run(), until=serving))
    await begun(task)
    one.end.set()
    await task
    assert not until.cancelled
    until.end.set()
    await serving


async def test_whoever_is_cancelled_meanwhile_cancels_all_of_it() -> None:
    one, other, until = Work(), Work(), Work()
    serving = asyncio.create_task(until.run())
    task = asyncio.create_task(first(one.run(), other.run(), until=serving))
    await begun(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (one.cleared_up, other.cleared_up, until.cancelled) == (True, True, False)
    until.end.set()
    await serving
