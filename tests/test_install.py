"""Hooking a Spark installation: the marked block, what it merges, and how it goes again."""

import subprocess
import tempfile
from pathlib import Path

import javaproperties
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from common import install
from common.errors import EnvironmentProblem
from common.install import (
    CLASS_PATH_KEY,
    DEFAULTS_NAME,
    ENVIRONMENT_NAME,
    PLUGIN,
    PLUGINS_KEY,
    install_into,
    uninstall_from,
    write_conf,
)
from common.marked_file import BEGIN, END
from common.settings import Home
from common.spark import SparkHome
from tests.services import environment

SPARK_4, SPARK_3 = "4.3.0_2.13", "3.5.9_2.12"
# What could be mistaken for the block, or grow into one with it, beside any bytes at all.
PIECES = st.sampled_from(
    [
        *(b"\n", b"\r\n", b"\r", b" ", b"\t", b"#", b"\\\n", b"\xff", "é".encode()),
        *(BEGIN.encode(), END.encode(), b"spark.master local", b"spark.plugins a.B,c.D"),
        b"spark.driver.extraClassPath=/a b.jar",
    ]
)
FILES = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=12).map(b"".join))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path, conf=tmp_path / "conf", pids=tmp_path / "tmp")


@pytest.fixture(autouse=True)
def _jar_of(monkeypatch: pytest.MonkeyPatch) -> None:
    set_jar(monkeypatch, "jars")


