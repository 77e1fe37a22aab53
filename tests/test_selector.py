"""The order in which workers are given to an application."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.settings import SelectorName
from dispatcher.selector import Selector, selector

loads_of_workers = st.dictionaries(st.text(min_size=1), st.floats(0, 4), max_size=8)


@given(loads_of_workers, st.sampled_from(SelectorName))
def test_every_candidate_comes_once(loads: dict[str, float], name: SelectorName) -> None:
    select: Selector[str] = selector(name)
    assert sorted(select(list(loads), loads.__getitem__)) == sorted(loads)


@given(loads_of_workers)
def test_least_loaded_comes_first(loads: dict[str, float]) -> None:
    select: Selector[str] = selector(SelectorName.LEAST_LOADED)
    ordered = select(list(loads), loads.__getitem__)
    assert [loads[one] for one in ordered] == sorted(loads.values())


def test_equally_loaded_keep_their_order() -> None:
    select: Selector[str] = selector(SelectorName.LEAST_LOADED)
    assert select(["c", "a", "b"], lambda _: 0.5) == ["c", "a", "b"]


def test_round_robin_starts_one_further_each_turn() -> None:
    select: Selector[str] = selector(SelectorName.ROUND_ROBIN)
    turns = [select(["a", "b", "c"], lambda _: 0.0) for _ in range(4)]
    assert turns == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_round_robin_of_two_dispatchers_do_not_share_their_turn() -> None:
    one: Selector[str] = selector(SelectorName.ROUND_ROBIN)
    other: Selector[str] = selector(SelectorName.ROUND_ROBIN)
    assert one(["a", "b"], lambda _: 0.0) == other(["a", "b"], lambda _: 0.0)


def test_random_gives_every_worker_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "sample", random.Random(1).sample)
    select: Selector[str] = selector(SelectorName.RANDOM)
    firsts = {select(["a", "b", "c"], lambda _: 0.0)[0] for _ in range(100)}
    assert firsts == {"a", "b", "c"}


@pytest.mark.parametrize("name", SelectorName)
def test_nobody_to_choose_from_is_fine(name: SelectorName) -> None:
    select: Selector[str] = selector(name)
    assert select([], lambda _: 0.0) == []
