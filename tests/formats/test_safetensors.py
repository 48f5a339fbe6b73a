"""safetensors: the library is the oracle for what is legal, hostile headers for what is not."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from ckpttool.formats.base import Limits
from ckpttool.values.checkpoint import Checkpoint, CompositeTensor
from ckpttool.values.dtypes import BY_NAME, BY_SAFETENSORS_TAG
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint
from tests.support.headers import opens, pack, read, sniff

TORCH_DTYPES = [name for name, dtype in BY_NAME.items() if dtype.safetensors and hasattr(torch, name)]
SHAPES = [(), (0,), (1,), (2, 3, 4), (3, 0, 2), (1, 1, 1, 1, 1, 2)]
ODD_NAMES = [
    "",
    " ",
    "a.b",
    "ключ",
    "鍵",
    "مفتاح",
    "🔑",
    "a\nb",
    "\x1b[31m",
    'q"\\',
    "\x00",
    "\u202ex",
    "\u00e9",
    "e\u0301",
]


PERMISSIVE = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def tensor(
    dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8), **more: object
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def refusal(tmp_path: Path, content: bytes, limits: Limits | None = None) -> CkptToolError:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    with pytest.raises(CkptToolError) as caught:
        read(path, limits)
    assert caught.value.path == str(path)
    return caught.value


def assert_same_as_loaded(path: Path, checkpoint: Checkpoint) -> None:
    """Names, dtypes, shapes, strides and, through the addresses, every byte."""
    content = path.read_bytes()
    loaded = safetensors.torch.load_file(path)
    assert {entry.name for entry in checkpoint.entries} == set(loaded)
    for entry in checkpoint.entries:
        expected, info = loaded[str(entry.name)], entry.tensor
        assert info is not None
        assert info.storage is not None
        assert f"torch.{info.dtype.name}" == str(expected.dtype)
        assert (info.shape, info.stride, info.storage_offset) == (tuple(expected.shape), expected.stride(), 0)
        assert (entry.root, info.storage.file, info.storage.key) == ((), str(path), entry.name)
        start, nbytes = info.storage.byte_offset, info.storage.nbytes
        assert nbytes == info.nbytes == expected.nbytes
        buffer = torch.empty(nbytes, dtype=torch.uint8)
        if nbytes:
            flat = expected.reshape(-1) if expected.dim() else expected.reshape(1)
            buffer.copy_(flat.view(torch.uint8))
        assert content[start : start + nbytes] == bytes(buffer.tolist())


# A 0-dimensional float4 would be half a byte in the header, and the library writes none.
@pytest.mark.parametrize(
    ("name", "shape"),
    [(n, s) for n in TORCH_DTYPES for s in SHAPES if s or n != "float4_e2m1fn_x2"],
)
def test_every_dtype_and_shape_is_read_as_the_library_loads_it(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    dtype = getattr(torch, name)
    count = math.prod(shape) * dtype.itemsize
    raw = torch.randint(0, 2 if name == "bool" else 256, (count,), dtype=torch.uint8)
    value = raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
    path = tmp_path / "one.safetensors"
    safetensors.torch.save_file({"t": value, "other": torch.arange(3)}, path)
    assert_same_as_loaded(path, read(path))


def test_the_table_knows_every_dtype_that_the_library_writes() -> None:
    written = {str(dtype).removeprefix("torch.") for dtype in safetensors.torch._TYPES.values()}
    assert written <= set(TORCH_DTYPES)


def test_names_of_any_script_survive(tmp_path: Path) -> None:
    path = tmp_path / "names.safetensors"
    safetensors.torch.save_file({name: torch.full((2,), i) for i, name in enumerate(ODD_NAMES)}, path)
    assert_same_as_loaded(path, read(path))


def test_entries_come_in_order_of_their_bytes_and_metadata_with_them(tmp_path: Path) -> None:
    path = tmp_path / "order.safetensors"
    tensors = {
        "z": torch.zeros(3, dtype=torch.int64),
        "b": torch.zeros(2),
        "a": torch.zeros(0),
        "c": torch.zeros(0),
    }
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt", "κ": "λ"})
    checkpoint = read(path)
    places = [(e.tensor.storage.byte_offset, e.tensor.nbytes, e.name) for e in checkpoint.entries]  # type: ignore[union-attr]
    assert places == sorted(places)
    assert checkpoint.metadata == {"format": "pt", "κ": "λ"}
    assert (checkpoint.format, checkpoint.ordered) == ("safetensors", False)
    assert checkpoint.file_nbytes == path.stat().st_size
    assert checkpoint.findings == ()


@pytest.mark.parametrize(
    ("tag", "shape", "nbytes"),
    [("F6_E2M3", [4], 3), ("F6_E3M2", [2, 4], 6), ("F4", [2, 6], 6), ("F4", [2, 0], 0), ("F4", [1, 2], 1)],
)
def test_numbers_narrower_than_a_byte(tag: str, shape: list[int], nbytes: int, tmp_path: Path) -> None:
    path = tmp_path / "narrow.safetensors"
    path.write_bytes(pack({"t": tensor(tag, shape, [0, nbytes])}, bytes(nbytes)))
    assert opens(path) == {"t": (tag, shape)}
    info = read(path).entries[0].tensor
    assert info is not None
    assert info.dtype is BY_SAFETENSORS_TAG[tag]
    assert info.shape == ((*shape[:-1], shape[-1] // 2) if tag == "F4" else tuple(shape))
    assert info.nbytes == nbytes


def test_an_odd_last_size_of_float4_is_read_with_the_shape_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(pack({"t": tensor("F4", [2, 3], [0, 3])}, b"abc"))
    assert opens(path) == {"t": ("F4", [2, 3])}
    with pytest.raises(SafetensorError):
        safetensors.torch.load_file(path)
    checkpoint = read(path)
    value = checkpoint.entries[0].value
    assert isinstance(value, CompositeTensor)
    assert (value.shape, value.numel, value.nbytes) == ((2, 3), 6, 3)
    assert [finding.code for finding in checkpoint.findings] == [
        "safetensors-no-format",
        "safetensors-odd-packed",
    ]


LEGAL: dict[str, bytes] = {
    "no tensors": pack({}),
    "metadata only": pack({"__metadata__": {"format": "pt"}}),
    "null metadata": pack({"__metadata__": None, **PERMISSIVE}, bytes(8)),
    "empty metadata": pack({"__metadata__": {}, **PERMISSIVE}, bytes(8)),
    "padded to a page": pack(json.dumps(PERMISSIVE).encode().ljust(4096), bytes(8)),
    "whitespace after": pack(json.dumps(PERMISSIVE).encode() + b"\r\n\t ", bytes(8)),
    "whitespace inside": pack(json.dumps(PERMISSIVE, indent=4).encode(), bytes(8)),
    "escaped name": pack(json.dumps({"ключ🔑": tensor()}, ensure_ascii=True).encode(), bytes(8)),
    "two empty tensors at one place": pack(
        {"b": tensor(shape=[0], offsets=[0, 0]), "a": tensor(shape=[0, 9], offsets=[0, 0]), "c": tensor()},
        bytes(8),
    ),
    "empty tensor at the end": pack({"a": tensor(), "b": tensor(shape=[0], offsets=[8, 8])}, bytes(8)),
    "fields in another order": pack({"a": dict(reversed(tensor().items()))}, bytes(8)),
    "a hundred dimensions": pack({"a": tensor(shape=[1] * 99 + [2])}, bytes(8)),
    "unaligned": pack({"a": tensor("U8", [1], [0, 1]), "b": tensor("F64", [1], [1, 9])}, bytes(9)),
}


@pytest.mark.parametrize("case", LEGAL)
def test_what_the_library_opens_is_read_alike(case: str, tmp_path: Path) -> None:
    path = tmp_path / "legal.safetensors"
    path.write_bytes(LEGAL[case])
    expected = opens(path)
    assert expected is not None, "not a legal case"
    checkpoint = read(path)
    found = {e.name: (e.tensor.dtype.safetensors, list(e.tensor.shape)) for e in checkpoint.entries}  # type: ignore[union-attr]
    assert found == expected
    assert sniff(LEGAL[case][:4096])


def test_an_unknown_field_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "more.safetensors"
    path.write_bytes(pack({"__metadata__": {"format": "pt"}, "a": tensor(quantization="none")}, bytes(8)))
    assert opens(path)
    (finding,) = read(path).findings
    assert (finding.code, finding.severity, finding.name) == ("safetensors-unknown-field", "info", "a")
    assert "quantization" in finding.message


@pytest.mark.parametrize(
    ("metadata", "said"), [(None, True), ({"step": "1"}, True), ({"format": "pt"}, False)]
)
def test_a_file_that_does_not_say_its_framework_is_reported(
    metadata: dict[str, str] | None, said: bool, tmp_path: Path
) -> None:
    path = tmp_path / "format.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    assert [finding.code for finding in read(path).findings] == ["safetensors-no-format"] * said


ENTRY = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
DUPLICATE = b'{"a":' + ENTRY + b',"%s":' + ENTRY + b"}"


# Refused here although the library opens it: two parsers may see two files, or torch cannot hold the tensor.
STRICTER: dict[str, tuple[bytes, str]] = {
    "a name twice": (pack(DUPLICATE % b"a", bytes(8)), "'a' twice"),
    "a name twice, once escaped": (pack(DUPLICATE % b"\\u0061", bytes(8)), "'a' twice"),
    "a metadata key twice": (pack(b'{"__metadata__":{"k":"1","k":"2"}}'), "'k' twice"),
    "a space before the header": (
        pack(b" " + json.dumps(PERMISSIVE).encode(), bytes(8)),
        "does not begin with '{'",
    ),
    "empty with strides beyond int64": (
        pack({"a": tensor(shape=[0, 2**40, 2**40], offsets=[0, 0])}),
        "strides",
    ),
    "an array for an entry": (pack({"a": ["F32", [2], [0, 8]]}, bytes(8)), "got an array"),
}


MALFORMED: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "expected 8 bytes, got 0"),
    "half a length": (b"\x10\0\0", "expected 8 bytes, got 3"),
    "only a length": (pack(b"", length=5), "expected 5 bytes, got 0"),
    "an empty header": (pack(b""), "an empty header"),
    "a length past the end": (
        pack(PERMISSIVE, bytes(8), length=1 << 40),
        "ends inside the safetensors header",
    ),
    "a length of 2**64-1": (pack(PERMISSIVE, bytes(8), length=2**64 - 1), "18,446,744,073,709,551,615"),
    "a length too short": (pack(PERMISSIVE, bytes(8), length=20), "not JSON"),
    "an array": (pack(b"[]"), "does not begin with '{'"),
    "a byte order mark": (pack(b"\xef\xbb\xbf{}"), "does not begin with '{'"),
    "two documents": (pack(b"{}{}"), "not JSON: extra data"),
    "a NUL after the header": (pack(b"{}\0\0"), "not JSON: extra data"),
    "not UTF-8": (pack(b'{"\xff":1}'), "not UTF-8 (its byte 2 is 0xff)"),
    "a surrogate in UTF-8": (pack(b'{"\xed\xa0\x80":1}'), "not UTF-8"),
    "a lone surrogate in a name": (pack(b'{"\\ud800":1}'), "lone surrogate"),
    "a lone surrogate in metadata": (pack(b'{"__metadata__":{"k":"\\uDC00"}}'), "lone surrogate"),
    "a control character": (pack(b'{"a\x01":1}'), "not JSON: invalid control character"),
    "NaN": (pack({"a": tensor(x=math.nan)}, bytes(8)), "NaN"),
    "-Infinity": (pack({"a": tensor(x=-math.inf)}, bytes(8)), "-Infinity"),
    "a field twice": (
        pack(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
        "'dtype' twice",
    ),
    "metadata twice": (pack(b'{"__metadata__":{},"__metadata__":{}}'), "'__metadata__' twice"),
    "metadata is an array": (
        pack({"__metadata__": []}),
        "__metadata__ is not an object of strings, got an array",
    ),
    "a number in metadata": (pack({"__metadata__": {"k": 1}}), "'k', got an integer"),
    "an object in metadata": (pack({"__metadata__": {"k": {}}}), "'k', got an object"),
    "a number for an entry": (pack({"a": 1}), "got an integer"),
    "no dtype": (pack({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "has no dtype"),
    "no shape": (pack({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)), "has no shape"),
    "no offsets": (pack({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "has no data_offsets"),
    "a dtype of another kind": (pack({"a": tensor(["F32"])}, bytes(8)), "dtype is not a string"),
    "an unknown dtype": (pack({"a": tensor("F33")}, bytes(8)), "unknown dtype"),
    "a dtype in lower case": (pack({"a": tensor("f32")}, bytes(8)), "unknown dtype"),
    "a long dtype": (pack({"a": tensor("F" * 10_000)}, bytes(8)), "(10,002 characters)"),
    "a size of true": (pack({"a": tensor(shape=[True, 2])}, bytes(8)), "a size in shape is not an integer"),
    "a size of 2.0": (pack({"a": tensor(shape=[2.0])}, bytes(8)), "got a number"),
    "a size of '2'": (pack({"a": tensor(shape=["2"])}, bytes(8)), "got a string"),
    "a negative size": (pack({"a": tensor(shape=[-1, -2])}, bytes(8)), "out of range"),
    "a size of 2**64": (pack({"a": tensor(shape=[0, 2**64], offsets=[0, 0])}), "out of range"),
    "a size of 5000 digits": (pack(b'{"a":' + b"9" * 5000 + b"}"), "thousands of digits"),
    "a shape that is a number": (pack({"a": tensor(shape=2)}, bytes(8)), "shape is not an array"),
    "sizes whose product wraps to 8": (pack({"a": tensor(shape=[2**62, 4, 2])}, bytes(8)), "shape and range"),
    "one offset": (pack({"a": tensor(offsets=[8])}, bytes(8)), "1 item"),
    "three offsets": (pack({"a": tensor(offsets=[0, 8, 8])}, bytes(8)), "3 items"),
    "an offset of 8.0": (pack({"a": tensor(offsets=[0, 8.0])}, bytes(8)), "an offset is not an integer"),
    "an offset of false": (pack({"a": tensor(offsets=[False, 8])}, bytes(8)), "an offset is not an integer"),
    "offsets as an object": (pack({"a": tensor(offsets={})}, bytes(8)), "data_offsets is not an array"),
    "a range backwards": (pack({"a": tensor(offsets=[8, 0])}, bytes(8)), "[8, 0]"),
    "a negative offset": (pack({"a": tensor(offsets=[-8, 0])}, bytes(8)), "[-8, 0]"),
    "a range too long": (pack({"a": tensor(offsets=[0, 12])}, bytes(12)), "expected 8 bytes for F32 [2]"),
    "half a byte": (pack({"a": tensor("F4", [3], [0, 2])}, bytes(2)), "does not end at a byte"),
    "half a byte, no dimensions": (pack({"a": tensor("F4", [], [0, 1])}, bytes(1)), "does not end at a byte"),
    "a hole before": (pack({"a": tensor(offsets=[1, 9])}, bytes(9)), "belong to no tensor"),
    "a hole between": (
        pack({"a": tensor(), "b": tensor(offsets=[9, 17])}, bytes(17)),
        "expected a range that begins at 8",
    ),
    "an overlap": (pack({"a": tensor(), "b": tensor(offsets=[4, 12])}, bytes(12)), "overlap"),
    "one range for two names": (pack({"a": tensor(), "b": tensor()}, bytes(8)), "overlap"),
    "empty in the middle of another": (
        pack({"a": tensor(), "b": tensor(shape=[0], offsets=[4, 4])}, bytes(8)),
        "overlap",
    ),
    "a tail": (pack(PERMISSIVE, bytes(9)), "1 byte after the last tensor"),
    "a tail without tensors": (pack({}, b"PK"), "2 bytes after the last tensor"),
    "cut by one byte": (pack(PERMISSIVE, bytes(7)), "1 of 8 data bytes missing"),
    "data all gone": (pack(PERMISSIVE), "8 of 8 data bytes missing"),
    "offsets beyond 64 bits": (
        pack({"a": tensor("U8", [2**62], [0, 2**62])}),
        f"{2**62:,} of {2**62:,} data bytes",
    ),
}


@pytest.mark.parametrize("case", STRICTER)
def test_what_the_library_opens_against_the_rules_is_refused(case: str, tmp_path: Path) -> None:
    content, expected = STRICTER[case]
    error = refusal(tmp_path, content)
    assert opens(tmp_path / "hostile.safetensors") is not None, (
        "the library refuses it too: move it to MALFORMED"
    )
    assert expected in str(error)
    assert sniff(content[:4096])


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_with_its_reason(case: str, tmp_path: Path) -> None:
    content, expected = MALFORMED[case]
    error = refusal(tmp_path, content)
    assert opens(tmp_path / "hostile.safetensors") is None, "the library reads it"
    assert expected in str(error)
    assert len(str(error)) < 600 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "limits", "what"),
    [
        (pack(b"{" + b'"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), Limits(), "nesting"),
        (pack(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), Limits(), "nesting"),
        (pack(PERMISSIVE, bytes(8)), Limits(header_nbytes=20), "length of the safetensors header"),
        (
            pack({str(i): tensor(shape=[0], offsets=[0, 0]) for i in range(9)}),
            Limits(entries=8),
            "number of tensors",
        ),
        (pack(b'{"a":[' + b"[]," * 200 + b"[]]}"), Limits(entries=8), "number of values"),
        (pack({"n" * 101: tensor()}, bytes(8)), Limits(name_nbytes=100), "length of a tensor's name"),
    ],
    ids=["arrays in arrays", "objects in objects", "header", "tensors", "values", "name"],
)
def test_nothing_exceeds_a_limit(content: bytes, limits: Limits, what: str, tmp_path: Path) -> None:
    error = refusal(tmp_path, content, limits)
    assert isinstance(error, LimitExceeded)
    assert what in str(error)


def test_a_cut_file_says_how_much_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(3_076_640)}, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 8)
    with pytest.raises(MalformedCheckpoint, match="cut short: 8 of 12,306,560 data bytes missing"):
        read(path)


def test_a_terabyte_is_measured_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    count = 1 << 38
    content = pack({"w": tensor("F32", [count], [0, 4 * count])})
    path.write_bytes(content)
    try:
        with path.open("r+b") as file:
            file.truncate(len(content) + 4 * count)
    except OSError as error:
        pytest.skip(f"no sparse file of a tebibyte here: {error}")
    assert read(path).entries[0].value.nbytes == 1 << 40  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "head",
    [
        b'{"a": {"b": 1}}',
        b'callback{"a":1}',
        b"PK\x03\x04" + bytes(30),
        b"GGUF\x03\0\0\0\x7b\0\0\0",
        b"",
        b"\x80\x02}",
    ],
)
def test_other_content_is_not_taken_for_it(head: bytes) -> None:
    assert not sniff(head)


@pytest.mark.real
def test_published_files_are_read_as_the_library_loads_them(real_dir: Path) -> None:
    paths = sorted(real_dir.rglob("*.safetensors"))
    assert paths
    for path in paths:
        assert_same_as_loaded(path, read(path))
