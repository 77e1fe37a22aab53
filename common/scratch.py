"""Working folders of executors: each belongs to one process, and goes with it.

A process that is killed cannot clear up. Whoever starts next beside it does: the owner holds a
lock on a file next to its folder, which the kernel releases with the process.
"""

import fcntl
import os
import shutil
from pathlib import Path

LOCK_SUFFIX = ".lock"


class Scratch:
    """A folder of this process in `parent`; those whose owner is gone are removed on the way."""

    def __init__(self, parent: Path, name: str) -> None:
        self.folder = parent / name
        self._lock = _lock_of(self.folder)
        parent.mkdir(parents=True, exist_ok=True)
        for lock in parent.glob(f"*{LOCK_SUFFIX}"):
            _remove_if_left(lock)
        self._descriptor = _locked(self._lock)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.unlink(missing_ok=True)
        os.close(self._descriptor)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK_SUFFIX)


def _locked(lock: Path) -> int:
    while True:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Another process may have taken the file for a left one before it was locked.
        if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
            return descriptor
        os.close(descriptor)


def _remove_if_left(lock: Path) -> None:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock.with_name(lock.name.removesuffix(LOCK_SUFFIX)), ignore_errors=True)
        lock.unlink(missing_ok=True)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)
