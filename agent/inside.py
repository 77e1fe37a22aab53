"""The slots inside: an executor on the driver's own machine, for `hybrid` and the fallback."""

from collections.abc import Callable
from pathlib import Path

from common.executor import ExecutorPlan, ExecutorProcess
from common.frames import Frame
from common.messages import Application, DriverApplication
from common.settings import Home, Settings
from common.shim import shim_jar
from common.spark import SparkHome, find_java


def inside_executor(
    described: DriverApplication,
    application: Application,
    executor: int,
    home: Home,
    settings: Settings,
    on_frames: Callable[[list[Frame]], None],
) -> ExecutorProcess:
    """An executor with the slots that `local[N]` would have had, not started yet."""
    spark = SparkHome(Path(described.spark_home))
    name = f"inside-{described.key}-{executor}"
    plan = ExecutorPlan(
        application=application,
        executor=executor,
        host=driver_host(described.driver_url),
        slots=described.local_slots,
        java=find_java(),
        spark_home=spark.root,
        jar=shim_jar(spark, home.jars),
        scratch=home.tmp / "executors" / name,
        logs=home.app_logs(described.id) / str(executor),
        # The driver's own interpreter is on this very machine: its path is right as it is.
        pythons={},
        max_frame_bytes=settings.frame_max_bytes,
    )
    return ExecutorProcess(plan, on_frames)


def driver_host(driver_url: str) -> str:
    """The host in `spark://CoarseGrainedScheduler@host:port`."""
    return driver_url.rpartition("@")[2].rpartition(":")[0]

