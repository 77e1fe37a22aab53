"""Spark's shells, a job without spark-submit, and masters: all as with plain Spark."""

from pathlib import Path

import pytest

from tests.cluster import SPARK_4, Cluster, Job, spark_home, with_and_without
from tests.services import ROOT

pytestmark = pytest.mark.slow
FAILURES = ROOT / "tests" / "jobs" / "failures.py"
FEW_PARTITIONS = ["--conf", "spark.sql.shuffle.partitions=3"]
LOCAL = ["--master", "local[2]", *FEW_PARTITIONS]

SQL = """
CREATE TEMPORARY VIEW sales AS SELECT id, id % 4 AS shop, id * 3 % 50 AS amount
  FROM range(0, 200, 1, 4);
CREATE TEMPORARY VIEW shops AS SELECT * FROM VALUES (0, 'north'), (1, 'east'), (2, 'south')
  AS shops(shop, name);
SELECT name, count(*), sum(amount), round(avg(amount), 3)
  FROM sales JOIN shops USING (shop) GROUP BY name ORDER BY name;
SELECT shop, name FROM sales LEFT JOIN shops USING (shop) GROUP BY ALL ORDER BY shop;
SELECT * FROM (
  SELECT id, shop, rank() OVER (PARTITION BY shop ORDER BY amount DESC, id) AS place FROM sales
) WHERE place <= 2 ORDER BY shop, place;
CREATE TABLE kept USING parquet AS SELECT /*+ REPARTITION(2) */ shop, amount FROM sales;
SELECT shop, max(amount) FROM kept GROUP BY shop HAVING max(amount) > 10 ORDER BY shop;
"""

PYTHON_TYPED = """
pairs = sc.parallelize(range(100), 4).map(lambda x: (x % 3, x))
print("RESULT", sorted(pairs.reduceByKey(lambda a, b: a + b).collect()))
print("RESULT", spark.range(0, 100, 1, 3).selectExpr("sum(id)").first()[0])
"""

# The class is made by the shell while it runs: executors must ask the driver for it.
SCALA_TYPED = """
case class Item(name: String, price: Double)
val items = sc.parallelize(1 to 10, 2).map(n => Item(s"item $n", n * 1.5))
println("RESULT " + items.filter(_.price > 10).map(_.name).collect().toList)
val doubled = items.toDS().map(i => i.copy(price = i.price * 2))
println("RESULT " + doubled.agg("price" -> "sum").first())
"""

JOB = """
from pyspark.sql import SparkSession

spark = SparkSession.builder.appName("direct").getOrCreate()
print("RESULT", spark.sparkContext.parallelize(range(50), 3).map(lambda x: x * x).sum())
print("RESULT", spark.range(0, 90, 1, 3).selectExpr("count(*)", "max(id)").collect())
spark.stop()
"""


def written(folder: Path, name: str, content: str) -> Path:
    file = folder / name
    file.write_text(content)
    return file


def python_path() -> str:
    """Where a Python finds this Spark's pyspark, as Spark's manual tells to set it."""
    zips = sorted((spark_home(SPARK_4) / "python" / "lib").glob("*.zip"))
    assert len(zips) == 2
    return ":".join(map(str, zips))


def assert_all_on_external_workers(pool: Cluster, before: int, job: Job) -> None:
    job.succeeded()
    assert job.inside_tasks == 0
    assert job.external_tasks == pool.tasks_done() - before > 0


def test_a_spark_sql_script_prints_the_same(pool: Cluster, tmp_path: Path) -> None:
    script = written(tmp_path, "script.sql", SQL)

    def run(hooked: bool) -> Job:
        # Hive's own catalog makes its database where the driver runs.
        folder = tmp_path / str(hooked)
        folder.mkdir()
        warehouse = ["--conf", f"spark.sql.warehouse.dir={folder / 'warehouse'}"]
        return pool.submit(
            "",
            hooked=hooked,
            tool="spark-sql",
            options=[*LOCAL, *warehouse, "-f", str(script)],
            cwd=folder,
        )

    before = pool.tasks_done()
    ours, plain = with_and_without(run)
    assert_all_on_external_workers(pool, before, ours)
    assert ours.out == plain.succeeded().out
    assert "east\t50\t" in ours.out


@pytest.mark.parametrize(
    ("tool", "typed", "expected"),
    [
        pytest.param(
            "pyspark",
            PYTHON_TYPED,
            ["RESULT [(0, 1683), (1, 1617), (2, 1650)]", "RESULT 4950"],
            id="pyspark",
        ),
        pytest.param(
            "spark-shell",
            SCALA_TYPED,
            ["RESULT List(item 7, item 8, item 9, item 10)", "RESULT [165.0]"],
            id="spark-shell",
        ),
    ],
)
def test_what_is_typed_into_a_shell_runs_on_external_workers(
    pool: Cluster, tmp_path: Path, tool: str, typed: str, expected: list[str]
) -> None:
    before = pool.tasks_done()
    # Without a terminal Python reads what makes `spark` and `sc` only when told to be a shell.
    env = {"PYTHONPATH": python_path(), "PYSPARK_DRIVER_PYTHON_OPTS": "-i"}
    job = pool.submit("", tool=tool, options=LOCAL, stdin=typed, env=env, cwd=tmp_path)

    assert_all_on_external_workers(pool, before, job)
    printed = [line[line.index("RESULT") :] for line in job.out.splitlines() if "RESULT" in line]
    # spark-shell repeats what was typed, with its quotation marks.
    assert [line for line in printed if '"' not in line] == expected


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        pytest.param("python", [], id="without-spark-submit"),
        pytest.param("spark-submit", [], id="without-a-master"),
        pytest.param("spark-submit", ["--master", "local-external"], id="local-external"),
    ],
)
def test_a_job_runs_on_external_workers_however_it_is_started(
    pool: Cluster, tmp_path: Path, tool: str, options: list[str]
) -> None:
    job = written(tmp_path, "job.py", JOB)
    env = {"PYTHONPATH": python_path()} if tool == "python" else {}
    before = pool.tasks_done()
    ours = pool.submit(job, tool=tool, options=options, env=env, cwd=tmp_path)

    assert_all_on_external_workers(pool, before, ours)
    expected = ["RESULT 40425", "RESULT [Row(count(1)=90, max(id)=89)]"]
    assert ours.lines("RESULT") == expected


def test_a_task_is_tried_as_often_as_plain_spark_tries_it(pool: Cluster) -> None:
    """One application after the other in one driver, under each of the masters."""
    masters = ["local[2]", "local[2,3]"]
    before = pool.tasks_done()
    ours = pool.submit(FAILURES, *masters, "local-external").succeeded()
    assert ours.inside_tasks == 0
    assert ours.external_tasks == pool.tasks_done() - before == 2 * 3

    plain = pool.submit(FAILURES, *masters, hooked=False).succeeded()
    results = ours.lines("RESULT")
    assert [line for line in results if "local-external" not in line] == plain.lines("RESULT")
    assert [line for line in results if " raised " in line] == [
        "RESULT raised local[2] Py4JJavaError ValueError: try 1",
        "RESULT raised local[2,3] Py4JJavaError ValueError: try 3",
        # spark.task.maxFailures, which the job sets to 2.
        "RESULT raised local-external Py4JJavaError ValueError: try 2",
    ]
