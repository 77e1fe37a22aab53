"""Bytes that wait for one stream: in order, in few chunks, and bounded."""

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from common.frames import PING
from common.outbox import JOIN_BYTES, Outbox

WAIT_S = 10.0
# Sizes, and not the bytes themselves: a failure has to be printed.
part_sizes = st.lists(
    st.one_of(
        st.integers(0, 50),
        st.integers(0, 3 * JOIN_BYTES),
        st.sampled_from([JOIN_BYTES - 1, JOIN_BYTES, JOIN_BYTES + 1]),
    ),
    max_size=12,
)


async def drained(outbox: Outbox) -> list[bytes]:
    """All chunks of an outbox that is, or will be, closed."""
    async with asyncio.timeout(WAIT_S):
        return [chunk async for chunk in outbox.stream()]


async def next_of(stream: AsyncIterator[bytes]) -> bytes:
    async with asyncio.timeout(WAIT_S):
        return await anext(stream)


@given(part_sizes)
def test_all_bytes_leave_in_order(sizes: list[int]) -> None:
    parts = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
    outbox = Outbox()
    for part in parts:
        outbox.put(part)
    outbox.close()
    assert b"".join(asyncio.run(drained(outbox))) == b"".join(parts)


@given(part_sizes)
def test_only_a_large_part_makes_a_large_chunk(sizes: list[int]) -> None:
    outbox = Outbox()
    for size in sizes:
        outbox.put(bytes(size))
    outbox.close()
    large = [size for size in sizes if size > JOIN_BYTES]
    chunks = asyncio.run(drained(outbox))
    assert all(len(chunk) <= JOIN_BYTES or len(chunk) in large for chunk in chunks)


async def test_small_parts_go_out_as_one_chunk() -> None:
    outbox = Outbox()
    for part in (b"a", b"b", b"c"):
        outbox.put(part)
    outbox.close()
    assert await drained(outbox) == [b"abc"]


async def test_large_part_goes_by_itself_and_uncopied() -> None:
    outbox, large = Outbox(), bytes(2 * JOIN_BYTES)
    for part in (b"before", large, b"after"):
        outbox.put(part)
    outbox.close()
    chunks = await drained(outbox)
    assert [len(chunk) for chunk in chunks] == [6, len(large), 5]
    assert chunks[1] is large


async def test_stream_waits_for_what_is_put_later() -> None:
    outbox = Outbox()
    stream = outbox.stream()
    for part in (b"first", b"second"):
        waiting = asyncio.ensure_future(next_of(stream))
        await asyncio.sleep(0)
        assert not waiting.done()
        outbox.put(part)
        assert await waiting == part


async def test_close_sends_the_rest_and_ends_the_stream() -> None:
    outbox = Outbox()
    outbox.put(b"rest")
    outbox.close()
    outbox.put(b"too late")
    assert await drained(outbox) == [b"rest"]
    assert await drained(outbox) == []


async def test_close_ends_a_stream_that_waits() -> None:
    outbox = Outbox()
    waiting = asyncio.ensure_future(drained(outbox))
    await asyncio.sleep(0)
    outbox.close()
    assert await waiting == []


async def test_ping_only_when_nothing_else_is_on_its_way() -> None:
    outbox = Outbox()
    outbox.put(b"data")
    outbox.ping()
    stream = outbox.stream()
    assert await next_of(stream) == b"data"
    outbox.ping()
    outbox.ping()
    assert await next_of(stream) == PING


async def test_full_above_the_bound_until_the_reader_catches_up() -> None:
    outbox = Outbox(max_bytes=10)
    assert (outbox.is_full, outbox.is_empty) == (False, True)
    outbox.put(bytes(10))
    assert (outbox.is_full, outbox.is_empty) == (False, False)
    outbox.put(b"1")
    assert outbox.is_full
    assert len(await next_of(outbox.stream())) == 11
    assert (outbox.is_full, outbox.is_empty) == (False, True)


async def test_bound_counts_what_waits_and_not_what_ever_passed() -> None:
    outbox = Outbox(max_bytes=10)
    stream = outbox.stream()
    for _ in range(5):
        outbox.put(bytes(8))
        assert not outbox.is_full
        assert len(await next_of(stream)) == 8


async def test_what_comes_after_the_end_fills_nothing() -> None:
    outbox = Outbox(max_bytes=10)
    outbox.close()
    outbox.put(bytes(11))
    assert (outbox.is_full, outbox.is_empty) == (False, True)
