"""A whole pool by `start-all.sh`, and what is left of it after `stop-all.sh`."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installations import Installation, installation
from tests.services import HOST, free_port, wait_for

pytestmark = pytest.mark.slow

# Each task tells where it runs, and runs until it is killed.
SLEEPING_JOB = """
import os, sys, time
from pyspark import SparkContext

def sleep(number):
    open(os.path.join({folder!r}, f"{{number}}-{{os.getppid()}}"), "w").close()
    time.sleep(600)

SparkContext().parallelize(range(2), 2).foreach(sleep)
"""
JOB_START_TIMEOUT_S = 90.0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path) as made:
        yield made


def test_without_hosts_it_starts_a_dispatcher_and_two_workers_of_one_slot(
    home: Installation,
) -> None:
    said = home.script("start-all.sh").succeeded().out
    url = home.url("dispatcher-1")
    assert url == f"http://{HOST}:{home.setting('dispatcher.port')}"
    assert f"The pool is ready: {url}\n" in said
    services = ("redis-1", "dispatcher-1", "worker-1", "worker-2")
    pids = {name: home.pid(name) for name in services}
    for name, pid in pids.items():
        assert f"{name}: started (pid {pid})\n" in said
        assert (home.logs / f"{name}.log").exists()
    status = home.status()
    assert [one.pid for one in status.dispatchers] == [pids["dispatcher-1"]]
    assert {one.pid for one in status.workers} == {pids["worker-1"], pids["worker-2"]}
    assert [(one.slots, one.state) for one in status.workers] == [(1, "ATTACHED")] * 2

    again = home.script("start-all.sh")
    assert again.code == 1
    assert f"redis-1 is already running (pid {pids['redis-1']}): stop it first\n" in again.err
    assert again.err.endswith("Not everything was started; stop-all.sh stops the rest\n")
    assert {name: home.pid(name) for name in services} == pids

    stopped = home.script("stop-all.sh").succeeded().out.splitlines()
    assert sorted(stopped) == sorted(f"{name}: stopped" for name in services)
    assert home.is_left_clean()
    assert home.script("stop-all.sh").succeeded().out == ""


def test_hosts_say_how_many_there_are_and_how_many_slots(home: Installation) -> None:
    other = free_port()
    hosts = (
        *("[dispatcher]", "localhost", f"127.0.0.1 port={other}"),
        *("[worker]", "localhost slots=2 memory-mb=1500 host=127.0.0.1"),
    )
    (home.conf / "hosts").write_text("\n".join(hosts))
    # Nothing runs before, which a restart takes as well.
    home.script("restart-all.sh").succeeded()
    status = home.status()
    urls = {f"http://{HOST}:{home.setting('dispatcher.port')}", f"http://{HOST}:{other}"}
    assert {one.url for one in status.dispatchers} == urls
    assert sum(one.workers for one in status.dispatchers) == 1
    (worker,) = status.workers
    assert (worker.slots, worker.memory_mb, worker.host) == (2, 1500, "127.0.0.1")

    (serving,) = (one for one in status.dispatchers if one.workers)
    number = "2" if serving.url.endswith(f":{other}") else "1"
    home.script("stop-dispatcher.sh", "--instance", number).succeeded()
    wait_for(lambda: [one.workers for one in home.status().dispatchers] == [1], what="it moved")
    home.script("stop-all.sh").succeeded()
    assert home.is_left_clean()


def test_a_start_that_fails_ends_with_the_status_of_what_failed(home: Installation) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        (home.conf / "hosts").write_text(f"[dispatcher]\nlocalhost port={port}\n")
        ended = home.script("start-all.sh")
    assert ended.code == 2
    failed, sentence, rest = ended.err.splitlines()
    assert failed == "dispatcher-1: did not start"
    assert sentence.startswith(f"Cannot listen on {HOST}:{port}: Address already in use. ")
    assert rest == "Not everything was started; stop-all.sh stops the rest"
    assert home.script("stop-all.sh").succeeded().out == "redis-1: stopped\n"
    assert home.is_left_clean()


def test_wrong_hosts_start_nothing(home: Installation) -> None:
    (home.conf / "hosts").write_text("[dispatcher]\nlocalhost\n[worker]\nlocalhost slots=no\n")
    sentence = home.script("start-all.sh").sentence
    assert sentence == f"{home.conf}/hosts:4: slots=no: expected a whole number above 0"
    assert home.is_left_clean()


def test_nothing_is_left_of_running_executors_nor_of_a_killed_worker(
    home: Installation, tmp_path: Path
) -> None:
    home.script("start-all.sh").succeeded()
    running = tmp_path / "running"
    running.mkdir()
    job = tmp_path / "job.py"
    job.write_text(SLEEPING_JOB.format(folder=str(running)))
    # The folder that setup made, instead of a hook in Spark's own.
    with home.driver(job, SPARK_CONF_DIR=str(home.conf)) as driver:
        wait_for(
            lambda: driver.poll() is not None or len(list(running.iterdir())) == 2,
            JOB_START_TIMEOUT_S,
            "two tasks running",
        )
        log = (tmp_path / "driver" / "log").read_text()
        assert driver.poll() is None, log
        # A Python worker's parent is the daemon of its executor JVM.
        daemons = {int(path.name.split("-")[1]) for path in running.iterdir()}
        assert len(home.processes("java")) == 2
        assert daemons <= {process.pid for process in home.processes()}
        assert len(list((home.tmp / "executors").glob("*.lock"))) == 2

        os.kill(home.pid("worker-1"), signal.SIGKILL)
        said = home.script("stop-all.sh").succeeded().out
        assert "worker-1: was not running\n" in said
        assert "worker-2: stopped\n" in said
        assert home.is_left_clean()
