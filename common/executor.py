"""An executor JVM: Spark's own executor process behind a frame channel."""

import asyncio
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.awake import Awake
from common.channel import FrameChannel
from common.errors import SparkProxyError
from common.frames import PING, Frame, Kind
from common.logs import get_logger
from common.messages import Application, ExecutorLaunch
from common.security import TOKEN_VARIABLE, new_token

log = get_logger(__name__)
MAIN_CLASS = "org.apache.spark.external.ExternalExecutor"
# A JVM that has not fetched the driver's settings by then never will.
START_TIMEOUT_S = 60.0
# A JVM that says nothing for so long, not even to a ping, hangs: no collection of garbage takes
# that long. Spark itself waits for 120 s.
HUNG_S = 30.0
PING_S = 5.0
# Spark's own executors get 10 s from the standalone worker.
STOP_TIMEOUT_S = 10.0
# Spark's exit codes for a task's fault: org.apache.spark.util.SparkExitCode and
# ExecutorExitCode; uncaught exceptions, out of memory, killed by the task reaper.
APPLICATION_EXITS = frozenset({50, 51, 52, 57})


class ExecutorFailedToStart(SparkProxyError):
    """The JVM ended, or did not answer, before it could take tasks.

    Args:
        killed: whether somebody ended it by a signal, so that another one may well start.
    """

    def __init__(self, problem: str, log_file: Path, killed: bool = False) -> None:
        super().__init__(problem, log_file, killed)
        self.problem = problem
        self.log_file = log_file
        self.killed = killed

    def __str__(self) -> str:
        return f"the executor did not start: {self.problem}; see {self.log_file}"


@dataclass(frozen=True)
class ExecutorPlan:
    """What an executor JVM is started with."""

    application: Application
    executor: int
    host: str
    slots: int
    java: Path
    spark_home: Path
    jar: Path
    scratch: Path
    logs: Path
    pythons: dict[str, str]
    max_frame_bytes: int

    def command(self) -> list[str]:
        request = self.application.executor
        options = request.java_options.replace("{{APP_ID}}", self.application.id)
        options = options.replace("{{EXECUTOR_ID}}", str(self.executor))
        parts = [request.class_path, str(self.jar), f"{self.spark_home}/jars/*"]
        parts.append(os.environ.get("HADOOP_CONF_DIR", ""))
        class_path = ":".join(part for part in parts if part)
        # Native libraries are unpacked into the temporary folder, and a JVM that is killed
        # leaves them there.
        jvm = [str(self.java), f"-Xmx{request.memory_mb}m", f"-Djava.io.tmpdir={self.scratch}"]
        return [*jvm, *shlex.split(options), "-cp", class_path, MAIN_CLASS]

    def environment(self) -> dict[str, str]:
        request = self.application.executor
        library_path = (request.library_path, os.environ.get("LD_LIBRARY_PATH", ""))
        environment = {
            **os.environ,
            **request.environment,
            "SPARK_HOME": str(self.spark_home),
            "SPARK_EXECUTOR_DIRS": str(self.scratch),
            "LD_LIBRARY_PATH": ":".join(path for path in library_path if path),
        }
        # Our own environment's Python path is not for the tasks; the application's is.
        if "PYTHONPATH" not in request.environment:
            environment.pop("PYTHONPATH", None)
        # Tasks are other people's code.
        environment.pop(TOKEN_VARIABLE, None)
        return environment

    def launch(self, port: int, token: str) -> ExecutorLaunch:
        return ExecutorLaunch(
            executor=self.executor,
            application=self.application.id,
            driver_url=self.application.driver_url,
            host=self.host,
            slots=self.slots,
            channel_port=port,
            channel_token=token,
            conf=self.application.executor.conf,
            pythons=self.pythons,
        )


