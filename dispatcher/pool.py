"""The pool of one dispatcher: which workers and applications are there, and where a frame goes.

Soft state: all of it comes back when workers and agents attach again, wherever they do.
"""

import asyncio
from collections.abc import Iterable

from pydantic import ValidationError

from common.errors import FrameMalformed, RefusedError
from common.frames import Frame, Kind
from common.logs import get_logger
from common.messages import (
    GONE,
    PRESENT,
    ApplicationHello,
    ApplicationState,
    ApplicationWelcome,
    Drain,
    KnowDispatchers,
    ReleaseExecutor,
    SendReport,
    WorkerHello,
    WorkerReport,
    WorkerState,
)
from common.settings import SelectorName
from dispatcher.members import ExecutorState, ServedApplication, Worker
from dispatcher.placement import Placement, now

log = get_logger(__name__)
# Ended applications, and workers that left, that a status still shows.
REMEMBERED = 100
# A worker whose connection broke is back in some milliseconds, or dead. A task that a dead one
# had runs again within 3 s, and starting it elsewhere takes some of them.
RECONNECT_S = 1.0
# A worker obeys whatever else comes on its stream: that is this dispatcher's to say.
DRIVER_KINDS = frozenset({Kind.LAUNCH, Kind.MESSAGE, Kind.ACK, Kind.RESUME})


