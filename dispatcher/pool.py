"""The pool of one dispatcher: who is there, who serves whom, and where a frame goes.

Soft state: all of it comes back when workers and agents attach again.
"""

import asyncio
from collections.abc import Iterable

from common.errors import FrameMalformed, RefusedError
from common.frames import Frame, Kind
from common.logs import get_logger
from common.messages import (
    ApplicationCounts,
    ApplicationHello,
    ApplicationState,
    ApplicationWelcome,
    EndCause,
    ExecutorEnded,
    ExecutorLost,
    ExecutorReady,
    ExecutorStarted,
    PoolChanged,
    SendReport,
    StartExecutor,
    StopExecutor,
    WorkerHello,
    WorkerRefused,
    WorkerReport,
    WorkerState,
)
from common.settings import SelectorName
from dispatcher.members import Executor, ExecutorState, Refusal, ServedApplication, Worker
from dispatcher.selector import Selector, selector

log = get_logger(__name__)
# What did not work a moment ago is tried again, but not in a tight loop.
RETRY_S = 10.0
# Ended applications, and workers that left, that a status still shows.
REMEMBERED = 100
# A worker obeys whatever else comes on its stream: that is this dispatcher's to say.
DRIVER_KINDS = frozenset({Kind.LAUNCH, Kind.MESSAGE, Kind.ACK})


