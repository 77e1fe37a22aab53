"""The external executors of a driver: how each is reached now, and whether it still lives."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from agent.driver import DriverError
from common.logs import get_logger
from common.messages import ExecutorReady

log = get_logger(__name__)
# An executor that no dispatcher has, and that has no result stream, is given so long to show
# itself: a worker that lives has both again in a moment.
VANISHED_S = 3.0


class Way(Protocol):
    """A link to a dispatcher, as far as an executor's frames need it."""

    def send(self, data: bytes) -> None: ...

    def release(self, executor: int, reason: str) -> None: ...


class Scheduler(Protocol):
    """What the driver JVM does with executors; see `agent.driver.Driver`."""

    async def register_executor(
        self, executor: int, host: str, port: int, slots: int, inside: bool
    ) -> bool: ...

    async def remove_executor(self, executor: int, reason: str, by_application: bool) -> None: ...

    async def drain_executor(self, executor: int, reason: str) -> None: ...


@dataclass(eq=False)
class _Known:
    """One executor that Spark has, or is about to have."""

    attachment: int = 0
    way: Way | None = None
    """How it is reached; none while its dispatcher is lost."""
    lost_at: float = 0.0
    """Since when it has none; this and the following in seconds of the loop's clock."""
    awaited_from: float = 0.0
    """Since when some dispatcher could have had it, and none had."""


@dataclass(eq=False)
class _Results:
    """The result streams of one executor, of which one is open while all is well."""

    heard: float
    open: int = 0


class Executors:
    """From an executor's first readiness until Spark has removed it.

    Its worker may change its dispatcher, and a dispatcher may die: the executor stays, as long
    as its results come. The driver JVM knows best which ones there are: one that it has removed
    never comes back.

    Args:
        heartbeat_s: how long anything may be silent before it counts as dead.
    """

    def __init__(self, driver: Scheduler, heartbeat_s: float) -> None:
        self._driver = driver
        self._heartbeat_s = heartbeat_s
        self._known: dict[int, _Known] = {}
        # A result stream opens before its executor is ready.
        self._results: dict[int, _Results] = {}
        self._removed: set[int] = set()
        self.ways: dict[int, Way] = {}
        """By executor: where its frames go. Not before the JVM has said RESUME."""

    def __len__(self) -> int:
        return len(self._known)

    def inherit(self, executors: Iterable[int]) -> None:
        """Takes up what an agent that died has left, before any dispatcher is asked."""
        for executor in executors:
            self._known[executor] = _Known(lost_at=_now(), awaited_from=_now())
            self._results.setdefault(executor, _Results(_now()))

    def by_way(self, way: Way) -> list[int]:
        return [executor for executor, known in self._known.items() if known.way is way]

    # What dispatchers say

    async def ready(self, way: Way, event: ExecutorReady) -> None:
        """It takes tasks, by this way. An older attachment of its worker is not believed."""
        executor = event.executor
        if executor in self._removed:
            way.release(executor, "it was removed before")
            return
        known = self._known.setdefault(executor, _Known())
        self._results.setdefault(executor, _Results(_now()))
        if event.attachment < known.attachment:
            return
        known.attachment, known.way = event.attachment, way
        self.ways.pop(executor, None)
        try:
            taken = await self._driver.register_executor(
                executor, event.host, event.port, event.slots, False
            )
        except DriverError as error:
            log.warning("executor.unwanted", executor=executor, reason=str(error))
            taken = False
        if not taken:
            self._forget(executor, "the driver does not take it")

    def resume(self, executor: int) -> None:
        """The JVM sends again what may have been lost, and then what is new."""
        known = self._known.get(executor)
        if known is not None and known.way is not None:
            self.ways[executor] = known.way

    async def lost(self, way: Way, executor: int, reason: str, by_application: bool) -> None:
        """It is gone, says the dispatcher that had it; another one's word does not count."""
        known = self._known.get(executor)
        if known is not None and known.way is way:
            await self.remove(executor, reason, by_application)

    async def draining(self, way: Way, executor: int, reason: str) -> None:
        known = self._known.get(executor)
        if known is not None and known.way is way:
            try:
                await self._driver.drain_executor(executor, reason)
            except DriverError as error:
                # It leaves all the same, and what it had is made again.
                log.warning("executor.undrained", executor=executor, reason=str(error))

    def way_lost(self, way: Way) -> None:
        """A dispatcher is gone: what it had lives on, and will be reached by another."""
        for executor in self.by_way(way):
            known = self._known[executor]
            known.way, known.lost_at, known.awaited_from = None, _now(), _now()
            self.ways.pop(executor, None)

    # What workers say, by their result streams

    def is_removed(self, executor: int) -> bool:
        return executor in self._removed

    def stream_opened(self, executor: int) -> None:
        self._results.setdefault(executor, _Results(_now())).open += 1
        self.heard(executor)

    def stream_closed(self, executor: int) -> None:
        if (results := self._results.get(executor)) is not None:
            results.open -= 1

    def heard(self, executor: int) -> None:
        if (results := self._results.get(executor)) is not None:
            results.heard = _now()

    # What time says

    async def judge(self, dispatchers: int) -> None:
        """Removes the executors that are silent, or that nobody can reach.

        Args:
            dispatchers: how many are linked; while there is none, the executors wait for one.
        """
        now, dead = _now(), {}
        for executor, known in self._known.items():
            if not dispatchers:
                known.awaited_from = now
            if reason := self._dead(known, self._results[executor], now):
                dead[executor] = reason
        await self._remove_all(dead)

    def _dead(self, known: _Known, results: _Results, now: float) -> str | None:
        if now - results.heard > self._heartbeat_s:
            return f"its worker was silent for {self._heartbeat_s:g} s"
        if known.way is not None:
            return None
        if not results.open and now - max(results.heard, known.lost_at) > VANISHED_S:
            return "its dispatcher and its worker are lost"
        if now - known.awaited_from > self._heartbeat_s:
            return f"its dispatcher is lost, and no other had it for {self._heartbeat_s:g} s"
        return None

    async def give_up_unreachable(self, reason: str) -> None:
        """Removes the executors that no dispatcher has."""
        await self._remove_all({e: reason for e, known in self._known.items() if not known.way})

    async def _remove_all(self, reasons: dict[int, str]) -> None:
        for executor, reason in reasons.items():
            # Each removal takes a while, in which others may have been reported lost.
            if executor in self._known:
                await self.remove(executor, reason, by_application=False)

    async def remove(self, executor: int, reason: str, by_application: bool) -> None:
        """Spark reruns what it had; its worker is told to end it, if it lives."""
        self._forget(executor, reason)
        await self._driver.remove_executor(executor, reason, by_application)

    def _forget(self, executor: int, reason: str) -> None:
        known = self._known.pop(executor, None)
        self._results.pop(executor, None)
        self._removed.add(executor)
        self.ways.pop(executor, None)
        if known is not None and known.way is not None:
            known.way.release(executor, reason)


def _now() -> float:
    return asyncio.get_running_loop().time()
