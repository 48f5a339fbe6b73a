"""Single rules of a module's judgement: what each wants, and its negative twins."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.kinds.known_names import EMPTY, NARROW
from ckpttool.kinds.module_rules import Context, Leaf, Signature, judge_module
from ckpttool.values.checkpoint import Basis, Classification, Kind
from tests.support.classified import BUFFER, PARAMETER, UNKNOWN

NORM = ("weight", "bias", "running_mean", "running_var")


def judge(
    *leaves: str | Leaf, module: str = "m", version: int | None = None, even: bool = False,
    young: bool = True, own_norms: bool = False, ordered: bool = False,
) -> dict[str, Classification]:  # fmt: skip
    made = tuple(leaf if isinstance(leaf, Leaf) else Leaf(leaf, "float32", 1, None) for leaf in leaves)
    found = judge_module(Signature(module, False, version, even, made), Context(ordered, young, own_norms))
    return {leaf.name: said for leaf, said in zip(made, found, strict=True)}


def short(said: Classification) -> tuple[Kind, Basis]:
    return said.kind, said.basis


# -- norms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "facts", "expected"),
    [
        (NORM, {"even": True}, (BUFFER, Basis.SIBLING)),
        (NORM, {"even": True, "version": 1}, (BUFFER, Basis.METADATA)),
        (NORM, {"even": True, "version": 2}, (PARAMETER, Basis.METADATA)),
        (NORM, {"version": 2}, (PARAMETER, Basis.METADATA)),
        (NORM, {"version": 2, "own_norms": True}, (PARAMETER, Basis.METADATA)),
        (NORM, {}, (PARAMETER, Basis.NAME)),
        (NORM, {"version": 1}, (PARAMETER, Basis.NAME)),
        (NORM, {"even": True, "own_norms": True}, (PARAMETER, Basis.NAME)),
        (NORM, {"even": True, "own_norms": True, "version": 1}, (PARAMETER, Basis.NAME)),
        (NORM, {"even": True, "young": False}, (UNKNOWN, Basis.NONE)),
        (NORM, {"even": True, "young": False, "own_norms": True}, (PARAMETER, Basis.NAME)),
        (NORM, {"young": False}, (PARAMETER, Basis.NAME)),
        ((*NORM, "num_batches_tracked"), {"even": True}, (PARAMETER, Basis.SIBLING)),
        ((*NORM, "num_batches_tracked"), {"even": True, "version": 1}, (PARAMETER, Basis.SIBLING)),
        ((*NORM, "num_batches_tracked"), {}, (PARAMETER, Basis.SIBLING)),
        ((*NORM[:3], "num_batches_tracked"), {"version": 2}, (PARAMETER, Basis.NAME)),
        ((*NORM[:2], "running_var", "num_batches_tracked"), {"version": 2}, (PARAMETER, Basis.NAME)),
        ((*NORM[:2], "num_batches_tracked"), {}, (PARAMETER, Basis.NAME)),
        (NORM[:2], {"version": 2}, (PARAMETER, Basis.NAME)),
    ],
)
def test_what_is_known_of_a_norm_and_by_what(
    names: tuple[str, ...], facts: Any, expected: tuple[Kind, Basis]
) -> None:
    found = judge(*names, **facts)
    assert (short(found["weight"]), short(found["bias"])) == (expected, expected)


def test_a_norm_says_nothing_of_other_names() -> None:
    for facts in (
        {"version": 2},
        {"version": 1, "even": True},
        {"even": True},
        {"even": True, "young": False},
    ):
        found = judge(*NORM, "thing", **facts)  # type: ignore[arg-type]
        assert short(found["thing"]) == (UNKNOWN, Basis.NONE)
        assert short(found["running_mean"]) == (BUFFER, Basis.NAME)


# -- siblings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a_g", "a_v"), {"a_g": "weight norm", "a_v": "weight norm"}),
        (("a_g", "a_v", "a_orig"), {}),
        (("a_g", "b_v"), {}),
        (("a_orig", "a_u", "a_v"), {"a_orig": "spectral", "a_u": "spectral", "a_v": "spectral"}),
        (("a_orig", "a_u", "a_mask"), {"a_orig": "spectral", "a_u": "spectral"}),
        (("a_orig", "a_mask"), {"a_orig": "pruning", "a_mask": "pruning"}),
        (("a_orig", "b_mask"), {}),
        (("a_mask",), {}),
        (("embed", "cluster_size"), {"embed": "codebook"}),
        (("embed", "cluster_usage"), {"embed": "codebook"}),
        (("embed",), {}),
        (("cluster_size",), {}),
        (("scale", "inv_freq"), {"scale": "rotary"}),
        (("scale", "zero_point"), {"scale": "quantization", "zero_point": "quantization"}),
        (("zero_point",), {}),
        (("mean", "std"), {"mean": "input", "std": "input"}),
        (("mean",), {}),
    ],
)
def test_what_siblings_say_of_each_other(names: tuple[str, ...], expected: dict[str, str]) -> None:
    found = judge(*names)
    by_sibling = {name: said.note for name, said in found.items() if said.basis is Basis.SIBLING}
    assert by_sibling.keys() == expected.keys()
    assert all(by_sibling[name].startswith(text) for name, text in expected.items())


# -- dtypes and shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (Leaf("thing", "int64", 1, None), (BUFFER, Basis.DTYPE)),
        (Leaf("thing", "bool", 1, None), (BUFFER, Basis.DTYPE)),
        (Leaf("thing", "int32", 1, None), (UNKNOWN, Basis.NONE)),
        # A name that says it is a buffer says more; one that says it is a parameter, or nothing, does not.
        (Leaf("position_ids", "int64", 2, None), (BUFFER, Basis.NAME)),
        (Leaf("weight", "int64", 2, None), (BUFFER, Basis.DTYPE)),
        (Leaf("mask", "bool", 2, None), (BUFFER, Basis.DTYPE)),
        (Leaf("exp_avg", "int64", 2, None), (Kind.OPTIMIZER_STATE, Basis.NAME)),
        (Leaf("thing", "float32", EMPTY, None), (BUFFER, Basis.SHAPE)),
        (Leaf("thing", "float32", NARROW, None), (BUFFER, Basis.SHAPE)),
        (Leaf("running_mean", "float32", EMPTY, None), (BUFFER, Basis.NAME)),
        (Leaf("weight", "float32", EMPTY, None), (BUFFER, Basis.SHAPE)),
        (Leaf("weight", "float32", NARROW, None), (PARAMETER, Basis.NAME)),
        (Leaf("gain", "float32", NARROW, None), (BUFFER, Basis.SHAPE)),
        (Leaf("thing", "int32", 0, None), (BUFFER, Basis.SHAPE)),
        (Leaf("thing", "float32", 0, None), (UNKNOWN, Basis.NONE)),
        (Leaf("n_averaged", "int32", 0, None), (BUFFER, Basis.NAME)),
        (Leaf("weight", "uint8", 2, None), (UNKNOWN, Basis.NONE)),
        (Leaf("qweight", "int32", 2, None), (BUFFER, Basis.NAME)),
        (Leaf("weight", "quint8", 2, None), (UNKNOWN, Basis.NONE)),
        (Leaf("weight", "float8_e4m3fn", 2, None), (PARAMETER, Basis.NAME)),
    ],
)
def test_a_dtype_or_a_shape_says_what_a_name_does_not(leaf: Leaf, expected: tuple[Kind, Basis]) -> None:
    assert short(judge(leaf)[leaf.name]) == expected


def test_the_bias_of_a_layer_of_no_width_is_no_placeholder() -> None:
    empty = Leaf("bias", "float32", EMPTY, None)
    assert short(judge(Leaf("weight", "float32", NARROW, None), empty)["bias"]) == (PARAMETER, Basis.NAME)
    for other in (
        Leaf("weight", "float32", EMPTY, None), Leaf("weight", "float32", 2, None),
        Leaf("gain", "float32", NARROW, None),
    ):  # fmt: skip
        assert short(judge(other, empty)["bias"]) == (BUFFER, Basis.SHAPE)
    odd = Leaf("thing", "float32", EMPTY, None)
    assert short(judge(Leaf("weight", "float32", NARROW, None), odd)["thing"]) == (BUFFER, Basis.SHAPE)


# -- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    ["loss", "my_loss", "losses", "criterion", "cross_entropy", "crossentropy", "nll", "a_bce", "FocalLoss",
     "CrossEntropy"],
)  # fmt: skip
def test_a_weight_in_a_loss_is_of_classes(module: str) -> None:
    found = judge("weight", "thing", module=module)
    assert short(found["weight"]) == (BUFFER, Basis.NAME)
    assert found["weight"].note == "weights of classes, in a loss"
    assert short(found["thing"]) == (UNKNOWN, Basis.NONE)
    for other in (
        judge("weight", "bias", module=module),
        judge(Leaf("weight", "float32", 2, None), module=module),
        judge("weight", module=f"{module}x"),
        judge("weight", module="closs"),
    ):
        assert short(other["weight"]) == (PARAMETER, Basis.NAME)
    assert short(judge("gain", module=module)["gain"]) == (PARAMETER, Basis.NAME)


@pytest.mark.parametrize("beside", ["mean", "shift", "loc", "center"])
def test_a_scale_of_a_normaliser_may_be_either(beside: str) -> None:
    found = judge("scale", beside, "gain")
    assert short(found["scale"]) == (UNKNOWN, Basis.NONE) and "normaliser" in found["scale"].note
    assert short(found["gain"]) == (PARAMETER, Basis.NAME)
    assert short(judge("scale", f"{beside}s")["scale"]) == (PARAMETER, Basis.NAME)


def test_a_stronger_rule_is_not_asked_again_by_a_weaker_one() -> None:
    given = Classification(PARAMETER, Basis.PICKLED_PARAMETER)
    found = judge(Leaf("running_mean", "int64", EMPTY, given), "weight", version=2, even=True)
    assert found["running_mean"] == given
    assert judge() == {}
