"""A dispatcher at work, with a stub worker and a stub agent, over real HTTP."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from common.frames import Kind, encode
from common.messages import (
    ApplicationCounts,
    EndCause,
    ExecutorEnded,
    ExecutorLost,
    ExecutorReady,
    PoolChanged,
    SendReport,
    StartExecutor,
    StopExecutor,
    WorkerReport,
)
from common.registry import PREFIX
from tests.dispatchers import (
    HEARTBEAT_S,
    PASSWORD,
    BodyStream,
    Dispatcher,
    PushStream,
    dispatcher,
    pushed,
)
from tests.services import HOST, wait_for
from tests.stubs import FIRST, KEY, OTHER_KEY, application_hello, worker_hello


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    with dispatcher(tmp_path_factory.mktemp("dispatcher")) as started:
        yield started


def launch(task: int, payload: bytes = b"a task", key: str = KEY) -> bytes:
    return encode(Kind.LAUNCH, payload, executor=FIRST, app=int(key, 16), task=task)


def states(server: Dispatcher, kind: str) -> dict[str, str]:
    """State of each worker, or application, by id."""
    return {one["id"]: one["state"] for one in server.client.get("/status").json()[kind]}


def expect_start(worker: PushStream, executor: int) -> None:
    command = worker.command()
    assert isinstance(command, StartExecutor)
    assert (command.executor, command.slots) == (executor, 2)


def test_small_life_from_attaching_to_a_broken_worker(server: Dispatcher) -> None:
    hello = worker_hello("w1")
    base, client = f"/applications/{KEY}", server.client
    attached = server.attach(hello).stream
    with pushed(client, "/workers/w1/stream", attached) as worker:
        opening = application_hello(KEY)
        welcome = server.open(opening)
        assert welcome.slots == 2
        with (
            pushed(client, f"{base}/events", welcome.stream) as agent,
            BodyStream(server.url, f"{base}/tasks?stream={welcome.stream}") as tasks,
        ):
            assert agent.event() == PoolChanged(slots=2)
            start = worker.command()
            assert isinstance(start, StartExecutor)
            assert start.application == opening.application, "handed on unchanged"

            for _ in range(2):
                assert server.say_started("w1", attached, KEY, FIRST) == 204
            ready = ExecutorReady(executor=FIRST, worker="w1", host="localhost", port=7, slots=2)
            assert agent.event() == ready

            before = server.metrics()["spark_proxy_dispatcher_frames_routed"]
            first, second = launch(1), launch(2, os.urandom(40_000))
            gone = encode(Kind.LAUNCH, executor=FIRST + 9, app=int(KEY, 16))
            tasks.send(first + gone + second[:1000])
            assert worker.next().raw == first
            tasks.send(second[1000:])
            assert worker.next().raw == second
            assert server.metrics()["spark_proxy_dispatcher_frames_routed"] == before + 2

            break_worker_and_expect_loss(server, worker, agent)


def break_worker_and_expect_loss(
    server: Dispatcher, worker: PushStream, agent: PushStream
) -> None:
    worker.close()
    lost = agent.event()
    assert isinstance(lost, ExecutorLost)
    assert (lost.executor, lost.worker, lost.by_application) == (FIRST, "w1", False)
    assert "its stream broke" in lost.reason
    assert states(server, "workers")["w1"] == "LOST"
    assert server.metrics()["spark_proxy_dispatcher_workers"] == 0


def test_application_that_says_goodbye_stops_its_executors(server: Dispatcher) -> None:
    stream = server.attach(worker_hello("w2")).stream
    with pushed(server.client, "/workers/w2/stream", stream) as worker:
        opened = server.open(application_hello(OTHER_KEY)).stream
        with pushed(server.client, f"/applications/{OTHER_KEY}/events", opened) as agent:
            expect_start(worker, FIRST)
            for _ in range(2):
                gone = server.client.delete(f"/applications/{OTHER_KEY}")
                assert gone.status_code == 204
            assert agent.has_ended()
        assert worker.command() == StopExecutor(application=OTHER_KEY, executor=FIRST)
        ended = ExecutorEnded(
            stream=stream,
            application=OTHER_KEY,
            executor=FIRST,
            reason="it was stopped",
            cause=EndCause.RELEASED,
        )
        for _ in range(2):
            told = server.client.post(
                "/workers/w2/executors", content=ended.model_dump_json()
            )
            assert told.status_code == 204
        for _ in range(2):
            assert server.client.delete(f"/workers/w2?stream={stream}").status_code == 204
        assert worker.has_ended()
    assert states(server, "workers")["w2"] == "LEFT"


@pytest.mark.parametrize("broken", ["events", "tasks"])
def test_agent_that_breaks_off_ends_its_application(server: Dispatcher, broken: str) -> None:
    worker_id, key = f"w-{broken}", "00000000000000dd"
    base = f"/applications/{key}"
    stream = server.attach(worker_hello(worker_id)).stream
    with pushed(server.client, f"/workers/{worker_id}/stream", stream) as worker:
        opened = server.open(application_hello(key)).stream
        with (
            pushed(server.client, f"{base}/events", opened) as agent,
            BodyStream(server.url, f"{base}/tasks?stream={opened}") as tasks,
        ):
            expect_start(worker, FIRST)
            tasks.send(launch(1, key=key)[:20])
            assert agent.event() == PoolChanged(slots=2)
            if broken == "events":
                agent.close()
            else:
                tasks.close()
            assert worker.command() == StopExecutor(application=key, executor=FIRST)
            assert server.refusal("GET", f"{base}/events?stream={opened}")[0] == 409
        assert server.client.delete(f"/workers/{worker_id}?stream={stream}").is_success


def test_status_asks_the_workers_for_their_numbers_of_this_moment(server: Dispatcher) -> None:
    stream = server.attach(worker_hello("w3")).stream
    with pushed(server.client, "/workers/w3/stream", stream) as worker:
        server.open(application_hello("00000000000000ee"))
        expect_start(worker, FIRST)
        report = WorkerReport(
            stream=stream,
            slots_busy=1,
            tasks_done=5,
            tasks_failed=2,
            tasks_moved=0,
            applications={"00000000000000ee": ApplicationCounts(running=1, queued=3, done=5)},
        )
        # Twice: the repeat of a report changes nothing.
        for _ in range(2):
            told = server.client.post("/workers/w3/report", content=report.model_dump_json())
            assert told.status_code == 204
        status = server.client.get("/status").json()
        assert worker.command() == SendReport()
        (shown,) = [w for w in status["workers"] if w["id"] == "w3"]
        assert (shown["slots_busy"], shown["tasks_done"], shown["tasks_failed"]) == (1, 5, 2)
        assert (shown["dispatcher"], shown["apps"]) == (server.id, ["app-ee"])
        (app,) = [a for a in status["apps"] if a["key"] == "00000000000000ee"]
        assert (app["state"], app["running"], app["queued"], app["done"]) == ("WAITING", 1, 3, 5)
        assert server.client.delete(f"/workers/w3?stream={stream}").is_success


def test_idle_streams_are_pinged(server: Dispatcher) -> None:
    stream = server.attach(worker_hello("w4")).stream
    with pushed(server.client, "/workers/w4/stream", stream) as worker:
        kinds = [worker.next(pings=True).kind for _ in range(3)]
        assert Kind.PING in kinds
        assert server.client.delete(f"/workers/w4?stream={stream}").is_success


def registered(port: int) -> dict[str, int]:
    """Milliseconds to live, by dispatcher id."""
    with redis.Redis(HOST, port, password=PASSWORD) as client:
        keys = [bytes(key) for key in client.scan_iter(match=PREFIX + "*")]
        return {key.decode().removeprefix(PREFIX): int(client.pttl(key)) for key in keys}


def test_dispatcher_is_registered_for_three_heartbeats_and_renews_that(
    server: Dispatcher,
) -> None:
    (left,) = registered(server.redis_port).values()
    assert 0 < left <= HEARTBEAT_S * 3 * 1000
    with redis.Redis(HOST, server.redis_port, password=PASSWORD) as client:
        entry = json.loads(client.get(PREFIX + server.id) or "")
        assert (entry["id"], entry["url"]) == (server.id, server.url)
        client.delete(PREFIX + server.id)
    wait_for(lambda: registered(server.redis_port), what="registered again")


def test_sigterm_takes_the_dispatcher_out_of_the_registry(tmp_path: Path) -> None:
    with dispatcher(tmp_path) as server:
        stream = server.attach(worker_hello()).stream
        opened = server.open(application_hello()).stream
        with (
            pushed(server.client, "/workers/w1/stream", stream) as worker,
            pushed(server.client, f"/applications/{KEY}/events", opened) as agent,
        ):
            assert list(registered(server.redis_port)) == [server.id]
            server.process.process.terminate()
            assert worker.has_ended()
            assert agent.has_ended()
        assert server.process.stop() == 0
        assert registered(server.redis_port) == {}
        assert not (tmp_path / "dispatcher.ready").exists()
        with pytest.raises(httpx.ConnectError):
            server.client.get("/healthz")
        assert "Traceback" not in server.process.log.read_text()
