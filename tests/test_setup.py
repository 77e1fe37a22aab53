"""`setup.sh`: what it installs and when, with a Python that only writes down what it is told."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installations import Installation, installation
from tests.services import ROOT

# $CALLS: where it writes; $BROKEN: the package that pip cannot install.
PYTHON = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
  *" install "*"${BROKEN:-nothing is}"*) echo "pip: no such package"; exit 1 ;;
  *has-spark) exit "${HAS_SPARK:-0}" ;;
  *" --target "*) mkdir -p "$6" ;;
esac
"""
PIP = "-m pip install --disable-pip-version-check"


class Setup:
    """A home whose environment is that Python."""

    def __init__(self, home: Installation) -> None:
        self.home = home
        self._calls = home.root / "calls"
        for name in ("venv", "spark"):
            (home.root / name).unlink()
        python = home.root / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(PYTHON)
        python.chmod(0o755)

    def installed(self, *arguments: str, **env: str) -> list[str]:
        """What a run gave to pip."""
        self._calls.unlink(missing_ok=True)
        self.home.script("setup.sh", *arguments, CALLS=str(self._calls), **env).succeeded()
        calls = self._calls.read_text().splitlines()
        assert calls[-1] == "-m common.install conf"
        return [call.removeprefix(f"{PIP} ") for call in calls if call.startswith(PIP)]

    def failure(self, *arguments: str, **env: str) -> str:
        ended = self.home.script("setup.sh", *arguments, CALLS=str(self._calls), **env)
        assert ended.code == 1
        return ended.err


PROJECT = f"-e {shlex.quote(str(ROOT))}"


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    with installation(tmp_path) as home:
        yield Setup(home)


def spark(setup: Setup, version: str) -> str:
    folder = setup.home.root / "spark" / version
    return f"--target {folder} pyspark=={version}"


def test_a_second_run_installs_nothing(setup: Setup) -> None:
    first = setup.installed("--spark", "4.3.0", "--spark", "3.5.9")
    assert first == [PROJECT, spark(setup, "4.3.0"), spark(setup, "3.5.9")]
    assert setup.installed("--spark", "4.3.0", "--spark", "3.5.9") == []
    assert setup.installed() == []


def test_what_the_tests_need_includes_the_rest(setup: Setup) -> None:
    assert setup.installed("--test") == [f"{PROJECT}[test]"]
    assert setup.installed("--test") == []
    assert setup.installed() == []


def test_what_the_tests_need_is_added_to_the_rest(setup: Setup) -> None:
    assert setup.installed() == [PROJECT]
    assert setup.installed("--test") == [f"{PROJECT}[test]"]


def test_an_environment_that_was_moved_is_installed_again_and_a_link_is_not(setup: Setup) -> None:
    setup.installed()
    root = setup.home.root
    (root / "venv").rename(root / "moved")
    (root / "venv").symlink_to("moved")
    assert setup.installed() == [PROJECT]
    (root / "venv").unlink()
    (root / "venv").symlink_to(root / "moved")
    assert setup.installed() == []


def test_spark_comes_by_itself_only_where_there_is_none(setup: Setup) -> None:
    assert setup.installed() == [PROJECT]
    assert setup.installed(HAS_SPARK="1") == [spark(setup, "4.3.0")]


def test_a_spark_whose_installation_broke_off_is_installed_again(setup: Setup) -> None:
    setup.installed()
    half = setup.home.root / "spark" / "4.3.0" / "pyspark"
    half.mkdir(parents=True)
    failure = setup.failure("--spark", "4.3.0", BROKEN="pyspark")
    log = setup.home.logs / "setup.log"
    assert failure == f"pip: no such package\nSpark 4.3.0 could not be installed: see {log}\n"
    assert not half.exists()
    assert setup.installed("--spark", "4.3.0") == [spark(setup, "4.3.0")]


def test_a_project_that_could_not_be_installed_is_tried_again(setup: Setup) -> None:
    failure = setup.failure(BROKEN=str(ROOT))
    log = setup.home.logs / "setup.log"
    assert failure.endswith(f"\nThe project could not be installed: see {log}\n")
    assert setup.installed() == [PROJECT]


@pytest.mark.parametrize("words", [("--spark",), ("--tests",), ("4.3.0",)])
def test_a_wrong_option_is_one_sentence_and_status_2(setup: Setup, words: tuple[str, ...]) -> None:
    assert setup.home.script("setup.sh", *words).sentence
