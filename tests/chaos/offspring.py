"""The processes that this process has started, directly or not, and no others."""

import ctypes
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import psutil

from common.executor import MAIN_CLASS

# prctl's number for it, in <linux/prctl.h>.
PR_SET_CHILD_SUBREAPER = 36
AGENT = ["-m", "agent"]
END_S = 10.0


def keep_offspring() -> None:
    """From now on whoever loses its parent becomes a child of this process.

    What a killed service leaves behind is then found and ended like all else.
    """
    failed = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if failed:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def end_on_signals() -> None:
    """SIGTERM and SIGHUP unwind the stack as Ctrl-C does."""

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def offspring(of: int | None = None) -> list[psutil.Process]:
    """All that live now, the oldest first; by default those of this process."""
    try:
        family = psutil.Process(of).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    living = [process for process in family if lives(process)]
    return sorted(living, key=lambda process: (process.create_time(), process.pid))


def executors(of: int | None = None) -> list[psutil.Process]:
    """Executor JVMs of ours."""
    return [process for process in offspring(of) if MAIN_CLASS in _command(process)]


def agents(of: int | None = None) -> list[psutil.Process]:
    return [process for process in offspring(of) if _command(process)[-2:] == AGENT]


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Sends a signal; psutil sees to it that the pid is still that process's."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def end_all(timeout_s: float = END_S) -> list[str]:
    """Kills whatever is left; returns the command lines of what was there."""
    deadline = time.monotonic() + timeout_s
    found: dict[int, str] = {}
    # A process may start another while we look, so that looking once is not enough.
    while (left := offspring()) and time.monotonic() < deadline:
        for process in left:
            found.setdefault(process.pid, " ".join(_command(process))[:200])
            send(process, signal.SIGKILL)
        psutil.wait_procs(left, 1.0)
    return list(found.values())


def lives(process: psutil.Process) -> bool:
    """Whether it runs: one that only waits for its parent to ask for its end does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
