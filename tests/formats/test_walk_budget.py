"""What a walk over a tree may cost: each limit is met at its number, and not one step before."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled import budget as module
from ckpttool.formats.pickled.budget import WalkBudget
from ckpttool.formats.pickled.plain import SMALL_VALUE
from ckpttool.pickles.nodes import DictNode
from ckpttool.values.errors import LimitExceeded


def budget(entries: int = 1000) -> WalkBudget:
    return WalkBudget(Limits(entries=entries))


def container(width: int) -> list[int]:
    return list(range(width))


def test_children_are_counted_and_their_number_is_limited() -> None:
    made = budget(entries=10)
    made.spend(40, ())
    with pytest.raises(LimitExceeded) as caught:
        made.spend(1, ())
    assert (caught.value.what, caught.value.limit) == ("number of items in containers and their paths", 40)


def test_keys_of_paths_are_counted_and_their_number_is_limited() -> None:
    made = budget(entries=10)
    for _ in range(20):
        made.spend(0, ("a", 1))
    with pytest.raises(LimitExceeded):
        made.spend(0, ("a",))


def test_what_is_seen_for_the_first_time_is_walked_and_its_place_kept() -> None:
    made = budget()
    first, second = container(3), DictNode(["k", 1])
    assert made.is_shared_too_often(first, ("a",)) is False
    assert made.is_shared_too_often(second, ("b",)) is False
    assert made.is_shared_too_often(first, ("c",)) is False
    assert made.first_path == {id(first): ("a",), id(second): ("b",)}
    # Each counts itself and its children, once for every visit.
    assert made.first_steps == (1 + 3) + (1 + 1)
    assert made.steps == 2 * (1 + 3) + (1 + 1)
    assert made.path_keys == 3


def test_shared_containers_are_walked_again_while_that_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FREE_REVISITS", 10)
    made = budget()
    node = container(4)
    visits = 0
    while not made.is_shared_too_often(node, ()):
        visits += 1
    # 10 free steps, and three times the five of the first visit.
    assert visits == (10 + 3 * 5) // 5
    assert made.is_shared_too_often(node, ()) is True
    assert made.is_shared_too_often(container(50), ()) is False  # what is new is always walked
    assert made.is_shared_too_often(node, ()) is False  # and pays for more


def test_names_are_counted_where_there_are_long_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_TEXT", 60)
    made = budget()
    made.spend(9, ("ab", 5, "c"))
    assert made.text == 0
    made.has_long_keys = True
    made.spend(9, ("ab", 5, "c"))  # the path itself, and one for each child
    assert made.text == 30
    made.count_text(30)
    with pytest.raises(LimitExceeded) as caught:
        made.count_text(1)
    assert (caught.value.what, caught.value.limit) == ("length of all names", 60)


def test_plain_attributes_are_listed_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ATTRIBUTES", 3)
    made = budget()
    assert made.unlisted == 0
    assert [made.lists_attribute() for _ in range(5)] == [True, True, True, False, False]
    assert made.unlisted == 2


def test_a_large_value_is_shown_again_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FREE_REPEATS", 3 * (SMALL_VALUE + 1))
    monkeypatch.setattr(module, "_MAX_REPEATS", 2)
    made = budget()
    large, other = container(1), container(1)
    size = SMALL_VALUE + 1
    assert [made.shows_value(large, size) for _ in range(6)] == [True] * 4 + [False] * 2
    assert made.shows_value(other, size) is True  # for the first time
    assert all(made.shows_value(large, SMALL_VALUE) for _ in range(50))  # small ones always
    with pytest.raises(LimitExceeded) as caught:
        made.shows_value(large, size)
    assert (caught.value.what, caught.value.limit) == ("number of names for one value", 2)


def test_budgets_stand_far_above_real_files_and_far_below_memory() -> None:
    numbers: dict[str, Any] = {name: value for name, value in vars(module).items() if name.startswith("_MAX")}
    assert 1_000 <= module._FREE_REVISITS <= 100_000 and 2 <= module._STEPS_PER_ENTRY <= 8
    assert 1 << 20 <= numbers["_MAX_TEXT"] <= 1 << 28
    assert all(1_000 <= value for value in numbers.values())
