"""What a header carries, whole: the exact text of each key, what it is read as, what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from ckpttool.formats.carried import PREFIX, carry_order, carry_values, carry_versions, encode_plain, expand
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    Container,
    Entry,
    Finding,
    Kind,
    OddKey,
    Opaque,
    PlainList,
    StorageRef,
    TensorInfo,
    Value,
)
from ckpttool.values.dtypes import BY_NAME


def floats(at: int = 0) -> TensorInfo:
    return TensorInfo(BY_NAME["float32"], (2,), (1,), 0, StorageRef("x", str(at), 100 + 8 * at, 8))


def octets(nbytes: int) -> TensorInfo:
    return TensorInfo(BY_NAME["uint8"], (nbytes,), (1,), 0, StorageRef("x", "raw", 50, nbytes))


ENTRIES = tuple(Entry((), name, floats(at)) for at, name in enumerate("abc"))


def carrying(entries: tuple[Entry, ...] = ENTRIES, /, **keys: Any) -> Checkpoint:
    """A checkpoint whose ``__metadata__`` has these of our keys; what is no text is written as JSON."""
    said = {
        PREFIX + key: value if isinstance(value, str) else json.dumps(value) for key, value in keys.items()
    }
    return Checkpoint("x", "safetensors", "", (), entries, metadata=said, ordered=False)


def places(checkpoint: Checkpoint) -> list[tuple[Any, ...]]:
    return [(*entry.root, entry.name) for entry in checkpoint.entries]


def unusable(key: str, why: str = "it is left out") -> Finding:
    what = f"__metadata__ {PREFIX}{key} cannot be used: {why}"
    return Finding("carried-malformed", "warning", "", what)


# -- texts --------------------------------------------------------------------------------------------------

TEXTS: list[tuple[Any, str]] = [
    (None, "null"), (True, "true"), (0, "0"), (-1.5, "-1.5"), (-0.0, "-0.0"), ("é", '"\\u00e9"'),
    ("\ud800", '"\\ud800"'), (PlainList(()), "[]"), (PlainList((1, PlainList((2,)))), "[1,[2]]"),
    ((), '{"tuple":[]}'), ((1, (2.5,)), '{"tuple":[1,{"tuple":[2.5]}]}'),
    (b"\x00\xff", '{"bytes":"00ff"}'), (b"", '{"bytes":""}'),
    (math.inf, '{"float":"inf"}'), (-math.inf, '{"float":"-inf"}'), (math.nan, '{"float":"nan"}'),
    (2**4096 - 1, str(2**4096 - 1)), (1 - 2**4096, str(1 - 2**4096)),
    (2**4096, '{"int":"0x1' + "0" * 1024 + '"}'), (-(2**4096), '{"int":"-0x1' + "0" * 1024 + '"}'),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), TEXTS)
def test_a_value_has_one_text_and_the_text_that_value(value: Any, text: str) -> None:
    carried = carry_values([Value(("o", OddKey("1.5", True), 3), "v", value)])
    assert carried == f'[[["o",{{"key":"1.5"}},3,"v"],{text}]]'
    (back,) = expand(carrying(values=carried)).values
    assert (back.root, back.name) == (("o", OddKey("1.5", True), 3), "v")
    assert type(back.value) is type(value) and repr(back.value) == repr(value)
    assert encode_plain(PlainList((value,))) == [json.loads(text)] or value != value


def test_module_versions_have_their_natural_shape() -> None:
    versions: Any = {("model",): {"": 1, "bn": None, "fc": 2}, (): {"x": None}}
    extras: Any = {
        ("model",): {
            "fc": (
                (("spectral_norm", "weight.version"), 1),
                (("spectral_norm", "other"), (1, 2)),
                (("flag",), True),
            ),
            "bn": ((("sizes",), PlainList((3, 4))),),
        }
    }
    text = carry_versions(versions, extras)
    assert text == (
        '[[["model"],{"":{"version":1},"bn":{"sizes":[3,4]},"fc":{"version":2,"spectral_norm":'
        '{"weight.version":1,"other":{"tuple":[1,2]}},"flag":true}}],[[],{"x":{}}]]'
    )
    back = expand(carrying(module_versions=text))
    assert (back.module_versions, back.module_extras) == (versions, extras)
    assert back.findings == ()
    assert carry_versions({}, {}) == "[]"
    assert carry_versions({(): {"a": 1}}, {("elsewhere",): {"a": ((("k",), 1),)}}) == (
        '[[[],{"a":{"version":1}}]]'
    )


@pytest.mark.parametrize(
    ("facts", "extras"),
    [
        ({"a": {"tuple": [1]}}, ((("a",), (1,)),)),
        ({"a": {"bytes": "00"}}, ((("a",), b"\0"),)),
        ({"a": {"float": "inf"}}, ((("a",), math.inf),)),
        ({"a": {"int": "-0x10"}}, ((("a",), -16),)),
        ({"a": {"other": 1}}, ((("a", "other"), 1),)),
        ({"a": {"tuple": 1, "b": 2}}, ((("a", "tuple"), 1), (("a", "b"), 2))),
        ({"a": {"b": {"tuple": []}}, "c": [1]}, ((("a", "b"), ()), (("c",), PlainList((1,))))),
        ({"a": {}}, ()),
    ],
)
def test_a_fact_of_a_module_is_a_value_or_one_deep(facts: dict[str, Any], extras: Any) -> None:
    back = expand(carrying(module_versions=[[["r"], {"m": {"version": 3, **facts}}]]))
    assert back.module_versions == {("r",): {"m": 3}} and back.findings == ()
    assert back.module_extras == {("r",): {"m": extras}}


def test_the_order_is_that_of_sorted_names_or_positions_in_it() -> None:
    assert carry_order([]) == carry_order(["a"]) == carry_order(["a", "b", "b.c"]) == "[]"
    assert carry_order(["b", "c", "a"]) == "[1,2,0]"
    assert carry_order(["b", "a"]) == "[1,0]"


# -- what comes back ----------------------------------------------------------------------------------------


def test_what_carries_nothing_is_the_same_object() -> None:
    for metadata in ({}, {"format": "pt"}, {"format": "a"}, {"a": "b"}, {"b": "x"}, {"x": "y"}):
        source = Checkpoint("x", "safetensors", "", (), ENTRIES, metadata=metadata)
        assert expand(source) is source


def test_a_tie_is_what_names_a_tensor_and_is_none() -> None:
    """Our own keys, ``format`` and the names of tensors are no aliases, nor is what names another root's."""
    metadata = {"z": "b", "format": "a", PREFIX + "other": "a", "c": "a", "d": "none", "e": "deep", "y": "a"}
    rooted = Entry(("r",), "a", floats(7)), Entry(("r",), "deep", floats(8)), Entry((), 5, floats(9))
    source = Checkpoint("x", "safetensors", "", (), (*ENTRIES, *rooted), metadata=metadata)
    back = expand(source)
    assert back.entries == (
        *source.entries, Entry((), "z", floats(1)), Entry((), "y", floats(0))
    )  # fmt: skip
    assert back.metadata == {"format": "a", "c": "a", "d": "none", "e": "deep"}
    assert back.put_back == {((), "z"), ((), "y")} and back.stored is source
    assert back.findings == () and back.ordered == source.ordered


