"""A pool of real processes, and real Spark drivers that use it."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, TypeVar

import httpx

from common.messages import ApplicationStatus, PoolStatus
from common.security import TOKEN_FILE
from common.shim import shim_jar
from common.spark import SparkHome
from tests.networks import Volunteer
from tests.services import HOST, ROOT, ServiceProcess, redis_server, service, wait_for

T = TypeVar("T")
SPARK_4 = "4.3.0"
SPARK_3 = "3.5.9"
PLUGIN = "org.apache.spark.external.ExternalSparkPlugin"
TOKEN = "a-token-for-tests"
# A Spark job takes 8 s on a quiet machine with two cores; CI is not always quiet.
JOB_TIMEOUT_S = 240
# Jobs of a few seconds end before the optimizing compiler pays: this halves their CPU time.
QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
# Executor ids of ours start here; Spark's own count from 0, and "driver" is a local one.
FIRST_EXTERNAL_ID = 1_000_000


def spark_home(version: str = SPARK_4) -> Path:
    return ROOT / "spark" / version / "pyspark"


def example(path: str, version: str = SPARK_4) -> Path:
    """One of Spark's own Python examples."""
    return spark_home(version) / "examples" / "src" / "main" / "python" / path


def data(path: str, version: str = SPARK_4) -> Path:
    """One of the data files that Spark ships for its examples."""
    return spark_home(version) / "data" / path


@dataclass
class Job:
    """A driver that has ended."""

    code: int
    out: str
    err: str
    tasks: Counter[str] = field(default_factory=Counter)
    """Finished tasks by executor id, as Spark's own event log counts them."""

    @property
    def external_tasks(self) -> int:
        return sum(n for executor, n in self.tasks.items() if is_external(executor))

    @property
    def inside_tasks(self) -> int:
        return self.tasks.total() - self.external_tasks

    def lines(self, prefix: str) -> list[str]:
        return [line for line in self.out.splitlines() if line.startswith(prefix)]

    def succeeded(self) -> "Job":
        assert self.code == 0, f"exit status {self.code}\n{self.out[-3000:]}\n{self.err[-6000:]}"
        return self


def is_external(executor: str) -> bool:
    return executor.isdigit() and int(executor) >= FIRST_EXTERNAL_ID


