"""Builds the shim: our Scala sources, compiled by the compiler that Spark ships.

One jar per Spark version in `$EXTERNAL_SPARK_HOME/jars`, built again when the sources or
the Spark change.
"""

import fcntl
import hashlib
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from common.errors import EnvironmentProblem
from common.spark import SparkHome, find_java

SOURCES = ("common", "agent", "worker")
SERVICE = "META-INF/services/org.apache.spark.scheduler.ExternalClusterManager"
CLUSTER_MANAGER = "org.apache.spark.external.ExternalClusterManager"
# On a busy machine with two cores it takes 15 s.
COMPILE_TIMEOUT_S = 300


def shim_jar(spark: SparkHome, jars: Path) -> Path:
    """The jar for this Spark, built if it is not there yet.

    Several processes may ask at once: one builds, the others wait for it.

    Raises:
        EnvironmentProblem: no Java, no compiler in this Spark, or it refuses the sources.
    """
    sources = _sources()
    digest = hashlib.sha256("".join(sources.values()).encode()).hexdigest().encode()
    # One name for ever, so that what was hooked once stays hooked after an update.
    jar = jars / f"spark-proxy-{spark.version.replace('/', '_')}.jar"
    jars.mkdir(parents=True, exist_ok=True)
    with _locked(jars / ".building"):
        if not jar.is_file() or _digest(jar) != digest:
            _build(spark, sources, digest, jar)
    return jar


def _digest(jar: Path) -> bytes:
    """Of the sources that the jar was built from: the comment of the archive."""
    with zipfile.ZipFile(jar) as archive:
        return archive.comment


def _sources() -> dict[str, str]:
    found = {}
    for package in SOURCES:
        for source in files(package).joinpath("jvm").iterdir():
            if source.name.endswith(".scala"):
                found[f"{package}/{source.name}"] = source.read_text()
    return dict(sorted(found.items()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(spark: SparkHome, sources: dict[str, str], digest: bytes, jar: Path) -> None:
    with tempfile.TemporaryDirectory(dir=jar.parent) as folder:
        draft = Path(folder) / jar.name
        paths = []
        for name, text in sources.items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            paths.append(str(path))
        command = [str(find_java()), "-cp", f"{spark.jars}/*", "scala.tools.nsc.Main"]
        command += ["-usejavacp", "-deprecation", "-feature", "-Xfatal-warnings"]
        command += ["-d", str(draft), *paths]
        told = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=COMPILE_TIMEOUT_S
        )
        if told.returncode != 0:
            raise EnvironmentProblem(
                f"The shim does not compile against Spark {spark.version} in {spark.root}:\n"
                f"{(told.stdout + told.stderr).strip()}",
                "Use a Spark version that the README names",
            )
        with zipfile.ZipFile(draft, "a") as archive:
            archive.writestr(SERVICE, CLUSTER_MANAGER + "\n")
            archive.comment = digest
        os.replace(draft, jar)
