"""A worker's stream of task states: none is lost, whatever breaks, and their order holds."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress

import pytest

from common.frames import HEADER, Frame, FrameDecoder, Kind, TaskState, encode
from tests.agents import (
    EXECUTOR,
    MAX_FRAME,
    TOKEN,
    WAIT_S,
    Agent,
    Way,
    agent_server,
    way_to,
)
from worker import results
from worker.results import ResultStream


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RETRY_S", 0.01)
    monkeypatch.setattr(results, "BEAT_S", 0.05)


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with agent_server() as running:
        yield running


@pytest.fixture
async def way(agent: Agent) -> AsyncIterator[Way]:
    async with way_to(agent) as opened:
        yield opened


def status(sequence: int, payload: bytes = b"a result", kind: Kind = Kind.STATUS) -> Frame:
    raw = encode(
        kind, payload, state=TaskState.FINISHED, executor=EXECUTOR, task=1, sequence=sequence
    )
    (frame,) = FrameDecoder(2**20).feed(raw)
    return frame


def beat() -> bytes:
    """What the worker has taken of its driver: nothing."""
    return encode(Kind.ACK, executor=EXECUTOR)


@asynccontextmanager
async def running(url: str, token: str = TOKEN) -> AsyncIterator[ResultStream]:
    """A stream that sends; it is ended, if it has not been, when the block ends."""
    stream = ResultStream(url, token, EXECUTOR, beat)
    sending = asyncio.create_task(stream.run())
    try:
        yield stream
        await in_time(sending)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def in_time(work: Awaitable[None]) -> None:
    await asyncio.wait_for(work, WAIT_S)


def put(stream: ResultStream, *sequences: int) -> None:
    for sequence in sequences:
        stream.put(status(sequence))


async def test_states_arrive_in_order_and_the_end_waits_for_them(agent: Agent) -> None:
    async with running(agent.url) as stream:
        put(stream, *range(1, 500))
        stream.close()
    assert agent.sequences == list(range(1, 500))


async def test_state_arrives_at_once(agent: Agent) -> None:
    async with running(agent.url) as stream:
        for number in (1, 2, 3):
            put(stream, number)
            await agent.has_delivered(number)
        stream.close()
    assert agent.sequences == [1, 2, 3]


async def test_large_results_pass(agent: Agent) -> None:
    large = [status(n, random.Random(n).randbytes(MAX_FRAME - 100)) for n in range(1, 40)]
    async with running(agent.url) as stream:
        for frame in large:
            stream.put(frame)
        stream.close()
    assert [frame.raw for frame in agent.frames] == [frame.raw for frame in large]


async def test_stream_that_was_open_for_long_is_not_given_up_at_its_first_break(
    agent: Agent, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ABANDON_S", 0.1)
    async with running(way.url) as stream:
        put(stream, 1)
        await agent.has_delivered(1)
        heard = len(agent.delivered)
        # Five beats take longer than the limit.
        await agent.until(lambda: len(agent.delivered) >= heard + 5 * HEADER.size)
        way.cut()
        await keep_putting(stream, agent, 2)
        stream.close()
    assert len(agent.sequences) > 1


async def test_unconfirmed_states_are_repeated_after_a_break(agent: Agent, way: Way) -> None:
    async with running(way.url) as stream:
        put(stream, 1, 2, 3)
        await agent.has_delivered(3)
        stream.acknowledge(1)
        way.cut()
        await keep_putting(stream, agent, 4)
        stream.close()
    again = agent.sequences[3:]
    assert 1 not in again, "it was confirmed"
    assert again[:3] == [2, 3, 4]
    assert again == list(range(2, len(again) + 2))


async def keep_putting(stream: ResultStream, agent: Agent, sequence: int, last: int = 0) -> int:
    """Puts further states until something more has arrived, and `last` is among it.

    Returns the number of the next one.

    A connection that is gone is noticed by writing to it, the second time at the latest.
    """
    before = len(agent.frames)
    async with asyncio.timeout(WAIT_S):
        while len(agent.frames) == before or max(agent.sequences) < last:
            put(stream, sequence)
            sequence += 1
            agent.arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(agent.arrived.wait(), 0.1)
    return sequence


async def test_break_is_noticed_while_nothing_is_sent(agent: Agent, way: Way) -> None:
    async with running(way.url) as stream:
        put(stream, 1)
        await agent.has_delivered(1)
        way.cut()
        # As long as the test of a hang may take: what is fixed arrives at once.
        async with asyncio.timeout(2):
            await agent.has_delivered(2)
        stream.close()
    assert agent.sequences == [1, 1]


async def test_confirmed_states_are_not_repeated(agent: Agent, way: Way) -> None:
    async with running(way.url) as stream:
        put(stream, 1, 2, 3)
        await agent.has_delivered(3)
        way.cut()
        stream.acknowledge(3)
        stream.acknowledge(2)
        await keep_putting(stream, agent, 4)
        stream.close()
    assert agent.sequences[3] == 4


async def test_replies_are_repeated_among_the_states(agent: Agent, way: Way) -> None:
    async with running(way.url) as stream:
        put(stream, 1)
        stream.put(status(2, kind=Kind.REPLY))
        await agent.has_delivered(2)
        way.cut()
        await keep_putting(stream, agent, 3)
        stream.close()
    kinds = [(frame.kind, frame.sequence) for frame in agent.frames[2:5]]
    assert kinds == [(Kind.STATUS, 1), (Kind.REPLY, 2), (Kind.STATUS, 3)]


async def test_confirmation_of_what_was_taken_is_the_sign_of_life(agent: Agent) -> None:
    taken = 0

    def confirm() -> bytes:
        return encode(Kind.ACK, executor=EXECUTOR, sequence=taken)

    stream = ResultStream(agent.url, TOKEN, EXECUTOR, confirm)
    sending = asyncio.create_task(stream.run())
    for taken in (1, 2):  # noqa: B007 - read when it is sent
        last = confirm()
        await agent.until(lambda last=last: agent.delivered.endswith(last))  # type: ignore[misc]
    stream.close()
    await in_time(sending)
    assert agent.frames == []


async def test_what_is_not_confirmed_in_time_is_repeated(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "REPEAT_S", 0.2)
    async with running(agent.url) as stream:
        put(stream, 1, 2)
        await agent.has_delivered(3)
        assert agent.sequences[:3] == [1, 2, 1]
        stream.acknowledge(2)
        before = len(agent.frames)
        put(stream, 3)
        await agent.until(lambda: 3 in agent.sequences)
        assert set(agent.sequences[before + 2 :]) <= {3}, "no confirmed one"
        stream.close()


async def test_stream_that_misses_a_frame_is_opened_anew_and_repeats(agent: Agent) -> None:
    async with running(agent.url) as stream:
        put(stream, 1, 2)
        await agent.has_delivered(2)
        # As if it had been lost on the way: the agent refuses what comes after it.
        stream._kept.append(status(3))
        put(stream, 4)
        await agent.until(lambda: 4 in agent.sequences)
        stream.close()
    assert agent.sequences == [1, 2, 1, 2, 3, 4]


async def test_executor_that_was_removed_ends_its_stream(agent: Agent) -> None:
    async with running(agent.url) as stream:
        put(stream, 1)
        await agent.has_delivered(1)
        await agent.executors.remove(EXECUTOR, "it was lost", by_application=False)
    assert agent.sequences == [1]


async def test_next_agent_at_the_same_place_gets_what_is_not_confirmed() -> None:
    async with agent_server() as first:
        port = first.port
        stream = ResultStream(first.url, TOKEN, EXECUTOR, beat)
        sending = asyncio.create_task(stream.run())
        put(stream, 1, 2)
        await first.has_delivered(2)
        stream.acknowledge(1)
    async with agent_server(port) as second:
        await second.has_delivered(1)
        assert not sending.done()
        put(stream, 3)
        await second.has_delivered(2)
        assert second.sequences == [2, 3]
        stream.close()
        await in_time(sending)


async def test_agent_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ABANDON_S", 0.1)
    async with agent_server() as agent:
        url = agent.url
    async with running(url) as stream:
        put(stream, 1)


async def test_close_while_broken_still_sends_everything(agent: Agent, way: Way) -> None:
    async with running(way.url) as stream:
        put(stream, 1)
        await agent.has_delivered(1)
        way.cut()
        last = await keep_putting(stream, agent, 2)
        put(stream, last)
        stream.close()
    assert agent.sequences[-1] == last


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_lost_or_reordered_by_any_breaks(
    agent: Agent, way: Way, seed: int
) -> None:
    chance = random.Random(seed)
    async with running(way.url) as stream:
        for number in range(1, 200):
            put(stream, number)
            await asyncio.sleep(0)
            if chance.random() < 0.05:
                await agent.has_delivered(1)
                way.cut()
            if chance.random() < 0.2:
                # As the driver does: it confirms what it has, without gaps.
                stream.acknowledge(max([0, *agent.sequences]))
        await keep_putting(stream, agent, 200, last=202)
        stream.close()
    first_seen = list(dict.fromkeys(agent.sequences))
    assert first_seen == list(range(1, len(first_seen) + 1))
    assert len(first_seen) >= 200


async def test_agent_that_comes_later_gets_everything() -> None:
    async with agent_server() as agent:
        way = Way(agent.port)
        await way.open()
        await way.close()
        async with running(way.url) as stream:
            put(stream, 1, 2)
            await asyncio.sleep(0)
            await way.open(way.port)
            try:
                await agent.has_delivered(2)
            finally:
                stream.close()
                await way.close()
        assert agent.sequences == [1, 2]


async def test_close_without_an_agent_ends() -> None:
    async with agent_server() as agent:
        url = agent.url
    async with running(url) as stream:
        put(stream, 1)
        stream.close()


async def test_refused_token_ends_the_stream(agent: Agent) -> None:
    async with running(agent.url, token="wrong") as stream:
        put(stream, 1)
    assert agent.delivered == b""
