"""The same message twice is answered alike, and the second one changes nothing.

Whoever gets no answer asks again, and cannot know whether the first one was heard.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from agent.executors import Executors
from agent.results import new_results_app
from common.messages import (
    ApplicationCounts,
    DispatcherStatus,
    EndCause,
    ExecutorEnded,
    ExecutorStarted,
    ResultsHello,
    WorkerReport,
    WorkerState,
)
from common.settings import Settings
from dispatcher.members import Worker
from dispatcher.server import new_server
from tests.agents import EXECUTOR, TOKEN, StubDriver
from tests.stubs import FIRST, KEY, StubPool, application_hello, held, release, worker_hello

HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
WAIT_S = 2.0
STATUS = DispatcherStatus(id="d", url="", pid=1, workers=0)


class Dispatcher:
    """A dispatcher's HTTP side in this process, and its pool."""

    def __init__(self) -> None:
        self.pool = StubPool()
        self.app = new_server(self.pool, Settings(), TOKEN, CollectorRegistry(), lambda: STATUS)
        self.client = client_of(self.app)

    @property
    def worker(self) -> Worker:
        return self.pool.workers["w1"]

    def lose_worker(self) -> None:
        self.pool.lose(self.worker, WorkerState.LOST, "it was silent")

    async def twice(self, method: str, path: str, message: BaseModel | None = None) -> int:
        return await twice(self.client, self.pool.everything, method, path, message)


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://here", headers=HEADERS)


async def send(
    client: httpx.AsyncClient, method: str, path: str, message: BaseModel | None
) -> httpx.Response:
    content = message.model_dump_json() if message is not None else None
    return await client.request(method, path, content=content)


async def twice(
    client: httpx.AsyncClient,
    state: Callable[[], object],
    method: str,
    path: str,
    message: BaseModel | None = None,
) -> int:
    """Sends it two times and compares; returns the status of both answers."""
    first = await send(client, method, path, message)
    before = state()
    second = await send(client, method, path, message)
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert state() == before
    return first.status_code


@pytest.fixture
async def dispatcher() -> AsyncIterator[Dispatcher]:
    """With one worker, whose executor serves an application."""
    here = Dispatcher()
    async with here.client:
        here.pool.ready()
        yield here


STARTED = ExecutorStarted(stream="", application=KEY, executor=FIRST, port=7)
ENDED = ExecutorEnded(
    stream="", application=KEY, executor=FIRST, reason="why", cause=EndCause.LOST
)


def report(stream: str) -> WorkerReport:
    counts = {KEY: ApplicationCounts(running=1, queued=2, done=3)}
    return WorkerReport(
        stream=stream,
        slots_busy=1,
        tasks_done=3,
        tasks_failed=0,
        tasks_moved=0,
        applications=counts,
    )


# Dispatcher


@pytest.mark.parametrize("before", ["new", "attached", "lost", "disconnected"])
async def test_worker_attaches_twice(dispatcher: Dispatcher, before: str) -> None:
    if before == "new":
        assert await dispatcher.twice("POST", "/workers", worker_hello("w2")) == 200
        return
    if before == "lost":
        dispatcher.lose_worker()
    elif before == "disconnected":
        dispatcher.pool.disconnect(dispatcher.worker, dispatcher.worker.stream)
    hello = worker_hello(attachment=2, executors=(held(),))
    assert await dispatcher.twice("POST", "/workers", hello) == 200
    assert await dispatcher.twice("POST", "/workers", worker_hello()) == 409


async def test_worker_reports_twice(dispatcher: Dispatcher) -> None:
    message = report(dispatcher.worker.stream)
    assert await dispatcher.twice("POST", "/workers/w1/report", message) == 204
    assert await dispatcher.twice("POST", "/workers/w1/report", report("old")) == 409


@pytest.mark.parametrize("executor", [FIRST, 99], ids=["known", "unknown"])
async def test_worker_tells_of_an_executor_twice(dispatcher: Dispatcher, executor: int) -> None:
    for message in (STARTED, ENDED):
        said = {"stream": dispatcher.worker.stream, "executor": executor}
        told = message.model_copy(update=said)
        assert await dispatcher.twice("POST", "/workers/w1/executors", told) == 204


@pytest.mark.parametrize("cause", EndCause)
async def test_executor_ends_twice(dispatcher: Dispatcher, cause: EndCause) -> None:
    told = ENDED.model_copy(update={"stream": dispatcher.worker.stream, "cause": cause})
    assert await dispatcher.twice("POST", "/workers/w1/executors", told) == 204


async def test_worker_is_to_drain_twice(dispatcher: Dispatcher) -> None:
    assert await dispatcher.twice("POST", "/workers/w1/drain") == 204
    assert await dispatcher.twice("POST", "/workers/nobody/drain") == 404


