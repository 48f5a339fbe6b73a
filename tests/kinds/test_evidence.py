"""Optimizers, copies and ties as evidence, each by itself: what they name, and whom they may overrule."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.kinds.corroborate import (
    leave_out_of_optimizers,
    match_optimizers,
    share_between_copies,
    share_between_ties,
)
from ckpttool.kinds.evidence import is_final
from ckpttool.kinds.optimizer import (
    Optimizer,
    find_groups,
    match_names,
    match_order,
    read_optimizers,
    split_state_root,
)
from ckpttool.values.checkpoint import UNCLASSIFIED, Basis, Classification, Entry, Kind, Value
from tests.support.classified import BUFFER, PARAMETER, UNKNOWN, checkpoint, entry

SAID = Classification(BUFFER, Basis.PICKLED_MODULE)
PICKLED = Classification(PARAMETER, Basis.PICKLED_PARAMETER)
BY_NAME = Classification(PARAMETER, Basis.NAME)
BY_DTYPE = Classification(BUFFER, Basis.DTYPE)
BY_SIBLING = Classification(BUFFER, Basis.SIBLING)
STATE = Classification(Kind.OPTIMIZER_STATE, Basis.OPTIMIZER)


def optimizer(*shapes: Any, names: dict[Any, str] | None = None, class_name: str = "Adam") -> Optimizer:
    keys = tuple(range(len(shapes)))
    known = {key: shape for key, shape in zip(keys, shapes, strict=True) if shape is not None}
    return Optimizer(("o",), (keys,), names or {}, known, class_name)


def apply_optimizers(
    optimizers: Any, entries: Any, weights: Any, tied_to: Any, found: list[Classification]
) -> Any:
    """What ``classify`` does with the optimizers, but for the rules that judge modules again."""
    matches, said = match_optimizers(optimizers, entries, weights, tied_to, found)
    for index, known in said.items():
        found[index] = known
    leave_out_of_optimizers(matches, entries, weights, tied_to, found)
    return matches


# -- reading ----------------------------------------------------------------------------------------------


def groups_of(*values: tuple[Any, Any, Any]) -> Any:
    return find_groups(checkpoint([], values=[Value(*value) for value in values]))


def test_param_groups_are_found_by_their_place_and_what_they_hold() -> None:
    at = ("o", "param_groups")
    good = ((*at, 0), "params", (0, 1))
    assert groups_of(good, ((*at, 0), "lr", 0.1)) == {("o",): {0: {"params": (0, 1), "lr": 0.1}}}
    assert groups_of((("param_groups", 0), "params", (0,))) == {(): {0: {"params": (0,)}}}
    for other in (
        (("o", "groups", 0), "params", (0,)),
        ((*at, "0"), "params", (0,)),
        ((0,), "params", (0,)),
        ((*at, 0), 5, (0,)),
        ((*at, 0), "params", 3),
        ((*at, 0), "lr", 0.1),
        ((*at, 0, "x"), "params", (0,)),
    ):
        assert groups_of(other) == {}
    both = groups_of(good, ((*at, 1), "params", 3), (("p", "param_groups", 0), "lr", 1))
    assert list(both) == [("o",)] and list(both[("o",)]) == [0, 1]


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (("o", "state", 3), (("o",), 3)),
        (("o", "state", 3, "deep"), (("o",), 3)),
        (("o", "state"), None),
        (("p", "state", 3), None),
        (("state", 3), None),
        (("o", "states", 3), None),
        (("o", "state", "state", 3), (("o",), "state")),
        (("x", "state", "y", "state", 3), (("x", "state", "y"), 3)),
        ((*("state",) * 3, "q", "state", 3), ((*("state",) * 3, "q"), 3)),
        ((*("state",) * 4, "q", "state", 3), None),  # no more than four are tried
    ],
)
def test_a_state_belongs_to_the_optimizer_above_it(root: Any, expected: Any) -> None:
    known = {
        ("o",): None,
        ("x", "state", "y"): None,
        (*("state",) * 3, "q"): None,
        (*("state",) * 4, "q"): None,
    }
    assert split_state_root(root, known) == expected


def test_shapes_and_names_are_read_off_states_and_groups() -> None:
    groups: Any = {
        ("o",): {
            1: {"params": (2, 3, None), "param_names": ("c", "d")},
            0: {"params": (0, 1), "param_names": ("a", 5)},
            2: {"params": ("x.y", 7), "param_names": ("wrong",)},
            3: {"params": "ab"},
        }
    }
    state = {
        ("o", "state", 0): [entry("step", shape=()), entry("exp_avg", shape=(2, 3))],
        ("o", "state", 2): [entry("momentum_buffer", shape=(5,))],
        ("o", "state", 7): [entry("step", shape=())],
        ("elsewhere",): [entry("exp_avg", shape=(9,))],
    }
    (found,) = read_optimizers(groups, state)
    assert found.groups[0] == (0, 1) and found.groups[2] == ("x.y", 7) and found.groups[3] == ()
    assert found.parameters == sum(map(len, found.groups))
    assert found.shapes == {0: (2, 3), 2: (5,)}
    assert found.names[0] == "a" and 1 not in found.names and found.names["x.y"] == "x.y"
    assert 7 not in found.names


@pytest.mark.parametrize(
    ("states", "options", "name"),
    [
        ("exp_avg exp_avg_sq step", {}, "Adam"),
        ("exp_avg exp_avg_sq", {"decoupled_weight_decay": True}, "AdamW"),
        ("exp_avg exp_avg_sq", {"decoupled_weight_decay": False}, "Adam"), ("exp_avg", {}, "Lion"),
        ("exp_avg exp_avg_sq mu_product", {"decoupled_weight_decay": True}, "NAdam"),
        ("exp_avg exp_inf", {}, "Adamax"), ("state1 state2", {}, "8-bit Adam"), ("state1", {}, ""),
        ("momentum_buffer", {}, "SGD"), ("step prev step_size", {}, "Rprop"), ("prev", {}, ""),
        ("", {"dampening": 0, "nesterov": False}, "SGD"), ("", {"dampening": 0}, ""), ("", {}, ""),
    ],
)  # fmt: skip
def test_the_class_is_guessed_from_its_states(states: str, options: dict[str, Any], name: str) -> None:
    groups: Any = {("o",): {0: {"params": (0,), **options}, 1: {"params": ()}}}
    entries = [entry(state) for state in states.split()]
    (found,) = read_optimizers(groups, {("o", "state", 0): entries} if entries else {})
    assert found.class_name == name


# -- matching ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "names", "expected"),
    [
        (["a.w", "b.w"], ["b.w", "x", "a.w"], [2, 0]),
        (["a.w", "b.w"], ["m.a.w", "m.b.w", "m.c"], [0, 1]),
        (["a.w", "b.w"], ["m.a.w", "n.b.w"], [0]),
        (["a.w", "b.w"], ["ma.w", "b.w"], [1]),
        (["a.w"], [5, "m.a.w"], [1]),
        (["a.w", "b.w"], ["a.w", "m.b.w"], [0]),
        ([], ["a.w"], []),
    ],
)
def test_names_meet_with_one_prefix_for_all(wanted: list[str], names: list[Any], expected: list[int]) -> None:
    found = optimizer(*[None] * len(wanted), names=dict(enumerate(wanted)))
    assert match_names(found, {name: index for index, name in enumerate(names)}) == expected


def embeddings(wanted: Any, shapes: Any) -> list[tuple[int, ...]]:
    """Every way to lay ``wanted`` into ``shapes`` in order."""
    return [
        at
        for at in itertools.combinations(range(len(shapes)), len(wanted))
        if all(shape is None or shapes[index] == shape for index, shape in zip(at, wanted, strict=True))
    ]


some_shapes = st.lists(st.sampled_from([(1,), (2,), (3,)]), max_size=6)


@settings(max_examples=300)
@given(st.lists(st.one_of(st.none(), st.sampled_from([(1,), (2,), (3,)])), max_size=4), some_shapes)
def test_a_position_is_sure_when_all_ways_agree_on_it(wanted: Any, shapes: Any) -> None:
    found = match_order(optimizer(*wanted), shapes)
    known = sum(shape is not None for shape in wanted)
    ways = embeddings(wanted, shapes)
    if not wanted or known * 2 < len(wanted) or not ways:
        assert found == []
    else:
        # Each parameter by itself: where it lies in the first way and in the last.
        first = [min(way[number] for way in ways) for number in range(len(wanted))]
        last = [max(way[number] for way in ways) for number in range(len(wanted))]
        assert found == [a for a, b in zip(first, last, strict=True) if a == b]


def test_groups_that_do_not_lie_in_a_row_lie_each_by_itself() -> None:
    two = Optimizer(("o",), ((0, 1), (2,)), {}, {0: (2, 2), 1: (3, 3), 2: (2,)}, "")
    assert match_order(two, [(2, 2), (2,), (3, 3)]) == [0, 1, 2]
    assert match_order(two, [(2, 2), (3, 3), (2,)]) == [0, 1, 2]
    assert match_order(two, [(2, 2), (2,)]) == []
    one = Optimizer(("o",), ((0, 1, 2),), {}, two.shapes, "")
    assert match_order(one, [(2, 2), (2,), (3, 3)]) == []


def test_an_optimizer_marks_what_it_names_and_notes_what_it_does_not() -> None:
    entries = [entry("a.w", root=("m",)), entry("a.s", root=("m",)), entry("a.d", root=("m",), declared=SAID),
               entry("a.p", root=("m",), declared=PICKLED), entry("a.t", root=("m",))]  # fmt: skip
    found = [UNCLASSIFIED, UNCLASSIFIED, SAID, PICKLED, UNCLASSIFIED]
    names = {0: "a.w", 1: "a.d", 2: "a.p", 3: "a.t"}
    (match,) = apply_optimizers(
        [optimizer(*[None] * 4, names=names)], entries, {("m",): range(5), ("other",): []}, [None] * 5, found
    )
    assert (match.root, match.weights_root, match.mapped, match.by, match.parameters) == (
        ("o",), ("m",), 4, "names", 4,
    )  # fmt: skip
    assert [item.kind for item in found] == [PARAMETER, UNKNOWN, BUFFER, PARAMETER, PARAMETER]
    assert found[0] == Classification(PARAMETER, Basis.OPTIMIZER, note="Adam, by names")
    assert found[2] == SAID and found[3].basis is Basis.OPTIMIZER
    assert "not in the optimizer" in found[1].note
    # One that does not find all of its own says nothing of the rest, and one that finds nothing is kept.
    found = [UNCLASSIFIED] * 2
    (match,) = apply_optimizers(
        [optimizer(None, None, names={0: "a.w", 1: "z"}, class_name="")], entries[:2], {("m",): range(2)},
        [None] * 2, found,
    )  # fmt: skip
    assert (match.mapped, found[0].note, found[1].note) == (1, "optimizer, by names", "")
    (match,) = apply_optimizers([optimizer((9,))], entries[:2], {("m",): range(2)}, [None] * 2, found)
    assert (match.weights_root, match.mapped, match.by) == (None, 0, "")


def test_order_passes_over_buffers_and_tied_names() -> None:
    shapes = [(1,), (2,), (1,), (2,)]
    entries = [entry(f"e{number}", shape=shape) for number, shape in enumerate(shapes)]
    found = [BY_DTYPE, UNCLASSIFIED, UNCLASSIFIED, UNCLASSIFIED]
    tied: list[Entry | None] = [None, None, None, entries[1]]
    apply_optimizers([optimizer((2,), (1,))], entries, {(): range(4)}, tied, found)
    assert [item.basis for item in found] == [Basis.DTYPE, Basis.OPTIMIZER, Basis.OPTIMIZER, Basis.NONE]
    # Where what looks like a buffer is needed to fill the places, only its dtype rules it out.
    found = [BY_SIBLING, UNCLASSIFIED, BY_DTYPE]
    apply_optimizers([optimizer((1,), (2,))], entries[:3], {(): range(3)}, [None] * 3, found)
    assert [item.basis for item in found] == [Basis.OPTIMIZER, Basis.OPTIMIZER, Basis.DTYPE]


def test_only_so_many_optimizers_and_state_dicts_are_laid_against_each_other() -> None:
    entries = [entry("w", root=(number,)) for number in range(20)]
    weights: Any = {(number,): [number] for number in range(20)}
    many = [optimizer(None, names={0: "w"}) for _ in range(20)]
    found = [UNCLASSIFIED] * 20
    matches = apply_optimizers(many, entries, weights, [None] * 20, found)
    assert [match.mapped for match in matches] == [1] * 16 + [0] * 4
    last: Any = {(number,): [] for number in range(16)}
    found = [UNCLASSIFIED]
    (match,) = apply_optimizers(many[:1], [entry("w")], {**last, (): [0]}, [None], found)
    assert match.mapped == 0
    del last[(15,)]
    (match,) = apply_optimizers(many[:1], [entry("w")], {**last, (): [0]}, [None], found)
    assert match.mapped == 1


# -- copies and ties --------------------------------------------------------------------------------------


def copies(first: list[Classification], second: list[Classification], **changes: Any) -> list[Classification]:
    entries = [entry(f"e{number}", root=("a",)) for number in range(len(first))]
    entries += [entry(f"e{number}", root=("b",)) for number in range(len(second))]
    for position, change in changes.items():
        entries[int(position[1:])] = entries[int(position[1:])]._replace(**change)
    found = [*first, *second]
    share_between_copies(entries, [range(len(first)), range(len(first), len(found))], found)
    return found


@pytest.mark.parametrize("turned", [False, True])
def test_a_copy_takes_the_kind_that_is_better_known_in_the_other(turned: bool) -> None:
    strong, weak = [BY_SIBLING, BY_DTYPE], [BY_NAME, UNCLASSIFIED]
    found = copies(weak, strong) if turned else copies(strong, weak)
    taken = found[:2] if turned else found[2:]
    kept = found[2:] if turned else found[:2]
    assert kept == strong  # what stands beside is stronger than a name
    assert [item.kind for item in taken] == [BUFFER, BUFFER]
    assert taken[1].note == "as the same name in another copy"


def test_what_is_final_or_no_member_of_a_module_takes_nothing() -> None:
    strong = [BY_DTYPE, BY_DTYPE]
    assert copies(strong, [UNCLASSIFIED, UNCLASSIFIED], _2={"declared": SAID})[2] == UNCLASSIFIED
    assert copies(strong, [UNCLASSIFIED, UNCLASSIFIED], _2={"declared": PICKLED})[2].kind is BUFFER
    for item in (STATE, Classification(Kind.EXTRA_STATE, Basis.NONE)):
        assert copies(strong, [item, UNCLASSIFIED])[2] == item
        assert copies([item, BY_DTYPE], [UNCLASSIFIED, UNCLASSIFIED])[2] == UNCLASSIFIED


def test_two_mappings_are_copies_if_half_of_one_is_in_the_other() -> None:
    strong = [BY_DTYPE] * 2
    other = {"name": "z"}
    assert copies(strong, [UNCLASSIFIED] * 4)[2].kind is BUFFER
    assert copies(strong, [UNCLASSIFIED] * 5)[2] == UNCLASSIFIED
    assert copies(strong, [UNCLASSIFIED] * 2, _2=other)[3].kind is BUFFER
    assert copies(strong, [UNCLASSIFIED] * 3, _2=other)[3] == UNCLASSIFIED
    larger = entry("e0", shape=(5,)).value
    assert copies(strong, [UNCLASSIFIED] * 2, _2={"value": larger})[2] == UNCLASSIFIED


def test_a_kind_taken_from_an_exact_one_is_inferred() -> None:
    exact = Classification(BUFFER, Basis.PICKLED_MODULE, rebuilt_since="4.31")
    found = copies([exact], [UNCLASSIFIED])
    assert found[1] == Classification(
        BUFFER, Basis.COPY, note="as the same name in another copy", rebuilt_since="4.31"
    )
    assert copies([Classification(BUFFER, Basis.METADATA)], [UNCLASSIFIED])[1].basis is Basis.METADATA


def test_names_of_one_tensor_have_its_best_known_kind() -> None:
    entries = [entry("a"), entry("b"), entry("c"), entry("d", declared=SAID), entry("e")]
    tied = [None, entries[0], entries[0], entries[0], None]
    for best in range(3):
        found = [UNCLASSIFIED] * 5
        found[best] = BY_DTYPE
        share_between_ties(entries, tied, found)
        assert [item.kind for item in found] == [BUFFER, BUFFER, BUFFER, UNKNOWN, UNKNOWN]
        assert [item.note for item in found[:3]] == [
            "" if at == best else "tied to an entry of this kind" for at in range(3)
        ]
    found = [UNCLASSIFIED, UNCLASSIFIED, UNCLASSIFIED, SAID, UNCLASSIFIED]
    share_between_ties(entries, tied, found)
    assert [item.kind for item in found] == [BUFFER, BUFFER, BUFFER, BUFFER, UNKNOWN]
    found = [BY_NAME, UNCLASSIFIED]
    share_between_ties(entries[:2], [None, None], found)
    assert found == [BY_NAME, UNCLASSIFIED]


def test_what_a_reader_said_is_final_but_not_that_it_was_pickled_as_a_parameter() -> None:
    assert [is_final(entry("a", declared=said)) for said in (SAID, PICKLED, UNCLASSIFIED)] == [
        True,
        False,
        False,
    ]
    assert is_final(entry("a", declared=Classification(UNKNOWN, Basis.NONE, note="not registered")))