def set_jar(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """The shim as it would be called, without the compiler."""

    def jar(spark: SparkHome, jars: Path) -> Path:
        return jars.with_name(folder) / f"spark-proxy-{spark.version.replace('/', '_')}.jar"

    monkeypatch.setattr(install, "shim_jar", jar)


def spark(folder: Path, version: str = SPARK_4) -> Path:
    """An installation with nothing in it but its version; returns its defaults file."""
    number, scala = version.split("_")
    (folder / "jars").mkdir(parents=True)
    (folder / "jars" / f"spark-core_{scala}-{number}.jar").touch()
    return folder / "conf" / DEFAULTS_NAME


@pytest.fixture
def defaults(home: Home) -> Path:
    path = spark(home.root / "spark")
    path.parent.mkdir()
    return path


def hook(defaults: Path, home: Home) -> str:
    return install_into(defaults.parent.parent, home)


def unhook(defaults: Path, home: Home) -> str:
    return uninstall_from(defaults.parent.parent, home)


def values(path: Path) -> dict[str, str]:
    """As Spark reads them."""
    return dict(javaproperties.loads(path.read_bytes().decode(errors="surrogateescape")))


def has_block(content: bytes) -> bool:
    _, begin, rest = content.partition(BEGIN.encode())
    return bool(begin) and END.encode() in rest


@given(FILES)
@example(b"ends.with a carriage return\r")
@example(b"ends.without a line break")
@example(BEGIN.encode() + b"\nspark.master local\n")
@example(b"\r\n\n\r")
def test_any_file_comes_back_byte_for_byte(content: bytes) -> None:
    assume(not has_block(content))
    with tempfile.TemporaryDirectory() as folder:
        home = Home(root=Path(folder), conf=Path(folder) / "conf", pids=Path(folder) / "tmp")
        defaults = spark(Path(folder) / "spark")
        defaults.parent.mkdir()
        defaults.write_bytes(content)
        try:
            hook(defaults, home)
        except EnvironmentProblem:  # no properties file
            assert defaults.read_bytes() == content
            return
        hooked = defaults.read_bytes()
        assert hooked.startswith(content)
        assert hook(defaults, home) == f"{defaults} is hooked already"
        assert defaults.read_bytes() == hooked
        assert unhook(defaults, home) == f"Restored {defaults}"
        assert defaults.read_bytes() == content


@given(FILES)
def test_spark_reads_what_it_read_before_and_ours_beside_it(content: bytes) -> None:
    assume(not has_block(content))
    # A backslash at the very end continues the line into whatever is appended.
    assume(not content.endswith(b"\\"))
    with tempfile.TemporaryDirectory() as folder:
        home = Home(root=Path(folder), conf=Path(folder) / "conf", pids=Path(folder) / "tmp")
        defaults = spark(Path(folder) / "spark")
        defaults.parent.mkdir()
        defaults.write_bytes(content)
        try:
            before = values(defaults)
        except ValueError:
            return
        hook(defaults, home)
        after = values(defaults)
    plugins, class_path = after.pop(PLUGINS_KEY), after.pop(CLASS_PATH_KEY)
    theirs = before.pop(PLUGINS_KEY, ""), before.pop(CLASS_PATH_KEY, "")
    assert after == before
    assert plugins.split(",")[-1] == PLUGIN
    assert class_path.split(":")[-1] == f"{folder}/jars/spark-proxy-{SPARK_4}.jar"
    named = (named_in(theirs[0], ","), named_in(theirs[1], ":"))
    assert (plugins.split(",")[:-1], class_path.split(":")[:-1]) == named


def named_in(value: str, separator: str) -> list[str]:
    return [part.strip() for part in value.split(separator) if part.strip()]


def test_the_plugins_and_the_class_path_of_others_stay(defaults: Path, home: Home) -> None:
    defaults.write_text(
        "spark.plugins=org.example.One, org.example.Two\n"
        "spark.driver.extraClassPath  /opt/a b.jar:/opt/c.jar\n"
    )
    said = hook(defaults, home)
    assert said == f"Hooked {defaults}; its jobs follow {home.conf}/common.properties"
    jar = home.jars / f"spark-proxy-{SPARK_4}.jar"
    assert values(defaults) == {
        PLUGINS_KEY: f"org.example.One,org.example.Two,{PLUGIN}",
        CLASS_PATH_KEY: f"/opt/a b.jar:/opt/c.jar:{jar}",
    }


def test_a_plugin_that_somebody_named_by_hand_is_not_named_twice(
    defaults: Path, home: Home
) -> None:
    defaults.write_text(f"spark.plugins {PLUGIN}\n")
    hook(defaults, home)
    assert values(defaults)[PLUGINS_KEY] == PLUGIN


def test_a_jar_in_another_place_takes_the_place_of_the_old_one(
    defaults: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = b"spark.master local[2]"
    defaults.write_bytes(original)
    hook(defaults, home)
    set_jar(monkeypatch, "others")
    assert hook(defaults, home).startswith(f"Renewed the hook in {defaults}")
    text = defaults.read_text()
    assert (text.count(BEGIN), text.count(END)) == (1, 1)
    assert values(defaults)[CLASS_PATH_KEY] == f"{home.root}/others/spark-proxy-{SPARK_4}.jar"
    unhook(defaults, home)
    assert defaults.read_bytes() == original


def test_what_was_added_below_the_block_is_kept_and_counts(defaults: Path, home: Home) -> None:
    defaults.write_text("spark.master local")
    hook(defaults, home)
    with defaults.open("a") as file:
        file.write("spark.plugins org.example.Late\n")
    hook(defaults, home)
    assert values(defaults)[PLUGINS_KEY] == f"org.example.Late,{PLUGIN}"
    unhook(defaults, home)
    assert defaults.read_text() == "spark.master local\nspark.plugins org.example.Late\n"


def test_an_editor_that_changed_the_line_ends_leaves_nothing_of_ours(
    defaults: Path, home: Home
) -> None:
    defaults.write_text("spark.master local\n")
    hook(defaults, home)
    defaults.write_bytes(defaults.read_bytes().replace(b"\n", b"\r\n"))
    unhook(defaults, home)
    assert defaults.read_bytes() == b"spark.master local\r\n"


def test_uninstalling_where_nothing_is_changes_nothing(defaults: Path, home: Home) -> None:
    assert unhook(defaults, home) == f"{defaults} is not hooked"
    assert not defaults.exists()
    defaults.write_bytes(b"\xff\r\n")
    assert unhook(defaults, home) == f"{defaults} is not hooked"
    assert defaults.read_bytes() == b"\xff\r\n"


def test_a_folder_and_a_file_that_we_made_go_again(home: Home) -> None:
    defaults = spark(home.root / "spark")
    hook(defaults, home)
    unhook(defaults, home)
    assert [path.name for path in (home.root / "spark").iterdir()] == ["jars"]


def test_a_folder_that_we_made_stays_while_others_use_it(home: Home) -> None:
    defaults = spark(home.root / "spark")
    hook(defaults, home)
    theirs = defaults.with_name("log4j2.properties")
    theirs.touch()
    unhook(defaults, home)
    assert list(defaults.parent.iterdir()) == [theirs]


def test_an_empty_file_and_a_folder_that_were_there_stay(defaults: Path, home: Home) -> None:
    defaults.touch()
    hook(defaults, home)
    unhook(defaults, home)
    assert defaults.read_bytes() == b""
    defaults.unlink()
    hook(defaults, home)
    unhook(defaults, home)
    assert list(defaults.parent.iterdir()) == []


def test_a_folder_without_spark_is_refused_by_name(home: Home) -> None:
    with pytest.raises(EnvironmentProblem, match=f"There is no Spark in {home.root}/nowhere"):
        install_into(home.root / "nowhere", home)


def test_a_file_that_cannot_be_written_is_named(home: Home) -> None:
    defaults = spark(home.root / "spark")
    defaults.parent.write_text("a file where the folder should be")
    with pytest.raises(EnvironmentProblem, match=f"{defaults} cannot be read or written"):
        hook(defaults, home)


@pytest.fixture
def sparks(home: Home) -> list[SparkHome]:
    """Two of them, with a configuration folder that serves both."""
    homes = [home.root / "four", home.root / "three"]
    for folder, version in zip(homes, (SPARK_4, SPARK_3), strict=True):
        spark(folder, version)
    found = [SparkHome(folder) for folder in homes]
    write_conf(home, found)
    return found


def chosen(home: Home, spark_home: Path) -> "subprocess.CompletedProcess[str]":
    """What Spark's start scripts get of our folder: the configuration folder that counts."""
    script = f'set -e; . "{home.conf}/{ENVIRONMENT_NAME}"; echo "$SPARK_CONF_DIR"'
    return subprocess.run(
        ["bash", "-c", script],
        env=environment({"SPARK_HOME": str(spark_home), "SPARK_CONF_DIR": str(home.conf)}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_one_configuration_folder_serves_every_spark_with_its_own_jar(
    home: Home, sparks: list[SparkHome]
) -> None:
    folders = [Path(chosen(home, one.root).stdout.strip()) for one in sparks]
    assert folders == [home.conf, home.conf / f"spark-{SPARK_3}"]
    for folder, version in zip(folders, (SPARK_4, SPARK_3), strict=True):
        jar = home.jars / f"spark-proxy-{version}.jar"
        assert values(folder / DEFAULTS_NAME) == {PLUGINS_KEY: PLUGIN, CLASS_PATH_KEY: str(jar)}


def test_a_spark_that_the_folder_does_not_know_is_told_what_to_do(
    home: Home, sparks: list[SparkHome]
) -> None:
    assert len(sparks) == 2
    spark(home.root / "other", "4.0.1_2.13")
    ended = chosen(home, home.root / "other")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"Spark-Proxy is not set up for {home.root}/other. ")