@pytest.mark.parametrize(
    "paths", [{"b": ["a"]}, {"a": ["x"], "c": ["x"]}, {"a": ["r", "q"]}, {"a": [5]}, {"d": ["c"]}]
)
def test_two_entries_on_one_path_put_none_of_them_anywhere(paths: dict[str, Any]) -> None:
    """Though their bytes, their gradients and what they are said to be differ."""
    others = Entry(("r",), "q", floats(7)), Entry((), 5, floats(9))
    source = carrying((*ENTRIES, *others), paths=paths, parameters=["a", "b"], lists=[[["l"], "list"]])
    source = source._replace(metadata={**source.metadata, "d": "a"})
    back = expand(source)
    assert back == source._replace(
        metadata={}, stored=source, containers=(Container(("l",), "list", 0),),
        findings=(unusable("paths", "two tensors would get the same path"),),
    )  # fmt: skip


def test_a_tie_alone_is_put_back_too() -> None:
    source = Checkpoint("x", "safetensors", "", (), ENTRIES, metadata={"z": "b", "format": "pt"})
    assert expand(source) == source._replace(
        entries=(*ENTRIES, Entry((), "z", floats(1))), metadata={"format": "pt"},
        stored=source, put_back=frozenset({((), "z")}),
    )  # fmt: skip
    bare = source._replace(metadata={PREFIX + "unknown": "?", "format": "pt"})
    assert expand(bare) == bare._replace(metadata={"format": "pt"}, stored=bare)


