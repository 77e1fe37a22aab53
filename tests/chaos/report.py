"""What came of it: counts, reruns by Spark's own event logs, and the longest recovery."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.choices import SIGNALS, Victim
from tests.chaos.drivers import Job, Outcome
from tests.chaos.killer import Kill

ALL_SIGNALS = sorted({number for numbers in SIGNALS.values() for number in numbers})
SHOWN_CHARACTERS = 300
RECOVERY = "longest recovery: from a kill during a job to its driver's next finished task"


@dataclass
class Tasks:
    """The tasks of one driver."""

    launched: int = 0
    distinct: set[tuple[int, int]] = field(default_factory=set)
    """Stage and partition of each that was launched."""
    finished_at: list[float] = field(default_factory=list)
    """Of each that was successful: seconds since the epoch."""

    @property
    def rerun(self) -> int:
        return self.launched - len(self.distinct)

    @classmethod
    def of(cls, folder: Path) -> "Tasks":
        """As the event log in this folder tells it."""
        tasks = cls()
        for event in _events(folder):
            info = event.get("Task Info", {})
            if event["Event"] == "SparkListenerTaskStart":
                tasks.launched += 1
                tasks.distinct.add((event["Stage ID"], info["Partition ID"]))
            elif _is_success(event):
                tasks.finished_at.append(info["Finish Time"] / 1000)
        return tasks


def _is_success(event: dict[str, Any]) -> bool:
    if event["Event"] != "SparkListenerTaskEnd":
        return False
    return bool(event["Task End Reason"]["Reason"] == "Success")


def _events(folder: Path) -> Iterator[dict[str, Any]]:
    for file in folder.glob("[!.]*"):
        for line in file.read_text(errors="replace").splitlines():
            try:
                event: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:
                # A driver that was killed leaves half a line.
                continue
            yield event


def recovery_s(kill_at: float, jobs: Iterable[Job], tasks: Tasks) -> float:
    """From a kill to the next sign that this driver gets on; 0 when it had no job under way.

    The sign is the end of a successful task or of a job that is right. A driver without a job
    under way shows none and waits for none; one that never gets on counts as hung or failed.
    """
    jobs = list(jobs)
    if not any(job.begun_at <= kill_at < (job.ended_at or float("inf")) for job in jobs):
        return 0.0
    signs = [*tasks.finished_at]
    signs += [j.ended_at for j in jobs if j.ended_at and j.outcome is Outcome.RIGHT]
    return min((sign - kill_at for sign in signs if sign > kill_at), default=0.0)


@dataclass
class Report:
    """The figures of one run."""

    jobs: list[Job]
    kills: list[Kill]
    drivers: int
    reruns: int
    longest_recovery_s: float
    notes: dict[str, int]
    """What else was counted, by its name."""

    def count(self, outcome: Outcome) -> int:
        return sum(job.outcome is outcome for job in self.jobs)

    @property
    def is_good(self) -> bool:
        """Something ran, and all of it was right."""
        return bool(self.jobs) and self.count(Outcome.RIGHT) == len(self.jobs)

    @property
    def bad(self) -> list[Job]:
        return [job for job in self.jobs if job.outcome is not Outcome.RIGHT]

    def print(self, console: Console) -> None:
        console.print(_kills_table(self.kills))
        table = Table(title="What came of it", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for name, value in self.rows().items():
            table.add_row(name, value)
        console.print(table)
        for job in self.bad:
            console.print(str(job)[:SHOWN_CHARACTERS], markup=False, soft_wrap=True)

    def rows(self) -> dict[str, str]:
        return {
            "drivers": str(self.drivers),
            "jobs": str(len(self.jobs)),
            "wrong results": str(self.count(Outcome.WRONG)),
            "jobs hung": str(self.count(Outcome.HUNG)),
            "jobs failed": str(self.count(Outcome.FAILED)),
            "tasks rerun (launches beyond the first)": str(self.reruns),
            RECOVERY: f"{self.longest_recovery_s:.1f} s",
            **{name: str(number) for name, number in self.notes.items()},
        }


def _kills_table(kills: Sequence[Kill]) -> Table:
    counts = Counter((kill.victim, kill.signal) for kill in kills)
    table = Table(title=f"{len(kills)} kills")
    table.add_column("victim")
    for number in ALL_SIGNALS:
        table.add_column(number.name, justify="right")
    for victim in Victim:
        cells = [
            str(counts[victim, number]) if number in SIGNALS[victim] else "-"
            for number in ALL_SIGNALS
        ]
        table.add_row(victim, *cells)
    return table
