"""Writes the pickle of a ``.pt``: protocol 2, only what ``torch.load(weights_only=True)`` accepts.

The mirror of ``formats.pickled.objects``. Nothing here can be made to write a global that is not in
``_GLOBALS`` or a dtype, storage class or quantizer of torch's: names from files are strings only.
Equal input gives equal bytes: no identity, no hash order. Sources: ``torch/_utils.py``,
``torch/_weights_only_unpickler.py`` (the opcodes and globals that it takes), ``pickletools``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ckpttool.conversion.pt.key_literal import parse_key
from ckpttool.values.checkpoint import Key, ModuleExtras, OddKey, Plain, PlainList
from ckpttool.values.conversion import Placed, PlacedComposite
from ckpttool.values.dtypes import parse_torch_name
from ckpttool.values.errors import UnsupportedFeature

_ORDERED_DICT = ("collections", "OrderedDict")
_QSCHEMES = frozenset(("torch.per_tensor_affine", "torch.per_channel_affine"))
# Kind -> the global that is called, the opcodes before the items and those behind them.
_CONTAINERS: dict[str, tuple[tuple[str, str] | None, bytes, bytes]] = {
    "dict": (None, b"}(", b"u"),  # SETITEMS
    "OrderedDict": (_ORDERED_DICT, b")R(", b"u"),
    "list": (None, b"](", b"e"),  # APPENDS
    "tuple": (None, b"(", b"t"),
    "set": (("__builtin__", "set"), b"(](", b"etR"),  # set([…]), as protocol 2 spells it
}


class StorageName(NamedTuple):
    """What a tensor's storage is called in the file: its key and its number of bytes."""

    key: str
    nbytes: int


