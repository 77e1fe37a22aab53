"""Frames over a loopback socket, between a Python process and the JVM beside it."""

import asyncio
from collections.abc import Callable
from typing import cast

from common.errors import FrameError
from common.frames import Frame, FrameDecoder, Kind, encode
from common.logs import get_logger
from common.security import same_token

log = get_logger(__name__)
# A stranger may not fill our memory: until the token was shown, frames are small.
MAX_HELLO_BYTES = 4096


class FrameChannel(asyncio.Protocol):
    """One end of the socket.

    Args:
        max_frame_bytes: a longer frame breaks the connection.
        on_frames: called with each batch that arrived.
        on_lost: called once, when the connection has ended.
        token: what the peer must show first; `None` where this side shows its own.
    """

    def __init__(
        self,
        max_frame_bytes: int,
        on_frames: Callable[[list[Frame]], None],
        on_lost: Callable[[], None],
        token: str | None = None,
    ) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._decoder = FrameDecoder(max_frame_bytes if token is None else MAX_HELLO_BYTES)
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._token = token
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not of asyncio's classes, only alike.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            frames = list(self._decoder.feed(data))
        except FrameError as error:
            log.error("channel.broken", reason=str(error))
            self.close()
            return
        if self._token is not None and frames and not self._opened(frames.pop(0), self._token):
            return
        if frames:
            self._on_frames(frames)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        # Whoever never showed the token never was a peer.
        if self._token is None:
            self._on_lost()

    def send(self, data: bytes) -> None:
        """Sends the bytes of one or more frames; without a connection they are dropped."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _opened(self, first: Frame, token: str) -> bool:
        if first.kind == Kind.HELLO and same_token(first.payload.decode(errors="replace"), token):
            self._token = None
            self._decoder.max_frame_bytes = self._max_frame_bytes
            return True
        log.warning("channel.refused", reason="the first frame did not show the token")
        self.close()
        return False


async def connect(port: int, token: str, channel: FrameChannel) -> None:
    """Connects to the JVM that listens on this loopback port, and shows it the token."""
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: channel, "127.0.0.1", port)
    channel.send(encode(Kind.HELLO, token.encode()))
