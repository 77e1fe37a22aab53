"""What the machine of a worker has to lend."""

import os
import re
import shutil
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from common.errors import EnvironmentProblem
from common.messages import Application
from common.python import python_version

# The owner keeps a fifth of the memory unless the settings say otherwise.
LENT_SHARE = 0.8
_PYTHON_NAME = re.compile(r"python3(\.\d+)?")


def slots(configured: int) -> int:
    return configured or len(os.sched_getaffinity(0))


def memory_mb(configured: int) -> int:
    """`worker.memory.mb`, else four fifths of the machine's memory."""
    return configured or int(psutil.virtual_memory().total * LENT_SHARE) // 2**20


def reachable_host(configured: str, dispatcher_url: str) -> str:
    """Under which name others reach this machine.

    `worker.host`, else the address that the way to the dispatcher starts from: one per
    network namespace, and loopback where the whole pool is on loopback.
    """
    if configured:
        return configured
    target = urlsplit(dispatcher_url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing; it only finds the route.
            probe.connect((target.hostname or "", target.port or 80))
        except OSError as error:
            raise EnvironmentProblem(
                f"No way to the dispatcher {dispatcher_url}: {error}",
                "Give another one with --dispatcher, or set worker.host",
            ) from error
        address = str(probe.getsockname()[0])
    return "localhost" if address.startswith("127.") else address


def pythons(configured: tuple[str, ...]) -> dict[str, str]:
    """Path of an interpreter for each minor version: those named, else those found.

    Raises:
        EnvironmentProblem: a named one does not run.
    """
    found: dict[str, str] = {}
    for path in configured or _on_path():
        version = python_version(path)
        if version is not None:
            found.setdefault(version, path)
        elif configured:
            raise EnvironmentProblem(f"{path} is no Python that runs", "Correct worker.pythons")
    return found


def python_for(app: Application, lent: dict[str, str], named: bool) -> dict[str, str]:
    """The interpreters that an application's tasks run with, by version.

    The driver's own, where that path is one here too, so that a job finds the libraries of
    its environment on a shared disk or machine; else this machine's of the same version.

    Args:
        lent: this machine's interpreters.
        named: whether the owner named them, and wants no other to run.
    """
    if app.python is None or named or not os.access(app.python_path, os.X_OK):
        return lent
    return lent | {app.python: app.python_path}


def _on_path() -> Iterable[str]:
    """`python3` first, which is what Spark itself would take; then each `python3.N`."""
    if (default := shutil.which("python3")) is not None:
        yield default
    for folder in os.get_exec_path():
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        yield from (str(Path(folder, name)) for name in names if _PYTHON_NAME.fullmatch(name))
    yield sys.executable