def test_all_keys_together_put_each_fact_at_its_place() -> None:
    deep, number = Entry(("kept",), "a", floats(5)), Entry((), 5, floats(6))
    raw = Entry((), "raw", octets(6), False)
    source = carrying(
        (*ENTRIES, raw, deep, number),
        root=["model", 0],
        paths={"a": ["x", "y"], "also": ["t"], "nothing": ["q"]},
        parameters=["b", "nothing"],
        as_bytes={"raw": {"dtype": "bfloat16", "shape": [3, 1]}},
        values=[[["epoch"], 3], [["opt", {"key": "None"}], [1.5]]],
        objects=[
            [["args", 1], "mod.Args", "an object"],
            [["one"], "t", ""],
            [["p", "q", "r", "s"], "u", "v"],
        ],
        lists=[[["opt", "groups"], "list"], [[], "OrderedDict"]],
        module_versions=[[["model"], {"": {"version": 1}}]],
    )
    before = (Value((), "old", 1),), (Opaque((), "old", "t"),), (Container((), "dict", 2),)
    early = Finding("early", "info", "", "before")
    source = source._replace(
        values=before[0], opaque=before[1], containers=before[2], findings=(early,),
        metadata={**source.metadata, "format": "pt", "also": "a"},
        module_versions={("o",): {"m": 9}}, module_extras={("o",): {"m": ((("k",), 1),)}},
    )  # fmt: skip
    parameter = Classification(Kind.PARAMETER, Basis.PICKLED_PARAMETER)
    back = expand(source)
    assert back == source._replace(
        entries=(
            Entry(("model", 0, "x"), "y", floats(0)),
            Entry(("model", 0), "b", floats(1), True, parameter),
            Entry(("model", 0), "c", floats(2)),
            Entry(("model", 0), "raw", TensorInfo(BY_NAME["bfloat16"], (3, 1), (1, 1), 0, octets(6).storage),
                  False),
            deep,
            number,
            Entry(("model", 0), "t", floats(0)),
        ),
        values=(*before[0], Value((), "epoch", 3), Value(("opt",), OddKey("None", True), PlainList((1.5,)))),
        opaque=(*before[1], Opaque(("args",), 1, "mod.Args", "an object"), Opaque((), "one", "t", ""),
                Opaque(("p", "q", "r"), "s", "u", "v")),
        containers=(*before[2], Container(("opt", "groups"), "list", 0), Container((), "OrderedDict", 0)),
        metadata={"format": "pt"},
        module_versions={("o",): {"m": 9}, ("model",): {"": 1}},
        module_extras={("o",): {"m": ((("k",), 1),)}},
        findings=(early,), stored=source, put_back=frozenset({(("model", 0), "t")}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("order", "names", "fits"),
    [
        ([], ["a", "b", "c", "d"], True), ([3, 0, 2, 1], ["d", "a", "c", "b"], True),
        ([0, 1, 2, 3], ["a", "b", "c", "d"], True), ([0, 1, 2], None, False), ([0, 1, 2, 2], None, False),
        ([1, 2, 3, 4], None, False), ([0, 1, 2, 3, 4], None, False), ([-1, 0, 1, 2], None, False),
    ],
)  # fmt: skip
def test_the_order_of_the_source_is_taken_if_it_fits(
    order: list[int], names: list[str] | None, fits: bool
) -> None:
    source = carrying((ENTRIES[2], ENTRIES[0], ENTRIES[1]), order=order)
    source = source._replace(metadata={**source.metadata, "d": "b"})
    back = expand(source)
    assert [entry.name for entry in back.entries] == (names or ["c", "a", "b", "d"])
    assert {entry.name: entry.value for entry in back.entries}["d"] == floats(1)
    assert back.ordered is fits
    assert back.findings == (() if fits else (unusable("order", "tensors were added or removed since"),))
    assert expand(source._replace(ordered=True)).ordered is True


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes", "fits"),
    [
        ("float32", [2, 1], 8, True), ("float32", [2, 1], 7, False), ("float32", [2, 1], 9, False),
        ("float32", [], 4, True), ("uint8", [3], 3, True), ("bool", [5], 5, True),
        ("complex128", [1], 16, True), ("float64", [0, 3], 0, True), ("float64", [0, 3], 1, False),
        ("quint4x2", [3], 2, True), ("quint4x2", [3], 1, False), ("quint4x2", [4], 2, True),
        ("quint4x2", [5], 2, False),
    ],
)  # fmt: skip
def test_bytes_are_seen_as_what_fits_them(dtype: str, shape: list[int], nbytes: int, fits: bool) -> None:
    entry = Entry((), "raw", octets(nbytes))
    back = expand(carrying((entry,), as_bytes={"raw": {"dtype": dtype, "shape": shape}}))
    (value,) = [item.value for item in back.entries]
    assert isinstance(value, TensorInfo) and value.storage == octets(nbytes).storage
    assert (value.dtype.name, value.shape) == ((dtype, tuple(shape)) if fits else ("uint8", (nbytes,)))
    assert value.storage_offset == 0 and back.findings == ()
    strides = {(2, 1): (1, 1), (): (), (0, 3): (3, 1)}
    assert value.stride == (strides.get(tuple(shape), (1,)) if fits else (1,))


