"""The dispatcher as a process: its registration and its heartbeat."""

import asyncio
import os
import socket

from prometheus_client import CollectorRegistry, Gauge

from common.awake import Awake
from common.errors import EnvironmentProblem, UnreachableError
from common.logs import get_logger
from common.messages import PRESENT, ApplicationState, DispatcherStatus, WorkerState
from common.registry import Entry, Registry
from common.security import pool_token
from common.service import HttpServer, Service
from common.settings import Home, Settings
from common.version import VERSION
from dispatcher.pool import Pool
from dispatcher.server import new_server

log = get_logger(__name__)
# Three pings a heartbeat: one may be late without anybody being given up.
PINGS_PER_HEARTBEAT = 3
# A Redis that was started again, empty, is full again soon.
REGISTRATIONS_PER_HEARTBEAT = 3


class DispatcherService(Service):
    def __init__(self, settings: Settings, home: Home) -> None:
        self._settings = settings
        self.pool = Pool(settings.host_selector, settings.pool_max_slots_per_app)
        app = new_server(
            self.pool, settings, pool_token(settings, home), _metrics(self.pool), self._describe
        )
        host, port = settings.dispatcher_host, settings.dispatcher_port
        self.server = HttpServer(app, host, port, "dispatcher.port")
        self._id = f"{socket.gethostname()}-{self.server.port}"
        self._registered = False
        self._registry = Registry(settings, home)

    def identity(self) -> dict[str, object]:
        return {"id": self._id, **super().identity()}

    async def startup(self) -> None:
        try:
            await self._register()
        except UnreachableError as error:
            raise EnvironmentProblem(
                str(error), "Start it (sbin/start-redis.sh), or set redis.host and redis.port"
            ) from error
        self._registered = True
        log.info("dispatcher.started", dispatcher=self._id, url=self.server.url)

    async def loop(self) -> None:
        # A Redis that hangs must not keep anybody from being pinged.
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_alive())
            tasks.create_task(self._keep_registered())

    async def _keep_alive(self) -> None:
        heartbeat_s = self._settings.heartbeat
        awake = Awake(heartbeat_s)
        while True:
            await asyncio.sleep(heartbeat_s / PINGS_PER_HEARTBEAT)
            self._ping()
            if awake.all_the_time():
                self.pool.lose_silent(heartbeat_s)
            self.pool.placement.place()

    async def _keep_registered(self) -> None:
        registered = True
        while True:
            try:
                await self._register()
                registered = True
            except (UnreachableError, EnvironmentProblem) as error:
                # Those who have found each other go on; the registry fills itself again.
                if registered:
                    log.warning("registry.lost", reason=str(error))
                registered = False
            await asyncio.sleep(self._settings.heartbeat / REGISTRATIONS_PER_HEARTBEAT)

    async def shutdown(self) -> None:
        if not self._registered:
            await self._registry.close()
            return
        # Whoever is here goes on at another dispatcher, or here when it is started again.
        for app in self.pool.applications.values():
            self.pool.break_off(app, app.stream)
        for worker in self.pool.workers.values():
            worker.outbox.close()
        try:
            await self._registry.unregister(self._id)
        except (UnreachableError, EnvironmentProblem) as error:
            log.warning("registry.lost", reason=str(error))
        await self._registry.close()
        log.info("dispatcher.stopped", dispatcher=self._id)

    def _ping(self) -> None:
        for worker in self.pool.workers.values():
            worker.outbox.ping()
        for app in self.pool.applications.values():
            app.events.ping()

    async def _register(self) -> None:
        me = self._describe()
        await self._registry.register(
            Entry(id=me.id, url=me.url, version=VERSION, workers=me.workers)
        )
        entries = await self._registry.dispatchers()
        self.pool.know_dispatchers(tuple(entry.url for entry in entries))

    def _describe(self) -> DispatcherStatus:
        attached = [w for w in self.pool.workers.values() if w.state in PRESENT]
        return DispatcherStatus(
            id=self._id, url=self.server.url, pid=os.getpid(), workers=len(attached)
        )


def _metrics(pool: Pool) -> CollectorRegistry:
    """Read when scraped: nothing is counted twice, nothing is on the task path."""
    registry = CollectorRegistry()

    def gauge(name: str, meaning: str) -> Gauge:
        return Gauge(f"spark_proxy_dispatcher_{name}", meaning, registry=registry)

    def attached() -> int:
        return sum(w.state in PRESENT for w in pool.workers.values())

    def slots() -> int:
        workers = pool.workers.values()
        return sum(w.hello.slots for w in workers if w.state is WorkerState.ATTACHED)

    def applications() -> int:
        return sum(a.state is not ApplicationState.FINISHED for a in pool.applications.values())

    gauge("workers", "Attached workers").set_function(attached)
    gauge("slots", "Slots of the attached workers").set_function(slots)
    gauge("applications", "Open applications").set_function(applications)
    gauge("frames_routed", "Frames sent on to workers since the start").set_function(
        lambda: pool.frames_routed
    )
    return registry
