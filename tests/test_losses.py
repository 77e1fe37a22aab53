"""Workers and executors that die, hang, or say goodbye, in the middle of a job."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster import Cluster, cluster
from tests.services import ServiceProcess, wait_for
from tests.steps import executor_jvms, steps

pytestmark = pytest.mark.slow
SUMS = str([(k, sum(range(k, 80, 8))) for k in range(8)])
# So long that whatever goes on before was not a matter of silence.
PATIENT_S = 60.0
# A task of a lost executor runs elsewhere within 3 s; what is above is the machine's noise.
SOON_S = 10.0


def busy_worker(pool: Cluster) -> ServiceProcess:
    busy = {worker.pid for worker in pool.status().workers if worker.slots_busy}
    return next(worker for worker in pool.workers if worker.pid in busy)


@pytest.mark.parametrize("victim", ["worker", "executor"])
def test_what_a_killed_one_ran_runs_elsewhere_at_once_and_counts_as_no_failure(
    tmp_path: Path, victim: str
) -> None:
    with (
        cluster(tmp_path, workers=(2, 2), heartbeat_s=PATIENT_S) as pool,
        steps(pool, "shuffle") as job,
    ):
        job.wait_for_runs("reduce", 2)
        busy = busy_worker(pool)
        if victim == "worker":
            busy.process.kill()
        else:
            next(jvm for jvm in executor_jvms(pool) if jvm.ppid() == busy.pid).kill()
        killed = time.monotonic()
        job.wait_for_runs("reduce", 3)
        assert time.monotonic() - killed < SOON_S
        job.go()
        assert job.result() == SUMS


def test_lost_shuffle_output_is_made_again(tmp_path: Path) -> None:
    with (
        cluster(tmp_path, workers=(1,), heartbeat_s=PATIENT_S) as pool,
        steps(pool, "shuffle_then_wait") as job,
    ):
        assert job.driver.stdout is not None
        assert job.driver.stdout.readline() == "MAPPED\n"
        [jvm] = executor_jvms(pool)
        jvm.kill()
        job.go()
        assert job.result() == SUMS
        assert job.runs("map").total() == 8


def test_a_worker_that_hangs_is_given_up_and_comes_back_as_new(tmp_path: Path) -> None:
    with cluster(tmp_path) as pool, steps(pool, "many_waits") as job:
        job.wait_for_runs("work", 2)
        hung = pool.workers[0]
        hung.process.send_signal(signal.SIGSTOP)
        try:
            # What it ran runs on the other one, when that has time for it.
            wait_for(lambda: "was silent for 3 s" in job.said(), 30, "worker given up")
            job.go()
            wait_for(lambda: job.runs("work").total() == 13, 60, "the other one runs all")
        finally:
            hung.process.send_signal(signal.SIGCONT)
        # Each task counts once, though the one that hung sends its late result.
        assert job.result() == "(66, 12)"
        wait_for(lambda: pool.attached(hung), what="worker attached again")


def test_a_drained_worker_hands_its_blocks_on(tmp_path: Path) -> None:
    with cluster(tmp_path, heartbeat_s=PATIENT_S) as pool, steps(pool, "shuffle_then_wait") as job:
        assert job.driver.stdout is not None
        assert job.driver.stdout.readline() == "MAPPED\n"
        leaving = pool.workers[0]
        subprocess.run(
            [pool.home / "venv" / "bin" / "spark-proxy", "drain", leaving.identity["id"]],
            env={**os.environ, **pool.env()},
            check=True,
            capture_output=True,
        )
        assert leaving.process.wait(60) == 0
        job.go()
        assert job.result() == SUMS
        # Not one of the map tasks ran again: its output had been moved to the other worker.
        assert job.runs("map").total() == 4


def test_a_drained_worker_ends_its_running_task_and_takes_no_other(tmp_path: Path) -> None:
    with cluster(tmp_path, heartbeat_s=PATIENT_S) as pool, steps(pool, "many_waits") as job:
        job.wait_for_runs("work", 2)
        leaving = pool.workers[0]
        leaving.process.terminate()
        wait_for(lambda: pool.state(leaving) == "DRAINING", what="worker drains")
        job.go()
        assert leaving.process.wait(60) == 0
        assert job.result() == "(66, 12)"
        assert job.runs("work").total() == 12
        assert pool.state(leaving) == "LEFT"


def test_without_decommissioning_a_drained_worker_leaves_when_it_is_idle(tmp_path: Path) -> None:
    off = ("--conf", "spark.decommission.enabled=false")
    with cluster(tmp_path, heartbeat_s=PATIENT_S) as pool, steps(pool, "many_waits", *off) as job:
        job.wait_for_runs("work", 2)
        leaving = pool.workers[0]
        leaving.process.terminate()
        wait_for(lambda: pool.state(leaving) == "DRAINING", what="worker drains")
        job.go()
        assert leaving.process.wait(60) == 0
        assert job.result() == "(66, 12)"
        assert job.runs("work").total() == 12


def test_a_task_above_the_drain_limit_is_rerun_without_counting(tmp_path: Path) -> None:
    with (
        cluster(tmp_path, workers=(1,), heartbeat_s=PATIENT_S) as pool,
        pool.worker(1, worker_drain="1") as leaving,
        steps(pool, "many_waits") as job,
    ):
        job.wait_for_runs("work", 2)
        leaving.process.terminate()
        assert leaving.process.wait(60) == 0
        job.go()
        assert job.result() == "(66, 12)"
        assert job.runs("work").total() == 13


def test_a_lost_writer_leaves_no_half_and_no_double_output(tmp_path: Path) -> None:
    with cluster(tmp_path, heartbeat_s=PATIENT_S) as pool, steps(pool, "write") as job:
        job.wait_for_runs("write", 2)
        executor_jvms(pool)[0].kill()
        job.wait_for_runs("write", 3)
        job.go()
        assert job.result() == "(400, 400)"
