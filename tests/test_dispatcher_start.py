"""A dispatcher that cannot start: one clear line, exit status 2, and nothing left behind."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.dispatchers import PASSWORD, configure
from tests.services import HOST, ROOT, environment, free_port, redis_server

CONFIGURATION_EXIT = 2


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis"), PASSWORD) as port:
        yield port


def refused_start(folder: Path, *arguments: str) -> str:
    """What a dispatcher that does not start says on standard error, which is one line."""
    ready = folder / "ready"
    ended = subprocess.run(
        [sys.executable, "-m", "dispatcher", *arguments, "--ready-file", str(ready)],
        env=environment({"EXTERNAL_SPARK_CONF_DIR": str(folder)}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (CONFIGURATION_EXIT, ""), ended.stderr
    assert not ready.exists()
    assert ended.stderr.endswith("\n")
    (line,) = ended.stderr.splitlines()
    assert ".." not in line
    return line


def test_port_in_use_is_named_with_its_key_and_nothing_is_registered(
    tmp_path: Path, redis_port: int
) -> None:
    configure(tmp_path, redis_port)
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        line = refused_start(tmp_path, "--port", str(port))
    assert line.startswith(f"Cannot listen on {HOST}:{port}: Address already in use. ")
    assert "dispatcher.port" in line
    with redis.Redis(HOST, redis_port, password=PASSWORD) as client:
        assert client.dbsize() == 0


def test_unreachable_redis_is_named_with_its_address(tmp_path: Path) -> None:
    port = free_port()
    configure(tmp_path, port)
    line = refused_start(tmp_path, "--port", "0")
    assert line.startswith(f"Redis at {HOST}:{port} is not reachable: ")
    assert "redis.host" in line


@pytest.mark.parametrize("password", ["wrong", ""])
def test_wrong_redis_password_is_not_shown(
    tmp_path: Path, redis_port: int, password: str
) -> None:
    # With a host that is given, no password is made up for an embedded Redis.
    configure(tmp_path, redis_port, password, more=f"redis.host={HOST}")
    line = refused_start(tmp_path, "--port", "0")
    assert line == (
        f"Redis at {HOST}:{redis_port} refused the password. "
        "Set redis.password in common.properties"
    )


def test_wrong_setting_is_named_with_its_file(tmp_path: Path, redis_port: int) -> None:
    configure(tmp_path, redis_port, more="redis.hots=here")
    line = refused_start(tmp_path, "--port", "0")
    assert line.startswith(f"{tmp_path / 'common.properties'}: redis.hots: unknown key; known are ")
    assert PASSWORD not in line
