"""The JSON documents of a ``.pt2`` archive -> kinds and tensor layouts, with strict types.

- ``models/NAME.json`` is an ``ExportedProgram``; its ``graph_module.signature.input_specs`` name every
  parameter, buffer (with ``persistent``) and tensor constant by the name that a state_dict would use.
- ``NAME_weights_config.json`` and ``NAME_constants_config.json`` are ``PayloadConfig``: name -> the member
  that holds the bytes, and a ``TensorMeta``. Unions have one key: ``{"as_int": 2}``.
- Numbers are integers (a bool is none); sizes are constants, as weights have no symbolic shapes.

Source: ``torch/_export/serde/schema.py`` of torch 2.13 (schema version 8.20); the parts that are read here
are the same since version 5 (torch 2.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ckpttool.formats.strict_json import describe_json_type
from ckpttool.values.checkpoint import Basis, Classification, Kind
from ckpttool.values.dtypes import BY_NAME, DType
from ckpttool.values.errors import MalformedCheckpoint

# ``ScalarType`` of schema.py. Numbers 14 to 27 are not given there.
_DTYPES: Mapping[int, DType] = {
    number: BY_NAME[name]
    for number, name in {
        1: "uint8",
        2: "int8",
        3: "int16",
        4: "int32",
        5: "int64",
        6: "float16",
        7: "float32",
        8: "float64",
        9: "complex32",
        10: "complex64",
        11: "complex128",
        12: "bool",
        13: "bfloat16",
        28: "uint16",
        29: "float8_e4m3fn",
        30: "float8_e5m2",
        31: "float8_e4m3fnuz",
        32: "float8_e5m2fnuz",
        33: "float8_e8m0fnu",
        34: "uint32",
        35: "uint64",
    }.items()
}
# ``Layout`` of schema.py; only strided tensors are stored as plain bytes.
_LAYOUTS = {1: "sparse_coo", 2: "sparse_csr", 3: "sparse_csc", 4: "sparse_bsr", 5: "sparse_bsc", 6: "_mkldnn"}
_STRIDED = 7
_MAX_DIMS = 1024  # as for pickled tensors: bounds the work for one tensor

_PARAMETER = Classification(Kind.PARAMETER, Basis.EXPORT)
_BUFFER = Classification(Kind.PERSISTENT_BUFFER, Basis.EXPORT)
_NON_PERSISTENT = Classification(
    Kind.NON_PERSISTENT_BUFFER, Basis.EXPORT, note="carried by the program, not by a state_dict"
)
TENSOR_CONSTANT = Classification(Kind.UNKNOWN, Basis.EXPORT, note="tensor constant, not registered")


class Program(NamedTuple):
    """What a model's JSON says: the kind of each name, and the torch that wrote it."""

    kinds: dict[str, Classification]
    torch_version: str


class TensorMeta(NamedTuple):
    """``TensorMeta``; ``layout`` is torch's word for it."""

    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage_offset: int
    requires_grad: bool
    location: str
    layout: str


class Payload(NamedTuple):
    """``PayloadMeta`` of one name; ``meta`` is None for custom objects."""

    name: str
    member: str
    is_param: bool
    use_pickle: bool
    meta: TensorMeta | None


class SharedView(NamedTuple):
    """One weight of an AOTInductor package: a view of the tensor in ``member``."""

    name: str
    member: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage_offset: int


def parse_program(document: object) -> Program:
    """The signature of ``models/NAME.json``.

    Raises:
        MalformedCheckpoint: a part that is read here is missing or of the wrong type.
    """
    program = _dict(document, "exported program")
    signature = _dict(_dict(program.get("graph_module"), "graph_module").get("signature"), "signature")
    kinds: dict[str, Classification] = {}
    for spec in _list(signature.get("input_specs"), "input_specs"):
        for union, body in _dict(spec, "input spec").items():
            if union == "parameter":
                name, kind = _text(_dict(body, union).get("parameter_name"), "parameter_name"), _PARAMETER
            elif union == "buffer":
                name = _text(_dict(body, union).get("buffer_name"), "buffer_name")
                # Absent before schema version 3 (torch 2.3), when all buffers were saved.
                persistent = _bool(_dict(body, union).get("persistent", True), "persistent")
                kind = _BUFFER if persistent else _NON_PERSISTENT
            elif union == "tensor_constant":
                name = _text(_dict(body, union).get("tensor_constant_name"), "tensor_constant_name")
                kind = TENSOR_CONSTANT
            else:
                continue
            if kinds.setdefault(name, kind) is not kind:
                raise MalformedCheckpoint("the program's signature gives one name two kinds", name=name)
    version = program.get("torch_version")
    return Program(kinds, version[:32] if type(version) is str else "")


