"""An assembler for pickles: one function or constant per opcode, and the idioms of torch on top.

``PROTO(2) + GLOBAL("posix", "system") + UNICODE("id") + TUPLE1 + REDUCE + STOP`` is what it looks like.
Nothing is checked, so that broken pickles can be written as easily as sound ones. Names of opcodes are
those of ``pickletools``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

MARK, STOP, POP, POP_MARK, DUP = b"(", b".", b"0", b"1", b"2"
NONE, NEWTRUE, NEWFALSE = b"N", b"\x88", b"\x89"
REDUCE, BUILD, OBJ, NEWOBJ, NEWOBJ_EX, STACK_GLOBAL = b"R", b"b", b"o", b"\x81", b"\x92", b"\x93"
EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3 = b")", b"t", b"\x85", b"\x86", b"\x87"
EMPTY_LIST, LIST, APPEND, APPENDS = b"]", b"l", b"a", b"e"
EMPTY_DICT, DICT, SETITEM, SETITEMS = b"}", b"d", b"s", b"u"
EMPTY_SET, ADDITEMS, FROZENSET = b"\x8f", b"\x90", b"\x91"
BINPERSID, MEMOIZE, NEXT_BUFFER, READONLY_BUFFER = b"Q", b"\x94", b"\x97", b"\x98"


def PROTO(version: int) -> bytes:
    return bytes([0x80, version])


def FRAME(nbytes: int) -> bytes:
    return b"\x95" + struct.pack("<Q", nbytes)


def GLOBAL(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def INST(module: str, name: str) -> bytes:
    return b"i" + module.encode() + b"\n" + name.encode() + b"\n"


def EXT1(code: int) -> bytes:
    return b"\x82" + struct.pack("<B", code)


def EXT2(code: int) -> bytes:
    return b"\x83" + struct.pack("<H", code)


def EXT4(code: int) -> bytes:
    return b"\x84" + struct.pack("<i", code)


def PERSID(text: str) -> bytes:
    return b"P" + text.encode() + b"\n"


def INT(text: str) -> bytes:
    return b"I" + text.encode() + b"\n"


def LONG(text: str) -> bytes:
    return b"L" + text.encode() + b"L\n"


def BININT(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def LONG1(raw: bytes) -> bytes:
    return b"\x8a" + bytes([len(raw)]) + raw


def LONG4(raw: bytes, claimed: int | None = None) -> bytes:
    return b"\x8b" + struct.pack("<i", len(raw) if claimed is None else claimed) + raw


def FLOAT(text: str) -> bytes:
    return b"F" + text.encode() + b"\n"


def BINFLOAT(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def STRING(quoted: str) -> bytes:
    return b"S" + quoted.encode() + b"\n"


def BINSTRING(raw: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(raw)) + raw


def UNICODE(text: str) -> bytes:
    return b"V" + text.encode("raw-unicode-escape") + b"\n"


def SHORT_BINUNICODE(text: str) -> bytes:
    raw = text.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def BINUNICODE(text: str | bytes, claimed: int | None = None) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw) if claimed is None else claimed) + raw


def BINUNICODE8(text: str, claimed: int | None = None) -> bytes:
    raw = text.encode()
    return b"\x8d" + struct.pack("<Q", len(raw) if claimed is None else claimed) + raw


def BINBYTES(raw: bytes, claimed: int | None = None) -> bytes:
    return b"B" + struct.pack("<I", len(raw) if claimed is None else claimed) + raw


def BINBYTES8(raw: bytes, claimed: int | None = None) -> bytes:
    return b"\x8e" + struct.pack("<Q", len(raw) if claimed is None else claimed) + raw


def BYTEARRAY8(raw: bytes, claimed: int | None = None) -> bytes:
    return b"\x96" + struct.pack("<Q", len(raw) if claimed is None else claimed) + raw


def GET(text: str) -> bytes:
    return b"g" + text.encode() + b"\n"


def PUT(text: str) -> bytes:
    return b"p" + text.encode() + b"\n"


def BINPUT(index: int) -> bytes:
    return b"q" + bytes([index])


def BINGET(index: int) -> bytes:
    return b"h" + bytes([index])


def LONG_BINPUT(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def LONG_BINGET(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


# -- values: Python literals become opcodes; bytes are opcodes already -------------------------------


def push(value: Any) -> bytes:
    """Opcodes that push ``value``; ``bytes`` stand for themselves (data is ``BINBYTES``)."""
    if isinstance(value, bytes):
        return value
    if value is None:
        return NONE
    if isinstance(value, bool):
        return NEWTRUE if value else NEWFALSE
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return BININT(value)
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return LONG1(raw) if len(raw) < 256 else LONG4(raw)
    if isinstance(value, float):
        return BINFLOAT(value)
    if isinstance(value, str):
        return BINUNICODE(value)
    if isinstance(value, Mapping):
        return EMPTY_DICT + MARK + b"".join(push(k) + push(v) for k, v in value.items()) + SETITEMS
    if isinstance(value, tuple):
        return MARK + b"".join(map(push, value)) + TUPLE
    if isinstance(value, list):
        return EMPTY_LIST + MARK + b"".join(map(push, value)) + APPENDS
    raise TypeError(value)


def dump(value: Any, protocol: int = 2) -> bytes:
    """A whole pickle of ``value``."""
    return (PROTO(protocol) if protocol > 1 else b"") + push(value) + STOP


def call(function: str, *args: Any) -> bytes:
    """``function(*args)`` by GLOBAL and REDUCE; ``function`` is ``module:qualified.name``."""
    module, _, name = function.partition(":")
    return GLOBAL(module, name) + push(tuple(args)) + REDUCE


def named(function: str) -> bytes:
    """The global ``module:qualified.name`` itself."""
    module, _, name = function.partition(":")
    return GLOBAL(module, name)


def with_state(target: bytes, state: Any) -> bytes:
    """BUILD: ``target.__setstate__(state)``."""
    return target + push(state) + BUILD


# -- torch ----------------------------------------------------------------------------------------


def storage(
    key: Any = "0", cls: str = "torch:FloatStorage", numel: Any = 4, location: Any = "cpu", *more: Any
) -> bytes:
    """A storage's persistent id, as torch.save writes it."""
    return push(("storage", named(cls), key, location, numel, *more)) + BINPERSID


