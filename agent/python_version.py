"""Which Python a PySpark driver runs: its tasks need the same minor version."""

import re
import subprocess
from collections.abc import Iterable

import psutil

# What spark-submit names on the JVM's command line when the driver is a Python program.
_PYTHON_JOB = re.compile(r"(\.py|^pyspark-shell)$")
_VERSIONED = re.compile(r"python(3\.\d+)$")
_TELL_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def driver_python(driver_pid: int, own_pid: int) -> str | None:
    """`3.11` for a PySpark driver, none for a JVM one.

    The interpreter is a child of the JVM after `spark-submit job.py`, and its parent after
    `python job.py`.
    """
    driver = psutil.Process(driver_pid)
    if not any(_PYTHON_JOB.search(part) for part in driver.cmdline()):
        return None
    nearby = [*driver.parents()[:2], *driver.children()]
    versions = (_version(process) for process in nearby if process.pid != own_pid)
    return next((version for version in versions if version is not None), None)


def _version(process: psutil.Process) -> str | None:
    try:
        executable = process.exe()
    except psutil.Error:
        return None
    if match := _VERSIONED.search(executable):
        return match[1]
    return _asked([executable]) if "python" in executable.rpartition("/")[2] else None


def _asked(interpreter: Iterable[str]) -> str | None:
    told = subprocess.run(
        [*interpreter, "-c", _TELL_VERSION], capture_output=True, text=True, check=False, timeout=10
    )
    return told.stdout.strip() or None
