"""Which leaves of a pickle are values, how much they count as, and what is said of those that are none."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch

from ckpttool.formats.pickled import plain as module
from ckpttool.formats.pickled.plain import (
    PlainReader,
    describe_call,
    is_numpy,
    plain_of_call,
    without_type_tag,
)
from ckpttool.pickles.nodes import BigInt, Call, DictNode, Global, SetNode
from ckpttool.values.checkpoint import PlainList
from tests.support.walked import called
from tests.support.work import lines

NONE: tuple[None, int] = (None, -1)


def sized(node: Any, depth: int = 0) -> tuple[Any, int]:
    return PlainReader().sized(node, depth)


# -- scalars and lists --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, True, False, 0, -5, 1.5, float("inf")])
def test_a_scalar_is_itself_and_counts_once(value: Any) -> None:
    assert sized(value) == (value, 1)
    assert PlainReader().read(value) == (value, True)


@pytest.mark.parametrize(("length", "size"), [(0, 1), (63, 1), (64, 2), (127, 2), (128, 3), (6400, 101)])
def test_a_text_counts_once_for_every_64_characters(length: int, size: int) -> None:
    assert sized("x" * length) == ("x" * length, size)
    assert sized(b"x" * length) == (b"x" * length, size)
    assert sized(["x" * length] * 2) == (("x" * length,) * 2, 2 * size)


@pytest.mark.parametrize(
    "node",
    [DictNode(), SetNode([], False), BigInt(5000), Global("torch", "float32", 0), called("m.C"), object()],
)
def test_what_is_neither_is_no_value_nor_is_a_list_that_holds_it(node: Any) -> None:
    assert sized(node) == NONE and PlainReader().read(node) == (None, False)
    assert sized([1, node]) == NONE and sized([1, (node,)]) == NONE and sized((node, 1)) == NONE


def test_a_list_is_told_from_a_tuple_and_counts_its_scalars() -> None:
    value, size = sized([1, "x", [2.5, None]])
    assert (value, size) == ((1, "x", (2.5, None)), 4)
    assert type(value) is PlainList and type(value[2]) is PlainList
    assert type(sized((1, 2))[0]) is tuple
    assert PlainReader().read([[[[5]]]]) == (((((5,),),),), True)
    assert sized([]) == ((), 0) and sized(()) == ((), 0) and sized([[], [()]]) == (((), ((),)), 0)


@pytest.mark.parametrize("wrap", [list, tuple])
def test_lists_nest_four_deep(wrap: Any) -> None:
    node: Any = wrap([1])
    for _ in range(3):
        node = wrap([node])
    assert sized(node)[1] == 1
    assert sized(wrap([node])) == NONE
    assert [sized(wrap([1]), depth)[1] for depth in (3, 4)] == [1, -1]


def test_what_is_too_deep_in_one_place_may_stand_higher_in_another() -> None:
    reader = PlainReader()
    deep = [[[1, 2, 3, 4, 5, 6]]]
    assert reader.sized([[deep]], 0) == NONE
    assert reader.sized([deep], 0)[1] == 6
    assert reader.sized(deep, 0)[1] == 6


def test_long_lists_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_NESTED_SCALARS", 6)
    monkeypatch.setattr(module, "_MAX_FLAT_SCALARS", 9)
    assert sized([0] * 9)[1] == 9 and sized([0] * 10) == NONE
    assert sized([[0] * 3, [0] * 3])[1] == 6 and sized([[0] * 3, [0] * 4]) == NONE
    assert sized([[], *[0] * 6])[1] == 6 and sized([[], *[0] * 7]) == NONE
    # Flat up to its last item, which is nested: the limit of nested ones counts from there.
    assert sized([*[0] * 6, []])[1] == 6 and sized([*[0] * 7, []]) == NONE
    assert sized([*[0] * 7, b"x"])[1] == 8


def test_shared_lists_are_judged_once_each() -> None:
    def work(levels: int) -> int:
        node: Any = [0] * 3
        for _ in range(levels):
            node = [node] * 2
        wide = [node] * 40
        return lines(lambda: PlainReader().sized(wide, 0))

    assert work(3) < work(2) + 40
    for leaf in ([0] * 5, [called("torch.Size", (1,) * 9)], [called("torch.Size", (1, 2))]):
        reader = PlainReader()
        first = reader.sized([leaf, leaf], 0)[0]
        assert first[0] is first[1]


# -- calls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "value"),
    [
        (called("torch.Size", (2, 3)), (2, 3)),
        (called("torch.Size", [2, 3]), (2, 3)),
        (called("torch.Size", ()), ()),
        (called("torch.Size", (1,) * 1024), (1,) * 1024),
        (called("_codecs.encode", "caf\xe9", "latin1"), b"caf\xe9"),
        (called("_codecs.encode", "", "latin1"), b""),
        (called("builtins.bytes"), b""),
    ],
)
def test_calls_that_stand_for_a_value_are_it(node: Call, value: Any) -> None:
    found, is_plain = plain_of_call(node)
    assert (found, is_plain, type(found)) == (value, True, type(value))
    size = 1 + len(value) // 64
    assert sized(node) == (value, size)
    reader = PlainReader()
    assert reader.sized(node, 0)[0] is reader.sized(node, 3)[0]


@pytest.mark.parametrize(
    "node",
    [
        called("torch.Size"),
        called("torch.Size", (1,), (2,)),
        called("torch.Size", 5),
        called("torch.Size", (1, 2.0)),
        called("torch.Size", (True,)),
        called("torch.Size", (1,) * 1025),
        called("torch.size", (1,)),
        called("m.Size", (1,)),
        called("builtins.bytes", 3),
        called("builtins.bytes", ()),
        called("builtins.bytearray"),
        called("_codecs.encode"),
        called("_codecs.encode", "x"),
        called("_codecs.encode", "x", "utf8"),
        called("_codecs.encode", b"x", "latin1"),
        called("_codecs.encode", "\u20ac", "latin1"),
        called("_codecs.encode", "x", "latin1", "strict"),
        called("_codecs.decode", "x", "latin1"),
        called("m.C", (1,)),
        Call("reduce", Global("torch", "Size", 0), [(1,)], 0),
        Call("reduce", called("torch.Size"), ((1,),), 0),
    ],
)
def test_any_other_call_is_an_object(node: Call) -> None:
    assert plain_of_call(node) == (None, False) and sized(node) == NONE


def test_bytes_of_a_long_text_are_made_once_whatever_calls_share_it() -> None:
    reader, text = PlainReader(), "x" * 1000
    first, second = (called("_codecs.encode", text, "latin1") for _ in range(2))
    assert reader.sized(first, 0)[0] is reader.sized(second, 0)[0]
    third = called("_codecs.encode", "y" * 1000, "latin1")
    assert reader.sized(third, 0) == (b"y" * 1000, 16)
    others = [
        called("_codecs.encode", *args) for args in ((text, "utf8"), (text, "latin1", "strict"), (text,))
    ]
    for field in ("states", "items", "appended"):
        others.append(called("_codecs.encode", text, "latin1"))
        setattr(others[-1], field, [1, 2])
    assert [reader.sized(node, 0) for node in others] == [NONE] * 6
    other = Call("reduce", Global("_codecs", "encode", 0), [text, "latin1"], 0)
    assert reader.sized(other, 0) == NONE
    assert PlainReader().read([]) == ((), True)


@pytest.mark.parametrize("field", ["states", "items", "appended"])
def test_a_value_that_was_changed_is_an_object(field: str) -> None:
    node = called("torch.Size", (1,))
    setattr(node, field, [1, 2])
    assert plain_of_call(node) == (None, False)


TYPES = [
    np.float16,
    np.float32,
    np.float64,
    np.bool_,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint16,
    np.uint32,
    np.uint64,
]


def scalar(dtype: str, raw: Any, order: Any = "<", name: str = "numpy._core.multiarray.scalar") -> Call:
    made = called("numpy.dtype", dtype, False, True)
    made.states = [(3, order, None, None, None, -1, -1, 0)]
    return called(name, made, raw)


@pytest.mark.parametrize("name", ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"])
@pytest.mark.parametrize("kind", TYPES)
def test_a_numpy_scalar_is_the_number_that_numpy_makes_of_its_bytes(kind: Any, name: str) -> None:
    value = kind(1) if kind is np.bool_ else kind(100) if kind(0).dtype.kind == "u" else kind(-7)
    code = value.dtype.str[1:]
    swapped = {"<": False, ">": True}
    for order in "<>":
        raw = value.tobytes()[:: -1 if swapped[order] else 1]
        for given in (raw, called("_codecs.encode", raw.decode("latin1"), "latin1")):
            found, is_plain = plain_of_call(scalar(code, given, order, name))
            assert is_plain and found == value.item() and type(found) is type(value.item())
    native, is_plain = plain_of_call(scalar(code, value.tobytes(), "|", name))
    assert is_plain and native == value.item()


@pytest.mark.parametrize(
    "node",
    [
        scalar("f8", b"1234567"),
        scalar("f8", b"123456789"),
        scalar("V8", b"12345678"),
        scalar("O8", b"12345678"),
        scalar("f8", "12345678"),
        scalar("f8", called("_codecs.encode", "1234567\u20ac", "latin1")),
        scalar("f8", called("m.encode", "12345678", "latin1")),
        scalar("f8", called("_codecs.encode", 5, "latin1")),
        scalar("f8", Call("reduce", Global("_codecs", "encode", 0), (), 0)),
        scalar("f8", Call("reduce", Global("_codecs", "encode", 0), 5, 0)),
        called("numpy.core.multiarray.scalar", called("numpy.dtype"), b"12345678"),
        called("numpy.core.multiarray.scalar", called("m.dtype", "f8"), b"12345678"),
        called("numpy.core.multiarray.scalar", "f8", b"12345678"),
        called("numpy.core.multiarray.scalar", called("numpy.dtype", 8), b"12345678"),
        called(
            "numpy.core.multiarray.scalar", Call("reduce", Global("numpy", "dtype", 0), 5, 0), b"12345678"
        ),
        called("numpy.core.multiarray.scalar", called("numpy.dtype", "f8"), b"12345678", 1),
        called("numpy.core.multiarray.scalar", called("numpy.dtype", "f8")),
        called("numpy.scalar", called("numpy.dtype", "f8"), b"12345678"),
    ],
)
def test_bytes_that_are_no_number_of_numpy_are_an_object(node: Call) -> None:
    assert plain_of_call(node) == (None, False)


def test_the_order_of_bytes_is_in_the_first_state_that_has_one() -> None:
    node = scalar("f8", struct.pack(">d", 1.5))
    for states in ([5, (3,), (3, 7), (3, ">")], [(3, ">"), (3, "<")]):
        node.args[0].states = states
        assert plain_of_call(node) == (1.5, True)
    for states in (None, [], [(3, "<")], [(3, "="), (3, ">")], [(3,)] * 16 + [(3, ">")]):
        node.args[0].states = states
        assert plain_of_call(node)[0] != 1.5
    node = scalar("f8", called("_codecs.encode", "x" * 8 + "y" * 113, "latin1"))
    assert plain_of_call(node) == (None, False)


# -- TorchScript ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["restore_type_tag", "build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"]
)
def test_a_typed_list_or_dict_is_what_is_in_the_tag(name: str) -> None:
    numbers, table = [1, 2], DictNode(["a", 1])
    assert without_type_tag(called(f"torch.jit._pickle.{name}", numbers, "List[int]")) is numbers
    assert without_type_tag(called(f"torch.jit._pickle.{name}", table)) is table
    for node in (
        called(f"torch.jit._pickle.{name}"), called(f"torch.jit._pickle.{name}", (1, 2)),
        called(f"torch.jit._pickle.{name}", "x", [1]), called(f"torch.jit.{name}", numbers),
        called(f"torch.jit._pickle.x{name}", numbers),
        Call("reduce", Global("torch.jit._pickle", name, 0), [numbers], 0),
        Call("reduce", called("m.f"), (numbers,), 0),
    ):  # fmt: skip
        assert without_type_tag(node) is node
    tagged = called(f"torch.jit._pickle.{name}", numbers, "List[int]")
    assert sized(tagged) == ((1, 2), 2)
    assert sized([tagged]) == (((1, 2),), 2)
    assert [sized(tagged, depth)[1] for depth in (2, 3, 4)] == [2, -1, -1]
    assert sized(called(f"torch.jit._pickle.{name}", table)) == NONE


def test_tags_within_tags_have_an_end() -> None:
    node: Any = [1]
    for _ in range(2):
        node = called("torch.jit._pickle.restore_type_tag", [node], "t")
    assert sized(node) == NONE  # each is a step, and so is its list


# -- what is said of an object ------------------------------------------------------------------------------


def array(shape: Any, dtype: Any, *more: Any) -> Call:
    made = called("numpy._core.multiarray._reconstruct", Global("numpy", "ndarray", 0), (0,), b"b")
    made.states = [(1, shape, dtype, False, b"", *more)]
    return made


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (called("m.C"), ""),
        (called("m.C", 1, "a", b"b", 2.5), "1, 'a', b'b', 2.5"),
        (called("m.C", None), ""),
        (called("m.C", None, 1), "None, 1"),
        (called("m.C", True, [1], (2,)), "True"),
        (called("m.C", "x" * 130 + "'"), "'" + "x" * 118 + "…"),
        (called("m.C", b"x" * 130 + b"'"), "b'" + "x" * 117 + "…"),
        (called("m.C", *range(20)), ", ".join(map(str, range(16)))),
        (called("m.C", "x" * 500), "'" + "x" * 118 + "…"),
        (Call("reduce", Global("m", "C", 0), [1], 0), ""),
        (array((3, 4), called("numpy.dtype", "f8")), "f8 (3, 4)"),
        (array((), called("numpy.dtype", "f8")), "f8 ()"),
        (array((3, "x", True), called("numpy.dtype", "f8")), "f8 (3)"),
        (array((3,), called("numpy.dtype")), "object (3)"),
        (array((3,), "f8"), "object (3)"),
        (array([3], called("numpy.dtype", "f8")), ""),
        (array((3,) * 40, called("numpy.dtype", "f8")), "f8 (" + ", ".join(["3"] * 16) + ")"),
        (array((3,), called("numpy.dtype", "V" * 300)), "V" * 119 + "…"),
    ],
)
def test_an_object_is_told_by_its_arguments(node: Call, words: str) -> None:
    assert describe_call(node) == words


def test_an_object_without_arguments_is_told_by_what_it_holds() -> None:
    def holding(**fields: Any) -> str:
        node = called("m.C", *fields.pop("args", ()))
        for name, value in fields.items():
            setattr(node, name, value)
        return describe_call(node)

    state = DictNode(["a", 1, "b", 2])
    assert holding(states=[state]) == "2 attributes" and holding(states=[DictNode(["a", 1])]) == "1 attribute"
    assert holding(states=[state, 5, (None, state), state]) == "4 attributes"
    assert holding(states=[DictNode(["a", 1])] * 20) == "16 attributes"
    assert holding(items=["a", 1, "b", 2], states=[state]) == "2 items"
    assert holding(appended=[1], items=["a", 1]) == "2 items" and holding(appended=[1]) == "1 item"
    assert holding(args=(5,), appended=[1]) == "5" and holding(args=(None,), appended=[1]) == "1 item"
    assert holding(states=[]) == ""
    bare = array((3,), called("numpy.dtype", "f8"))
    for states in (None, [], [5], [(1, (3,), "f8")], [5] * 16 + bare.states):  # type: ignore[operator]
        bare_ = called("numpy.core.multiarray._reconstruct")
        bare_.states = states
        assert describe_call(bare_) == ""
    bare.states = [5, (1, (3,)), (1, (3,), called("numpy.dtype", "f8"), False)]
    assert describe_call(bare) == "f8 (3)"


def test_numpys_own_objects_are_known() -> None:
    for name in ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.dtype"):
        assert is_numpy(called(name))
    for name in ("numpy.ndarray", "m.dtype", "numpy.core.multiarray.scalar"):
        assert not is_numpy(called(name))


def test_torchs_size_is_the_oracle_of_its_own() -> None:
    assert plain_of_call(called("torch.Size", (2, 0, 5)))[0] == tuple(torch.Size((2, 0, 5)))
