"""A dispatcher's endpoints over real HTTP: the token, the limits, and what is refused."""

import json
from collections.abc import Iterator
from itertools import count

import httpx
import pytest
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from common.frames import VERSION, Kind, encode
from common.messages import PoolChanged
from common.settings import Settings
from dispatcher.server import new_server
from tests.dispatchers import (
    MAX_BODY,
    MAX_FRAME,
    BodyStream,
    Dispatcher,
    client,
    dispatcher,
    pushed,
)
from tests.stubs import FIRST, KEY, OTHER_KEY, StubPool, application_hello, worker_hello

HELLO = worker_hello("w1").model_dump_json()
OPENING = application_hello(KEY).model_dump_json()
REPORT = (
    '{"stream":"s","slots_busy":0,"tasks_done":0,"tasks_failed":0,"tasks_moved":0,'
    '"applications":{}}'
)
STARTED = f'{{"type":"started","stream":"s","application":"{KEY}","executor":1,"port":1}}'
ROUTES = {
    ("GET", "/metrics"): "",
    ("GET", "/status"): "",
    ("POST", "/workers"): HELLO,
    ("GET", "/workers/{worker_id}/stream"): "",
    ("POST", "/workers/{worker_id}/report"): REPORT,
    ("POST", "/workers/{worker_id}/executors"): STARTED,
    ("POST", "/workers/{worker_id}/drain"): "",
    ("DELETE", "/workers/{worker_id}"): "",
    ("POST", "/applications"): OPENING,
    ("GET", "/applications/{key}/events"): "",
    ("POST", "/applications/{key}/tasks"): "",
    ("DELETE", "/applications/{key}"): "",
}


# Each opening of an application has a higher number than the one before it.
OPENINGS = count(FIRST)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    with dispatcher(tmp_path_factory.mktemp("dispatcher")) as started:
        yield started


def what_it_knows(server: Dispatcher) -> object:
    status = server.client.get("/status").json()
    return sorted(w["id"] for w in status["workers"]), sorted(
        (app["key"], app["state"]) for app in status["apps"]
    )


def test_every_route_of_the_dispatcher_is_in_the_list_of_this_test() -> None:
    app = new_server(
        StubPool(), Settings(), "t", CollectorRegistry(), lambda: pytest.fail("not called")
    )
    found = {
        (method, route.path)
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert found == {("GET", "/healthz"), *ROUTES}


@pytest.mark.parametrize("token", ["", "wrong", "token-of-the-test"])
@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_wrong_or_missing_token_is_401_and_changes_nothing(
    server: Dispatcher, method: str, route: str, token: str
) -> None:
    path = route.replace("{worker_id}", "w1").replace("{key}", KEY)
    before = what_it_knows(server)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with client(server.url, token="") as stranger:
        response = stranger.request(
            method, f"{path}?stream=s", content=ROUTES[method, route], headers=headers
        )
    assert response.status_code == 401
    assert "a valid token is needed" in response.json()["detail"]
    assert what_it_knows(server) == before


@pytest.mark.parametrize("shown", ["token-of-the-tests", "Basic token-of-the-tests", "Bearer"])
def test_token_counts_only_as_a_bearer_token(server: Dispatcher, shown: str) -> None:
    response = httpx.get(f"{server.url}/status", headers={"Authorization": shown})
    assert response.status_code == 401


def test_unknown_path_without_a_token_is_401_too(server: Dispatcher) -> None:
    assert httpx.get(f"{server.url}/docs").status_code == 401
    assert server.client.get("/docs").status_code == 404


def test_health_needs_no_token(server: Dispatcher) -> None:
    response = httpx.get(f"{server.url}/healthz")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert response.json()["service"] == "dispatcher"


def test_metrics_are_prometheus_text(server: Dispatcher) -> None:
    response = server.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(response.text)}
    assert names == {
        f"spark_proxy_dispatcher_{name}"
        for name in ("workers", "slots", "applications", "frames_routed")
    }


@pytest.mark.parametrize("path", ["/workers", "/applications", "/workers/w1/report"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b'{"id": "w1"}', b"[" * 3000]
)
def test_malformed_message_is_4xx_with_the_reason(
    server: Dispatcher, path: str, body: bytes
) -> None:
    status, reason = server.refusal("POST", path, content=body)
    # What is no text at all is refused by the framework before it is looked at as JSON.
    assert status in ({400} if body in {b"\xff", b"[" * 3000} else {422})
    assert reason


@pytest.mark.parametrize(
    ("path", "body"),
    [("/workers", HELLO), ("/applications", OPENING), ("/workers/w1/report", REPORT)],
)
def test_unknown_field_is_refused_by_name(server: Dispatcher, path: str, body: str) -> None:
    message = json.dumps(json.loads(body) | {"surprise": 1})
    status, reason = server.refusal("POST", path, content=message)
    assert status == 422
    assert "surprise" in reason


@pytest.mark.parametrize(
    "wrong", [{"slots": 0}, {"memory_mb": -1}, {"id": ""}, {"id": "w" * 65}, {"slots": "many"}]
)
def test_bad_value_is_refused_by_name(server: Dispatcher, wrong: dict[str, object]) -> None:
    status, reason = server.refusal(
        "POST", "/workers", content=json.dumps(json.loads(HELLO) | wrong)
    )
    assert status == 422
    assert next(iter(wrong)) in reason


