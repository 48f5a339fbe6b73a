"""What is read of a header, whole: each entry, its address and each finding, in any order of its names."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.formats import safetensors
from ckpttool.formats.base import Limits, Look
from ckpttool.values.checkpoint import (
    Checkpoint,
    CompositeTensor,
    Entry,
    Finding,
    Part,
    StorageRef,
    TensorInfo,
)
from ckpttool.values.dtypes import BY_NAME, BY_SAFETENSORS_TAG
from ckpttool.values.errors import MalformedCheckpoint
from tests.formats.test_zip_records import Bytes
from tests.support.headers import pack, sniff

NBYTES = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
          "U16": 2, "U8": 1, "I8": 1, "BOOL": 1}  # fmt: skip
NO_FORMAT = Finding(
    "safetensors-no-format", "info", "",
    "__metadata__ does not say format=pt, without which some loaders refuse the file",
)  # fmt: skip


def read(content: bytes, base: int = 0) -> Checkpoint:
    return safetensors.read(Look(Bytes(content, base), Limits()))


def refusal(content: bytes) -> MalformedCheckpoint:
    with pytest.raises(MalformedCheckpoint) as caught:
        read(content)
    return caught.value


def row_major(shape: list[int]) -> tuple[int, ...]:
    return tuple(math.prod(max(size, 1) for size in shape[at + 1 :]) for at in range(len(shape)))


@given(
    st.lists(st.tuples(st.sampled_from(list(NBYTES)), st.lists(st.integers(0, 3), max_size=3)), max_size=5),
    st.randoms(use_true_random=False),
    st.dictionaries(st.sampled_from(["format", "k", ""]), st.text(max_size=3), max_size=2),
    st.sampled_from([0, 3000]),
    st.integers(0, 9),
)
def test_a_header_in_any_order_is_read_in_that_of_the_bytes(
    tensors: list[tuple[str, list[int]]], random: Any, metadata: dict[str, str], base: int, spaces: int
) -> None:
    names = random.sample("abcdef", len(tensors))
    begin, rows = 0, []
    for name, (tag, shape) in zip(names, tensors, strict=True):
        end = begin + NBYTES[tag] * math.prod(shape)
        rows.append((begin, end, name, tag, shape))
        begin = end
    rows.sort(key=lambda row: row[:3])
    written = random.sample(rows, len(rows))
    header: dict[str, Any] = {
        name: {"dtype": tag, "shape": shape, "data_offsets": [first, last]}
        for first, last, name, tag, shape in written
    }
    if metadata:
        header["__metadata__"] = metadata
    content = pack(json.dumps(header).encode() + b" " * spaces, bytes(begin))
    start = base + len(content) - begin
    entries = tuple(
        Entry((), name, TensorInfo(BY_SAFETENSORS_TAG[tag], tuple(shape), row_major(shape), 0,
                                   StorageRef("a.zip", name, start + first, last - first)))
        for first, last, name, tag, shape in rows
    )  # fmt: skip
    assert read(content, base) == Checkpoint(
        path="a.zip", format="safetensors", layout="", files=(Bytes.version,), entries=entries,
        metadata=metadata, findings=() if "format" in metadata else (NO_FORMAT,), ordered=False,
    )  # fmt: skip


def test_packed_numbers_stand_beside_others_and_the_odd_are_named() -> None:
    header = {
        "odd": {"dtype": "F4", "shape": [2, 5], "data_offsets": [6, 11], "by": 1},
        "even": {"dtype": "F4", "shape": [3, 4], "data_offsets": [0, 6]},
        "none": {"dtype": "F4", "shape": [0, 3], "data_offsets": [11, 11]},
        "other": {"dtype": "U8", "shape": [3, 4], "data_offsets": [11, 23]},
    }
    content = pack(header, bytes(23))
    start = len(content) - 23
    four, octet = BY_NAME["float4_e2m1fn_x2"], BY_NAME["uint8"]

    def stored(name: str, at: int, nbytes: int) -> StorageRef:
        return StorageRef("a.zip", name, start + at, nbytes)

    def odd(name: str, shape: tuple[int, ...], at: int, nbytes: int) -> Entry:
        part = TensorInfo(octet, (nbytes,), (1,), 0, stored(name, at, nbytes))
        return Entry(
            (), name, CompositeTensor("packed", "safetensors.F4", four, shape, (Part("bytes", part),))
        )

    found = read(content)
    assert found.entries == (
        Entry((), "even", TensorInfo(four, (3, 2), (2, 1), 0, stored("even", 0, 6))),
        odd("odd", (2, 5), 6, 5),
        odd("none", (0, 3), 11, 0),
        Entry((), "other", TensorInfo(octet, (3, 4), (4, 1), 0, stored("other", 11, 12))),
    )
    unknown = "the header says more of it than dtype, shape and data_offsets; ignored: by"
    assert found.findings == (
        NO_FORMAT,
        Finding("safetensors-unknown-field", "info", "odd", unknown),
        *(
            Finding("safetensors-odd-packed", "warning", name,
                    f"F4 with an odd last size {last}: legal here, but torch has no such shape")
            for name, last in (("odd", 5), ("none", 3))
        ),
    )  # fmt: skip


def entry(tag: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": tag, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("second", "what", "expected", "actual"),
    [
        (entry("F32", [3], 8, 19), "shape and range do not agree", "12 bytes for F32 [3]", "11"),
        (entry("F32", [3], 8, 21), "shape and range do not agree", "12 bytes for F32 [3]", "13"),
        (entry("U8", [], 8, 8), "shape and range do not agree", "1 byte for U8 []", "0"),
        (entry("F4", [2, 2], 8, 9), "shape and range do not agree", "2 bytes for F4 [2, 2]", "1"),
        (entry("F4", [3], 8, 10), "a tensor of packed numbers does not end at a byte", None, "F4 [3]"),
        (entry("F4", [], 8, 9), "a tensor of packed numbers does not end at a byte", None, "F4 []"),
        (entry("F4", [2**62, 0, 6], 8, 8), "an empty tensor whose strides exceed 2**63 - 1", None,
         f"[{2**62}, 0, 3]"),
        (entry("U8", [3] * 40, 8, 9), "shape and range do not agree",
         f"{3**40:,} bytes for U8 {str([3] * 40)[:57]}… (120 characters)", "1"),
    ],
)  # fmt: skip
def test_a_second_tensor_that_is_wrong_is_named_with_its_numbers(
    second: dict[str, Any], what: str, expected: str | None, actual: str
) -> None:
    error = refusal(pack({"good": entry("F32", [2], 0, 8), "bad": second}, bytes(second["data_offsets"][1])))
    assert (error.what, error.name, error.byte_offset) == (what, "bad", None)
    assert (error.expected, error.actual) == (expected, actual)


def test_what_is_missing_or_left_is_counted_behind_the_tensors() -> None:
    header = {"a": entry("F32", [2], 0, 8), "b": entry("U8", [3], 8, 11)}
    content = pack(header, bytes(11))
    assert len(read(content).entries) == 2
    error = refusal(content[:-4])
    assert error.what == "the file is cut short: 4 of 11 data bytes missing"
    assert error.hint == "download or copy it again; the bytes that are missing cannot be recovered"
    error = refusal(content + bytes(1))
    assert (error.what, error.byte_offset) == ("1 byte after the last tensor", len(content))
    for begin, what in ((9, "bytes that belong to no tensor"), (7, "the bytes of two tensors overlap")):
        error = refusal(pack(header | {"b": entry("U8", [3], begin, begin + 3)}, bytes(12)))
        assert (error.what, error.name, error.expected, error.actual) == (
            what, "b", "a range that begins at 8", f"[{begin}, {begin + 3}]",
        )  # fmt: skip


FIELDS = "{dtype, shape, data_offsets}"
PAIR = "[begin, end]"
TAGS = f"one of {' '.join(BY_SAFETENSORS_TAG)}"


def changed(**fields: Any) -> dict[str, Any]:
    return {**entry("F32", [2], 0, 8), **fields}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in changed().items() if key != name}


@pytest.mark.parametrize(
    ("said", "what", "expected", "actual"),
    [
        (5, "the entry of a tensor is not an object", FIELDS, "an integer"),
        ([], "the entry of a tensor is not an object", FIELDS, "an array"),
        *(
            (without(key), f"the entry of a tensor has no {key}", "dtype, shape and data_offsets",
             "others only")
            for key in ("dtype", "shape", "data_offsets")
        ),
        (changed(dtype=True), "dtype is not a string", "a tag such as F32", "true or false"),
        (changed(dtype="F"), "unknown dtype", TAGS, "'F'"),
        (changed(dtype="F" * 58), "unknown dtype", TAGS, f"'{'F' * 58}'"),
        (changed(dtype="F" * 59), "unknown dtype", TAGS, f"'{'F' * 56}… (61 characters)"),
        (changed(shape={}), "shape is not an array", "an array of sizes", "an object"),
        (changed(shape=[1, None]), "a size in shape is not an integer", "integers", "null"),
        (changed(shape=[2, 10**59]), "a size in shape is out of range", "0 to 2**63 - 1", f"1{'0' * 59}"),
        (changed(shape=[2, 10**60]), "a size in shape is out of range", "0 to 2**63 - 1",
         f"1{'0' * 56}… (61 characters)"),
        (changed(data_offsets=None), "data_offsets is not an array", PAIR, "null"),
        (changed(data_offsets=[]), "data_offsets is not a pair", PAIR, "0 items"),
        (changed(data_offsets=[0.0, 8]), "an offset is not an integer", "integers", "a number"),
        (changed(data_offsets=["0", None]), "an offset is not an integer", "integers", "a string"),
        (changed(data_offsets=[0, None]), "an offset is not an integer", "integers", "null"),
        (changed(data_offsets=[2, 1]), "data_offsets is not a range", "0 <= begin <= end", "[2, 1]"),
        (changed(data_offsets=[1, 10**60]), "bytes that belong to no tensor", "a range that begins at 0",
         f"[1, 1{'0' * 56}… (61 characters)]"),
    ],
)  # fmt: skip
def test_an_entry_that_is_wrong_has_one_sentence(said: Any, what: str, expected: str, actual: str) -> None:
    content = pack({"bad": said}, bytes(8))
    error = refusal(content)
    assert (error.what, error.name, error.expected, error.actual) == (what, "bad", expected, actual)
    assert error.byte_offset == (len(content) - 7 if "no tensor" in what else None)


def test_what_more_is_said_of_a_tensor_is_shortened() -> None:
    for nbytes, shown in ((60, "k" * 60), (61, f"{'k' * 57}… (61 characters)")):
        finding = read(pack({"a": changed(**{"k" * nbytes: 1})}, bytes(8))).findings[1]
        assert (finding.name, finding.message.partition("ignored: ")[2]) == ("a", shown)
    (_, finding) = read(pack({"a": changed(x=1, y={})}, bytes(8))).findings
    assert finding.message.endswith("; ignored: x, y")


@pytest.mark.parametrize(
    ("header", "what", "name", "actual"),
    [
        ({"__metadata__": 5}, "__metadata__ is not an object of strings", None, "an integer"),
        ({"__metadata__": {"a": "b", "k": None}}, "a value of __metadata__ is not a string", "k", "null"),
        (b"", "the safetensors header does not begin with '{'", None, "an empty header"),
        (b"\xffab", "the safetensors header does not begin with '{'", None, "'\\xff'"),
        (b" {}", "the safetensors header does not begin with '{'", None, "' '"),
    ],
)
def test_a_header_that_is_wrong_has_one_sentence(
    header: object, what: str, name: str | None, actual: str
) -> None:
    error = refusal(pack(header))
    assert (error.what, error.name, error.expected, error.actual) == (what, name, None, actual)
    assert error.byte_offset == (None if "__" in what else 8)


def test_metadata_of_null_is_none() -> None:
    found = read(pack({"__metadata__": None}))
    assert (found.metadata, found.findings, found.entries) == ({}, (NO_FORMAT,), ())


@pytest.mark.parametrize(
    ("content", "known"),
    [
        (pack(b"{"), True), (pack(b"{}"), True), (pack(b'{"a"'), True), (pack(b"{ "), True),
        (pack(b"{\t"), True),
        (pack(b" \t\r\n{\r"), True), (pack(b"{\n", length=2**56 - 1), True),
        (pack(b"{}", length=2**64 - 256), True),
        (pack(b"{}", length=2**64 - 1), False), (pack(b'["a"]'), False), (pack(b"["), False),
        (pack(b""), False),
        (pack(b'""'), False), (pack(b"{a"), False), (pack(b"{{"), False), (pack(b"a{}"), False),
        (b"abcdefg{}", False),
        (b"abcdefgh{}", False), (b"abcdefg\0{}", True), (b"\0abcdefg{}", True), (b"\0" * 7 + b"{}", False),
    ],
)  # fmt: skip
def test_the_content_tells_the_format(content: bytes, known: bool) -> None:
    """A length, which no eight letters are, and an object, whatever the length says."""
    assert sniff(content) is known
