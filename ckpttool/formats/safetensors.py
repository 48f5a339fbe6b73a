"""safetensors: a JSON header of names, dtypes, shapes and ranges, then the bytes.

Source: README and ``safetensors/src/tensor.rs`` of safetensors 0.8.0. Where this reader asks for
more than that library, the line says so.

- Bytes 0-7 MUST be the header's length N, unsigned, little-endian; N <= 100,000,000.
- The header MUST begin with ``{`` (stricter: the library skips spaces) and be UTF-8 JSON.
- It MAY end in JSON whitespace (writers pad with spaces to a multiple of 8 or of a page).
- No object may have a key twice, compared after unescaping (stricter: the library keeps the last).
- ``__metadata__`` MAY be there, and MUST map strings to strings; null counts as absent.
- Each other key is a tensor's name, MAY be empty, and MUST map to an object (stricter: the library
  also takes an array) with ``dtype``, ``shape`` and ``data_offsets``. Further fields MAY be there;
  they are ignored and reported.
- ``dtype`` MUST be one of the 22 tags of 0.8.0, which ``ckpttool.values.dtypes`` lists.
- ``shape`` MUST be an array of integers >= 0; ``[]`` is a tensor of one element. A size MUST fit in
  63 bits, as must the strides that follow from the shape (torch cannot hold more).
- ``data_offsets`` MUST be two integers [begin, end), counted from the first byte after the header.
- end - begin MUST be product(shape) * bits / 8 in exact arithmetic, and that MUST be whole bytes.
- In order of (begin, end) each range MUST begin where the one before ended, the first at 0, and the
  last MUST end at the end of the file: no holes, no overlaps, no tail.
- Elements are little-endian, packed, row-major. Nothing asks for alignment.
- ``F4`` packs two numbers into a byte and its shape counts numbers; torch's ``float4_e2m1fn_x2``
  counts bytes, so the last size is halved. An odd last size is legal here and has no shape in torch:
  it is read as a composite of its bytes, with the header's shape.
- Entries are given in order of (begin, end, name). The order in which a module registered its
  tensors is lost: writers sort.
"""

from __future__ import annotations

import math
from typing import TypeAlias

from ckpttool.files.source import ByteSource
from ckpttool.formats.base import Limits, Look
from ckpttool.formats.strict_json import JSON_SPACE, describe_json_type, parse_json
from ckpttool.values.checkpoint import (
    Checkpoint,
    CompositeTensor,
    Entry,
    Finding,
    Part,
    StorageRef,
    Tensor,
    TensorInfo,
    packed_stride,
)
from ckpttool.values.dtypes import BY_NAME, BY_SAFETENSORS_TAG, DType
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint
from ckpttool.values.words import plural

LENGTH_NBYTES = 8  # the little-endian u64 in front of the header
_MAX_SIZE = 2**63 - 1  # torch keeps sizes and strides as int64


# (begin, end, name, dtype, shape) of a tensor, its fields of the right types but not yet believed. A plain
# tuple, because one sorts itself and takes a third of the time of a named one; names are unique, so that no
# comparison goes further than the name.
_Row: TypeAlias = tuple[int, int, str, DType, tuple[int, ...]]


# transformers and others ask `metadata()["format"]` which framework wrote the file: absent, some of their
# versions fail with "'NoneType' object has no attribute 'get'" (safetensors issue 352).
_NO_FORMAT = Finding(
    "safetensors-no-format",
    "info",
    "",
    "__metadata__ does not say format=pt, without which some loaders refuse the file",
)


def sniff(look: Look) -> bool:
    """Whether a JSON object follows a length; the length itself may be damaged.

    Text cannot pass for it: eight bytes of text hold no NUL, a length below 2**56 does.
    """
    head = look.head
    start = head[LENGTH_NBYTES:].lstrip(JSON_SPACE)
    return start[:1] == b"{" and start[1:2] in b'"} \t\r\n' and b"\0" in head[:LENGTH_NBYTES]


def read(look: Look) -> Checkpoint:
    """Read the header; the data is only measured.

    Raises:
        MalformedCheckpoint: the file breaks a rule of the format.
        LimitExceeded: header, number of tensors or a name beyond ``limits``.
    """
    source, limits = look.source, look.limits
    raw = read_header(source, limits)
    document = parse_json(raw, "safetensors header", limits, source.name)
    if not isinstance(document, dict):
        raise MalformedCheckpoint("the safetensors header is not an object")
    metadata = _parse_metadata(document.pop("__metadata__", None))
    findings = [] if "format" in metadata else [_NO_FORMAT]
    rows = _parse_rows(document, limits, findings)
    data_offset = LENGTH_NBYTES + len(raw)
    _check_ranges(rows, data_offset, source.size)
    entries = _make_entries(rows, source, data_offset, findings)
    return Checkpoint(
        path=source.name,
        format="safetensors",
        layout="",
        files=(source.version,),
        entries=entries,
        metadata=metadata,
        findings=tuple(findings),
        ordered=False,
    )


