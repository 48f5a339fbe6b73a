"""The JSON contract: every field, its type, and that every document is JSON whatever the file holds."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.render.json import dump, inspect_document, plain_value
from ckpttool.values.checkpoint import (
    CompositeTensor,
    Entry,
    Kind,
    OddKey,
    Opaque,
    Part,
    Presence,
    StorageRef,
    TensorInfo,
    Value,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import LimitExceeded
from ckpttool.values.inspection import Row
from tests.support.inspections import PATH, inspection, missing, row, tensor, training

DOCS = Path(__file__).parents[2] / "docs" / "json.md"

MAYBE_STR = (str, type(None))
MAYBE_INT = (int, type(None))
MAYBE_LIST = (list, type(None))

TOP = {
    "schema": str,
    "path": str,
    "format": str,
    "layout": str,
    "title": str,
    "file_nbytes": int,
    "files": list,
    "weights_root": MAYBE_LIST,
    "ordered": bool,
    "summary": dict,
    "weights": dict,
    "card": dict,
    "groups": list,
    "entries": list,
    "values": list,
    "attributes": list,
    "opaque": list,
    "metadata": dict,
    "weights_only": dict,
    "plain_load": dict,
    "globals": list,
    "findings": list,
    "next": list,
}
ENTRY = {
    "root": list,
    "name": (str, int),
    "kind": str,
    "presence": str,
    "basis": str,
    "exact": bool,
    "note": str,
    "dtype": MAYBE_STR,
    "shape": MAYBE_LIST,
    "stride": MAYBE_LIST,
    "storage_offset": MAYBE_INT,
    "numel": MAYBE_INT,
    "nbytes": MAYBE_INT,
    "location": MAYBE_STR,
    "file": MAYBE_STR,
    "byte_offset": MAYBE_INT,
    "requires_grad": (bool, type(None)),
    "tied_to": (dict, type(None)),
}
COMPOSITE = {"layout": str, "type": str, "details": dict, "parts": list}
SUMMARY = {
    "tensors": int,
    "parameters": int,
    "persistent_buffers": int,
    "non_persistent_buffers": int,
    "extra_state": int,
    "optimizer_state": int,
    "unknown": int,
    "missing": int,
    "parameter_numel": int,
    "buffer_numel": int,
    "tensor_nbytes": int,
    "storage_nbytes": int,
    "dtypes": dict,
    "locations": dict,
    "bases": list,
}
ITEMS = {
    "files": {"path": str, "nbytes": int},
    "groups": {
        "root": list,
        "role": str,
        "tensors": int,
        "nbytes": int,
        "parameters": int,
        "buffers": int,
        "unknown": int,
        "parameter_numel": int,
        "note": str,
        "averaged": str,
    },
    "values": {"root": list, "name": (str, int), "value": object},
    "opaque": {"root": list, "name": (str, int), "type": str, "summary": str},
    "globals": {
        "module": str,
        "name": str,
        "called": bool,
        "calls": int,
        "verdict": str,
        "reason": str,
        "places": list,
    },
    "findings": {"code": str, "severity": str, "name": str, "message": str},
    "next": {"command": str, "why": str},
}


def written(value: Any) -> dict[str, Any]:
    """The document as a reader of the text has it; strict: no NaN, no duplicate names, ASCII."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    text = "".join(dump(inspect_document(value)))
    assert text.isascii() and text.endswith("}\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)


def check(item: dict[str, Any], fields: dict[str, Any]) -> None:
    assert list(item) == list(fields)
    for name, kind in fields.items():
        assert isinstance(item[name], kind), (name, item[name])
        assert not (isinstance(item[name], bool) and kind in (int, MAYBE_INT)), name


def test_every_field_is_there_and_has_its_type() -> None:
    document = written(training())
    check(document, TOP)
    check(document["summary"], SUMMARY)
    check(document["weights_only"], {"loads": (bool, type(None)), "why": str})
    for name, fields in ITEMS.items():
        assert document[name], f"the sample has no {name}"
        for item in document[name]:
            check(item, fields)
    for item in document["entries"]:
        check(
            item,
            {
                **dict(list(ENTRY.items())[:-2]),
                **(COMPOSITE if "parts" in item else {}),
                **dict(list(ENTRY.items())[-2:]),
            },
        )


def test_every_field_is_documented() -> None:
    document = written(training())
    names = {*document, *document["summary"], *ENTRY, *COMPOSITE}
    names |= {name for fields in ITEMS.values() for name in fields}
    text = DOCS.read_text("utf-8")
    assert [name for name in sorted(names) if f"`{name}`" not in text and f"`{name}[]`" not in text] == []


def test_values_of_the_contract() -> None:
    document = written(training())
    assert document["schema"] == "ckpttool/inspect/1"
    assert document["path"] == PATH
    assert document["weights_root"] == ["model", "state_dict"]
    assert document["file_nbytes"] == 4_863_221
    first = document["entries"][0]
    assert first == {
        "root": ["model", "state_dict"],
        "name": "embed.weight",
        "kind": "parameter",
        "presence": "present",
        "basis": "optimizer",
        "exact": False,
        "note": "",
        "dtype": "float32",
        "shape": [512, 64],
        "stride": [64, 1],
        "storage_offset": 0,
        "numel": 32_768,
        "nbytes": 131_072,
        "location": "cpu",
        "file": PATH,
        "byte_offset": 1024,
        "requires_grad": None,
        "tied_to": None,
    }
    by_name = {item["name"]: item for item in document["entries"]}
    assert by_name["head.weight"]["tied_to"] == {"root": ["model", "state_dict"], "name": "embed.weight"}
    assert by_name["blocks.0.attn.mask"]["presence"] == "missing"
    assert by_name["blocks.0.attn.mask"]["shape"] is None
    assert by_name["exp_avg"]["root"] == ["optimizer", "state", 24]
    assert {"root": ["scheduler"], "name": "eta_min", "value": "NaN"} in document["values"]
    assert by_name["packed"]["parts"][1] == {
        "name": "scales",
        "dtype": "float64",
        "shape": [8],
        "stride": [1],
        "storage_offset": 0,
        "numel": 8,
        "nbytes": 64,
        "location": "cpu",
        "file": PATH,
        "byte_offset": 1024,
    }
    assert by_name["packed"]["details"] == {"scale": 0.5, "zero_point": 0}


def test_byte_offset_is_that_of_the_first_element() -> None:
    rows = [
        row("view", tensor((2, 2), "float64", at=1000, offset=3)),
        row("packed", tensor((2, 2), at=1000, compressed=9)),
        row("meta", TensorInfo(BY_NAME["float32"], (2,), (1,), 0, None)),
    ]
    entries = written(inspection(rows))["entries"]
    assert [item["byte_offset"] for item in entries] == [1024, None, None]
    assert [item["file"] for item in entries] == [PATH, PATH, None]


def test_lazy_flags_are_said_where_they_are_set() -> None:
    flagged = tensor((2,), "complex64")._replace(conj=True)
    entries = written(inspection([row("z", flagged), row("w", tensor((2,), "complex64"))]))["entries"]
    assert (entries[0]["conj"], entries[0]["neg"]) == (True, False)
    assert "conj" not in entries[1]


def test_parts_of_parts_have_paths() -> None:
    value: CompositeTensor | TensorInfo = tensor((3,))
    for _ in range(100):
        value = CompositeTensor("subclass", "m.C", None, None, (Part("p", value),))
    entry = written(inspection([row("deep", value)]))["entries"][0]
    assert entry["parts"][0]["name"] == ".".join(["p"] * 100)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        ((1, (float("nan"), ()), "x"), [1, ["NaN", []], "x"]),
        (b"\x00a", "b'\\x00a'"),
        (True, True),
        (None, None),
        (2**70, 2**70),
        pytest.param(1 << 99_999, "~2^99999 (100000 bits)", id="huge"),
        ("\ud800\x1b\u202e\x7f", "\ud800\x1b\u202e\x7f"),
    ],
)
def test_plain_values(value: Any, said: object) -> None:
    document = written(inspection([], values=(Value((), "v", value),)))
    assert document["values"] == [{"root": [], "name": "v", "value": said}]


