"""The agent as a process: finds dispatchers, forwards tasks, tells Spark of executors."""

import asyncio
import os

from prometheus_client import CollectorRegistry, Gauge

from agent.driver import Driver, DriverAddress, DriverError
from agent.fallback import Emptiness
from agent.inside import InsideExecutor
from agent.link import DispatcherLink
from agent.python_version import driver_python
from agent.results import new_results_app
from common.client import new_client
from common.errors import EnvironmentProblem, RefusedError, UnreachableError
from common.frames import Frame, Kind, encode
from common.logs import configure, get_logger
from common.messages import (
    AgentEvent,
    Application,
    ApplicationHello,
    DriverApplication,
    ExecutorLost,
    ExecutorReady,
    PoolChanged,
    WorkerRefused,
)
from common.registry import Entry, Registry
from common.security import new_token, pool_token
from common.service import HttpServer, Service
from common.settings import Destination, Home, Settings

log = get_logger(__name__)
# How often the registry is looked at for new dispatchers, and emptiness is judged.
TICK_S = 1.0
# Executor ids that one opening of the application at a dispatcher may use up.
ID_BLOCK = 10_000
GOODBYE_S = 5.0
SYNC = encode(Kind.SYNC)


class AgentService(Service):
    """One application's agent."""

    def __init__(self, settings: Settings, home: Home, address: DriverAddress) -> None:
        self._settings = settings
        self._home = home
        self._driver = Driver(address, settings.frame_max_bytes)
        self._results_token = new_token()
        app = new_results_app(
            settings, self._results_token, self._metrics(), self._driver.send
        )
        self.server = HttpServer(app, settings.agent_host, 0, "agent.host")
        self._registry = Registry(settings, home)
        self._client = new_client(pool_token(settings, home))
        self._links: dict[str, DispatcherLink] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._routes: dict[int, DispatcherLink] = {}
        self._unused_ids: dict[str, int] = {}
        self._inside: InsideExecutor
        self._inside_life: asyncio.Task[None] | None = None
        self._registry_problem = ""
        self._emptiness = Emptiness(settings, self._driver, self._start_inside)
        self._described: DriverApplication
        self._application: Application

    async def startup(self) -> None:
        await self._driver.connect(self._take)
        self._described = await self._driver.application()
        self._application = self._describe()
        self._inside = InsideExecutor(
            self._driver, self._described, self._application, self._home, self._settings
        )
        try:
            await self._registry.dispatchers()
        except UnreachableError as error:
            # An empty pool, for now: the fallback decides. A refused password ends the agent.
            self._registry_problem = str(error)
        logs = self._home.app_logs(self._described.id)
        configure(self._settings.log_level, logs / "agent.log")
        log.info("agent.started", app=self._described.id, key=self._described.key)

    async def loop(self) -> None:
        """Until the driver is gone; what goes wrong in one task ends the agent."""
        try:
            async with asyncio.TaskGroup() as tasks:
                work = tasks.create_task(self._watch(tasks))
                await self._driver.gone.wait()
                work.cancel()
                for serving in self._serving.values():
                    serving.cancel()
        except* DriverError as gone:
            log.warning("driver.gone", reason=str(gone.exceptions[0]))

    async def shutdown(self) -> None:
        closing = [link.close() for link in self._links.values()]
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
        """What the driver sends; a task for an executor that is gone is left to Spark."""
        for frame in frames:
            if self._inside.owns(frame.executor):
                self._inside.send(frame.raw)
            elif (link := self._routes.get(frame.executor)) is not None:
                link.send(frame.raw)

    # Dispatchers and their executors

    async def _watch(self, tasks: asyncio.TaskGroup) -> None:
        if self._settings.reschedule_dst_executor is Destination.HYBRID:
            await self._start_inside()
        await self._find_dispatchers(tasks)
        await self._promise()
        while True:
            await asyncio.sleep(TICK_S)
            self._driver.send(SYNC)
            for link in self._links.values():
                link.ping()
            await self._find_dispatchers(tasks)
            if self._settings.reschedule_dst_executor is Destination.EXTERNAL:
                await self._emptiness.judge(len(self._routes), self._why_empty())

    async def _find_dispatchers(self, tasks: asyncio.TaskGroup) -> None:
        try:
            entries = await self._registry.dispatchers()
            self._registry_problem = ""
        except (UnreachableError, EnvironmentProblem) as error:
            # Those who have found each other go on without it.
            self._registry_problem = str(error)
            return
        new = [entry for entry in entries if entry.id not in self._serving]
        for link in await asyncio.gather(*(self._open(entry) for entry in new)):
            if link is not None:
                self._links[link.entry.id] = link
                self._serving[link.entry.id] = tasks.create_task(self._serve(link))

    async def _open(self, entry: Entry) -> DispatcherLink | None:
        first = self._unused_ids.pop(entry.id, 0)
        first = first or await self._driver.reserve_executor_ids(ID_BLOCK)
        hello = ApplicationHello(application=self._application, first_executor=first)
        limits = (self._settings.heartbeat, self._settings.frame_max_bytes)
        link = DispatcherLink(self._client, entry, hello, limits, self._on_event)
        try:
            await link.open()
        except (UnreachableError, RefusedError) as error:
            self._unused_ids[entry.id] = first
            log.warning("dispatcher.unusable", dispatcher=entry.id, reason=str(error))
            return None
        return link

    async def _serve(self, link: DispatcherLink) -> None:
        reason = await link.run()
        log.warning("dispatcher.lost", dispatcher=link.entry.id, reason=reason)
        lost = f"dispatcher {link.entry.id} is lost: {reason}"
        for executor in list(link.executors):
            await self._lose(link, executor, lost, by_application=False)
        del self._links[link.entry.id], self._serving[link.entry.id]
        await self._promise()

    async def _on_event(self, link: DispatcherLink, event: AgentEvent) -> None:
        match event:
            case ExecutorReady():
                await self._gain(link, event)
            case ExecutorLost():
                await self._lose(link, event.executor, event.reason, event.by_application)
            case WorkerRefused():
                await self._driver.warn(
                    f"Worker {event.worker} does not serve this application: {event.reason}"
                )
            case PoolChanged():
                link.slots = event.slots
                await self._promise()

    async def _gain(self, link: DispatcherLink, ready: ExecutorReady) -> None:
        link.executors[ready.executor] = ready
        self._routes[ready.executor] = link
        try:
            await self._driver.register_executor(
                ready.executor, ready.host, ready.port, ready.slots
            )
        except DriverError as error:
            log.warning("executor.unwanted", executor=ready.executor, reason=str(error))
            del link.executors[ready.executor], self._routes[ready.executor]

    async def _lose(
        self, link: DispatcherLink, executor: int, reason: str, by_application: bool
    ) -> None:
        self._routes.pop(executor, None)
        if link.executors.pop(executor, None) is not None:
            await self._driver.remove_executor(executor, reason, by_application)

    # What Spark is told of the pool

    async def _promise(self) -> None:
        slots = sum(link.slots for link in self._links.values())
        if self._inside_life is not None:
            slots += self._described.local_slots
        await self._driver.promise(slots)

    def _why_empty(self) -> str:
        if self._registry_problem:
            return self._registry_problem
        if not self._links:
            return "no dispatcher is registered; run sbin/start-all.sh"
        return "no worker serves this application; see spark-proxy status"

    async def _start_inside(self) -> bool:
        """Starts the slots inside unless they are there; whether a job can run inside at all.

        Under a cluster manager the slots inside are the manager's, and not ours to start.
        """
        if not self._described.local_master:
            return False
        if self._inside_life is None or self._inside_life.done():
            self._inside_life = asyncio.create_task(self._inside.run())
            await self._promise()
        return True

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
            executor=described.executor,
        )

    def _metrics(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        Gauge(
            "spark_proxy_agent_executors", "External executors in use", registry=registry
        ).set_function(lambda: len(self._routes))
        Gauge(
            "spark_proxy_agent_dispatchers", "Dispatchers in use", registry=registry
        ).set_function(lambda: len(self._links))
        return registry