class Cluster:
    """A Redis, dispatchers and workers of our own, and the way to submit jobs to them."""

    def __init__(
        self, folder: Path, redis_port: int, heartbeat_s: float, java_options: str, host: str = HOST
    ) -> None:
        self.folder = folder
        self.host = host
        self.home = folder / "home"
        self.dispatchers: list[ServiceProcess] = []
        self.workers: list[ServiceProcess] = []
        self._settings = {
            "redis.host": "127.0.0.1",
            "redis.port": str(redis_port),
            "heartbeat": str(heartbeat_s),
            "agent.host": host,
        }
        self._java_options = java_options
        self._numbers = count(1)
        self._last = 0
        self.home.mkdir()
        for name in ("jars", "spark"):
            (self.home / name).symlink_to(ROOT / name)
        (self.home / "venv").symlink_to(sys.prefix)

    def conf(self, **settings: str) -> Path:
        """A configuration folder with these settings beside those of the pool."""
        keys = {key.replace("_", "."): value for key, value in settings.items()}
        name = "-".join(["conf", *(f"{k}={v}" for k, v in sorted(keys.items()))])
        conf = self.folder / name.replace("/", "_")[:200]
        conf.mkdir(exist_ok=True)
        lines = [f"{key}={value}" for key, value in (self._settings | keys).items()]
        (conf / "common.properties").write_text("\n".join(lines) + "\n")
        (conf / TOKEN_FILE).write_text(TOKEN)
        return conf

    def env(self, conf: Path | None = None) -> dict[str, str]:
        return {
            "EXTERNAL_SPARK_HOME": str(self.home),
            "EXTERNAL_SPARK_CONF_DIR": str(conf or self.conf()),
            "SPARK_LOCAL_IP": self.host,
        }

    @contextmanager
    def dispatcher(self, port: int = 0, **settings: str) -> Iterator[ServiceProcess]:
        name = f"dispatcher-{os.urandom(3).hex()}"
        env = self.env(self.conf(**settings))
        arguments = ["--port", str(port), "--host", self.host]
        with service("dispatcher", *arguments, env=env, folder=self.folder, name=name) as started:
            self.dispatchers.append(started)
            try:
                yield started
            finally:
                self.dispatchers.remove(started)

    @contextmanager
    def worker(
        self,
        slots: int = 1,
        spark: Sequence[str] = (SPARK_4, SPARK_3),
        env: Mapping[str, str] | None = None,
        volunteer: Volunteer | None = None,
        **settings: str,
    ) -> Iterator[ServiceProcess]:
        """A worker, on this machine or on a volunteer's."""
        name = f"worker-{os.urandom(3).hex()}"
        homes = ",".join(str(spark_home(version)) for version in spark)
        conf = self.conf(spark_homes=homes, **settings)
        arguments = ["--slots", str(slots)]
        for dispatcher in self.dispatchers:
            arguments += ["--dispatcher", dispatcher.url]
        environment, namespace = {**self.env(conf), **(env or {})}, ""
        if volunteer is not None:
            # A volunteer's Spark finds its own address out, as elsewhere.
            namespace = volunteer.namespace
            del environment["SPARK_LOCAL_IP"]
        with service(
            "worker",
            *arguments,
            env=environment,
            folder=self.folder,
            name=name,
            namespace=namespace,
        ) as started:
            self.workers.append(started)
            wait_for(lambda: self.attached(started), what=f"{name} attached")
            try:
                yield started
            finally:
                self.workers.remove(started)

    def attached(self, worker: ServiceProcess) -> bool:
        return any(w.pid == worker.pid and w.state == "ATTACHED" for w in self.status().workers)

    def state(self, worker: ServiceProcess) -> str:
        """As its dispatcher sees it, empty where it is not known."""
        states = [w.state for w in self.status().workers if w.pid == worker.pid]
        return states[-1] if states else ""

    def status(self) -> PoolStatus:
        """What the dispatchers say, merged."""
        parts = [PoolStatus.model_validate_json(self.get(d.url)) for d in self.dispatchers]
        return PoolStatus(
            dispatchers=tuple(d for part in parts for d in part.dispatchers),
            workers=tuple(w for part in parts for w in part.workers),
            apps=tuple(a for part in parts for a in part.apps),
        )

    def get(self, url: str) -> bytes:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.get(f"{url}/status", headers=headers, trust_env=False).content

    def app(self, name: str) -> ApplicationStatus:
        """The last application of this name."""
        return [app for app in self.status().apps if app.name == name][-1]

    def running(self, name: str) -> int:
        """Tasks that run for the applications of this name; none where there is none yet."""
        return sum(app.running for app in self.status().apps if app.name == name)

    def tasks_done(self) -> int:
        return sum(worker.tasks_done for worker in self.status().workers)

    def submit(
        self,
        job: Path | str,
        *arguments: str,
        hooked: bool = True,
        options: Sequence[str] = (),
        conf: Path | None = None,
        version: str = SPARK_4,
        tool: str = "spark-submit",
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Job:
        """Runs a driver to its end.

        Args:
            job: file of the job; empty for the shells.
            hooked: with our plugin; without it, it is plain Spark.
            options: options of spark-submit.
            conf: our configuration folder, by default that of the pool.
            tool: a command of Spark's, or `python` for a job that is started without any.
            stdin: what is typed into a shell.
            cwd: where the driver runs, by default the folder of the pool.
        """
        number = next(self._numbers)
        with self.start(
            job, *arguments, hooked=hooked, options=options, conf=conf, version=version, tool=tool,
            env=env, cwd=cwd, number=number,
        ) as driver:
            out, err = driver.communicate(stdin, timeout=JOB_TIMEOUT_S)
            return Job(driver.returncode, out, err, self.tasks(number))

    @contextmanager
    def start(
        self,
        job: Path | str,
        *arguments: str,
        hooked: bool = True,
        options: Sequence[str] = (),
        conf: Path | None = None,
        version: str = SPARK_4,
        tool: str = "spark-submit",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stderr: IO[str] | int = subprocess.PIPE,
        number: int = 0,
    ) -> "Iterator[subprocess.Popen[str]]":
        """A driver that runs while the block lasts; see `submit`."""
        number = self._last = number or next(self._numbers)
        program = sys.executable if tool == "python" else str(spark_home(version) / "bin" / tool)
        command = [program, *options, *([str(job)] if job else []), *arguments]
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SPARK_", "PYSPARK_"))},
            **self.env(conf),
            "SPARK_HOME": str(spark_home(version)),
            "SPARK_CONF_DIR": str(self._spark_conf(number, version, hooked)),
            "PYSPARK_PYTHON": sys.executable,
            **(env or {}),
        }
        with subprocess.Popen(
            command,
            env=environment,
            cwd=cwd or self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as driver:
            try:
                yield driver
            finally:
                driver.kill()

    def _event_log(self, number: int) -> Path:
        return self.folder / "events" / str(number)

    def tasks(self, number: int = 0) -> Counter[str]:
        """Finished tasks of a job by executor id, as its event log counts them.

        Args:
            number: of the job, by default the one that was started last.
        """
        tasks: Counter[str] = Counter()
        for file in self._event_log(number or self._last).iterdir():
            for line in file.read_text().splitlines():
                event = json.loads(line)
                if event["Event"] != "SparkListenerTaskEnd":
                    continue
                if event["Task End Reason"]["Reason"] == "Success":
                    tasks[event["Task Info"]["Executor ID"]] += 1
        return tasks

    def _spark_conf(self, number: int, version: str, hooked: bool) -> Path:
        """Spark's own configuration for this job, so that its command line is the user's."""
        log = self._event_log(number)
        log.mkdir(parents=True)
        settings = {
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": log.as_uri(),
            "spark.eventLog.compress": "false",
            "spark.eventLog.rolling.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.ui.port": "0",
            "spark.driver.defaultJavaOptions": self._java_options,
            "spark.executor.defaultJavaOptions": self._java_options,
        }
        if hooked:
            jar = shim_jar(SparkHome(spark_home(version)), self.home / "jars")
            settings |= {"spark.plugins": PLUGIN, "spark.driver.extraClassPath": str(jar)}
        conf = self.folder / f"spark-conf-{number}"
        conf.mkdir()
        lines = [f"{key} {value}" for key, value in settings.items()]
        (conf / "spark-defaults.conf").write_text("\n".join(lines) + "\n")
        return conf


def with_and_without(run: Callable[[bool], T]) -> tuple[T, T]:
    """What a job gives with our plugin and without it; both at once, for each waits a lot."""
    with ThreadPoolExecutor(2) as threads:
        ours, plain = (threads.submit(run, hooked) for hooked in (True, False))
        return ours.result(), plain.result()


@contextmanager
def cluster(
    folder: Path,
    workers: Sequence[int] = (1, 1),
    heartbeat_s: float = 3.0,
    java_options: str = QUICK_JAVA,
    host: str = HOST,
    **settings: str,
) -> Iterator[Cluster]:
    """A pool with one dispatcher and workers of these numbers of slots.

    Args:
        host: the address of this machine for workers elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        port = stack.enter_context(redis_server(folder))
        pool = Cluster(folder, port, heartbeat_s, java_options, host)
        stack.enter_context(pool.dispatcher(0, **settings))
        for slots in workers:
            stack.enter_context(pool.worker(slots))
        yield pool
