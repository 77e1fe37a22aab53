"""external, internal and hybrid; and what happens while the pool is empty."""

from pathlib import Path

import pytest

from tests.cluster import Cluster, cluster, example
from tests.services import ROOT

pytestmark = pytest.mark.slow
FOOTPRINT = ROOT / "tests" / "jobs" / "footprint.py"
RULES = ROOT / "tests" / "jobs" / "rules.py"
PI = example("pi.py")
LOCAL = ("--master", "local[2]")


def test_internal_leaves_no_trace_of_us(pool: Cluster) -> None:
    """No process, port or thread more than plain Spark has, and the same master."""
    internal = pool.conf(reschedule_dst_executor="internal")
    hooked = pool.submit(FOOTPRINT, options=LOCAL, conf=internal).succeeded()
    plain = pool.submit(FOOTPRINT, options=LOCAL, hooked=False).succeeded()

    assert hooked.out == plain.out
    assert hooked.external_tasks == 0


def test_internal_treats_local_external_as_all_cores(pool: Cluster) -> None:
    internal = pool.conf(reschedule_dst_executor="internal")
    job = pool.submit(PI, "2", options=("--master", "local-external"), conf=internal).succeeded()
    assert job.inside_tasks == 2


def test_hybrid_uses_the_slots_inside_and_the_pool_together(pool: Cluster) -> None:
    hybrid = pool.conf(reschedule_dst_executor="hybrid")
    job = pool.submit(RULES, "sum_slowly", options=LOCAL, conf=hybrid).succeeded()

    assert job.lines("RESULT") == ["RESULT 780"]
    # Both kinds are executors of ours: the one inside has an id of its own and two slots.
    on_workers = pool.app("sum_slowly").done
    assert 0 < on_workers < job.external_tasks == 40


def test_a_missing_pool_with_fallback_internal_runs_the_job_inside(tmp_path: Path) -> None:
    with cluster(tmp_path, workers=()) as empty:
        conf = empty.conf(reschedule_fallback="internal", reschedule_fallback_after="1")
        job = empty.submit(PI, "2", options=LOCAL, conf=conf).succeeded()

    assert job.lines("Pi is roughly")
    assert "The pool has been empty for" in job.err
    assert "The job runs on this machine meanwhile" in job.err


def test_a_missing_pool_with_fallback_fail_ends_the_job_and_says_why(tmp_path: Path) -> None:
    with cluster(tmp_path, workers=()) as empty:
        conf = empty.conf(reschedule_fallback="fail", reschedule_fallback_after="1")
        job = empty.submit(PI, "2", options=LOCAL, conf=conf)

    assert job.code == 1
    assert "Job aborted due to stage failure: The pool has been empty for" in job.err
    assert "no worker serves this application" in job.err


def test_a_missing_pool_with_fallback_wait_waits_and_says_so(tmp_path: Path) -> None:
    with cluster(tmp_path, workers=()) as empty:
        conf = empty.conf(reschedule_fallback="wait", reschedule_fallback_after="1")
        with empty.start(PI, "2", options=LOCAL, conf=conf) as driver:
            assert driver.stderr is not None
            said = next(line for line in driver.stderr if "The job waits" in line)
            with empty.worker(2):
                out, err = driver.communicate(timeout=120)

    assert "The pool has been empty for" in said
    assert "Pi is roughly" in out, err[-3000:]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"no_such_key": "1"}, "no.such.key: unknown key"),
        ({"heartbeat": "often"}, "heartbeat: 'often' is not valid"),
        ({"reschedule_dst_executor": "outside"}, "reschedule.dst.executor: 'outside'"),
    ],
)
def test_a_wrong_setting_ends_the_driver_with_one_clear_sentence(
    pool: Cluster, settings: dict[str, str], sentence: str
) -> None:
    job = pool.submit(PI, "2", options=LOCAL, conf=pool.conf(**settings))
    assert job.code == 1
    assert "Spark-Proxy: " in job.err
    assert sentence in job.err
