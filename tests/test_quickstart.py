"""`quickstart.sh`, as a newcomer runs it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.quickstart import PARTITIONS
from tests.installations import Installation, installation

# A row of the last table: worker, pid, slots, tasks.
ROW = re.compile(r"^ *\S+ +(?P<pid>\d+) +(?P<slots>\d+) +(?P<tasks>\d+) *$", re.MULTILINE)
OLD_JAVA = "#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path) as made:
        yield made


def refusal(home: Installation, **env: str) -> str:
    """The one sentence of a quickstart that does not begin."""
    ended = home.script("quickstart.sh", **env)
    sentence = ended.sentence
    assert ended.out == ""
    assert not home.tmp.exists()
    return sentence


@pytest.mark.slow
def test_it_shows_pi_and_who_ran_how_much_and_leaves_nothing(home: Installation) -> None:
    ended = home.script("quickstart.sh", COLUMNS="80").succeeded()
    assert "\nPi is roughly 3.1" in ended.out
    rows = list(ROW.finditer(ended.out.partition("Who ran it")[2]))
    assert len(rows) == 2, ended.out
    assert {row["slots"] for row in rows} == {"1"}
    assert sum(int(row["tasks"]) for row in rows) == PARTITIONS == 20
    # All was there, as it is in a second run; what is installed or built is said and logged.
    steps = [line.split()[1] for line in ended.out.splitlines() if line.startswith("==> ")]
    assert steps == ["Starting", "Submitting", "Stopping"]
    assert [log.read_bytes() for log in home.logs.rglob("setup.log")] == [b"", b""]
    assert home.is_left_clean()


def test_a_java_home_without_java_is_named(home: Installation) -> None:
    sentence = refusal(home, JAVA_HOME=str(home.root / "nowhere"))
    java = home.root / "nowhere" / "bin" / "java"
    assert sentence.startswith(f"Java 17 or newer is needed, and '{java}' is none. Install it ")
    assert sentence.endswith("or set JAVA_HOME to it")


def test_a_java_that_is_too_old_is_named_with_its_version(home: Installation) -> None:
    java = home.root / "old" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(OLD_JAVA)
    java.chmod(0o755)
    sentence = refusal(home, JAVA_HOME=str(home.root / "old"))
    assert sentence.startswith(f"Java 17 or newer is needed, and '{java}' is 11. Install it ")


def test_a_python_that_does_not_run_is_named(home: Installation) -> None:
    false = next(
        path for folder in os.get_exec_path() if (path := Path(folder) / "false").exists()
    )
    assert refusal(home, PYTHON=str(false)) == f"PYTHON ({false}) is not Python 3.11 or newer"
