"""What entries say about each other: optimizers, copies and ties, of hand-made classifications."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.kinds import corroborate as module
from ckpttool.kinds.corroborate import (
    is_sure,
    leave_out_of_optimizers,
    match_optimizers,
    share_between_copies,
    share_between_ties,
)
from ckpttool.kinds.known_names import load_name_table
from ckpttool.kinds.optimizer import Optimizer, OptimizerMatch
from ckpttool.values.checkpoint import UNCLASSIFIED, Basis, Classification, Entry, Kind, OddKey, Root
from tests.support.classified import BUFFER, PARAMETER, UNKNOWN, by_root, entry

WEAK = Classification(PARAMETER, Basis.NAME, note="a gain")
SURE = Classification(PARAMETER, Basis.ORDER)
OF_TORCH = load_name_table().of_torch
STATS = Classification(BUFFER, Basis.NAME)
NOTHING = Classification(UNKNOWN, Basis.NONE)
EXACT = Classification(BUFFER, Basis.PICKLED_MODULE)
MODEL: Root = ("model",)
EMA: Root = ("ema",)
OPT: Root = ("optim",)


def optimizer(
    *shapes: int | None, names: Any = (), groups: Any = None, class_name: str = "Adam"
) -> Optimizer:
    known = {at: (size,) for at, size in enumerate(shapes) if size is not None}
    every = groups or (tuple(range(len(shapes))),)
    return Optimizer(OPT, every, dict(enumerate(names)), known, class_name)


def entries_of(root: Root, *named: tuple[Any, int]) -> list[Entry]:
    return [entry(name, shape=(size,), root=root) for name, size in named]


def tied_to(entries: list[Entry], tied: dict[int, int] | None) -> list[Entry | None]:
    """``tied`` are positions, and those of the entries that they are tied to."""
    return [entries[tied[at]] if tied and at in tied else None for at in range(len(entries))]


def match(
    optimizers: list[Optimizer],
    entries: list[Entry],
    found: list[Classification],
    tied: dict[int, int] | None = None,
) -> tuple[tuple[OptimizerMatch, ...], dict[int, Classification]]:
    return match_optimizers(optimizers, entries, by_root(entries), tied_to(entries, tied), found)


# -- matching ---------------------------------------------------------------------------------------------


def test_an_optimizer_names_its_entries_by_order_and_says_so() -> None:
    entries = entries_of(MODEL, ("a", 2), ("b", 3))
    (found,), said = match([optimizer(2, 3)], entries, [WEAK, NOTHING])
    assert found == OptimizerMatch(OPT, "Adam", 2, MODEL, 2, "order")
    assert said == dict.fromkeys((0, 1), Classification(PARAMETER, Basis.OPTIMIZER, note="Adam, by order"))
    (found,), said = match([optimizer(2, 3, class_name="")], entries, [WEAK, NOTHING])
    assert said[0].note == "optimizer, by order"
    (found,), said = match([optimizer(2, 9)], entries, [WEAK, NOTHING])
    assert found == OptimizerMatch(OPT, "Adam", 2) and said == {}


def test_names_come_before_order_and_what_the_reader_said_stands() -> None:
    declared = entry("c", shape=(4,), root=MODEL, declared=EXACT)
    entries = [*entries_of(MODEL, ("a", 2), ("b", 2)), declared]
    (found,), said = match([optimizer(2, 2, 4, names=("b", "c", "x"))], entries, [WEAK, WEAK, EXACT])
    assert (found.mapped, found.by, set(said)) == (2, "names", {1})
    assert said[1].note == "Adam, by names"
    # Names that are in no state_dict leave the order to say.
    (found,), said = match([optimizer(2, 2, names=("x", "y"))], entries[:2], [WEAK, WEAK])
    assert (found.mapped, found.by) == (2, "order")


def test_the_state_dict_that_fits_best_is_meant_and_the_first_of_equals() -> None:
    some, all_ = entries_of(MODEL, ("a", 2), ("b", 9)), entries_of(EMA, ("a", 2), ("b", 3))
    for order in ([*some, *all_], [*all_, *some]):
        (found,), _ = match([optimizer(2, 3, names=("a", "b"))], order, [WEAK] * 4)
        assert found.weights_root == order[0].root and found.by == "names" and found.mapped == 2
        (found,), _ = match([optimizer(2, 3)], order, [WEAK] * 4)
        assert found.weights_root == EMA and found.by == "order"


def test_only_so_many_optimizers_and_state_dicts_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_COMPARED", 2)
    entries = [item for at in range(3) for item in entries_of((f"m{at}",), ("a", at + 2))]
    found, said = match([optimizer(2), optimizer(3), optimizer(2)], entries, [WEAK] * 3)
    assert [item.weights_root for item in found] == [("m0",), ("m1",), None] and set(said) == {0, 1}
    (one,), _ = match([optimizer(4)], entries, [WEAK] * 3)
    assert one.weights_root is None


def test_buffers_and_ties_are_left_out_of_the_order() -> None:
    entries = entries_of(MODEL, ("a", 2), ("stats", 2), ("b", 2), ("again", 2))
    (found,), said = match([optimizer(2, 2)], entries, [WEAK, STATS, WEAK, WEAK], {3: 0})
    assert set(said) == {0, 2} and found.mapped == 2
    # What nothing is known of may be a buffer, too: then the sure ones, if they are as many.
    (found,), said = match([optimizer(2, 2)], entries[:3], [SURE, NOTHING, SURE])
    assert set(said) == {0, 2}
    (found,), said = match([optimizer(2, 2)], entries[:3], [SURE, NOTHING, WEAK])
    assert said == {}
    # What takes no gradient is out last: here a name is wrong about a buffer.
    by_dtype = Classification(BUFFER, Basis.DTYPE)
    (found,), said = match([optimizer(2, 2)], entries[:3], [STATS, by_dtype, WEAK])
    assert set(said) == {0, 2}


# -- left out ---------------------------------------------------------------------------------------------


def left_out(
    matches: list[OptimizerMatch],
    entries: list[Entry],
    found: list[Classification],
    tied: dict[int, int] | None = None,
) -> list[Classification]:
    changed = list(found)
    leave_out_of_optimizers(matches, entries, by_root(entries), tied_to(entries, tied), changed)
    return changed


NOTE = "not in the optimizer: a buffer, or frozen"
OUT = NOTHING._replace(note=NOTE)


def of(root: Root | None, parameters: int, mapped: int) -> OptimizerMatch:
    return OptimizerMatch(OPT, "Adam", parameters, root, mapped, "order" if mapped else "")


def test_a_weak_name_is_out_where_the_sure_ones_are_as_many() -> None:
    entries = entries_of(MODEL, ("a", 2), ("b", 3), ("scale", 4), ("thing", 5), ("stats", 6))
    found = [SURE, OF_TORCH, WEAK, NOTHING, STATS]
    assert left_out([of(MODEL, 2, 1)], entries, found) == [SURE, OF_TORCH, OUT, NOTHING, STATS]
    assert left_out([of(MODEL, 2, 2)], entries, found) == [SURE, OF_TORCH, OUT, OUT, STATS]
    for count, mapped in ((1, 0), (3, 1)):
        assert left_out([of(MODEL, count, mapped)], entries, found) == found
    # All that it holds is named: what is unknown is not in it, though a weak name may be.
    assert left_out([of(MODEL, 3, 3)], entries, found) == [SURE, OF_TORCH, WEAK, OUT, STATS]
    assert left_out([], entries, found) == found
    # Two optimizers hold what both hold.
    assert left_out([of(MODEL, 1, 0), of(MODEL, 1, 0)], entries, found) == [
        SURE,
        OF_TORCH,
        OUT,
        NOTHING,
        STATS,
    ]
    assert left_out([of(MODEL, 1, 1), of(MODEL, 2, 1)], entries, found) == [SURE, OF_TORCH, WEAK, OUT, STATS]


def test_a_tied_parameter_counts_once() -> None:
    entries = entries_of(MODEL, ("a", 2), ("b", 2), ("scale", 4))
    found = [SURE, SURE, WEAK]
    assert left_out([of(MODEL, 1, 0)], entries, found, {1: 0}) == [SURE, SURE, OUT]
    assert left_out([of(MODEL, 2, 0)], entries, found, {1: 0}) == found


def test_an_optimizer_that_names_nothing_is_that_of_the_one_state_dict() -> None:
    entries = entries_of(MODEL, ("a", 2), ("scale", 4))
    found = [SURE, WEAK]
    assert left_out([of(None, 1, 0)], entries, found) == [SURE, OUT]
    two = [*entries, *entries_of(EMA, ("other", 7))]
    assert left_out([of(None, 1, 0)], two, [*found, NOTHING]) == [*found, NOTHING]
    assert left_out([of(MODEL, 1, 1)], two, [*found, NOTHING]) == [SURE, OUT, NOTHING]


def test_copies_lose_it_as_well_but_not_what_is_sure_there() -> None:
    entries = [
        *entries_of(MODEL, ("a", 2), ("scale", 4), ("gain", 5), ("temp", 6), (OddKey("1", True), 7)),
        *entries_of(EMA, ("module.scale", 4), ("module.gain", 5), ("temp", 9), ("thing", 8)),
    ]
    found = [SURE, WEAK, WEAK, WEAK, WEAK, WEAK, SURE, WEAK, NOTHING]
    changed = left_out([of(MODEL, 1, 0)], entries, found)
    assert changed == [SURE, OUT, OUT, OUT, OUT, OUT, SURE, WEAK, NOTHING]
    final = [item._replace(declared=NOTHING._replace(note="attribute")) for item in entries]
    assert left_out([of(MODEL, 1, 1)], final, found) == found


def test_what_is_sure() -> None:
    assert [is_sure(said) for said in (SURE, OF_TORCH, WEAK, STATS, NOTHING)] == [
        True,
        True,
        False,
        False,
        False,
    ]


# -- copies and ties --------------------------------------------------------------------------------------


def copied(groups: list[list[tuple[Entry, Classification]]]) -> list[list[Classification]]:
    entries = [item for group in groups for item, _ in group]
    found = [said for group in groups for _, said in group]
    copies, at = [], 0
    for group in groups:
        copies.append(list(range(at, at + len(group))))
        at += len(group)
    share_between_copies(entries, copies, found)
    return [[found[index] for index in indices] for indices in copies]


def one(name: Any, said: Classification, size: int = 3, root: Root = MODEL, **more: Any) -> Any:
    return entry(name, shape=(size,), root=root, **more), said


BORROWED = Classification(BUFFER, Basis.SIBLING, note="as the same name in another copy")
SIBLING = Classification(BUFFER, Basis.SIBLING, note="beside", rebuilt_since="")


def test_a_copy_has_the_kind_of_the_stronger_evidence() -> None:
    strong, weak = one("a", SIBLING), one("module.a", WEAK, root=EMA)
    for groups in ([[strong], [weak]], [[weak], [strong]]):
        found = copied(groups)
        assert sorted(found, key=str) == sorted([[SIBLING], [BORROWED]], key=str)
        assert found[groups.index([weak])] == [BORROWED]
    assert copied([[strong]]) == [[SIBLING]] and copied([]) == []


def test_what_is_rebuilt_since_is_handed_on_and_exact_becomes_a_copy() -> None:
    since = SIBLING._replace(rebuilt_since="0.9")
    assert copied([[one("a", since)], [one("a", WEAK, root=EMA)]])[1] == [
        BORROWED._replace(rebuilt_since="0.9")
    ]
    assert copied([[one("a", EXACT)], [one("a", WEAK, root=EMA)]])[1] == [BORROWED._replace(basis=Basis.COPY)]


@pytest.mark.parametrize(
    ("other", "own"),
    [
        (one("a", SIBLING, size=4), WEAK), (one("b", SIBLING), WEAK), (one("a", SIBLING, root=EMA), WEAK),
        (one("a", WEAK._replace(kind=BUFFER)), WEAK), (one("a", WEAK._replace(kind=BUFFER)), STATS),
        (one("a", SURE), WEAK), (one("a", Classification(Kind.EXTRA_STATE, Basis.SIBLING)), WEAK),
        (one("a", SIBLING), Classification(Kind.OPTIMIZER_STATE, Basis.NAME)),
    ],
)  # fmt: skip
def test_what_differs_in_more_than_evidence_hands_nothing_on(other: Any, own: Classification) -> None:
    """Another shape or name, the same state_dict, evidence no stronger, one kind, no kind of a module."""
    assert copied([[other], [one("a", own, root=EMA)]])[1] == [own]


@pytest.mark.parametrize(
    ("shared", "own", "is_copy"), [(1, 0, True), (1, 1, True), (1, 2, False), (2, 3, False), (2, 2, True)]
)
def test_two_state_dicts_are_copies_if_half_of_one_is_in_the_other(
    shared: int, own: int, is_copy: bool
) -> None:
    first = [one(f"s{at}", SIBLING) for at in range(shared)]
    second = [one(f"s{at}", WEAK, root=EMA) for at in range(shared)]
    second += [one(f"o{at}", WEAK, root=EMA) for at in range(own)]
    expected = [BORROWED if is_copy else WEAK] * shared + [WEAK] * own
    assert copied([first, second])[1] == expected


def test_what_a_reader_said_is_not_changed_by_a_copy_or_a_tie() -> None:
    final = one("a", NOTHING, root=EMA, declared=NOTHING._replace(note="attribute"))
    assert copied([[one("a", SIBLING)], [final]])[1] == [NOTHING]
    entries = [one("a", SIBLING)[0], final[0]]
    found = [SIBLING, NOTHING]
    share_between_ties(entries, [None, entries[0]], found)
    assert found == [SIBLING, NOTHING]


def test_all_names_of_one_tensor_have_the_kind_of_the_strongest_evidence() -> None:
    entries = entries_of((), ("a", 2), ("b", 2), ("c", 2), ("d", 2))
    found = [WEAK, SIBLING, NOTHING, NOTHING]
    share_between_ties(entries, [None, entries[0], entries[0], None], found)
    assert [said.kind for said in found] == [BUFFER, BUFFER, BUFFER, UNKNOWN]
    assert found[1] == SIBLING and found[0].basis is found[2].basis is Basis.SIBLING
    found = [UNCLASSIFIED, WEAK, UNCLASSIFIED, SIBLING]
    share_between_ties(entries, [None, entries[0], None, entries[2]], found)
    assert [said.kind for said in found] == [PARAMETER, PARAMETER, BUFFER, BUFFER]
