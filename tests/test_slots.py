"""The slots of a worker: shared fairly, never oversold, and no task lost or run twice."""

from collections import Counter

import pytest

from common.frames import FLAG_BARRIER, Frame, Kind
from worker.slots import Owner, SlotGate

ONE, OTHER, THIRD = (1, 10), (2, 10), (2, 11)


def launch(owner: Owner, task: int, *, slots: int = 1, barrier: bool = False) -> Frame:
    flags = slots << 1 | (FLAG_BARRIER if barrier else 0)
    return Frame(Kind.LAUNCH, 0, flags, owner[1], owner[0], task, 0, b"")


class Worker:
    """A gate, and what it has started."""

    def __init__(self, slots: int) -> None:
        self.started: list[tuple[Owner, int]] = []
        self.gate = SlotGate(slots, self._start)

    def _start(self, frame: Frame) -> None:
        self.started.append(((frame.app, frame.executor), frame.task))

    def offer(self, owner: Owner, *tasks: int, slots: int = 1, barrier: bool = False) -> None:
        for task in tasks:
            self.gate.offer(launch(owner, task, slots=slots, barrier=barrier))

    def finish_in_order(self) -> None:
        """Ends each started task, which starts further ones, until none runs."""
        done = 0
        while done < len(self.started):
            self.gate.finish(*self.started[done])
            done += 1


def test_as_many_tasks_run_as_there_are_slots() -> None:
    worker = Worker(2)
    worker.offer(ONE, 1, 2, 3, 4)
    assert worker.started == [(ONE, 1), (ONE, 2)]
    assert (worker.gate.busy, worker.gate.counts(ONE)) == (2, (2, 2))
    worker.gate.finish(ONE, 2)
    assert worker.started[2:] == [(ONE, 3)]
    assert (worker.gate.busy, worker.gate.counts(ONE)) == (2, (2, 1))


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_two_applications_take_turns_task_by_task(slots: int) -> None:
    worker = Worker(slots)
    worker.offer(ONE, *range(20))
    worker.offer(OTHER, *range(20))
    worker.finish_in_order()
    owners = [owner for owner, _ in worker.started]
    assert Counter(owners) == {ONE: 20, OTHER: 20}
    # While both have work, neither is ahead by more than the slots.
    for at in range(slots, 30):
        seen = Counter(owners[slots : at + 1])
        assert abs(seen[ONE] - seen[OTHER]) <= slots


def test_short_job_does_not_wait_for_a_long_queue() -> None:
    worker = Worker(1)
    worker.offer(ONE, *range(100))
    worker.offer(OTHER, 0)
    worker.gate.finish(ONE, 0)
    worker.gate.finish(*worker.started[-1])
    assert (OTHER, 0) in worker.started[:3]


def test_executors_of_one_application_are_apart() -> None:
    worker = Worker(1)
    worker.offer(OTHER, 7)
    worker.offer(THIRD, 7)
    worker.gate.finish(OTHER, 7)
    assert worker.started == [(OTHER, 7), (THIRD, 7)]


def test_barrier_task_starts_at_once_above_the_slots() -> None:
    worker = Worker(1)
    worker.offer(ONE, 1, 2)
    worker.offer(OTHER, 1, 2, barrier=True)
    assert worker.started == [(ONE, 1), (OTHER, 1), (OTHER, 2)]
    assert worker.gate.busy == 3
    worker.gate.finish(ONE, 1)
    worker.gate.finish(OTHER, 1)
    assert len(worker.started) == 3, "the worker is still full"
    worker.gate.finish(OTHER, 2)
    assert worker.started[3:] == [(ONE, 2)]


def test_task_to_be_killed_starts_at_once() -> None:
    worker = Worker(1)
    worker.offer(ONE, 1, 2, 3)
    worker.gate.hurry(ONE, 3)
    assert worker.started == [(ONE, 1), (ONE, 3)]
    worker.gate.hurry(ONE, 3)
    worker.gate.hurry(ONE, 99)
    worker.gate.hurry(OTHER, 2)
    worker.finish_in_order()
    assert worker.started == [(ONE, 1), (ONE, 3), (ONE, 2)]


def test_dropped_executor_frees_its_slots_and_starts_nothing_more() -> None:
    worker = Worker(2)
    worker.offer(ONE, 1, 2, 3)
    worker.offer(OTHER, 1, 2, 3)
    worker.gate.drop(ONE)
    assert worker.started == [(ONE, 1), (ONE, 2), (OTHER, 1), (OTHER, 2)]
    assert worker.gate.counts(ONE) == (0, 0)
    worker.gate.drop(ONE)
    worker.gate.finish(ONE, 1)
    assert worker.gate.busy == 2, "an end that comes late frees nothing twice"


def test_end_said_twice_frees_one_slot() -> None:
    worker = Worker(1)
    worker.offer(ONE, 1, 2, 3)
    worker.gate.finish(ONE, 1)
    worker.gate.finish(ONE, 1)
    assert worker.started == [(ONE, 1), (ONE, 2)]
    assert worker.gate.busy == 1


def test_task_of_several_slots_waits_for_all_of_them_and_is_not_overtaken() -> None:
    worker = Worker(3)
    worker.offer(ONE, 1, 2)
    worker.offer(OTHER, 1, slots=2)
    worker.offer(OTHER, 2)
    assert worker.started == [(ONE, 1), (ONE, 2)]
    worker.gate.finish(ONE, 1)
    assert worker.started[2:] == [(OTHER, 1)]
    assert worker.gate.busy == 3
    worker.gate.finish(OTHER, 1)
    assert worker.started[3:] == [(OTHER, 2)]
