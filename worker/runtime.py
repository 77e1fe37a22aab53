"""The executor JVMs of a worker: one for each application it serves."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

from common.executor import APPLICATION_EXITS, ExecutorFailedToStart, ExecutorPlan, ExecutorProcess
from common.frames import FINAL_STATES, Frame, Kind, TaskState, encode, next_number
from common.logs import get_logger
from common.messages import (
    ApplicationCounts,
    EndCause,
    HeldExecutor,
    StartExecutor,
    StopExecutor,
)
from common.settings import Home
from common.shim import shim_jar
from common.spark import SparkHome
from worker.machine import python_for
from worker.results import FLUSH_S, LEAVING_FLUSH_S, ResultStream
from worker.slots import Owner, SlotGate

log = get_logger(__name__)

Started = Callable[[StartExecutor, int], Coroutine[None, None, None]]
Ended = Callable[[str, int, str, EndCause], Coroutine[None, None, None]]


@dataclass(frozen=True)
class Lent:
    """What this worker lends."""

    id: str
    host: str
    slots: int
    memory_mb: int
    java: Path
    sparks: dict[str, SparkHome]
    pythons: dict[str, str]
    pythons_named: bool
    max_frame_bytes: int


@dataclass(eq=False)
class RunningExecutor:
    """One executor JVM and its results' way back."""

    command: StartExecutor
    process: ExecutorProcess
    results: ResultStream
    port: int = 0
    """Of its block manager, once it takes tasks."""
    taken: int = 0
    """The number of the last frame that it was sent."""
    done: int = 0
    failed: int = 0
    stopping: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """It has ended, and its results are sent; its dispatcher may not know yet."""
    life: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def owner(self) -> Owner:
        return int(self.command.application.key, 16), self.command.executor