class PickleWriter:
    """Opcodes in the making. Strings, globals and storages are memoized, as pickle itself does."""

    def __init__(self, storages: Mapping[int, StorageName]) -> None:
        self._out = bytearray(b"\x80\x02")  # PROTO 2
        self._memo: dict[object, int] = {}
        self._storages = storages

    def finish(self) -> bytes:
        """The whole pickle."""
        return bytes(self._out) + b"."

    # -- leaves ---------------------------------------------------------------------------------

    def write_plain(self, value: Plain) -> None:
        """A scalar, a string, bytes, or a tuple or list of them (as deep as a reader lets them nest)."""
        if value is None:
            self._out += b"N"
        elif isinstance(value, bool):
            self._out += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            self.write_int(value)
        elif isinstance(value, float):
            self._out += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            self.write_text(value)
        elif isinstance(value, bytes):
            self.write_bytes(value)
        else:
            kind = "list" if isinstance(value, PlainList) else "tuple"
            self.begin(kind)
            for item in value:
                self.write_plain(item)
            self.end(kind)

    def write_int(self, value: int) -> None:
        """BININT1, BININT2, BININT, LONG1 or LONG4, the shortest that holds it."""
        if 0 <= value <= 0xFF:
            self._out += b"K" + value.to_bytes(1, "little")
        elif 0 <= value <= 0xFFFF:
            self._out += b"M" + value.to_bytes(2, "little")
        elif -(1 << 31) <= value < 1 << 31:
            self._out += b"J" + value.to_bytes(4, "little", signed=True)
        else:
            magnitude = value if value >= 0 else ~value
            data = value.to_bytes(magnitude.bit_length() // 8 + 1, "little", signed=True)
            if len(data) <= 0xFF:
                self._out += b"\x8a" + bytes((len(data),)) + data
            else:
                self._out += b"\x8b" + len(data).to_bytes(4, "little") + data

    def write_text(self, text: str) -> None:
        """BINUNICODE; a lone surrogate as pickle writes it."""
        if not self._recall(text):
            data = text.encode("utf-8", "surrogatepass")
            self._out += b"X" + len(data).to_bytes(4, "little") + data
            self._memoize(text)

    def write_bytes(self, data: bytes) -> None:
        """``_codecs.encode(text, "latin1")``: protocol 2 has no bytes."""
        self._begin_call("_codecs", "encode")
        self.write_text(data.decode("latin1"))
        self.write_text("latin1")
        self._end_call()

    def write_dtype(self, name: str) -> None:
        """The global ``torch.float32``."""
        dtype = parse_torch_name(name)
        if dtype is None:
            raise UnsupportedFeature(f"the dtype {name!r}")
        self._write_global("torch", dtype.name)

    def write_key(self, key: Key) -> None:
        """A key of a mapping."""
        if isinstance(key, OddKey):
            self.write_plain(parse_key(key.text))
        elif isinstance(key, str):
            self.write_text(key)
        else:
            self.write_int(key)

    # -- containers and calls -------------------------------------------------------------------

    def begin(self, kind: str) -> None:
        """A dict, OrderedDict, list, tuple or set: items follow, each behind its key in a mapping."""
        function, opcodes, _ = _CONTAINERS[kind]
        if function is not None:
            self._write_global(*function)
        self._out += opcodes

    def end(self, kind: str) -> None:
        """The last item is written."""
        self._out += _CONTAINERS[kind][2]

    def _begin_call(self, module: str, name: str) -> None:
        """Arguments follow."""
        self._write_global(module, name)
        self._out += b"("

    def _end_call(self) -> None:
        """TUPLE, REDUCE."""
        self._out += b"tR"

    def write_module_metadata(
        self, versions: Mapping[str, int | None], extras: Mapping[str, ModuleExtras]
    ) -> None:
        """BUILD of ``{"_metadata": OrderedDict(…)}`` on the OrderedDict that was just written."""
        self.begin("dict")
        self.write_text("_metadata")
        self.begin("OrderedDict")
        for module, version in versions.items():
            self.write_text(module)
            self.begin("dict")
            if version is not None:
                self.write_text("version")
                self.write_int(version)
            self._write_facts(extras.get(module, ()))
            self.end("dict")
        self.end("dict")
        self.end("dict")
        self._out += b"b"

    def _write_facts(self, facts: ModuleExtras) -> None:
        """Plain facts of a module; those of a path of two keys stand in a dict of their own."""
        inner: dict[str, list[tuple[str, Plain]]] = {}
        for path, plain in facts:
            if len(path) == 1:
                self.write_text(path[0])
                self.write_plain(plain)
            else:
                inner.setdefault(path[0], []).append((path[1], plain))
        for key, items in inner.items():
            self.write_text(key)
            self._write_dict(items)

    def _write_dict(self, items: Sequence[tuple[str, Plain]]) -> None:
        """A dict of plain values."""
        self.begin("dict")
        for name, plain in items:
            self.write_text(name)
            self.write_plain(plain)
        self.end("dict")

    # -- tensors --------------------------------------------------------------------------------

    def write_tensor(self, value: Placed | PlacedComposite, *, requires_grad: bool, parameter: bool) -> None:
        """A tensor, wrapped as a Parameter if it was one."""
        if not parameter:
            self._write_tensor(value, requires_grad)
            return
        self._begin_call("torch._utils", "_rebuild_parameter")
        self._write_tensor(value, False)
        self._write_grad(requires_grad)
        self._end_call()

    def _write_tensor(self, value: Placed | PlacedComposite, requires_grad: bool) -> None:
        if isinstance(value, Placed):
            self._write_strided(value, requires_grad)
        elif value.layout == "quantized":
            self._write_quantized(value, dict(value.parts), requires_grad)
        elif value.layout == "nested":
            parts = dict(value.parts)
            self._begin_call("torch._utils", "_rebuild_nested_tensor")
            for name in ("buffer", "sizes", "strides", "storage_offsets"):
                self._write_tensor(parts[name], False)
            self._end_call()
        else:
            self._write_sparse(value)

    def _write_strided(self, placed: Placed, requires_grad: bool) -> None:
        """``_rebuild_tensor_v2``, or v3 for a dtype without a storage class."""
        untyped = placed.dtype.storage is None
        self._begin_call("torch._utils", "_rebuild_tensor_v3" if untyped else "_rebuild_tensor_v2")
        self._write_view(placed)
        self._write_grad(requires_grad)
        if untyped:
            self.write_dtype(placed.dtype.name)
        if placed.conj or placed.neg:
            flags = (("conj", placed.conj), ("neg", placed.neg))
            self._write_dict([(name, flag) for name, flag in flags if flag])
        self._end_call()

    def _write_view(self, placed: Placed) -> None:
        """Storage, storage_offset, size and stride: the first four arguments of every rebuild."""
        self._write_storage(placed)
        self.write_int(placed.storage_offset // placed.dtype.per_offset)
        self.write_plain(placed.shape)
        self.write_plain(placed.stride)

    def _write_storage(self, placed: Placed) -> None:
        """The persistent id ``("storage", class, key, "cpu", numel)``; untyped or packed, it counts bytes."""
        dtype, name = placed.dtype, self._storages[placed.piece]
        memo = ("storage", name.key, dtype.storage)
        if self._recall(memo):
            self._out += b"Q"
            return
        self.begin("tuple")
        self.write_text("storage")
        if dtype.storage is None:
            self._write_global("torch.storage", "UntypedStorage")
        else:
            self._write_global("torch", dtype.storage)
        self.write_text(name.key)
        self.write_text("cpu")
        self.write_int(name.nbytes if dtype.storage is None else name.nbytes // dtype.nbytes)
        self.end("tuple")
        self._memoize(memo)
        self._out += b"Q"  # BINPERSID

    def _write_sparse(self, value: PlacedComposite) -> None:
        """``_rebuild_sparse_tensor(layout, (…parts, size))``, and whether COO is coalesced, if known."""
        self._begin_call("torch._utils", "_rebuild_sparse_tensor")
        self._begin_call("torch.serialization", "_get_layout")
        self.write_text(f"torch.{value.layout}")
        self._end_call()
        self.begin("tuple")
        for _, part in value.parts:
            self._write_tensor(part, False)
        self.write_plain(value.shape or ())
        if value.coalesced is not None:
            self.write_plain(value.coalesced)
        self.end("tuple")
        self._end_call()

    def _write_quantized(
        self, value: PlacedComposite, parts: Mapping[str, Placed | PlacedComposite], requires_grad: bool
    ) -> None:
        """``_rebuild_qtensor(storage, offset, size, stride, (qscheme, scale, zero_point[, axis]), …)``."""
        integers, details = parts["int_repr"], dict(value.details)
        if value.type_name not in _QSCHEMES or not isinstance(integers, Placed):
            raise UnsupportedFeature(f"the quantizer {value.type_name!r}")
        self._begin_call("torch._utils", "_rebuild_qtensor")
        self._write_view(integers)
        self.begin("tuple")
        self._write_global("torch", value.type_name.removeprefix("torch."))
        for name in ("scale", "zero_point", "axis"):
            if name in parts:
                self._write_tensor(parts[name], False)
            elif name in details:
                self.write_plain(details[name])
        self.end("tuple")
        self._write_grad(requires_grad)
        self._end_call()

    def _write_grad(self, requires_grad: bool) -> None:
        """``requires_grad``, and the backward hooks, of which there are none."""
        self.write_plain(requires_grad)
        self._write_global(*_ORDERED_DICT)
        self._out += b")R"

    # -- memo -----------------------------------------------------------------------------------

    def _write_global(self, module: str, name: str) -> None:
        if not self._recall((module, name)):
            self._out += b"c" + module.encode() + b"\n" + name.encode() + b"\n"
            self._memoize((module, name))

    def _recall(self, key: object) -> bool:
        """BINGET or LONG_BINGET if ``key`` was written before."""
        number = self._memo.get(key)
        if number is None:
            return False
        self._out += b"h" + bytes((number,)) if number <= 0xFF else b"j" + number.to_bytes(4, "little")
        return True

    def _memoize(self, key: object) -> None:
        """BINPUT or LONG_BINPUT."""
        number = self._memo[key] = len(self._memo)
        self._out += b"q" + bytes((number,)) if number <= 0xFF else b"r" + number.to_bytes(4, "little")
