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
    Drain,
    EndCause,
    ExecutorDraining,
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
from tests.stubs import FIRST, KEY, OTHER_KEY, application_hello, held, release, worker_hello


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    with dispatcher(tmp_path_factory.mktemp("dispatcher")) as started:
        yield started


def launch(task: int, payload: bytes = b"a task", key: str = KEY) -> bytes:
    return encode(Kind.LAUNCH, payload, executor=FIRST, app=int(key, 16), task=task)


def resume(key: str = KEY) -> bytes:
    return encode(Kind.RESUME, executor=FIRST, app=int(key, 16))


def states(server: Dispatcher, kind: str) -> dict[str, str]:
    """State of each worker, or application, by id."""
    return {one["id"]: one["state"] for one in server.client.get("/status").json()[kind]}


def expect_start(worker: PushStream, executor: int) -> None:
    command = worker.command()
    assert isinstance(command, StartExecutor)
    assert (command.executor, command.slots) == (executor, 2)


def leave(server: Dispatcher, worker: str, stream: str, key: str) -> None:
    """Nothing is left that the workers of the next test would serve."""
    assert server.client.delete(f"/workers/{worker}?stream={stream}").is_success
    assert server.client.delete(f"/applications/{key}").is_success


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
            ready = ExecutorReady(
                executor=FIRST, attachment=1, worker="w1", host="localhost", port=7, slots=2
            )
            assert agent.event() == ready

            before = server.metrics()["spark_proxy_dispatcher_frames_routed"]
            first, second = launch(1), launch(2, os.urandom(40_000))
            gone = encode(Kind.LAUNCH, executor=FIRST + 9, app=int(KEY, 16))
            tasks.send(resume() + first + gone + second[:1000])
            assert worker.next().raw == first
            tasks.send(second[1000:])
            assert worker.next().raw == second
            assert server.metrics()["spark_proxy_dispatcher_frames_routed"] == before + 2

            break_worker_and_expect_loss(server, worker, agent)
    leave(server, "w1", attached, KEY)


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
            cause=EndCause.LOST,
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


def test_broken_worker_that_comes_back_keeps_its_executors_and_gets_frames_again(
    server: Dispatcher,
) -> None:
    key = "00000000000000cc"
    base, client = f"/applications/{key}", server.client
    first = server.attach(worker_hello("back")).stream
    opened = server.open(application_hello(key)).stream
    with (
        pushed(client, f"{base}/events", opened) as agent,
        BodyStream(server.url, f"{base}/tasks?stream={opened}") as tasks,
    ):
        assert agent.event() == PoolChanged(slots=2)
        with pushed(client, "/workers/back/stream", first) as worker:
            expect_start(worker, FIRST)
            assert server.say_started("back", first, key, FIRST) == 204
            assert isinstance(agent.event(), ExecutorReady)
        hello = worker_hello("back", attachment=2, executors=(held(key=key),))
        second = server.attach(hello).stream
        with pushed(client, "/workers/back/stream", second) as worker:
            again = agent.event()
            assert isinstance(again, ExecutorReady)
            assert (again.executor, again.attachment) == (FIRST, 2)
            tasks.send(launch(2, key=key) + resume(key) + launch(1, key=key))
            assert worker.next().raw == launch(1, key=key), "the other was on its way before"
            leave(server, "back", second, key)


def test_worker_that_is_to_drain_is_told_and_so_is_whom_it_serves(server: Dispatcher) -> None:
    key = "00000000000000cb"
    stream = server.attach(worker_hello("drained")).stream
    with pushed(server.client, "/workers/drained/stream", stream) as worker:
        opened = server.open(application_hello(key)).stream
        with pushed(server.client, f"/applications/{key}/events", opened) as agent:
            expect_start(worker, FIRST)
            assert agent.event() == PoolChanged(slots=2)
            assert server.say_started("drained", stream, key, FIRST) == 204
            assert isinstance(agent.event(), ExecutorReady)
            for _ in range(2):
                assert server.client.post("/workers/drained/drain").status_code == 204
            assert worker.command() == Drain()
            draining = agent.event()
            assert isinstance(draining, ExecutorDraining)
            assert (draining.executor, agent.event()) == (FIRST, PoolChanged(slots=0))
            assert states(server, "workers")["drained"] == "DRAINING"
            assert worker.command() == SendReport(), "said once"
            leave(server, "drained", stream, key)


@pytest.mark.parametrize("broken", ["events", "tasks"])
def test_application_whose_agent_breaks_off_goes_on_until_it_is_opened_again(
    server: Dispatcher, broken: str
) -> None:
    worker_id, key = f"w-{broken}", f"00000000000000{'d1' if broken == 'tasks' else 'd2'}"
    base = f"/applications/{key}"
    stream = server.attach(worker_hello(worker_id)).stream
    with pushed(server.client, f"/workers/{worker_id}/stream", stream) as worker:
        opened = server.open(application_hello(key)).stream
        with (
            pushed(server.client, f"{base}/events", opened) as agent,
            BodyStream(server.url, f"{base}/tasks?stream={opened}") as tasks,
        ):
            expect_start(worker, FIRST)
            assert server.say_started(worker_id, stream, key, FIRST) == 204
            tasks.send(launch(1, key=key)[:20])
            assert agent.event() == PoolChanged(slots=2)
            (agent if broken == "events" else tasks).close()
            wait_for(
                lambda: server.client.get(f"{base}/events?stream={opened}").status_code == 409,
                what="noticed",
            )
        again = server.open(application_hello(key, FIRST + 100)).stream
        with (
            pushed(server.client, f"{base}/events", again) as agent,
            BodyStream(server.url, f"{base}/tasks?stream={again}") as tasks,
        ):
            ready = agent.event()
            assert isinstance(ready, ExecutorReady)
            assert (ready.executor, ready.attachment) == (FIRST, 1)
            tasks.send(resume(key) + launch(1, key=key))
            assert worker.next().raw == launch(1, key=key), "it was never stopped"
            tasks.send(release(key=key).raw)
            assert worker.command() == StopExecutor(application=key, executor=FIRST)
        leave(server, worker_id, stream, key)


def test_status_asks_the_workers_for_their_numbers_of_this_moment(server: Dispatcher) -> None:
    stream = server.attach(worker_hello("w3")).stream
    with pushed(server.client, "/workers/w3/stream", stream) as worker:
        key = "00000000000000ee"
        server.open(application_hello(key))
        expect_start(worker, FIRST)
        report = WorkerReport(
            stream=stream,
            slots_busy=1,
            tasks_done=5,
            tasks_failed=2,
            tasks_moved=0,
            applications={key: ApplicationCounts(running=1, queued=3, done=5)},
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
        (app,) = [a for a in status["apps"] if a["key"] == key]
        assert (app["state"], app["running"], app["queued"], app["done"]) == ("WAITING", 1, 3, 5)
        leave(server, "w3", stream, key)


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
