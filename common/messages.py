"""All control messages, grouped by direction. JSON, typed and validated.

Task bytes and results never travel here: they are frames (`common.frames`).
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

ApplicationKey = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""The random key of one SparkContext, 64 bits in hexadecimal."""


class Message(BaseModel):
    """A control message: immutable, and nothing in it that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# What an executor needs. Made in the driver, handed on unchanged to the worker.


class ExecutorRequest(Message):
    """What the executor JVMs of one application are started with."""

    memory_mb: Annotated[int, Field(gt=0)]
    """Heap, `spark.executor.memory`."""
    overhead_mb: Annotated[int, Field(ge=0)]
    """What the process takes beside its heap: overhead, off-heap and PySpark memory."""
    java_options: str = ""
    class_path: str = ""
    library_path: str = ""
    environment: dict[str, str] = {}
    conf: dict[str, str] = {}
    """Settings that an executor needs before it can ask the driver for the others."""
    task_cpus: Annotated[int, Field(gt=0)] = 1

    @property
    def total_mb(self) -> int:
        return self.memory_mb + self.overhead_mb


class Application(Message):
    """One SparkContext."""

    key: ApplicationKey
    id: str
    """Spark's application id, for people: it can repeat."""
    name: str
    user: str
    spark: str
    """Version of Spark and Scala as `4.3.0/2.13`: executor and driver must have the same."""
    python: str | None = None
    """`3.11` for a PySpark application, none for a JVM one."""
    python_path: str = ""
    """Path of that interpreter on the driver's machine."""
    driver_url: str
    results_url: str
    """Where workers send results: the agent."""
    results_token: str
    executor: ExecutorRequest


# Driver JVM to agent, over py4j as JSON.


class DriverApplication(Message):
    """What the driver JVM tells its agent of the application."""

    key: ApplicationKey
    id: str
    name: str
    user: str
    spark: str
    driver_url: str
    spark_home: str
    local_slots: Annotated[int, Field(gt=0)]
    """Slots that this job would have had inside: the N of `local[N]`."""
    local_master: bool
    """Whether the slots inside are ours to start; a cluster manager starts its own."""
    executors: tuple[int, ...] = ()
    """External executors that Spark has already, by an agent that died."""
    executor: ExecutorRequest


# Agent to dispatcher.


class ApplicationHello(Message):
    """Opens an application at a dispatcher, or opens it again after its streams broke."""

    application: Application
    first_executor: Annotated[int, Field(gt=0)]
    """Executor ids of this opening count up from here; a later opening has a higher number."""


class ApplicationWelcome(Message):
    stream: str
    slots: int
    """Slots of the workers that are going to serve the application."""


class ReleaseExecutor(Message):
    """The driver does not have this executor any more. A CONTROL frame on the task stream."""

    executor: int
    reason: str


# Dispatcher to agent, as CONTROL frames on the event stream.


class ExecutorReady(Message):
    """An executor takes tasks, by this dispatcher; it may have been reached by another before."""

    type: Literal["executor_ready"] = "executor_ready"
    executor: int
    attachment: int
    """Which attachment of its worker this is: the highest one is the present way."""
    worker: str
    host: str
    port: int
    """Port of the executor's block manager: with the host it names the executor's address."""
    slots: int


class ExecutorLost(Message):
    type: Literal["executor_lost"] = "executor_lost"
    executor: int
    worker: str
    reason: str
    by_application: bool = False
    """Whether the application's own tasks ended it (out of memory), which counts as failure."""


class ExecutorDraining(Message):
    """The worker is about to leave: no new task, and what others need is to be moved away."""

    type: Literal["executor_draining"] = "executor_draining"
    executor: int
    reason: str


class WorkerRefused(Message):
    """A worker does not serve the application."""

    type: Literal["worker_refused"] = "worker_refused"
    worker: str
    reason: str


class PoolChanged(Message):
    type: Literal["pool_changed"] = "pool_changed"
    slots: int


AgentEvent = Annotated[
    ExecutorReady | ExecutorLost | ExecutorDraining | WorkerRefused | PoolChanged,
    Field(discriminator="type"),
]
AGENT_EVENT: TypeAdapter[AgentEvent] = TypeAdapter(AgentEvent)


# Worker to dispatcher.


class WorkerState(StrEnum):
    """The life of a worker, as its dispatcher sees it."""

    ATTACHED = "ATTACHED"  # its stream is open, it takes tasks
    DRAINING = "DRAINING"  # its stream is open, it takes no new task and will leave
    DISCONNECTED = "DISCONNECTED"  # its stream broke a moment ago, it may come back
    LOST = "LOST"  # it did not come back in time, or was silent for too long
    LEFT = "LEFT"  # it said goodbye


# The states in which a worker is spoken to, and those that it does not come back from.
PRESENT = frozenset({WorkerState.ATTACHED, WorkerState.DRAINING})
GONE = frozenset({WorkerState.LOST, WorkerState.LEFT})


class HeldExecutor(Message):
    """An executor that a worker has when it attaches."""

    application: ApplicationKey
    executor: int
    slots: Annotated[int, Field(gt=0)]
    port: int
    """Of its block manager, 0 while it is starting."""