class Pool:
    """Workers and applications. Every change goes through here, in one event loop."""

    def __init__(self, select: SelectorName, max_slots_per_app: int) -> None:
        self.workers: dict[str, Worker] = {}
        self.applications: dict[str, ServedApplication] = {}
        self.dispatchers: tuple[str, ...] = ()
        """URLs of all dispatchers, as far as this one knows."""
        self.placement = Placement(self.workers, self.applications, select, max_slots_per_app)
        self._reported = asyncio.Condition()
        self.frames_routed = 0

    # Workers

    def attach(self, hello: WorkerHello) -> Worker:
        """A worker comes, or comes back with what it holds. Said twice, it is answered alike.

        Raises:
            RefusedError: 409, this attachment of it is over.
        """
        worker = self.workers.get(hello.id)
        if worker is None or (worker.state in GONE and hello.attachment > worker.hello.attachment):
            draining = worker is not None and worker.draining
            worker = self.workers[hello.id] = Worker(hello, draining=draining)
        elif hello.attachment == worker.hello.attachment and worker.state in PRESENT:
            return worker
        elif hello.attachment <= worker.hello.attachment:
            raise RefusedError("dispatcher", 409, _over(worker))
        worker.attach(hello)
        worker.heard = now()
        log.info("worker.attached", worker=hello.id, host=hello.host, slots=hello.slots,
                 held=len(hello.executors))  # fmt: skip
        if worker.draining and not hello.draining:
            worker.tell(Drain())
        self.placement.reconcile(worker)
        self.placement.place()
        return worker

    def disconnect(self, worker: Worker, stream: str) -> None:
        """A worker's stream broke: it has a moment to come back with all that it holds."""
        if worker.stream != stream or worker.state not in PRESENT:
            return
        worker.state = WorkerState.DISCONNECTED

        def give_up() -> None:
            if worker.stream == stream:
                self.lose(worker, WorkerState.LOST, "its stream broke")

        asyncio.get_running_loop().call_later(RECONNECT_S, give_up)

    def lose(self, worker: Worker, state: WorkerState, reason: str) -> None:
        """The worker is gone, and its executors with it. Harmless when said twice."""
        if worker.state in GONE:
            return
        worker.state = state
        worker.outbox.close()
        log.info("worker.gone", worker=worker.id, state=state, reason=reason)
        for executor in list(worker.executors.values()):
            self.placement.forget(
                executor, f"worker {worker.id} ({worker.hello.host}): {reason}"
            )
        gone = [w.id for w in self.workers.values() if w.state in GONE]
        for worker_id in gone[:-REMEMBERED]:
            del self.workers[worker_id]
        self.placement.place()

    def drain(self, worker_id: str) -> None:
        """The worker is to finish what it runs and to leave. Harmless when said twice.

        Raises:
            RefusedError: 404 for an unknown one, 409 for one that is not attached.
        """
        worker = self.workers.get(worker_id)
        if worker is None:
            raise RefusedError("dispatcher", 404, f"no worker {worker_id} is attached here")
        if worker.state not in PRESENT:
            raise RefusedError("dispatcher", 409, f"worker {worker_id} is {worker.state}")
        if worker.draining:
            return
        worker.draining, worker.state = True, WorkerState.DRAINING
        log.info("worker.draining", worker=worker.id)
        worker.tell(Drain())
        self.placement.drain(worker)

    async def report(self, worker: Worker, report: WorkerReport) -> None:
        worker.report = report
        worker.reports += 1
        worker.heard = now()
        for key, counts in report.applications.items():
            if (app := self.applications.get(key)) is not None:
                app.counts[worker.id] = counts
        async with self._reported:
            self._reported.notify_all()

    def lose_silent(self, limit_s: float) -> None:
        """Gives up the workers and applications that were not heard of for so long."""
        before = now() - limit_s
        for worker in list(self.workers.values()):
            if worker.heard < before:
                self.lose(worker, WorkerState.LOST, f"it was silent for {limit_s:g} s")
        for app in list(self.applications.values()):
            if app.heard < before:
                self.close(app.key, f"its agent was silent for {limit_s:g} s")

    async def refresh(self, timeout_s: float) -> None:
        """Asks every attached worker for a report and waits for them, up to the bound."""
        asked = [(w, w.reports) for w in self.workers.values() if w.state in PRESENT]
        for worker, _ in asked:
            worker.tell(SendReport())

        def all_here() -> bool:
            return all(w.reports > before or w.state not in PRESENT for w, before in asked)

        try:
            async with asyncio.timeout(timeout_s), self._reported:
                await self._reported.wait_for(all_here)
        except TimeoutError:
            log.warning("pool.refresh", reason="not every worker reported in time")

    def know_dispatchers(self, urls: tuple[str, ...]) -> None:
        """Tells the workers where else they may go, when that has changed."""
        if urls == self.dispatchers:
            return
        self.dispatchers = urls
        for worker in self.workers.values():
            worker.tell(KnowDispatchers(urls=urls))

    # Applications

    def open(self, hello: ApplicationHello) -> ApplicationWelcome:
        """An application comes, or its agent comes back. Said twice, it is answered alike.

        Raises:
            RefusedError: 409, this opening of it is over.
        """
        key = hello.application.key
        app = self.applications.get(key)
        if app is None or (app.state is ApplicationState.FINISHED
                           and hello.first_executor > app.opening):  # fmt: skip
            app = self.applications[key] = ServedApplication.of(hello)
            log.info("app.opened", app=app.application.id, name=app.application.name, key=key)
        elif hello.first_executor > app.opening:
            app.reopen(hello)
            log.info("app.reopened", app=app.application.id, key=key)
        elif hello.first_executor < app.opening or not app.connected:
            raise RefusedError("dispatcher", 409, f"application {key} is over here; open it again")
        else:
            return ApplicationWelcome(stream=app.stream, slots=app.slots)
        app.heard = now()
        self.placement.reannounce(app)
        for worker in self.workers.values():
            if worker.state in PRESENT:
                self.placement.claim(app, worker)
        self.placement.place()
        return ApplicationWelcome(stream=app.stream, slots=app.slots)

    def break_off(self, app: ServedApplication, stream: str) -> None:
        """A stream of the application's agent broke: until it is back, all goes on as it is."""
        if app.stream != stream or not app.connected:
            return
        app.connected = False
        app.events.close()
        app.heard = now()

    def close(self, key: str, reason: str) -> None:
        """The application is over: its executors stop. Harmless when said twice."""
        app = self.applications.get(key)
        if app is None or app.state is ApplicationState.FINISHED:
            return
        app.state = ApplicationState.FINISHED
        app.connected = False
        app.events.close()
        log.info("app.closed", app=app.application.id, key=key, reason=reason)
        self.placement.stop_all(app)
        over = [a for a in self.applications.values() if a.state is ApplicationState.FINISHED]
        for old in over[:-REMEMBERED]:
            del self.applications[old.key]

    def application(self, key: str, stream: str) -> ServedApplication:
        """The open application whose stream this is.

        Raises:
            RefusedError: 404 for an unknown one, 409 for a stream that is over.
        """
        app = self.applications.get(key)
        if app is None:
            raise RefusedError("dispatcher", 404, f"no application {key} is open here")
        if app.stream != stream or not app.connected:
            raise RefusedError("dispatcher", 409, f"application {key} is over here; open it again")
        return app

    def worker(self, worker_id: str, stream: str) -> Worker:
        """The attached worker whose stream this is.

        Raises:
            RefusedError: 404 for an unknown one, 409 for a stream that is over.
        """
        worker = self.workers.get(worker_id)
        if worker is None:
            raise RefusedError("dispatcher", 404, f"no worker {worker_id} is attached here")
        if worker.stream != stream or worker.state not in PRESENT:
            raise RefusedError("dispatcher", 409, _over(worker, stream))
        return worker

    # Tasks

    def route(self, app: ServedApplication, frames: Iterable[Frame]) -> None:
        """Sends frames on to the workers of their executors.

        Those of lost executors are dropped. So are those for a worker that does not keep up, or
        has just attached anew: its driver repeats them behind a RESUME, and nobody else waits.

        Raises:
            FrameMalformed: a frame that this application's driver does not send.
        """
        app.heard = now()
        for frame in frames:
            if frame.kind == Kind.PING:
                continue
            if frame.kind == Kind.CONTROL:
                self._release(app, frame)
                continue
            if frame.kind not in DRIVER_KINDS or frame.app != int(app.key, 16):
                raise FrameMalformed("kind", frame.kind, f"a frame of the driver of {app.key}")
            executor = app.executors.get(frame.executor)
            if executor is None or executor.state is not ExecutorState.READY:
                continue
            if frame.kind == Kind.RESUME:
                executor.stalled = False
            elif not executor.stalled and executor.worker.outbox.is_full:
                executor.stalled = executor.dropped = True
            elif not executor.stalled:
                executor.worker.outbox.put(frame.raw)
                self.frames_routed += 1

    def _release(self, app: ServedApplication, frame: Frame) -> None:
        try:
            message = ReleaseExecutor.model_validate_json(frame.payload)
        except ValidationError as error:
            raise FrameMalformed("kind", frame.kind, "a release of an executor") from error
        self.placement.release(app, message.executor, message.reason)


def _over(worker: Worker, stream: str = "") -> str:
    known = not stream or worker.stream == stream
    state = worker.state if known and worker.state not in PRESENT else "attached by another stream"
    return f"worker {worker.id} is {state}; attach again"
