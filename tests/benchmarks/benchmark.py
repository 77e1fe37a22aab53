"""The pool against Spark's own executors, side by side: `bash sbin/benchmark.sh`.

Both sides have two executors of one slot and 1 GiB, run the same jobs in turn, and are
compared pair by pair, so that a machine whose speed drifts treats both alike.
"""

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from common.spark import find_java
from tests.cluster import Cluster, Job, cluster, example, spark_home

EXECUTORS = 2
PLAIN = f"local-cluster[{EXECUTORS},1,1024]"
OURS = "local-external"
console = Console()


@dataclass(frozen=True)
class Figure:
    """One row: what is measured, and what the ratio of ours to Spark's should be."""

    name: str
    title: str
    unit: str
    target: str

    @property
    def larger_is_better(self) -> bool:
        return self.target.startswith(">=")

    def met(self, ratio: float) -> bool:
        bound = float(self.target[2:])
        return ratio >= bound if self.larger_is_better else ratio <= bound


FIGURES = (
    Figure("empty_tasks", "empty JVM tasks", "tasks/s", ">=1.00"),
    Figure("one_task_job", "job of one task, median", "ms", "<=1.00"),
    Figure("pi", "Spark's pi.py, from submit to end", "s", "<=1.00"),
    Figure("shuffle", "shuffle by reduceByKey", "s", "<=1.00"),
)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    tasks: int
    jobs: int
    pairs: int
    pi_partitions: int

    @property
    def arguments(self) -> list[str]:
        return [str(n) for n in (EXECUTORS, self.tasks, self.jobs, self.pairs)]


FULL = Size(rounds=5, tasks=2000, jobs=101, pairs=4_000_000, pi_partitions=40)
QUICK = Size(rounds=3, tasks=2000, jobs=51, pairs=1_000_000, pi_partitions=20)
Measured = dict[str, float]


def compile_job(folder: Path) -> Path:
    """The Scala job as a jar, by the compiler that Spark ships."""
    jar = folder / "benchmark.jar"
    source = Path(__file__).with_name("Benchmark.scala")
    command = [str(find_java()), "-cp", f"{spark_home()}/jars/*", "scala.tools.nsc.Main"]
    subprocess.run([*command, "-usejavacp", "-d", str(jar), str(source)], check=True)
    return jar


def measure(pool: Cluster, jar: Path, size: Size, hooked: bool) -> Measured:
    """One run of everything on one side."""
    options = ["--master", OURS if hooked else PLAIN, "--executor-memory", "1g"]
    # Counting tasks for the tests' sake would cost both sides the same, and blur the ratio.
    options += ["--conf", "spark.eventLog.enabled=false"]

    def submit(job: Path, *arguments: str, more: tuple[str, ...] = ()) -> Job:
        ran = pool.submit(job, *arguments, hooked=hooked, options=[*options, *more])
        return ran.succeeded()

    warm = submit(jar, *size.arguments, more=("--class", "Benchmark"))
    figures = {name: float(value) for _, name, value in map(str.split, warm.lines("MEASURED"))}
    start = time.monotonic()
    submit(example("pi.py"), str(size.pi_partitions))
    return figures | {"pi": time.monotonic() - start}


def compare(pool: Cluster, jar: Path, size: Size) -> list[tuple[Measured, Measured]]:
    """Pairs of (ours, Spark's); who goes first alternates."""
    pairs = []
    for number in range(size.rounds):
        console.print(f"round {number + 1} of {size.rounds}")
        sides = [True, False] if number % 2 == 0 else [False, True]
        results = {hooked: measure(pool, jar, size, hooked) for hooked in sides}
        pairs.append((results[True], results[False]))
    return pairs


def summary(figure: Figure, pairs: list[tuple[Measured, Measured]]) -> dict[str, Any]:
    """One row of the JSON file: medians of both sides, and of the ratio pair by pair."""
    ratios = sorted(ours[figure.name] / plain[figure.name] for ours, plain in pairs)
    ratio = median(ratios)
    return {
        "name": figure.name,
        "ours": median(ours[figure.name] for ours, _ in pairs),
        "spark": median(plain[figure.name] for _, plain in pairs),
        "unit": figure.unit,
        "ratio": ratio,
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
        "target": figure.target,
        "met": figure.met(ratio),
    }


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(title=f"The pool, {EXECUTORS} workers of one slot, against {PLAIN}")
    for heading in ("work", "unit", "ours", "Spark", "ratio", "min", "max", "target", "met"):
        shown.add_column(heading, justify="left" if heading in {"work", "unit"} else "right")
    for figure, row in zip(FIGURES, rows, strict=True):
        values = [row[key] for key in ("ours", "spark", "ratio", "ratio_min", "ratio_max")]
        numbers = [f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values]
        met = "yes" if row["met"] else "no"
        shown.add_row(figure.title, row["unit"], *numbers, row["target"], met)
    return shown


def benchmark(
    quick: Annotated[bool, typer.Option("--quick", help="fewer rounds, smaller jobs")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the rows here")] = None,
) -> None:
    """Runs the same jobs on the pool and on Spark's own executors, and prints the ratios."""
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        jar = compile_job(Path(folder))
        with cluster(
            Path(folder) / "pool", (1,) * EXECUTORS, heartbeat_s=10, java_options=""
        ) as pool:
            pairs = compare(pool, jar, size)
    rows = [summary(figure, pairs) for figure in FIGURES]
    console.print(table(rows))
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=2) + "\n")



if __name__ == "__main__":
    typer.run(benchmark)
