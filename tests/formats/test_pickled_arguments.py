"""Arguments of torch's rebuild calls: what torch takes is taken alike, and nothing is converted."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.formats.pickled import arguments
from ckpttool.formats.pickled.arguments import (
    MAX_INT64,
    StorageClaim,
    dict_items,
    element_type,
    layout_name,
    parse_storage_id,
    read_dtype,
    read_flag,
    read_ints,
    read_sizes,
)
from ckpttool.pickles.nodes import Call, DictNode, Global, SetNode
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import MalformedCheckpoint


def called(name: str, args: object) -> Call:
    module, _, last = name.rpartition(".")
    return Call("reduce", Global(module, last, 0), args, 0)


FLOATS = Global("torch", "FloatStorage", 0)


def claim_of(numel: int, offset: int = 0, whole: int = 6) -> StorageClaim:
    return StorageClaim("0", BY_NAME["float32"], numel, "cpu", offset, whole)


# -- storages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pid", "claim"),
    [
        (("storage", FLOATS, "0", "cpu", 6), claim_of(6)),
        (("storage", FLOATS, 17, "cuda:1", 0), StorageClaim("17", BY_NAME["float32"], 0, "cuda:1", 0, 0)),
        (("storage", FLOATS, "0", "cpu", 6, None), claim_of(6)),
        (("storage", FLOATS, "0", "cpu", 6, ("1", 2, 3)), claim_of(3, 2)),
        (("storage", FLOATS, "0", "cpu", 6, ("1", 0, 0)), claim_of(0)),
        (("storage", Global("torch.storage", "UntypedStorage", 0), "0", "cpu", 6),
         StorageClaim("0", None, 6, "cpu", 0, 6)),
        (("storage", Global("torch.cuda", "HalfStorage", 0), "0", "cpu", 6),
         StorageClaim("0", BY_NAME["float16"], 6, "cpu", 0, 6)),
    ],
)  # fmt: skip
def test_a_persistent_id_names_a_storage(pid: object, claim: StorageClaim) -> None:
    found = parse_storage_id(pid)
    assert found == claim
    each = 1 if claim.dtype is None else claim.dtype.bits // 8
    assert (found.unit_nbytes, found.nbytes) == (each, each * claim.numel)
    assert element_type(found) is (claim.dtype or BY_NAME["uint8"])


@pytest.mark.parametrize(
    ("pid", "words"),
    [
        ("storage", "is text, as pickle protocol 0 writes it"),
        (["storage", FLOATS, "0", "cpu", 6], "not a storage's persistent id"),
        (("storage", FLOATS, "0", "cpu"), "not a storage's persistent id"),
        (("storage", FLOATS, "0", "cpu", 6, None, None), "not a storage's persistent id"),
        (("module", FLOATS, "0", "cpu", 6), "not a storage's persistent id"),
        ((b"storage", FLOATS, "0", "cpu", 6), "not a storage's persistent id"),
        (("storage", FLOATS, b"0", "cpu", 6), "parts of the wrong type"),
        (("storage", FLOATS, True, "cpu", 6), "parts of the wrong type"),
        (("storage", FLOATS, "0", None, 6), "parts of the wrong type"),
        (("storage", FLOATS, "0", "cpu", 6.0), "parts of the wrong type"),
        (("storage", FLOATS, "0", "cpu", True), "parts of the wrong type"),
        (("storage", FLOATS, "0", "cpu", -1), "parts of the wrong type"),
        (("storage", "FloatStorage", "0", "cpu", 6), "does not name a storage class"),
        (("storage", Global("os", "FloatStorage", 0), "0", "cpu", 6), "does not name a storage class"),
        (("storage", Global("torch", "NoStorage", 0), "0", "cpu", 6), "unknown storage class"),
        (("storage", FLOATS, "0", "cpu", 6, ["1", 0, 6]), "storage view has parts of the wrong type"),
        (("storage", FLOATS, "0", "cpu", 6, ("1", 0)), "storage view has parts of the wrong type"),
        (("storage", FLOATS, "0", "cpu", 6, ("1", True, 6)), "storage view has parts of the wrong type"),
        (("storage", FLOATS, "0", "cpu", 6, ("1", 0, 6.0)), "storage view has parts of the wrong type"),
        (("storage", FLOATS, "0", "cpu", 6, ("1", -1, 6)), "a negative offset or size"),
        (("storage", FLOATS, "0", "cpu", 6, ("1", 0, -6)), "a negative offset or size"),
    ],
)
def test_any_other_id_is_refused_with_its_reason(pid: object, words: str) -> None:
    with pytest.raises(MalformedCheckpoint) as caught:
        parse_storage_id(pid)
    assert words in str(caught.value)
    if isinstance(pid, tuple) and ("view" in words or "class" in words or "negative" in words):
        assert caught.value.name == "0"


# -- numbers --------------------------------------------------------------------------------------------


strange = st.sampled_from([MAX_INT64, MAX_INT64 + 1, True, 1.0, "1", None])


@given(st.lists(st.one_of(st.integers(-1, 3), strange), max_size=4))
def test_sizes_are_what_torch_makes_a_size_of_in_each_spelling(numbers: list[Any]) -> None:
    """``torch.Size`` takes a bool for a number and knows no sign: those two are told apart here."""
    try:
        expected = tuple(torch.Size(numbers))
        good = all(type(number) is int and 0 <= number <= MAX_INT64 for number in numbers)
    except (TypeError, OverflowError, RuntimeError):
        good = False
    spellings = [tuple(numbers), list(numbers), called("torch.Size", (tuple(numbers),)),
                 called("torch.Size", (list(numbers),))]  # fmt: skip
    for node in spellings:
        if good:
            assert read_ints(node) == expected
        else:
            with pytest.raises(MalformedCheckpoint, match="sizes or strides"):
                read_ints(node)


@pytest.mark.parametrize("args", [((1,), (2,)), (1, 2), (3,), ("12",), (None,)])
def test_a_size_has_one_argument_as_in_torch(args: Any) -> None:
    with pytest.raises(TypeError):
        torch.Size(*args)
    with pytest.raises(MalformedCheckpoint, match="are not a tuple"):
        read_ints(called("torch.Size", args))


def test_a_size_without_arguments_is_that_of_a_scalar() -> None:
    assert read_ints(called("torch.Size", ())) == torch.Size() == ()


@pytest.mark.parametrize(
    "node", [called("torch.Sizes", ((1,),)), {1}, SetNode([1], False), DictNode(), 3, "1", b"1"]
)
def test_nothing_else_has_numbers(node: Any) -> None:
    with pytest.raises(MalformedCheckpoint, match=r"malformed tensor in the pickle: .* are not a tuple"):
        read_ints(node)


def test_there_are_only_so_many_dimensions() -> None:
    assert len(read_ints((1,) * arguments._MAX_DIMS)) == 1024
    with pytest.raises(MalformedCheckpoint):
        read_ints((1,) * (arguments._MAX_DIMS + 1))


def test_the_product_of_sizes_is_a_number_that_torch_can_count_to() -> None:
    draw = random.Random(0)
    for _ in range(200):
        sizes = tuple(1 << draw.randrange(32) for _ in range(draw.randrange(1, 5)))
        for shape in (sizes, (*sizes, 0), (MAX_INT64,), (MAX_INT64, 1)):
            numel = 1
            for size in shape:
                numel *= size
            if numel < 2**63:
                assert read_sizes(shape) == shape
            else:
                with pytest.raises(MalformedCheckpoint, match="number of elements does not fit in 63 bits"):
                    read_sizes(shape)
    with pytest.raises(MalformedCheckpoint):
        read_sizes((1 << 32, 1 << 31))


# -- all else -------------------------------------------------------------------------------------------


def test_a_dtype_is_a_global_of_torch() -> None:
    for name in ("float32", "bfloat16", "uint16", "bool", "qint8", "complex32", "float8_e4m3fn"):
        dtype = getattr(torch, name)
        assert read_dtype(Global("torch", name, 0)).name == str(dtype).removeprefix("torch.")
    assert read_dtype(Global("torch", "float", 0)) is BY_NAME["float32"]
    for node in (Global("numpy", "float32", 0), Global("torch", "Tensor", 0), "torch.float32", None):
        with pytest.raises(MalformedCheckpoint, match="its dtype is not one of torch's"):
            read_dtype(node)


def test_a_flag_is_a_bool_and_a_layout_has_a_name() -> None:
    assert [read_flag(node) for node in (True, False, 1, 0, None, "True")] == [
        True,
        False,
        None,
        None,
        None,
        None,
    ]
    assert layout_name(called("torch.serialization._get_layout", ("torch.sparse_csr",))) == "sparse_csr"
    assert layout_name(called("torch.serialization._get_layout", ("x" * 100,))) == "x" * 64
    assert layout_name(Global("torch", "sparse_coo", 0)) == "sparse_coo"
    assert layout_name(Global("torch", "y" * 100, 0)) == "y" * 64
    assert layout_name(called("f", (1,))) == layout_name(None) == "sparse"
    mapping = called("collections.OrderedDict", ())
    mapping.items = ["a", 1]
    assert (dict_items(mapping), dict_items(DictNode(["b", 2])), dict_items(["c", 3])) == (
        ["a", 1],
        ["b", 2],
        None,
    )
