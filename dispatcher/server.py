"""The dispatcher's HTTP side."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry

from common.errors import FrameError, RefusedError
from common.logs import get_logger
from common.messages import (
    ApplicationHello,
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
        return WorkerWelcome(
            stream=worker.stream, heartbeat_s=settings.heartbeat, dispatchers=pool.dispatchers
        )

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
            pool.placement.started(worker, message.application, message.executor, message.port)
        else:
            pool.placement.ended(worker, message)

    @app.post("/workers/{worker_id}/drain", status_code=204)
    async def drain(worker_id: str) -> None:
        pool.drain(worker_id)

    @app.delete("/workers/{worker_id}", status_code=204)
    async def leave(worker_id: str, stream: Stream) -> None:
        worker = pool.workers.get(worker_id)
        if worker is not None and worker.stream == stream:
            pool.lose(worker, WorkerState.LEFT, "it left")


async def _push(pool: Pool, worker: Worker) -> AsyncIterator[bytes]:
    stream, outbox = worker.stream, worker.outbox
    try:
        async for chunk in outbox.stream():
            yield chunk
            if not outbox.is_full:
                pool.placement.unstall(worker)
    finally:
        pool.disconnect(worker, stream)


def _add_application_routes(app: FastAPI, pool: Pool, settings: Settings) -> None:
    @app.post("/applications")
    async def open_(hello: ApplicationHello) -> ApplicationWelcome:
        return pool.open(hello)

    @app.get("/applications/{key}/events")
    async def events(key: str, stream: Stream) -> StreamingResponse:
        """Executors that come and go, for as long as the application runs."""
        served = pool.application(key, stream)
        if served.streaming:
            raise RefusedError("dispatcher", 409, f"the events of application {key} are taken")
        served.streaming = True
        return frame_stream(_events(pool, served))

    @app.post("/applications/{key}/tasks", status_code=204)
    async def tasks(key: str, stream: Stream, request: Request) -> Response:
        """Tasks as they appear: the body goes on for as long as the application runs."""
        served = pool.application(key, stream)
        try:
            async for frames in frames_of(request, settings.frame_max_bytes):
                if served.stream != stream:
                    break
                pool.route(served, frames)
        except FrameError as error:
            log.warning("app.malformed", app=served.application.id, reason=str(error))
            raise
        finally:
            pool.break_off(served, stream)
        return Response(status_code=204)

    @app.delete("/applications/{key}", status_code=204)
    async def close(key: str) -> None:
        pool.close(key, "its driver said goodbye")
        # The numbers of a job that has just ended are asked for right after.
        await pool.refresh(REFRESH_S)


async def _events(pool: Pool, served: ServedApplication) -> AsyncIterator[bytes]:
    stream = served.stream
    try:
        async for chunk in served.events.stream():
            yield chunk
    finally:
        pool.break_off(served, stream)
