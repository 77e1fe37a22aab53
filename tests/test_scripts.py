"""The scripts of `sbin/` for single services: start, stop, restart, and what goes wrong."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.installations import Installation, installation
from tests.services import HOST, environment, free_port, wait_for

NOWHERE = f"http://{HOST}:9"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path) as made:
        yield made


def options(pid: int) -> list[str]:
    """The options that a running service was given by hand."""
    words = psutil.Process(pid).cmdline()
    return words[3 : words.index("--log-file")]


def test_a_worker_starts_once_and_stops_without_a_trace(home: Installation) -> None:
    started = home.script("start-worker.sh", "--slots", "3", "--dispatcher", NOWHERE)
    pid = home.pid("worker-1")
    assert started.succeeded().out == f"worker-1: started (pid {pid})\n"
    assert options(pid) == ["--slots", "3", "--dispatcher", NOWHERE]
    assert "event=worker.started" in (home.logs / "worker-1.log").read_text()

    again = home.script("start-worker.sh")
    assert (again.code, again.out) == (1, "")
    assert again.err == f"worker-1 is already running (pid {pid}): stop it first\n"
    assert home.pid("worker-1") == pid

    assert home.script("external-spark-daemon.sh", "status", "worker").succeeded()
    assert home.script("stop-worker.sh").succeeded().out == "worker-1: stopped\n"
    assert home.script("external-spark-daemon.sh", "status", "worker").code == 1
    assert home.is_left_clean()


def test_a_restart_keeps_the_options_unless_others_are_given(home: Installation) -> None:
    home.script("start-worker.sh", "--slots", "2", "--dispatcher", NOWHERE).succeeded()
    first = home.pid("worker-1")
    home.script("restart-worker.sh").succeeded()
    second = home.pid("worker-1")
    assert second != first
    assert options(second) == ["--slots", "2", "--dispatcher", NOWHERE]
    home.script("restart-worker.sh", "--slots", "5").succeeded()
    assert options(home.pid("worker-1")) == ["--slots", "5"]


def test_instances_are_services_of_their_own(home: Installation) -> None:
    for instance in ("1", "2"):
        home.script("start-worker.sh", "--instance", instance, "--slots", instance).succeeded()
    assert home.script("stop-worker.sh", "--instance", "2").succeeded().out == "worker-2: stopped\n"
    assert options(home.pid("worker-1")) == ["--slots", "1"]
    assert home.script("stop-all.sh").succeeded().out == "worker-1: stopped\n"
    assert home.is_left_clean()


@pytest.mark.parametrize("service", ["worker", "dispatcher", "redis"])
def test_stopping_what_does_not_run_is_no_error(home: Installation, service: str) -> None:
    said = home.script(f"stop-{service}.sh").succeeded().out
    assert said == f"{service}-1: was not running\n"
    assert home.script("stop-all.sh").succeeded().out == ""


def test_a_pid_file_whose_process_is_somebody_elses_stops_nobody(home: Installation) -> None:
    home.tmp.mkdir()
    stale = home.tmp / "redis-1.pid"
    # This test's own process: alive, and none of ours.
    stale.write_text(f"{os.getpid()}\n")
    assert home.script("stop-redis.sh").succeeded().out == "redis-1: was not running\n"
    assert not stale.exists()
    stale.write_text(f"{os.getpid()}\n")
    home.script("start-redis.sh").succeeded()
    assert home.pid("redis-1") != os.getpid()
    assert home.script("stop-all.sh").succeeded().out == "redis-1: stopped\n"
    assert home.is_left_clean()


def test_a_killed_service_can_be_started_again(home: Installation) -> None:
    home.script("start-redis.sh").succeeded()
    killed = home.pid("redis-1")
    assert len(home.processes("redis-server")) == 1
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: not home.processes(), what="the server that it had started gone too")
    assert home.script("external-spark-daemon.sh", "status", "redis").code == 1
    home.script("start-redis.sh").succeeded()
    assert home.pid("redis-1") != killed
    assert len(home.processes("redis-server")) == 1


@pytest.mark.slow  # it waits for as long as a service gets to end
def test_a_service_that_does_not_end_is_killed(home: Installation) -> None:
    home.script("start-worker.sh", "--slots", "1").succeeded()
    frozen = psutil.Process(home.pid("worker-1"))
    frozen.suspend()
    said = home.script("stop-worker.sh").succeeded().out
    assert said.startswith("worker-1: did not stop within ")
    assert home.is_left_clean()


@pytest.mark.parametrize("service", ["worker", "dispatcher", "redis"])
def test_a_wrong_key_is_one_sentence_and_status_2(home: Installation, service: str) -> None:
    home.configure(worker_slot=2)
    ended = home.script(f"start-{service}.sh")
    assert (ended.code, ended.out) == (2, "")
    failed, sentence = ended.err.splitlines()
    assert failed == f"{service}-1: did not start"
    assert sentence.startswith(f"{home.conf}/common.properties: worker.slot: unknown key; ")
    assert home.is_left_clean()


@pytest.mark.parametrize(
    ("service", "key"),
    [("worker", "worker.port"), ("dispatcher", "dispatcher.port"), ("redis", "redis.port")],
)
def test_a_port_in_use_is_one_sentence_and_status_2(
    home: Installation, service: str, key: str
) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        home.configure(**{key: port})
        ended = home.script(f"start-{service}.sh")
    assert (ended.code, ended.out) == (2, "")
    _, sentence = ended.err.splitlines()
    assert f"listen on {HOST}:{port}: Address already in use. Set {key} to another" in sentence
    assert home.is_left_clean()


def test_a_start_that_fails_otherwise_shows_the_end_of_its_log(home: Installation) -> None:
    (home.root / "python").mkdir()
    (home.root / "python" / "sitecustomize.py").write_text("import os\nos.execvp('false', ['x'])")
    ended = home.script("start-worker.sh", PYTHONPATH=str(home.root / "python"))
    assert (ended.code, ended.out) == (1, "")
    files = f"{home.logs}/worker-1.log and {home.logs}/worker-1.out"
    assert ended.err == f"worker-1: did not start\nworker-1: see {files}\n"
    assert home.is_left_clean()


def test_a_wrong_option_shows_what_the_service_says(home: Installation) -> None:
    ended = home.script("start-worker.sh", "--slotz", "1")
    assert ended.code == 2
    assert "--slotz" in ended.err
    assert home.is_left_clean()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("start",),
        ("begin", "worker"),
        ("start", "wroker"),
        ("start", "worker", "--instance"),
        ("start", "worker", "--instance", "0"),
        ("start", "worker", "--instance", "../1"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_status_2(
    home: Installation, words: tuple[str, ...]
) -> None:
    assert home.script("external-spark-daemon.sh", *words).sentence
    assert not home.tmp.exists()


def test_without_an_environment_it_says_how_to_make_one(home: Installation) -> None:
    (home.root / "venv").unlink()
    sentence = home.script("install-agent.sh").sentence
    assert sentence.startswith(f"There is no environment in {home.root}/venv. Run: bash ")
    assert home.script("stop-all.sh").succeeded()


def test_folders_may_lie_elsewhere_and_have_spaces(home: Installation, tmp_path: Path) -> None:
    folders = {name: str(tmp_path / f"a {name} b") for name in ("PID", "LOG")}
    elsewhere = {f"EXTERNAL_SPARK_{name}_DIR": folder for name, folder in folders.items()}
    assert not environment({}).keys() & elsewhere.keys()
    home.configure(dispatcher_port=free_port())
    home.script("start-redis.sh", **elsewhere).succeeded()
    assert (Path(folders["PID"]) / "redis-1.pid").exists()
    assert (Path(folders["LOG"]) / "redis-1.log").exists()
    home.script("start-dispatcher.sh", **elsewhere).succeeded()
    said = home.script("stop-all.sh", **elsewhere).succeeded().out
    assert said == "dispatcher-1: stopped\nredis-1: stopped\n"
    assert list(Path(folders["PID"]).iterdir()) == []
    assert home.is_left_clean()
