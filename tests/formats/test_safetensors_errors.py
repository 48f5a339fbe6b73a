"""Errors of a safetensors header say which tensor, what was expected and what is there; limits are exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpttool.formats.base import Limits
from ckpttool.values.checkpoint import CompositeTensor, TensorInfo
from ckpttool.values.errors import CkptToolError, LimitExceeded
from tests.support.headers import pack, read

GOOD: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
PAIR = "[begin, end]"


def refusal(path: Path, content: bytes, limits: Limits | None = None) -> Any:
    path.write_bytes(content)
    with pytest.raises(CkptToolError) as caught:
        read(path, limits)
    return caught.value


@pytest.mark.parametrize(
    ("change", "what", "expected", "actual"),
    [
        ({"dtype": None}, "dtype is not a string", "a tag such as F32", "null"),
        ({"dtype": "F33"}, "unknown dtype", None, "'F33'"),
        ({"shape": 2}, "shape is not an array", "an array of sizes", "an integer"),
        ({"shape": [2, 1.0]}, "a size in shape is not an integer", "integers", "a number"),
        ({"shape": [2, -1]}, "a size in shape is out of range", "0 to 2**63 - 1", "-1"),
        ({"shape": [2, 2**63]}, "a size in shape is out of range", "0 to 2**63 - 1", str(2**63)),
        ({"data_offsets": 8}, "data_offsets is not an array", PAIR, "an integer"),
        ({"data_offsets": [0]}, "data_offsets is not a pair", PAIR, "1 item"),
        ({"data_offsets": [0, 8, 9]}, "data_offsets is not a pair", PAIR, "3 items"),
        ({"data_offsets": [0, "8"]}, "an offset is not an integer", "integers", "a string"),
        ({"data_offsets": [None, 8]}, "an offset is not an integer", "integers", "null"),
        ({"data_offsets": [8, 7]}, "data_offsets is not a range", "0 <= begin <= end", "[8, 7]"),
        ({"data_offsets": [-1, 7]}, "data_offsets is not a range", "0 <= begin <= end", "[-1, 7]"),
        ({"data_offsets": [0, 4]}, "shape and range do not agree", "8 bytes for F32 [2]", "4"),
        ({"data_offsets": [4, 12]}, "bytes that belong to no tensor", "a range that begins at 0", "[4, 12]"),
        ({"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}, "packed numbers does not end at a byte", None,
         "F4 [3]"),
    ],
)  # fmt: skip
def test_an_entry_that_is_wrong_is_named(
    tmp_path: Path, change: dict[str, Any], what: str, expected: str | None, actual: str
) -> None:
    error = refusal(tmp_path / "a", pack({"good": GOOD | {"shape": [0], "data_offsets": [0, 0]},
                                          "name": GOOD | change}, bytes(8)))  # fmt: skip
    assert what in str(error)
    assert (error.name, error.actual) == ("name", actual)
    if expected is not None:
        assert error.expected == expected


@pytest.mark.parametrize("key", GOOD)
def test_a_field_that_is_missing_is_named(tmp_path: Path, key: str) -> None:
    entry = {name: value for name, value in GOOD.items() if name != key}
    error = refusal(tmp_path / "a", pack({"name": entry}, bytes(8)))
    assert f"the entry of a tensor has no {key}" in str(error)
    assert (error.name, error.expected, error.actual) == (
        "name",
        "dtype, shape and data_offsets",
        "others only",
    )
    error = refusal(tmp_path / "a", pack({"name": 5}, bytes(8)))
    assert (error.name, error.expected, error.actual) == (
        "name",
        "{dtype, shape, data_offsets}",
        "an integer",
    )


def test_an_overlap_and_a_hole_are_placed(tmp_path: Path) -> None:
    for second, what in (
        ([4, 12], "the bytes of two tensors overlap"),
        ([9, 17], "bytes that belong to no tensor"),
    ):
        content = pack({"a": GOOD, "b": GOOD | {"data_offsets": second}}, bytes(20))
        error = refusal(tmp_path / "a", content)
        assert what in str(error)
        assert (error.name, error.byte_offset) == ("b", len(content) - 20 + second[0])
    content = pack({"a": GOOD}, bytes(11))
    error = refusal(tmp_path / "a", content)
    assert "3 bytes after the last tensor" in str(error) and error.byte_offset == len(content) - 3


def test_limits_are_met_at_their_number(tmp_path: Path) -> None:
    content = pack({"name": GOOD}, bytes(8))
    header = int.from_bytes(content[:8], "little")
    exact = Limits(header_nbytes=header, entries=1, name_nbytes=4)
    (tmp_path / "a").write_bytes(content)
    assert len(read(tmp_path / "a", exact).entries) == 1
    for limits, what, limit, actual in (
        (exact._replace(header_nbytes=header - 1), "length of the safetensors header", header - 1, header),
        (exact._replace(name_nbytes=3), "length of a tensor's name", 3, 4),
    ):
        error = refusal(tmp_path / "a", content, limits)
        assert isinstance(error, LimitExceeded)
        assert (error.what, error.limit, error.actual) == (what, limit, actual)
    two = pack({"a": GOOD, "b": GOOD | {"data_offsets": [8, 16]}}, bytes(16))
    error = refusal(tmp_path / "a", two, Limits(entries=1))
    assert "number of" in error.what and error.limit == 1


def test_a_length_that_is_cut_says_how_much_there_is(tmp_path: Path) -> None:
    content = pack({"name": GOOD}, bytes(8))
    header = int.from_bytes(content[:8], "little")
    for size in range(8):
        error = refusal(tmp_path / "a", content[:size])
        assert (error.expected, error.actual) == ("8 bytes", size)
    error = refusal(tmp_path / "a", content[: 8 + header - 1])
    assert (error.expected, error.actual) == (f"{header} bytes", str(header - 1))
    error = refusal(tmp_path / "a", pack(b"[" + json.dumps({"name": GOOD}).encode() + b"]", bytes(8)))
    assert (error.byte_offset, error.actual) == (8, "'['")


def test_unknown_fields_are_named_without_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(
        pack({"name": {"extra": 1, **GOOD, "more": 2}, "__metadata__": {"format": "pt"}}, bytes(8))
    )
    (finding,) = read(tmp_path / "a").findings
    assert (finding.code, finding.severity, finding.name) == ("safetensors-unknown-field", "info", "name")
    assert finding.message.endswith("ignored: extra, more")


def test_an_empty_tensor_has_strides_that_torch_can_hold(tmp_path: Path) -> None:
    entry = {"dtype": "U8", "shape": [0, 2**63 - 1], "data_offsets": [0, 0]}
    (tmp_path / "a").write_bytes(pack({"name": entry}))
    (found,) = read(tmp_path / "a").entries
    assert found.tensor is not None and found.tensor.stride == (2**63 - 1, 1)
    error = refusal(tmp_path / "a", pack({"name": entry | {"shape": [0, 2**62, 2]}}))
    assert "an empty tensor whose strides exceed 2**63 - 1" in str(error) and error.name == "name"
    last = (2**63 - 1) // 7  # a divisor
    for shape, good in (
        ([7, 0, last], True), ([8, 0, last], False), ([7, 0, last + 1], False), ([0, 7, last], True),
        ([0, 7, last + 1], False), ([0, 8, last], False), ([last, 0, 7], True), ([last, 7, 0], True),
        ([last + 1, 0, 7], False), ([0], True), ([2**63 - 1, 0], True),
    ):  # fmt: skip
        content = pack({"name": entry | {"shape": shape}})
        if good:
            (tmp_path / "a").write_bytes(content)
            (found,) = read(tmp_path / "a").entries
            assert (
                found.tensor is not None and found.tensor.stride == torch.empty(shape, device="meta").stride()
            )
        else:
            error = refusal(tmp_path / "a", content)
            assert (error.what, error.name, error.actual) == (
                "an empty tensor whose strides exceed 2**63 - 1", "name", str(shape)
            )  # fmt: skip


def test_packed_numbers_of_an_odd_last_size_are_all_their_bytes(tmp_path: Path) -> None:
    entry = {"dtype": "F4", "shape": [2, 3], "data_offsets": [0, 3]}
    content = pack({"name": entry}, b"abc")
    (tmp_path / "a").write_bytes(content)
    (found,) = read(tmp_path / "a").entries
    assert isinstance(found.value, CompositeTensor)
    ((part, value),) = found.value.parts
    assert isinstance(value, TensorInfo) and value.storage is not None
    assert (part, value.dtype.name, value.shape, value.stride, value.storage_offset) == (
        "bytes", "uint8", (3,), (1,), 0,
    )  # fmt: skip
    assert (value.storage.byte_offset, value.storage.nbytes) == (len(content) - 3, 3)
