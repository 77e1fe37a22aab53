"""Data messages: length-prefixed binary frames, the same on every hop.

A frame is a fixed header of 36 bytes, big-endian, and an opaque payload:

| bytes | field | meaning |
|---|---|---|
| 4 | length | bytes that follow this field: 32 + payload |
| 1 | version | `VERSION` |
| 1 | kind | `Kind` |
| 1 | state | of STATUS: Spark's `TaskState` id, else 0 |
| 1 | flags | of LAUNCH: bit 0 barrier task; bits 1-7 slots the task takes, 0 meaning one |
| | | of MESSAGE: bit 0 asks for a reply |
| 4 | executor | executor id, unique within the application |
| 8 | application | the random key of one SparkContext |
| 8 | task | Spark's task id, signed; -1 where there is none; of REPLY: number of the MESSAGE |
| 8 | sequence | of ACK: highest number taken; of the numbered kinds: 1, 2, 3 ... |

LAUNCH and MESSAGE are numbered together, one after the other, for each executor; so are STATUS
and REPLY in the other direction. The sender keeps them until they are confirmed and sends them
again after a break; the receiver takes each number once, in its order.

`common/jvm/FrameChannel.scala` is the same layout on the JVM side.
"""

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from common.errors import FrameError, FrameLost, FrameMalformed, FrameTooLarge

VERSION = 1
HEADER = Struct(">IBBBBIQqQ")
LENGTH_BYTES = 4
NO_TASK = -1
FLAG_BARRIER = 1


class Kind(IntEnum):
    """What a frame carries, and which way it goes."""

    HELLO = 1  # a JVM to its Python process: the token that opens the channel
    READY = 2  # executor to worker: the executor accepts tasks; payload: its block manager's port
    LAUNCH = 3  # driver to executor: one serialized TaskDescription
    MESSAGE = 4  # driver to executor: a Java-serialized CoarseGrainedClusterMessage
    STATUS = 5  # executor to driver: state of one task, with its result
    REPLY = 6  # executor to driver: the answer to a MESSAGE that asks
    ACK = 7  # driver to worker, worker to driver: numbered frames up to this one are there
    SYNC = 8  # agent to driver JVM: please confirm what you took
    CONTROL = 9  # dispatcher to agent and worker: one JSON message of common.messages
    PING = 10  # who has nothing else to say on a stream: still here
    RESUME = 11  # driver to dispatcher: what may have been lost for this executor follows


KINDS = frozenset(Kind)


class TaskState(IntEnum):
    """`org.apache.spark.TaskState`, by its ids."""

    LAUNCHING = 0
    RUNNING = 1
    FINISHED = 2
    FAILED = 3
    KILLED = 4
    LOST = 5


FINAL_STATES = frozenset(
    {TaskState.FINISHED, TaskState.FAILED, TaskState.KILLED, TaskState.LOST}
)


class Frame(NamedTuple):
    """One frame; `raw` is the whole of it, header included, ready to be forwarded."""

    kind: int
    state: int
    flags: int
    executor: int
    app: int
    task: int
    sequence: int
    raw: bytes

    @property
    def payload(self) -> bytes:
        return self.raw[HEADER.size :]

    @property
    def slots(self) -> int:
        """Slots that a LAUNCH takes on its worker."""
        return (self.flags >> 1) or 1

    @property
    def barrier(self) -> bool:
        return bool(self.flags & FLAG_BARRIER)


def next_number(taken: int, frame: Frame) -> bool:
    """Whether a numbered frame is the next one; false for one that was taken before.

    Raises:
        FrameLost: those between are missing; the stream is to be opened anew, which repeats them.
    """
    if frame.sequence > taken + 1:
        raise FrameLost(frame.executor, taken + 1, frame.sequence)
    return frame.sequence == taken + 1


def encode(
    kind: Kind,
    payload: bytes = b"",
    *,
    state: int = 0,
    flags: int = 0,
    executor: int = 0,
    app: int = 0,
    task: int = NO_TASK,
    sequence: int = 0,
) -> bytes:
    """The bytes of one frame."""
    length = HEADER.size - LENGTH_BYTES + len(payload)
    header = HEADER.pack(length, VERSION, kind, state, flags, executor, app, task, sequence)
    return header + payload


PING = encode(Kind.PING)


class FrameDecoder:
    """Cuts a stream of bytes, in chunks of any size, into frames."""

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()
        self._needed = LENGTH_BYTES

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Yields the frames that `chunk` completes.

        Raises:
            FrameTooLarge: a frame is longer than the limit; nothing of it was kept.
            FrameMalformed: the header is not one of ours.
        """
        buffer = self._buffer
        buffer += chunk
        # A frame of many megabytes arrives in many chunks: look again only when it is whole.
        if len(buffer) < self._needed:
            return
        start = 0
        try:
            while (end := self._frame_end(start)) <= len(buffer):
                yield self._frame(start, end)
                start = end
            self._needed = end - start
        except FrameError:
            start = len(buffer)  # the stream cannot go on: nothing of the rest is kept
            raise
        finally:
            del buffer[:start]

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished frame; not 0 at the end of a stream means it was cut."""
        return len(self._buffer)

    def _frame_end(self, start: int) -> int:
        prefix = self._buffer[start : start + LENGTH_BYTES]
        if len(prefix) < LENGTH_BYTES:
            return start + HEADER.size
        length = int.from_bytes(prefix, "big")
        if length > self.max_frame_bytes:
            raise FrameTooLarge(length, self.max_frame_bytes)
        if length < HEADER.size - LENGTH_BYTES:
            raise FrameMalformed("length", length, f"at least {HEADER.size - LENGTH_BYTES}")
        return start + LENGTH_BYTES + length

    def _frame(self, start: int, end: int) -> Frame:
        raw = bytes(self._buffer[start:end])
        _, version, kind, state, flags, executor, app, task, sequence = HEADER.unpack_from(raw)
        if version != VERSION:
            raise FrameMalformed("version", version, str(VERSION))
        if kind not in KINDS:
            raise FrameMalformed("kind", kind, "a known kind")
        return Frame(kind, state, flags, executor, app, task, sequence, raw)