async def test_worker_leaves_twice(dispatcher: Dispatcher) -> None:
    path = f"/workers/w1?stream={dispatcher.worker.stream}"
    assert await dispatcher.twice("DELETE", "/workers/w1?stream=old") == 204
    assert await dispatcher.twice("DELETE", path) == 204
    assert await dispatcher.twice("POST", "/workers/w1/drain") == 409


@pytest.mark.parametrize("before", ["new", "open", "broken", "over"])
async def test_application_opens_twice(dispatcher: Dispatcher, before: str) -> None:
    app = dispatcher.pool.applications[KEY]
    if before == "new":
        hello = application_hello("00000000000000c3")
        assert await dispatcher.twice("POST", "/applications", hello) == 200
        return
    if before == "broken":
        dispatcher.pool.break_off(app, app.stream)
    elif before == "over":
        dispatcher.pool.close(KEY, "over")
    hello = application_hello(first_executor=FIRST + 100)
    assert await dispatcher.twice("POST", "/applications", hello) == 200
    assert await dispatcher.twice("POST", "/applications", application_hello()) == 409


@pytest.mark.parametrize("end", ["broken", "over"])
async def test_opening_that_is_over_is_refused_twice(dispatcher: Dispatcher, end: str) -> None:
    app = dispatcher.pool.applications[KEY]
    if end == "broken":
        dispatcher.pool.break_off(app, app.stream)
    else:
        dispatcher.pool.close(KEY, "over")
    assert await dispatcher.twice("POST", "/applications", application_hello()) == 409


async def test_application_closes_twice(dispatcher: Dispatcher) -> None:
    # Nobody is there whose last numbers would be waited for.
    dispatcher.lose_worker()
    for key in (KEY, "f" * 16):
        assert await dispatcher.twice("DELETE", f"/applications/{key}") == 204


async def test_task_stream_that_has_ended_is_refused_twice(dispatcher: Dispatcher) -> None:
    app = dispatcher.pool.applications[KEY]
    path = f"/applications/{KEY}/tasks?stream={app.stream}"
    assert (await dispatcher.client.post(path)).status_code == 204
    assert not app.connected
    assert await dispatcher.twice("POST", path) == 409


async def test_executor_is_released_twice(dispatcher: Dispatcher) -> None:
    app = dispatcher.pool.applications[KEY]
    dispatcher.pool.route(app, [release()])
    before = dispatcher.pool.everything()
    dispatcher.pool.route(app, [release()])
    assert dispatcher.pool.everything() == before


async def test_status_is_asked_twice(dispatcher: Dispatcher) -> None:
    dispatcher.lose_worker()
    assert await dispatcher.twice("GET", "/status") == 200


async def test_stream_that_is_read_cannot_be_opened_a_second_time(
    dispatcher: Dispatcher,
) -> None:
    """Two readers would each get a part of what is pushed."""
    stream, app = dispatcher.worker.stream, dispatcher.pool.applications[KEY]
    push, events = (endpoint(dispatcher, path) for path in ("/stream", "/events"))
    for opened, path in (
        (await push(worker_id="w1", stream=stream), "/workers/w1/stream"),
        (await events(key=KEY, stream=app.stream), f"/applications/{KEY}/events"),
    ):
        assert isinstance(opened, StreamingResponse)
        shown = stream if path.startswith("/workers") else app.stream
        # A second reader would wait for as long as the first one does.
        response = await asyncio.wait_for(
            dispatcher.client.get(f"{path}?stream={shown}"), WAIT_S
        )
        assert response.status_code == 409


def endpoint(dispatcher: Dispatcher, end: str) -> Callable[..., Any]:
    routes = [route for route in dispatcher.app.routes if isinstance(route, APIRoute)]
    return next(route.endpoint for route in routes if route.path.endswith(end))


# Agent


async def test_result_stream_is_opened_twice() -> None:
    executors = Executors(StubDriver(), heartbeat_s=10.0)
    app = new_results_app(Settings(), TOKEN, CollectorRegistry(), lambda _: None, executors)

    def state() -> object:
        return len(executors), dict(executors.ways), dict(executors._results)

    async with client_of(app) as client:
        for opening, status in ((1, 200), (2, 200), (1, 409)):
            hello = ResultsHello(executor=EXECUTOR, opening=opening)
            assert await twice(client, state, "POST", "/results", hello) == status
        last = ResultsHello(executor=EXECUTOR, opening=3)
        stream = (await send(client, "POST", "/results", last)).json()["stream"]
        assert (await client.post(f"/results/{stream}")).status_code == 204
        assert await twice(client, state, "POST", f"/results/{stream}") == 409
        await executors.remove(EXECUTOR, "silent", by_application=False)
        assert await twice(client, state, "POST", "/results", last) == 410
