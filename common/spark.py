"""Java and Spark on this machine: where they are, and which versions."""

import os
import re
import shutil
import subprocess
from functools import cached_property
from pathlib import Path

from common.errors import EnvironmentProblem

# Spark 4 needs it, and Spark 3.5 runs on it.
MINIMUM_JAVA = 17
_CORE_JAR = re.compile(r"spark-core_(?P<scala>[\d.]+)-(?P<spark>[\w.\-]+)\.jar")
_JAVA_VERSION = re.compile(r'version "(?P<major>\d+)')


def find_java() -> Path:
    """The `java` of `JAVA_HOME`, else of the PATH.

    Raises:
        EnvironmentProblem: there is none, or it is older than Java 17.
    """
    home = os.environ.get("JAVA_HOME")
    found = Path(home) / "bin" / "java" if home else shutil.which("java")
    if found is None or not Path(found).is_file():
        raise EnvironmentProblem(
            f"No Java found ({'JAVA_HOME is ' + home if home else 'JAVA_HOME is not set'})",
            "Install one, for example with: apt-get install openjdk-17-jre-headless",
        )
    java = Path(found)
    major = java_major(java)
    if major < MINIMUM_JAVA:
        raise EnvironmentProblem(
            f"{java} is Java {major}, and Spark-Proxy needs {MINIMUM_JAVA} or newer",
            "Set JAVA_HOME to a newer one",
        )
    return java


def java_major(java: Path) -> int:
    """The major version that `java -version` tells, 0 where it tells none."""
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    match = _JAVA_VERSION.search(told.stderr)
    return int(match["major"]) if match else 0


class SparkHome:
    """One installation of Spark.

    Raises:
        EnvironmentProblem: when a version is asked for and the folder holds no Spark.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def jars(self) -> Path:
        return self.root / "jars"

    @cached_property
    def version(self) -> str:
        """Spark's and Scala's version, `4.3.0/2.13`: both must agree within an application."""
        for jar in sorted(self.jars.glob("spark-core_*.jar")):
            if match := _CORE_JAR.fullmatch(jar.name):
                return f"{match['spark']}/{match['scala']}"
        raise EnvironmentProblem(
            f"There is no Spark in {self.root} (no jars/spark-core_*.jar)",
            "Set SPARK_HOME, or spark.homes in common.properties",
        )


def spark_homes(configured: tuple[str, ...], root: Path) -> list[SparkHome]:
    """The Spark installations of this machine, each version once.

    `spark.homes` if set; else `SPARK_HOME`, then what lies in `spark/` of the home.

    Raises:
        EnvironmentProblem: there is none.
    """
    places = [Path(place) for place in configured]
    if not places:
        if home := os.environ.get("SPARK_HOME"):
            places.append(Path(home))
        places += sorted(root.glob("spark/*/pyspark"), reverse=True)
    homes: dict[str, SparkHome] = {}
    for place in places:
        home_ = SparkHome(place)
        homes.setdefault(home_.version, home_)
    if not homes:
        raise EnvironmentProblem(
            "No Spark found", "Set SPARK_HOME, or spark.homes in common.properties"
        )
    return list(homes.values())
