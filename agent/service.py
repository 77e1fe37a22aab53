"""The agent as a process: finds dispatchers, forwards tasks, tells Spark of executors."""

import asyncio
import math
import os
from contextlib import suppress

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Gauge

from agent.dispatchers import Dispatchers
from agent.driver import Driver, DriverAddress, DriverError
from agent.executors import Executors
from agent.fallback import Emptiness
from agent.inside import InsideExecutor
from agent.link import DispatcherLink
from agent.python_version import driver_python
from agent.results import new_results_app
from common.awake import Awake
from common.client import new_client
from common.errors import EnvironmentProblem, UnreachableError
from common.frames import Frame, Kind, encode
from common.logs import configure, get_logger
from common.messages import (
    AgentEvent,
    Application,
    DriverApplication,
    ExecutorDraining,
    ExecutorLost,
    ExecutorReady,
    PoolChanged,
    WorkerRefused,
)
from common.registry import Registry
from common.security import pool_token
from common.service import HttpServer, Service
from common.settings import Destination, Home, Settings

log = get_logger(__name__)
# How often everybody is pinged, and what is silent or empty is judged.
TICK_S = 1.0
GOODBYE_S = 5.0
INSIDE_RETRY_S = 5.0
SYNC = encode(Kind.SYNC)


class AgentService(Service):
    """One application's agent."""

    # Ctrl-C in a shell of Spark's cancels a job there.
    interruptible = False

    def __init__(self, settings: Settings, home: Home, address: DriverAddress) -> None:
        self._settings = settings
        self._home = home
        self._driver = Driver(address, settings.frame_max_bytes)
        self._results_token = address.results_token
        self._executors = Executors(self._driver, settings.heartbeat)
        app = new_results_app(
            settings, self._results_token, self._metrics(), self._driver.send, self._executors
        )
        self.server = _server(app, settings.agent_host, address.results_port)
        self._registry = Registry(settings, home)
        self._client = new_client(pool_token(settings, home))
        self._dispatchers = Dispatchers(
            settings,
            self._registry,
            self._client,
            self._driver,
            self._executors,
            self._on_event,
            self._promise,
        )
        self._inside: InsideExecutor
        self._inside_life: asyncio.Task[None] | None = None
        self._fallen_back = False
        self._emptiness = Emptiness(settings, self._driver, self._fall_back)
        self._described: DriverApplication
        self._application: Application

    async def startup(self) -> None:
        await self._driver.listens(self.server.port)
        self._described = await self._driver.application()
        self._executors.inherit(self._described.executors)
        self._application = self._describe()
        self._inside = InsideExecutor(
            self._driver, self._described, self._application, self._home, self._settings
        )
        await self._driver.connect(self._take)
        try:
            await self._registry.dispatchers()
        except UnreachableError as error:
            # An empty pool, for now: the fallback decides. A refused password ends the agent.
            log.warning("registry.lost", reason=str(error))
        logs = self._home.app_logs(self._described.id)
        configure(self._settings.log_level, logs / "agent.log")
        log.info(
            "agent.started",
            app=self._described.id,
            key=self._described.key,
            inherited=len(self._executors),
        )

    async def loop(self) -> None:
        """Until the driver is gone; what goes wrong in one task ends the agent."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(tasks))
                await self._driver.gone.wait()
                raise DriverError("anything", "its channel is closed")
        except* DriverError as gone:
            log.warning("driver.gone", reason=str(gone.exceptions[0]))

    async def shutdown(self) -> None:
        # While the driver lives, another agent takes up what this one leaves.
        closing = [self._dispatchers.close()] if self._driver.gone.is_set() else []
        if self._inside_life is not None:
            closing.append(self._inside.stop())
        try:
            async with asyncio.timeout(GOODBYE_S):
                await asyncio.gather(*closing, return_exceptions=True)
        except TimeoutError:
            log.warning("agent.goodbye", reason="not everybody answered in time")
        await self._client.aclose()
        await self._registry.close()
        await self._driver.close()
        log.info("agent.stopped")

    # Frames

    def _take(self, frames: list[Frame]) -> None:
        """What the driver sends; a frame for an executor out of reach comes again later."""
        ways = self._executors.ways
        for frame in frames:
            if self._inside.owns(frame.executor):
                self._inside.take(frame)
                continue
            if frame.kind == Kind.RESUME:
                self._executors.resume(frame.executor)
            if (way := ways.get(frame.executor)) is not None:
                way.send(frame.raw)

    # Dispatchers and their executors

    async def _watch(self, tasks: asyncio.TaskGroup) -> None:
        if self._settings.reschedule_dst_executor is Destination.HYBRID:
            await self._start_inside()
        await self._dispatchers.find(self._application, tasks)
        await self._promise()
        # Beside this: one that hangs must not keep the others from being pinged.
        tasks.create_task(self._dispatchers.keep_finding(self._application, tasks))
        heartbeat_s = self._settings.heartbeat
        tick_s, awake = min(TICK_S, heartbeat_s / 3), Awake(heartbeat_s)
        while True:
            await asyncio.sleep(tick_s)
            self._driver.send(SYNC)
            self._dispatchers.ping()
            if awake.all_the_time():
                await self._executors.judge(len(self._dispatchers.links))
            if self._settings.reschedule_dst_executor is Destination.EXTERNAL:
                await self._judge_emptiness()
            elif self._settings.reschedule_dst_executor is Destination.HYBRID:
                await self._start_inside()

    async def _on_event(self, link: DispatcherLink, event: AgentEvent) -> None:
        match event:
            case ExecutorReady():
                await self._executors.ready(link, event)
            case ExecutorLost():
                await self._executors.lost(
                    link, event.executor, event.reason, event.by_application
                )
            case ExecutorDraining():
                await self._executors.draining(link, event.executor, event.reason)
            case WorkerRefused():
                await self._driver.warn(
                    f"Worker {event.worker} does not serve this application: {event.reason}"
                )
            case PoolChanged():
                link.slots = event.slots
                await self._promise()

    # What Spark is told of the pool

    async def _promise(self) -> None:
        slots = self._dispatchers.slots
        if self._inside_life is not None:
            slots += self._described.local_slots
        await self._driver.promise(slots)

    def _why_empty(self) -> str:
        if not self._dispatchers.links and self._dispatchers.registry_problem:
            return self._dispatchers.registry_problem
        if not self._dispatchers.links:
            return "no dispatcher is registered; run sbin/start-all.sh"
        if self._dispatchers.slots:
            return "its workers are starting executors"
        return "no worker serves this application; see spark-proxy status"

    async def _judge_emptiness(self) -> None:
        reachable = len(self._executors.ways)
        await self._emptiness.judge(reachable, self._why_empty())
        if reachable:
            self._fallen_back = False
            if self._inside_life is not None:
                # The job moves back out.
                await self._inside.drain()
        elif self._fallen_back:
            # The slots inside may have died, like any others.
            await self._start_inside()

    async def _fall_back(self) -> bool:
        """Starts the slots inside, and gives them the tasks that nobody else can be asked for."""
        if not await self._start_inside():
            return False
        self._fallen_back = True
        await self._executors.give_up_unreachable("the pool is lost, and the job runs inside")
        return True

    async def _start_inside(self) -> bool:
        """Starts the slots inside unless they are there; whether a job can run inside at all.

        Under a cluster manager the slots inside are the manager's, and not ours to start.
        """
        if not self._described.local_master:
            return False
        if self._inside_life is None:
            self._inside_life = asyncio.create_task(self._live_inside())
            await self._promise()
        return True

    async def _live_inside(self) -> None:
        with suppress(DriverError):
            await self._inside.run()
            # One that cannot live is not tried in a tight loop.
            await asyncio.sleep(INSIDE_RETRY_S)
        self._inside_life = None
        with suppress(DriverError):
            await self._promise()

    def _describe(self) -> Application:
        described = self._described
        python = driver_python(os.getppid(), os.getpid())
        return Application(
            key=described.key,
            id=described.id,
            name=described.name,
            user=described.user,
            spark=described.spark,
            python=python.version if python else None,
            python_path=python.path if python else "",
            driver_url=described.driver_url,
            results_url=self.server.url,
            results_token=self._results_token,
            executor=described.executor.model_copy(
                update={"conf": _peer_limits(self._settings.heartbeat) | described.executor.conf}
            ),
        )

    def _metrics(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        Gauge(
            "spark_proxy_agent_executors", "External executors in use", registry=registry
        ).set_function(lambda: len(self._executors))
        Gauge(
            "spark_proxy_agent_dispatchers", "Dispatchers in use", registry=registry
        ).set_function(lambda: len(self._dispatchers.links))
        return registry


def _server(app: FastAPI, host: str, port: int) -> HttpServer:
    """At the port of the agent before this one, where workers look for it; else at any."""
    try:
        return HttpServer(app, host, port, "agent.host")
    except EnvironmentProblem:
        return HttpServer(app, host, 0, "agent.host")


def _peer_limits(heartbeat_s: float) -> dict[str, str]:
    """How executors give up a peer that is gone or silent: in about the heartbeat limit.

    On an open connection Spark waits for the first, the third and the second of these before it
    asks the driver whether the peer still lives (`NettyBlockTransferService.fetchBlocks`), and
    its own limits are 120 s. Spark takes whole seconds; below 2 a lost packet would count.
    """
    return {
        "spark.shuffle.io.connectionTimeout": f"{max(2, math.ceil(heartbeat_s * 2 / 3))}s",
        "spark.shuffle.io.connectionCreationTimeout": f"{max(2, math.ceil(heartbeat_s / 3))}s",
        "spark.shuffle.io.retryWait": "1s",
    }
