"""Bytes that wait for one stream."""

import asyncio
from collections.abc import AsyncIterator

from common.frames import PING

# Small frames go out together up to this size; a larger one goes by itself, uncopied.
JOIN_BYTES = 64 * 1024


class Outbox:
    """What is put here leaves through `stream`, in order, as few and large chunks.

    `is_full` tells a writer that more than `max_bytes` wait.
    """

    def __init__(self, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._closed = False
        self._filled = asyncio.Event()

    def put(self, data: bytes) -> None:
        """Adds bytes; after `close` they are dropped, since nobody is there to read them."""
        if self._closed:
            return
        self._waiting.append(data)
        self._bytes += len(data)
        self._filled.set()

    def ping(self) -> None:
        """Shows the reader that this side lives, unless something is on its way anyhow."""
        if not self._waiting:
            self.put(PING)

    @property
    def is_full(self) -> bool:
        return self._bytes > self._max_bytes

    @property
    def is_empty(self) -> bool:
        """Whether the reader has taken all there was."""
        return not self._waiting

    def close(self) -> None:
        """Lets the stream end once it has sent what is here."""
        self._closed = True
        self._filled.set()

    async def stream(self) -> AsyncIterator[bytes]:
        """Yields chunks until `close`."""
        while True:
            await self._filled.wait()
            for chunk in self._take():
                yield chunk
            if self._closed and not self._waiting:
                return

    def _take(self) -> list[bytes]:
        parts, self._waiting, self._bytes = self._waiting, [], 0
        if not self._closed:
            self._filled.clear()
        if sum(map(len, parts)) <= JOIN_BYTES:
            return [b"".join(parts)] if parts else []
        return _joined(parts)


def _joined(parts: list[bytes]) -> list[bytes]:
    chunks: list[bytes] = []
    small: list[bytes] = []
    size = 0
    for part in parts:
        if size and size + len(part) > JOIN_BYTES:
            chunks.append(b"".join(small))
            small, size = [], 0
        small.append(part)
        size += len(part)
    chunks.append(b"".join(small) if len(small) > 1 else small[0])
    return chunks
