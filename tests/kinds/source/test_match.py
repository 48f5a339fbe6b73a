"""Patterns of names against names: a mark stands for anything, or for a number."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.kinds.source.descriptions import ANY, DIGITS
from ckpttool.kinds.source.match import is_wild, matches

MARKED = st.text(st.sampled_from(["a", "b", "1", "2", "_", "#", ANY, DIGITS]), max_size=7)
NAMES = st.text(st.sampled_from(["a", "b", "1", "2", "_"]), max_size=9)


def oracle(pattern: str, name: str) -> bool:
    """Try every way to cut ``name``."""
    if not pattern:
        return not name
    mark, rest = pattern[0], pattern[1:]
    if mark == ANY:
        return any(oracle(rest, name[at:]) for at in range(len(name) + 1))
    if mark in (DIGITS, "#"):
        return any(name[:at].isdecimal() and oracle(rest, name[at:]) for at in range(1, len(name) + 1))
    return name[:1] == mark and oracle(rest, name[1:])


@given(MARKED, NAMES)
def test_matching_is_finding_a_way_to_cut_the_name(pattern: str, name: str) -> None:
    assert matches(pattern, name) is oracle(pattern, name)


@given(MARKED, st.data())
def test_what_a_pattern_is_filled_to_matches_it(pattern: str, data: st.DataObject) -> None:
    texts = {ANY: NAMES, DIGITS: st.integers(0, 99).map(str), "#": st.integers(0, 99).map(str)}
    name = "".join(data.draw(texts[part]) if part in texts else part for part in pattern)
    assert matches(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name", "does"),
    [
        (f"scale_{DIGITS}", "scale_12", True),
        (f"scale_{DIGITS}", "scale_", False),
        (f"scale_{DIGITS}", "scale_1a", False),
        (f"w{DIGITS}{DIGITS}", "w12", True),  # f"w{i}{j}"
        (f"w{DIGITS}{DIGITS}", "w1", False),
        (f"w{DIGITS}0", "w10", True),  # f"w{i}0"
        (f"{ANY}{DIGITS}", "scale3", True),  # f"{prefix}{i}"
        (f"{ANY}_{DIGITS}", "a_b_3", True),
        (f"{ANY}_{DIGITS}_x", "a_b_3_x", True),
        (f"{ANY}ab", "ab", True),
        (f"ab{ANY}ba", "aba", False),  # the ends do not share a letter
        ("weight_ih_l#", "weight_ih_l0", True),
        ("weight_ih_l#", "weight_ih_l0_reverse", False),
        (DIGITS, "٣", True),  # a digit is what Python counts as one
        (ANY, "", True),
        (DIGITS, "", False),
        ("(a+)+$", "aaaa", False),  # nothing in it is a regular expression
        (".", "a", False),
    ],
)
def test_patterns_as_sources_have_them(pattern: str, name: str, does: bool) -> None:
    assert matches(pattern, name) is does


def test_many_marks_cost_no_more_than_their_product() -> None:
    """A matcher that goes back would need longer than the world lasts."""
    start = time.process_time()
    assert not matches(f"{ANY}a" * 200 + f"b{ANY}", "a" * 2000)
    assert not matches(f"{DIGITS}" * 200 + f"b{ANY}", "1" * 2000)
    assert not matches(f"{ANY}{DIGITS}" * 200 + f"b{ANY}", "1" * 2000)
    assert time.process_time() - start < 10


@given(MARKED)
def test_a_pattern_of_fewer_than_two_letters_is_no_evidence(pattern: str) -> None:
    assert is_wild(pattern) is (len(re.findall("[a-z]", pattern)) < 2)
