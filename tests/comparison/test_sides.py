"""Which branches are laid beside which, whole: every place, every branch that is skipped, every word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.api.opened import open_file
from ckpttool.comparison.sides import (
    Placed,
    Scope,
    choose_scope,
    digest_scope,
    leaves_under,
    make_side,
    select,
    tie_of,
)
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    Entry,
    Kind,
    OddKey,
    Opaque,
    Root,
    Value,
)
from ckpttool.values.difference import Side
from ckpttool.values.inspection import Row
from tests.support.inspections import inspection, row, tensor
from tests.support.sides import placed, side

M, S, P, E = ("model",), ("sd",), ("opt",), ("ema",)


def rows(*roots: Root) -> list[Row]:
    """Two rows at each root."""
    return [row(name, root=root) for root in roots for name in ("w", "b")]


def at(one: Side, *roots: Root, to: Root | None = None) -> tuple[Placed, ...]:
    """The rows at ``roots`` where they stand, or all of them at ``to``."""
    return tuple(placed(item, to) for item in one.rows if item.entry.root in roots)


# -- unasked ----------------------------------------------------------------------------------------------


def test_nothing_but_weights_is_laid_upon_the_weights() -> None:
    flat, inner = side(rows(()), ()), side(rows(M), M)
    assert choose_scope(flat, flat, None, None) == Scope(flat_ := at(flat, ()), flat_, (), (), True, ())
    assert choose_scope(inner, inner, None, None) == Scope(at(inner, M), at(inner, M), (), (), True, ())
    # At other places those of A are laid upon those of B, and so is what is under them.
    scope = Scope(at(inner, M, to=()), at(flat, ()), (), (), True, (), frozenset(), M, ())
    assert choose_scope(inner, flat, None, None) == scope
    back = Scope(at(flat, (), to=M), at(inner, M), (), (), True, (), frozenset(), (), M)
    assert choose_scope(flat, inner, None, None) == back


@pytest.mark.parametrize("known", ["a", "b", ""])
def test_all_is_compared_where_it_is_not_clear_which_are_the_weights(known: str) -> None:
    a, b = side(rows(M, P), M if known == "a" else None), side(rows(S), S if known == "b" else None)
    assert choose_scope(a, b, None, None) == Scope(at(a, M, P), at(b, S), (), (), True, ())


def test_two_that_have_more_than_weights_are_compared_whole_and_the_weights_are_moved() -> None:
    a, b = side(rows(M, P, ()), M), side(rows(P, S, E), S)
    moved = tuple(placed(item, S if item.entry.root == M else None) for item in a.rows)
    assert choose_scope(a, b, None, None) == Scope(moved, at(b, P, S, E), (), (), True, (), frozenset(), M, S)
    assert choose_scope(a, a, None, None) == Scope(at(a, M, P, ()), at(a, M, P, ()), (), (), True, ())


def test_what_only_one_side_has_beside_its_weights_is_told_and_skipped() -> None:
    values = (
        Value((), "epoch", 1),
        Value(P, "lr", 1),
        Value((*P, "groups", 0), "betas", 2),
        Value(E, "n", 3),
    )
    opaque = (Opaque(P, "f", "T"), Opaque((), "args", "T"))
    full = side(rows(M, P, E, ()), M, values=values, opaque=opaque)
    bare = side(rows(M), M, values=(Value(P, "lr", 1), Value(M, "x", 2), Value((), "epoch", 2)))
    scope = choose_scope(full, bare, None, None)
    told = [
        "only in {0}: 2 tensors of opt, 2 tensors of ema, 2 tensors of top",
        "only in {0}: 2 values of opt, 1 value of ema",
        "on both sides: 1 value of opt",
    ]
    assert scope == Scope(
        at(full, M, to=()),
        at(bare, M, to=()),
        (),
        (),
        False,
        tuple(text.format("A", "B") for text in told),
        frozenset(["opt", "ema"]),
        M,
        M,
        frozenset([P, E, ()]),
    )
    assert choose_scope(bare, full, None, None) == scope._replace(
        a=scope.b, b=scope.a, left_out=tuple(text.format("B", "A") for text in told)
    )


def test_weights_at_another_place_are_compared_alone_with_the_values_around_them() -> None:
    values = (Value((*P, "g"), "lr", 1), Value((), "epoch", 1), Value(M, "own", 1), Value(P, "n", 1))
    full, bare = side(rows(M, P), M, values=values), side(rows(()), (), values=(Value((), "epoch", 2),))
    left = "only in A: 2 tensors of opt", "only in A: 2 values of opt"
    scope = Scope(
        at(full, M, to=()), at(bare, ()), (), (), False, left, frozenset(["opt"]), M, (), frozenset([P])
    )
    assert choose_scope(full, bare, None, None) == scope
    assert choose_scope(bare, full, None, None) == scope._replace(
        a=scope.b,
        b=scope.a,
        left_out=tuple(text.replace("A", "B") for text in left),
        home_a=(),
        home_b=M,
    )
    # A branch of the name that the other side has its weights under.
    odd = side(rows(M, S), M, values=(Value(S, "x", 1), Value(M, "y", 1)))
    inner = side(rows(S), S, values=(Value(S, "x", 1), Value((*S, "deep"), "z", 1)))
    assert choose_scope(odd, inner, None, None) == Scope(
        at(odd, M, to=()), at(inner, S, to=()), (), (), False,
        ("only in A: 2 tensors of sd", "only in A: 1 value of sd"), frozenset(["sd"]), M, S,
        frozenset([S]),
    )  # fmt: skip


def test_the_branch_of_the_weights_is_not_skipped_for_what_stands_beside_them_in_it() -> None:
    home, other = ("model", "sd"), ("model", "ema")
    values = (Value(M, "lr", 1), Value(other, "n", 1), Value(P, "m", 1))
    full, bare = side(rows(home, other, P), home, values=values), side(rows(home), home)
    scope = choose_scope(full, bare, None, None)
    assert scope.skipped == {"model", "opt"}
    assert scope.left_out == (
        "only in A: 2 tensors of model, 2 tensors of opt", "only in A: 1 value of opt"
    )  # fmt: skip
    kept = leaves_under(values, (), scope.skipped, scope.home_a, scope.home_a)
    assert kept == [values[0], values[1]]
    flat, more = side(rows(()), ()), side(rows((), P), (), values=(Value((), "x", 1), Value(P, "lr", 1)))
    assert choose_scope(more, flat, None, None).skipped == {"opt"}
    assert choose_scope(more, flat, None, None).left_out == (
        "only in A: 2 tensors of opt", "only in A: 1 value of opt"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("branches", "said"),
    [
        (4, ""),
        (5, ", 1 more branch"),
        (7, ", 3 more branches"),
    ],
)
def test_four_branches_are_named(branches: int, said: str) -> None:
    roots: list[Root] = [(f"{'n' * 39}{number}m", "in") for number in range(branches)]
    values = tuple(Value(root, name, 1) for root in roots for name in "xyz")
    full = side([row("w", root=M), *rows(*roots)], M, values=values)
    scope = choose_scope(full, side(rows(M), M), None, None)
    assert scope.left_out == tuple(
        "only in A: " + ", ".join(f"{count} of {'n' * 39}{number}" for number in range(4)) + said
        for count in ("2 tensors", "3 values")
    )
    odd = side([row("w", root=M), *rows((3,), (OddKey("2.5", True),))], M)
    assert choose_scope(odd, side(rows(M), M), None, None).left_out == (
        "only in A: 2 tensors of 3, 2 tensors of 2.5",
    )


# -- asked for --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roots", "weights", "asked", "place"),
    [
        ([M, E], M, E, E),  # the branch of that name
        ([M, (*E, "in")], M, E, E),
        ([M, P], M, E, M),  # else the weights
        ([M, P], None, E, ()),  # else the top
        ([()], (), E, ()),
        ([("ema2",), M], M, E, M),
        ([M, E], M, (), ()),
    ],
)
def test_the_counterpart_of_a_branch(
    roots: Sequence[Root], weights: Root | None, asked: Root, place: Root
) -> None:
    a, b = side(rows(E, M, (*E, "deep")), M), side(rows(*roots), weights)
    there = tuple(
        placed(i, i.entry.root[len(place) :]) for i in b.rows if i.entry.root[: len(place)] == place
    )
    mine = tuple(placed(i, i.entry.root[len(asked) :]) for i in a.rows if i.entry.root[: len(asked)] == asked)
    scope = Scope(mine, there, asked, place, False, ())
    assert choose_scope(a, b, asked, None) == scope
    assert choose_scope(b, a, None, asked) == Scope(there, mine, place, asked, False, ())


def test_both_branches_are_taken_as_they_are_asked_for() -> None:
    a, b = side(rows(M, E), M), side(rows(M, E, (*E, "x")), M)
    scope = choose_scope(a, b, M, E)
    assert scope == Scope(at(a, M, to=()), (*at(b, E, to=()), *at(b, (*E, "x"), to=("x",))), M, E, False, ())
    assert choose_scope(a, b, P, (*E, "x")) == Scope(
        (), at(b, (*E, "x"), to=()), P, (*E, "x"), False, ()
    )  # fmt: skip


# -- parts of it --------------------------------------------------------------------------------------------


def test_leaves_are_those_under_the_branch_but_for_what_is_skipped() -> None:
    leaves = [Value(root, "x", 1) for root in ((), M, (*M, "a"), ("modelx",), P, (*M, "opt"))]

    def roots(base: Root, skipped: frozenset[str] = frozenset(), *moved: Root) -> list[Root]:
        found = leaves_under(leaves, base, skipped, *moved)
        assert all(leaf[1:] == ("x", 1) for leaf in found)
        return [leaf.root for leaf in found]

    assert roots(()) == [(), M, (*M, "a"), ("modelx",), P, (*M, "opt")]
    assert roots(M) == [(), ("a",), ("opt",)]
    assert roots((), frozenset(["opt"])) == [(), M, (*M, "a"), ("modelx",), (*M, "opt")]
    assert roots((), frozenset(["model", "opt"])) == [(), ("modelx",)]
    assert roots((*M, "a"), frozenset(["opt"])) == [()]
    assert roots((), frozenset(), M) == [(), (), ("a",), ("modelx",), P, ("opt",)]
    assert roots((), frozenset(), M, S) == [(), S, (*S, "a"), ("modelx",), P, (*S, "opt")]
    assert roots((), frozenset(), (*M, "a"), ("y", "z")) == [
        (), M, ("y", "z"), ("modelx",), P, (*M, "opt")
    ]  # fmt: skip
    assert roots((), frozenset(), (), S) == roots(())
    assert roots((), frozenset(["model", "opt"]), M, S) == [(), S, (*S, "a"), ("modelx",), (*S, "opt")]
    assert roots(M, frozenset(), ("a",), S) == [(), S, ("opt",)]


@pytest.mark.parametrize(
    ("include", "exclude", "kept"),
    [
        ((), (), "abc"),
        (("a*",), (), "a"),
        ((), ("a*",), "bc"),
        (("*",), ("*.w",), "c"),
        (("m.*",), (), "b"),  # the path in the file, not the place
        (("a*", "c"), ("c",), "a"),
    ],
)
def test_globs_choose_by_where_an_entry_stands_in_its_file(
    include: Sequence[str], exclude: Sequence[str], kept: str
) -> None:
    items = [placed(row("a.w")), placed(row("b.w", root=("m",)), ()), placed(row("c"))]
    chosen = select(items, include, exclude)
    assert chosen == tuple(item for item in items if str(item.name)[0] in kept)


def test_a_content_hash_is_over_the_weights_or_over_all() -> None:
    found = inspection(rows(M, P), weights_root=M)
    weights, everything = (
        tuple(placed(item, to) for item in found.rows[:n]) for n, to in ((2, ()), (4, None))
    )
    assert digest_scope(found) == weights
    assert digest_scope(found._replace(weights_root=None)) == everything
    assert digest_scope(found._replace(weights_root=E)) == everything  # not in the selection
    assert digest_scope(found._replace(weights_root=())) == everything


def test_a_side_of_a_file_has_kinds_and_ties_and_one_without_what_it_is_told(tmp_path: Path) -> None:
    shared = torch.ones(2, 3)
    path = tmp_path / "a.pt"
    torch.save({"sd": {"e.weight": shared, "h.weight": shared, "n.running_mean": torch.ones(2)}}, path)
    read = open_file(path).read
    found = make_side(read, "label")
    assert (found.label, found.checkpoint, found.weights_root) == ("label", read, ("sd",))
    assert [item.entry for item in found.rows] == list(read.entries)
    first = read.entries[0]
    assert [item.tied_to for item in found.rows] == [None, first, None]
    kinds = [item.classification.kind for item in found.rows]
    assert kinds == [Kind.PARAMETER, Kind.PARAMETER, Kind.PERSISTENT_BUFFER]
    told = Classification(Kind.EXTRA_STATE, Basis.MODULE)
    entries = tuple(entry._replace(declared=told) for entry in read.entries)
    bare = make_side(Checkpoint("m", "model", "", (), entries), "m")
    assert [item.classification for item in bare.rows] == [told] * 3
    unsaid = make_side(Checkpoint("m", "model", "", (), read.entries), "m")
    assert [item.classification.kind for item in unsaid.rows] == [Kind.UNKNOWN] * 3
    assert [item.tied_to for item in bare.rows] == [None, entries[0], None]
    assert bare.weights_root == ("sd",)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([(), M])), max_size=6))
def test_a_tie_is_what_rows_of_one_branch_have_in_common(drawn: list[tuple[int, Root]]) -> None:
    """``drawn``: which bytes a row has, and where it stands."""
    firsts: dict[int, Entry] = {}
    made = []
    for number, (which, root) in enumerate(drawn):
        entry = Entry(root, f"n{number}", tensor())
        made.append(Row(entry, Classification(Kind.UNKNOWN, Basis.NONE), firsts.get(which)))
        firsts.setdefault(which, entry)
    for one, first in zip(made, drawn, strict=True):
        for other, second in zip(made, drawn, strict=True):
            assert (tie_of(one) == tie_of(other)) is (first == second)
