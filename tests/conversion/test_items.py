"""New names and dtypes: which entries and modules they reach, and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.conversion.items import cast_of, describe_casts, describe_classes, name_items
from ckpttool.conversion.placing import Item
from ckpttool.conversion.selection import Selection
from ckpttool.names.renames import make_rule
from ckpttool.values.checkpoint import (
    Basis,
    Chunk,
    ChunkedTensor,
    Classification,
    CompositeTensor,
    Entry,
    Kind,
    Part,
)
from ckpttool.values.conversion import Cast, Options
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import CkptToolError
from tests.support.in_memory import checkpoint_of, plan_in_memory, row, tensor

CASTABLE = {
    "float64", "float32", "float16", "bfloat16",
    "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz",
}  # fmt: skip
HALF, FULL = BY_NAME["float16"], BY_NAME["float32"]


# -- what is cast -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("target", [HALF, FULL, None])
def test_real_numbers_of_a_byte_and_more_are_cast_in_parameters_alone(kind: Kind, target: Any) -> None:
    found = {name for name in BY_NAME if cast_of(row(tensor("0", 2, 4, dtype=name), kind), target)}
    expected = CASTABLE - {target.name} if target and kind is Kind.PARAMETER else set()
    assert found == expected
    assert {cast_of(row(tensor("0", 2, dtype=name), kind), target) for name in expected} <= {target}


def test_a_tensor_in_chunks_is_cast_and_one_of_parts_is_not() -> None:
    whole = tensor("0", 2, 2)
    assert cast_of(row(ChunkedTensor(FULL, (2, 2), (Chunk((0, 0), whole),))), HALF) is HALF
    assert (
        cast_of(row(CompositeTensor("sparse_csr", "t", FULL, (2, 2), (Part("values", whole),))), HALF) is None
    )
    assert cast_of(row(None), HALF) is None


def item(
    name: str, dtype: str, kind: Kind, basis: Basis = Basis.NAME, cast: Any = HALF, exact: bool = False
) -> Item:
    classification = Classification(kind, Basis.MODULE if exact else basis)
    made = row(tensor("0", 2, dtype=dtype), name=name)._replace(classification=classification)
    return Item(made, (), name, cast)


def test_notes_count_what_is_cast_by_evidence_and_what_is_not_by_kind() -> None:
    everything = [
        item("a", "float32", Kind.PARAMETER, Basis.SIBLING),
        item("b", "float32", Kind.PARAMETER, Basis.NAME),
        item("c", "float32", Kind.PARAMETER, Basis.NAME),
        item("d", "float32", Kind.PARAMETER, exact=True),
        item("e", "int64", Kind.PARAMETER, cast=None),
        item("f", "float32", Kind.PARAMETER, cast=None),  # --keep-dtype
        item("g", "float16", Kind.PARAMETER, cast=None),  # has it already
        item("h", "float32", Kind.PERSISTENT_BUFFER, cast=None),
        item("i", "float32", Kind.NON_PERSISTENT_BUFFER, cast=None),
        item("j", "float32", Kind.PERSISTENT_BUFFER, cast=None),
        item("k", "float32", Kind.EXTRA_STATE, cast=None),
        item("l", "float32", Kind.OPTIMIZER_STATE, cast=None),
        item("m", "float32", Kind.OPTIMIZER_STATE, cast=None),
        item("n", "float32", Kind.UNKNOWN, cast=None),
    ]
    assert describe_casts(everything, HALF) == [
        "cast 4 parameters to float16: 2 inferred by name, 1 inferred by sibling, 1 module",
        "dtype kept: 3 buffers, 2 optimizer states, 1 not floating point, 1 parameter, 1 extra state, "
        "1 of unknown kind",
    ]
    assert describe_casts(everything[:1], HALF) == ["cast 1 parameter to float16: 1 inferred by sibling"]
    assert describe_casts([], FULL) == ["cast 0 parameters to float32: none"]
    assert describe_casts(everything[-1:] * 2 + everything[4:5], HALF) == [
        "cast 0 parameters to float16: none",
        "dtype kept: 2 of unknown kind, 1 not floating point",
    ]


def test_classes_that_stay_behind_are_told_with_the_tensors() -> None:
    made = [("a", "x.A"), ("b", ""), ("c", "x.B"), ("d", "x.A")]
    items = [
        Item(row(tensor("0", 2), subclass=cls, name=f"old {name}"), (), name, None) for name, cls in made
    ]
    assert describe_classes(items) == [
        "without the class x.A and its attributes: 2 tensors (a, d)",
        "without the class x.B and its attributes: 1 tensor (c)",
    ]


@pytest.mark.parametrize("to", ["pt", "safetensors"])
def test_each_piece_that_is_cast_is_listed_once(to: str) -> None:
    shared = tensor("1", 2, 2)
    tree = {
        "a.weight": shared, "b.weight": shared, "a.running_mean": tensor("2", 2), "c.weight": tensor("3", 3),
        "d.weight": tensor("4", 2, dtype="float64"), "d.bias": tensor("5", 2, dtype="float16"),
    }  # fmt: skip
    plan = plan_in_memory(tree, to, dtype=HALF, keep_dtype=("c.*",))
    assert plan.casts == (Cast("a.weight", FULL, HALF, 0), Cast("d.weight", BY_NAME["float64"], HALF, 3))
    assert [piece.cast for piece in plan.pieces] == [HALF, None, None, HALF, None]
    assert [piece.nbytes for piece in plan.pieces] == [8, 8, 12, 4, 4]
    assert plan.notes == (
        "cast 3 parameters to float16: 3 inferred by name", "dtype kept: 1 buffer, 1 parameter"
    )  # fmt: skip
    assert plan_in_memory(tree, to).casts == ()


# -- names of entries ---------------------------------------------------------------------------------


def test_a_rule_is_for_names_of_the_model_and_not_of_an_optimizer() -> None:
    tree = {
        "model": {"m.a": tensor("0", 1), "m.b": tensor("1", 2)},
        "optimizer": {
            "state": {0: {"m.exp_avg": tensor("2", 1), "exp_avg_sq": tensor("3", 1)}},
            "param_groups": [{"params": [0]}],
        },
        "ema": {"m.a": tensor("4", 1), 7: tensor("5", 1)},
    }
    plan = plan_in_memory(tree, "pt", strip_prefix="m")
    assert [(item.root, item.name) for item in plan.tensors] == [
        (("model",), "a"), (("model",), "b"),
        (("optimizer", "state", 0), "m.exp_avg"), (("optimizer", "state", 0), "exp_avg_sq"),
        (("ema",), "a"), (("ema",), 7),
    ]  # fmt: skip
    assert plan.renamed == {"m.a": "a", "m.b": "b"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"renames": ("a=>b",)}, "'x.a' and 'x.b' would both be called 'x.b'"),
        ({"renames": ("^c$=>d",)}, "no name changes: nothing is so called"),
        ({"renames": ("x.(a|b)=>1",)}, "'x.a' and 'x.b' would both be called '1'"),
    ],
)
def test_names_that_meet_are_both_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CkptToolError) as caught:
        plan_in_memory({"x.a": tensor("0", 1), "x.b": tensor("1", 1)}, "pt", **options)
    assert (caught.value.what, caught.value.path) == (said, "a.pt")


def test_a_new_name_may_not_be_that_of_an_entry_which_no_rule_reaches() -> None:
    key = Entry((), "", tensor("1", 1))
    with pytest.raises(CkptToolError) as caught:
        plan_in_memory({"x": tensor("0", 1), 7: key}, "safetensors", renames=("x=>7",))
    assert caught.value.what == "two tensors would both be called '7'"
    plan = plan_in_memory({"x": tensor("0", 1), 7: key}, "pt", renames=("x=>7",))  # a pickle tells them apart
    assert [item.name for item in plan.tensors] == ["7", 7]


def test_a_new_name_may_not_be_that_of_optimizer_state_beside_it() -> None:
    rows = [row(tensor("0", 1), name="a"), row(tensor("1", 1), Kind.OPTIMIZER_STATE, name="b")]
    selection = Selection(None, False, (), frozenset(), rows, [], [], [], [])
    options = Options("pt", renames=("(a|b)=>b",))
    rule = make_rule(None, options.renames, "")
    with pytest.raises(CkptToolError) as caught:
        name_items(checkpoint_of({}), selection, options, rule)
    assert (caught.value.what, caught.value.path) == ("'a' and 'b' would both be called 'b'", "a.pt")
    items, renamed = name_items(checkpoint_of({}), selection._replace(rows=rows[:1]), options, rule)
    assert ([item.name for item in items], renamed) == (["b"], {"a": "b"})


# -- modules ------------------------------------------------------------------------------------------


MODULES = {"": 1, "module": 2, "module.a": 3, "module.b": None, "other": 5}
EXTRAS = {"module.a": ((("assign",), True),), "other": ((("deep", "x"), 1),)}
STATE = {"module.a.weight": tensor("0", 2), "other.weight": tensor("1", 2)}


@pytest.mark.parametrize(
    ("options", "versions", "extras"),
    [
        ({}, MODULES, EXTRAS),
        (
            {"strip_prefix": "module"},
            {"": 2, "a": 3, "b": None, "other": 5},
            {"a": EXTRAS["module.a"], "other": EXTRAS["other"]},
        ),
        (
            {"renames": ("^other=>module.c", "a=>z"), "add_prefix": "net"},
            {"net": 1, "net.module": 2, "net.module.z": 3, "net.module.b": None, "net.module.c": 5},
            {"net.module.z": EXTRAS["module.a"], "net.module.c": EXTRAS["other"]},
        ),
    ],
    ids=["none", "stripped", "renamed"],
)
@pytest.mark.parametrize("to", ["pt", "safetensors"])
def test_facts_of_modules_move_with_the_names(
    options: dict[str, Any], versions: dict[str, Any], extras: dict[str, Any], to: str
) -> None:
    roots = {("model",): MODULES, ("ema",): {"": 9}, ("gone",): {"": 8}}
    facts = {"module_versions": roots, "module_extras": {("model",): EXTRAS, ("ema",): {"": ((("y",), 2),)}}}
    tree = {"model": STATE, "ema": {"module.a.weight": tensor("2", 2)}, "gone": {"epoch": 3}}
    plan = plan_in_memory(tree, to, facts=facts, root=("model",), **options)
    assert (plan.module_versions, plan.module_extras) == ({(): versions}, {(): extras})
    assert list(plan.module_versions[()]) == list(versions)
    if not options:
        whole = plan_in_memory(tree, "pt", facts=facts)
        assert whole.module_versions == {("model",): MODULES, ("ema",): {"": 9}}
        assert whole.module_extras == facts["module_extras"]
        without = plan_in_memory(tree, "pt", facts=facts, drop=("ema",))
        assert (without.module_versions, without.module_extras) == (
            {("model",): MODULES},
            {("model",): EXTRAS},
        )
