"""Streams of frames in a request's body."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

from starlette.requests import Request

from common.frames import Frame, Kind, encode
from common.web import frames_of, not_silent

LAUNCH = encode(Kind.LAUNCH, bytes(1000))
MAX_FRAME = 4096


class Body:
    """A request whose body comes in these chunks, and then no more."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks

    async def stream(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


def batches(*chunks: bytes) -> AsyncIterator[list[Frame]]:
    return frames_of(cast(Request, Body(*chunks)), MAX_FRAME)


async def test_each_part_of_a_large_frame_is_a_sign_of_life() -> None:
    parts = [LAUNCH[start : start + 300] for start in range(0, len(LAUNCH), 300)]
    arrived = [batch async for batch in batches(*parts)]
    assert [len(batch) for batch in arrived] == [0, 0, 0, 1]
    assert arrived[-1][0].raw == LAUNCH


async def test_a_sender_that_falls_silent_ends_the_stream() -> None:
    async def one_and_no_more() -> AsyncIterator[list[Frame]]:
        async for batch in batches(LAUNCH):
            yield batch
        await asyncio.Event().wait()

    arrived = [batch async for batch in not_silent(one_and_no_more(), 0.05)]
    assert [len(batch) for batch in arrived] == [1]
