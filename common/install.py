"""Hooks Spark installations: their `spark-defaults.conf` loads our plugin.

`python -m common.install conf` hooks none: it makes `$EXTERNAL_SPARK_CONF_DIR` a folder that
jobs can be given as `SPARK_CONF_DIR`.
"""

import os
import re
from pathlib import Path

import javaproperties
import typer

from common.console import FAILURE_EXIT, run
from common.errors import EnvironmentProblem
from common.marked_file import MarkedFile
from common.settings import Home, Settings
from common.shim import shim_jar
from common.spark import SparkHome, spark_homes

DEFAULTS_NAME = "spark-defaults.conf"
ENVIRONMENT_NAME = "spark-env.sh"
PLUGIN = "org.apache.spark.external.ExternalSparkPlugin"
PLUGINS_KEY = "spark.plugins"
CLASS_PATH_KEY = "spark.driver.extraClassPath"
HEADER = "# Spark-Proxy keeps this block up to date: add settings of your own above it."
# One SPARK_CONF_DIR for every Spark: a shim fits one version only, and spark-defaults.conf names
# one shim. Spark sources this file before it reads that one.
CHOOSE_BY_VERSION = """\
# spark-defaults.conf serves one Spark version; any other has a folder of its own beside it.
spark_proxy=$(basename "$SPARK_HOME"/jars/spark-core_*.jar .jar)
spark_proxy=${spark_proxy#spark-core_}
spark_proxy=${spark_proxy#*-}_${spark_proxy%%-*}
if ! grep -qsF "/spark-proxy-$spark_proxy.jar" "$SPARK_CONF_DIR/spark-defaults.conf"; then
  if ! [ -d "$SPARK_CONF_DIR/spark-$spark_proxy" ]; then
    echo "Spark-Proxy is not set up for $SPARK_HOME. Set SPARK_HOME to it and run sbin/setup.sh" >&2
    exit 2
  fi
  SPARK_CONF_DIR=$SPARK_CONF_DIR/spark-$spark_proxy
fi
unset spark_proxy"""


def install_into(spark_home: Path | None, home: Home) -> str:
    """Hooks an installation, or renews the hook; returns what was done, as a sentence.

    Args:
        spark_home: its folder; none for `SPARK_HOME`, else the newest in `spark/` of the home.

    Raises:
        EnvironmentProblem: there is no Spark, the shim can't be built or the file written.
    """
    spark = _chosen(spark_home, home)
    defaults = MarkedFile.read(spark.root / "conf" / DEFAULTS_NAME)
    if not _hook(defaults, spark, home):
        return f"{defaults.path} is hooked already"
    done = "Renewed the hook in" if defaults.block else "Hooked"
    return f"{done} {defaults.path}; its jobs follow {home.conf}/common.properties"


def uninstall_from(spark_home: Path | None, home: Home) -> str:
    """Restores an installation byte for byte; returns what was done, as a sentence.

    Raises:
        EnvironmentProblem: there is no Spark, or the file can't be written.
    """
    defaults = MarkedFile.read(_chosen(spark_home, home).root / "conf" / DEFAULTS_NAME)
    if not defaults.unhook():
        return f"{defaults.path} is not hooked"
    return f"Restored {defaults.path}"


def write_conf(home: Home, sparks: list[SparkHome]) -> None:
    """Makes the configuration folder one for `SPARK_CONF_DIR`; the first Spark is the default.

    Raises:
        EnvironmentProblem: a shim can't be built, or a file can't be written.
    """
    default, *others = sparks
    _hook(MarkedFile.read(home.conf / DEFAULTS_NAME), default, home)
    for spark in others:
        folder = home.conf / f"spark-{spark.version.replace('/', '_')}"
        _hook(MarkedFile.read(folder / DEFAULTS_NAME), spark, home)
    # Spark does not quote this file's path: with a space in it, SPARK_CONF_DIR has to name the
    # folder of the version.
    if not re.search(r"\s", str(home.conf)):
        MarkedFile.read(home.conf / ENVIRONMENT_NAME).hook(CHOOSE_BY_VERSION.splitlines())


def _chosen(spark_home: Path | None, home: Home) -> SparkHome:
    if given := spark_home or os.environ.get("SPARK_HOME"):
        return SparkHome(Path(given).absolute())
    return spark_homes(Settings.load(home.conf).spark_homes, home.root)[0]


def _hook(defaults: MarkedFile, spark: SparkHome, home: Home) -> bool:
    jar = shim_jar(spark, home.jars)
    try:
        values = javaproperties.loads(defaults.text)
    except ValueError as error:
        raise EnvironmentProblem(f"{defaults.path}: {error}", "Correct the file") from error
    settings = {
        PLUGINS_KEY: _joined(",", values.get(PLUGINS_KEY, ""), PLUGIN),
        CLASS_PATH_KEY: _joined(":", values.get(CLASS_PATH_KEY, ""), str(jar)),
    }
    lines = [javaproperties.join_key_value(*pair, separator=" ") for pair in settings.items()]
    return defaults.hook([HEADER, *lines])


def _joined(separator: str, theirs: str, ours: str) -> str:
    """Ours beside theirs: of two lines with one key, Spark takes the last."""
    parts = [part.strip() for part in theirs.split(separator) if part.strip()]
    return separator.join([*parts, *([] if ours in parts else [ours])])


app = typer.Typer(add_completion=False)


@app.command()
def conf() -> None:
    """Makes the configuration folder one for SPARK_CONF_DIR."""
    home = Home.from_environment()
    write_conf(home, spark_homes(Settings.load(home.conf).spark_homes, home.root))


@app.command()
def has_spark() -> None:
    """Fails when there is no Spark on this machine that we know of."""
    home = Home.from_environment()
    named = Settings.load(home.conf).spark_homes or os.environ.get("SPARK_HOME")
    if not (named or any(home.root.glob("spark/*/.complete"))):
        raise typer.Exit(FAILURE_EXIT)


if __name__ == "__main__":
    run(app)
