"""Many small jobs in a row, and what the services hold afterwards: `bash sbin/leak-check.sh`.

One dispatcher and two workers serve one driver after the other, while a third worker joins and
leaves again and again. After each driver the services are measured, and each driver's agent
after each batch of its jobs. Nothing may grow with the jobs.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from tests.chaos.choices import Victim
from tests.chaos.drivers import Driver, Job, Outcome
from tests.chaos.offspring import agents, end_all, end_on_signals, executors, keep_offspring
from tests.chaos.progress import Progress
from tests.chaos.samples import FIGURES, Figure, Points, Sample, Slope, slope, warm
from tests.chaos.services import STOP_S, Services
from tests.services import wait_for

# Enough points for a line in the life of one agent.
BATCHES = 8
# The third worker stays for so many jobs, and stays away for as many.
VISIT_JOBS = 3
TICK_S = 0.02
QUIET_S = 30.0
# No driver comes near it.
DRIVER_S = 3600
AGENTS = "agents"
console = Console()
History = dict[str, list[list[Sample]]]
"""By service: one series for each process that it was."""


class Visitor:
    """The worker that joins and leaves: SIGTERM, as its owner would end it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._process: subprocess.Popen[bytes] | None = None
        self._turn_at = 0

    def turn(self, jobs: int) -> None:
        """Comes or goes when it is time to, after so many jobs of all drivers."""
        if jobs < self._turn_at:
            return
        self._turn_at = jobs + VISIT_JOBS
        if self._process is None:
            self._process = self._services.worker("visitor", 1)
        else:
            self.leave()

    def leave(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(STOP_S)
        self._process = None


class LeakCheck:
    """One run: drivers one after the other, and what was measured."""

    def __init__(self, folder: Path, jobs: int, drivers: int, progress: Progress) -> None:
        self._progress = progress
        self._per_driver = max(1, jobs // drivers)
        self._services = Services(folder, progress, slots=(1, 1), dispatchers=1)
        self._visitor = Visitor(self._services)
        self._driver: Driver | None = None
        self._drivers = drivers
        self._done = 0
        self.bad: list[Job] = []
        self.history: History = defaultdict(list)

    def run(self) -> None:
        for number in range(1, self._drivers + 1):
            self._drive(number)
            self._visitor.leave()
            # A measure taken while executors still end would be one of the moment.
            wait_for(lambda: not executors() and not agents(), QUIET_S, "executors and agents gone")
            self._measure_services()
            self._progress.tell(f"driver {number} of {self._drivers}, {self._done} jobs")

    def end(self) -> None:
        if self._driver is not None:
            self._driver.end()
        self._visitor.leave()
        self._services.end()

    def _drive(self, number: int) -> None:
        arguments = ["--until", str(time.time() + DRIVER_S), "--jobs", str(self._per_driver)]
        pool = self._services.pool
        self._driver = driver = Driver(pool, number, number, arguments, self._judge)
        series: list[Sample] = []
        self.history[AGENTS].append(series)
        batch = max(1, self._per_driver // BATCHES)
        while not driver.tick():
            jobs = sum(job.outcome is not None for job in driver.ledger.jobs)
            self._visitor.turn(self._done + jobs)
            if jobs >= batch * (len(series) + 1):
                self._measure_agent(driver, series, jobs)
            time.sleep(TICK_S)
        self._done += len(driver.ledger.jobs)
        self._driver = None

    def _judge(self, job: Job) -> None:
        if job.outcome is not Outcome.RIGHT:
            self.bad.append(job)

    def _measure_agent(self, driver: Driver, series: list[Sample], jobs: int) -> None:
        # At its driver's end it may be gone at any moment.
        with suppress(psutil.NoSuchProcess):
            series += [Sample.of(agent, jobs) for agent in agents(driver.pid)[:1]]

    def _measure_services(self) -> None:
        for service in self._services.all:
            if service.victim is not Victim.REDIS:
                series = self.history[service.name] or [[]]
                series[0].append(Sample.of(psutil.Process(service.process.pid), self._done))
                self.history[service.name] = series


@dataclass(frozen=True)
class Row:
    """One figure of one service."""

    service: str
    figure: Figure
    first: float
    last: float
    slope: Slope

    @property
    def leaks(self) -> bool:
        return self.slope.exceeds(self.figure.bound)

    @classmethod
    def of(cls, service: str, figure: Figure, series: list[list[Sample]]) -> "Row":
        """First and last are of the first and the last process, where there were several."""
        points: list[Points] = [[s.point(figure) for s in samples] for samples in series if samples]
        return cls(
            service,
            figure,
            first=points[0][0][1],
            last=points[-1][-1][1],
            slope=slope([warm(part) for part in points]),
        )


def table(rows: list[Row]) -> Table:
    shown = Table(title="What the services hold; slopes are per 100 jobs, after a warm-up third")
    shown.add_column("service")
    shown.add_column("figure")
    for heading in ("first", "last", "slope", "error", "bound", "flat"):
        shown.add_column(heading, justify="right")
    for row in rows:
        name = f"{row.figure.name} {row.figure.unit}"
        numbers = (row.first, row.last, row.slope.value, row.slope.error, row.figure.bound)
        cells = [f"{number:.2f}" for number in numbers]
        shown.add_row(row.service, name, *cells, "no" if row.leaks else "yes")
    return shown


def leaks(
    jobs: Annotated[int, typer.Option(min=1, help="jobs, of all drivers together")] = 300,
    drivers: Annotated[int, typer.Option(min=1, help="one after the other")] = 15,
    verbose: Annotated[bool, typer.Option("--verbose", help="tell how far it is")] = False,
) -> None:
    """Runs small jobs in a row, and says whether a service holds more and more."""
    keep_offspring()
    end_on_signals()
    folder = Path(tempfile.mkdtemp(prefix="leak-check-"))
    good = False
    try:
        good = run(folder, jobs, drivers, Progress(folder / "progress.log", verbose))
    finally:
        end_all()
        if good:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"logs: {folder}", highlight=False, soft_wrap=True)
    sys.exit(0 if good else 1)


def run(folder: Path, jobs: int, drivers: int, progress: Progress) -> bool:
    """One run from start to end; whether no figure grows and all jobs were right."""
    check = LeakCheck(folder, jobs, drivers, progress)
    try:
        check.run()
    finally:
        check.end()
    rows = [
        Row.of(service, figure, series)
        for service, series in check.history.items()
        for figure in FIGURES
        if any(series)
    ]
    console.print(table(rows))
    for job in check.bad:
        console.print(str(job), markup=False, soft_wrap=True)
    return bool(rows) and not check.bad and not any(row.leaks for row in rows)


if __name__ == "__main__":
    typer.run(leaks)
