"""A job compiled from Scala sees the same on external workers as on plain Spark."""

import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.spark import find_java
from tests.cluster import (
    QUICK_JAVA,
    SPARK_3,
    SPARK_4,
    Cluster,
    Job,
    data,
    spark_home,
    with_and_without,
)
from tests.services import ROOT

pytestmark = pytest.mark.slow
SOURCE = ROOT / "tests" / "jobs" / "Main.scala"
# Classes that travel in jars of their own and that only tasks load.
TRAVELLERS = {
    "given": 'package given; object Given { def of(n: Int): String = "given " + n * 2 }',
    "added": 'package added; object Added { def of(n: Int): String = "added " + n * 3 }',
}
COMPILE_TIMEOUT_S = 180


@dataclass(frozen=True)
class Jars:
    version: str
    main: Path
    given: Path
    added: Path


@pytest.fixture(scope="module", params=[SPARK_4, SPARK_3])
def jars(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Jars:
    """The job and its two further jars, compiled by the compiler that this Spark ships."""
    version: str = request.param
    folder = tmp_path_factory.mktemp("scala")
    sources = [SOURCE]
    for name, content in TRAVELLERS.items():
        sources.append(folder / f"{name}.scala")
        sources[-1].write_text(content)
    classes = folder / "classes"
    classes.mkdir()
    compiler = ["scala.tools.nsc.Main", "-usejavacp", "-d", str(classes), *map(str, sources)]
    subprocess.run(
        [find_java(), *QUICK_JAVA.split(), "-cp", f"{spark_home(version)}/jars/*", *compiler],
        check=True,
        timeout=COMPILE_TIMEOUT_S,
    )
    for package in TRAVELLERS:
        pack(folder / f"{package}.jar", classes / package)
    main = pack(folder / "main.jar", classes)
    return Jars(version, main, folder / "given.jar", folder / "added.jar")


def pack(jar: Path, folder: Path) -> Path:
    """Moves the classes below a folder into a jar, under the package that the jar is named for."""
    root = folder if jar.stem == "main" else folder.parent
    with zipfile.ZipFile(jar, "w") as archive:
        for file in sorted(folder.rglob("*.class")):
            archive.write(file, file.relative_to(root))
            file.unlink()
    return jar


def run(pool: Cluster, jars: Jars, hooked: bool) -> Job:
    options = ["--class", "Main", "--master", "local[2]", "--jars", str(jars.given)]
    options += ["--conf", "spark.sql.shuffle.partitions=3"]
    arguments = (str(data("", jars.version)), str(jars.added))
    return pool.submit(
        jars.main, *arguments, hooked=hooked, options=options, version=jars.version
    ).succeeded()


def test_a_jvm_job_sees_the_same_on_external_workers(pool: Cluster, jars: Jars) -> None:
    before = pool.tasks_done()
    ours, plain = with_and_without(lambda hooked: run(pool, jars, hooked))
    done = pool.tasks_done() - before

    results = ours.lines("RESULT")
    assert results == plain.lines("RESULT")
    assert ours.inside_tasks == 0
    assert ours.external_tasks == done > 0

    said = "\n".join(results)
    assert "RESULT given jar List(given 2, given 4, given 6, given 8)" in results
    assert "RESULT added jar List(added 3, added 6, added 9, added 12)" in results
    assert "NotWelcome: 3 is not welcome" in said
    assert said.count("RESULT frame") >= 2
    assert "RESULT ranks List(" in said


def test_a_driver_that_never_stops_its_context_ends_with_its_main_method(
    pool: Cluster, jars: Jars
) -> None:
    options = ["--class", "Forgetful", "--master", "local[2]"]
    job = pool.submit(jars.main, options=options, version=jars.version).succeeded()
    assert job.lines("RESULT") == ["RESULT 10"]
