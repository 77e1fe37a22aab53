"""How jobs run on the pool: beside each other, with large data, and who serves whom."""

import zipfile
from pathlib import Path

import psutil
import pytest

from common.messages import ApplicationState
from tests.cluster import SPARK_3, SPARK_4, Cluster, cluster, example
from tests.services import ROOT, wait_for

pytestmark = pytest.mark.slow
RULES = ROOT / "tests" / "jobs" / "rules.py"
LOCAL = ("--master", "local[2]")


def executor_jvms() -> list[psutil.Process]:
    """Executor JVMs of ours on this machine."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "org.apache.spark.external.ExternalExecutor" in (process.info["cmdline"] or [])
    ]


def jvms_of(pool: Cluster) -> list[psutil.Process]:
    """Executor JVMs of this pool's workers."""
    workers = {worker.pid for worker in pool.workers}
    return [jvm for jvm in executor_jvms() if jvm.ppid() in workers]


def test_two_barrier_applications_run_at_once(pool: Cluster) -> None:
    """Each holds slots that the other's peers would wait for, were they not let through."""
    with pool.start(RULES, "barrier_rounds", options=LOCAL) as one:
        two = pool.submit(RULES, "barrier_rounds", options=LOCAL).succeeded()
        out, err = one.communicate(timeout=120)
    rounds = f"RESULT {[[2, 2]] * 5}"
    assert two.lines("RESULT") == [rounds]
    assert rounds in out, err[-3000:]


def test_a_speculative_copy_ends_a_job_whose_task_hangs(tmp_path: Path) -> None:
    """Spark starts no copy on a host that has the task already: these are two by their names."""
    options = (*LOCAL, "--conf", "spark.speculation=true")
    with (
        cluster(tmp_path, workers=(1,)) as pool,
        pool.worker(1, worker_host="127.0.0.1"),
        pool.start(RULES, "speculation", options=options) as driver,
    ):
        # Far below the two minutes for which the first copy hangs.
        out, err = driver.communicate(timeout=90)
    assert "RESULT 28" in out, err[-3000:]


def test_a_result_above_100_mb_arrives(pool: Cluster) -> None:
    options = (*LOCAL, "--driver-memory", "3g", "--executor-memory", "2g")
    job = pool.submit(RULES, "huge_results", options=options).succeeded()
    assert job.lines("RESULT") == [f"RESULT [{110 * 2**20}]"]


def test_a_large_broadcast_and_an_added_archive_arrive(pool: Cluster, tmp_path: Path) -> None:
    job = pool.submit(RULES, "huge_task", options=LOCAL).succeeded()
    assert job.lines("RESULT") == [f"RESULT {4 * 8 * 2**20 + 6}"]

    given = tmp_path / "given.zip"
    with zipfile.ZipFile(given, "w") as archive:
        archive.writestr("inside.txt", "from an archive")
    job = pool.submit(RULES, "archive", str(given), options=LOCAL).succeeded()
    assert job.lines("RESULT") == ["RESULT ['from an archive', 'from an archive']"]


def test_another_spark_version_is_not_joined_and_everybody_says_why(tmp_path: Path) -> None:
    with cluster(tmp_path, workers=()) as pool, pool.worker(1, spark=(SPARK_4,)):
        conf = pool.conf(reschedule_fallback="fail", reschedule_fallback_after="1")
        job = pool.submit(
            example("pi.py", SPARK_3), "2", options=LOCAL, conf=conf, version=SPARK_3
        )
        refused = pool.app("PythonPi").refused
        log = pool.dispatchers[0].log.read_text()

    why = "it has Spark 4.3.0/2.13; the driver runs 3.5.9/2.12"
    assert job.code == 1
    assert list(refused.values()) == [why]
    assert why in log
    assert why in job.err


def test_a_worker_refuses_what_its_memory_cannot_hold_and_says_so(tmp_path: Path) -> None:
    with cluster(tmp_path, workers=()) as pool, pool.worker(1, worker_memory_mb="2000"):
        conf = pool.conf(reschedule_fallback="fail", reschedule_fallback_after="1")
        options = (*LOCAL, "--executor-memory", "4g")
        job = pool.submit(example("pi.py"), "2", options=options, conf=conf)
        refused = list(pool.app("PythonPi").refused.values())

    assert job.code == 1
    assert refused[0].startswith("an executor takes 4505 MB and it lends 2000 MB")
    assert refused[0] in job.err


def test_memory_that_comes_free_serves_the_application_that_waited(tmp_path: Path) -> None:
    """Two applications, and memory for one executor: the second runs after the first."""
    with (
        cluster(tmp_path, workers=()) as pool,
        pool.worker(1, worker_memory_mb="2000"),
        pool.start(RULES, "sum_slowly", options=LOCAL) as first,
    ):
        wait_for(lambda: jvms_of(pool), what="the first application's executor")
        second = pool.submit(RULES, "sum_slowly", options=LOCAL).succeeded()
        out, err = first.communicate(timeout=120)
    assert "MB are taken by other applications" in second.err
    assert second.lines("RESULT") == ["RESULT 780"]
    assert "RESULT 780" in out, err[-3000:]


def test_nothing_is_left_of_a_driver_that_is_killed(pool: Cluster) -> None:
    with pool.start(RULES, "wait_for_ever", options=LOCAL) as driver:
        wait_for(lambda: pool.running("wait_for_ever"), 60, "running tasks")
        tree = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        wait_for(lambda: not jvms_of(pool), 10, "executor JVMs gone")
        wait_for(lambda: not any(is_ours(process) for process in tree), 10, "agent gone")
        for process in tree:
            if process.is_running():
                process.kill()
    wait_for(lambda: not list((pool.home / "tmp" / "executors").glob("*/*")), 10, "scratch gone")
    assert pool.app("wait_for_ever").state is ApplicationState.FINISHED


def is_ours(process: psutil.Process) -> bool:
    try:
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return alive and process.cmdline()[-2:] == ["-m", "agent"]
    except psutil.NoSuchProcess:
        return False
