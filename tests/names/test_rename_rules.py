"""One rule for many renames: it makes the very names that B has, and is the one that a person would give."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.names.rename_rules import find_rules
from ckpttool.values.checkpoint import Key
from ckpttool.values.difference import RenameRule

BLOCKS = [
    f"encoder_{i}_{part}_{leaf}" for i in range(12) for part in ("q", "mlp") for leaf in ("weight", "bias")
]
DOTTED = [name.replace("_", ".") for name in BLOCKS]


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (BLOCKS, DOTTED, ("all", "_", ".")),
        (DOTTED, BLOCKS, ("all", ".", "_")),
        (BLOCKS, [name.replace("_", ".", 1) for name in BLOCKS], ("first", "_", ".")),
        (BLOCKS, [".".join(name.rsplit("_", 1)) for name in BLOCKS], ("last", "_", ".")),
        ([f"module.{name}" for name in DOTTED], DOTTED, ("prefix", "module.", "")),
        (DOTTED, [f"module.{name}" for name in DOTTED], ("prefix", "", "module.")),
        ([f"a.a.{name}" for name in DOTTED], [f"a.{name}" for name in DOTTED], ("prefix", "a.", "")),
        (DOTTED, [f"{name}_ema" for name in DOTTED], ("suffix", "", "_ema")),
        (DOTTED, [name.replace("encoder", "decoder") for name in DOTTED], ("all", "encoder", "decoder")),
        ([f"conv{i}.w" for i in range(5)], [f"layer{i}.w" for i in range(5)], ("all", "conv", "layer")),
        (["a__w_b", "c_w"], ["a..w.b", "c.w"], ("all", "_", ".")),
        (["a.x_w", "b.x_w"], ["a.\x1b_w", "b.\x1b_w"], ("all", "x", "\x1b")),
        (["a.w", "a.b.w"], ["x.w", "x.b.w"], ("all", "a", "x")),
    ],
)
def test_one_rule_for_all(old: list[str], new: list[str], rule: tuple[str, str, str]) -> None:
    assert find_rules(list(zip(old, new, strict=True))) == (RenameRule(*rule, len(old)),)


def test_several_rules_have_their_counts_and_what_follows_none_has_none() -> None:
    pairs = [(f"n.{i}.gamma", f"n.{i}.weight") for i in range(9)]
    pairs += [(f"n.{i}.beta", f"n.{i}.bias") for i in range(4)]
    pairs += [("one", "other"), ("x.y", "z")]
    assert find_rules(pairs) == (
        RenameRule("all", "gamma", "weight", 9),
        RenameRule("all", "beta", "bias", 4),
    )
    assert find_rules(pairs[::-1]) == find_rules(pairs)


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("a", "b")],
        [("a", "a"), ("b", "b")],
        [("a.x", "b.y"), ("b.y", "a.x")],  # names that changed places follow no rule
        [(0, "a"), (1, "b")],
        [("a" * 5000, "b" * 5000), ("a" * 4999, "b" * 4999)],
    ],
)
def test_no_rule(pairs: list[tuple[Key, Key]]) -> None:
    assert find_rules(pairs) == ()


NAMES = st.lists(st.text("ab_.1\n\u202e", min_size=1, max_size=9), min_size=2, max_size=8, unique=True)


@given(NAMES, NAMES)
def test_rules_make_exactly_the_names_that_they_count(old: list[str], new: list[str]) -> None:
    left = list(zip(old, new, strict=False))
    for rule in find_rules(left):
        follows = [(a, b) for a, b in left if a != b and rule.new_name(a) == b]
        assert len(follows) == rule.names > 1
        left = [pair for pair in left if pair not in follows]


def _replace(name: str, gone: str, come: str) -> str:
    return name.replace(gone, come)


def _before(name: str, gone: str, come: str) -> str:
    return come + name


def _behind(name: str, gone: str, come: str) -> str:
    return name + come


ADDED = st.text("xyz", max_size=3)


@given(NAMES, st.sampled_from("ab_."), ADDED, st.sampled_from([_replace, _before, _behind]))
def test_what_follows_one_rule_is_explained_whole(
    old: list[str], gone: str, come: str, make: Callable[[str, str, str], str]
) -> None:
    pairs = [(name, new) for name in old if (new := make(name, gone, come)) != name]
    rules = find_rules(pairs)
    if len(pairs) > 1:
        assert [rule.names for rule in rules] == [len(pairs)]


def test_a_hundred_thousand_names_take_no_time() -> None:
    pairs = [(f"m.l_{i}.x_{i % 7}.weight", f"m.l.{i}.x.{i % 7}.weight") for i in range(100_000)]
    begin = time.process_time()
    assert find_rules(pairs) == (RenameRule("all", "_", ".", 100_000),)
    assert time.process_time() - begin < 5


def test_names_that_are_hard_to_compare_take_no_time() -> None:
    pairs = [("a" * (200 + i) + "b" * (100 - i), "b" * (100 - i) + "a" * (200 + i)) for i in range(60)]
    begin = time.process_time()
    find_rules(pairs)
    assert time.process_time() - begin < 5