class Pool:
    """Workers and applications. Every change goes through here, in one event loop."""

    def __init__(self, select: SelectorName, max_slots_per_app: int) -> None:
        self._select: Selector[Worker] = selector(select)
        self._max_slots = max_slots_per_app
        self.workers: dict[str, Worker] = {}
        self.applications: dict[str, ServedApplication] = {}
        self._reported = asyncio.Condition()
        self.frames_routed = 0

    # Workers

    def attach(self, hello: WorkerHello) -> Worker:
        """A worker comes, or comes back: then what it had here before is lost."""
        if (before := self.workers.get(hello.id)) is not None:
            self.lose(before, WorkerState.LOST, "it attached again")
        worker = Worker(hello, heard=_now())
        self.workers[hello.id] = worker
        log.info("worker.attached", worker=hello.id, host=hello.host, slots=hello.slots)
        self.place()
        return worker

    def lose(self, worker: Worker, state: WorkerState, reason: str) -> None:
        """The worker is gone, and its executors with it. Harmless when said twice."""
        if worker.state is not WorkerState.ATTACHED:
            return
        worker.state = state
        worker.outbox.close()
        log.info("worker.gone", worker=worker.id, state=state, reason=reason)
        for executor in list(worker.executors.values()):
            self._forget(executor, f"worker {worker.id} ({worker.hello.host}): {reason}")
        gone = [w.id for w in self.workers.values() if w.state is not WorkerState.ATTACHED]
        for worker_id in gone[:-REMEMBERED]:
            del self.workers[worker_id]
        self.place()

    async def report(self, worker: Worker, report: WorkerReport) -> None:
        worker.report = report
        worker.reports += 1
        worker.heard = _now()
        for key, counts in report.applications.items():
            if (app := self.applications.get(key)) is not None:
                app.counts[worker.id] = counts
        async with self._reported:
            self._reported.notify_all()

    def lose_silent(self, limit_s: float) -> None:
        """Gives up the workers and applications that were not heard of for so long."""
        before = _now() - limit_s
        for worker in list(self.workers.values()):
            if worker.heard < before:
                self.lose(worker, WorkerState.LOST, f"it was silent for {limit_s:g} s")
        for app in list(self.applications.values()):
            if app.heard < before:
                self.close(app.key, f"its agent was silent for {limit_s:g} s")

    async def refresh(self, timeout_s: float) -> None:
        """Asks every attached worker for a report and waits for them, up to the bound."""
        asked = [(w, w.reports) for w in self.workers.values() if w.state is WorkerState.ATTACHED]
        for worker, _ in asked:
            worker.tell(SendReport())

        def all_here() -> bool:
            return all(
                w.reports > before or w.state is not WorkerState.ATTACHED for w, before in asked
            )

        try:
            async with asyncio.timeout(timeout_s), self._reported:
                await self._reported.wait_for(all_here)
        except TimeoutError:
            log.warning("pool.refresh", reason="not every worker reported in time")

    # Executors

    def started(self, worker: Worker, message: ExecutorStarted) -> None:
        executor = worker.executors.get((message.application, message.executor))
        if executor is None or executor.state is not ExecutorState.STARTING:
            return
        executor.state = ExecutorState.READY
        app = executor.app
        app.state = ApplicationState.RUNNING
        app.refusals.pop(worker.id, None)
        log.info("executor.ready", app=app.application.id, executor=executor.id, worker=worker.id)
        app.tell(
            ExecutorReady(
                executor=executor.id,
                worker=worker.id,
                host=worker.hello.host,
                port=message.port,
                slots=executor.slots,
            )
        )

    def ended(self, worker: Worker, message: ExecutorEnded) -> None:
        executor = worker.executors.get((message.application, message.executor))
        if executor is None:
            return
        app = executor.app
        if executor.state is not ExecutorState.STOPPING:
            if message.cause is EndCause.REFUSED:
                self._refuse(app, worker, message.reason, RETRY_S)
            elif message.cause is EndCause.RELEASED:
                # The driver knows; it has only to be remembered that none is to follow.
                app.refusals[worker.id] = Refusal(message.reason, None)
        self._forget(executor, message.reason, message.cause is EndCause.APPLICATION)
        # Memory came free: whoever was refused for want of it may try again.
        for other in self.applications.values():
            if (refusal := other.refusals.get(worker.id)) and other is not app and refusal.retry_at:
                del other.refusals[worker.id]
        self.place()

    def _forget(self, executor: Executor, reason: str, by_application: bool = False) -> None:
        worker, app = executor.worker, executor.app
        worker.executors.pop((app.key, executor.id), None)
        app.executors.pop(executor.id, None)
        if counts := app.counts.get(worker.id):
            app.counts[worker.id] = ApplicationCounts(done=counts.done, failed=counts.failed)
        if executor.state is ExecutorState.STOPPING:
            return
        log.info("executor.lost", app=app.application.id, executor=executor.id, reason=reason)
        app.tell(
            ExecutorLost(
                executor=executor.id,
                worker=worker.id,
                reason=reason,
                by_application=by_application,
            )
        )

    # Applications

    def open(self, hello: ApplicationHello) -> ApplicationWelcome:
        """An application comes, or its agent comes back: then it starts anew here."""
        key = hello.application.key
        self.close(key, "its agent opened it again")
        app = ServedApplication(hello.application, hello.first_executor, heard=_now())
        self.applications[key] = app
        log.info("app.opened", app=app.application.id, name=app.application.name, key=key)
        self.place()
        return ApplicationWelcome(stream=app.stream, slots=app.slots)

    def close(self, key: str, reason: str) -> None:
        """The application is over: its executors stop. Harmless when said twice."""
        app = self.applications.get(key)
        if app is None or app.state is ApplicationState.FINISHED:
            return
        app.state = ApplicationState.FINISHED
        app.events.close()
        log.info("app.closed", app=app.application.id, key=key, reason=reason)
        for executor in app.executors.values():
            executor.state = ExecutorState.STOPPING
            executor.worker.tell(StopExecutor(application=key, executor=executor.id))
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
        if app.stream != stream or app.state is ApplicationState.FINISHED:
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
        if worker.stream != stream or worker.state is not WorkerState.ATTACHED:
            state = worker.state if worker.stream == stream else "attached by another stream"
            raise RefusedError("dispatcher", 409, f"worker {worker_id} is {state}; attach again")
        return worker

    # Tasks

    async def route(self, app: ServedApplication, frames: Iterable[Frame]) -> None:
        """Sends frames on to the workers of their executors; those of lost ones are dropped.

        Raises:
            FrameMalformed: a frame that this application's driver does not send.
        """
        app.heard = _now()
        for frame in frames:
            if frame.kind == Kind.PING:
                continue
            if frame.kind not in DRIVER_KINDS or frame.app != int(app.key, 16):
                raise FrameMalformed("kind", frame.kind, f"a frame of the driver of {app.key}")
            executor = app.executors.get(frame.executor)
            if executor is not None and executor.state is ExecutorState.READY:
                executor.worker.outbox.put(frame.raw)
                self.frames_routed += 1
                await executor.worker.outbox.room()

    # Who serves whom

    def place(self) -> None:
        """Gives every open application the workers that fit it and do not serve it yet."""
        for app in self.applications.values():
            if app.state is ApplicationState.FINISHED:
                continue
            free = [worker for worker in self.workers.values() if self._is_free(worker, app)]
            for worker in self._select(free, lambda one: one.load):
                self._start(app, worker)
            if app.slots != app.promised:
                app.promised = app.slots
                app.tell(PoolChanged(slots=app.slots))

    def _is_free(self, worker: Worker, app: ServedApplication) -> bool:
        if worker.state is not WorkerState.ATTACHED:
            return False
        if any(executor.app is app for executor in worker.executors.values()):
            return False
        refusal = app.refusals.get(worker.id)
        if refusal is not None:
            return refusal.retry_at is not None and refusal.retry_at <= _now()
        if (reason := misfit(worker.hello, app)) is not None:
            self._refuse(app, worker, reason, None)
            return False
        return True

    def _start(self, app: ServedApplication, worker: Worker) -> None:
        slots = worker.hello.slots
        if self._max_slots:
            slots = min(slots, self._max_slots - app.slots)
        if slots < app.application.executor.task_cpus:
            return
        executor = Executor(app.next_executor, app, worker, slots)
        app.next_executor += 1
        app.executors[executor.id] = executor
        worker.executors[app.key, executor.id] = executor
        worker.tell(
            StartExecutor(application=app.application, executor=executor.id, slots=slots)
        )

    def _refuse(
        self, app: ServedApplication, worker: Worker, reason: str, retry_s: float | None
    ) -> None:
        known = app.refusals.get(worker.id)
        retry_at = _now() + retry_s if retry_s is not None else None
        app.refusals[worker.id] = Refusal(reason, retry_at)
        if known is None or known.reason != reason:
            log.warning("app.refused", app=app.application.id, worker=worker.id, reason=reason)
            app.tell(WorkerRefused(worker=worker.id, reason=reason))


def _now() -> float:
    return asyncio.get_running_loop().time()


def misfit(worker: WorkerHello, app: ServedApplication) -> str | None:
    """Why this worker can never serve this application, if so."""
    wanted = app.application
    if wanted.spark not in worker.sparks:
        return f"it has Spark {', '.join(worker.sparks)}; the driver runs {wanted.spark}"
    if wanted.python is not None and wanted.python not in worker.pythons:
        has = ", ".join(worker.pythons) or "none"
        return f"it has Python {has}; the driver runs {wanted.python}"
    if wanted.executor.task_cpus > worker.slots:
        return f"a task takes {wanted.executor.task_cpus} slots and it has {worker.slots}"
    if wanted.executor.total_mb > worker.memory_mb:
        return (
            f"an executor takes {wanted.executor.total_mb} MB and it lends {worker.memory_mb} MB: "
            "lower spark.executor.memory or raise worker.memory.mb"
        )
    return None