class ExecutorProcess:
    """One executor JVM, from its start to its end."""

    def __init__(self, plan: ExecutorPlan, on_frames: Callable[[list[Frame]], None]) -> None:
        self._plan = plan
        self._on_frames = on_frames
        self._ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._channel: FrameChannel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._heard = 0.0

    @property
    def log_file(self) -> Path:
        return self._plan.logs / "stderr"

    async def start(self) -> int:
        """Starts the JVM and returns the port of its block manager.

        Raises:
            ExecutorFailedToStart: nothing of it is left behind then.
        """
        token = new_token()
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: self._open_channel(token), "127.0.0.1", 0)
        try:
            port = listener.sockets[0].getsockname()[1]
            self._process = await self._spawn()
            assert self._process.stdin is not None
            launch = self._plan.launch(port, token).model_dump_json()
            self._process.stdin.write(launch.encode() + b"\n")
            return await self._wait_ready(self._process)
        except (OSError, ExecutorFailedToStart) as error:
            await self.stop(0)
            if isinstance(error, ExecutorFailedToStart):
                raise
            raise ExecutorFailedToStart(str(error), self.log_file) from error
        finally:
            listener.close()

    def send(self, data: bytes) -> None:
        if self._channel is not None:
            self._channel.send(data)

    async def ended(self) -> int:
        """Waits for the JVM to end and clears what it leaves; returns its exit code.

        One that hangs is ended.
        """
        assert self._process is not None
        watching = asyncio.create_task(self._watch(self._process))
        try:
            code = await self._process.wait()
        finally:
            watching.cancel()
        self._kill_group(self._process)
        await asyncio.to_thread(shutil.rmtree, self._plan.scratch, ignore_errors=True)
        return code

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ends the JVM: SIGTERM lets Spark clear up, then SIGKILL."""
        if self._process is None:
            return
        if self._process.returncode is None and timeout_s:
            self._process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), timeout_s)
        self._kill_group(self._process)
        await self.ended()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        loop, awake = asyncio.get_running_loop(), Awake(HUNG_S)
        self._heard = loop.time()
        while True:
            self.send(PING)
            await asyncio.sleep(PING_S)
            if awake.all_the_time() and loop.time() - self._heard > HUNG_S:
                log.warning("executor.hung", executor=self._plan.executor, silent_s=HUNG_S)
                self._kill_group(process)

    def _kill_group(self, process: asyncio.subprocess.Process) -> None:
        # The JVM leads a session of its own, and its Python workers are in it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._plan.scratch.mkdir(parents=True, exist_ok=True)
        self._plan.logs.mkdir(parents=True, exist_ok=True)
        with (self._plan.logs / "stdout").open("ab") as out, self.log_file.open("ab") as err:
            return await asyncio.create_subprocess_exec(
                *self._plan.command(),
                env=self._plan.environment(),
                cwd=self._plan.scratch,
                stdin=asyncio.subprocess.PIPE,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> int:
        exit_ = asyncio.ensure_future(process.wait())
        done, _ = await asyncio.wait(
            {self._ready, exit_}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if self._ready in done:
            exit_.cancel()
            return self._ready.result()
        if exit_ in done:
            code = exit_.result()
            raise ExecutorFailedToStart(f"exit status {code}", self.log_file, killed=code < 0)
        exit_.cancel()
        raise ExecutorFailedToStart(f"no answer in {START_TIMEOUT_S:.0f} s", self.log_file)

    def _open_channel(self, token: str) -> FrameChannel:
        def take(frames: list[Frame]) -> None:
            self._take(channel, frames)

        channel = FrameChannel(self._plan.max_frame_bytes, take, lambda: None, token)
        return channel

    def _take(self, channel: FrameChannel, frames: list[Frame]) -> None:
        self._heard = asyncio.get_running_loop().time()
        if frames[0].kind == Kind.READY and not self._ready.done():
            # Only now: whoever connects to this port first need not be our JVM.
            self._channel = channel
            self._ready.set_result(int(frames.pop(0).payload))
        if told := [frame for frame in frames if frame.kind != Kind.PING]:
            self._on_frames(told)
