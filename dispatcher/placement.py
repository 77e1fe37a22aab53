"""Who serves whom: the executors of the applications on the workers of one dispatcher."""

import asyncio

from common.logs import get_logger
from common.messages import (
    ApplicationCounts,
    ApplicationState,
    EndCause,
    ExecutorDraining,
    ExecutorEnded,
    ExecutorLost,
    ExecutorReady,
    HeldExecutor,
    PoolChanged,
    StartExecutor,
    StopExecutor,
    WorkerHello,
    WorkerRefused,
    WorkerState,
)
from common.settings import SelectorName
from dispatcher.members import Executor, ExecutorState, Refusal, ServedApplication, Worker
from dispatcher.selector import Selector, selector

log = get_logger(__name__)
# What did not work a moment ago is tried again, but not in a tight loop.
RETRY_S = 10.0


class Placement:
    """The executors between workers and applications, from the wish for one to its end.

    Args:
        workers, applications: those of the pool, by id and by key.
        max_slots: the most that one application gets here; 0 for no limit.
    """

    def __init__(
        self,
        workers: dict[str, Worker],
        applications: dict[str, ServedApplication],
        select: SelectorName,
        max_slots: int,
    ) -> None:
        self._workers = workers
        self._applications = applications
        self._select: Selector[Worker] = selector(select)
        self._max_slots = max_slots

    # What workers say

    def started(self, worker: Worker, key: str, executor_id: int, port: int) -> None:
        """An executor takes tasks. Harmless when said twice."""
        if (held := worker.unclaimed.get((key, executor_id))) is not None:
            worker.unclaimed[key, executor_id] = held.model_copy(update={"port": port})
        executor = worker.executors.get((key, executor_id))
        if executor is not None and executor.state is ExecutorState.STARTING:
            executor.port = port
            log.info("executor.ready", app=executor.app.application.id, executor=executor_id)
            self._announce(executor)

    def ended(self, worker: Worker, message: ExecutorEnded) -> None:
        """An executor is gone. Harmless when said twice."""
        worker.unclaimed.pop((message.application, message.executor), None)
        executor = worker.executors.get((message.application, message.executor))
        if executor is None:
            return
        app = executor.app
        if executor.state is not ExecutorState.STOPPING:
            if message.cause is EndCause.REFUSED:
                self._refuse(app, worker, message.reason, RETRY_S)
            elif message.cause is EndCause.RELEASED and not worker.draining:
                # The driver knows; it has only to be remembered that none is to follow.
                app.refusals[worker.id] = Refusal(message.reason, None)
        self.forget(executor, message.reason, message.cause is EndCause.APPLICATION)
        # Memory came free: whoever was refused for want of it may try again.
        for other in self._applications.values():
            if (refusal := other.refusals.get(worker.id)) and other is not app and refusal.retry_at:
                del other.refusals[worker.id]
        self.place()

    def reconcile(self, worker: Worker) -> None:
        """Brings what is known here in line with what a worker holds that has just attached."""
        held = {(one.application, one.executor): one for one in worker.hello.executors}
        for executor in list(worker.executors.values()):
            if executor.key not in held:
                self.forget(executor, f"worker {worker.id} came back without it")
        worker.unclaimed = {key: one for key, one in held.items() if key not in worker.executors}
        for executor in worker.executors.values():
            if executor.state is ExecutorState.STOPPING:
                self._stop(executor)
            elif port := held[executor.key].port:
                executor.port = port
                self._announce(executor)
        for app in self._applications.values():
            self.claim(app, worker)

    # What agents say

    def claim(self, app: ServedApplication, worker: Worker) -> None:
        """Takes over what a worker held for the application when it came from elsewhere."""
        for key, one in list(worker.unclaimed.items()):
            if key[0] == app.key:
                del worker.unclaimed[key]
                self._adopt(app, worker, one)

    def reannounce(self, app: ServedApplication) -> None:
        """Tells an agent that is back of the executors that it has here."""
        for executor in app.executors.values():
            if executor.state is ExecutorState.READY:
                self._announce(executor)

    def release(self, app: ServedApplication, executor_id: int, reason: str) -> None:
        """The driver does not have this executor any more. Harmless when said twice."""
        executor = app.executors.pop(executor_id, None)
        if executor is not None:
            log.info("executor.released", app=app.application.id, executor=executor_id,
                     reason=reason)  # fmt: skip
            self._stop(executor)

    def stop_all(self, app: ServedApplication) -> None:
        """The application is over."""
        for executor in app.executors.values():
            self._stop(executor)

    # What the pool does

    def drain(self, worker: Worker) -> None:
        """The worker takes nothing new; whoever it serves is told."""
        for executor in list(worker.executors.values()):
            if executor.state is ExecutorState.STARTING:
                self.release(executor.app, executor.id, "its worker drains")
            elif executor.state is ExecutorState.READY:
                self._say_draining(executor)
        self.place()

    def unstall(self, worker: Worker) -> None:
        """There is room again on the worker's stream: what was dropped is to be repeated."""
        for executor in worker.executors.values():
            if executor.dropped and executor.state is ExecutorState.READY:
                self._announce(executor)

    def forget(self, executor: Executor, reason: str, by_application: bool = False) -> None:
        """The executor is gone, and its agent is told unless it knows."""
        worker, app = executor.worker, executor.app
        worker.executors.pop(executor.key, None)
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

    def place(self) -> None:
        """Gives every open application the workers that fit it and do not serve it yet."""
        for app in self._applications.values():
            if app.state is ApplicationState.FINISHED or not app.connected:
                continue
            free = [worker for worker in self._workers.values() if self._is_free(worker, app)]
            for worker in self._select(free, lambda one: one.load):
                self._start(app, worker)
            if app.slots != app.promised:
                app.promised = app.slots
                app.tell(PoolChanged(slots=app.slots))

    def _is_free(self, worker: Worker, app: ServedApplication) -> bool:
        if worker.state is not WorkerState.ATTACHED:
            return False
        if any(key == app.key for key, _ in worker.executors):
            return False
        refusal = app.refusals.get(worker.id)
        if refusal is not None:
            return refusal.retry_at is not None and refusal.retry_at <= now()
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
        executor = self._add(Executor(app.next_executor, app, worker, slots))
        app.next_executor += 1
        worker.tell(
            StartExecutor(application=app.application, executor=executor.id, slots=slots)
        )

    def _adopt(self, app: ServedApplication, worker: Worker, held: HeldExecutor) -> None:
        if app.state is ApplicationState.FINISHED:
            worker.tell(StopExecutor(application=app.key, executor=held.executor))
            return
        executor = self._add(Executor(held.executor, app, worker, held.slots, port=held.port))
        log.info("executor.adopted", app=app.application.id, executor=executor.id)
        if executor.port:
            self._announce(executor)

    def _add(self, executor: Executor) -> Executor:
        executor.app.executors[executor.id] = executor
        executor.worker.executors[executor.key] = executor
        return executor

    def _announce(self, executor: Executor) -> None:
        """It takes tasks, by the present streams of its worker and its agent."""
        app, worker = executor.app, executor.worker
        executor.state = ExecutorState.READY
        executor.stalled, executor.dropped = True, False
        app.state = ApplicationState.RUNNING
        app.refusals.pop(worker.id, None)
        app.tell(
            ExecutorReady(
                executor=executor.id,
                attachment=worker.hello.attachment,
                worker=worker.id,
                host=worker.hello.host,
                port=executor.port,
                slots=executor.slots,
            )
        )
        if worker.draining:
            self._say_draining(executor)

    def _say_draining(self, executor: Executor) -> None:
        reason = f"worker {executor.worker.id} is about to leave"
        executor.app.tell(ExecutorDraining(executor=executor.id, reason=reason))

    def _stop(self, executor: Executor) -> None:
        executor.state = ExecutorState.STOPPING
        executor.worker.tell(StopExecutor(application=executor.app.key, executor=executor.id))

    def _refuse(
        self, app: ServedApplication, worker: Worker, reason: str, retry_s: float | None
    ) -> None:
        known = app.refusals.get(worker.id)
        retry_at = now() + retry_s if retry_s is not None else None
        app.refusals[worker.id] = Refusal(reason, retry_at)
        if known is None or known.reason != reason:
            log.warning("app.refused", app=app.application.id, worker=worker.id, reason=reason)
            app.tell(WorkerRefused(worker=worker.id, reason=reason))


def now() -> float:
    """Seconds of the event loop's clock."""
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
