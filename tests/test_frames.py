"""The frame codec: what goes in comes out, and what is no frame is refused."""

import re
import struct
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import frames
from common.errors import FrameError, FrameLost, FrameMalformed, FrameTooLarge
from common.frames import HEADER, PING, VERSION, Frame, FrameDecoder, Kind, encode, next_number

LIMIT = 4096
SCALA = Path(frames.__file__).parent / "jvm" / "FrameChannel.scala"

unsigned_long = st.integers(0, 2**64 - 1)
encoded_frames = st.builds(
    encode,
    st.sampled_from(Kind),
    st.binary(max_size=300),
    state=st.integers(0, 255),
    flags=st.integers(0, 255),
    executor=st.integers(0, 2**32 - 1),
    app=unsigned_long,
    task=st.integers(-(2**63), 2**63 - 1),
    sequence=unsigned_long,
)


class Fields(NamedTuple):
    """A frame read by the documented layout, not by the codec's own struct."""

    length: int
    version: int
    kind: int
    state: int
    flags: int
    executor: int
    app: int
    task: int
    sequence: int


def by_the_book(raw: bytes) -> Fields:
    """Offsets and widths as the table in `common.frames` gives them."""
    return Fields(
        length=int.from_bytes(raw[0:4], "big"),
        version=raw[4],
        kind=raw[5],
        state=raw[6],
        flags=raw[7],
        executor=int.from_bytes(raw[8:12], "big"),
        app=int.from_bytes(raw[12:20], "big"),
        task=int.from_bytes(raw[20:28], "big", signed=True),
        sequence=int.from_bytes(raw[28:36], "big"),
    )


def decoded(data: bytes, limit: int = LIMIT) -> list[Frame]:
    return list(FrameDecoder(limit).feed(data))


def header(length: int, *, version: int = VERSION, kind: int = Kind.LAUNCH) -> bytes:
    return struct.pack(">IBBBBIQqQ", length, version, kind, 0, 0, 1, 2, 3, 4)


