"""The slots of a worker, shared task by task by the applications it serves."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from common.frames import Frame

Owner = tuple[int, int]
"""Application key and executor id: one executor JVM on this worker."""


@dataclass
class _Share:
    """What one executor has of the slots."""

    waiting: deque[Frame] = field(default_factory=deque)
    running: dict[int, int] = field(default_factory=dict)
    """Slots taken, by task id."""
    turn: int = 0
    """When it last began a task, counted in tasks: of two as busy, the other goes first."""

    @property
    def busy(self) -> int:
        return sum(self.running.values())


class SlotGate:
    """Lets a task through when slots are free, and queues it while they are not.

    The application with the fewest busy slots goes first, so that a long job does not starve
    a short one. Barrier tasks go through at once: their peers hold the slots they would wait
    for.

    Args:
        slots: slots of the worker.
        start: called with each LAUNCH frame when its turn has come.
    """

    def __init__(self, slots: int, start: Callable[[Frame], None]) -> None:
        self._slots = slots
        self._start = start
        self._shares: dict[Owner, _Share] = {}
        self._turns = 0
        self.busy = 0

    def offer(self, frame: Frame) -> None:
        """Takes a LAUNCH frame, of which the frames' numbers let each come once."""
        share = self._shares.setdefault((frame.app, frame.executor), _Share())
        if frame.barrier or (self.busy + self._takes(frame) <= self._slots and not self._queue()):
            self._run(share, frame)
        else:
            share.waiting.append(frame)

    def hurry(self, owner: Owner, task: int) -> None:
        """Lets a waiting task through at once: it is to be killed, which only a JVM can do."""
        share = self._shares.get(owner)
        for frame in share.waiting if share else ():
            if share and frame.task == task:
                share.waiting.remove(frame)
                self._run(share, frame)
                return

    def finish(self, owner: Owner, task: int) -> None:
        """The task has ended: its slots are the next one's. Harmless when said twice."""
        share = self._shares.get(owner)
        if share is not None and (slots := share.running.pop(task, 0)):
            self.busy -= slots
            self._fill()

    def drop(self, owner: Owner) -> None:
        """The executor is gone, with all it ran and what waited for it."""
        share = self._shares.pop(owner, None)
        if share is not None:
            self.busy -= share.busy
            self._fill()

    def counts(self, owner: Owner) -> tuple[int, int]:
        """Tasks running and waiting."""
        share = self._shares.get(owner, _Share())
        return len(share.running), len(share.waiting)

    def _run(self, share: _Share, frame: Frame) -> None:
        share.turn = self._turns = self._turns + 1
        share.running[frame.task] = slots = self._takes(frame)
        self.busy += slots
        self._start(frame)

    def _takes(self, frame: Frame) -> int:
        """Slots of the task; one that wants more than there are may have them all."""
        return min(frame.slots, self._slots)

    def _queue(self) -> list[_Share]:
        return [share for share in self._shares.values() if share.waiting]

    def _fill(self) -> None:
        while queue := self._queue():
            share = min(queue, key=lambda one: (one.busy, one.turn))
            if self.busy + self._takes(share.waiting[0]) > self._slots:
                return
            self._run(share, share.waiting.popleft())
