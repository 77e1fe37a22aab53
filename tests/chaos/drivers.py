"""Driver programs, many jobs each, and what became of the jobs."""

import json
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO

import psutil

from tests.chaos.offspring import executors, offspring, send
from tests.cluster import Cluster
from tests.services import ROOT, wait_for

PROGRAM = ROOT / "tests" / "jobs" / "chaos.py"
MARK = "CHAOS "
# A job takes one to four seconds when nothing happens, the start of a driver ten. A driver
# that has not said anything in this time will not.
HANG_S = 90.0
# Any counted failure ends a job, so that it is seen.
OPTIONS = (
    "--master", "local-external", "--conf", "spark.task.maxFailures=1",
    "--driver-memory", "512m", "--executor-memory", "512m",
)
# A JVM writes its threads to standard output within moments, and this at their end.
DUMP_S = 5.0
DUMP_END = "JNI global refs"


class Outcome(StrEnum):
    """What became of a job."""

    RIGHT = "right"  # it gave what it must give
    WRONG = "wrong"  # it gave something else
    FAILED = "failed"  # it ended with an error
    HUNG = "hung"  # it was given up


@dataclass
class Job:
    """One job of one driver; also the start or end of the driver, where that went wrong."""

    driver: int
    number: int
    kind: str
    begun_at: float
    """Seconds since the epoch, as `ended_at`."""
    ended_at: float | None = None
    outcome: Outcome | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        return f"{self.driver}.{self.number}"

    def end(self, outcome: Outcome, at: float, problem: str = "") -> None:
        self.outcome, self.ended_at, self.problem = outcome, at, problem

    def __str__(self) -> str:
        took = f"{self.ended_at - self.begun_at:.1f} s" if self.ended_at else "under way"
        first, _, _ = self.problem.partition("\n")
        return f"{self.name} {self.kind}: {self.outcome or 'begun'}, {took} {first}".strip()


@dataclass
class Ledger:
    """What one driver has said so far; its lines may come from a thread."""

    driver: int
    jobs: list[Job] = field(default_factory=list)
    is_over: bool = False
    tell: Callable[[Job], None] = field(default=lambda job: None, repr=False)

    def take(self, line: str) -> None:
        """One line of the driver's standard output; others than ours are passed over."""
        if not line.startswith(MARK):
            return
        said = json.loads(line.removeprefix(MARK))
        match said["event"]:
            case "begin":
                self.jobs.append(Job(self.driver, said["job"], said["kind"], said["at"]))
            case "end":
                self.jobs[-1].end(Outcome(said["outcome"]), said["at"], said["problem"])
                self.tell(self.jobs[-1])
            case "over":
                self.is_over = True

    def give_up(self, outcome: Outcome, begun_at: float, problem: str) -> Job:
        """Closes the job under way; without one it is the driver itself that went wrong."""
        if not self.jobs or self.jobs[-1].outcome is not None:
            kind = "end of driver" if self.jobs else "start of driver"
            self.jobs.append(Job(self.driver, len(self.jobs) + 1, kind, begun_at))
        self.jobs[-1].end(outcome, time.time(), problem)
        self.tell(self.jobs[-1])
        return self.jobs[-1]


class Driver:
    """A driver under way.

    Args:
        number: how many drivers this pool has had with this one, from 1.
        arguments: of the program, after its seed and its folder.
        tell: told each job that has ended, from a thread of this driver.
    """

    def __init__(
        self,
        pool: Cluster,
        number: int,
        seed: int,
        arguments: Sequence[str],
        tell: Callable[[Job], None],
        conf: Path | None = None,
    ) -> None:
        self.number = number
        self.ledger = Ledger(number, tell=tell)
        self.events = pool.folder / "events" / str(number)
        self._heard_at = time.time()
        self._stack = ExitStack()
        self._process = self._stack.enter_context(
            pool.start(PROGRAM, str(seed), str(pool.folder), *arguments, options=OPTIONS, conf=conf)
        )
        self._out = pool.folder / f"driver-{number}.out"
        self._readers = [
            _reader(self._process.stdout, self._out, self._hear),
            _reader(self._process.stderr, self._out.with_suffix(".err"), lambda line: None),
        ]

    @property
    def pid(self) -> int:
        return self._process.pid

    def tick(self) -> bool:
        """Looks after it; whether it has ended."""
        if self._process.poll() is not None:
            self._finish()
            return True
        if time.time() - self._heard_at > HANG_S:
            self._give_up()
            return True
        return False

    def end(self) -> None:
        """Kills it and what it runs itself; its agent sees that and says goodbye."""
        if self._process.poll() is None:
            for process in [psutil.Process(self.pid), *offspring(self.pid)]:
                if process.pid == self.pid or str(PROGRAM) in process.cmdline():
                    send(process, signal.SIGKILL)
        self._close()

    def _finish(self) -> None:
        self._close()
        status = self._process.returncode
        if status != 0 or not self.ledger.is_over:
            problem = f"the driver ended with status {status} before its work was over"
            self.ledger.give_up(Outcome.FAILED, self._heard_at, problem)

    def _give_up(self) -> None:
        self._dump_threads()
        self.end()
        problem = f"nothing was heard of driver {self.number} for {HANG_S:.0f} s"
        self.ledger.give_up(Outcome.HUNG, self._heard_at, problem)

    def _dump_threads(self) -> None:
        """Into the logs: why it hangs is to be seen there, in the driver or in an executor."""
        for process in [psutil.Process(self.pid), *executors()]:
            send(process, signal.SIGQUIT)
        with suppress(AssertionError):
            wait_for(lambda: DUMP_END in self._out.read_text(), DUMP_S, "the threads")

    def _hear(self, line: str) -> None:
        self._heard_at = time.time()
        self.ledger.take(line)

    def _close(self) -> None:
        if self._process.poll() is None:
            self._process.wait()
        for reader in self._readers:
            reader.join()
        self._stack.close()


def _reader(source: IO[str] | None, file: Path, take: Callable[[str], None]) -> threading.Thread:
    """Reads a pipe to its end, into a file too: a pipe that is full would stop the driver."""
    assert source is not None
    file.touch()

    def read() -> None:
        with file.open("w") as copy:
            for line in source:
                copy.write(line)
                copy.flush()
                take(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return reader
