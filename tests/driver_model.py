"""A driver JVM as `agent/jvm/ExternalExecutorRef.scala` and `ExternalExecutors.scala` are one.

A model of what they do with the frames of one executor, to play against the real other side.
"""

from collections import Counter
from collections.abc import Callable

from common.frames import FINAL_STATES, Frame, Kind, TaskState
from tests.stubs import frame

# Small, so that a short play confirms by itself as well.
CONFIRM_FRAMES = 3


class DriverModel:
    """One executor's reference, and what Spark is told of its tasks.

    Args:
        send: takes each frame on its way to the agent.
    """

    def __init__(self, send: Callable[[Frame], None]) -> None:
        self._send = send
        self.registered = False
        self.removed = False
        self.unconfirmed: list[Frame] = []
        self.sent = self.taken = self.told = 0
        self.launched: dict[int, int] = {}
        """Numbers of the frames of tasks that have not ended, by task."""
        self.reports: Counter[int] = Counter()
        """How often Spark was told of a task's end, by task."""
        self.lost: set[int] = set()

    # What Spark does

    def launch(self, task: int) -> None:
        self.launched[task] = self.sent + 1
        self._send_numbered(Kind.LAUNCH, task)

    def kill(self, task: int) -> None:
        self._send_numbered(Kind.MESSAGE, task)

    def _send_numbered(self, kind: Kind, task: int) -> None:
        self.sent += 1
        numbered = frame(kind, task=task, sequence=self.sent)
        self.unconfirmed.append(numbered)
        self._send(numbered)

    # What the agent says

    def register(self) -> bool:
        """It is ready, or reached by another way."""
        if self.removed:
            return False
        self.registered = True
        self._resume()
        return True

    def remove(self) -> None:
        self.removed = True
        self.lost |= set(self.launched)
        self.launched.clear()

    def take(self, one: Frame) -> None:
        if self.removed:
            return
        if one.kind == Kind.ACK:
            self.confirmed(one.sequence)
        elif one.sequence == self.taken + 1:
            self.taken += 1
            if self.taken - self.told >= CONFIRM_FRAMES:
                self.confirm()
            self._status(one)

    def _status(self, one: Frame) -> None:
        if one.task in self.launched:
            number = self.launched[one.task]
            if one.state in FINAL_STATES:
                del self.launched[one.task]
                self.reports[one.task] += 1
            self.confirmed(number)

    def _resume(self) -> None:
        self._send(frame(Kind.RESUME))
        self.repeat()
        self.told = 0
        self.confirm()

    def repeat(self) -> None:
        """Sends again what ought to have been confirmed by now."""
        for one in self.unconfirmed:
            self._send(one)

    def confirmed(self, sequence: int) -> None:
        while self.unconfirmed and self.unconfirmed[0].sequence <= sequence:
            self.unconfirmed.pop(0)

    def confirm(self) -> None:
        if not self.removed and self.taken > self.told:
            self.told = self.taken
            self._send(frame(Kind.ACK, sequence=self.taken))


def finished(task: int, number: int, state: TaskState = TaskState.FINISHED) -> Frame:
    """What an executor JVM says of a task."""
    return frame(Kind.STATUS, b"result", state=state, task=task, sequence=number)
