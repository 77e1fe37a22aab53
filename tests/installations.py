"""Installations of ours as a user has them, in which the tests run the scripts of `sbin/`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.messages import PoolStatus
from common.settings import FILE_NAME
from tests.cluster import QUICK_JAVA, SPARK_4, spark_home
from tests.services import HOST, ROOT, environment, free_port, wait_for

SBIN = ROOT / "sbin"
COMMAND = Path(sys.prefix) / "bin" / "spark-proxy"
# Starting a pool takes 10 s on a quiet machine with two cores, a job as long.
TIMEOUT_S = 240.0
# A process that was told to end is seen in /proc until its parent has collected it.
END_TIMEOUT_S = 10.0
DRIVER = "STARTED_AS_DRIVER"


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def succeeded(self) -> "Ended":
        assert self.code == 0, f"exit status {self.code}\n{self.out[-3000:]}\n{self.err[-6000:]}"
        return self

    @property
    def sentence(self) -> str:
        """The one line on standard error of a command that was wrongly configured."""
        assert self.code == 2, (self.code, self.out, self.err)
        (line,) = self.err.splitlines()
        return line


@dataclass(frozen=True)
class Installation:
    """A home of its own, with the environment, the jars and the Sparks of the checkout."""

    root: Path
    scratch: Path
    """What Java and Python take for /tmp."""

    @property
    def conf(self) -> Path:
        return self.root / "conf"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def configure(self, **settings: object) -> None:
        """These settings beside the ports, which are nobody else's."""
        keys = {key.replace("_", "."): value for key, value in settings.items()}
        values = {"redis.port": free_port(), "dispatcher.port": free_port()} | keys
        lines = (f"{key}={value}" for key, value in values.items())
        (self.conf / FILE_NAME).write_text("\n".join(lines) + "\n")

    def env(self, **extra: str) -> dict[str, str]:
        java = f"{QUICK_JAVA} -Djava.io.tmpdir={self.scratch}"
        return environment(
            {
                "EXTERNAL_SPARK_HOME": str(self.root),
                "SPARK_LOCAL_IP": "127.0.0.1",
                "PYSPARK_PYTHON": sys.executable,
                "TMPDIR": str(self.scratch),
                "JAVA_TOOL_OPTIONS": java,
                **extra,
            }
        )

    def run(self, command: Sequence[str | Path], **extra: str) -> Ended:
        told = subprocess.run(
            [str(word) for word in command],
            env=self.env(**extra),
            cwd=self.scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Ended(told.returncode, told.stdout, told.stderr)

    def script(self, name: str, *arguments: str | Path, **extra: str) -> Ended:
        return self.run(["bash", SBIN / name, *arguments], **extra)

    def status(self) -> PoolStatus:
        told = self.run([COMMAND, "status", "--json"]).succeeded()
        return PoolStatus.model_validate_json(told.out)

    def pid(self, service: str) -> int:
        """Of a running service, such as `worker-1`."""
        return int((self.tmp / f"{service}.pid").read_text())

    def url(self, service: str) -> str:
        return str(json.loads((self.tmp / f"{service}.ready").read_text())["url"])

    def processes(self, name: str = "") -> list[psutil.Process]:
        """The living ones that belong here, drivers that the test started left out."""
        return [
            process
            for process, variables in _environments()
            if self._owns(process, variables)
            and DRIVER not in variables
            and name in process.info["name"]
        ]

    def _owns(self, process: psutil.Process, variables: dict[str, str]) -> bool:
        # A redis-server writes its title over its environment.
        title = f"redis-server {HOST}:{self.setting('redis.port')}"
        return self._marked(variables) or title in " ".join(process.info["cmdline"])

    def _marked(self, variables: dict[str, str]) -> bool:
        return variables.get("EXTERNAL_SPARK_HOME") == str(self.root)

    def setting(self, key: str) -> str:
        lines = (self.conf / FILE_NAME).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line)[key]

    def kill(self) -> None:
        """Ends whatever was started with this home, drivers too; a Redis ends with its parent."""
        for process, variables in _environments():
            if self._marked(variables):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def traces(self) -> list[str]:
        """Processes, pid files, sockets and scratch files that are there."""
        files = [*self.tmp.rglob("*"), *self.scratch.iterdir()]
        files += [path for path in self.root.rglob("*") if path.is_socket()]
        return [*map(str, self.processes()), *map(str, files)]

    def is_left_clean(self) -> bool:
        with suppress(AssertionError):
            wait_for(lambda: not self.processes(), END_TIMEOUT_S)
        traces = self.traces()
        assert not traces, "\n".join(["left:", *traces])
        return True

    @contextmanager
    def driver(self, job: Path, **extra: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A driver that runs while the block lasts, with a /tmp of its own."""
        tmp = self.root.parent / "driver"
        tmp.mkdir()
        java = f"{QUICK_JAVA} -Djava.io.tmpdir={tmp}"
        more = {DRIVER: "1", "TMPDIR": str(tmp), "JAVA_TOOL_OPTIONS": java, **extra}
        command = [str(spark_home(SPARK_4) / "bin" / "spark-submit"), str(job)]
        with (tmp / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=self.env(**more),
                cwd=tmp,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environments() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    for process in psutil.process_iter(["name", "cmdline"]):
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process, process.environ()


@contextmanager
def installation(folder: Path, **settings: object) -> Iterator[Installation]:
    """An installation on which nothing runs before and after."""
    home = Installation(folder / "home", folder / "scratch")
    for made in (home.conf, home.scratch):
        made.mkdir(parents=True)
    for name in ("jars", "spark"):
        (home.root / name).symlink_to(ROOT / name)
    (home.root / "venv").symlink_to(sys.prefix)
    home.configure(**settings)
    try:
        yield home
    finally:
        home.script("stop-all.sh", "--local")
        home.kill()
