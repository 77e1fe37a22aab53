"""The slots inside: an executor on the driver's own machine, for `hybrid` and the fallback."""

from pathlib import Path

from agent.driver import Driver
from common.errors import ConfigurationError
from common.executor import APPLICATION_EXITS, ExecutorFailedToStart, ExecutorPlan, ExecutorProcess
from common.frames import Frame, Kind
from common.logs import get_logger
from common.messages import Application, DriverApplication
from common.scratch import Scratch
from common.settings import Home, Settings
from common.shim import shim_jar
from common.spark import SparkHome, find_java

log = get_logger(__name__)


class InsideExecutor:
    """One executor JVM beside the driver, with the slots that `local[N]` would have had.

    The agent feeds it as a worker would.
    """

    def __init__(
        self,
        driver: Driver,
        described: DriverApplication,
        application: Application,
        home: Home,
        settings: Settings,
    ) -> None:
        self._driver = driver
        self._described = described
        self._application = application
        self._home = home
        self._settings = settings
        self._process: ExecutorProcess | None = None
        self._id = 0
        self._resumed = False
        self._draining = False
        self._taken = 0

    def owns(self, executor: int) -> bool:
        return self._process is not None and executor == self._id

    def take(self, frame: Frame) -> None:
        """Hands it a frame of the driver; what comes before RESUME comes again after it."""
        if frame.kind == Kind.RESUME:
            self._resumed = True
        elif frame.kind == Kind.ACK or not self._resumed or self._process is None:
            return
        elif frame.sequence > self._taken:
            # What was late is repeated, as for any executor.
            self._taken = frame.sequence
            self._process.send(frame.raw)

    async def run(self) -> None:
        """One life, from its start until Spark has been told of its end."""
        self._id = await self._driver.reserve_executor_ids(1)
        self._resumed = self._draining = False
        self._taken = 0
        scratch = Scratch(self._home.executors, f"inside-{self._described.key}")
        try:
            await self._live(scratch.folder)
        finally:
            scratch.remove()

    async def _live(self, scratch: Path) -> None:
        try:
            self._process = ExecutorProcess(self._plan(scratch), self._collect)
            port = await self._process.start()
        except (ExecutorFailedToStart, ConfigurationError) as error:
            self._process = None
            await self._driver.warn(f"The slots inside cannot be used: {error}")
            return
        slots = self._described.local_slots
        try:
            await self._driver.register_executor(self._id, self._host, port, slots, True)
            log.info("inside.ready", executor=self._id, slots=slots)
            code = await self._process.ended()
        finally:
            await self._process.stop(0)
            self._process = None
        reason = f"the executor inside ended with exit status {code}"
        await self._driver.remove_executor(self._id, reason, code in APPLICATION_EXITS)

    async def drain(self) -> None:
        """Lets it finish what it runs, hand its blocks to the others, and end."""
        if self._resumed and not self._draining:
            self._draining = True
            await self._driver.drain_executor(self._id, "the pool is back")

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()

    @property
    def _host(self) -> str:
        """The host in `spark://CoarseGrainedScheduler@host:port`."""
        return self._described.driver_url.rpartition("@")[2].rpartition(":")[0]

    def _collect(self, frames: list[Frame]) -> None:
        self._driver.send(b"".join([frame.raw for frame in frames]))

    def _plan(self, scratch: Path) -> ExecutorPlan:
        described = self._described
        spark = SparkHome(Path(described.spark_home))
        return ExecutorPlan(
            application=self._application,
            executor=self._id,
            host=self._host,
            slots=described.local_slots,
            java=find_java(),
            spark_home=spark.root,
            jar=shim_jar(spark, self._home.jars),
            scratch=scratch / str(self._id),
            logs=self._home.app_logs(described.id) / str(self._id),
            # The driver's own interpreter is on this very machine: its path is right as it is.
            pythons={},
            max_frame_bytes=self._settings.frame_max_bytes,
        )