@given(st.lists(encoded_frames, max_size=6), st.data())
def test_frames_survive_any_chunking(encoded: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(encoded)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder = FrameDecoder(LIMIT)
    out: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        out += decoder.feed(stream[start:end])
    assert [frame.raw for frame in out] == encoded
    assert decoder.pending_bytes == 0


@given(st.lists(encoded_frames, min_size=1, max_size=3))
def test_frames_survive_one_byte_at_a_time(encoded: list[bytes]) -> None:
    decoder = FrameDecoder(LIMIT)
    out = [frame for byte in b"".join(encoded) for frame in decoder.feed(bytes([byte]))]
    assert [frame.raw for frame in out] == encoded


@given(encoded_frames)
def test_decoded_fields_are_those_of_the_documented_layout(raw: bytes) -> None:
    (frame,) = decoded(raw)
    book = by_the_book(raw)
    assert book.length == len(raw) - 4
    assert book.version == VERSION
    assert tuple(frame[:7]) == tuple(book[2:])
    assert frame.payload == raw[36:]


def test_header_has_the_documented_36_bytes() -> None:
    raw = encode(
        Kind.STATUS, b"payload", state=2, flags=3, executor=4, app=5, task=-6, sequence=7
    )
    assert HEADER.size == 36
    assert by_the_book(raw) == Fields(32 + 7, 1, 5, 2, 3, 4, 5, -6, 7)
    table = frames.__doc__ or ""
    widths = [int(width) for width in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert sum(widths) == HEADER.size
    assert struct.Struct(">" + "".join(" BHIQ"[w.bit_length()] for w in widths)).size == 36


@pytest.mark.parametrize(
    ("flags", "slots", "barrier"), [(0, 1, False), (1, 1, True), (4, 2, False), (255, 127, True)]
)
def test_flags_tell_slots_and_barrier(flags: int, slots: int, barrier: bool) -> None:
    (frame,) = decoded(encode(Kind.LAUNCH, flags=flags))
    assert (frame.slots, frame.barrier) == (slots, barrier)


@given(st.integers(LIMIT + 1, 2**32 - 1), st.binary(max_size=64))
def test_too_large_frame_is_refused_before_its_payload_comes(length: int, rest: bytes) -> None:
    decoder = FrameDecoder(LIMIT)
    with pytest.raises(FrameTooLarge) as refusal:
        list(decoder.feed(length.to_bytes(4, "big") + rest))
    assert (refusal.value.length, refusal.value.limit) == (length, LIMIT)


@given(encoded_frames, st.binary(max_size=200))
def test_nothing_of_a_too_large_frame_is_kept(before: bytes, rest: bytes) -> None:
    decoder = FrameDecoder(LIMIT)
    out = decoder.feed(before + header(LIMIT + 1) + rest)
    assert next(out).raw == before
    with pytest.raises(FrameTooLarge):
        next(out)
    assert decoder.pending_bytes == 0


@given(encoded_frames)
def test_frame_of_just_the_limit_passes(raw: bytes) -> None:
    assert [frame.raw for frame in decoded(raw, limit=len(raw) - 4)] == [raw]
    with pytest.raises(FrameTooLarge):
        decoded(raw, limit=len(raw) - 5)


@pytest.mark.parametrize(
    ("raw", "field", "found"),
    [
        (header(32, version=VERSION + 1), "version", VERSION + 1),
        (header(32, version=0), "version", 0),
        (header(32, kind=0), "kind", 0),
        (header(32, kind=max(Kind) + 1), "kind", max(Kind) + 1),
        (header(31), "length", 31),
        (header(0), "length", 0),
    ],
)
def test_malformed_header_is_refused_with_its_field(raw: bytes, field: str, found: int) -> None:
    with pytest.raises(FrameMalformed) as refusal:
        decoded(raw)
    assert (refusal.value.field, refusal.value.found) == (field, found)
    assert f"{field} is {found}, expected" in str(refusal.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_a_frame_error_or_unfinished(noise: bytes) -> None:
    decoder = FrameDecoder(LIMIT)
    try:
        whole = sum(len(frame.raw) for frame in decoder.feed(noise))
    except FrameError:
        return
    assert whole + decoder.pending_bytes == len(noise)


@given(encoded_frames, encoded_frames, st.data())
def test_cut_frame_shows_as_pending_bytes(
    first: bytes, second: bytes, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(second) - 1))
    decoder = FrameDecoder(LIMIT)
    assert [frame.raw for frame in decoder.feed(first + second[:cut])] == [first]
    assert decoder.pending_bytes == cut
    assert [frame.raw for frame in decoder.feed(second[cut:])] == [second]
    assert decoder.pending_bytes == 0


def test_ping_is_a_frame_without_payload() -> None:
    (ping,) = decoded(PING)
    assert (ping.kind, ping.payload, ping.task) == (Kind.PING, b"", frames.NO_TASK)


@given(st.integers(0, 50), st.integers(0, 60))
def test_numbered_frame_is_taken_once_and_in_order(taken: int, sequence: int) -> None:
    (frame,) = decoded(encode(Kind.LAUNCH, executor=7, sequence=sequence))
    if sequence <= taken + 1:
        assert next_number(taken, frame) == (sequence > taken)
        return
    with pytest.raises(FrameLost) as lost:
        next_number(taken, frame)
    assert (lost.value.executor, lost.value.expected) == (7, taken + 1)
    assert str(lost.value) == f"executor 7: frame {taken + 1} is missing before {sequence}"


def scala_constant(name: str) -> int:
    found = re.search(rf"^  val {name}(?:: \w+)? = (-?\d+)L?$", SCALA.read_text(), re.MULTILINE)
    assert found, f"no {name} in {SCALA}"
    return int(found[1])


def test_jvm_side_has_the_same_version_and_header() -> None:
    assert scala_constant("Version") == VERSION
    assert scala_constant("HeaderBytes") == HEADER.size
    assert scala_constant("NoTask") == frames.NO_TASK
    assert scala_constant("FlagBarrier") == frames.FLAG_BARRIER


def test_jvm_side_has_the_same_kinds() -> None:
    # What only Python processes exchange is not needed there.
    shared = [kind for kind in Kind if kind is not Kind.CONTROL]
    assert {kind: scala_constant(kind.name.capitalize()) for kind in shared} == {
        kind: kind.value for kind in shared
    }
    declared = re.findall(r"^  val (\w+): Byte = \d+$", SCALA.read_text(), re.MULTILINE)
    assert set(declared) == {"Version", *(kind.name.capitalize() for kind in shared)}


def test_jvm_side_writes_the_fields_in_the_same_order() -> None:
    body = SCALA.read_text().partition("def write(")[2].partition("if (payload.hasArray)")[0]
    writes = re.findall(r"out\.write(\w+)\((?:frame\.)?(\w+)", body)
    widths = {"Byte": 1, "Int": 4, "Long": 8}
    assert [(name.lower(), widths[type_]) for type_, name in writes] == [
        ("headerbytes", 4),
        ("version", 1),
        ("kind", 1),
        ("state", 1),
        ("flags", 1),
        ("executor", 4),
        ("app", 8),
        ("task", 8),
        ("sequence", 8),
    ]
