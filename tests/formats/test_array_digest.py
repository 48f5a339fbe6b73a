"""Digests of numpy arrays in pickles: equal for what is pickled alike, and for nothing else."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.formats.pickled.array_digest import ContentDigests
from ckpttool.pickles.nodes import BigInt, Call, DictNode, Global, Node, PersistentId, SetNode
from tests.support.parsed import parse
from tests.support.walked import called


def changed(call: Call, **parts: Any) -> Call:
    for part, held in parts.items():
        setattr(call, part, held)
    return call


def digest(*args: Node, **parts: Any) -> str:
    """That of a call with these arguments, states, items or appended."""
    return ContentDigests().of(changed(called("m.f", *args), **parts))


def nest(depth: int) -> Node:
    """A list ``depth`` deep."""
    return [nest(depth - 1)] if depth > 1 else []


# -- what differs -------------------------------------------------------------------------------------------

LONG = "x" * 65

DIFFERENT: list[Node] = [
    None, True, False, 0, 1, -1, 10**80, 10**80 + 1, 0.0, -0.0, 1.0, 1.5, float("inf"), float("nan"),
    "", "0", "1", "None", "a", "b", b"", b"0", b"a", "x" * 64, b"x" * 64, LONG, LONG[:-1] + "y", LONG + "x",
    LONG.encode(), LONG[:-1].encode() + b"y", "\udc80" * 65, "\udc80" * 66, "a\nb", "a", ["a", "b"],
    "['a', 'b']", ["ab"], ["b", "a"], ["a\nstr 'b'"], [], (), ("a", "b"), [["a"], "b"], [["a", "b"]],
    ["a", ["b"]], [[], []], [[[]]], DictNode(), DictNode(["a", "b"]), DictNode(["a", "b", "c", "d"]),
    DictNode(["c", "d", "a", "b"]), SetNode([], False), SetNode(["a", "b"], False),
    SetNode(["b", "a"], False),
    Global("m", "f", 0), Global("m", "g", 0), Global("n", "f", 0), Global("m.f", "", 0), Global("", "m f", 0),
    Global("numpy.core.multiarray", "f", 0), Global("numpy.core.numeric", "f", 0),
    Global("numpy.core", "f", 0),
    called("m.f"), called("m.g"), called("m.f", "a"), called("m.f", "a", "b"), called("m.f", ("a", "b")),
    called("m.f", ["a", "b"]), called("m.f", called("m.f")), Call("reduce", "m.f", (), 0),
    *[changed(called("m.f"), **{part: ["a", "b"]}) for part in ("states", "appended", "items")],
]  # fmt: skip


def test_what_differs_in_any_way_has_another_digest() -> None:
    """Whether it is the call, an argument, deep in one, or a state."""
    nodes = [node for at, node in enumerate(DIFFERENT) if node != "a" or at == DIFFERENT.index("a")]
    for said in ([digest(node) for node in nodes], [digest([[node]]) for node in nodes],
                 [digest(states=[node]) for node in nodes]):  # fmt: skip
        assert {len(text) for text in said} == {64}
        assert [node for node, text in zip(nodes, said, strict=True) if said.count(text) > 1] == []
    calls = [ContentDigests().of(node) for node in DIFFERENT if isinstance(node, Call)]
    assert len(set(calls)) == len(calls) == 11 and "" not in calls


def test_what_is_alike_has_the_same_wherever_it_was_met_and_whatever_was_before() -> None:
    digests = ContentDigests()
    nodes = [called("m.f", node) for node in DIFFERENT]
    said = [digests.of(node) for node in nodes]
    assert said == [digests.of(node) for node in nodes] == [ContentDigests().of(node) for node in nodes]
    assert "" not in said


def test_a_call_is_what_it_calls_and_not_by_which_opcode_or_where() -> None:
    one, other = (Call(op, Global("m", "f", at), ("a",), at) for op, at in (("reduce", 0), ("newobj", 7)))
    assert ContentDigests().of(one) == ContentDigests().of(other)


@pytest.mark.parametrize("name", ["multiarray", "numeric"])
def test_a_module_that_numpy_renamed_is_the_same(name: str) -> None:
    old, new = (Global(f"numpy.{core}.{name}", "_reconstruct", 0) for core in ("core", "_core"))
    assert digest(old) == digest(new) != digest(Global(f"numpy._core.{name}s", "_reconstruct", 0))
    assert digest(Global("numpy._core.umath", "f", 0)) != digest(Global("numpy.core.umath", "f", 0))


@pytest.mark.parametrize(
    "node", [PersistentId("0"), BigInt(5000), [PersistentId("0")], DictNode(["a", BigInt(5000)]), object()]
)
def test_what_is_not_known_has_none(node: Node) -> None:
    """As a tensor in an array of objects, whose bytes are not in the pickle; and nothing that holds it."""
    assert digest(node) == digest("a", node, "b") == digest(states=[node]) == ""


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@settings(max_examples=60)
@given(values, values)
def test_two_values_have_one_digest_if_they_are_written_alike(a: Any, b: Any) -> None:
    nodes = [parse(pickle.dumps(value, 4)).value for value in (a, b)]  # from 3 on there are bytes
    assert digest(nodes[0]) == digest(parse(pickle.dumps(a, 3)).value)
    assert (digest(nodes[0]) == digest(nodes[1])) == (repr(a) == repr(b))


def arrays() -> Iterator[Any]:
    for dtype, shape in itertools.product(
        ("f4", "i8", "?", "U3", "O", "M8[D]"), ((0,), (2,), (2, 3), (3, 2))
    ):
        yield np.zeros(shape, dtype)
        if 0 not in shape:
            last = np.zeros(shape, dtype)
            last[(-1,) * len(shape)] = 1
            yield last


def test_each_array_of_numpy_has_its_own() -> None:
    made = list(arrays())
    said = [ContentDigests().of(parse(pickle.dumps(array, 4)).value) for array in made]
    assert len(set(said)) == len(made) and "" not in said
    again = [ContentDigests().of(parse(pickle.dumps(array.copy(), 4)).value) for array in made]
    assert said == again


@pytest.mark.parametrize("protocol", [2, 3])
def test_an_array_is_the_same_by_whichever_protocol(protocol: int) -> None:
    """The second has bytes as a call that makes them of text."""
    for array in [*arrays(), np.arange(200.0), np.array([b"a", b"", b"x" * 65, "a"], object)]:
        one, other = (parse(pickle.dumps(array, number)).value for number in (protocol, 4))
        assert ContentDigests().of(one) == ContentDigests().of(other) != ""


def test_bytes_that_a_call_makes_are_made_once() -> None:
    digests = ContentDigests()
    text = "x" * 65
    one, other = (called("_codecs.encode", text, "latin1") for _ in range(2))
    assert digests.of(called("m.f", one, other)) == digest(b"x" * 65, b"x" * 65)
    assert digests.calls[id(text)].startswith("bytes ")
    digests.calls[id(text)] = "bytes b'y'"
    assert digests.of(called("m.f", one, text)) == digest(b"y", text)
    assert digest(changed(one, states=[1])) != digest(b"x" * 65)
    for length in (0, 1, 63, 64, 65):
        data = b"x" * length
        assert digest(called("_codecs.encode", data.decode(), "latin1")) == digest(data)


# -- how much is looked at ----------------------------------------------------------------------------------


def test_so_deep_and_no_deeper() -> None:
    deepest = 39  # the call is at 0, its arguments at 1, the list at 2
    assert digest(nest(deepest)) != "" == digest(nest(deepest + 1))
    assert digest([nest(deepest - 1), "a"]) != digest([nest(deepest - 1), "b"])


def steps(node: object) -> int:
    """The fewest steps that are enough for an array that holds this."""
    digests = ContentDigests()
    assert digests.of(called("m.f", node))
    return (
        digests.steps - 6
    )  # the call, what it calls, what holds the arguments, and what it was given besides


def test_each_node_is_a_step_and_so_is_every_64_characters() -> None:
    assert [steps(node) for node in ("a", 1, None, b"a", Global("m", "f", 0), [])] == [1] * 6
    assert steps([1, 2, 3]) == steps((1, 2, 3)) == steps(SetNode([1, 2, 3], False)) == 4
    assert steps(DictNode([1, 2, 3, 4])) == 5
    assert steps([[1], [2]]) == 5
    assert steps(called("m.f")) == 6
    # "int " and the digits; a text is shown by its digest, of 64 digits and two or three other characters.
    assert [steps(10 ** (digits - 1)) for digits in (59, 60, 123, 124)] == [1, 2, 2, 3]
    assert steps("x" * 10_000) == steps("x" * 65) == 2


def test_there_is_an_end_for_all_arrays_of_a_file_together() -> None:
    digests = ContentDigests()
    assert digests.steps == 0
    digests.steps = 1_000_000 - 14
    one = called("m.f", 1)
    assert [bool(digests.of(one)) for _ in range(4)] == [True, True, False, False]
    for count, enough in ((7, True), (8, False)):
        digests.steps = 1_000_000 - 14
        assert bool(digests.of(called("m.f", [0] * count))) is enough


def test_long_text_is_digested_once_and_short_text_is_not_kept() -> None:
    digests = ContentDigests()
    text, data = "x" * 65, b"x" * 65
    first = digests.of(called("m.f", text, data, "x" * 64, text))
    assert len(digests.long) == 2
    assert digests.long[id(text)] == digests.long[id(data)]
    assert digests.of(called("m.f", text, data, "x" * 64, text)) == first
    assert len(digests.long) == 2
    digests.long[id(text)] = "as it was"
    assert digests.of(called("m.f", text, data, "x" * 64, text)) != first