def test_a_list_that_stands_for_more_than_memory_holds_is_refused() -> None:
    value: Any = ("ha",)
    for _ in range(100):
        value = (value, value)
    with pytest.raises(LimitExceeded, match="items in one list"):
        plain_value(value)


def test_keys_that_are_no_strings() -> None:
    rows = [
        Entry((0, OddKey("None", True)), 5, tensor()),
        Entry((), OddKey("1.5", True), tensor()),
        Entry((1 << 20_000,), "w", tensor()),
    ]
    entries = written(inspection([row("x")._replace(entry=entry) for entry in rows]))["entries"]
    assert [(item["root"], item["name"]) for item in entries[:2]] == [([0, "None"], 5), ([], "1.5")]
    assert isinstance(entries[2]["root"][0], str)


def test_shapes_beyond_the_digits_that_python_converts() -> None:
    huge = 1 << 20_000
    info = TensorInfo(BY_NAME["float32"], (0, huge), (huge, 1), 0, StorageRef(PATH, "0", 0, 0))
    claimed = CompositeTensor("sparse_coo", "f", BY_NAME["int8"], (huge, 2), ())
    entries = written(inspection([row("a", info), row("b", claimed)]))["entries"]
    assert entries[0]["shape"] == [0, "~2^20000 (20001 bits)"]
    assert entries[0]["numel"] == 0
    assert entries[1]["numel"] == "~2^20001 (20002 bits)"