class WorkerHello(Message):
    """Attaches a worker, or attaches it again: then it says what it holds."""

    id: Annotated[str, Field(min_length=1, max_length=64)]
    attachment: Annotated[int, Field(gt=0)] = 1
    """Counts the worker's attachments, at whichever dispatcher."""
    draining: bool = False
    executors: tuple[HeldExecutor, ...] = ()
    host: str
    pid: int
    url: str
    """The worker's own HTTP service, on its loopback."""
    slots: Annotated[int, Field(gt=0)]
    memory_mb: Annotated[int, Field(gt=0)]
    sparks: tuple[str, ...]
    pythons: tuple[str, ...]
    version: str


class WorkerWelcome(Message):
    stream: str
    heartbeat_s: float
    dispatchers: tuple[str, ...] = ()
    """URLs of the dispatchers of this pool, for the day when this one is gone."""


class ApplicationCounts(Message):
    running: int = 0
    queued: int = 0
    done: int = 0
    failed: int = 0


class WorkerReport(Message):
    """The heartbeat: what the worker does and has done since its start."""

    stream: str
    slots_busy: int
    tasks_done: int
    tasks_failed: int
    tasks_moved: int
    applications: dict[ApplicationKey, ApplicationCounts]


class ExecutorStarted(Message):
    type: Literal["started"] = "started"
    stream: str
    application: ApplicationKey
    executor: int
    port: int


class EndCause(StrEnum):
    """Why an executor ended, which says what comes next."""

    LOST = "LOST"  # it died or was killed: another may start at once
    APPLICATION = "APPLICATION"  # its own tasks ended it: the same, and it counts as failure
    REFUSED = "REFUSED"  # it could not be started: to be tried again later
    RELEASED = "RELEASED"  # its driver stopped it: none is to follow


class ExecutorEnded(Message):
    """An executor JVM is gone, or could not be started."""

    type: Literal["ended"] = "ended"
    stream: str
    application: ApplicationKey
    executor: int
    reason: str
    cause: EndCause


ExecutorChange = Annotated[ExecutorStarted | ExecutorEnded, Field(discriminator="type")]


# Dispatcher to worker, as CONTROL frames on the worker's stream.


class StartExecutor(Message):
    type: Literal["start_executor"] = "start_executor"
    application: Application
    executor: int
    slots: int


class StopExecutor(Message):
    type: Literal["stop_executor"] = "stop_executor"
    application: ApplicationKey
    executor: int


class Drain(Message):
    """Asks the worker to finish what it runs and to leave."""

    type: Literal["drain"] = "drain"


class KnowDispatchers(Message):
    """The dispatchers of this pool are others than before."""

    type: Literal["know_dispatchers"] = "know_dispatchers"
    urls: tuple[str, ...]


class SendReport(Message):
    """Asks for a report now, so that a status shows what is and not what was."""

    type: Literal["send_report"] = "send_report"


WorkerCommand = Annotated[
    StartExecutor | StopExecutor | Drain | KnowDispatchers | SendReport,
    Field(discriminator="type"),
]
WORKER_COMMAND: TypeAdapter[WorkerCommand] = TypeAdapter(WorkerCommand)


# Worker to agent.


class ResultsHello(Message):
    """Opens the result stream of one executor."""

    executor: int
    opening: Annotated[int, Field(gt=0)] = 1
    """Counts the openings of this executor's stream; the last one is the one that is heard."""


class ResultsWelcome(Message):
    stream: str
    heartbeat_s: float


# Worker to its executor JVM, one line of JSON on its standard input.


class ExecutorLaunch(Message):
    executor: int
    application: str
    driver_url: str
    host: str
    slots: int
    channel_port: int
    channel_token: str
    conf: dict[str, str]
    pythons: dict[str, str]
    """Path of the interpreter for each Python version that the worker has."""


# Status, for people and for `spark-proxy status --json`.


class ApplicationState(StrEnum):
    """The life of an application, as a dispatcher sees it."""

    WAITING = "WAITING"  # no executor is ready yet
    RUNNING = "RUNNING"  # at least one executor is ready
    FINISHED = "FINISHED"  # its driver said goodbye, or its stream broke


class DispatcherStatus(Message):
    id: str
    url: str
    pid: int
    workers: int


class WorkerStatus(Message):
    id: str
    host: str
    pid: int
    dispatcher: str
    state: WorkerState
    slots: int
    slots_busy: int
    tasks_done: int
    tasks_failed: int
    tasks_moved: int
    apps: tuple[str, ...]
    sparks: tuple[str, ...]
    pythons: tuple[str, ...]
    memory_mb: int


class ApplicationStatus(Message):
    id: str
    key: ApplicationKey
    name: str
    user: str
    state: ApplicationState
    running: int
    queued: int
    done: int
    failed: int
    refused: dict[str, str]
    """By worker: why it does not serve this application."""


class PoolStatus(Message):
    """What one dispatcher knows, and, merged, the whole pool."""

    dispatchers: tuple[DispatcherStatus, ...]
    workers: tuple[WorkerStatus, ...]
    apps: tuple[ApplicationStatus, ...]