def read_header(source: ByteSource, limits: Limits) -> bytes:
    """The JSON bytes of the header, padding included.

    Raises:
        MalformedCheckpoint: the file is too short for its header, or the header cannot be JSON.
        LimitExceeded: the header is longer than ``limits.header_nbytes``.
    """
    if source.size < LENGTH_NBYTES:
        raise MalformedCheckpoint(
            "the file ends inside the safetensors header's length",
            expected=plural(LENGTH_NBYTES, "byte"),
            actual=source.size,
        )
    nbytes = int.from_bytes(source.read_at(0, LENGTH_NBYTES), "little")
    left = source.size - LENGTH_NBYTES
    if nbytes > left:
        raise MalformedCheckpoint(
            "the file ends inside the safetensors header (cut short, or its length is damaged)",
            expected=plural(nbytes, "byte"),
            actual=f"{left:,}",
        )
    if nbytes > limits.header_nbytes:
        raise LimitExceeded("length of the safetensors header", limit=limits.header_nbytes, actual=nbytes)
    raw = source.read_at(LENGTH_NBYTES, nbytes)
    if raw[:1] != b"{":
        raise MalformedCheckpoint(
            "the safetensors header does not begin with '{'",
            byte_offset=LENGTH_NBYTES,
            actual=repr(raw[:1])[1:] if raw else "an empty header",
        )
    return raw


