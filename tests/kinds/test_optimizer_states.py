"""What an optimizer's state_dict says: its groups, their parameters, names, shapes and class."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ckpttool.kinds import optimizer as module
from ckpttool.kinds.optimizer import (
    Optimizer,
    find_groups,
    match_names,
    match_order,
    read_optimizers,
    split_state_root,
)
from ckpttool.values.checkpoint import Entry, Root, Value
from tests.support.classified import checkpoint, entry

OPT: Root = ("optim",)


def groups(*each: dict[str, Any], root: Root = OPT, more: Any = ()) -> dict[Root, Any]:
    values = [
        Value((*root, "param_groups", at), name, value)
        for at, group in enumerate(each)
        for name, value in group.items()
    ]
    return find_groups(checkpoint(more, values=tuple(values)))


def held(count: int, at: int, root: Root = OPT) -> list[Entry]:
    """Parameters of a group of a pickled optimizer."""
    return [entry(index, root=(*root, "param_groups", at, "params")) for index in range(count)]


# -- groups -----------------------------------------------------------------------------------------------


def test_groups_are_read_by_their_number() -> None:
    found = groups({"params": (0, 1), "lr": 0.1}, {"params": (2,)})
    assert found == {OPT: {0: {"params": (0, 1), "lr": 0.1}, 1: {"params": (2,)}}}
    assert groups({"params": (0,)}, root=()) == {(): {0: {"params": (0,)}}}


@pytest.mark.parametrize(
    "value",
    [
        Value(("param_groups",), "params", (0,)),
        Value(("optim", "groups", 0), "params", (0,)),
        Value(("optim", "param_groups", "0"), "params", (0,)),
        Value(("optim", "param_groups", 0), 7, (0,)),
        Value(("optim", "param_groups", 0), "params", "0"),
        Value(("optim", "param_groups", 0), "lr", (0,)),
    ],
)
def test_what_only_looks_like_a_group_is_none(value: Value) -> None:
    assert find_groups(checkpoint([], values=(value,))) == {}


def test_one_group_with_parameters_makes_all_of_them_count() -> None:
    assert set(groups({"lr": 1}, {"params": ()})) == {OPT}
    assert groups({"lr": 1}, {"lr": 2}) == {}


def test_parameters_of_a_pickled_optimizer_are_numbered_through_its_groups() -> None:
    entries = [*held(2, 0), *held(3, 1), *held(4, 0, ("other",)), entry("w", root=("params",))]
    found = groups({"lr": 1}, {"lr": 2}, {"lr": 3}, more=entries)
    assert found == {OPT: {0: {"lr": 1, "params": (0, 1)}, 1: {"lr": 2, "params": (2, 3, 4)}, 2: {"lr": 3}}}
    # What the file says stands; those of other groups are numbered behind its tensors all the same.
    found = groups({"params": (7, 8)}, {"lr": 2}, more=[*held(2, 0), *held(1, 1)])
    assert found == {OPT: {0: {"params": (7, 8)}, 1: {"lr": 2, "params": (2,)}}}


# -- states -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "split"),
    [
        (("optim", "state", 3), (OPT, 3)),
        (("optim", "state", "a.weight"), (OPT, "a.weight")),
        (("optim", "state", 3, "deep"), (OPT, 3)),
        (("optim", "state"), None),
        (("optim", "states", 3), None),
        (("other", "state", 3), None),
        (("optim",), None),
        ((), None),
        (("state", "state", 3), None),
        (("state", "optim", "state", 3), None),
        (("optim", "state", "state", "state"), (OPT, "state")),
    ],
)
def test_the_root_of_a_state_names_its_optimizer_and_parameter(root: Root, split: Any) -> None:
    assert split_state_root(root, {OPT: None}) == split


def test_the_outermost_optimizer_is_meant_and_few_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    root: Root = ("state", "state", "state", 5)
    assert split_state_root(root, {(): 0, ("state",): 0}) == ((), "state")
    assert split_state_root(root, {("state", "state"): 0}) == (("state", "state"), 5)
    monkeypatch.setattr(module, "_MOST_STATES", 2)
    assert split_state_root(root, {("state",): 0}) == (("state",), "state")
    assert split_state_root(root, {("state", "state"): 0}) is None


def read(states: dict[Any, dict[str, tuple[int, ...]]], *each: dict[str, Any]) -> Optimizer:
    by_root = {
        (*OPT, "state", key): [
            entry(name, shape=shape, root=(*OPT, "state", key)) for name, shape in names.items()
        ]
        for key, names in states.items()
    }
    (one,) = read_optimizers(groups(*each), by_root)
    return one


def test_a_state_has_the_shape_of_its_parameter_by_the_first_name_that_says_so() -> None:
    one = read(
        {
            0: {"step": (), "sum": (9,), "exp_avg": (3, 4), "prev": (8,)},
            1: {"momentum_buffer": (2,)},
            2: {"step": ()},
            3: {"exp_avg_sq_row": (5,)},
            "name": {"ax": (6,)},
        },
        {"params": (0, 1, 2, 3, "name")},
    )
    assert one.shapes == {0: (3, 4), 1: (2,), "name": (6,)}
    assert one.parameters == 5 and one.root == OPT
    nothing = Entry((*OPT, "state", 0), "exp_avg", None)
    (one,) = read_optimizers(
        groups({"params": (0,)}), {nothing.root: [nothing], ("loose", "state", 0): [entry("sum")]}
    )
    assert one.shapes == {}


def test_names_come_from_the_group_or_are_the_keys_themselves() -> None:
    one = read(
        {},
        {"params": (0, 1, 2.5, None), "param_names": ("a", "b")},
        {"params": (2, 3), "param_names": ("c",)},
        {"params": (4, "d"), "param_names": "xy"},
        {"params": (5, 6), "param_names": ("e", 7)},
        {"lr": 1},
    )
    assert one.groups == ((0, 1), (2, 3), (4, "d"), (5, 6), ())
    assert one.names == {0: "a", 1: "b", "d": "d", 5: "e"}


# -- classes ----------------------------------------------------------------------------------------------

CLASSES = {
    "Adam": {}, "AdamW": {}, "NAdam": {}, "RAdam": {}, "Adamax": {}, "Adagrad": {}, "Adadelta": {},
    "RMSprop": {}, "Rprop": {}, "ASGD": {}, "SGD": {"lr": 0.1, "momentum": 0.9}, "Adafactor": {},
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_the_class_is_told_from_what_torch_keeps(name: str) -> None:
    if not hasattr(torch.optim, name):
        pytest.skip(f"this torch has no {name}")
    weight = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = getattr(torch.optim, name)([weight], **CLASSES[name])
    weight.grad = torch.ones(3, 4)
    optimizer.step()
    state = optimizer.state_dict()
    options = {key: value for key, value in state["param_groups"][0].items() if key != "params"}
    shapes = {key: tuple(value.shape) for key, value in state["state"][0].items() if torch.is_tensor(value)}
    found = read({0: shapes}, {**options, "params": (0,)}).class_name
    assert found == (
        name if name != "RAdam" else "AdamW" if options.get("decoupled_weight_decay") else "Adam"
    )


@pytest.mark.parametrize(
    ("states", "options", "name"),
    [
        ({"exp_avg", "exp_avg_sq"}, {"decoupled_weight_decay": True}, "AdamW"),
        ({"exp_avg", "exp_avg_sq"}, {"decoupled_weight_decay": False}, "Adam"),
        ({"exp_avg", "exp_avg_sq"}, {"decoupled_weight_decay": 1}, "Adam"),
        ({"exp_avg"}, {"decoupled_weight_decay": True}, "Lion"),
        ({"exp_avg_sq"}, {}, ""),
        ({"state1", "state2"}, {}, "8-bit Adam"),
        ({"state1"}, {}, ""),
        ({"prev"}, {}, ""),
        ({"prev", "step_size"}, {}, "Rprop"),
        ({"row_var", "exp_avg"}, {}, "Adafactor"),
        (set(), {"dampening": 0, "nesterov": False}, "SGD"),
        (set(), {"dampening": 0}, ""),
        (set(), {"nesterov": False}, ""),
        ({"thing"}, {}, ""),
    ],
)  # fmt: skip
def test_states_or_options_that_do_not_make_a_class_make_none(
    states: set[str], options: Any, name: str
) -> None:
    one = read({0: dict.fromkeys(states, (3,))}, {"params": ()}, {"params": (0,), **options})
    assert one.class_name == name


# -- matching ---------------------------------------------------------------------------------------------


def named(*names: str) -> Optimizer:
    return Optimizer(OPT, (tuple(range(len(names))),), dict(enumerate(names)), {}, "")


def test_names_are_found_behind_a_common_prefix() -> None:
    names = {name: at for at, name in enumerate(["net.a", "net.b", "a", "c", 5])}
    assert match_names(named("a", "b"), names) == [2]
    assert match_names(named("b", "a", "x"), names) == [1, 0]
    assert match_names(named("x", "a"), names) == [2]
    assert match_names(named(), names) == []
    assert match_names(named("et.a"), names) == []


def ordered(shapes: dict[int, int], *groups_: tuple[int, ...]) -> Optimizer:
    return Optimizer(OPT, groups_, {}, {key: (size,) for key, size in shapes.items()}, "")


@pytest.mark.parametrize(
    ("shapes", "groups_", "found", "sure"),
    [
        ({0: 1, 1: 2}, ((0, 1),), [1, 9, 2], [0, 2]),
        ({0: 1, 1: 2}, ((0, 1),), [1, 1, 2], [2]),
        ({0: 1, 1: 2}, ((1, 0),), [1, 2], []),
        ({0: 1, 1: 2}, ((1,), (0,)), [1, 2], [0, 1]),
        ({0: 1, 1: 2, 2: 1}, ((1,), (0, 2)), [1, 2, 1], [0, 1, 2]),
        ({0: 1, 1: 2}, ((1,), (0,)), [2], []),
        ({0: 1, 1: 3}, ((1,), (0,)), [1, 2], []),
        ({0: 1}, ((0, 1),), [1, 5], [0, 1]),
        ({0: 1}, ((0, 1),), [5, 1, 6], [1, 2]),
        ({0: 1}, ((0, 1, 2),), [1, 5, 6], []),
        ({0: 1, 1: 1}, ((0, 1, 2),), [1, 1, 6], [0, 1, 2]),
        ({}, ((),), [1], []),
        ({}, (), [1], []),
        ({0: 1}, ((0,),), [], []),
        ({0: 1}, ((0,),), [1, 1], []),
    ],
)
def test_positions_are_sure_where_there_is_no_other_way(
    shapes: dict[int, int], groups_: Any, found: list[int], sure: list[int]
) -> None:
    assert match_order(ordered(shapes, *groups_), [(size,) for size in found]) == sure
