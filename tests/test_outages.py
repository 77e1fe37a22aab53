"""Dispatchers, agents and Redis that die in the middle of a job; a pool that is lost and back."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.cluster import QUICK_JAVA, Cluster, cluster
from tests.services import redis_server, wait_for
from tests.steps import Steps, steps

pytestmark = pytest.mark.slow
# So long that nobody counts as silent meanwhile, unless a test is about that.
PATIENT_S = 60.0
MANY = "(66, 12)"


def test_running_tasks_outlive_their_dispatcher_where_there_is_another(tmp_path: Path) -> None:
    with cluster(tmp_path, workers=(), heartbeat_s=PATIENT_S) as pool:
        [one] = pool.dispatchers
        with pool.worker(1), pool.worker(1), pool.dispatcher() as other:
            # Neither worker was told of it; their dispatcher reads of it in Redis.
            wait_for(lambda: others_known(pool, other.url), 60, "the other one is known")
            with steps(pool, "many_waits") as job:
                job.wait_for_runs("work", 2)
                pool.dispatchers.remove(one)
                one.process.kill()
                wait_for(lambda: attached(pool) == 2, 30, "workers at the other dispatcher")
                job.go()
                assert job.result() == MANY
                assert job.runs("work").total() == 12
            pool.dispatchers.append(one)


def others_known(pool: Cluster, url: str) -> bool:
    return all(url in worker.log.read_text() for worker in pool.workers)


def attached(pool: Cluster) -> int:
    return sum(worker.state == "ATTACHED" for worker in pool.status().workers)


def test_a_job_waits_for_its_only_dispatcher_and_goes_on_with_it(tmp_path: Path) -> None:
    with cluster(tmp_path, heartbeat_s=PATIENT_S) as pool, steps(pool, "many_waits") as job:
        job.wait_for_runs("work", 2)
        [dispatcher] = pool.dispatchers
        pool.dispatchers.remove(dispatcher)
        dispatcher.process.kill()
        dispatcher.process.wait()
        # What ran ends, and its result arrives; what is launched then has to wait.
        job.go()
        job.wait_for_finished(2)
        with pool.dispatcher(port=int(dispatcher.url.rpartition(":")[2])):
            assert job.result() == MANY
        assert job.runs("work").total() == 12
        pool.dispatchers.append(dispatcher)


def test_a_dispatcher_that_hangs_is_left_for_another(tmp_path: Path) -> None:
    with cluster(tmp_path, workers=()) as pool, pool.worker(1), pool.worker(1):
        [hung] = pool.dispatchers
        with pool.dispatcher() as other, ExitStack() as stack:
            wait_for(lambda: others_known(pool, other.url), 60, "the other one is known")
            job = stack.enter_context(steps(pool, "many_waits"))
            job.wait_for_runs("work", 2)
            pool.dispatchers.remove(hung)
            hung.process.send_signal(signal.SIGSTOP)
            stack.callback(hung.process.send_signal, signal.SIGCONT)
            wait_for(lambda: attached(pool) == 2, 60, "workers at the other dispatcher")
            job.go()
            assert job.result() == MANY
            assert job.runs("work").total() == 12
        pool.dispatchers.append(hung)


def test_a_killed_agent_is_followed_by_one_that_takes_up_its_tasks(tmp_path: Path) -> None:
    with cluster(tmp_path, heartbeat_s=PATIENT_S) as pool, steps(pool, "many_waits") as job:
        job.wait_for_runs("work", 2)
        agent = job.agent()
        agent.kill()
        wait_for(lambda: job.agent().pid != agent.pid, what="another agent")
        job.go()
        assert job.result() == MANY
        assert job.runs("work").total() == 12


def test_results_that_a_killed_agent_had_taken_are_not_lost(tmp_path: Path) -> None:
    """It dies between taking a batch of results and handing it to the driver, now and then."""
    faults = {"EXTERNAL_SPARK_FAULTS": "deliver=die:0.1", "EXTERNAL_SPARK_FAULTS_SEED": "3"}
    with (
        cluster(tmp_path, heartbeat_s=PATIENT_S) as pool,
        steps(pool, "many_waits", env=faults) as job,
    ):
        job.go()
        assert job.result() == MANY
        assert "is started again" in job.said()
        assert job.runs("work").total() == 12


def test_a_lost_redis_keeps_new_jobs_waiting_and_no_other(tmp_path: Path) -> None:
    with ExitStack() as redis:
        port = redis.enter_context(redis_server(tmp_path))
        pool = Cluster(tmp_path, port, heartbeat_s=3.0, java_options=QUICK_JAVA)
        with pool.dispatcher(), pool.worker(1), pool.worker(1):
            with steps(pool, "many_waits") as job:
                job.wait_for_runs("work", 2)
                redis.close()
                job.go()
                assert job.result() == MANY
                assert job.runs("work").total() == 12
            with steps(pool, "two_waits") as job:
                job.go()
                wait_for(lambda: "The pool is empty: Redis at" in job.said(), 60, "it says why")
                # Empty as it is started again, it is filled by the dispatcher.
                with redis_server(tmp_path, port=port):
                    assert job.result() == "(1, 2)"


def test_a_lost_pool_makes_the_job_fall_back_and_a_new_one_takes_it_out_again(
    tmp_path: Path,
) -> None:
    local = ("--master", "local[2]")
    with cluster(tmp_path, workers=(1,)) as pool:
        conf = pool.conf(reschedule_fallback_after="1")
        with steps(pool, "one_after_the_other", conf=conf, master=local) as job:
            wait_for(lambda: pool.tasks_done() > 4, 90, "tasks on the worker")
            pool.workers[0].process.kill()
            wait_for(lambda: "runs on this machine meanwhile" in job.said(), 60, "fallback")
            inside = job.jobs_done()
            wait_for(lambda: job.jobs_done() > inside + 2, 60, "jobs inside")
            with pool.worker(1) as back:
                done = tasks_of(pool, back.pid)
                wait_for(lambda: tasks_of(pool, back.pid) > done + 8, 60, "tasks outside")
                # The slots inside are gone again, by Spark's own decommissioning.
                wait_for(lambda: not inside_jvms(job), 60, "no executor inside")
                job.go()
                assert job.result() == "(True, 0)"


def inside_jvms(job: Steps) -> list[psutil.Process]:
    below = job.agent().children()
    return [process for process in below if process.status() != psutil.STATUS_ZOMBIE]


def tasks_of(pool: Cluster, pid: int) -> int:
    return sum(worker.tasks_done for worker in pool.status().workers if worker.pid == pid)


def test_messages_that_are_lost_doubled_late_or_cut_change_no_result(tmp_path: Path) -> None:
    some = "drop:0.02,double:0.05,delay:0.02,cut:0.02"
    worker = {"EXTERNAL_SPARK_FAULTS": f"results={some};pushed={some};calls=refuse:0.1"}
    agent = {"EXTERNAL_SPARK_FAULTS": f"tasks={some};pushed={some};calls=refuse:0.1"}
    with (
        cluster(tmp_path, workers=()) as pool,
        pool.worker(1, env=worker | {"EXTERNAL_SPARK_FAULTS_SEED": "1"}),
        pool.worker(1, env=worker | {"EXTERNAL_SPARK_FAULTS_SEED": "2"}),
        steps(
            pool, "one_after_the_other", env=agent | {"EXTERNAL_SPARK_FAULTS_SEED": "3"}
        ) as job,
    ):
        wait_for(lambda: job.jobs_done() > 8, 200, "8 jobs")
        job.go()
        assert job.result() == "(True, 0)"


def test_a_segfault_in_python_is_that_task_s_failure_alone(pool: Cluster) -> None:
    master = ("--master", "local[2,2]")
    with steps(pool, "crash_python", master=master) as job:
        assert job.result() == "6"
        assert "Python worker exited unexpectedly (crashed)" in job.said()


def test_an_executor_without_memory_fails_its_task_and_the_worker_goes_on(pool: Cluster) -> None:
    with steps(pool, "fill_memory", "--executor-memory", "512m") as job:
        job.driver.wait(120)
        assert job.driver.returncode == 1
        assert "java.lang.OutOfMemoryError: Java heap space" in job.said()
    assert all(pool.attached(worker) for worker in pool.workers)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 24 MB at this folder."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_fails_its_task_and_the_worker_goes_on(tmp_path: Path) -> None:
    with (
        cluster(tmp_path, workers=()) as pool,
        small_disk(pool.home / "tmp" / "executors"),
        pool.worker(1),
    ):
        with steps(pool, "fill_disk") as job:
            job.driver.wait(120)
            assert job.driver.returncode == 1
            assert "No space left on device" in job.said()
        assert all(pool.attached(worker) for worker in pool.workers)
