"""Volunteers whose network is not the driver's: behind NAT, and gone for a while."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from tests.cluster import Cluster, cluster
from tests.networks import Network, Volunteer, network, network_problem
from tests.services import ROOT, ServiceProcess, wait_for

pytestmark = pytest.mark.slow
RULES = ROOT / "tests" / "jobs" / "rules.py"
NETWORKS = ROOT / "tests" / "jobs" / "networks.py"
HEARTBEAT_S = 3.0
# Silence is noticed after a heartbeat or two; what was lost then takes a few seconds to run.
# Spark by itself would wait for 120 s.
LIMIT_S = 25.0
SUMS = sorted((k, sum(range(k, 400, 10))) for k in range(10))
ONE_TRY = ("--master", "local-external", "--conf", "spark.task.maxFailures=1")


@pytest.fixture(scope="module", autouse=True)
def _machine() -> None:
    problem = network_problem()
    if problem and os.environ.get("CI"):
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """The folder by which a job and a test tell each other how far they are."""
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def test_a_worker_behind_nat_takes_and_gives_large_data(net: Network, tmp_path: Path) -> None:
    with (
        net.volunteer(nat=True) as volunteer,
        cluster(tmp_path, workers=(), heartbeat_s=HEARTBEAT_S, host=net.host) as pool,
        pool.worker(1, volunteer=volunteer) as worker,
    ):
        options = ("--driver-memory", "3g", "--executor-memory", "2g")
        result = pool.submit(RULES, "huge_results", options=options).succeeded()
        broadcast = pool.submit(RULES, "huge_task", options=options).succeeded()
        done = tasks_done(pool, worker)

    assert result.lines("RESULT") == [f"RESULT [{110 * 2**20}]"]
    assert broadcast.lines("RESULT") == [f"RESULT {4 * 8 * 2**20 + 6}"]
    assert (result.inside_tasks, result.external_tasks) == (0, 1)
    assert (broadcast.inside_tasks, broadcast.external_tasks) == (0, 4)
    assert done == 5


def test_a_worker_that_falls_silent_is_replaced_and_comes_back(
    net: Network, tmp_path: Path, marks: Path
) -> None:
    with (
        net.volunteer() as volunteer,
        two_workers(net, volunteer, tmp_path) as (pool, silent),
        pool.start(NETWORKS, "reduce_and_wait", str(marks), options=ONE_TRY) as driver,
    ):
        await_marks(marks, driver, "reduce-*", 2)
        with cut_off(volunteer):
            cut = time.monotonic()
            # The silent one ends its task too, and nobody can hear of it until later.
            (marks / "go").touch()
            await_marks(marks, driver, "first")
            took_s = time.monotonic() - cut
            assert not pool.attached(silent)
        wait_for(lambda: pool.attached(silent), what="attached again")
        (marks / "again").touch()
        out, err = driver.communicate(timeout=60)
        executors = {executor for executor, n in pool.tasks().items() if n}

    # Four reducers have counted, the silent one's among them only as it ran elsewhere.
    assert f"RESULT {(SUMS, 45, 4)}" in out, err[-4000:]
    # Its second executor is a new one.
    assert len(executors) == 3
    assert took_s < LIMIT_S


def test_a_reducer_does_not_wait_long_for_a_silent_peer(
    net: Network, tmp_path: Path, marks: Path
) -> None:
    with (
        net.volunteer() as volunteer,
        two_workers(net, volunteer, tmp_path) as (pool, _),
        pool.start(NETWORKS, "reduce_twice", str(marks), options=ONE_TRY) as driver,
    ):
        await_marks(marks, driver, "first")
        with cut_off(volunteer):
            cut = time.monotonic()
            (marks / "go").touch()
            out, err = driver.communicate(timeout=200)
            took_s = time.monotonic() - cut

    assert f"RESULT {(True, SUMS)}" in out, err[-4000:]
    assert took_s < LIMIT_S


@contextmanager
def two_workers(
    net: Network, volunteer: Volunteer, folder: Path
) -> Iterator[tuple[Cluster, ServiceProcess]]:
    """A worker of one slot on this machine, and one on the volunteer's, which is yielded."""
    with (
        cluster(folder, workers=(1,), heartbeat_s=HEARTBEAT_S, host=net.host) as pool,
        pool.worker(1, volunteer=volunteer) as worker,
    ):
        yield pool, worker


@contextmanager
def cut_off(volunteer: Volunteer) -> Iterator[None]:
    """Healed in the end, for a worker that hears nobody takes long to stop."""
    volunteer.cut()
    try:
        yield
    finally:
        volunteer.heal()


def await_marks(marks: Path, driver: "Popen[str]", pattern: str, count: int = 1) -> None:
    """Waits until the job has left so many marks."""

    def reached() -> bool:
        assert driver.poll() is None, driver.communicate()[1][-4000:]
        return len(list(marks.glob(pattern))) >= count

    wait_for(reached, 150, f"{count} marks {pattern}")


def tasks_done(pool: Cluster, worker: ServiceProcess) -> int:
    return sum(known.tasks_done for known in pool.status().workers if known.pid == worker.pid)
