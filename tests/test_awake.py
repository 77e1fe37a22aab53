"""A process that was stopped judges nobody, until it has run for as long as it judges by."""

from collections.abc import Callable, Iterator

import pytest

from common.awake import Awake
from tests.placing_stubs import StillLoop

LIMIT_S = 10.0
Ask = Callable[[float], bool]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Its answer when it is asked again after so many seconds."""
    loop = StillLoop()

    async def make() -> Awake:
        return Awake(LIMIT_S)

    async def answer() -> bool:
        return awake.all_the_time()

    def after(seconds: float) -> bool:
        loop.clock += seconds
        return loop.run_until_complete(answer())

    awake = loop.run_until_complete(make())
    yield after
    loop.close()


def until_awake(ask: Ask) -> int:
    """How many seconds it takes, when it is asked every second."""
    return next(seconds for seconds in range(1, 100) if ask(1.0))


def test_process_that_has_just_started_judges_nobody(ask: Ask) -> None:
    assert until_awake(ask) == LIMIT_S + 1
    assert all(ask(1.0) for _ in range(50))


def test_process_that_was_stopped_has_to_run_for_the_limit_again(ask: Ask) -> None:
    until_awake(ask)
    assert not ask(LIMIT_S * 3)
    assert until_awake(ask) == LIMIT_S + 1


def test_short_pause_is_no_stop(ask: Ask) -> None:
    until_awake(ask)
    assert ask(LIMIT_S / 2)
    assert not ask(LIMIT_S / 2 + 0.1)
