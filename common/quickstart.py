"""`python -m common.quickstart SPARK_HOME`: Spark's example for Pi on a pool of its own."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import typer
from rich.table import Table

from common.console import run
from common.errors import SparkProxyError
from common.hosts import Hosts
from common.pool_status import ask_all
from common.settings import FILE_NAME, Home, Settings
from common.tables import new_console, new_table

EXAMPLE = "examples/src/main/python/pi.py"
RESULT = "Pi is roughly"
# Ten times the slots of the pool: both workers get some, and it is over in seconds.
PARTITIONS = 20
# The first job starts an executor JVM on each worker; slow machines take half a minute.
JOB_TIMEOUT_S = 300
SHOWN_LOG_LINES = 20

console = new_console()


class QuickstartError(SparkProxyError):
    """A step failed."""

    def __init__(self, step: str, logs: Path) -> None:
        super().__init__(step, logs)
        self.step = step
        self.logs = logs

    def __str__(self) -> str:
        return (
            f"{self.step} failed. The logs are in {self.logs}; "
            "correct what they name and run sbin/quickstart.sh again"
        )


@dataclass(frozen=True)
class Trial:
    """A pool beside any other on this machine: ports and folders of its own."""

    home: Home
    spark_home: Path
    logs: Path

    @classmethod
    def prepare(cls, folder: Path, spark_home: Path) -> "Trial":
        root = Home.from_environment()
        home = Home(root=root.root, conf=folder / "conf", pids=folder / "pids")
        trial = cls(home, spark_home, root.logs / "quickstart")
        trial.logs.mkdir(parents=True, exist_ok=True)
        home.conf.mkdir()
        redis_port, dispatcher_port = _free_ports()
        # Nothing runs inside: what the example computes, the workers have computed.
        lines = (
            "reschedule.dst.executor=external",
            "reschedule.fallback=fail",
            f"redis.port={redis_port}",
            f"dispatcher.port={dispatcher_port}",
        )
        (home.conf / FILE_NAME).write_text("\n".join(lines) + "\n")
        return trial

    def script(self, name: str) -> None:
        """Runs a script of `sbin/`, which shows its own progress and failures."""
        command = ["bash", str(Path(__file__).parent.parent / "sbin" / name)]
        if subprocess.run(command, env=self._environment(), check=False).returncode != 0:
            raise QuickstartError(name, self.logs)

    def submit(self) -> str:
        """Submits the example as anybody would; returns the line with its result."""
        submit = self.spark_home / "bin" / "spark-submit"
        command = [str(submit), str(self.spark_home / EXAMPLE), str(PARTITIONS)]
        log = self.logs / "spark-submit.log"
        try:
            with log.open("w") as errors:
                told = subprocess.run(
                    command,
                    env=self._environment(),
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    timeout=JOB_TIMEOUT_S,
                    check=True,
                )
        except subprocess.SubprocessError as error:
            end = log.read_text().splitlines()[-SHOWN_LOG_LINES:]
            console.print(*end, sep="\n", soft_wrap=True)
            raise QuickstartError("spark-submit", self.logs) from error
        return next(line for line in told.stdout.splitlines() if line.startswith(RESULT))

    def tasks_by_worker(self) -> Table:
        """What the workers say that they have run."""
        settings = Settings.load(self.home.conf)
        urls = Hosts.load(settings, self.home).urls
        answers = asyncio.run(ask_all(urls, settings, self.home))
        table = new_table("Who ran it", "Worker", "Pid", "Slots", "Tasks")
        for worker in answers.status.workers:
            numbers = (worker.pid, worker.slots, worker.tasks_done)
            table.add_row(worker.id, *map(str, numbers))
        return table

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "EXTERNAL_SPARK_CONF_DIR": str(self.home.conf),
            "EXTERNAL_SPARK_PID_DIR": str(self.home.pids),
            "EXTERNAL_SPARK_LOG_DIR": str(self.logs),
            "SPARK_HOME": str(self.spark_home),
            "SPARK_CONF_DIR": str(self.home.conf),
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
        }


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@contextlib.contextmanager
def _step(text: str) -> Iterator[None]:
    """Says what is being done, on a terminal with a sign of life."""
    console.print(f"==> {text}")
    with console.status(""):
        yield


@contextlib.contextmanager
def _trial(spark_home: Path) -> Iterator[Trial]:
    """A trial whose pool and folders are gone at the end, however it ends."""
    tmp = Home.from_environment().tmp
    tmp.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="quickstart-", dir=tmp))
    trial = Trial.prepare(folder, spark_home)
    try:
        yield trial
    finally:
        # From here on an impatient Ctrl-C would leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        console.print("==> Stopping the pool")
        trial.script("stop-all.sh")
        shutil.rmtree(folder, ignore_errors=True)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main(spark_home: Path) -> None:
    """Starts a pool, submits the example, shows what ran where, and stops the pool."""
    signal.signal(signal.SIGTERM, _end)
    with _trial(spark_home) as trial:
        console.print("==> Starting a Redis, a dispatcher and two workers")
        trial.script("start-all.sh")
        with _step(f"Submitting Spark's own {EXAMPLE}, {PARTITIONS} partitions"):
            result = trial.submit()
        console.print(result)
        console.print(trial.tasks_by_worker())


if __name__ == "__main__":
    run(lambda: typer.run(main))
