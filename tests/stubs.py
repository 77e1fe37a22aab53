"""What stub workers and agents say, and how they read what they are told."""

from typing import Any

from common.frames import FrameDecoder, Kind
from common.messages import (
    AGENT_EVENT,
    WORKER_COMMAND,
    AgentEvent,
    Application,
    ApplicationHello,
    EndCause,
    ExecutorEnded,
    ExecutorRequest,
    ExecutorStarted,
    StartExecutor,
    WorkerCommand,
    WorkerHello,
)
from common.outbox import Outbox
from common.settings import SelectorName
from dispatcher.members import ServedApplication, Worker
from dispatcher.pool import Pool

KEY = "00000000000000a1"
OTHER_KEY = "00000000000000b2"
SPARK = "4.3.0/2.13"
FIRST = 1_000_000
"""The first executor id that `application_hello` reserves."""


def worker_hello(worker: str = "w1", **changes: Any) -> WorkerHello:
    """A worker of two slots that fits `application()`."""
    values: dict[str, Any] = {
        "id": worker,
        "host": "localhost",
        "pid": 1,
        "url": "http://127.0.0.1:1",
        "slots": 2,
        "memory_mb": 4096,
        "sparks": (SPARK,),
        "pythons": ("3.11",),
        "version": "0",
    }
    return WorkerHello(**values | changes)


def application(
    key: str = KEY, *, task_cpus: int = 1, memory_mb: int = 1024, **changes: Any
) -> Application:
    """A PySpark application whose agent does not exist."""
    values: dict[str, Any] = {
        "key": key,
        "id": f"app-{key[-2:]}",
        "name": "a job",
        "user": "somebody",
        "spark": SPARK,
        "python": "3.11",
        "driver_url": "spark://CoarseGrainedScheduler@localhost:1",
        "results_url": "http://127.0.0.1:1",
        "results_token": "t",
        "executor": ExecutorRequest(memory_mb=memory_mb, overhead_mb=0, task_cpus=task_cpus),
    }
    return Application(**values | changes)


def application_hello(
    key: str = KEY, first_executor: int = FIRST, **changes: Any
) -> ApplicationHello:
    return ApplicationHello(application=application(key, **changes), first_executor=first_executor)


def waiting_in(outbox: Outbox) -> bytes:
    """Takes what waits there, without a reader."""
    return b"".join(outbox._take())


def controls(data: bytes) -> list[bytes]:
    """The payloads of the CONTROL frames in these bytes."""
    frames = FrameDecoder(2**31 - 1).feed(data)
    return [frame.payload for frame in frames if frame.kind == Kind.CONTROL]


def commands(data: bytes) -> list[WorkerCommand]:
    return [WORKER_COMMAND.validate_json(payload) for payload in controls(data)]


def events(data: bytes) -> list[AgentEvent]:
    return [AGENT_EVENT.validate_json(payload) for payload in controls(data)]


class StubPool(Pool):
    """A pool with workers and agents that speak only when a test lets them."""

    def __init__(self, max_slots: int = 0) -> None:
        super().__init__(SelectorName.LEAST_LOADED, max_slots)

    def opened(self, key: str = KEY, **changes: Any) -> ServedApplication:
        welcome = self.open(application_hello(key, **changes))
        return self.application(key, welcome.stream)

    def say_started(self, worker: Worker, key: str = KEY, executor: int = FIRST) -> None:
        self.started(
            worker,
            ExecutorStarted(stream=worker.stream, application=key, executor=executor, port=7),
        )

    def say_ended(
        self, worker: Worker, cause: EndCause, key: str = KEY, executor: int = FIRST
    ) -> None:
        self.ended(
            worker,
            ExecutorEnded(
                stream=worker.stream, application=key, executor=executor, reason="why", cause=cause
            ),
        )


def told(app: ServedApplication) -> list[object]:
    """What the agent is told that it was not told before."""
    return [*events(waiting_in(app.events))]


def asked(worker: Worker) -> list[object]:
    """What the worker is asked for that it was not asked for before."""
    return [*commands(waiting_in(worker.outbox))]


def starts(worker: Worker) -> list[tuple[int, int]]:
    """Executor and slots of each start that the worker is asked for."""
    return [(c.executor, c.slots) for c in asked(worker) if isinstance(c, StartExecutor)]
