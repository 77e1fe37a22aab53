"""Which Python a PySpark driver runs: its tasks need the same minor version."""

import re
import shutil
from dataclasses import dataclass

import psutil

from common.python import python_version

# What spark-submit names on the JVM's command line when the driver is a Python program.
_PYTHON_JOB = re.compile(r"(\.py|^pyspark-shell)$")
_VERSIONED = re.compile(r"python(3\.\d+)$")


@dataclass(frozen=True)
class DriverPython:
    """The interpreter that a driver means its tasks to run with."""

    version: str
    """`3.11`"""
    path: str
    """Where it is on the driver's machine, empty where it is not found."""


def driver_python(driver_pid: int, own_pid: int) -> DriverPython | None:
    """The Python of a PySpark driver, none for a JVM one.

    The interpreter is a child of the JVM after `spark-submit job.py`, and its parent after
    `python job.py`.
    """
    driver = psutil.Process(driver_pid)
    if not any(_PYTHON_JOB.search(part) for part in driver.cmdline()):
        return None
    nearby = [process for process in driver.children() if process.pid != own_pid]
    # Between `python job.py` and its JVM there is spark-submit's shell, at most.
    nearby += driver.parents()[:2]
    for process in nearby:
        if (version := _version(process)) is not None:
            return DriverPython(version, _path(process))
    return None


def _version(process: psutil.Process) -> str | None:
    try:
        executable = process.exe()
    except psutil.Error:
        return None
    if match := _VERSIONED.search(executable):
        return match[1]
    return python_version(executable) if "python" in executable.rpartition("/")[2] else None


def _path(process: psutil.Process) -> str:
    """What PySpark will name in each task, found the way that process would find it."""
    environment = process.environ()
    name = environment.get("PYSPARK_PYTHON") or "python3"
    return shutil.which(name, path=environment.get("PATH")) or ""
