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

from typing import Any, NamedTuple, TypeAlias, TypeVar

from ckpttool.formats.strict_json import TYPE_WORDS, describe_json_type
from ckpttool.values.checkpoint import Basis, Classification, Kind
from ckpttool.values.dtypes import BY_NAME, DType
from ckpttool.values.errors import MalformedCheckpoint

_T = TypeVar("_T")
_Object: TypeAlias = dict[str, Any]  # whose fields are asked for by type

_DTYPES = {dtype.export: dtype for dtype in BY_NAME.values() if dtype.export}
# ``Layout`` of schema.py; only strided tensors are stored as plain bytes.
_LAYOUTS = {1: "sparse_coo", 2: "sparse_csr", 3: "sparse_csc", 4: "sparse_bsr", 5: "sparse_bsc", 6: "_mkldnn"}
_STRIDED = 7
_MAX_DIMS = 1024  # as for pickled tensors: bounds the work for one tensor

_PARAMETER = Classification(Kind.PARAMETER, Basis.EXPORT)
_BUFFER = Classification(Kind.PERSISTENT_BUFFER, Basis.EXPORT)
_NON_PERSISTENT = Classification(
    Kind.NON_PERSISTENT_BUFFER, Basis.EXPORT, note="carried by the program, not by a state_dict"
)
TENSOR_CONSTANT = Classification(
    Kind.UNKNOWN, Basis.EXPORT, note="tensor constant, not registered", registered=False
)
_REGISTERED = {"parameter": _PARAMETER, "buffer": _BUFFER, "tensor_constant": TENSOR_CONSTANT}


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
    program = _typed(dict, document, "exported program")
    signature = _field(dict, _field(dict, program, "graph_module"), "signature")
    kinds: dict[str, Classification] = {}
    for spec in _field(list, signature, "input_specs"):
        for union, value in _typed(dict, spec, "input spec").items():
            if union not in _REGISTERED:
                continue
            body = _typed(dict, value, union)
            name, kind = _field(str, body, f"{union}_name"), _REGISTERED[union]
            # Absent before schema version 3 (torch 2.3), when all buffers were saved.
            if union == "buffer" and not _typed(bool, body.get("persistent", True), "persistent"):
                kind = _NON_PERSISTENT
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
    for name, value in _field(dict, _typed(dict, document, "payload config"), "config").items():
        body = _typed(dict, value, "payload")
        member, is_param = _field(str, body, "path_name"), _field(bool, body, "is_param")
        use_pickle, meta = _field(bool, body, "use_pickle"), body.get("tensor_meta")
        parsed = None if meta is None else _tensor_meta(_typed(dict, meta, "tensor_meta"))
        payloads.append(Payload(name, member, is_param, use_pickle, parsed))
    return payloads


def parse_shared_views(document: object) -> list[SharedView]:
    """``weights_config.json`` of an AOTInductor package: name -> [member, shape, stride, offset].

    Raises:
        MalformedCheckpoint: a part is missing or of the wrong type.
    """
    views = []
    for name, value in _typed(dict, document, "weights config").items():
        fields = _typed(list, value, "weight")
        if len(fields) != 4:
            raise _bad("weight", "four fields", f"{len(fields)}")
        shape, stride = _ints(fields[1], "shape"), _ints(fields[2], "stride")
        _check_rank(shape, stride)
        views.append(
            SharedView(name, _typed(str, fields[0], "file"), shape, stride, _int(fields[3], "offset"))
        )
    return views


def _tensor_meta(meta: _Object) -> TensorMeta:
    number = _int(meta.get("dtype"), "dtype")
    dtype = _DTYPES.get(number)
    if dtype is None:
        raise _bad("dtype", "a number of ScalarType", f"{number}")
    layout = _int(meta.get("layout"), "layout")
    if layout != _STRIDED and layout not in _LAYOUTS:
        raise _bad("layout", "a number of Layout", f"{layout}")
    shape = tuple(_sym_int(size, "size") for size in _field(list, meta, "sizes"))
    stride = tuple(_sym_int(size, "stride") for size in _field(list, meta, "strides"))
    _check_rank(shape, stride)
    device = _field(dict, meta, "device")
    index, location = device.get("index"), _typed(str, device.get("type"), "device type")
    offset = _sym_int(meta.get("storage_offset"), "storage_offset")
    requires_grad = _field(bool, meta, "requires_grad")
    if index is not None:
        location = f"{location}:{_int(index, 'device index')}"
    return TensorMeta(dtype, shape, stride, offset, requires_grad, location, _LAYOUTS.get(layout, "strided"))


def _check_rank(shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    if len(shape) != len(stride) or len(shape) > _MAX_DIMS:
        raise _bad("tensor", f"as many strides as sizes, {len(shape)}", f"{len(stride)}")


def _sym_int(value: object, what: str) -> int:
    return _int(_typed(dict, value, what).get("as_int"), what)


def _ints(value: object, what: str) -> tuple[int, ...]:
    return tuple(_int(item, what) for item in _typed(list, value, what))


def _int(value: object, what: str) -> int:
    if type(value) is not int or value < 0:
        raise _bad(what, "a non-negative integer", describe_json_type(value))
    return value


def _field(kind: type[_T], body: _Object, name: str) -> _T:
    return _typed(kind, body.get(name), name)


def _typed(kind: type[_T], value: object, what: str) -> _T:
    if type(value) is not kind:
        raise _bad(what, TYPE_WORDS[kind], describe_json_type(value))
    return value


def _bad(what: str, expected: str, actual: str) -> MalformedCheckpoint:
    return MalformedCheckpoint(
        f"malformed {what} in the archive's JSON",
        expected=expected,
        actual="a negative integer" if actual == "an integer" and "integer" in expected else actual,
    )
