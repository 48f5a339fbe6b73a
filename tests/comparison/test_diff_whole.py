"""The difference of two sides, whole: every field of every entry, their order, and what is left out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.comparison import diff as diff_module
from ckpttool.comparison.diff import Request, diff_sides, total_nbytes
from ckpttool.elements.sums import Tolerance
from ckpttool.values.checkpoint import (
    Basis,
    CompositeTensor,
    Entry,
    Kind,
    Part,
    Tensor,
    Value,
)
from ckpttool.values.difference import Diff, DiffEntry, NameBasis, Numbers, Status
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint
from ckpttool.values.inspection import Row
from tests.support.inspections import row, tensor
from tests.support.sides import Two, side
from tests.support.sides import entry_of as entry

PARAMETER, BUFFER, TRANSIENT = Kind.PARAMETER, Kind.PERSISTENT_BUFFER, Kind.NON_PERSISTENT_BUFFER
ones, zeros = torch.ones, torch.zeros


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


def composite(value: Tensor, dtype: str | None = "float32") -> CompositeTensor:
    kind = None if dtype is None else BY_NAME[dtype]
    return CompositeTensor("quantized", "t", kind, (2,), (Part("data", value),))


# -- one entry ----------------------------------------------------------------------------------------------

ONE_OFF = Numbers(2, 2, 2, 1.0, 2.0, 2.0, 2.0, 8.0, 4.0)
"""Of 1, 1 beside 2, 2."""


def test_every_status_with_all_that_is_told_of_it(two: Two) -> None:
    fine = torch.tensor([1.0, 1.1])
    cases: dict[str, tuple[Any, Any, Status, Numbers | None, str]] = {
        "equal": (ones(2), ones(2), Status.EQUAL, None, ""),
        "changed": (ones(2), ones(2) * 2, Status.CHANGED, ONE_OFF, ""),
        "shape": (ones(2), ones(3), Status.SHAPE, None, ""),
        "rank": (ones(2), ones(2, 1), Status.SHAPE, None, ""),
        "gone": (ones(2), None, Status.SHAPE, None, ""),
        "came": (None, ones(2), Status.SHAPE, None, ""),
        "neither": (None, None, Status.EQUAL, None, ""),
        "same values": (ones(2), ones(2).half(), Status.DTYPE,
                        Numbers(2, 0, 2, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, unrounded=0), "the same values"),
        "whole": (ones(2).int(), ones(2).long(), Status.DTYPE,
                  Numbers(2, 0, 2, 0, 0.0, 0.0, 2.0, 2.0, 2.0), "the same values"),
        "other": (ones(2).int(), ones(2).long() * 2, Status.DTYPE, ONE_OFF._replace(max_abs=1), ""),
        "shape and dtype": (ones(2), ones(3).half(), Status.SHAPE, None, ""),
        "no elements": (ones(0), ones(0).half(), Status.DTYPE, None, "no elements"),
    }  # fmt: skip
    expected = []
    for name, (a, b, status, numbers, note) in cases.items():
        expected.append(entry(*two.both(name, a, b), status, numbers, note=note))
    first, second = (two.files[0].info(ones(2)), two.files[1].info(zeros(2)))
    parts = two.both("parts", composite(first), composite(second))
    expected.append(entry(*parts, Status.CHANGED, note="other data"))
    parts = two.both("parts of a dtype", composite(first), composite(second, "float16"))
    said = "quantized and quantized of other parts or details"
    expected.append(entry(*parts, Status.DTYPE, note=said))
    parts = two.both("parts of none", composite(first, None), composite(second, None))
    expected.append(entry(*parts, Status.CHANGED, note="other data"))
    rounded = two.both("rounded", fine, fine.bfloat16())
    other = two.both("not rounded", fine, fine.bfloat16() * 2)
    found = two.diff(align=False)
    assert found.entries[:-2] == tuple(expected)
    for item, pair, note in zip(
        found.entries[-2:], (rounded, other), ("rounded, nothing else", ""), strict=True
    ):
        assert item == entry(*pair, Status.DTYPE, item.numbers, note=note)
        assert item.numbers is not None and item.numbers.unrounded == (2 if pair is other else 0)
    assert found == Diff(
        *two.sides(), found.entries, (), (), left_out=("1 tensor without values in either file",)
    )
    mirrored = diff_sides(*reversed(two.sides()), Request(align=False))
    assert [item.status for item in mirrored.entries] == [item.status for item in found.entries]


def test_a_tolerance_takes_in_what_is_inside_of_it_and_nothing_else(two: Two) -> None:
    near = two.both("near", ones(2), ones(2) * 2)
    far = two.both("far", torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.5]))
    cast = two.both("cast", ones(2), (ones(2) * 2).half())
    parts = two.both("parts", composite(two.files[0].info(ones(2))), composite(two.files[1].info(zeros(2))))
    found = two.diff(tolerance=Tolerance(atol=1.0))
    assert [(item.status, item.numbers and item.numbers.outside) for item in found.entries] == [
        (Status.WITHIN_TOLERANCE, 0), (Status.CHANGED, 1), (Status.DTYPE, 0), (Status.CHANGED, None)
    ]  # fmt: skip
    assert found.entries[0] == entry(*near, Status.WITHIN_TOLERANCE, ONE_OFF._replace(outside=0))
    assert [(item.a, item.b) for item in found.entries] == [near, far, cast, parts]
    plain = two.diff()
    assert plain.entries[0] == entry(*near, Status.CHANGED, ONE_OFF)


def test_a_renamed_entry_and_one_that_changed_as_well(two: Two) -> None:
    content = two.add(0, "old.name.x", torch.arange(5.0)), two.add(1, "another", torch.arange(5.0))
    suffix = two.add(0, "enc.proj.w", ones(2, 3)), two.add(1, "body.proj.w", ones(2, 3) * 2)
    meta = tensor((4, 4))._replace(storage=None)
    bare = two.add(0, "p.q.r", meta), two.add(1, "s.q.r", meta)
    cast = two.add(0, "k.l", ones(7)), two.add(1, "m.l", ones(7).half())
    found = two.diff()
    assert found.entries[0] == entry(*content, Status.RENAMED, basis=NameBasis.CONTENT)
    moved = found.entries[1]
    assert moved == entry(*suffix, Status.CHANGED, moved.numbers, NameBasis.SUFFIX)
    assert moved.numbers is not None and moved.numbers.max_abs == 1.0
    assert found.entries[2] == entry(*bare, Status.RENAMED, None, NameBasis.SUFFIX, "no values")
    assert found.entries[3] == entry(*cast, Status.DTYPE, found.entries[3].numbers, NameBasis.SUFFIX,
                                     "the same values")  # fmt: skip
    assert found.left_out == ("1 tensor without values in either file",)
    strict = two.diff(align=False)
    assert [(item.name, item.status) for item in strict.entries] == [
        (name, status)
        for status, side_ in ((Status.REMOVED, 0), (Status.ADDED, 1))
        for name in [item.entry.name for item in two.rows[side_]]
    ]


# -- kinds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [Basis.MODULE, Basis.METADATA, Basis.NAME, Basis.NONE])
@pytest.mark.parametrize("second", [Basis.MODULE, Basis.METADATA, Basis.NAME, Basis.NONE])
def test_the_better_evidence_says_the_kind(two: Two, first: Basis, second: Basis) -> None:
    order = list(Basis)
    for a, b in ((PARAMETER, BUFFER), (BUFFER, PARAMETER), (BUFFER, Kind.UNKNOWN)):
        two.rows[0].clear(), two.rows[1].clear()
        two.add(0, "x", ones(2), kind=a, basis=first)
        two.add(1, "x", ones(2), kind=b, basis=second)
        expected = a if order.index(first) <= order.index(second) else b
        assert [item.kind for item in two.diff().entries] == [expected]
        for only, counted in (("parameters", expected is PARAMETER), ("buffers", expected is BUFFER)):
            if expected is Kind.UNKNOWN:  # nothing is compared, and it may be one: that is no "identical"
                with pytest.raises(
                    CkptToolError, match=f"no {only} on either side to compare: 1 entry of unk"
                ):
                    two.diff(only=only)
                continue
            found = two.diff(only=only)
            assert [item.kind for item in found.entries] == [expected] * counted
            assert found.left_out == ()


def test_one_kind_alone_of_pairs_and_of_what_one_side_has(two: Two) -> None:
    for at, kind in enumerate(Kind):
        value = torch.arange(at + 2.0)
        two.both(f"both.{kind}", value, value, kind=kind)
        two.add(0, f"a.{kind}.a{at}", ones(at + 2, 1), kind=kind)
        two.add(1, f"b.{kind}.b{at}", ones(1, at + 2), kind=kind)
    two.add(1, "more", ones(3, 3, 3), kind=Kind.UNKNOWN)
    for only, kept in (("parameters", [PARAMETER]), ("buffers", [BUFFER, TRANSIENT])):
        found = two.diff(only=only)
        assert [item.name for item in found.entries if item.status is Status.EQUAL] == [
            f"both.{k}" for k in kept
        ]
        assert [item.name for item in found.entries if item.b is None] == [
            f"a.{kind}.a{list(Kind).index(kind)}" for kind in kept
        ]
        assert [item.name for item in found.entries if item.a is None] == [
            f"b.{kind}.b{list(Kind).index(kind)}" for kind in kept
        ]
        assert found.left_out == ("4 entries of unknown kind",)


@pytest.mark.parametrize(
    ("basis", "there", "left"),
    [
        (Basis.PICKLED_MODULE, "", True),
        (Basis.MODULE, "", True),
        (Basis.NAME, "", False),  # not for sure
        (Basis.MODULE, "the entry", False),
        (Basis.MODULE, "another for sure", False),
        (Basis.MODULE, "another by name", True),
    ],
)
def test_what_no_state_dict_holds_is_left_out(two: Two, basis: Basis, there: str, left: bool) -> None:
    two.both("w", ones(2), ones(2))
    two.add(0, "table", ones(3, 2), kind=TRANSIENT, basis=basis)
    two.add(0, "mask", ones(4, 2), kind=TRANSIENT, basis=basis)
    two.add(0, "kept", ones(5, 2), kind=BUFFER, basis=Basis.MODULE)
    if there == "the entry":
        for name, value in (("table", ones(3, 2)), ("mask", ones(4, 2))):
            two.add(1, name, value, kind=BUFFER)
    elif there:
        by = Basis.MODULE if there == "another for sure" else Basis.NAME
        two.add(1, "x", ones(6, 2), kind=TRANSIENT, basis=by)
    for which, found in (("A", two.diff()), ("B", diff_sides(*reversed(two.sides()), Request()))):
        names = {item.name for item in found.entries}
        assert ("table" in names, "mask" in names, "kept" in names) == (not left, not left, True)
        said = f"only in {which}: 2 non-persistent buffers, which no state_dict holds"
        assert found.left_out == ((said,) if left else ())
    if left:
        assert two.diff(include=("t*", "w")).left_out == (said.replace("only in B", "only in A"),)


# -- the order ----------------------------------------------------------------------------------------------

NAMES = st.lists(st.sampled_from("abcdef"), unique=True)


@given(NAMES, NAMES)
@settings(max_examples=100, deadline=None)
def test_removed_entries_stand_behind_what_stood_before_them(a: list[str], b: list[str]) -> None:
    sides = [side([row(name) for name in names], label=label) for names, label in ((a, "a"), (b, "b"))]
    found = diff_sides(*sides, Request(align=False, structure_only=True))
    behind: dict[str, list[str]] = {"": []}
    last = ""
    for name in a:
        if name in b:
            last = name
        else:
            behind.setdefault(last, []).append(name)
    assert [item.name for item in found.entries] == [
        *behind[""], *itertools.chain.from_iterable([name, *behind.get(name, ())] for name in b)
    ]  # fmt: skip
    for item in found.entries:
        assert item.status is (
            Status.EQUAL
            if item.name in a and item.name in b
            else Status.ADDED
            if item.name in b
            else Status.REMOVED
        )


# -- names that one side does not store ---------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("ab-"), st.booleans()), max_size=7),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_what_is_tied_to_an_equal_entry_is_told(drawn: list[tuple[str, str, bool]], turned: bool) -> None:
    """``drawn``: the bytes of each row of one side, whether the other has it (``-``: no), and equal."""
    firsts: dict[str, Entry] = {}
    full, less = [], []
    for number, (letter, there, equal) in enumerate(drawn):
        shape = ("xyz".index(letter) + 1,)
        made = row(f"n{number}", tensor(shape))
        full.append(made._replace(tied_to=firsts.get(letter)))
        firsts.setdefault(letter, made.entry)
        if there != "-":
            less.append(row(f"n{number}", tensor(shape if equal else (9,))))
    sides = [side(full), side(less)]
    found = diff_sides(*sides[:: -1 if turned else 1], Request(align=False, structure_only=True))
    told = {item.name: (item.tied_to, item.note) for item in found.entries}
    for number, (letter, there, _) in enumerate(drawn):
        same = [f"n{at}" for at, (x, y, equal) in enumerate(drawn) if x == letter and y != "-" and equal]
        if there == "-" and same:
            note = f"tied to {same[0]}; not stored on side {'A' if turned else 'B'}"
            assert told[f"n{number}"] == (same[0], note)
        else:
            assert told[f"n{number}"] == (None, "")


def test_a_long_name_is_cut_in_the_note_of_a_tie() -> None:
    for name, shown in (("n" * 80, "n" * 80), ("n" * 81, "n" * 79 + "…"), (3, "3")):
        first = row(name)
        sides = side([first, row("t", tied_to=first.entry)]), side([row(name)])
        (tied,) = [i for i in diff_sides(*sides, Request(structure_only=True)).entries if i.name == "t"]
        assert (tied.tied_to, tied.note) == (name, f"tied to {shown}; not stored on side B")


def test_the_note_of_what_libraries_rebuild() -> None:
    def noted(note: str, since: str, kind: Kind) -> Row:
        made = row("x", kind=kind, basis=Basis.NAME, note=note)
        return made._replace(classification=made.classification._replace(rebuilt_since=since))

    for note, since, kind, said in (
        ("a rule", "lib 2", BUFFER, "lib 2"),
        ("a rule", "", BUFFER, ""),
        ("a rule", "", TRANSIENT, "a rule"),
        ("a rule", "lib 2", TRANSIENT, "lib 2"),
        ("a rule", "lib 2", PARAMETER, ""),
    ):
        one, none = side([noted(note, since, kind)]), side([])
        for sides, status in (((one, none), Status.REMOVED), ((none, one), Status.ADDED)):
            (found,) = diff_sides(*sides, Request(structure_only=True)).entries
            a, b = (one.rows[0], None) if status is Status.REMOVED else (None, one.rows[0])
            assert found == DiffEntry((), "x", kind, status, a, b, note=said)


# -- renames ------------------------------------------------------------------------------------------------


def test_exchanged_contents_are_taken_for_renames_and_the_rest_stays(two: Two) -> None:
    values = {name: torch.arange(4.0) + at for at, name in enumerate("pqrstuv")}
    order = {"p": "q", "q": "p", "r": "s", "s": "t", "t": "r", "u": "u"}
    for name in "pqrstu":
        two.both(name, values[name], values[order[name]])
    two.both("v", values["v"], values["v"] + 9)
    two.add(0, "gone", ones(3, 3))
    found = two.diff()
    assert [(item.name, item.status.value, item.renamed_from) for item in found.entries] == [
        *((name, "renamed", ((), order[name])) for name in "pqrst"),
        ("u", "equal", None),
        ("v", "changed", None),
        ("gone", "removed", None),
    ]
    assert found.left_out == ()


def test_exchanged_contents_may_be_of_other_shapes(two: Two) -> None:
    two.both("x", torch.arange(2.0), torch.arange(3.0) + 5)
    two.both("y", torch.arange(3.0) + 5, torch.arange(2.0))
    assert [(item.name, item.status, item.renamed_from) for item in two.diff().entries] == [
        ("x", Status.RENAMED, ((), "y")), ("y", Status.RENAMED, ((), "x"))
    ]  # fmt: skip


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("opened", [True, False])
def test_a_file_of_either_side_that_changed_is_noticed(two: Two, which: int, opened: bool) -> None:
    two.both("x", ones(2), ones(2))
    files = two.files[0].files, two.files[1].files
    sides = two.sides()
    if opened:  # what is held open is what counts
        a, b = (one._replace(checkpoint=one.checkpoint._replace(files=(files[0][0],))) for one in sides)
        sides = a, b
    path = files[which][0].path
    os.utime(path, ns=(1, 1))
    with pytest.raises(MalformedCheckpoint) as caught:
        diff_sides(*sides, Request(), files=files if opened else None)
    assert caught.value.path == path


def test_findings_are_of_b_beside_a(two: Two) -> None:
    two.both("x", ones(2), torch.tensor([1.0, float("nan")]))
    (found,) = two.diff().findings
    assert (
        found.message == "values became NaN that were not in A; `ckpttool inspect b.pt --stats` shows where"
    )


@pytest.mark.parametrize("changed", [0, 1, 2, 3])
def test_a_single_change_is_no_exchange_and_costs_no_sample(
    two: Two, monkeypatch: pytest.MonkeyPatch, changed: int
) -> None:
    seen: list[tuple[int, int, bool]] = []

    def counted(a: Sequence[Any], b: Sequence[Any], files: Any, *, differing: bool = False) -> dict[int, Any]:
        seen.append((len(a), len(b), differing))
        return {}

    monkeypatch.setattr(diff_module, "find_contents", counted)
    for at in range(3):
        two.both(f"x{at}", ones(2), ones(2) * 2 if at < changed else ones(2))
    two.add(0, "gone", ones(4))
    two.diff()
    assert seen == [(changed, changed, True)] * (changed > 1) + [(1, 0, False)]


# -- what is asked for --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "names", "values"),
    [
        ({}, "wb", True),
        ({"include": ("w",)}, "w", False),
        ({"exclude": ("w",)}, "b", False),
        ({"include": ("w",), "exclude": ("w",)}, "", False),
        ({"only": "parameters"}, "w", False),
        ({"only": "buffers"}, "b", False),
        ({"align": False}, "wb", True),
    ],
)
def test_parts_of_the_entries_leave_the_surroundings_out(
    two: Two, request_: dict[str, Any], names: str, values: bool
) -> None:
    two.both("w", ones(2), ones(2))
    two.both("b", ones(2), ones(2), kind=BUFFER)
    a, b = (
        one._replace(checkpoint=one.checkpoint._replace(values=(Value((), "epoch", at),)))
        for at, one in enumerate(two.sides())
    )
    found = diff_sides(a, b, Request(**request_))
    assert "".join(str(item.name) for item in found.entries) == names
    assert [change.name for change in found.values] == ["epoch"] * values


def test_bytes_are_told_of_and_what_will_be_read_is_known(two: Two) -> None:
    two.both("x", ones(5), ones(5))
    two.both("y", ones(3), ones(3).half())
    two.both("none", None, None)
    two.add(0, "more", ones(100))
    a, b = two.sides()
    assert total_nbytes(a, b) == total_nbytes(b, a) == 20 + 6
    told: list[int] = []
    diff_sides(a, b, Request(align=False), told.append)
    assert told == [20, 12]
    # Files that are held open are those that are read.
    opened = tuple(files.files for files in two.files)
    gone = [
        one._replace(checkpoint=one.checkpoint._replace(files=one.checkpoint.files[:1])) for one in (a, b)
    ]
    assert diff_sides(*gone, Request(), files=(opened[0], opened[1])).counts[Status.EQUAL] == 2