def test_only_bytes_are_seen_as_something_else() -> None:
    claim = {name: {"dtype": "int32", "shape": [2]} for name in "abn"}
    missing = Entry((), "n", None)
    back = expand(carrying((*ENTRIES, missing), as_bytes=claim))
    assert back.entries == (*ENTRIES, missing) and back.findings == ()


# -- what is refused ----------------------------------------------------------------------------------------

LONG = ["k"] * 64
CLAIM = {"dtype": "int8", "shape": [2]}


def nested(levels: int, kind: str = "list") -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind == "list" else {"tuple": [value]}
    return value


REFUSED: list[tuple[str, Any]] = [
    ("root", "r"), ("root", {"a": 1}), ("root", [1.5]), ("root", [True]), ("root", [None]), ("root", [["k"]]),
    ("root", [{"key": 1}]), ("root", [{"key": "1", "more": 1}]), ("root", [{"kex": "1"}]), ("root", [{}]),
    ("root", [*LONG, "k"]),
    ("paths", []), ("paths", {"a": []}), ("paths", {"a": "x"}), ("paths", {"a": ["x"], "b": []}),
    ("parameters", "b"), ("parameters", [1]), ("parameters", ["b", None]), ("parameters", {"b": 1}),
    ("as_bytes", []), ("as_bytes", {"a": []}), ("as_bytes", {"a": {"dtype": "int8"}}),
    ("as_bytes", {"a": {"shape": [2]}}), ("as_bytes", {"a": {**CLAIM, "dtype": "int9"}}),
    ("as_bytes", {"a": {**CLAIM, "dtype": ["int8"]}}), ("as_bytes", {"a": {**CLAIM, "shape": 2}}),
    ("as_bytes", {"a": {**CLAIM, "shape": [-1]}}), ("as_bytes", {"a": {**CLAIM, "shape": [2**63]}}),
    ("as_bytes", {"a": {**CLAIM, "shape": [True]}}), ("as_bytes", {"a": CLAIM, "b": {}}),
    ("values", {}), ("values", [[[], 1]]), ("values", [[["a"]]]), ("values", [[["a"], 1, 2]]),
    ("values", ["ab"]),
    ("values", [[["a"], {}]]), ("values", [[["a"], {"tuple": [], "int": "0x1"}]]),
    ("values", [[["a"], {"tuple": 1}]]), ("values", [[["a"], {"bytes": 1}]]),
    ("values", [[["a"], {"bytes": "0"}]]),
    ("values", [[["a"], {"bytes": None}]]), ("values", [[["a"], {"float": 1.5}]]),
    ("values", [[["a"], {"float": "1.5"}]]), ("values", [[["a"], {"float": "NaN"}]]),
    ("values", [[["a"], {"int": 5}]]), ("values", [[["a"], {"int": "0xg"}]]),
    ("values", [[["a"], {"set": "0x1"}]]),
    ("values", [[["a"], {"set": []}]]), ("values", [[["a"], nested(66)]]), ("values", [[["a"], nested(65)]]),
    ("values", [[["a"], nested(65, "tuple")]]), ("values", [[["a"], 1], [[], 2]]),
    ("objects", {}), ("objects", [[["a"], "t"]]), ("objects", [[["a"], "t", "s", "x"]]),
    ("objects", [[[], "t", "s"]]),
    ("objects", [[["a"], 1, "s"]]), ("objects", [[["a"], "t", None]]), ("objects", ["abc"]),
    ("lists", {}), ("lists", [[["a"], 1]]), ("lists", [[["a"]]]), ("lists", [["a", "list"]]),
    ("module_versions", {}), ("module_versions", [[["r"], []]]), ("module_versions", [[["r"], {"m": 1}]]),
    ("module_versions", [[["r"], {"m": {"version": "1"}}]]),
    ("module_versions", [[["r"], {"m": {"version": 1.0}}]]),
    ("module_versions", [[["r"], {"m": {"version": True}}]]), ("module_versions", [["r", {"m": {}}]]),
    ("module_versions", [[["r"], {"m": {"a": {"float": "1"}}}]]),
    ("module_versions", [[["r"], {"m": {"a": nested(65)}}]]),
    ("module_versions", [[["r"], {"m": {"a": {"b": nested(65)}}}]]),
    ("order", {}), ("order", "b"), ("order", [0, 1, "2"]), ("order", [0, True, 2]), ("order", [0.0, 1, 2]),
]  # fmt: skip


