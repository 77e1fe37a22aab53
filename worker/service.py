"""The worker as a process: what it lends, its own HTTP side, its way to a dispatcher."""

import asyncio
import math
import os
import secrets
import socket
from contextlib import suppress

from prometheus_client import CollectorRegistry, Gauge
from pydantic import BaseModel

from common.client import new_client
from common.logs import get_logger
from common.messages import EndCause, StartExecutor, WorkerHello
from common.scratch import Scratch
from common.security import pool_token
from common.service import HttpServer, Service, first
from common.settings import Home, Settings
from common.shim import shim_jar
from common.spark import find_java, spark_homes
from common.version import VERSION
from common.web import new_app, token_is
from worker import machine
from worker.attachment import Attachment
from worker.runtime import Lent, Runtime

log = get_logger(__name__)
LOOPBACK = "127.0.0.1"


class OwnStatus(BaseModel):
    """What a worker tells its owner."""

    id: str
    dispatcher: str
    slots: int
    slots_busy: int
    tasks_done: int
    tasks_failed: int


class WorkerService(Service):
    def __init__(self, settings: Settings, home: Home) -> None:
        self._home = home
        self._drain_s = settings.worker_drain
        urls = settings.dispatcher_urls or (
            f"http://{settings.dispatcher_host}:{settings.dispatcher_port}",
        )
        self._lent = _lent(settings, home, urls[0])
        self._scratch: Scratch | None = None
        self._runtime = Runtime(self._lent, home, self._started, self._ended)
        token = pool_token(settings, home)
        self._client = new_client(token)
        self._attachment = Attachment(self._client, self._hello, urls, settings.frame_max_bytes)
        app = new_app("worker", token_is(token), settings.message_max_bytes, self._metrics())
        app.get("/status")(self._status)
        self.server = HttpServer(app, LOOPBACK, settings.worker_port, "worker.port")

    def identity(self) -> dict[str, object]:
        # How long to wait for it after SIGTERM, for whoever sends that.
        return {
            "id": self._lent.id,
            "farewell_s": math.ceil(self._drain_s),
            **super().identity(),
        }

    async def startup(self) -> None:
        self._scratch = Scratch(self._home.executors, self._lent.id)
        # Building takes seconds: now, not when the first application waits for it.
        for spark in self._lent.sparks.values():
            await asyncio.to_thread(shim_jar, spark, self._home.jars)
        log.info("worker.started", worker=self._lent.id, slots=self._lent.slots)

    async def loop(self) -> None:
        await first(self._attachment.run(self._runtime), self._drain_when_told())

    async def _drain_when_told(self) -> None:
        await self._attachment.told_to_drain.wait()
        await self.farewell()

    async def farewell(self) -> None:
        """Takes nothing new, and lets what runs come to its end and its blocks be moved."""
        log.info("worker.draining", worker=self._lent.id, executors=len(self._runtime.held()))
        self._runtime.draining = True
        await self._attachment.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._runtime.empty()
        await self._attachment.leave()

    async def shutdown(self) -> None:
        await self._runtime.stop_all()
        await self._client.aclose()
        if self._scratch is not None:
            self._scratch.remove()
        log.info("worker.stopped", worker=self._lent.id)

    async def _started(self, command: StartExecutor, port: int) -> None:
        await self._attachment.started(command, port)

    async def _ended(self, app: str, executor: int, reason: str, cause: EndCause) -> None:
        await self._attachment.ended(app, executor, reason, cause)

    def _hello(self, attachment: int) -> WorkerHello:
        lent = self._lent
        return WorkerHello(
            id=lent.id,
            attachment=attachment,
            draining=self._runtime.draining,
            executors=self._runtime.held(),
            host=lent.host,
            pid=os.getpid(),
            url=self.server.url,
            slots=lent.slots,
            memory_mb=lent.memory_mb,
            sparks=tuple(lent.sparks),
            pythons=tuple(lent.pythons),
            version=VERSION,
        )

    async def _status(self) -> OwnStatus:
        return OwnStatus(
            id=self._lent.id,
            dispatcher=self._attachment.dispatcher,
            slots=self._lent.slots,
            slots_busy=self._runtime.slots_busy,
            tasks_done=self._runtime.tasks_done,
            tasks_failed=self._runtime.tasks_failed,
        )

    def _metrics(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        runtime = self._runtime

        def gauge(name: str, meaning: str) -> Gauge:
            return Gauge(f"spark_proxy_worker_{name}", meaning, registry=registry)

        gauge("slots", "Slots lent").set(self._lent.slots)
        gauge("slots_busy", "Slots in use").set_function(lambda: runtime.slots_busy)
        gauge("tasks_done", "Tasks finished since the start").set_function(
            lambda: runtime.tasks_done
        )
        gauge("tasks_failed", "Tasks failed since the start").set_function(
            lambda: runtime.tasks_failed
        )
        gauge("executors", "Executor JVMs").set_function(lambda: len(runtime.counts()))
        return registry


def _lent(settings: Settings, home: Home, dispatcher_url: str) -> Lent:
    sparks = spark_homes(settings.spark_homes, home.root)
    return Lent(
        id=f"{socket.gethostname()}-{secrets.token_hex(4)}",
        host=machine.reachable_host(settings.worker_host, dispatcher_url),
        slots=machine.slots(settings.worker_slots),
        memory_mb=machine.memory_mb(settings.worker_memory_mb),
        java=find_java(),
        sparks={spark.version: spark for spark in sparks},
        pythons=machine.pythons(settings.worker_pythons),
        pythons_named=bool(settings.worker_pythons),
        max_frame_bytes=settings.frame_max_bytes,
    )


