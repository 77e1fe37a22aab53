"""Which workers serve an application first: `host.selector`.

Placing the single task stays with Spark, which knows locality.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import TypeVar

from common.settings import SelectorName

T = TypeVar("T")
Selector = Callable[[Sequence[T], Callable[[T], float]], list[T]]
"""Orders candidates, given how loaded each is (busy slots over slots)."""


def selector(name: SelectorName) -> "Selector[T]":
    match name:
        case SelectorName.RANDOM:
            return _random
        case SelectorName.ROUND_ROBIN:
            return _round_robin()
        case SelectorName.LEAST_LOADED:
            return _least_loaded


def _random(candidates: Sequence[T], _load: Callable[[T], float]) -> list[T]:
    return random.sample(candidates, len(candidates))


def _least_loaded(candidates: Sequence[T], load: Callable[[T], float]) -> list[T]:
    return heapq.nsmallest(len(candidates), candidates, key=load)


def _round_robin() -> "Selector[T]":
    turns = count()

    def rotated(candidates: Sequence[T], _load: Callable[[T], float]) -> list[T]:
        start = next(turns) % len(candidates) if candidates else 0
        return [*candidates[start:], *candidates[:start]]

    return rotated