@pytest.mark.parametrize(("key", "document"), REFUSED)
def test_a_key_that_cannot_be_understood_is_left_out_and_named(key: str, document: Any) -> None:
    """And what else is carried comes back all the same."""
    other = "lists" if key != "lists" else "values"
    good = {"lists": [[["l"], "list"]], "values": [[["v"], 1]]}[other]
    source = carrying(**{other: good, key: json.dumps(document)})
    back = expand(source)
    assert back.findings == (unusable(key),)
    rest = (
        {"containers": (Container(("l",), "list", 0),)}
        if other == "lists"
        else {"values": (Value((), "v", 1),)}
    )
    assert back == source._replace(metadata={}, findings=back.findings, stored=source, **rest)


TAKEN: list[tuple[str, Any]] = [
    ("root", LONG), ("paths", {"a": LONG}), ("values", [[["a"], nested(64)]]),
    ("values", [[["a"], nested(64, "tuple")]]), ("as_bytes", {"a": {**CLAIM, "shape": [2**63 - 1, 0]}}),
    ("as_bytes", {}), ("module_versions", [[["r"], {"m": {"version": None}}]]), ("objects", []),
    ("parameters", []), ("lists", []), ("values", []), ("paths", {}), ("module_versions", []),
    ("module_versions", [[["r"], {"m": {"a": nested(64)}}]]),
    ("module_versions", [[["r"], {"m": {"a": {"b": nested(64, "tuple")}}}]]),
    ("values", [[["a"], {"bytes": ""}], [["b"], {"int": "0"}]]),
]  # fmt: skip


@pytest.mark.parametrize(("key", "document"), TAKEN)
def test_what_is_at_the_limit_is_understood(key: str, document: Any) -> None:
    back = expand(carrying(**{key: document}))
    assert back.findings == () and len(back.entries) == 3
    if key == "values":
        assert carry_values(back.values) == json.dumps(document, separators=(",", ":")).replace(
            '{"int":"0"}', "0"
        )
    if key == "root":
        assert places(back) == [(*LONG, name) for name in "abc"]
    if key == "paths":
        assert places(back) == [tuple(LONG) if document and name == "a" else (name,) for name in "abc"]