def parse_payloads(document: object) -> list[Payload]:
    """``NAME_weights_config.json`` or ``NAME_constants_config.json``, in the order of the file.

    Raises:
        MalformedCheckpoint: a part is missing or of the wrong type.
    """
    payloads = []
    for name, value in _dict(_dict(document, "payload config").get("config"), "config").items():
        body = _dict(value, "payload")
        meta = body.get("tensor_meta")
        payloads.append(
            Payload(
                name,
                _text(body.get("path_name"), "path_name"),
                _bool(body.get("is_param"), "is_param"),
                _bool(body.get("use_pickle"), "use_pickle"),
                None if meta is None else _tensor_meta(_dict(meta, "tensor_meta")),
            )
        )
    return payloads


def parse_shared_views(document: object) -> list[SharedView]:
    """``weights_config.json`` of an AOTInductor package: name -> [member, shape, stride, offset].

    Raises:
        MalformedCheckpoint: a part is missing or of the wrong type.
    """
    views = []
    for name, value in _dict(document, "weights config").items():
        fields = _list(value, "weight")
        if len(fields) != 4:
            raise _bad("weight", "four fields", f"{len(fields)}")
        shape, stride = _ints(fields[1], "shape"), _ints(fields[2], "stride")
        _check_rank(shape, stride)
        views.append(SharedView(name, _text(fields[0], "file"), shape, stride, _int(fields[3], "offset")))
    return views


def _tensor_meta(meta: dict[str, object]) -> TensorMeta:
    number = _int(meta.get("dtype"), "dtype")
    dtype = _DTYPES.get(number)
    if dtype is None:
        raise _bad("dtype", "a number of ScalarType", f"{number}")
    layout = _int(meta.get("layout"), "layout")
    if layout != _STRIDED and layout not in _LAYOUTS:
        raise _bad("layout", "a number of Layout", f"{layout}")
    shape = tuple(_sym_int(size, "size") for size in _list(meta.get("sizes"), "sizes"))
    stride = tuple(_sym_int(size, "stride") for size in _list(meta.get("strides"), "strides"))
    _check_rank(shape, stride)
    device = _dict(meta.get("device"), "device")
    index = device.get("index")
    location = _text(device.get("type"), "device type")
    return TensorMeta(
        dtype,
        shape,
        stride,
        _sym_int(meta.get("storage_offset"), "storage_offset"),
        _bool(meta.get("requires_grad"), "requires_grad"),
        location if index is None else f"{location}:{_int(index, 'device index')}",
        _LAYOUTS.get(layout, "strided"),
    )


def _check_rank(shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    if len(shape) != len(stride) or len(shape) > _MAX_DIMS:
        raise _bad("tensor", f"as many strides as its {len(shape)} sizes", f"{len(stride)}")


def _sym_int(value: object, what: str) -> int:
    return _int(_dict(value, what).get("as_int"), what)


def _ints(value: object, what: str) -> tuple[int, ...]:
    return tuple(_int(item, what) for item in _list(value, what))


def _int(value: object, what: str) -> int:
    if type(value) is not int or value < 0:
        raise _bad(what, "a non-negative integer", describe_json_type(value))
    return value


def _bool(value: object, what: str) -> bool:
    if type(value) is not bool:
        raise _bad(what, "true or false", describe_json_type(value))
    return value


def _text(value: object, what: str) -> str:
    if type(value) is not str:
        raise _bad(what, "a string", describe_json_type(value))
    return value


def _list(value: object, what: str) -> list[object]:
    if type(value) is not list:
        raise _bad(what, "an array", describe_json_type(value))
    return value


def _dict(value: object, what: str) -> dict[str, object]:
    if type(value) is not dict:
        raise _bad(what, "an object", describe_json_type(value))
    return value


def _bad(what: str, expected: str, actual: str) -> MalformedCheckpoint:
    return MalformedCheckpoint(
        f"malformed {what} in the archive's JSON",
        expected=expected,
        actual="a negative integer" if actual == "an integer" and "integer" in expected else actual,
    )
