"""Whatever breaks, in whichever order: no task is lost or run twice, and all agree at the end."""

import logging
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from common.frames import FLAG_BARRIER, Frame, Kind
from tests.delivery_machine import Delivery
from tests.placing_machine import Placing
from worker.slots import Owner, SlotGate

ONE, OTHER, THIRD = (1, 10), (2, 10), (2, 11)
SLOTS = 3
quick = settings(
    max_examples=60,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(autouse=True)
def _still(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The machines open no connection, and thousands of plays are no news.
    monkeypatch.setattr("worker.results._now", lambda: 0.0)
    monkeypatch.setattr("worker.results.new_client", lambda _: None)
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


class Gate(RuleBasedStateMachine):
    """Offers, ends, kills and drops in any order, against books that are kept by hand."""

    tasks = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.gate = SlotGate(SLOTS, self._start)
        self.slots: dict[tuple[Owner, int], int] = {}
        self.waiting: list[tuple[Owner, int]] = []
        self.running: set[tuple[Owner, int]] = set()
        self.exempt: set[tuple[Owner, int]] = set()
        self.begun: Counter[tuple[Owner, int]] = Counter()
        self.next_task = 0

    def _start(self, launch: Frame) -> None:
        key = ((launch.app, launch.executor), launch.task)
        self.begun[key] += 1
        self.waiting.remove(key)
        self.running.add(key)

    @rule(
        target=tasks,
        owner=st.sampled_from([ONE, OTHER, THIRD]),
        slots=st.integers(1, SLOTS + 1),
        barrier=st.booleans(),
    )
    def offer(self, owner: Owner, slots: int, barrier: bool) -> tuple[Owner, int]:
        key = owner, self.next_task
        self.next_task += 1
        # A task that wants more than there are may have them all.
        self.slots[key] = min(slots, SLOTS)
        self.waiting.append(key)
        if barrier:
            self.exempt.add(key)
        flags = slots << 1 | (FLAG_BARRIER if barrier else 0)
        self.gate.offer(Frame(Kind.LAUNCH, 0, flags, owner[1], owner[0], key[1], 0, b""))
        assert not (barrier and key in self.waiting)
        return key

    @rule(key=consumes(tasks))
    def finish(self, key: tuple[Owner, int]) -> None:
        if key in self.running:
            self.running.remove(key)
            self.gate.finish(*key)
            self.gate.finish(*key)

    @rule(key=tasks)
    def kill(self, key: tuple[Owner, int]) -> None:
        if key in self.waiting:
            self.exempt.add(key)
        self.gate.hurry(*key)
        assert key not in self.waiting

    @rule(owner=st.sampled_from([ONE, OTHER, THIRD]))
    def drop(self, owner: Owner) -> None:
        self.waiting = [key for key in self.waiting if key[0] != owner]
        self.running = {key for key in self.running if key[0] != owner}
        self.gate.drop(owner)
        self.gate.drop(owner)

    @invariant()
    def books_agree(self) -> None:
        assert self.gate.busy == sum(self.slots[key] for key in self.running)
        for owner in (ONE, OTHER, THIRD):
            assert self.gate.counts(owner) == (
                sum(key[0] == owner for key in self.running),
                sum(key[0] == owner for key in self.waiting),
            )

    @invariant()
    def slots_are_never_oversold(self) -> None:
        assert sum(self.slots[key] for key in self.running - self.exempt) <= SLOTS

    @invariant()
    def nothing_starts_twice(self) -> None:
        assert set(self.begun.values()) <= {1}

    @invariant()
    def nothing_waits_while_its_slots_are_free(self) -> None:
        """The first of some executor fits not: others may wait for that one."""
        heads = {owner: key for key in reversed(self.waiting) for owner in [key[0]]}
        free = SLOTS - sum(self.slots[key] for key in self.running)
        assert not heads or any(self.slots[key] > free for key in heads.values())

    def teardown(self) -> None:
        while self.running:
            key = min(self.running)
            self.running.remove(key)
            self.gate.finish(*key)
        assert not self.waiting, "lost"
        assert self.gate.busy == 0


TestGate = Gate.TestCase
TestDelivery = Delivery.TestCase
TestPlacing = Placing.TestCase
TestGate.settings = quick
TestDelivery.settings = settings(quick, max_examples=200)
TestPlacing.settings = settings(quick, max_examples=200, stateful_step_count=30)
