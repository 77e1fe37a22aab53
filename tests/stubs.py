"""What stub workers and agents say, and how they read what they are told."""

from typing import Any

from common.frames import Frame, FrameDecoder, Kind, encode
from common.messages import (
    AGENT_EVENT,
    WORKER_COMMAND,
    AgentEvent,
    Application,
    ApplicationHello,
    EndCause,
    ExecutorEnded,
    ExecutorRequest,
    HeldExecutor,
    ReleaseExecutor,
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


def held(executor: int = FIRST, key: str = KEY, *, slots: int = 2, port: int = 7) -> HeldExecutor:
    """An executor that a worker says it has; with port 0 it is still starting."""
    return HeldExecutor(application=key, executor=executor, slots=slots, port=port)


def frame(
    kind: Kind, payload: bytes = b"", *, key: str = KEY, executor: int = FIRST, **fields: int
) -> Frame:
    """A frame of this application's driver, or of its executor."""
    raw = encode(kind, payload, executor=executor, app=int(key, 16), **fields)
    (decoded,) = FrameDecoder(2**31 - 1).feed(raw)
    return decoded


def release(executor: int = FIRST, key: str = KEY) -> Frame:
    """What an agent says of an executor that its driver does not have."""
    message = ReleaseExecutor(executor=executor, reason="it was removed")
    return frame(Kind.CONTROL, message.model_dump_json().encode(), key=key)


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
        self.placement.started(worker, key, executor, 7)

    def say_ended(
        self, worker: Worker, cause: EndCause, key: str = KEY, executor: int = FIRST
    ) -> None:
        self.placement.ended(
            worker,
            ExecutorEnded(
                stream=worker.stream, application=key, executor=executor, reason="why", cause=cause
            ),
        )

    def say_resume(self, app: ServedApplication, executor: int = FIRST) -> None:
        """What an agent sends when it has heard that an executor is ready, before all else."""
        self.route(app, [frame(Kind.RESUME, key=app.key, executor=executor)])

    def everything(self) -> object:
        """All that it knows and has to say, but for the times of it."""
        return (
            [
                (w.status(""), w.stream, w.draining, w.hello, w.streaming, list(w.outbox._waiting))
                for w in self.workers.values()
            ],
            [(sorted(w.executors), w.unclaimed.copy()) for w in self.workers.values()],
            [
                (e.key, e.state, e.slots, e.port, e.stalled, e.dropped)
                for w in self.workers.values()
                for e in w.executors.values()
            ],
            [
                (a.status(), a.stream, a.connected, a.opening, a.next_executor, a.promised)
                for a in self.applications.values()
            ],
            [(sorted(a.executors), list(a.events._waiting)) for a in self.applications.values()],
        )

    def ready(self, **changes: Any) -> tuple[Worker, ServedApplication]:
        """A worker whose executor serves an application; both know, nothing waits for them."""
        worker, app = self.attach(worker_hello(**changes)), self.opened()
        self.say_started(worker)
        self.say_resume(app)
        waiting_in(worker.outbox)
        waiting_in(app.events)
        return worker, app


def told(app: ServedApplication) -> list[object]:
    """What the agent is told that it was not told before."""
    return [*events(waiting_in(app.events))]


def asked(worker: Worker) -> list[object]:
    """What the worker is asked for that it was not asked for before."""
    return [*commands(waiting_in(worker.outbox))]


def starts(worker: Worker) -> list[tuple[int, int]]:
    """Executor and slots of each start that the worker is asked for."""
    return [(c.executor, c.slots) for c in asked(worker) if isinstance(c, StartExecutor)]
