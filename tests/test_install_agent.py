"""Spark's own commands on a pool, by `install-agent.sh` and by `SPARK_CONF_DIR`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.install import DEFAULTS_NAME
from common.marked_file import BEGIN
from tests.cluster import SPARK_3, example, spark_home
from tests.installations import Installation, installation

pytestmark = pytest.mark.slow

PARTITIONS = 4


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One with a running pool, on which nothing falls back to the driver."""
    with installation(tmp_path_factory.mktemp("pool"), reschedule_fallback="fail") as made:
        made.script("start-all.sh").succeeded()
        yield made


@pytest.fixture
def spark(tmp_path: Path) -> Path:
    """Spark as it is unpacked somewhere, with a configuration of its own."""
    folder = tmp_path / "spark"
    (folder / "conf").mkdir(parents=True)
    for part in spark_home().iterdir():
        if part.name in ("bin", "jars", "python", "examples"):
            (folder / part.name).symlink_to(part)
    (folder / "conf" / DEFAULTS_NAME).write_bytes(b"spark.ui.enabled\tfalse\r\n# \xff")
    return folder


def runs_pi_on_the_pool(home: Installation, spark: Path, **env: str) -> bool:
    before = sum(worker.tasks_done for worker in home.status().workers)
    pi = example("pi.py")
    told = home.run([spark / "bin" / "spark-submit", pi, str(PARTITIONS)], **env).succeeded()
    assert "Pi is roughly 3.1" in told.out
    return sum(worker.tasks_done for worker in home.status().workers) - before == PARTITIONS


def test_a_hooked_spark_runs_on_the_pool_until_it_is_restored(
    home: Installation, spark: Path
) -> None:
    defaults = spark / "conf" / DEFAULTS_NAME
    original = defaults.read_bytes()
    said = home.script("install-agent.sh", spark).succeeded().out
    assert said == f"Hooked {defaults}; its jobs follow {home.conf}/common.properties\n"
    hooked = defaults.read_bytes()
    assert hooked.startswith(original)
    assert runs_pi_on_the_pool(home, spark)

    again = home.script("install-agent.sh", SPARK_HOME=str(spark)).succeeded().out
    assert again == f"{defaults} is hooked already\n"
    assert defaults.read_bytes() == hooked

    assert home.script("uninstall-agent.sh", spark).succeeded().out == f"Restored {defaults}\n"
    assert defaults.read_bytes() == original
    assert home.script("uninstall-agent.sh", spark).succeeded().out == f"{defaults} is not hooked\n"


def test_spark_conf_dir_alone_puts_any_installed_spark_on_the_pool(home: Installation) -> None:
    spark = spark_home(SPARK_3)
    assert runs_pi_on_the_pool(home, spark, SPARK_CONF_DIR=str(home.conf))
    theirs = spark / "conf" / DEFAULTS_NAME
    assert not theirs.exists() or BEGIN not in theirs.read_text()
