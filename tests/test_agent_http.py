"""Where an agent takes results, over real HTTP: only from its own executors, and in order."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from common.frames import Kind, TaskState, encode
from tests.agents import EXECUTOR, MAX_BODY, MAX_FRAME, TOKEN, Agent, agent_server
from tests.dispatchers import BodyStream

OPENING = json.dumps({"executor": EXECUTOR, "opening": 1})


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with agent_server() as running:
        yield running


async def ask(agent: Agent, opening: int = 1, executor: int = EXECUTOR) -> httpx.Response:
    async with agent.client() as client:
        content = json.dumps({"executor": executor, "opening": opening})
        return await client.post("/results", content=content)


async def opened(agent: Agent, opening: int = 1) -> str:
    response = await ask(agent, opening)
    assert response.status_code == 200, response.text
    return str(response.json()["stream"])


def status(
    sequence: int, payload: bytes = b"r", executor: int = EXECUTOR, kind: Kind = Kind.STATUS
) -> bytes:
    return encode(
        kind, payload, state=TaskState.FINISHED, executor=executor, app=1, task=2, sequence=sequence
    )


async def test_frames_are_delivered_byte_for_byte_in_order(agent: Agent) -> None:
    frames = [status(number, bytes([number]) * number * 100) for number in range(1, 60)]
    reply = status(60, kind=Kind.REPLY)
    sent = b"".join([*frames, reply])

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(sent), 997):
            yield sent[start : start + 997]

    stream = await opened(agent)
    async with agent.client() as client:
        response = await client.post(f"/results/{stream}", content=chunks())
    assert response.status_code == 204
    assert agent.delivered == sent


async def test_frame_is_delivered_before_the_stream_ends(agent: Agent) -> None:
    stream, first, second = await opened(agent), status(1), status(2)
    with BodyStream(agent.url, f"/results/{stream}", TOKEN) as results:
        results.send(first + second[:10])
        await agent.has_delivered(1)
        assert agent.delivered == first
        results.send(second[10:])
        await agent.has_delivered(2)
        assert agent.delivered == first + second
        results.end()
        assert (await asyncio.to_thread(results.answer))[0] == 204


async def test_broken_stream_delivers_whole_frames_only(agent: Agent) -> None:
    stream, first, second = await opened(agent), status(1), status(2)
    with BodyStream(agent.url, f"/results/{stream}", TOKEN) as results:
        results.send(first + second[:20])
        await agent.has_delivered(1)
        assert agent.delivered == first
    async with agent.client() as client:
        again = await opened(agent, 2)
        assert (await client.post(f"/results/{again}", content=second)).status_code == 204
    assert agent.delivered == first + second


@pytest.mark.parametrize("token", ["", "wrong", "token-of-the-pool"])
async def test_wrong_or_missing_token_is_401_and_delivers_nothing(
    agent: Agent, token: str
) -> None:
    stream = await opened(agent)
    async with agent.client() as client:
        client.headers.pop("Authorization")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for method, path, body in (
            ("POST", "/results", OPENING.encode()),
            ("POST", f"/results/{stream}", status(1)),
            ("GET", "/metrics", b""),
            ("GET", "/nowhere", b""),
        ):
            response = await client.request(method, path, content=body, headers=headers)
            assert response.status_code == 401
        assert (await client.get("/healthz")).status_code == 200
    assert agent.delivered == b""
    async with agent.client() as client:
        accepted = await client.post(f"/results/{stream}", content=status(1))
    assert accepted.status_code == 204, "the stream that was asked for is still there"


async def test_stream_is_good_for_one_connection(agent: Agent) -> None:
    stream = await opened(agent)
    async with agent.client() as client:
        assert (await client.post(f"/results/{stream}", content=status(1))).status_code == 204
        for over in (stream, "unknown"):
            response = await client.post(f"/results/{over}", content=status(2))
            assert response.status_code == 409
            assert "open another" in response.json()["detail"]
    assert agent.delivered == status(1)


async def test_same_opening_is_answered_alike_and_a_later_one_ends_it(agent: Agent) -> None:
    first = await opened(agent)
    assert await opened(agent) == first
    second = await opened(agent, 2)
    assert second != first
    older = await ask(agent)
    assert (older.status_code, older.headers["connection"]) == (409, "close")
    assert "a later opening" in older.json()["detail"]
    async with agent.client() as client:
        for stream, code in ((first, 409), (second, 204)):
            response = await client.post(f"/results/{stream}", content=status(1))
            assert response.status_code == code
    assert agent.sequences == [1]


async def test_sign_of_life_is_handed_on_as_the_confirmation_that_it_is(agent: Agent) -> None:
    sent = status(5, kind=Kind.ACK) + status(1) + status(6, kind=Kind.ACK) + status(2)
    async with agent.client() as client:
        response = await client.post(f"/results/{await opened(agent)}", content=sent)
    assert response.status_code == 204
    assert agent.delivered == sent


async def test_stream_begins_anywhere_and_leaves_nothing_out(agent: Agent) -> None:
    stream = await opened(agent)
    with BodyStream(agent.url, f"/results/{stream}", TOKEN) as results:
        results.send(status(7) + status(8) + status(7) + status(9))
        await agent.has_delivered(4)
        results.send(status(11))
        code, body = await asyncio.to_thread(results.answer)
    assert code == 400, "its sender opens another one and repeats"
    assert f"executor {EXECUTOR}: frame 10 is missing before 11" in json.loads(body)["detail"]
    assert agent.sequences == [7, 8, 7, 9], "the driver takes each once"


@pytest.mark.parametrize("when", ["before the opening", "before the stream", "meanwhile"])
async def test_executor_that_was_removed_is_410_and_delivers_nothing(
    agent: Agent, when: str
) -> None:
    def remove() -> asyncio.Future[None]:
        return asyncio.ensure_future(agent.executors.remove(EXECUTOR, "it was lost", False))

    if when == "before the opening":
        await remove()
        assert (await ask(agent)).status_code == 410
        assert (await ask(agent, executor=EXECUTOR + 1)).status_code == 200
        return
    stream = await opened(agent)
    with BodyStream(agent.url, f"/results/{stream}", TOKEN) as results:
        if when == "meanwhile":
            results.send(status(1))
            await agent.has_delivered(1)
        await remove()
        results.send(status(2))
        code, body = await asyncio.to_thread(results.answer)
    assert code == 410
    assert f"executor {EXECUTOR} was removed" in json.loads(body)["detail"]
    assert 2 not in agent.sequences


@pytest.mark.parametrize(
    ("frame", "answer", "reason"),
    [
        (status(1, executor=EXECUTOR + 1), 422, f"for {EXECUTOR + 1}"),
        (status(1, kind=Kind.LAUNCH), 422, "kind 3"),
        (status(1, kind=Kind.ACK, executor=EXECUTOR + 1), 422, "kind 7"),
        (status(1, kind=Kind.CONTROL), 422, "kind 9"),
        (status(1, kind=Kind.HELLO), 422, "kind 1"),
        (status(1, bytes(MAX_FRAME)), 413, f"above frame.max.bytes ({MAX_FRAME})"),
        (bytes(36), 400, "length is 0"),
    ],
    ids=["of another", "launch", "ack of another", "command", "hello", "too large", "malformed"],
)
async def test_frame_that_an_executor_must_not_send_is_refused(
    agent: Agent, frame: bytes, answer: int, reason: str
) -> None:
    stream = await opened(agent)
    with BodyStream(agent.url, f"/results/{stream}", TOKEN) as results:
        results.send(frame[:1000])
        results.send(frame[1000:] + b"x")
        code, body = await asyncio.to_thread(results.answer)
        assert code == answer
        assert reason in json.loads(body)["detail"]
        assert await asyncio.to_thread(results.is_cut), "its sender would not look"
    assert agent.delivered == b""


@pytest.mark.parametrize("body", ["", "{", "{}", '{"executor": 1, "x": 2}', '{"executor": "a"}'])
async def test_malformed_opening_is_422(agent: Agent, body: str) -> None:
    async with agent.client() as client:
        assert (await client.post("/results", content=body)).status_code == 422


async def test_results_may_be_larger_than_a_message_and_an_opening_may_not(agent: Agent) -> None:
    large = status(1, bytes(3 * MAX_BODY))
    stream = await opened(agent)
    async with agent.client() as client:
        assert (await client.post("/results", content=b" " * 5000)).status_code == 413
        assert (await client.post(f"/results/{stream}", content=large)).status_code == 204
    assert agent.delivered == large
