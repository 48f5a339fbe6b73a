"""Headers of safetensors and plans of a ``.pt``, exactly: ties, overlaps, bytes, strings of others, order."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import pytest

from ckpttool.conversion.shards import lay_out_file
from ckpttool.values.checkpoint import Basis, Classification, Entry, FileInfo, Kind, OddKey, TensorInfo
from ckpttool.values.conversion import ConversionPlan, Dropped, Placed
from ckpttool.values.dtypes import BY_NAME
from tests.support.in_memory import plan_in_memory, tensor

FLOATS, BYTES = BY_NAME["float32"], BY_NAME["uint8"]
FOUR = "float4_e2m1fn_x2"
PARAMETER = Classification(Kind.PARAMETER, Basis.PICKLED_PARAMETER)


def header_of(plan: ConversionPlan) -> tuple[dict[str, Any], list[int]]:
    """The header, whose order and spelling json keeps, and the pieces behind it."""
    (layout,) = lay_out_file(plan, "b.safetensors")
    first, *rest = layout.segments({})
    length = int.from_bytes(first.literal[:8], "little")
    assert length + 8 == first.nbytes == len(first.literal) and first.nbytes % 8 == 0
    text = first.literal[8:].decode()
    padding = len(text.encode()) - len(text.rstrip(" ").encode())
    assert padding < 8
    document = json.loads(text)
    assert text.rstrip(" ") == json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    at = first.nbytes
    for segment in rest:
        assert (segment.offset, segment.nbytes) == (at, plan.pieces[segment.piece].nbytes) and segment.nbytes
        at += segment.nbytes
    assert layout == ("b.safetensors", at, layout.segments, False)
    metadata = document.pop("__metadata__", {})
    assert metadata == plan.metadata and list(metadata) == sorted(metadata)
    return document, [segment.piece for segment in rest]


def view(key: str, start: int, *shape: int, **more: Any) -> TensorInfo:
    """A packed view into a storage of 16 numbers."""
    whole = tensor(key, 16, **more)
    return tensor(key, *shape, **more)._replace(storage=whole.storage, storage_offset=start)


def carried(plan: ConversionPlan) -> dict[str, Any]:
    return {key[9:]: json.loads(text) for key, text in plan.metadata.items() if key.startswith("ckpttool.")}


# -- the text -----------------------------------------------------------------------------------------


def test_entries_stand_by_alignment_and_name_one_after_the_other() -> None:
    tree = OrderedDict(
        {
            "z": tensor("0", 3, dtype="int8"), "b": tensor("1", 2, 3), "é": tensor("2"),
            "a\n": tensor("3", 0, 2), "w": tensor("4", 1, dtype="float64"),
            "f4": tensor("5", 2, 3, dtype=FOUR), "n": 5,
        }
    )  # fmt: skip
    plan = plan_in_memory(tree, "safetensors")
    document, pieces = header_of(plan)
    assert list(document.items()) == [
        ("w", {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}),
        ("a\n", {"dtype": "F32", "shape": [0, 2], "data_offsets": [8, 8]}),
        ("b", {"dtype": "F32", "shape": [2, 3], "data_offsets": [8, 32]}),
        ("é", {"dtype": "F32", "shape": [], "data_offsets": [32, 36]}),
        ("z", {"dtype": "I8", "shape": [3], "data_offsets": [36, 39]}),
        ("f4", {"dtype": "F4", "shape": [2, 6], "data_offsets": [39, 45]}),
    ]
    assert pieces == [4, 1, 2, 0, 5]
    assert plan.metadata == {
        "format": "pt",
        "ckpttool.values": '[[["n"],5]]',
        "ckpttool.order": "[4,1,5,0,3,2]",
    }


def test_names_that_stand_for_paths_and_parameters_are_told() -> None:
    tree = {
        "model": {
            "a": {"b": Entry((), "", tensor("0", 2), True, PARAMETER)},
            3: tensor("1", 1),
            "c.d": tensor("2", 1),
        },
        "x": Entry((), "", tensor("3", 1), False, PARAMETER),
        OddKey("1.5", True): tensor("4", 1),
    }
    plan = plan_in_memory(tree, "safetensors", root=())
    document, _ = header_of(plan)
    assert list(document) == sorted([str(OddKey("1.5", True)), "model.3", "model.a.b", "model.c.d", "x"])
    assert carried(plan) == {
        "paths": {
            "model.a.b": ["model", "a", "b"], "model.3": ["model", 3], "model.c.d": ["model", "c.d"],
            str(OddKey("1.5", True)): [{"key": "1.5"}],
        },
        "parameters": ["model.a.b", "x"],
        "lists": [[[], "dict"], [["model"], "dict"], [["model", "a"], "dict"]],
        "order": carried(plan)["order"],
    }  # fmt: skip
    flat = plan_in_memory(
        {"model": {"a": tensor("0", 2), "b.c": tensor("1", 2)}}, "safetensors", root=("model",)
    )
    assert carried(flat) == {"lists": [[[], "dict"]], "order": []}
    inside = plan_in_memory({"model": {"a": tensor("0", 2)}}, "safetensors")
    assert carried(inside) == {"root": ["model"], "lists": [[["model"], "dict"]], "order": []}
    unordered = plan_in_memory(
        {"b": tensor("0", 2), "a": tensor("1", 2)}, "safetensors", facts={"ordered": False}
    )
    assert "order" not in carried(unordered)


def test_what_stands_there_as_bytes_is_told_with_its_type() -> None:
    tree = {
        "wide": tensor("0", 2, 2, dtype="complex128"), "scalar": tensor("1", dtype=FOUR),
        "plain": tensor("2", 3), "cast.weight": tensor("3", 4), "none": tensor("4", 0, 7, dtype="complex128"),
    }  # fmt: skip
    plan = plan_in_memory(tree, "safetensors", as_bytes=True, dtype=BY_NAME[FOUR])
    assert carried(plan)["as_bytes"] == {
        "wide": {"dtype": "complex128", "shape": [2, 2]},
        "scalar": {"dtype": FOUR, "shape": []},
        "none": {"dtype": "complex128", "shape": [0, 7]},
    }
    placed = {str(item.name): item.value for item in plan.tensors}
    assert placed["wide"] == Placed(0, BYTES, (64,), (1,))
    assert placed["scalar"] == Placed(1, BYTES, (1,), (1,))
    assert placed["none"] == Placed(4, BYTES, (0,), (1,))
    assert [item.dtype for item in (placed["plain"], placed["cast.weight"])] == [
        FLOATS,
        BY_NAME[FOUR],
    ]


# -- ties ---------------------------------------------------------------------------------------------


TIED = OrderedDict(
    {"a": view("0", 0, 8), "b": view("0", 0, 8), "c": view("0", 0, 4, 2), "d": view("0", 4, 8),
     "e": view("0", 0, 8), "f": view("1", 0, 8), "format": view("1", 0, 8),
     "mine": view("1", 0, 8), "ckpttool.x": view("1", 0, 8)}
)  # fmt: skip
STRINGS = {"metadata": {"mine": "x", "other": "y", "total_size": "9", "format": "np"}}


def test_tied_names_are_listed_unless_the_header_has_another_use_for_them() -> None:
    plan = plan_in_memory(TIED, "safetensors", facts=STRINGS)
    assert plan.aliases == plan.listed == {"b": "a", "e": "a"}
    assert [item.name for item in plan.tensors] == ["a", "c", "d", "f", "format", "mine", "ckpttool.x"]
    assert plan.metadata == {
        "mine": "x", "other": "y", "total_size": "9", "format": "pt", "b": "a", "e": "a",
        "ckpttool.order": "[0,1,2,4,5,6,7,8,3]",
    }  # fmt: skip
    nothing = plan_in_memory({"a": tensor("0", 0, 2), "b": tensor("0", 0, 2)}, "safetensors")
    assert (nothing.aliases, [item.name for item in nothing.tensors]) == ({}, ["a", "b"])
    assert plan.notes == (
        "'format' is written apart: __metadata__ has another use for that name",
        "'mine' is written apart: __metadata__ has another use for that name",
        "'ckpttool.x' is written apart: __metadata__ has another use for that name",
        "views with bytes in common are written apart: 'a', 'c', 'd' (and 1 more group)",
    )
    header_of(plan)


@pytest.mark.parametrize(("files", "total"), [(1, {"total_size": "9"}), (2, {})])
def test_strings_stay_but_for_the_total_of_other_shards(files: int, total: dict[str, str]) -> None:
    facts = {**STRINGS, "files": tuple(FileInfo(f"{at}", 9, 0, at) for at in range(files))}
    tree = OrderedDict(w=tensor("0", 2))
    plan = plan_in_memory(
        tree, "safetensors", facts=facts, metadata=(("other", "z"), ("new", "n"), ("format", "q"))
    )
    assert plan.metadata == {
        "mine": "x", **total, "other": "z", "new": "n", "format": "pt", "ckpttool.order": "[]"
    }  # fmt: skip


def test_duplicates_are_written_each_and_nothing_is_said() -> None:
    for to in ("pt", "safetensors"):
        plan = plan_in_memory(TIED, to, shared="duplicate")
        assert (plan.aliases, plan.listed, plan.notes) == ({}, {}, ())
        assert [item.value for item in plan.tensors] == [
            Placed(at, FLOATS, info.shape, info.stride) for at, info in enumerate(TIED.values())
        ]


def test_a_pt_keeps_ties_and_views_and_names_the_strings_that_it_leaves() -> None:
    plan = plan_in_memory({"m": TIED, "none": tensor("2", 0), "nothing": tensor("2", 0)}, "pt", facts=STRINGS)
    assert plan.aliases == {
        "m.b": "m.a",
        "m.e": "m.a",
        "m.format": "m.f",
        "m.mine": "m.f",
        "m.ckpttool.x": "m.f",
    }
    assert (plan.listed, plan.notes, plan.metadata) == ({}, (), {})
    assert [piece.nbytes for piece in plan.pieces] == [48, 32, 0, 0]
    assert [(item.value.piece, item.value.shape, item.value.storage_offset) for item in plan.tensors] == [
        (0, (8,), 0), (0, (8,), 0), (0, (4, 2), 0), (0, (8,), 4), (0, (8,), 0),
        *[(1, (8,), 0)] * 4, (2, (0,), 0), (3, (0,), 0),
    ]  # fmt: skip
    assert plan.dropped == tuple(
        Dropped((), key, "metadata", 0, "a .pt has no place for it", asked=False) for key in ("mine", "other")
    )
    assert plan.lost == plan.dropped


def test_a_pt_has_as_bytes_what_torch_has_no_type_for() -> None:
    tree = {"six": tensor("0", 4, dtype="float6_e2m3fn"), "tied": tensor("0", 4, dtype="float6_e2m3fn"),
            "shell": tensor("1", 4, dtype="int3")}  # fmt: skip
    plan = plan_in_memory(tree, "pt", as_bytes=True)
    six = Placed(0, BYTES, (3,), (1,))
    assert [item.value for item in plan.tensors] == [six, six, Placed(1, BY_NAME["int3"], (4,), (1,))]
    assert plan.aliases == {"tied": "six"}
