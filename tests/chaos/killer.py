"""Hits one process after the other, and lets those go on that it has stopped."""

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from signal import Signals
from typing import TypeVar

import psutil

from tests.chaos.choices import Choice, Victim
from tests.chaos.offspring import agents, executors, send
from tests.chaos.progress import Progress
from tests.chaos.services import Service, Services

T = TypeVar("T")


@dataclass(frozen=True)
class Kill:
    """One blow that was dealt."""

    at: float
    """Seconds since the epoch."""
    victim: Victim
    signal: Signals


def chosen(candidates: Sequence[T], which: float) -> T | None:
    """The one that a share from 0 to below 1 points at; none of none."""
    return candidates[int(which * len(candidates))] if candidates else None


class Killer:
    """Follows a sequence of choices."""

    def __init__(
        self, services: Services, choices: Iterator[Choice], progress: Progress
    ) -> None:
        self.kills: list[Kill] = []
        self.missed = 0
        self._services = services
        self._choices = choices
        self._progress = progress
        self._next = next(choices)
        self._due = time.monotonic() + self._next.after_s
        self._stopped: dict[psutil.Process, float] = {}

    def tick(self) -> None:
        """Deals the next blow if it is due, and wakes whom it is time to wake."""
        self._wake(time.monotonic())
        if time.monotonic() >= self._due:
            self._strike(self._next)
            self._next = next(self._choices)
            self._due = time.monotonic() + self._next.after_s

    def rest(self) -> None:
        """No more blows; whoever is stopped goes on."""
        self._wake(float("inf"))

    def _wake(self, now: float) -> None:
        for process in [process for process, until in self._stopped.items() if now >= until]:
            del self._stopped[process]
            self._progress.tell(f"wake    pid {process.pid}")
            send(process, signal.SIGCONT)

    def _strike(self, choice: Choice) -> None:
        hit = self._hit_service(choice) if self._services.of(choice.victim) else self._hit(choice)
        if hit is None:
            self.missed += 1
            self._progress.tell(f"nobody  {choice.victim}")
            return
        self.kills.append(Kill(time.time(), choice.victim, choice.signal))
        self._progress.tell(f"{choice.signal.name} {hit}")

    def _hit_service(self, choice: Choice) -> str | None:
        service = chosen(
            [one for one in self._services.of(choice.victim) if self._may_hit(one)], choice.which
        )
        if service is None:
            return None
        if choice.signal is signal.SIGSTOP:
            self._stop(psutil.Process(service.process.pid), choice.pause_s)
        else:
            service.strike(choice.signal, choice.pause_s)
        return f"{service.name} (pid {service.process.pid}) for {choice.pause_s:.1f} s"

    def _hit(self, choice: Choice) -> str | None:
        found = executors() if choice.victim is Victim.EXECUTOR else agents()
        process = chosen([one for one in found if one not in self._stopped], choice.which)
        if process is None:
            return None
        hit = f"{choice.victim} (pid {process.pid})"
        if choice.signal is signal.SIGSTOP:
            self._stop(process, choice.pause_s)
            return f"{hit} for {choice.pause_s:.1f} s"
        # Its worker, or its driver, starts another.
        send(process, choice.signal)
        return hit

    def _may_hit(self, service: Service) -> bool:
        return service.up and service.process.pid not in {one.pid for one in self._stopped}

    def _stop(self, process: psutil.Process, pause_s: float) -> None:
        send(process, signal.SIGSTOP)
        self._stopped[process] = time.monotonic() + pause_s
