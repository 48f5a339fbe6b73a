"""What is refused before the first write: each sentence with its place and the way out, word for word."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.conversion.pt.key_literal import parse_key
from ckpttool.values.checkpoint import (
    Basis,
    Chunk,
    ChunkedTensor,
    Classification,
    CompositeTensor,
    Entry,
    Kind,
    Part,
    TensorInfo,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import CkptToolError, UnsupportedFeature
from tests.support.in_memory import PATH, plan_in_memory, tensor

FLOATS = BY_NAME["float32"]
DROP, AS_BYTES = "--drop GLOB leaves them out", "--as-bytes keeps plain tensors as U8 and notes the dtype"

WIDE = "complex128"
LOAD_IT = (
    "only their class puts the parts together: if you trust the file, load it, take plain tensors "
    "(full_tensor() of a DTensor, dequantize() of torchao's) and save those"
)


def refused(tree: Any, to: str, **options: Any) -> tuple[type, str, str | None]:
    with pytest.raises(CkptToolError) as caught:
        plan_in_memory(tree, to, **options)
    assert caught.value.path == PATH
    return type(caught.value), caught.value.what, caught.value.hint


def of_parts(layout: str, type_name: str = "torch.x", **more: Any) -> CompositeTensor:
    return CompositeTensor(layout, type_name, FLOATS, (2,), (Part("values", tensor("9", 2)),), **more)


# -- without bytes ------------------------------------------------------------------------------------


def on_meta(*shape: int) -> TensorInfo:
    info = tensor("m", *shape)
    assert info.storage is not None
    return info._replace(storage=info.storage._replace(location="meta", nbytes=0))


def chunked(*views: TensorInfo) -> ChunkedTensor:
    return ChunkedTensor(FLOATS, (2 * len(views),), tuple(Chunk((2 * at,), v) for at, v in enumerate(views)))


@pytest.mark.parametrize("to", ["pt", "safetensors"])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_what_has_no_bytes_is_named(to: str, as_bytes: bool) -> None:
    absent = {
        "a": on_meta(2),
        "b": tensor("0", 2)._replace(storage=None),
        "c": chunked(tensor("1", 2), on_meta(2)),
        "d": Entry((), "", None),
        "e": of_parts("uninitialized"),
        7: on_meta(),
    }
    here = {"f": tensor("2", 2), "g": on_meta(0, 4), "h": tensor("3", 0)._replace(storage=None)}
    for name, value in absent.items():
        kind, what, hint = refused({"f": here["f"], name: value}, to, as_bytes=as_bytes)
        assert (kind, hint) == (UnsupportedFeature, DROP)
        assert what == f"{str(name)!r}: on the meta device, without bytes"
    _, what, _ = refused({**here, **absent}, to)
    assert what == "'a', 'b', 'c' and 3 more: on the meta device, without bytes"
    assert [item.name for item in plan_in_memory(here, to).tensors] == list(here)


# -- without a type -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "to", "what", "hint"),
    [
        (
            {"a": tensor("0", 2, dtype=WIDE), "b": tensor("1", 2), "c": tensor("2", dtype=WIDE)},
            "safetensors", "safetensors cannot hold 'a', 'c': complex128", f"{AS_BYTES}; {DROP}",
        ),
        (
            {"a": tensor("0", 4, dtype="float6_e2m3fn"), "b": tensor("1", 2, dtype="int3")},
            "pt", "a .pt cannot hold 'a': float6_e2m3fn", f"{AS_BYTES}; {DROP}",
        ),
        (
            {"a": tensor("0", dtype="float4_e2m1fn_x2"), "b": tensor("1", 1, dtype="float4_e2m1fn_x2")},
            "safetensors", "safetensors cannot hold 'a': float4_e2m1fn_x2", f"{AS_BYTES}; {DROP}",
        ),
        (
            {"a": of_parts("sparse_csr", "s"), "b": of_parts("nested", "n"), "c": tensor("1", 2)},
            "safetensors",
            "safetensors cannot hold 'a': sparse_csr tensor (s); 'b': nested tensor (n)",
            f"a .pt can hold nested, sparse_csr tensors; {DROP}",
        ),
        (
            {"a": of_parts("subclass", "x.DTensor"), "b": of_parts("sparse_csr")}, "pt",
            "a .pt cannot hold 'a': subclass tensor (x.DTensor)",
            f"{LOAD_IT}; {DROP}",
        ),
        (
            {"a": of_parts("subclass", "x.D"), "b": of_parts("quantized", "q"), "c": tensor("1", dtype=WIDE)},
            "safetensors",
            "safetensors cannot hold 'a': subclass tensor (x.D); 'b': quantized tensor (q); 'c': complex128",
            f"{AS_BYTES}; {LOAD_IT}; a .pt can hold quantized tensors; {DROP}",
        ),
        (
            {"a": of_parts("elsewhere", "x")}, "pt", "a .pt cannot hold 'a': elsewhere tensor (x)", DROP,
        ),
    ],
    ids=["no tag", "not in torch", "no last size", "parts", "a class", "all at once", "unknown"],
)  # fmt: skip
def test_what_the_container_has_no_type_for_is_named(tree: Any, to: str, what: str, hint: str) -> None:
    assert refused(tree, to) == (UnsupportedFeature, what, hint)


def test_as_bytes_helps_plain_tensors_alone() -> None:
    plain = {"a": tensor("0", 2, 3, dtype="complex128"), "b": tensor("1", 2)}
    plan = plan_in_memory(plain, "safetensors", as_bytes=True)
    assert [item.value[:4] for item in plan.tensors] == [
        (0, BY_NAME["uint8"], (96,), (1,)), (1, FLOATS, (2,), (1,))
    ]  # fmt: skip
    _, what, _ = refused({**plain, "c": of_parts("sparse_csr", "t")}, "safetensors", as_bytes=True)
    assert what == "safetensors cannot hold 'c': sparse_csr tensor (t)"


# -- names and strings --------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["pt", "safetensors"])
def test_shared_bytes_can_be_refused(to: str) -> None:
    row = tensor("0", 8)
    views = {"a": row._replace(shape=(4,)), "b": row._replace(shape=(3,), storage_offset=3)}
    apart = {"a": views["a"], "b": row._replace(shape=(4,), storage_offset=4), "c": tensor("1", 8)}
    kind, what, hint = refused(views, to, shared="fail")
    assert (kind, what) == (CkptToolError, "'a', 'b' share bytes")
    assert hint == "--shared alias keeps one and lists the others, --shared duplicate writes each"
    assert [item.name for item in plan_in_memory(apart, to, shared="fail").tensors] == ["a", "b", "c"]
    assert plan_in_memory({"a": tensor("0", 0), "b": tensor("0", 0)}, to, shared="fail").aliases == {}


def test_a_pt_has_no_place_for_strings() -> None:
    kind, what, hint = refused({"a": tensor("0", 2)}, "pt", metadata=(("k", "v"),))
    assert (kind, hint) == (CkptToolError, None)
    assert what == "--metadata needs a safetensors destination: a .pt has no place for it"


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("__metadata__", "safetensors reserves the name '__metadata__'", None),
        ("\udc80", "safetensors cannot hold the name '\\udc80': it is not Unicode text",
         "--rename 'REGEX=>REPL' gives it another one"),
    ],
)  # fmt: skip
def test_names_that_a_header_cannot_hold(name: str, what: str, hint: str | None) -> None:
    assert refused({name: tensor("0", 2), "é": tensor("1", 2)}, "safetensors") == (CkptToolError, what, hint)


def test_nothing_to_convert() -> None:
    tree = {"model": {"w": tensor("0", 2)}, "ema": {"w": tensor("1", 2)}, "x": 3}
    kind, what, hint = refused(tree, "pt", drop=("*",))
    assert (kind, what) == (CkptToolError, "no tensor is left to convert")
    assert hint == "--root takes one of: model, ema; --root '' takes everything"
    _, what, hint = refused({"w": tensor("0", 2)}, "pt", keep=("w",), drop=("w",))
    assert (what, hint) == ("no tensor is left to convert", f"`ckpttool inspect {PATH}` shows what is in it")
    flat = {"a.weight": tensor("0", 2), "ema": {"a.weight": tensor("1", 2)}}
    assert refused(flat, "pt", drop=("*",))[2] == "--root takes one of: ema; --root '' takes everything"
    many = {f"b{at}": {"a.weight": tensor(f"{at}", 2), "a.bias": tensor(f"b{at}", 2)} for at in range(6)}
    _, what, hint = refused(many, "safetensors")
    assert what == "it is not clear which branch holds the weights"
    assert hint == "--root takes one of: b0, b1, b2, b3, …; --root '' takes everything"


# -- keys ---------------------------------------------------------------------------------------------


def test_a_key_is_refused_with_its_beginning_and_none_is_longer_than_a_page() -> None:
    for text in ("<object>", "f(" + "x" * 500):
        with pytest.raises(UnsupportedFeature) as caught:
            parse_key(text)
        assert caught.value.what == f"a key that is no plain value: {text[:60]!r}"
        assert caught.value.hint == "--drop GLOB leaves it out"
    longest = "'" + "x" * 4094 + "'"
    assert parse_key(longest) == "x" * 4094
    with pytest.raises(UnsupportedFeature):
        parse_key("'" + "x" * 4095 + "'")


def test_kinds_of_rows_are_those_of_the_entries() -> None:
    declared = Classification(Kind.PARAMETER, Basis.PICKLED_PARAMETER)
    tree = {"a": Entry((), "", tensor("0", 2), True, declared), "b": tensor("1", 2)}
    for to in ("pt", "safetensors"):
        plan = plan_in_memory(tree, to)
        assert [item.entry.name for item in plan.tensors] == ["a", "b"]
        assert [item.is_parameter for item in plan.tensors] == [True, False]
        assert plan.tensors[0].classification == declared
