"""Within a module every parameter stands before every buffer: who judges whom, and who is left alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckpttool.kinds.module_rules import Context, Leaf, Signature, judge_module
from ckpttool.values.checkpoint import Basis, Classification, Kind
from tests.support.classified import BUFFER, PARAMETER, UNKNOWN

SAID = Classification(PARAMETER, Basis.PICKLED_PARAMETER)
# A leaf of each certainty: what it is by itself, and whether others may be judged by it.
LEAVES: dict[str, tuple[Leaf, Kind, bool]] = {
    "sure buffer": (Leaf("counter", "int64", 0, None), BUFFER, True),
    "weak buffer": (Leaf("number", "int32", 0, None), BUFFER, False),
    "sure parameter": (Leaf("given", "float32", 2, SAID), PARAMETER, True),
    "weak parameter": (Leaf("weight", "float32", 2, None), PARAMETER, False),
    "unknown": (Leaf("thing", "float32", 2, None), UNKNOWN, False),
    "packed": (Leaf("qthing", "uint8", 2, None), UNKNOWN, False),
}


def judge(leaves: list[Leaf], ordered: bool = True) -> list[Classification]:
    return list(
        judge_module(Signature("m", False, None, False, tuple(leaves)), Context(ordered, True, False))
    )


@pytest.mark.parametrize("what", LEAVES)
def test_only_what_is_more_than_a_name_judges_its_neighbours(what: str) -> None:
    leaf, kind, sure = LEAVES[what]
    assert [item.kind for item in judge([leaf])] == [kind]
    probe = LEAVES["unknown"][0]
    beside = [item.kind for item in judge([probe, leaf, probe])]
    if sure:
        expected = [PARAMETER, PARAMETER, UNKNOWN] if kind is PARAMETER else [UNKNOWN, BUFFER, BUFFER]
    else:
        expected = [UNKNOWN, kind, UNKNOWN]
    assert beside == expected


@settings(max_examples=400)
@given(st.lists(st.sampled_from(list(LEAVES)), max_size=7))
@example(["unknown", "weak parameter", "unknown", "weak buffer", "unknown"])
@example(["sure buffer", "weak parameter", "unknown", "weak buffer", "weak parameter"])
@example(["unknown", "weak buffer", "unknown", "weak parameter", "unknown"])
@example(["weak buffer", "unknown", "sure parameter", "unknown", "weak parameter", "unknown", "weak buffer"])
def test_what_is_sure_judges_all_others_unless_it_contradicts_itself(what: list[str]) -> None:
    leaves = [LEAVES[name][0] for name in what]
    alone = [LEAVES[name][1] for name in what]
    sure = [LEAVES[name][2] for name in what]
    found = [item.kind for item in judge(leaves)]
    assert judge(leaves, ordered=False) == [judge([leaf], ordered=False)[0] for leaf in leaves]

    buffers = [at for at, kind in enumerate(alone) if sure[at] and kind is BUFFER]
    parameters = [at for at, kind in enumerate(alone) if sure[at] and kind is PARAMETER]
    if buffers and parameters and min(buffers) < max(parameters):
        assert found == alone  # one of the two is wrong: neither judges
        return
    expected = list(alone)
    for at, kind in enumerate(alone):
        after = bool(buffers) and at > min(buffers)
        before = bool(parameters) and at < max(parameters)
        assert not (after and before)
        if not sure[at]:
            expected[at] = BUFFER if after else PARAMETER if before else kind
    assert found == expected
    for leaf, item, before_order in zip(leaves, judge(leaves), alone, strict=True):
        if item.kind is not before_order:
            assert item.basis is Basis.ORDER and item.note.split()[0] in ("after", "before"), leaf


@pytest.mark.parametrize(
    ("leaves", "notes"),
    [
        (["unknown", "sure parameter", "weak parameter"], {0: "before the parameter given"}),
        (["sure buffer", "weak buffer", "unknown"],
         {1: "after the buffer counter", 2: "after the buffer counter"}),
    ],
)  # fmt: skip
def test_the_note_names_the_neighbour(leaves: list[str], notes: dict[int, str]) -> None:
    found = judge([LEAVES[name][0] for name in leaves])
    assert {at: item.note for at, item in enumerate(found) if item.basis is Basis.ORDER} == notes


# -- what stands beside what --------------------------------------------------------------------------


def kinds(*names: str, version: int | None = None, young: bool = True, **more: Any) -> dict[str, Kind]:
    leaves = tuple(Leaf(name, more.get("dtype", "float32"), more.get("shape", 1), None) for name in names)
    even = {"weight", "bias", "running_mean", "running_var"} <= set(names)
    signature = Signature(more.get("module", "m"), more.get("parametrization", False), version, even, leaves)
    found = judge_module(signature, Context(False, young, False))
    return {name: item.kind for name, item in zip(names, found, strict=True)}


NORM = ("weight", "bias", "running_mean", "running_var")


@pytest.mark.parametrize(
    ("names", "version", "young", "kind"),
    [
        (NORM, 2, True, PARAMETER), (NORM, 3, True, PARAMETER), (NORM, 1, True, BUFFER),
        (NORM, 1, False, BUFFER), (NORM, None, True, BUFFER), (NORM, None, False, UNKNOWN),
        ((*NORM, "num_batches_tracked"), None, False, PARAMETER),
        ((*NORM, "num_batches_tracked"), 1, True, PARAMETER),
        ((*NORM[:2], "running_mean"), 1, True, PARAMETER), ((*NORM[:2], "running_var"), 1, True, PARAMETER),
    ],
)  # fmt: skip
def test_a_batch_norm_is_frozen_or_not(names: Any, version: int | None, young: bool, kind: Kind) -> None:
    found = kinds(*names, version=version, young=young)
    assert (found["weight"], found["bias"]) == (kind, kind)
    assert found["running_mean" if "running_mean" in found else "running_var"] is BUFFER


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a_g", "a_v"), (PARAMETER, PARAMETER)),
        (("a_g",), (UNKNOWN,)),
        (("a_g", "b_v"), (UNKNOWN, UNKNOWN)),
        (("a_orig", "a_u", "a_v"), (PARAMETER, BUFFER, BUFFER)),
        (("a_orig", "a_u"), (PARAMETER, BUFFER)),
        (("a_orig", "a_g", "a_u", "a_v"), (PARAMETER, UNKNOWN, BUFFER, BUFFER)),
        (("a_orig", "a_mask"), (PARAMETER, BUFFER)),
        (("a_orig", "b_mask"), (UNKNOWN, kinds("b_mask")["b_mask"])),
        (("scale", "zero_point"), (BUFFER, BUFFER)),
        (("mean", "std"), (BUFFER, BUFFER)),
        (("embed", "cluster_size"), (BUFFER, kinds("cluster_size")["cluster_size"])),
        (("embed", "cluster_usage"), (BUFFER, kinds("cluster_usage")["cluster_usage"])),
        (("embed", "cluster"), (kinds("embed")["embed"], kinds("cluster")["cluster"])),
    ],
)
def test_siblings_say_what_neither_says_alone(names: tuple[str, ...], expected: tuple[Kind, ...]) -> None:
    assert tuple(kinds(*names).values()) == expected


def test_one_of_a_pair_says_nothing() -> None:
    for pair in (("scale", "zero_point"), ("mean", "std")):
        for name in pair:
            (alone,) = judge([Leaf(name, "float32", 1, None)], ordered=False)
            assert alone.basis is not Basis.SIBLING


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [("original", PARAMETER, UNKNOWN), ("original12", PARAMETER, UNKNOWN), ("_u", BUFFER, UNKNOWN),
     ("_v", BUFFER, UNKNOWN), ("base", BUFFER, PARAMETER), ("originals", UNKNOWN, UNKNOWN)],
)  # fmt: skip
def test_names_of_a_parametrization_count_in_one_only(name: str, inside: Kind, outside: Kind) -> None:
    assert kinds(name, parametrization=True)[name] is inside
    assert kinds(name)[name] is outside


@pytest.mark.parametrize(
    ("dtype", "shape", "kind", "sure"),
    [("int64", 3, BUFFER, True), ("bool", 2, BUFFER, True), ("int32", 0, BUFFER, False),
     ("uint8", 0, BUFFER, False), ("int32", 1, UNKNOWN, False), ("qint8", 2, UNKNOWN, False),
     ("float32", 0, UNKNOWN, False), ("", -1, UNKNOWN, False)],
)  # fmt: skip
def test_an_integer_takes_no_gradient_and_a_packed_one_may(
    dtype: str, shape: int, kind: Kind, sure: bool
) -> None:
    leaf = Leaf("thing", dtype, shape, None)
    assert judge([leaf])[0].kind is kind
    weak = LEAVES["weak parameter"][0]
    assert (judge([leaf, weak])[1].kind is BUFFER) is sure


def test_what_is_declared_stands_and_judges() -> None:
    found = judge([LEAVES["weak buffer"][0], Leaf("num_batches_tracked", "int64", 0, SAID)])
    assert found[1] == SAID
    assert found[0].kind is PARAMETER