def _parse_metadata(value: object) -> dict[str, str]:
    """``__metadata__`` as a mapping of strings; null and absence are the same."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        what = "__metadata__ is not an object of strings"
        raise MalformedCheckpoint(what, actual=describe_json_type(value))
    for key, text in value.items():
        if type(text) is not str:
            what = "a value of __metadata__ is not a string"
            raise MalformedCheckpoint(what, name=key, actual=describe_json_type(text))
    return value


def _parse_rows(document: dict[str, object], limits: Limits, findings: list[Finding]) -> list[_Row]:
    """The tensors of the header in order of (begin, end, name)."""
    if len(document) > limits.entries:
        raise LimitExceeded("number of tensors", limit=limits.entries, actual=len(document))
    rows: list[_Row] = []
    tags, name_limit = BY_SAFETENSORS_TAG, limits.name_nbytes
    for name, fields in document.items():
        if len(name) > name_limit:
            raise LimitExceeded("length of a tensor's name", limit=name_limit, actual=len(name))
        # What is asked is written out, not called: it runs once a tensor and there may be 100,000.
        if type(fields) is not dict:
            what, expected = "the entry of a tensor is not an object", "{dtype, shape, data_offsets}"
            raise _malformed(name, what, expected, describe_json_type(fields))
        try:
            tag, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
        except KeyError as error:
            what, expected = f"the entry of a tensor has no {error.args[0]}", "dtype, shape and data_offsets"
            raise _malformed(name, what, expected, "others only") from None
        if type(tag) is not str:
            raise _malformed(name, "dtype is not a string", "a tag such as F32", describe_json_type(tag))
        dtype = tags.get(tag)
        if dtype is None:
            raise _malformed(name, "unknown dtype", f"one of {' '.join(tags)}", _shorten(repr(tag)))
        if type(shape) is not list:
            raise _malformed(name, "shape is not an array", "an array of sizes", describe_json_type(shape))
        for size in shape:
            if type(size) is not int:
                what = "a size in shape is not an integer"
                raise _malformed(name, what, "integers", describe_json_type(size))
            if not 0 <= size <= _MAX_SIZE:
                what = "a size in shape is out of range"
                raise _malformed(name, what, "0 to 2**63 - 1", _shorten(str(size)))
        if type(offsets) is not list:
            what = "data_offsets is not an array"
            raise _malformed(name, what, "[begin, end]", describe_json_type(offsets))
        if len(offsets) != 2:
            raise _malformed(name, "data_offsets is not a pair", "[begin, end]", plural(len(offsets), "item"))
        begin, end = offsets
        if type(begin) is not int or type(end) is not int:
            wrong = end if type(begin) is int else begin
            raise _malformed(name, "an offset is not an integer", "integers", describe_json_type(wrong))
        if not 0 <= begin <= end:
            actual = _shorten(f"[{begin}, {end}]")
            raise _malformed(name, "data_offsets is not a range", "0 <= begin <= end", actual)
        rows.append((begin, end, name, dtype, tuple(shape)))
        if len(fields) != 3:
            findings.append(_unknown_fields(name, fields))
    rows.sort()
    return rows


def _malformed(name: str, what: str, expected: str, actual: str) -> MalformedCheckpoint:
    return MalformedCheckpoint(what, name=name, expected=expected, actual=actual)


def _shorten(text: str) -> str:
    """At most 60 characters of a string or a number from the file."""
    return text if len(text) <= 60 else f"{text[:57]}… ({plural(len(text), 'character')})"


def _unknown_fields(name: str, fields: dict[str, object]) -> Finding:
    others = _shorten(", ".join(key for key in fields if key not in ("dtype", "shape", "data_offsets")))
    message = f"the header says more of it than dtype, shape and data_offsets; ignored: {others}"
    return Finding("safetensors-unknown-field", "info", name, message)


def _check_ranges(rows: list[_Row], data_offset: int, file_nbytes: int) -> None:
    """Prove that each range has its tensor's size and that together they tile the data."""
    cursor = 0
    sizes: dict[tuple[DType, tuple[int, ...]], int] = {}  # a model has few distinct shapes
    for begin, end, name, dtype, shape in rows:
        if begin != cursor:
            raise MalformedCheckpoint(
                "the bytes of two tensors overlap" if begin < cursor else "bytes that belong to no tensor",
                name=name,
                byte_offset=data_offset + begin,
                expected=f"a range that begins at {cursor}",
                actual=f"[{_shorten(str(begin))}, {_shorten(str(end))}]",
            )
        cursor = end
        nbits = sizes.get((dtype, shape))
        if nbits is None:
            nbits = sizes[dtype, shape] = math.prod(shape) * (dtype.bits // dtype.packed)
        if nbits != (end - begin) * 8:
            _refuse_size(name, dtype, shape, nbits, end - begin)
    left = file_nbytes - data_offset
    if cursor > left:
        raise MalformedCheckpoint(
            f"the file is cut short: {cursor - left:,} of {plural(cursor, 'data byte')} missing",
            hint="download or copy it again; the bytes that are missing cannot be recovered",
        )
    if cursor < left:
        what = f"{plural(left - cursor, 'byte')} after the last tensor"
        raise MalformedCheckpoint(what, byte_offset=data_offset + cursor)


def _refuse_size(name: str, dtype: DType, shape: tuple[int, ...], nbits: int, actual: int) -> None:
    tensor = f"{dtype.safetensors} {_shorten(str(list(shape)))}"
    if nbits % 8:
        what = "a tensor of packed numbers does not end at a byte"
        raise MalformedCheckpoint(what, name=name, actual=tensor)
    what, expected = "shape and range do not agree", f"{_shorten(plural(nbits // 8, 'byte'))} for {tensor}"
    raise MalformedCheckpoint(what, name=name, expected=expected, actual=_shorten(str(actual)))


def _make_entries(
    rows: list[_Row], source: ByteSource, data_offset: int, findings: list[Finding]
) -> tuple[Entry, ...]:
    """Entries with absolute addresses."""
    entries = []
    strides: dict[tuple[int, ...], tuple[int, ...]] = {}
    file, base = source.name, source.base + data_offset
    for begin, end, name, dtype, shape in rows:
        storage = StorageRef(file, name, base + begin, end - begin)
        value: Tensor
        if dtype.packed != 1:
            value = _unpack_shape(name, dtype, shape, storage, findings)
        else:
            stride = strides.get(shape)
            if stride is None:
                stride = strides[shape] = _contiguous_stride(name, shape)
            value = TensorInfo(dtype, shape, stride, 0, storage)
        entries.append(Entry((), name, value))
    return tuple(entries)


def _unpack_shape(
    name: str, dtype: DType, shape: tuple[int, ...], storage: StorageRef, findings: list[Finding]
) -> Tensor:
    """A tensor whose header counts packed numbers apart, with torch's shape where it has one."""
    # A 0-dimensional one is half a byte, which the check of ranges has refused.
    if shape[-1] % dtype.packed == 0:
        torch_shape = (*shape[:-1], shape[-1] // dtype.packed)
        return TensorInfo(dtype, torch_shape, _contiguous_stride(name, torch_shape), 0, storage)
    tag = dtype.safetensors
    message = f"{tag} with an odd last size {shape[-1]}: legal here, but torch has no such shape"
    findings.append(Finding("safetensors-odd-packed", "warning", name, message))
    content = TensorInfo(BY_NAME["uint8"], (storage.nbytes,), (1,), 0, storage)
    return CompositeTensor("packed", f"safetensors.{tag}", dtype, shape, (Part("bytes", content),))


def _contiguous_stride(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides, if torch can hold them."""
    stride = packed_stride(shape)
    # Possible for tensors without elements only: others fit in the file.
    if stride and stride[0] * (shape[0] or 1) > _MAX_SIZE:
        raise MalformedCheckpoint(
            "an empty tensor whose strides exceed 2**63 - 1", name=name, actual=_shorten(str(list(shape)))
        )
    return stride
