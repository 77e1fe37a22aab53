"""The dispatcher's HTTP side."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry

from common.errors import FrameError, RefusedError
from common.logs import get_logger
from common.messages import (
    ApplicationHello,
    ApplicationState,
    ApplicationWelcome,
    DispatcherStatus,
    ExecutorChange,
    ExecutorStarted,
    PoolStatus,
    WorkerHello,
    WorkerReport,
    WorkerState,
    WorkerWelcome,
)
from common.settings import Settings
from common.web import CLOSE, frame_stream, frames_of, new_app, token_is
from dispatcher.members import ServedApplication, Worker
from dispatcher.pool import Pool

log = get_logger(__name__)
# A status waits this long for the workers' latest numbers.
REFRESH_S = 1.0

Stream = Annotated[str, Query(description="the stream id that attaching gave")]


def new_server(
    pool: Pool,
    settings: Settings,
    token: str,
    metrics: CollectorRegistry,
    describe: Callable[[], DispatcherStatus],
) -> FastAPI:
    app = new_app("dispatcher", token_is(token), settings.message_max_bytes, metrics)

    @app.exception_handler(RefusedError)
    async def refuse(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"detail": error.reason}, status_code=error.status, headers=CLOSE)

    _add_worker_routes(app, pool, settings)
    _add_application_routes(app, pool, settings)

    @app.get("/status")
    async def status() -> PoolStatus:
        """What this dispatcher knows, with its workers' numbers of this moment."""
        await pool.refresh(REFRESH_S)
        me = describe()
        return PoolStatus(
            dispatchers=(me,),
            workers=tuple(worker.status(me.id) for worker in pool.workers.values()),
            apps=tuple(served.status() for served in pool.applications.values()),
        )

    return app


def _add_worker_routes(app: FastAPI, pool: Pool, settings: Settings) -> None:
    @app.post("/workers")
    async def attach(hello: WorkerHello) -> WorkerWelcome:
        worker = pool.attach(hello)
        return WorkerWelcome(stream=worker.stream, heartbeat_s=settings.heartbeat)

    @app.get("/workers/{worker_id}/stream")
    async def push(worker_id: str, stream: Stream) -> StreamingResponse:
        """Tasks and commands, for as long as the worker is there."""
        worker = pool.worker(worker_id, stream)
        if worker.streaming:
            raise RefusedError("dispatcher", 409, f"the stream of worker {worker_id} is taken")
        worker.streaming = True
        return frame_stream(_push(pool, worker))

    @app.post("/workers/{worker_id}/report", status_code=204)
    async def report(worker_id: str, message: WorkerReport) -> None:
        await pool.report(pool.worker(worker_id, message.stream), message)

    @app.post("/workers/{worker_id}/executors", status_code=204)
    async def change(worker_id: str, message: ExecutorChange) -> None:
        worker = pool.worker(worker_id, message.stream)
        if isinstance(message, ExecutorStarted):
            pool.started(worker, message)
        else:
            pool.ended(worker, message)

    @app.delete("/workers/{worker_id}", status_code=204)
    async def leave(worker_id: str, stream: Stream) -> None:
        worker = pool.workers.get(worker_id)
        if worker is not None and worker.stream == stream:
            pool.lose(worker, WorkerState.LEFT, "it left")


async def _push(pool: Pool, worker: Worker) -> AsyncIterator[bytes]:
    try:
        async for chunk in worker.outbox.stream():
            yield chunk
    finally:
        pool.lose(worker, WorkerState.LOST, "its stream broke")


def _add_application_routes(app: FastAPI, pool: Pool, settings: Settings) -> None:
    @app.post("/applications")
    async def open_(hello: ApplicationHello) -> ApplicationWelcome:
        return pool.open(hello)

    @app.get("/applications/{key}/events")
    async def events(key: str, stream: Stream) -> StreamingResponse:
        """Executors that come and go, for as long as the application runs."""
        return frame_stream(_events(pool, pool.application(key, stream)))

    @app.post("/applications/{key}/tasks", status_code=204)
    async def tasks(key: str, stream: Stream, request: Request) -> Response:
        """Tasks as they appear: the body goes on for as long as the application runs."""
        served = pool.application(key, stream)
        await _until_broken(
            pool, served, lambda: _forward(pool, served, request, settings.frame_max_bytes)
        )
        return Response(status_code=204)

    @app.delete("/applications/{key}", status_code=204)
    async def close(key: str) -> None:
        pool.close(key, "its driver said goodbye")
        # The numbers of a job that has just ended are asked for right after.
        await pool.refresh(REFRESH_S)


async def _events(pool: Pool, served: ServedApplication) -> AsyncIterator[bytes]:
    try:
        async for chunk in served.events.stream():
            yield chunk
    finally:
        _break(pool, served, "its event stream broke")


async def _until_broken(
    pool: Pool, served: ServedApplication, work: Callable[[], Awaitable[None]]
) -> None:
    try:
        await work()
    except FrameError as error:
        log.warning("app.malformed", app=served.application.id, reason=str(error))
        raise
    finally:
        _break(pool, served, "its task stream ended")


async def _forward(
    pool: Pool, served: ServedApplication, request: Request, max_frame_bytes: int
) -> None:
    async for frames in frames_of(request, max_frame_bytes):
        await pool.route(served, frames)


def _break(pool: Pool, served: ServedApplication, reason: str) -> None:
    """Ends this opening of the application; a later one of the same key is not meant."""
    if pool.applications.get(served.key) is served:
        pool.close(served.key, reason)
    served.state = ApplicationState.FINISHED
