"""Which tensors are kept and why the others are not, rule by rule and in the order of the rules."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.values.checkpoint import (
    PLAIN_PART,
    Basis,
    Classification,
    CompositeTensor,
    Entry,
    Kind,
    OddKey,
    Opaque,
    Part,
    PlainList,
)
from ckpttool.values.conversion import ConversionPlan, Dropped
from ckpttool.values.dtypes import BY_NAME
from tests.support.in_memory import Named, Object, plan_in_memory, tensor

DROP, KEEP, KNOWN = "--drop", "not among --keep", "--drop-known-buffers"
CACHE = "non-persistent buffer: --non-persistent keeps it"
PLAIN = "plain attribute of a module: --non-persistent keeps it"
NONE_THERE = "plain attribute of a module: a state_dict has none"
BOTH = pytest.mark.parametrize("to", ["pt", "safetensors"])


def declared(key: str, kind: Kind, basis: Basis = Basis.PICKLED_MODULE, **more: Any) -> Entry:
    return Entry((), "", tensor(key, 2), None, Classification(kind, basis, **more))


def names(plan: ConversionPlan) -> list[str]:
    """Of the entries that are kept, as the source has them."""
    return [".".join(map(str, (*item.entry.root, item.entry.name))) for item in plan.tensors]


def left(plan: ConversionPlan) -> list[tuple[str, str, int, str, bool]]:
    return [(".".join(map(str, (*root, name))), *rest) for root, name, *rest in plan.dropped]


# -- modules and programs -----------------------------------------------------------------------------


def module() -> dict[str, Any]:
    """What the reader finds of a pickled module, dotted names and all."""
    return Named(
        "m.Net",
        {
            "w": declared("0", Kind.PARAMETER),
            "sub.mean": declared("1", Kind.PERSISTENT_BUFFER),
            "cache": declared("2", Kind.NON_PERSISTENT_BUFFER),
            "extra": Entry((), "", tensor("3", 3)),
            "training": True,
            "cfg": Named("dict", {"a": Named("dict", {"b": 1}), "c": 2}),
            "names": PlainList(("x",)),
        },
    )


@BOTH
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"non_persistent": True}, {"drop": ("cache", "cfg", "training")}], ids=str
)
def test_a_module_is_its_state_dict_and_its_attributes_stay(
    to: str, inside: bool, options: dict[str, Any]
) -> None:
    tree = {"net": module(), "epoch": 2} if inside else module()
    plan = plan_in_memory(tree, to, **options)
    net = "net." if inside else ""
    persistent, non_persistent = [f"{net}w", f"{net}sub.mean"], [f"{net}cache", f"{net}extra"]
    attributes = [(f"{net}{name}", "attribute", 0, NONE_THERE, True) for name in ("training", "cfg", "names")]
    cache, extra = (f"{net}cache", "float32", 8), (f"{net}extra", "float32", 12, PLAIN, False)
    if "non_persistent" in options:
        assert names(plan) == persistent + non_persistent
        assert left(plan) == attributes
    elif "drop" in options:
        assert names(plan) == persistent
        assert left(plan) == [(*cache, DROP, True), extra, *attributes]
    else:
        assert names(plan) == persistent
        assert left(plan) == [(*cache, CACHE, False), extra, *attributes]
    assert [(item.root, item.name) for item in plan.values] == ([((), "epoch")] if inside else [])
    assert {item.path for item in plan.containers} == ({(), ("net",)} if inside else {()})


@BOTH
def test_attributes_of_two_modules_are_told_once_each(to: str) -> None:
    plan = plan_in_memory({"a": module(), "b": {"c": module()}, "n": 1}, to, root=())
    attributes = [item for item in left(plan) if item[1] == "attribute"]
    assert attributes == [
        (f"{net}.{name}", "attribute", 0, NONE_THERE, True)
        for net in ("a", "b.c")
        for name in ("training", "cfg", "names")
    ]
    assert {item.path for item in plan.containers} == {(), ("a",), ("b",), ("b", "c")}


@pytest.mark.parametrize("basis", [Basis.TORCHSCRIPT, Basis.EXPORT])
@BOTH
def test_of_a_program_only_the_weights_are_meant(basis: Basis, to: str) -> None:
    tree = {
        "model": {
            "w": declared("0", Kind.PARAMETER, basis),
            "b": declared("1", Kind.PERSISTENT_BUFFER, basis),
            "cache": declared("2", Kind.NON_PERSISTENT_BUFFER, basis),
            "loose": Entry((), "", tensor("4", 1)),
        },
        "constants": {"c": Entry((), "", tensor("3", 1))},
    }
    plan = plan_in_memory(tree, to)
    assert (plan.root, plan.root_found) == (("model",), True)
    assert names(plan) == ["model.w", "model.b", "model.loose"]
    assert left(plan) == [
        ("model.cache", "float32", 8, CACHE, False),
        ("constants.c", "float32", 4, "not part of `model`", False),
    ]
    assert names(plan_in_memory(tree, to, non_persistent=True)) == [
        "model.w",
        "model.b",
        "model.cache",
        "model.loose",
    ]


# -- one reason each ----------------------------------------------------------------------------------


@BOTH
def test_the_first_reason_is_the_one_that_is_told(to: str) -> None:
    rebuilt = declared("3", Kind.PERSISTENT_BUFFER, Basis.PICKLED_MODULE, rebuilt_since="x")
    tree = {
        "model": {
            "a": declared("0", Kind.PARAMETER),
            "b": declared("1", Kind.PARAMETER),
            "table": rebuilt,
            "cache": declared("4", Kind.NON_PERSISTENT_BUFFER),
            "z": declared("6", Kind.PARAMETER),
        },
        "other": {"a": declared("5", Kind.PARAMETER)},
    }
    options: dict[str, Any] = {"root": ("model",), "drop_known_buffers": True}
    plan = plan_in_memory(tree, to, **options, drop=("b",), keep=("a", "b", "table"))
    assert names(plan) == ["model.a"]
    assert left(plan) == [
        ("model.b", "float32", 8, DROP, True),
        ("model.table", "float32", 8, KNOWN, True),
        ("model.cache", "float32", 8, KEEP, True),
        ("model.z", "float32", 8, KEEP, True),
        ("other.a", "float32", 8, "not part of `model`", True),
    ]
    plan = plan_in_memory(tree, to, **options)
    assert names(plan) == ["model.a", "model.b", "model.z"]
    assert [item[3] for item in left(plan)] == [KNOWN, KNOWN, "not part of `model`"]


def test_what_a_key_is_an_object_of_has_no_place_in_a_pt() -> None:
    odd, plain = OddKey("<object #1>", False), OddKey("1.5", True)
    tree = {
        "m": {odd: tensor("0", 2), plain: tensor("1", 2), "w": tensor("2", 2)},
        "v": {odd: 3, plain: 4, "o": {odd: {"x": 5}}},
        "h": {odd: Opaque((), "", "torch.dtype", "torch.int8")},
    }
    plan = plan_in_memory(tree, "pt")
    assert [item.name for item in plan.tensors] == [plain, "w"]
    assert [(item.root, item.name) for item in plan.values] == [(("v",), plain)]
    why = ("its key is an object", False)
    assert plan.dropped == (
        Dropped(("m",), odd, "float32", 8, *why),
        Dropped(("v",), odd, "int", 0, *why),
        Dropped(("v", "o", odd), "x", "int", 0, *why),
        Dropped(("h",), odd, "torch.dtype", 0, *why),
    )
    plan = plan_in_memory(tree, "safetensors", root=())
    assert [item.entry.name for item in plan.tensors] == [odd, plain, "w"]


def test_counters_of_what_was_averaged_go_with_the_prefix() -> None:
    tree = {
        "model": {"n_averaged": tensor("0"), "module.w": tensor("1", 2), 7: tensor("3")},
        "x": {"n_averaged": tensor("2")},
    }
    for to in ("pt", "safetensors"):
        options = {} if to == "pt" else {"root": ()}
        plan = plan_in_memory(tree, to, strip_prefix="auto", **options)
        assert names(plan) == ["model.module.w", "model.7", "x.n_averaged"]
        assert left(plan) == [
            ("model.n_averaged", "float32", 4, "counts for AveragedModel, no part of the model", True)
        ]
        plan = plan_in_memory(tree, to, strip_prefix="module", **options)
        assert names(plan) == ["model.n_averaged", "model.module.w", "model.7", "x.n_averaged"]


@BOTH
def test_a_tensor_in_a_class_of_its_own_is_the_tensor_and_its_attributes_stay(to: str) -> None:
    floats = BY_NAME["float32"]
    parts = (
        Part(PLAIN_PART, tensor("0", 2)),
        Part("scale", tensor("1", 3)),
        Part("more", tensor("2", dtype="int8")),
    )
    whole = CompositeTensor("subclass", "x.Class", floats, (2,), parts)
    plan = plan_in_memory({"m": {"w": whole, "v": tensor("3", 1)}}, to)
    assert [(item.name, item.entry.value, item.entry.subclass) for item in plan.tensors] == [
        ("w", parts[0].value, "x.Class"), ("v", tensor("3", 1), "")
    ]  # fmt: skip
    assert left(plan) == [
        ("m.w.scale", "float32", 12, "attribute of x.Class", False),
        ("m.w.more", "int8", 1, "attribute of x.Class", False),
    ]
    assert plan.notes == ("without the class x.Class and its attributes: 1 tensor (w)",)


# -- objects ------------------------------------------------------------------------------------------


def test_an_object_is_told_with_how_many_values_it_has() -> None:
    tree = {
        "w": tensor("0", 2),
        "one": Object("m.A", x=1),
        "two": Object("m.B", x=1, y={"z": 2, "deep": [3]}),
        "bare": Opaque((), "", "m.C"),
    }
    here = "an object: described in the file, never built"
    for to, one, two in (("pt", "stays behind", "stay behind"), ("safetensors", "is kept", "are kept")):
        plan = plan_in_memory(tree, to, drop=("two.x",))
        assert left(plan) == [
            ("one", "m.A", 0, f"{here}; 1 plain value of it {one}", False),
            ("two", "m.B", 0, f"{here}; 3 plain values of it {two}", False),
            ("bare", "m.C", 0, here, False),
        ]
        kept = [(item.root, item.name) for item in plan.values]
        expected = [(("one",), "x"), (("two", "y"), "z"), (("two", "y", "deep"), 0)]
        assert kept == ([] if to == "pt" else expected)
        assert [item.name for item in plan.objects] == ([] if to == "pt" else ["one", "two", "bare"])


def test_an_object_that_is_all_of_the_file_has_no_name() -> None:
    tree = Object("m.A", w=tensor("0", 2), x=1, y=2)
    here = "an object: described in the file, never built"
    for to, count in (
        ("pt", "2 plain values of it stay behind"),
        ("safetensors", "2 plain values of it are kept"),
    ):
        plan = plan_in_memory(tree, to)
        assert left(plan) == [("", "m.A", 0, f"{here}; {count}", False)]
        assert [item.name for item in plan.tensors] == ["w"]
        assert [item.name for item in plan.values] == ([] if to == "pt" else ["x", "y"])
