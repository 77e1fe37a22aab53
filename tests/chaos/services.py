"""Redis, dispatchers and workers that are started again whenever they have ended."""

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import psutil
from pydantic import ValidationError

from common.console import CONFIGURATION_EXIT
from common.messages import PoolStatus
from common.redis_server import configuration, find_server
from tests.chaos.choices import Victim
from tests.chaos.offspring import send
from tests.chaos.progress import Progress
from tests.cluster import QUICK_JAVA, SPARK_4, TOKEN, Cluster, spark_home
from tests.services import HOST, START_TIMEOUT_S, start, wait_for

# Below the ports that Linux gives to those who ask for any: one that a service has left for a
# moment must not become somebody's outgoing connection.
PORTS = range(15_000, 32_000)
# What the scripts give a service between SIGTERM and SIGKILL.
STOP_S = 20.0
# Whoever could not be started is tried again after this time.
RETRY_S = 1.0
STATUS_S = 2.0

Begin = Callable[[], "subprocess.Popen[bytes]"]


def lasting_port() -> int:
    """A port on loopback that stays free while nobody of ours listens on it."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise AssertionError(f"no free port in {PORTS}")


class Service:
    """One service, and its life after each death."""

    def __init__(self, name: str, victim: Victim, begin: Begin, progress: Progress) -> None:
        self.name = name
        self.victim = victim
        self.process = begin()
        self.unasked_ends = 0
        self._begin = begin
        self._progress = progress
        self._pause_s: float | None = None
        self._back_at: float | None = None
        self._kill_at = float("inf")

    @property
    def up(self) -> bool:
        """Whether it runs, and nobody has told it to end."""
        return self._pause_s is None and self.process.poll() is None

    def strike(self, number: signal.Signals, pause_s: float) -> None:
        """Ends it; it is started again when it has been down for so long."""
        self._pause_s = pause_s
        self._kill_at = time.monotonic() + STOP_S
        send(psutil.Process(self.process.pid), number)

    def keep(self, now: float) -> None:
        """Starts it again when that is due; called again and again with a monotonic time."""
        status = self.process.poll()
        if status is None:
            self._hurry(now)
        elif self._back_at is None:
            self._note_end(status)
            self._back_at = now + (RETRY_S if self._pause_s is None else self._pause_s)
        elif now >= self._back_at:
            self._progress.tell(f"start   {self.name}")
            self.process = self._begin()
            self._pause_s, self._back_at, self._kill_at = None, None, float("inf")

    def _hurry(self, now: float) -> None:
        if now > self._kill_at:
            self._progress.tell(f"slow    {self.name} has not ended in {STOP_S:.0f} s: SIGKILL")
            self._kill_at = float("inf")
            self.process.kill()

    def _note_end(self, status: int) -> None:
        # A dispatcher does not start without its Redis, and says so by this status.
        if self._pause_s is None and status != CONFIGURATION_EXIT:
            self.unasked_ends += 1
        if self._pause_s is None:
            self._progress.tell(f"ended   {self.name} by itself, status {status}")


class Services:
    """A pool: Redis, dispatchers, and workers with these numbers of slots."""

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        slots: Sequence[int],
        dispatchers: int = 2,
        heartbeat_s: float = 3.0,
        **settings: str,
    ) -> None:
        self._progress = progress
        self._redis_port = lasting_port()
        self.pool = Cluster(folder, self._redis_port, heartbeat_s, QUICK_JAVA)
        self.settings = settings
        self._ports = [lasting_port() for _ in range(dispatchers)]
        self.all: list[Service] = []
        self._start(slots)

    @property
    def urls(self) -> list[str]:
        """Of the dispatchers."""
        return [f"http://{HOST}:{port}" for port in self._ports]

    def of(self, victim: Victim) -> list[Service]:
        return [service for service in self.all if service.victim is victim]

    @property
    def unasked_ends(self) -> int:
        return sum(service.unasked_ends for service in self.all)

    def keep(self) -> None:
        """Starts again what is due."""
        for service in self.all:
            service.keep(time.monotonic())

    def status(self) -> PoolStatus:
        """What those dispatchers that answer say."""
        parts = [part for url in self.urls if (part := _asked(url)) is not None]
        return PoolStatus(
            dispatchers=tuple(d for part in parts for d in part.dispatchers),
            workers=tuple(w for part in parts for w in part.workers),
            apps=tuple(a for part in parts for a in part.apps),
        )

    def attached(self) -> int:
        """Workers that a dispatcher has."""
        return sum(worker.state == "ATTACHED" for worker in self.status().workers)

    def worker(self, name: str, slots: int) -> "subprocess.Popen[bytes]":
        """Starts one more worker; whoever calls this ends it."""
        arguments = ["--slots", str(slots)]
        for url in self.urls:
            arguments += ["--dispatcher", url]
        return self._service("worker", name, *arguments)

    def end(self) -> None:
        """As an operator does; who does not end in time is left to whoever ends all."""
        for service in self.all:
            if service.process.poll() is None:
                service.process.terminate()
        deadline = time.monotonic() + STOP_S
        for service in self.all:
            with suppress(subprocess.TimeoutExpired):
                service.process.wait(max(0.1, deadline - time.monotonic()))

    def _start(self, slots: Sequence[int]) -> None:
        self._add("redis", Victim.REDIS, self._redis)
        wait_for(self._redis_listens, what="Redis")
        for number, port in enumerate(self._ports, 1):
            name = f"dispatcher-{number}"
            arguments = ("dispatcher", name, "--port", str(port), "--host", HOST)
            self._add(name, Victim.DISPATCHER, partial(self._service, *arguments))
        for number, n in enumerate(slots, 1):
            name = f"worker-{number}"
            self._add(name, Victim.WORKER, partial(self.worker, name, n))
        wait_for(lambda: self.attached() == len(slots), START_TIMEOUT_S, "workers attached")

    def _add(self, name: str, victim: Victim, begin: Begin) -> None:
        self.all.append(Service(name, victim, begin, self._progress))

    def _service(self, module: str, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        conf = self.pool.conf(spark_homes=str(spark_home(SPARK_4)), **self.settings)
        log = self.pool.folder / f"{name}.log"
        return start(module, *arguments, env=self.pool.env(conf), log=log)

    def _redis(self) -> "subprocess.Popen[bytes]":
        lines = configuration(self._redis_port, "").replace('requirepass ""\n', "")
        folder = self.pool.folder
        with (folder / "redis.log").open("ab") as log:
            process = subprocess.Popen(
                [find_server(), "-"], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=folder
            )
        assert process.stdin is not None
        with process.stdin as stdin:
            stdin.write(lines.encode())
        return process

    def _redis_listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self._redis_port)) == 0


def _asked(url: str) -> PoolStatus | None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        answer = httpx.get(f"{url}/status", headers=headers, timeout=STATUS_S, trust_env=False)
        return PoolStatus.model_validate_json(answer.content)
    except (httpx.HTTPError, ValidationError):
        return None