class Runtime:
    """Starts and ends executors, and carries frames between them and the streams.

    Args:
        started: told the block manager's port when an executor takes tasks.
        ended: told application key, executor, reason and cause when one is gone, after the last
            of its results was sent; returns when its dispatcher knows.
    """

    def __init__(self, lent: Lent, home: Home, started: Started, ended: Ended) -> None:
        self._lent = lent
        self._home = home
        self._started = started
        self._ended = ended
        self._executors: dict[Owner, RunningExecutor] = {}
        self._gate = SlotGate(lent.slots, self._launch)
        self.draining = False
        self.tasks_done = 0
        self.tasks_failed = 0

    @property
    def slots_busy(self) -> int:
        return self._gate.busy

    def counts(self) -> dict[str, ApplicationCounts]:
        """By application key; an application has one executor here at a time."""
        counts = {}
        for owner, executor in self._living():
            running, queued = self._gate.counts(owner)
            counts[executor.command.application.key] = ApplicationCounts(
                running=running, queued=queued, done=executor.done, failed=executor.failed
            )
        return counts

    def start(self, command: StartExecutor) -> None:
        """Begins to start an executor. The same command twice starts one."""
        app = command.application
        owner = int(app.key, 16), command.executor
        if owner in self._executors:
            return
        process = ExecutorProcess(self._plan(command), lambda frames: self._collect(owner, frames))
        results = ResultStream(
            app.results_url, app.results_token, command.executor, lambda: self._confirm(owner)
        )
        executor = RunningExecutor(command, process, results)
        refusal = self._no_room(command)
        self._executors[owner] = executor
        executor.life = asyncio.create_task(self._live(executor, refusal))

    def stop(self, command: StopExecutor) -> None:
        executor = self._executors.get((int(command.application, 16), command.executor))
        if executor is not None:
            self._begin_stop(executor)
        else:
            # Whoever says so does not know yet that it has ended.
            telling = self._ended(
                command.application, command.executor, "it has ended before", EndCause.LOST
            )
            asyncio.create_task(telling)  # noqa: RUF006 - it lasts until somebody knows

    async def stop_all(self) -> None:
        """Ends every executor and waits for it, but not for a dispatcher to know."""
        executors = list(self._executors.values())
        for executor in executors:
            self._begin_stop(executor)
        await asyncio.gather(*(executor.over.wait() for executor in executors))
        for executor in executors:
            if executor.life is not None:
                executor.life.cancel()

    async def empty(self) -> None:
        """Waits until no executor is left."""
        while lives := [e.life for e in self._executors.values() if e.life is not None]:
            await asyncio.wait(lives)

    def held(self) -> tuple[HeldExecutor, ...]:
        """What this worker has when it attaches, those included whose end is not known yet."""
        return tuple(
            HeldExecutor(
                application=executor.command.application.key,
                executor=executor.command.executor,
                slots=executor.command.slots,
                port=executor.port,
            )
            for executor in self._executors.values()
        )

    def take(self, frame: Frame) -> None:
        """A frame of a driver; one for an executor that is gone is dropped.

        Raises:
            FrameLost: one before it did not arrive.
        """
        executor = self._executors.get((frame.app, frame.executor))
        if executor is None or executor.over.is_set():
            return
        if frame.kind == Kind.ACK:
            executor.results.acknowledge(frame.sequence)
        elif next_number(executor.taken, frame):
            executor.taken = frame.sequence
            if frame.kind == Kind.LAUNCH:
                self._gate.offer(frame)
            else:
                # A kill must not overtake the launch of its task.
                self._gate.hurry(executor.owner, frame.task)
                executor.process.send(frame.raw)

    def _living(self) -> list[tuple[Owner, RunningExecutor]]:
        return [(o, e) for o, e in self._executors.items() if not e.over.is_set()]

    def _confirm(self, owner: Owner) -> bytes:
        app, executor = owner
        taken = self._executors[owner].taken
        return encode(Kind.ACK, app=app, executor=executor, sequence=taken)

    def _launch(self, frame: Frame) -> None:
        self._executors[frame.app, frame.executor].process.send(frame.raw)

    def _collect(self, owner: Owner, frames: list[Frame]) -> None:
        executor = self._executors[owner]
        for frame in frames:
            if frame.kind == Kind.STATUS and frame.state in FINAL_STATES:
                self._count(executor, frame.state)
                self._gate.finish(owner, frame.task)
            executor.results.put(frame)

    def _count(self, executor: RunningExecutor, state: int) -> None:
        if state == TaskState.FINISHED:
            executor.done += 1
            self.tasks_done += 1
        elif state == TaskState.FAILED:
            executor.failed += 1
            self.tasks_failed += 1

    async def _live(self, executor: RunningExecutor, refusal: str | None) -> None:
        """The life of one executor, from its start to the word that it has ended."""
        command, sending = executor.command, asyncio.create_task(executor.results.run())
        ids = {"app": command.application.id, "executor": command.executor}
        try:
            if refusal is not None:
                reason, cause = refusal, EndCause.REFUSED
            else:
                reason, cause = await self._run(executor, sending)
        except ExecutorFailedToStart as error:
            reason, cause = str(error), EndCause.LOST if error.killed else EndCause.REFUSED
        patience_s = LEAVING_FLUSH_S if self.draining else FLUSH_S
        executor.results.close(patience_s)
        await asyncio.wait({sending}, timeout=patience_s)
        sending.cancel()
        self._gate.drop(executor.owner)
        executor.over.set()
        log.info("executor.ended", **ids, reason=reason, cause=cause)
        await self._ended(command.application.key, command.executor, reason, cause)
        del self._executors[executor.owner]

    async def _run(
        self, executor: RunningExecutor, sending: "asyncio.Task[None]"
    ) -> tuple[str, EndCause]:
        process = executor.process
        port = await process.start()
        if executor.stopping:
            # The word to stop came while there was no JVM yet to be told.
            await process.stop()
        executor.port = port
        telling = asyncio.create_task(self._started(executor.command, port))
        exit_ = asyncio.create_task(process.ended())
        await asyncio.wait({exit_, sending}, return_when=asyncio.FIRST_COMPLETED)
        telling.cancel()
        if not exit_.done():
            await process.stop()
            return "its driver's agent takes no results from it", EndCause.LOST
        return _end(executor, exit_.result())

    def _begin_stop(self, executor: RunningExecutor) -> None:
        if not executor.stopping:
            executor.stopping = True
            asyncio.create_task(executor.process.stop())  # noqa: RUF006 - `_live` waits for it

    def _no_room(self, command: StartExecutor) -> str | None:
        if self.draining:
            return "it is about to leave"
        taken = sum(e.command.application.executor.total_mb for _, e in self._living())
        wanted = command.application.executor.total_mb
        if taken + wanted <= self._lent.memory_mb:
            return None
        return (
            f"an executor takes {wanted} MB and of {self._lent.memory_mb} MB lent "
            f"{taken} MB are taken by other applications"
        )

    def _plan(self, command: StartExecutor) -> ExecutorPlan:
        lent, app = self._lent, command.application
        spark = lent.sparks[app.spark]
        name = f"{app.key}-{command.executor}"
        return ExecutorPlan(
            application=app,
            executor=command.executor,
            host=lent.host,
            slots=command.slots,
            java=lent.java,
            spark_home=spark.root,
            jar=shim_jar(spark, self._home.jars),
            scratch=self._home.executors / lent.id / name,
            logs=self._home.app_logs(app.id) / str(command.executor),
            pythons=python_for(app, lent.pythons, lent.pythons_named),
            max_frame_bytes=lent.max_frame_bytes,
        )


def _end(executor: RunningExecutor, code: int) -> tuple[str, EndCause]:
    """What the end of its JVM with this exit code means."""
    if executor.stopping:
        return "it was stopped", EndCause.LOST
    if code == 0:
        return "its driver stopped it", EndCause.RELEASED
    reason = f"the executor ended with exit status {code}; see {executor.process.log_file}"
    return reason, EndCause.APPLICATION if code in APPLICATION_EXITS else EndCause.LOST
