"""Plans of checkpoints that stand in memory, whole: what is kept, what a header carries, what is left out."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import pytest

from ckpttool.values.checkpoint import (
    Basis,
    Classification,
    Kind,
    Opaque,
    PlainList,
    Root,
)
from ckpttool.values.conversion import ConversionPlan, Dropped
from tests.support.in_memory import Named, Object, plan_in_memory, tensor

HALF = Opaque((), "", "torch.dtype", "torch.float16")
MODULE = Classification(Kind.PARAMETER, Basis.PICKLED_MODULE)


def training() -> dict[str, Any]:
    return {
        "model": OrderedDict({"a.weight": tensor("0", 2, 3), "a.bias": tensor("1", 2)}),
        "optimizer": {
            "state": {0: {"exp_avg": tensor("2", 2, 3), "step": 3}, 1: {}},
            "param_groups": [{"lr": 0.1, "params": PlainList((0,))}],
        },
        "epoch": 3,
        "args": Object("argparse.Namespace", lr=0.1, name="x"),
        "half": HALF,
        "deep": {"object": HALF},
        "empty": {},
        "more": {"inner": set()},
        "history": PlainList((1.5, PlainList((2,)))),
    }


MODEL = {("model", "a.weight"), ("model", "a.bias")}
STATE: Root = ("optimizer", "state", 0)
NO_STATE: Root = ("optimizer", "state", 1)
GROUP: Root = ("optimizer", "param_groups", 0)
KINDS = {
    (): "dict", ("model",): "OrderedDict", ("optimizer",): "dict", STATE[:2]: "dict", STATE: "dict",
    NO_STATE: "dict",
    GROUP[:2]: "list", GROUP: "dict", ("empty",): "dict", ("more",): "dict", ("more", "inner"): "set",
    ("deep",): "dict",
}  # fmt: skip
VALUES = {
    (*STATE, "step"): 3, (*GROUP, "lr"): 0.1, (*GROUP, "params"): PlainList((0,)), ("epoch",): 3,
    ("history",): PlainList((1.5, PlainList((2,)))),
}  # fmt: skip
ATTRIBUTES = {("args", "lr"): 0.1, ("args", "name"): "x"}
TYPES = {
    (*STATE, "exp_avg"): ("float32", 24), (*STATE, "step"): ("int", 0), (*GROUP, "lr"): ("float", 0),
    (*GROUP, "params"): ("list", 0), ("epoch",): ("int", 0), ("history",): ("list", 0),
    ("args",): ("argparse.Namespace", 0), ("half",): ("torch.dtype", 0),
    ("deep", "object"): ("torch.dtype", 0),
    ("model", "a.weight"): ("float32", 24), ("model", "a.bias"): ("float32", 8),
}  # fmt: skip
DESCRIBED = "an object: described in the file, never built"


def below(path: Root, found: Any) -> Any:
    """What of a mapping by paths is at or below one."""
    return {at: value for at, value in found.items() if at[: len(path)] == path}


def without(path: Root, found: Any) -> Any:
    return {at: value for at, value in found.items() if at[: len(path)] != path}


def cut(path: Root, found: Any) -> Any:
    """Paths as they are inside of a branch."""
    return {at[len(path) :]: value for at, value in below(path, found).items()}


def parts_of(plan: ConversionPlan) -> tuple[Any, ...]:
    """Values, objects and containers by path, and in which order."""
    values = {(*item.root, item.name): item.value for item in plan.values}
    objects = [(*item.root, item.name) for item in plan.objects]
    kinds = {item.path: item.type_name for item in plan.containers}
    assert (len(values), len(kinds)) == (len(plan.values), len(plan.containers))
    return values, objects, kinds


def dropped(reasons: dict[Root, tuple[str, bool]]) -> list[Dropped]:
    return [Dropped(at[:-1], at[-1], *TYPES[at], *reason) for at, reason in reasons.items()]


def same_dropped(plan: ConversionPlan, reasons: dict[Root, tuple[str, bool]]) -> None:
    assert sorted(map(repr, plan.dropped)) == sorted(map(repr, dropped(reasons)))


NOT_MODEL, ONLY, DROP = "not part of `model`", "only tensors are converted", "--drop"
OTHERS = [at for at in TYPES if at[0] != "model"]


def test_a_pt_keeps_all_of_the_tree() -> None:
    plan = plan_in_memory(training(), "pt")
    assert (plan.root, plan.root_found) == (None, False)
    assert parts_of(plan) == (VALUES, [("half",), ("deep", "object")], KINDS)
    assert [(item.root, item.name) for item in plan.tensors] == [
        (("model",), "a.weight"), (("model",), "a.bias"), (STATE, "exp_avg")
    ]  # fmt: skip
    same_dropped(plan, {("args",): (f"{DESCRIBED}; 2 plain values of it stay behind", False)})
    assert (plan.metadata, plan.aliases, plan.listed, plan.renamed, plan.notes) == ({}, {}, {}, {}, ())


@pytest.mark.parametrize("root", [None, ()])
def test_a_header_carries_all_of_it_and_says_what_objects_were(root: Root | None) -> None:
    plan = plan_in_memory(training(), "safetensors", root=root)
    assert (plan.root, plan.root_found) == (("model",) if root is None else (), root is None)
    values = {**VALUES, **ATTRIBUTES}
    kinds = dict(KINDS)
    told = {
        ("args",): (f"{DESCRIBED}; 2 plain values of it are kept", False),
        ("half",): (DESCRIBED, False),
        ("deep", "object"): (DESCRIBED, False),
    }
    if root is None:
        values.pop((*STATE, "step"))
        kinds.pop(STATE)
        told |= {
            (*STATE, "exp_avg"): (NOT_MODEL, False),
            (*STATE, "step"): ("stands beside tensors that are dropped", False),
        }
    assert parts_of(plan) == (values, [("args",), ("half",), ("deep", "object")], kinds)
    same_dropped(plan, told)
    metadata = dict(plan.metadata)
    carried = {
        key.removeprefix("ckpttool."): json.loads(text) for key, text in metadata.items() if key != "format"
    }
    assert metadata["format"] == "pt"
    lists: list[list[Any]] = [[list(GROUP[:2]), "list"], [["deep"], "dict"]]
    lists.insert(0, [list(NO_STATE), "dict"])
    lists += [[["empty"], "dict"], [["more", "inner"], "set"]]
    assert carried.pop("lists") == ([] if root is None else [[list(STATE), "dict"]]) + lists
    assert {tuple(at): value for at, value in carried.pop("values")} == {
        at: list(value) if isinstance(value, PlainList) else value
        for at, value in {**values, ("history",): [1.5, [2]]}.items()
    }
    assert carried.pop("objects") == [
        [["args"], "argparse.Namespace", "x"], [["half"], "torch.dtype", "torch.float16"],
        [["deep", "object"], "torch.dtype", "torch.float16"],
    ]  # fmt: skip
    assert carried == (
        {"root": ["model"], "order": [1, 0]}
        if root is None
        else {
            "order": [1, 0, 2],
            "paths": {
                "model.a.weight": ["model", "a.weight"], "model.a.bias": ["model", "a.bias"],
                "optimizer.state.0.exp_avg": [*STATE, "exp_avg"],
            },
        }
    )  # fmt: skip


@pytest.mark.parametrize("to", ["pt", "safetensors"])
@pytest.mark.parametrize("root", [("optimizer",), ("optimizer", "state"), STATE], ids=str)
def test_a_branch_is_taken_out_of_the_tree(root: Root, to: str) -> None:
    plan = plan_in_memory(training(), to, root=root)
    assert (plan.root, plan.root_found) == (root, False)
    assert parts_of(plan) == (cut(root, VALUES), [], cut(root, KINDS))
    name = ".".join(map(str, root)).replace("state.0", "state[0]")
    same_dropped(plan, dict.fromkeys(without(root, TYPES), (f"not part of `{name}`", True)))
    inside = (*STATE, "exp_avg")[len(root) :]
    expected = (inside[:-1], inside[-1]) if to == "pt" else ((), ".".join(map(str, inside)))
    assert [(item.root, item.name) for item in plan.tensors] == [expected]


@pytest.mark.parametrize("to", ["pt", "safetensors"])
@pytest.mark.parametrize(("option", "asked"), [("weights_only", True), ("sharded", False)])
def test_weights_alone_have_nothing_around_them(option: str, asked: bool, to: str) -> None:
    plan = plan_in_memory(training(), to, **{option: True})
    assert (plan.root, plan.root_found) == (("model",), True)
    assert parts_of(plan) == ({}, [], {(): "OrderedDict"})
    reasons = {at: (NOT_MODEL if at[-1] == "exp_avg" else ONLY, asked) for at in OTHERS}
    same_dropped(plan, reasons)
    assert [(item.root, item.name) for item in plan.tensors] == [((), "a.weight"), ((), "a.bias")]


@pytest.mark.parametrize("to", ["pt", "safetensors"])
def test_what_a_glob_drops_goes_with_its_containers(to: str) -> None:
    plan = plan_in_memory(training(), to, drop=("optimizer", "a.bias", "more", "half", "args.lr", "deep"))
    gone = [at for at in TYPES if at[0] == "optimizer" or at[-1] in ("a.bias", "half", "object")]
    kept = without(("optimizer",), VALUES)
    reasons = dict.fromkeys(gone, (DROP, True))
    if to == "pt":
        objects: list[Root] = []
        reasons[("args",)] = (f"{DESCRIBED}; 2 plain values of it stay behind", False)
    else:
        objects, kept = [("args",)], {**kept, ("args", "name"): "x"}
        reasons[("args",)] = (f"{DESCRIBED}; 2 plain values of it are kept", False)
    values, found, kinds = parts_of(plan)
    assert (values, found) == (kept, objects)
    assert kinds == {(): "dict", ("model",): "OrderedDict", ("empty",): "dict"}
    same_dropped(plan, reasons)


# -- kinds of containers that a header names -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["dict", "OrderedDict", "list", "tuple", "set", "collections.Counter"])
@pytest.mark.parametrize("holds", ["a tensor", "a value", "a container", "nothing"])
def test_a_header_names_the_containers_that_would_be_made_otherwise(kind: str, holds: str) -> None:
    """A mapping that holds tensors is an OrderedDict, another one a dict, and what is empty is not there."""
    inside: dict[str, dict[Any, Any]] = {
        "a tensor": {0: tensor("1", 2), 1: 5}, "a value": {0: 5}, "a container": {0: {"v": 1}}, "nothing": {}
    }  # fmt: skip
    plan = plan_in_memory(
        {"m": OrderedDict(w=tensor("0", 2)), "x": Named(kind, inside[holds])}, "safetensors", root=()
    )
    made = {"a tensor": "OrderedDict", "a value": "dict", "a container": "dict", "nothing": ""}[holds]
    known = kind in ("dict", "OrderedDict", "list", "tuple", "set")
    expected = [] if kind == made or not known else [[["x"], kind]]
    assert json.loads(plan.metadata.get("ckpttool.lists", "[]")) == expected
