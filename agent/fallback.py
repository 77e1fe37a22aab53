"""What happens while no external executor is there: `reschedule.fallback`."""

import asyncio
from collections.abc import Awaitable, Callable

from agent.driver import Driver
from common.logs import get_logger
from common.settings import Fallback, Settings

log = get_logger(__name__)
# A job whose pool is empty says so after so long, and a job that waits again this often.
NOTICE_S = 10.0
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
        self._told = float("-inf")

    async def judge(self, executors: int, why: str) -> None:
        """Called every second or so with the number of external executors in reach."""
        now = asyncio.get_running_loop().time()
        if executors:
            self._since, self._told = None, float("-inf")
            return
        if self._since is None:
            self._since = now
        empty_s, limit_s = now - self._since, self._settings.reschedule_fallback_after
        if empty_s >= limit_s:
            await self._act(now, f"The pool has been empty for {empty_s:.0f} s: {why}")
        elif empty_s >= NOTICE_S and self._told < self._since:
            self._told = now
            policy = self._settings.reschedule_fallback
            await self._driver.warn(
                f"The pool is empty: {why}. The job waits for it; if it stays so for "
                f"{limit_s:g} s, reschedule.fallback={policy} holds"
            )

    async def _act(self, now: float, situation: str) -> None:
        policy = self._settings.reschedule_fallback
        if policy is Fallback.FAIL:
            await self._driver.fail_jobs(f"{situation} (reschedule.fallback=fail)")
        elif now - self._told >= REMIND_S or self._told < self._acts_from():
            self._told = now
            inside = policy is Fallback.INTERNAL and await self._start_inside()
            outcome = "The job runs on this machine meanwhile" if inside else "The job waits"
            log.warning("pool.empty", reason=situation, policy=policy)
            await self._driver.warn(f"{situation}. {outcome}")

    def _acts_from(self) -> float:
        """When waiting was over, seconds of the loop's clock."""
        return (self._since or 0.0) + self._settings.reschedule_fallback_after
