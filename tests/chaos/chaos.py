"""A pool whose processes are killed and stopped under jobs: `bash sbin/chaos.sh`.

Driver programs run jobs whose results are known, one driver every 40 seconds, while workers,
executor JVMs, dispatchers, agents and Redis are hit in an order that the seed determines, and
started again as an operator would. Drivers are never hit. No job may be wrong, fail or hang.
"""

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.chaos.choices import choices
from tests.chaos.drivers import Driver, Job
from tests.chaos.killer import Killer
from tests.chaos.offspring import end_all, end_on_signals, keep_offspring
from tests.chaos.progress import Progress
from tests.chaos.report import Report, Tasks, recovery_s
from tests.chaos.services import Services

SLOTS = (1, 2, 1)
# A driver each 40 s, that works a little longer: the pool is shared for a while, and the start
# of a driver meets chaos too.
DRIVER_EVERY_S = 40.0
DRIVER_WORK_S = 45.0
# More would only wait for each other on a machine with two cores.
DRIVERS_AT_ONCE = 2
# A driver that comes later than this would find the end.
LAST_DRIVER_S = 15.0
# The most that a task sleeps, so that there are tasks under way to hit.
PACE_S = 0.5
TICK_S = 0.05
# Short against the limit for a hung job, long against a pool that is only restarting.
FALLBACK_S = 20
console = Console()


class Chaos:
    """One run: a pool, drivers that come and go, and the killer."""

    def __init__(self, folder: Path, seed: int, seconds: float, progress: Progress) -> None:
        self._seed = seed
        self._progress = progress
        self._services = Services(
            folder, progress, SLOTS, reschedule_fallback_after=str(FALLBACK_S)
        )
        self._killer = Killer(self._services, choices(seed), progress)
        self._drivers: list[Driver] = []
        self._all: list[Driver] = []
        self._end = time.monotonic() + seconds
        self._next_driver = time.monotonic()

    def run(self) -> None:
        """Until the time is over and the last driver has ended."""
        while self._left_s() > 0:
            self._start_driver()
            self._killer.tick()
            self._tick()
        self._killer.rest()
        self._progress.tell("no more kills; the last jobs end")
        while self._drivers:
            self._tick()

    def end(self) -> None:
        """Ends everything, whatever state it is in."""
        self._killer.rest()
        for driver in self._drivers:
            driver.end()
        self._services.end()

    def report(self, left: int) -> Report:
        """To be called when everything has ended, and so many processes had to be killed."""
        ledgers = [(driver.ledger, Tasks.of(driver.events)) for driver in self._all]
        recoveries = [
            recovery_s(kill.at, ledger.jobs, tasks)
            for kill in self._killer.kills
            for ledger, tasks in ledgers
        ]
        return Report(
            jobs=[job for ledger, _ in ledgers for job in ledger.jobs],
            kills=self._killer.kills,
            drivers=len(self._all),
            reruns=sum(tasks.rerun for _, tasks in ledgers),
            longest_recovery_s=max(recoveries, default=0.0),
            notes={
                "services that ended by themselves": self._services.unasked_ends,
                "processes left behind": left,
            },
        )

    def _left_s(self) -> float:
        return self._end - time.monotonic()

    def _start_driver(self) -> None:
        due = time.monotonic() >= self._next_driver and len(self._drivers) < DRIVERS_AT_ONCE
        if not due or (self._all and self._left_s() < LAST_DRIVER_S):
            return
        self._next_driver = time.monotonic() + DRIVER_EVERY_S
        number = len(self._all) + 1
        until = time.time() + min(DRIVER_WORK_S, self._left_s())
        arguments = ["--until", str(until), "--pace", str(PACE_S)]
        self._progress.tell(f"start   driver {number}")
        # Each driver has jobs of its own, all of them determined by the one seed.
        seed = self._seed * 1000 + number
        driver = Driver(self._services.pool, number, seed, arguments, self._tell)
        self._drivers.append(driver)
        self._all.append(driver)

    def _tick(self) -> None:
        self._services.keep()
        for driver in list(self._drivers):
            if driver.tick():
                self._drivers.remove(driver)
                self._progress.tell(f"end     driver {driver.number}")
        time.sleep(TICK_S)

    def _tell(self, job: Job) -> None:
        self._progress.tell(f"job     {job}")


def chaos(
    minutes: Annotated[float, typer.Option(help="how long to go on")] = 10.0,
    seed: Annotated[int | None, typer.Option(help="determines all choices")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="tell what happens")] = False,
    keep_logs: Annotated[bool, typer.Option("--keep-logs", help="though all is right")] = False,
) -> None:
    """Kills a pool's processes under jobs, and says whether all results were right."""
    seed = random.randrange(10_000) if seed is None else seed
    console.print(f"seed {seed}", highlight=False)
    keep_offspring()
    end_on_signals()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    report = None
    try:
        report = run(folder, seed, minutes * 60, Progress(folder / "progress.log", verbose))
    finally:
        end_all()
        if report is not None and report.is_good and not keep_logs:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"logs: {folder}", highlight=False, soft_wrap=True)
    sys.exit(0 if report.is_good else 1)


def run(folder: Path, seed: int, seconds: float, progress: Progress) -> Report:
    """One run from start to end; nothing of it is left when this returns."""
    chaos = Chaos(folder, seed, seconds, progress)
    try:
        chaos.run()
    finally:
        chaos.end()
    left = end_all()
    for command in left:
        progress.tell(f"left    {command}")
    report = chaos.report(len(left))
    report.print(console)
    return report


if __name__ == "__main__":
    typer.run(chaos)
