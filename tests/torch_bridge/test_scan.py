"""The scan for what a module holds without owning it: every place, in order, up to its bounds."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from ckpttool.torch_bridge.lint import scan
from ckpttool.torch_bridge.lint.scan import (
    Stray,
    computed_names,
    is_stock,
    iter_strays,
    iter_tensors,
    stray_tensors,
)

pytestmark = pytest.mark.filterwarnings("ignore")

T = torch.ones(2)


def names(value: object) -> list[str]:
    """How Python reaches each tensor and module in an attribute ``a``."""
    model: Any = nn.Module()
    model.__dict__["a"] = value
    return [stray.name for stray in iter_strays(model)]


@pytest.mark.parametrize("depth", range(12))
def test_containers_are_entered_eight_deep(depth: int) -> None:
    for wrap in (lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: SimpleNamespace(k=inner)):
        value: Any = T
        for _ in range(depth):
            value = wrap(value)
        step = names(wrap(T))[0][1:]
        assert names(value) == ["a" + step * depth] * (depth <= 8)


class Pair(NamedTuple):
    left: Any
    right: Any


class Slim(tuple):  # type: ignore[type-arg]
    """Claims to be a named tuple, and is none."""

    @property
    def _fields(self) -> Any:
        raise ValueError


@dataclasses.dataclass
class Held:
    first: Any
    second: Any = None

    @property
    def third(self) -> Any:
        return T


class Breaks(Held):
    def __getattribute__(self, name: str) -> Any:
        if name == "first":
            raise SystemExit(3)
        return super().__getattribute__(name)


class Gives(Mapping[Any, Any]):
    """A mapping of its own, of so many tensors."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __getitem__(self, key: Any) -> Any:
        return T

    def __iter__(self) -> Iterator[Any]:
        return iter(range(self.count))

    def __len__(self) -> int:
        return self.count


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (T, ["a"]), (nn.ReLU(), ["a"]), ([T, 0, T], ["a[0]", "a[2]"]),
        ((T, [T, T]), ["a[0]", "a[1][0]", "a[1][1]"]),
        (deque([T]), ["a[0]"]), ({T}, ["a[0]"]), (frozenset([T]), ["a[0]"]), ([], []),
        ({"x": T, 3: T}, ["a['x']", "a[3]"]), (OrderedDict(x=[T]), ["a['x'][0]"]),
        (defaultdict(list, x=T), ["a['x']"]), (MappingProxyType({"x": T}), ["a['x']"]),
        (UserDict(x=T), ["a['x']"]),
        (Gives(2), ["a[0]", "a[1]"]), (Pair(T, [T]), ["a.left", "a.right[0]"]), (Slim([T]), ["a[0]"]),
        (Held(T, {"x": T}), ["a.first", "a.second['x']"]), (Breaks(T, T), ["a.second"]),
        (SimpleNamespace(x=T, y=[T]), ["a.x", "a.y[0]"]), ([[T]] * 1 + [[T]], ["a[0][0]", "a[1][0]"]),
        (nn.ModuleList([nn.ReLU()]), ["a"]), ([{"m": nn.ReLU()}], ["a[0]['m']"]), (iter([T]), []),
        (object(), []),
        ((1, 2.0, "x", b"x", None, True, 1j), []),
    ],
)  # fmt: skip
def test_what_is_held_is_found_in_order_under_the_name_that_reaches_it(
    value: Any, expected: list[str]
) -> None:
    assert names(value) == expected


def test_a_container_is_entered_once_and_a_tensor_found_each_time() -> None:
    inner = [T]
    assert names([inner, inner, T, T]) == ["a[0][0]", "a[2]", "a[3]"]
    loop: list[Any] = [T]
    loop.append(loop)
    assert names(loop) == ["a[0]"]


KEYS: list[tuple[Any, str]] = [
    ("x", "'x'"), ("it's", '"it\'s"'), (True, "True"), (False, "False"), (3, "3"), (-3, "-3"), (1.5, "1.5"),
    (None, "NoneType"),
    ((1, 2), "tuple"), (b"x", "bytes"), ("k" * 38, f"'{'k' * 38}'"), ("k" * 39, f"'{'k' * 39}…"),
    ("k" * 40, f"'{'k' * 39}…"), (10**38, str(10**38)), (2**140, "~2^140 (141 bits)"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "text"), KEYS, ids=[text[:8] for _, text in KEYS])
