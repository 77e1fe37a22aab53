"""What a dispatcher knows: workers, applications, and the executors between them."""

from dataclasses import dataclass, field
from enum import StrEnum

from common.frames import Kind, encode
from common.messages import (
    GONE,
    AgentEvent,
    Application,
    ApplicationCounts,
    ApplicationHello,
    ApplicationState,
    ApplicationStatus,
    HeldExecutor,
    WorkerCommand,
    WorkerHello,
    WorkerReport,
    WorkerState,
    WorkerStatus,
)
from common.outbox import Outbox
from common.security import new_token

ExecutorKey = tuple[str, int]
"""Application key and executor id."""


class ExecutorState(StrEnum):
    """The life of an executor, as its dispatcher sees it."""

    STARTING = "STARTING"  # the worker was asked for it
    READY = "READY"  # it takes tasks
    STOPPING = "STOPPING"  # the application is over; its JVM is on its way out


@dataclass(eq=False)
class Worker:
    """One worker and the stream to it."""

    hello: WorkerHello
    stream: str = field(default_factory=new_token)
    outbox: Outbox = field(default_factory=Outbox)
    state: WorkerState = WorkerState.ATTACHED
    draining: bool = False
    report: WorkerReport | None = None
    reports: int = 0
    heard: float = 0.0
    """When it last reported, in seconds of the event loop's clock."""
    streaming: bool = False
    """Whether somebody reads its stream, which only one can."""
    executors: dict[ExecutorKey, "Executor"] = field(default_factory=dict)
    unclaimed: dict[ExecutorKey, HeldExecutor] = field(default_factory=dict)
    """What it holds for applications that are not open here, or not yet."""

    def attach(self, hello: WorkerHello) -> None:
        """It is here, by a stream of this attachment; what waited on an older one is lost."""
        self.outbox.close()
        self.hello, self.stream, self.outbox = hello, new_token(), Outbox()
        self.streaming = False
        self.draining = self.draining or hello.draining
        self.state = WorkerState.DRAINING if self.draining else WorkerState.ATTACHED

    @property
    def id(self) -> str:
        return self.hello.id

    @property
    def load(self) -> float:
        """Busy slots over slots."""
        return (self.report.slots_busy if self.report else 0) / self.hello.slots

    def tell(self, command: WorkerCommand) -> None:
        self.outbox.put(encode(Kind.CONTROL, command.model_dump_json().encode()))

    def status(self, dispatcher: str) -> WorkerStatus:
        hello, report = self.hello, self.report
        names = {executor.app.application.id for executor in self.executors.values()}
        return WorkerStatus(
            id=self.id,
            host=hello.host,
            pid=hello.pid,
            dispatcher=dispatcher,
            state=self.state,
            slots=hello.slots,
            slots_busy=report.slots_busy if report and self.state not in GONE else 0,
            tasks_done=report.tasks_done if report else 0,
            tasks_failed=report.tasks_failed if report else 0,
            tasks_moved=report.tasks_moved if report else 0,
            apps=tuple(sorted(names)),
            sparks=hello.sparks,
            pythons=hello.pythons,
            memory_mb=hello.memory_mb,
        )


@dataclass(frozen=True)
class Refusal:
    """Why a worker does not serve an application, and when to ask again (loop time, seconds)."""

    reason: str
    retry_at: float | None


@dataclass(eq=False)
class ServedApplication:
    """One application and the event stream to its agent."""

    application: Application
    opening: int
    """Which opening this is: its first executor id."""
    next_executor: int
    connected: bool = True
    """Whether its agent is there; else it may come back, and what runs goes on."""
    streaming: bool = False
    """Whether somebody reads its events, which only one can."""
    stream: str = field(default_factory=new_token)
    events: Outbox = field(default_factory=Outbox)
    state: ApplicationState = ApplicationState.WAITING
    executors: dict[int, "Executor"] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    counts: dict[str, ApplicationCounts] = field(default_factory=dict)
    promised: int = 0
    """Slots that its agent was last told of."""
    heard: float = 0.0
    """When its agent last sent something, in seconds of the event loop's clock."""

    @classmethod
    def of(cls, hello: ApplicationHello) -> "ServedApplication":
        return cls(hello.application, hello.first_executor, hello.first_executor)

    def reopen(self, hello: ApplicationHello) -> None:
        """Its agent is back, or another one in its place."""
        self.events.close()
        self.application, self.opening = hello.application, hello.first_executor
        self.next_executor, self.connected = hello.first_executor, True
        self.streaming = False
        self.stream, self.events = new_token(), Outbox()

    @property
    def key(self) -> str:
        return self.application.key

    @property
    def slots(self) -> int:
        """Slots of the executors that serve it, or are about to."""
        return sum(e.slots for e in self.executors.values() if not e.worker.draining)

    def tell(self, event: AgentEvent) -> None:
        self.events.put(encode(Kind.CONTROL, event.model_dump_json().encode()))

    def status(self) -> ApplicationStatus:
        application, counts = self.application, self.counts.values()
        return ApplicationStatus(
            id=application.id,
            key=application.key,
            name=application.name,
            user=application.user,
            state=self.state,
            running=sum(count.running for count in counts),
            queued=sum(count.queued for count in counts),
            done=sum(count.done for count in counts),
            failed=sum(count.failed for count in counts),
            refused={worker: refusal.reason for worker, refusal in self.refusals.items()},
        )


@dataclass(eq=False)
class Executor:
    """One application on one worker."""

    id: int
    app: ServedApplication
    worker: Worker
    slots: int
    state: ExecutorState = ExecutorState.STARTING
    port: int = 0
    """Of its block manager, once it is ready."""
    stalled: bool = True
    """Whether frames for it are dropped, until its driver repeats them behind a RESUME."""
    dropped: bool = False
    """Whether that is for want of room, and its driver is to be asked when there is some."""

    @property
    def key(self) -> ExecutorKey:
        return self.app.key, self.id