@given(st.lists(st.text(), max_size=5), st.text())
def test_any_text_comes_back(root: list[str], name: str) -> None:
    value = inspection(
        [row(name, tensor(location=name), root=tuple(root), note=name)],
        absent=[missing(name)],
        metadata={name: name},
        opaque=(Opaque(tuple(root), name, name),),
    )
    document = written(value)
    assert document["entries"][0]["root"] == root
    assert document["entries"][0]["name"] == document["entries"][0]["location"] == name
    assert document["metadata"] == {name: name}


def test_entries_of_one_sort_say_what_each_would_say_alone() -> None:
    hostile = ("w", "100 %s", '"name": "\0"', "\0", "é\n%", 7)
    said = [row("", note=note).classification for note in hostile[:2]]
    rows = []
    drawn = product(
        [(), ("storage_offset",)],
        said,
        [None, True],
        ["float32", "int32"],
        [(4, 3), (3, 4)],
        [(3, 1), (1, 4)],
        ["cpu", '%"byte_offset": "\0"', None],
        [False, True],
        [False, True],
        [None, 64],
    )
    for at, (root, what, flag, dtype, shape, stride, location, conj, neg, compressed) in enumerate(drawn):
        info = tensor(shape, dtype, at=at, offset=at % 5, location=location, compressed=compressed)
        if at % 7 == 0:
            info = info._replace(storage=None)
        value = info._replace(stride=stride, conj=conj, neg=neg)
        rows.append(Row(Entry(root, hostile[at % 6], value, flag), what))
    together = written(inspection(rows))["entries"]
    # What has a field of its own is encoded by itself.
    extra = {position: {"stats": []} for position in range(len(rows))}
    alone = json.loads("".join(dump(inspect_document(inspection(rows), extra))))["entries"]
    assert alone == [{**item, "stats": []} for item in together]
    assert [list(item) for item in alone] == [[*item, "stats"] for item in together]


def test_an_item_per_line() -> None:
    text = "".join(dump(inspect_document(training())))
    lines = [line for line in text.split("\n") if '"kind"' in line and '"presence"' in line]
    assert len(lines) == len(training().rows) + len(training().missing)
    assert json.loads(lines[0].rstrip(","))["name"] == "embed.weight"


def test_unexpected_entries() -> None:
    rows = [row("b", kind=Kind.NON_PERSISTENT_BUFFER, presence=Presence.UNEXPECTED, value=tensor())]
    assert written(inspection(rows))["entries"][0]["presence"] == "unexpected"


def test_an_empty_checkpoint() -> None:
    document = written(inspection([], weights_root=None))
    assert document["entries"] == [] and document["weights_root"] is None
