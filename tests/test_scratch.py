"""Working folders go with their owner, or by the hand of whoever comes next."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.scratch import Scratch
from tests.services import ROOT

OWNER = """
import sys
from pathlib import Path
from common.scratch import Scratch

scratch = Scratch(Path(sys.argv[1]), sys.argv[2])
(scratch.folder / "blocks").mkdir(parents=True)
(scratch.folder / "blocks" / "one").write_text("data")
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def owner(parent: Path, name: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that has a folder, until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(parent), name],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def names(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


def test_folder_of_a_dead_owner_is_removed_by_the_next_one_and_no_living_ones(
    tmp_path: Path,
) -> None:
    parent = tmp_path / "executors"
    with owner(parent, "killed") as killed, owner(parent, "living"):
        both = ["killed", "killed.lock", "living", "living.lock"]
        Scratch(parent, "third").remove()
        assert names(parent) == both, "both live"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert names(parent) == both, "who is killed clears nothing up"
        next_one = Scratch(parent, "next")
        try:
            assert names(parent) == ["living", "living.lock", "next.lock"]
            assert (parent / "living" / "blocks" / "one").read_text() == "data"
        finally:
            next_one.remove()
        assert names(parent) == ["living", "living.lock"]


def test_folder_of_this_process_is_not_taken_for_one_that_is_left(tmp_path: Path) -> None:
    one = Scratch(tmp_path, "one")
    one.folder.mkdir()
    other = Scratch(tmp_path, "other")
    assert one.folder.is_dir()
    for scratch in (one, other):
        scratch.remove()
    assert names(tmp_path) == []


def test_name_of_a_dead_owner_can_be_taken_again(tmp_path: Path) -> None:
    with owner(tmp_path, "agent") as killed:
        killed.kill()
        killed.wait()
        scratch = Scratch(tmp_path, "agent")
    assert names(tmp_path) == ["agent.lock"]
    scratch.remove()
    assert names(tmp_path) == []


def test_folders_without_a_lock_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "unknown").mkdir()
    Scratch(tmp_path, "mine").remove()
    assert names(tmp_path) == ["unknown"]
