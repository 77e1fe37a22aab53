"""Jobs that go on step by step: the test's end of `tests/jobs/steps.py`."""

import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.cluster import JOB_TIMEOUT_S, Cluster
from tests.services import ROOT, wait_for

STEPS = ROOT / "tests" / "jobs" / "steps.py"
# Any failure that counts ends the job.
ONE_TRY = ("--master", "local-external", "--conf", "spark.task.maxFailures=1")
EXECUTOR = "org.apache.spark.external.ExternalExecutor"


@dataclass
class Steps:
    """One running job."""

    name: str
    folder: Path
    pool: Cluster
    driver: "subprocess.Popen[str]"
    errors: Path

    def runs(self, what: str) -> Counter[int]:
        """How often each task of that kind has begun, by partition."""
        file = self.folder / "runs"
        lines = file.read_text().splitlines() if file.exists() else []
        return Counter(int(line.split()[1]) for line in lines if line.startswith(what + " "))

    def wait_for_runs(self, what: str, count: int, timeout_s: float = 90.0) -> None:
        """Waits until that many tasks of that kind have begun, repeated ones included."""
        wait_for(
            lambda: self.runs(what).total() >= count, timeout_s, f"{count} {what} of {self.name}"
        )

    def wait_for_finished(self, count: int) -> None:
        """Waits until the driver has the results of that many tasks."""
        wait_for(
            lambda: self.said().count(": Finished task ") >= count, what=f"{count} results"
        )

    def jobs_done(self) -> int:
        file = self.folder / "jobs"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def go(self) -> None:
        (self.folder / "go").touch()

    def result(self) -> str:
        """What the job prints as its result; it must end well."""
        out, _ = self.driver.communicate(timeout=JOB_TIMEOUT_S)
        said = self.said()
        assert self.driver.returncode == 0, f"{out[-2000:]}\n{said[-8000:]}"
        results = [line for line in out.splitlines() if line.startswith("RESULT ")]
        assert len(results) == 1, out
        return results[0].removeprefix("RESULT ")

    def said(self) -> str:
        """What the driver has logged so far."""
        return self.errors.read_text(errors="replace")

    def agent(self) -> psutil.Process:
        """The agent beside the driver."""
        return wait_for(self._agents, what="agent")[0]

    def _agents(self) -> list[psutil.Process]:
        below = psutil.Process(self.driver.pid).children(recursive=True)
        return [process for process in below if _is_agent(process)]


def _is_agent(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[-2:] == ["-m", "agent"]
    except psutil.Error:
        return False


@contextmanager
def steps(
    pool: Cluster,
    name: str,
    *options: str,
    conf: Path | None = None,
    master: Sequence[str] = ONE_TRY,
    env: dict[str, str] | None = None,
) -> Iterator[Steps]:
    """Starts a job of `tests/jobs/steps.py`; leaving the block kills it if it still runs."""
    folder = pool.folder / f"{name}-{len(list(pool.folder.iterdir()))}"
    folder.mkdir()
    errors = folder / "driver.log"
    with (
        errors.open("w") as log,
        pool.start(
            STEPS, name, str(folder), options=(*master, *options), conf=conf, env=env, stderr=log
        ) as driver,
    ):
        yield Steps(name, folder, pool, driver, errors)


def executor_jvms(pool: Cluster) -> list[psutil.Process]:
    """Executor JVMs of this pool's workers."""
    workers = {worker.pid for worker in pool.workers}
    return [
        process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if process.info["ppid"] in workers and EXECUTOR in (process.info["cmdline"] or [])
    ]
