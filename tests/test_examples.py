"""Spark's own examples give the same on external workers as on plain Spark."""

import re
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import (
    SPARK_3,
    SPARK_4,
    Cluster,
    Job,
    data,
    example,
    spark_home,
    with_and_without,
)
from tests.services import HOST, wait_for

pytestmark = pytest.mark.slow
# The same number of partitions with us and without, whatever the slots are.
OPTIONS = ("--master", "local[2]", "--conf", "spark.default.parallelism=2")
# Beside its examples the package pyspark does not carry what some of them read.
RESOURCES = {
    "people.json": '{"name":"Michael"}\n{"name":"Andy", "age":30}\n{"name":"Justin", "age":19}\n',
    "people.txt": "Michael, 29\nAndy, 30\nJustin, 19\n",
}
PI_TOLERANCE = 0.05

Result = list[str]


def in_order(out: str) -> Result:
    return out.splitlines()


def in_any_order(out: str) -> Result:
    """Lines whose order depends on which shuffle block arrived first."""
    return sorted(out.splitlines())


def about_pi(out: str) -> Result:
    found = re.search(r"Pi is roughly ([0-9.]+)", out)
    assert found, out
    assert abs(float(found[1]) - 3.14159) < PI_TOLERANCE
    return ["Pi is about right"]


def rounded(out: str) -> Result:
    """Sums in floating point depend on the order of what is added, in the last digits."""
    shorter = re.sub(r"\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.6g}", out)
    return sorted(shorter.splitlines())


def without_statistics(out: str) -> Result:
    """One table describes random numbers: their count is all that is certain of it."""
    head, table, rest = out.partition("Pandas DataFrame result statistics:")
    random, end, rest = rest.partition("\n\n")
    assert "count  100.000000  100.000000  100.000000" in random
    return (head + table + end + rest).splitlines()


@dataclass(frozen=True)
class Example:
    path: str
    arguments: tuple[str, ...] = ()
    result: Callable[[str], Result] = in_order
    version: str = SPARK_4

    def __str__(self) -> str:
        return f"{self.path}-{self.version}"


def on_spark_4(path: str, *arguments: str, result: Callable[[str], Result] = in_order) -> Example:
    return Example(path, arguments, result)


def on_spark_3(path: str, *arguments: str, result: Callable[[str], Result] = in_order) -> Example:
    return Example(path, arguments, result, SPARK_3)


TEXT = str(data("mllib/sample_fpgrowth.txt"))

EXAMPLES = [
    on_spark_4("pi.py", "4", result=about_pi),
    on_spark_4("pagerank.py", str(data("mllib/pagerank_data.txt")), "3", result=rounded),
    on_spark_4("sort.py", "{folder}/numbers.txt"),
    on_spark_4("sql/basic.py"),
    on_spark_4("sql/arrow.py", result=without_statistics),
    on_spark_4("ml/pipeline_example.py", result=rounded),
    on_spark_3("wordcount.py", TEXT, result=in_any_order),
]


def run(pool: Cluster, spark_example: Example, folder: Path, hooked: bool) -> Job:
    """Runs an example where it finds its data and may write without harm to that Spark."""
    resources = folder / "examples" / "src" / "main" / "resources"
    resources.mkdir(parents=True)
    for name, content in RESOURCES.items():
        (resources / name).write_text(content)
    (folder / "data").symlink_to(spark_home(spark_example.version) / "data")
    (folder / "numbers.txt").write_text("3 1 2\n" + " ".join(map(str, range(200, -200, -3))))
    return pool.submit(
        example(spark_example.path, spark_example.version),
        *(argument.format(folder=folder) for argument in spark_example.arguments),
        hooked=hooked,
        options=OPTIONS,
        version=spark_example.version,
        cwd=folder,
    ).succeeded()


@pytest.mark.parametrize("spark_example", EXAMPLES, ids=str)
def test_an_example_prints_on_external_workers_what_it_prints_inside(
    pool: Cluster, tmp_path: Path, spark_example: Example
) -> None:
    before = pool.tasks_done()
    ours, plain = with_and_without(
        lambda hooked: run(pool, spark_example, tmp_path / str(hooked), hooked)
    )
    done = pool.tasks_done() - before

    result = spark_example.result(ours.out)
    assert result == spark_example.result(plain.out)
    assert result, "the example printed nothing to compare"
    assert ours.inside_tasks == 0
    assert ours.external_tasks == done > 0
    assert ours.external_tasks == plain.inside_tasks


SPOKEN = ["to be or not to be", "that is the question", "to sleep no more"]
STREAM_TIMEOUT_S = 120.0
END_TIMEOUT_S = 60.0


@contextmanager
def spoken_lines() -> Iterator[int]:
    """Says the lines to each that connects, on the port that it yields."""
    with socket.create_server((HOST, 0)) as listener:
        heard: list[socket.socket] = []

        def speak() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                heard.append(connection)
                connection.sendall("".join(f"{line}\n" for line in SPOKEN).encode())

        thread = threading.Thread(target=speak)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            # Closing alone does not wake a thread out of accept().
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in heard:
                connection.close()


class Listener:
    """Reads what a driver says while it runs."""

    def __init__(self, driver: "subprocess.Popen[str]") -> None:
        self._driver = driver
        self._lines: dict[str, list[str]] = {"out": [], "err": []}
        streams = {"out": driver.stdout, "err": driver.stderr}
        self._threads = [
            threading.Thread(target=self._lines[name].extend, args=(stream,))
            for name, stream in streams.items()
        ]
        for thread in self._threads:
            thread.start()

    def counts(self) -> Counter[str]:
        """The table of the last batch."""
        batch = "".join(self._lines["out"]).rpartition("Batch: ")[2]
        return Counter({w: int(n) for w, n in re.findall(r"\|\s*(\w+)\|\s*(\d+)\|", batch)})

    def errors(self) -> str:
        return "".join(self._lines["err"])

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        for stream in (self._driver.stdin, self._driver.stdout, self._driver.stderr):
            assert stream is not None
            stream.close()


def stream(pool: Cluster, port: int, folder: Path, hooked: bool) -> tuple[Counter[str], Job]:
    """Runs the streaming example until it has counted every word, then ends it by a signal."""
    words = len(" ".join(SPOKEN).split())
    with pool.start(
        example("sql/streaming/structured_network_wordcount.py"),
        HOST,
        str(port),
        hooked=hooked,
        options=(*OPTIONS, "--conf", "spark.sql.shuffle.partitions=3"),
        env={"TMPDIR": str(folder)},
    ) as driver:
        listener = Listener(driver)

        def counted() -> bool:
            assert driver.poll() is None, listener.errors()[-6000:]
            return listener.counts().total() == words

        wait_for(counted, STREAM_TIMEOUT_S, "every word counted")
        driver.send_signal(signal.SIGINT)
        code = driver.wait(END_TIMEOUT_S)
        listener.join()
    return listener.counts(), Job(code, "", listener.errors(), pool.tasks())


def test_a_structured_stream_counts_on_external_workers_as_inside(
    pool: Cluster, tmp_path: Path
) -> None:
    before = pool.tasks_done()
    with spoken_lines() as port:
        ours, job = stream(pool, port, tmp_path, hooked=True)
        done = pool.tasks_done() - before
        plain, plain_job = stream(pool, port, tmp_path, hooked=False)

    assert ours == plain == Counter(" ".join(SPOKEN).split())
    assert job.inside_tasks == 0
    # A batch that the signal interrupted may have tasks of which only one side heard.
    assert done >= job.external_tasks > 0
    assert job.code == plain_job.code
