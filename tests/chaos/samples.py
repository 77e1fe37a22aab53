"""What a process holds, measured again and again, and whether that grows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

MB = 2**20
# The first third warms up: caches fill, pools of threads and connections reach their size.
WARM_UP_SHARE = 1 / 3
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Figure:
    """One row for each service, and how steep its line may be."""

    name: str
    unit: str
    bound: float
    """Per 100 jobs."""


# With the default numbers 100 jobs take five drivers: one thing lost with each is far above, and
# 10 KB lost with each job are just above; an allocator that settles is below (0.1 MB was seen).
FIGURES = (
    Figure("memory", "MB", 1.0),
    Figure("descriptors", "", 1.0),
    Figure("threads", "", 1.0),
    Figure("processes", "", 1.0),
)


@dataclass(frozen=True)
class Sample:
    """What one process held after so many jobs."""

    jobs: int
    memory: float
    """Resident, in MB."""
    descriptors: int
    threads: int
    processes: int
    """Those below it."""

    @classmethod
    def of(cls, process: psutil.Process, jobs: int) -> "Sample":
        children = process.children(recursive=True)
        return cls(
            jobs=jobs,
            memory=process.memory_info().rss / MB,
            descriptors=process.num_fds(),
            threads=process.num_threads(),
            processes=len(children),
        )

    def point(self, figure: Figure) -> tuple[float, float]:
        return float(self.jobs), float(getattr(self, figure.name))


@dataclass(frozen=True)
class Slope:
    """Of a line through measured points, per 100 jobs, and its standard error."""

    value: float
    error: float

    def exceeds(self, bound: float) -> bool:
        """Clearly: not by the scatter of the points, of which two errors are 95 %."""
        return self.value - 2 * self.error > bound


def warm(points: Points) -> Points:
    """Without the first third, by jobs."""
    last = max((x for x, _ in points), default=0.0)
    return [(x, y) for x, y in points if x > last * WARM_UP_SHARE]


def slope(series: Sequence[Points]) -> Slope:
    """The least-squares slope that all series share, each with a level of its own.

    Series with fewer than two points say nothing. Without any other the slope is 0.
    """
    xx = xy = yy = 0.0
    free = -1
    for points in series:
        if len(points) < 2:
            continue
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        xx += sum((x - mean_x) ** 2 for x, _ in points)
        xy += sum((x - mean_x) * (y - mean_y) for x, y in points)
        yy += sum((y - mean_y) ** 2 for _, y in points)
        free += len(points) - 1
    if xx == 0:
        return Slope(0.0, 0.0)
    value = xy / xx
    # Two points are on a line, whatever they are: they prove nothing.
    error = math.sqrt(max(0.0, yy - value * xy) / free / xx) if free > 0 else math.inf
    return Slope(100 * value, 100 * error)
