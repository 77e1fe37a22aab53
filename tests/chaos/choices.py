"""What happens to whom, and when: a sequence that its seed alone determines."""

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from signal import Signals

# Often enough that most jobs are hit, seldom enough that they get anywhere: an executor needs
# some five seconds on a machine with two cores.
INTERVAL_S = (3.0, 9.0)
# On both sides of a heartbeat limit of three seconds.
PAUSE_S = (0.5, 8.0)


class Victim(StrEnum):
    """What can be hit; the driver is not among it."""

    WORKER = "worker"
    EXECUTOR = "executor"
    DISPATCHER = "dispatcher"
    AGENT = "agent"
    REDIS = "Redis"


# Executors and agents are nobody's to stop politely: those that own them do that.
SIGNALS = {
    Victim.WORKER: (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM),
    Victim.EXECUTOR: (signal.SIGKILL, signal.SIGSTOP),
    Victim.DISPATCHER: (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM),
    Victim.AGENT: (signal.SIGKILL, signal.SIGSTOP),
    Victim.REDIS: (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM),
}


@dataclass(frozen=True)
class Choice:
    """One blow."""

    after_s: float
    """Since the one before."""
    victim: Victim
    signal: Signals
    which: float
    """Which of those there are, from 0 (the oldest) to just below 1 (the youngest)."""
    pause_s: float
    """Until it goes on after SIGSTOP, or is started again after its end."""


def choices(seed: int) -> Iterator[Choice]:
    """Without end; the same for the same seed."""
    chance = random.Random(seed)
    while True:
        victim = chance.choice(tuple(Victim))
        yield Choice(
            after_s=chance.uniform(*INTERVAL_S),
            victim=victim,
            signal=chance.choice(SIGNALS[victim]),
            which=chance.random(),
            pause_s=chance.uniform(*PAUSE_S),
        )