@pytest.mark.parametrize("worker", ["w1", "tasks", "results"])
@pytest.mark.parametrize("told", [True, False], ids=["with its length", "chunked"])
def test_body_above_the_limit_is_413(server: Dispatcher, worker: str, told: bool) -> None:
    body = b" " * (MAX_BODY + 1)
    content = body if told else iter([body[:MAX_BODY], body[MAX_BODY:]])
    status, reason = server.refusal("POST", f"/workers/{worker}/report", content=content)
    assert status == 413
    assert reason == f"the body is above message.max.bytes ({MAX_BODY})"


def test_body_of_just_the_limit_is_read(server: Dispatcher) -> None:
    status, _ = server.refusal("POST", "/workers/w1/report", content=REPORT.ljust(MAX_BODY))
    assert status == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/workers/nobody/stream?stream=s", ""),
        ("POST", "/workers/nobody/report", REPORT),
        ("POST", "/workers/nobody/executors", STARTED),
        ("POST", "/workers/nobody/drain", ""),
        ("GET", f"/applications/{'f' * 16}/events?stream=s", ""),
        ("POST", f"/applications/{'f' * 16}/tasks?stream=s", ""),
    ],
)
def test_unknown_worker_or_application_is_404(
    server: Dispatcher, method: str, path: str, body: str
) -> None:
    status, reason = server.refusal(method, path, content=body)
    assert status == 404
    assert "nobody" in reason or "f" * 16 in reason


def test_stale_stream_is_409_with_what_to_do(server: Dispatcher) -> None:
    key = "00000000000000cc"
    old = (
        server.attach(worker_hello("stale")).stream,
        server.open(application_hello(key)).stream,
    )
    new = server.attach(worker_hello("stale", attachment=2)).stream
    server.open(application_hello(key, FIRST + 1))
    report = json.dumps(json.loads(REPORT) | {"stream": old[0]})
    base = f"/applications/{key}"
    for method, path, body in (
        ("GET", f"/workers/stale/stream?stream={old[0]}", ""),
        ("POST", "/workers/stale/report", report),
        ("GET", f"{base}/events?stream={old[1]}", ""),
        ("POST", f"{base}/tasks?stream={old[1]}", ""),
    ):
        status, reason = server.refusal(method, path, content=body)
        assert status == 409
        assert reason.endswith(("attach again", "open it again"))
    assert server.client.delete(f"/workers/stale?stream={old[0]}").status_code == 204
    status = server.client.get("/status").json()
    assert [w["state"] for w in status["workers"] if w["id"] == "stale"] == ["ATTACHED"]
    assert server.client.delete(f"/workers/stale?stream={new}").status_code == 204


def test_older_attachment_or_opening_is_409_with_the_state_that_is(server: Dispatcher) -> None:
    key = "00000000000000cd"
    stream = server.attach(worker_hello("older", attachment=2)).stream
    server.open(application_hello(key, FIRST + 1))
    status, reason = server.refusal(
        "POST", "/workers", content=worker_hello("older").model_dump_json()
    )
    assert (status, reason) == (409, "worker older is attached by another stream; attach again")
    status, reason = server.refusal(
        "POST", "/applications", content=application_hello(key).model_dump_json()
    )
    assert (status, reason) == (409, f"application {key} is over here; open it again")
    assert server.client.delete(f"/workers/older?stream={stream}").status_code == 204
    status, reason = server.refusal("POST", "/workers/older/drain")
    assert (status, reason) == (409, "worker older is LEFT")


def length_only(length: int, version: int = VERSION) -> bytes:
    return length.to_bytes(4, "big") + bytes([version]) + bytes(31)


@pytest.mark.parametrize(
    ("bytes_", "status", "reason"),
    [
        (length_only(31), 400, "length is 31"),
        (length_only(32, version=9), 400, "version is 9"),
        (length_only(32), 400, "kind is 0"),
        (encode(Kind.CONTROL, b"{}", app=int(KEY, 16)), 400, "kind is 9"),
        (encode(Kind.LAUNCH, app=int(OTHER_KEY, 16)), 400, f"the driver of {KEY}"),
        (length_only(MAX_FRAME + 1), 413, f"above frame.max.bytes ({MAX_FRAME})"),
    ],
    ids=["short", "version", "kind", "command", "foreign", "too large"],
)
def test_bad_frame_is_refused_and_disturbs_nobody_else(
    server: Dispatcher, bytes_: bytes, status: int, reason: str
) -> None:
    opening = next(OPENINGS)
    stream = server.open(application_hello(KEY, opening)).stream
    other_key = f"{opening:016x}"
    other = server.open(application_hello(other_key)).stream
    with (
        pushed(server.client, f"/applications/{other_key}/events", other) as others,
        BodyStream(server.url, f"/applications/{KEY}/tasks?stream={stream}") as tasks,
    ):
        tasks.send(bytes_)
        answer = tasks.answer()
        assert answer[0] == status
        assert reason in json.loads(answer[1])["detail"]
        assert tasks.is_cut(), "whoever goes on sending does not see the answer"
        assert server.refusal("GET", f"/applications/{KEY}/events?stream={stream}")[0] == 409
        name = f"w-{opening}"
        attached = server.attach(worker_hello(name)).stream
        assert others.event() == PoolChanged(slots=2), "they are told on as ever"
        assert server.client.delete(f"/workers/{name}?stream={attached}").status_code == 204
