"""A job that uses much of Spark sees the same on external workers as inside."""

from pathlib import Path

import pytest

from tests.cluster import SPARK_3, SPARK_4, Cluster, Job, with_and_without
from tests.services import ROOT

pytestmark = pytest.mark.slow
JOB = ROOT / "tests" / "jobs" / "behaviours.py"


def behaviours(pool: Cluster, folder: Path, version: str, hooked: bool) -> Job:
    folder.mkdir()
    given = folder / "given.txt"
    given.write_text("hello from a file")
    module = folder / "given_module.py"
    module.write_text("ANSWER = 42\n")
    options = ["--master", "local[2]", "--files", str(given), "--py-files", str(module)]
    return pool.submit(
        JOB, str(folder), given.name, hooked=hooked, options=options, version=version
    ).succeeded()


@pytest.mark.parametrize("version", [SPARK_4, SPARK_3])
def test_each_behaviour_is_as_without_us(pool: Cluster, tmp_path: Path, version: str) -> None:
    before = pool.tasks_done()
    ours, plain = with_and_without(
        lambda hooked: behaviours(pool, tmp_path / str(hooked), version, hooked)
    )

    assert ours.lines("RESULT") == plain.lines("RESULT")
    assert ours.inside_tasks == 0
    assert ours.external_tasks == pool.tasks_done() - before > 0
    # Two executors of one slot under their worker's host name, as Spark's UI shows them.
    assert ours.lines("EXECUTORS") == ['EXECUTORS [["localhost", 1], ["localhost", 1]]']
