"""Faults on purpose: what they do to a stream and to a call, and that nobody has them unasked."""

import os
from collections.abc import AsyncIterator

import pytest

from common import faults
from common.errors import EnvironmentProblem, UnreachableError
from common.faults import EXAMPLE, SEED_VARIABLE, VARIABLE, Fault, Faults, on, switch_on

CHUNKS = [b"one-", b"two-", b"three-"]
URL = "http://127.0.0.1:1/workers"


class Died(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "active", None)
    monkeypatch.setattr(faults, "DELAY_S", 0.0)
    for variable in (VARIABLE, SEED_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


async def chunks() -> AsyncIterator[bytes]:
    for chunk in CHUNKS:
        yield chunk


async def through(some: Faults, point: str = "tasks") -> tuple[list[bytes], str]:
    """What comes through, and how the stream breaks, empty when it does not."""
    arrived = []
    try:
        async for chunk in some.stream(point, chunks()):
            arrived.append(chunk)
    except UnreachableError as error:
        return arrived, error.problem
    return arrived, ""


@pytest.mark.parametrize(
    ("fault", "arrived", "problem"),
    [
        (Fault.DROP, [], ""),
        (Fault.DELAY, CHUNKS, ""),
        (Fault.DOUBLE, [chunk for chunk in CHUNKS for _ in range(2)], ""),
        (Fault.CUT, [b"on"], "cut on purpose"),
        (Fault.REFUSE, CHUNKS, ""),
    ],
)
async def test_fault_of_a_stream(fault: Fault, arrived: list[bytes], problem: str) -> None:
    assert await through(Faults(f"tasks={fault}:1")) == (arrived, problem)


async def test_fault_hits_no_other_point() -> None:
    assert await through(Faults("tasks=drop:1"), "results") == (CHUNKS, "")


async def test_delay_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("common.faults.asyncio.sleep", wait)
    monkeypatch.setattr(faults, "DELAY_S", 0.5)
    await through(Faults("pushed=delay:1"), "pushed")
    await Faults("calls=delay:1").call(URL)
    assert waited == [0.5] * (len(CHUNKS) + 1)


async def test_death_comes_before_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise Died(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Died):
        await anext(Faults("results=die:1").stream("results", chunks()))


async def test_refused_call_says_which_one() -> None:
    with pytest.raises(UnreachableError, match="refused on purpose") as refusal:
        await Faults("calls=refuse:1").call(URL)
    assert URL in str(refusal.value)
    await Faults("tasks=drop:1").call(URL)


def test_dice_fall_alike_with_the_same_seed_and_about_as_often_as_asked_for() -> None:
    def falls(seed: str) -> list[Fault | None]:
        some = Faults("tasks=drop:0.3,double:0.5", seed)
        return [some.hits("tasks", Fault.DROP, Fault.DOUBLE) for _ in range(1000)]

    one = falls("7")
    assert one == falls("7")
    assert one != falls("8")
    assert 250 < one.count(Fault.DROP) < 350
    assert 300 < one.count(Fault.DOUBLE) < 400, "half of what is not dropped"


@pytest.mark.parametrize(
    "part",
    [
        "tasks",
        "tasks=",
        "tasks=vanish:0.1",
        "tasks=drop",
        "tasks=drop:often",
        "tasks=drop:7",
        "tasks=drop:nan",
        "elsewhere=cut:1",
    ],
)
def test_text_that_says_nothing_is_refused_with_a_sentence(part: str) -> None:
    with pytest.raises(EnvironmentProblem) as refusal:
        Faults(f"calls=refuse:0.5;{part}")
    expected = f"{VARIABLE}: {part!r} is not valid. Expected is, for example, {EXAMPLE}"
    assert str(refusal.value) == expected


@pytest.mark.parametrize("text", [None, ""])
async def test_nothing_goes_wrong_unasked(
    monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    if text is not None:
        monkeypatch.setenv(VARIABLE, text)
    switch_on()
    assert faults.active is None
    stream = chunks()
    assert on("tasks", stream) is stream
    assert [chunk async for chunk in stream] == CHUNKS


async def test_environment_switches_them_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "results=cut:0.0;tasks=double:1")
    monkeypatch.setenv(SEED_VARIABLE, "1")
    switch_on()
    assert len([chunk async for chunk in on("tasks", chunks())]) == 2 * len(CHUNKS)
    assert [chunk async for chunk in on("results", chunks())] == CHUNKS