def tensor(
    source: bytes | None = None,
    offset: Any = 0,
    size: Any = (4,),
    stride: Any = (1,),
    requires_grad: Any = False,
    hooks: Any = None,
    *more: Any,
) -> bytes:
    """``torch._utils._rebuild_tensor_v2``."""
    hooks = call("collections:OrderedDict") if hooks is None else hooks
    return call(
        "torch._utils:_rebuild_tensor_v2",
        storage() if source is None else source,
        offset,
        size,
        stride,
        requires_grad,
        hooks,
        *more,
    )


def parameter(data: bytes | None = None, requires_grad: Any = True) -> bytes:
    """``torch._utils._rebuild_parameter``."""
    return call(
        "torch._utils:_rebuild_parameter",
        tensor() if data is None else data,
        requires_grad,
        call("collections:OrderedDict"),
    )


def ordered(items: Mapping[str, Any] | Sequence[tuple[Any, Any]], metadata: Any = None) -> bytes:
    """An OrderedDict of ``items``, with ``_metadata`` as a state_dict has it."""
    pairs = list(items.items()) if isinstance(items, Mapping) else list(items)
    code = call("collections:OrderedDict") + MARK + b"".join(push(k) + push(v) for k, v in pairs) + SETITEMS
    return code if metadata is None else with_state(code, {"_metadata": metadata})


def module(cls: str = "torch.nn.modules.module:Module", **state: Any) -> bytes:
    """A pickled nn.Module: NEWOBJ and BUILD; parameters, buffers and modules may be given."""
    attributes = {
        "training": True,
        "_parameters": state.pop("parameters", {}),
        "_buffers": state.pop("buffers", {}),
        "_non_persistent_buffers_set": call("builtins:set", state.pop("non_persistent", [])),
        "_modules": state.pop("modules", {}),
        **state,
    }
    return with_state(named(cls) + EMPTY_TUPLE + NEWOBJ, attributes)


def laughs(levels: int, width: int, opener: bytes, item: bytes, closer: bytes, seed: Any = "lol") -> bytes:
    """Billion laughs: each level holds ``width`` references to the one below; the top is left on the stack.

    ``item`` is put in front of each reference (a key, for mappings: ``%d`` is the reference's number).
    """
    code = push(seed) + BINPUT(0)
    for level in range(levels):
        inner = b"".join((item % n if b"%d" in item else item) + BINGET(level) for n in range(width))
        code += opener + inner + closer + BINPUT(level + 1)
    return code
