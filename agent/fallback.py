"""What happens while no external executor is there: `reschedule.fallback`."""

import asyncio
from collections.abc import Awaitable, Callable

from agent.driver import Driver
from common.logs import get_logger
from common.settings import Fallback, Settings

log = get_logger(__name__)
# A job that waits says so this often.
REMIND_S = 30.0


class Emptiness:
    """Watches how long the pool has been empty, and does what the settings say.

    Args:
        start_inside: brings in the slots on the driver's machine; false where it has none.
    """

    def __init__(
        self, settings: Settings, driver: Driver, start_inside: Callable[[], Awaitable[bool]]
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._start_inside = start_inside
        self._since: float | None = None
        self._reminded = float("-inf")

    async def judge(self, executors: int, why: str) -> None:
        """Called every second or so with the number of external executors."""
        now = asyncio.get_running_loop().time()
        if executors:
            self._since = None
            return
        if self._since is None:
            self._since = now
        if now - self._since < self._settings.reschedule_fallback_after:
            return
        await self._act(now, f"The pool has been empty for {now - self._since:.0f} s: {why}")

    async def _act(self, now: float, situation: str) -> None:
        policy = self._settings.reschedule_fallback
        if policy is Fallback.FAIL:
            await self._driver.fail_jobs(f"{situation} (reschedule.fallback=fail)")
        elif now - self._reminded >= REMIND_S:
            self._reminded = now
            inside = policy is Fallback.INTERNAL and await self._start_inside()
            outcome = "The job runs on this machine meanwhile" if inside else "The job waits"
            log.warning("pool.empty", reason=situation, policy=policy)
            await self._driver.warn(f"{situation}. {outcome}")
