"""Real servers for the tests: a private Redis and our own services, as processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.redis_server import configuration, find_server
from tests.networks import inside

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"
POLL_S = 0.02
START_TIMEOUT_S = 60.0
# What a service gets between SIGTERM and SIGKILL.
STOP_TIMEOUT_S = 15.0
# Settings of the machine that runs the tests must not leak into what they start.
OURS = ("EXTERNAL_SPARK_", "SPARK_")


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_for(
    condition: Callable[[], T], timeout_s: float = 30.0, what: str = "condition"
) -> T:
    """Polls until `condition` is truthy and returns what it gave."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        time.sleep(POLL_S)
    return value


@contextmanager
def redis_server(folder: Path, password: str = "", port: int = 0) -> Iterator[int]:
    """A Redis of its own, on loopback and without a disk; yields its port."""
    port = port or free_port()
    lines = configuration(port, password)
    if not password:
        lines = lines.replace('requirepass ""\n', "")
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(
            [find_server(), "-"], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=folder
        )
    try:
        assert process.stdin is not None
        with process.stdin as stdin:
            stdin.write(lines.encode())
        wait_for(lambda: _answers(process, port, password), what=f"redis on port {port}")
        yield port
    finally:
        _end(process)


def _answers(process: "subprocess.Popen[bytes]", port: int, password: str) -> bool:
    assert process.poll() is None, f"redis-server ended with status {process.returncode}"
    once = Retry(NoBackoff(), 0)
    with redis.Redis(HOST, port, password=password or None, socket_timeout=1, retry=once) as client:
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


@dataclass
class ServiceProcess:
    """A running service of ours."""

    process: "subprocess.Popen[bytes]"
    url: str
    identity: dict[str, str]
    """All that its ready file said."""
    log: Path
    """What it wrote to standard output and standard error."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> int:
        """SIGTERM, then SIGKILL; returns the exit status. Harmless when said twice."""
        return _end(self.process)


@contextmanager
def service(
    module: str, *arguments: str, env: dict[str, str], folder: Path, name: str, namespace: str = ""
) -> Iterator[ServiceProcess]:
    """`python -m module arguments...`, from the moment it is ready until the block ends.

    Args:
        env: added to the environment, out of which our own variables and Spark's are taken.
        folder: for its log and its ready file.
        namespace: the network namespace that it runs in, by default that of the tests.
    """
    log, ready = folder / f"{name}.log", folder / f"{name}.ready"
    ready.unlink(missing_ok=True)
    arguments = (*arguments, "--ready-file", str(ready))
    process = start(module, *arguments, env=env, log=log, namespace=namespace)
    try:
        identity = wait_for(
            lambda: _identity(process, ready, log), START_TIMEOUT_S, f"{name} ready, see {log}"
        )
        yield ServiceProcess(process, str(identity["url"]), identity, log)
    finally:
        _end(process)


def start(
    module: str, *arguments: str, env: dict[str, str], log: Path, namespace: str = ""
) -> "subprocess.Popen[bytes]":
    """Starts `python -m module arguments...`; whoever calls this ends it."""
    command = [*inside(namespace), sys.executable, "-m", module, *arguments]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env=environment(env), cwd=ROOT, stdout=output, stderr=output
        )


def environment(extra: dict[str, str]) -> dict[str, str]:
    """The environment of the tests without our variables and Spark's, and `extra`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    return {**kept, **extra}


def _identity(process: "subprocess.Popen[bytes]", ready: Path, log: Path) -> dict[str, str]:
    """What the ready file says, empty until it is there."""
    if ready.exists():
        identity: dict[str, str] = json.loads(ready.read_text())
        return identity
    if process.poll() is not None:
        raise AssertionError(
            f"it ended with status {process.returncode}:\n{log.read_text(errors='replace')}"
        )
    return {}


def _end(process: "subprocess.Popen[bytes]") -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