def test_keys_are_written_in_forty_characters_at_most(key: Any, text: str) -> None:
    assert names({key: T}) == [f"a[{text}]"]
    assert names(UserDict({key: T})) == [f"a[{text}]"]


def test_keys_of_classes_of_their_own_are_read_as_what_they_are() -> None:
    class Loud(str):
        def __repr__(self) -> str:
            raise ValueError

    class Number(int):
        def __index__(self) -> int:
            raise ValueError

        __str__ = __repr__ = __index__  # type: ignore[assignment]

    assert names({Loud("x"): T, Number(3): T}) == ["a['x']", "a[3]"]


def test_what_foreign_mappings_give_ends_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_MAX_FOREIGN", 3)
    assert names(Gives(2)) == ["a[0]", "a[1]"]
    assert names(Gives(9)) == ["a[0]", "a[1]", "a[2]"]
    assert names(dict.fromkeys(range(9), T)) == [f"a[{number}]" for number in range(9)]
    # Together, and for each attribute anew.
    assert names([Gives(2), Gives(9)])[:2] == ["a[0][0]", "a[0][1]"] and len(names([Gives(2), Gives(9)])) <= 3
    model: Any = nn.Module()
    model.a, model.b = Gives(9), Gives(9)
    assert len(list(iter_strays(model))) == 6


# ------------------------------------------------------------------------------------------ strays


class Classy(nn.Linear):
    table = T
    listed = [T, nn.ReLU()]  # noqa: RUF012
    shadowed = T
    number = 3

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.shadowed = None
        self.alias = [self.weight]
        self.own = torch.zeros(1)
        self.known = (nn.ReLU(), self)


def test_strays_say_how_they_are_held() -> None:
    model: Any = nn.Sequential(Classy())
    model.aside = {"m": nn.BatchNorm1d(2), "own": model[0]}
    first = model[0]
    assert list(iter_strays(model)) == [
        Stray("aside['m']", model.aside["m"], False, False, False),
        Stray("0.alias[0]", first.weight, False, False, True),
        Stray("0.own", first.own, True, False, False),
        Stray("0.known[0]", first.known[0], False, False, False),
        Stray("0.table", T, True, False, False),
        Stray("0.listed[0]", T, False, False, False),
    ]
    assert list(stray_tensors(model)) == [
        "aside['m'].weight", "aside['m'].bias", "aside['m'].running_mean", "aside['m'].running_var",
        "aside['m'].num_batches_tracked",
        "0.alias[0]", "0.own", "0.table", "0.listed[0]",
    ]  # fmt: skip


def test_what_old_hooks_compute_is_no_stray_of_the_user() -> None:
    def found(model: nn.Module) -> list[tuple[str, bool]]:
        return [(stray.name, stray.computed) for stray in iter_strays(model)]

    norm = torch.nn.utils.weight_norm(nn.Linear(3, 2), "weight")
    assert (computed_names(norm), found(norm)) == ({"weight"}, [("weight", True)])
    spectral = torch.nn.utils.spectral_norm(nn.Linear(3, 2))
    assert (computed_names(spectral), found(spectral)) == ({"weight"}, [("weight", True)])
    pruned = prune.random_unstructured(nn.Linear(3, 2), "bias", 0.5)
    pruned.other = T
    assert (computed_names(pruned), found(pruned)) == ({"bias"}, [("bias", True), ("other", False)])
    plain = nn.Linear(2, 2)
    plain.register_forward_pre_hook(lambda *_: None)
    assert computed_names(plain) == set()


def test_tensors_of_what_a_forward_returned() -> None:
    other = torch.zeros(1)
    assert [item is T for item in iter_tensors({"x": [T, other], "m": nn.Linear(1, 1), "n": 3})] == [
        True,
        False,
    ]
    assert list(iter_tensors(None)) == []


def test_what_torch_defines_is_told_by_where_it_was_defined() -> None:
    class Odd:
        pass

    for module, stock in (("torch", True), ("torch.nn", True), ("torchvision", False), ("x.torch", False)):
        Odd.__module__ = module
        assert is_stock(Odd) is stock
    Odd.__module__ = 3  # type: ignore[assignment]
    assert not is_stock(Odd)
    assert is_stock(nn.Linear) and not is_stock(Classy)
