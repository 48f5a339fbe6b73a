"""All opcodes but those that fill real checkpoints, which ``tree`` has in its loop.

Each is a function (machine, position of its argument) -> position after it. They stand together, although
that makes a long file: a reader compares them with ``pickletools`` one by one, down to the table at the end.
"""

from __future__ import annotations

from codecs import escape_decode
from collections.abc import Callable
from struct import Struct
from warnings import catch_warnings, simplefilter

from ckpttool.pickles.machine import Machine
from ckpttool.pickles.nodes import (
    ADD_EXTENSION,
    LOCATED_NBYTES,
    MANY_DIGITS,
    MAX_DIGITS,
    MAX_INT_NBYTES,
    NOT_UTF8,
    BigInt,
    Call,
    DictNode,
    LocatedBytes,
    Node,
    PersistentId,
    SetNode,
    is_mapping_call,
)
from ckpttool.values.errors import MalformedCheckpoint

_U16 = Struct("<H").unpack_from
_U32 = Struct("<I").unpack_from
_I32 = Struct("<i").unpack_from
_U64 = Struct("<Q").unpack_from
_F64_BIG = Struct(">d").unpack_from


def _int_text(m: Machine, pos: int) -> int:
    text, pos = m.line(pos)
    if text in (b"00", b"01"):  # protocol 0's booleans
        m.stack.append(text == b"01")
    else:
        m.stack.append(_decimal(m, text))
    return pos


def _long_text(m: Machine, pos: int) -> int:
    text, pos = m.line(pos)
    m.stack.append(_decimal(m, text.removesuffix(b"L")))
    return pos


def _decimal(m: Machine, text: bytes) -> int | BigInt:
    """An integer in decimal; ``int()`` is quadratic, so long ones only give their size."""
    if len(text) > MAX_DIGITS:
        m.rare_opcodes.add(MANY_DIGITS)
    if len(text) > 1233:  # digits of 2**4096
        return BigInt(len(text) * 3322 // 1000)
    try:
        return int(text)
    except ValueError:
        raise MalformedCheckpoint("not an integer in a pickle", byte_offset=m.op_start) from None


def _long_bytes(m: Machine, pos: int, nbytes: int) -> int:
    raw = m.take(pos, nbytes)
    if nbytes > MAX_INT_NBYTES:
        m.stack.append(BigInt(nbytes * 8))
    else:
        m.stack.append(int.from_bytes(raw, "little", signed=True))
    return pos + nbytes


def _long4(m: Machine, pos: int) -> int:
    return _long_bytes(m, pos + 4, _I32(m.data, pos)[0])


def _float_text(m: Machine, pos: int) -> int:
    text, pos = m.line(pos)
    try:
        m.stack.append(float(text))
    except ValueError:
        raise MalformedCheckpoint("not a number in a pickle", byte_offset=m.op_start) from None
    return pos


def _binfloat(m: Machine, pos: int) -> int:
    m.stack.append(_F64_BIG(m.data, pos)[0])
    return pos + 8


def _python2_string(m: Machine, raw: bytes) -> None:
    """A str of Python 2: text if it is UTF-8 (as torch.load asks for), else bytes."""
    try:
        m.stack.append(raw.decode("utf-8"))
    except UnicodeDecodeError:
        m.stack.append(raw)
        m.rare_opcodes.add(NOT_UTF8)


def _string_text(m: Machine, pos: int) -> int:
    text, pos = m.line(pos)
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise MalformedCheckpoint("the STRING opcode's argument is not quoted", byte_offset=m.op_start)
    try:
        with catch_warnings():  # of escapes such as \d, which mean themselves
            simplefilter("ignore")
            raw = escape_decode(text[1:-1])[0]
    except ValueError:
        raise MalformedCheckpoint("bad escape in a pickle's string", byte_offset=m.op_start) from None
    _python2_string(m, bytes(raw))
    return pos


def _unicode_text(m: Machine, pos: int) -> int:
    text, pos = m.line(pos)
    m.stack.append(str(text, "raw-unicode-escape"))
    return pos


def _sized(
    size_nbytes: int, size: Callable[[bytes, int], tuple[int]], push: Callable[[Machine, bytes, int], None]
) -> Callable[[Machine, int], int]:
    """An opcode with a length in front of its bytes; ``push`` takes the bytes and their offset."""

    def opcode(m: Machine, pos: int) -> int:
        nbytes = size(m.data, pos)[0]
        pos += size_nbytes
        push(m, m.take(pos, nbytes), pos)
        return pos + nbytes

    return opcode


def _u8(data: bytes, pos: int) -> tuple[int]:
    return (data[pos],)


def _push_text(m: Machine, raw: bytes, _pos: int) -> None:
    m.push_node(str(raw, "utf-8", "surrogatepass"))


def _push_bytes(m: Machine, raw: bytes, pos: int) -> None:
    if len(raw) < LOCATED_NBYTES:
        m.push_node(raw)
        return
    located = LocatedBytes(raw)
    located.byte_offset = pos
    m.push_node(located)


def _push_python2(m: Machine, raw: bytes, _pos: int) -> None:
    _python2_string(m, raw)


def _push(make: Callable[[], Node]) -> Callable[[Machine, int], int]:
    def opcode(m: Machine, pos: int) -> int:
        m.push_node(make())
        return pos

    return opcode


def _newtrue(m: Machine, pos: int) -> int:
    m.stack.append(True)
    return pos


def _append(m: Machine, pos: int) -> int:
    item = m.pop()
    _extend(m, [item])
    return pos


def _appends(m: Machine, pos: int) -> int:
    _extend(m, m.pop_mark())
    return pos


def _extend(m: Machine, items: list[Node]) -> None:
    target = m.pop()
    m.stack.append(target)
    if type(target) is list:
        target.extend(items)
    elif isinstance(target, Call):
        m.note_change_of_object()
        _append_to_call(target, items)
    elif items:  # none: nothing is done, whatever the target
        raise m.misuse("APPENDS", target)


def _append_to_call(target: Call, items: list[Node]) -> None:
    """Keep appended items, in place: a pickle may append a million, one by one."""
    if target.appended is None:
        target.appended = items
    else:
        target.appended.extend(items)


def _list(m: Machine, pos: int) -> int:
    m.push_node(m.pop_mark())
    return pos


def _dict(m: Machine, pos: int) -> int:
    items = m.pop_mark()
    if len(items) % 2:
        raise MalformedCheckpoint("odd number of items for a dict in a pickle", byte_offset=m.op_start)
    m.push_node(DictNode(items))
    return pos


def _setitem(m: Machine, pos: int) -> int:
    value = m.pop()
    key = m.pop()
    _set_items(m, [key, value])
    return pos


def _setitems(m: Machine, pos: int) -> int:
    items = m.pop_mark()
    if len(items) % 2:
        raise MalformedCheckpoint("odd number of items for SETITEMS in a pickle", byte_offset=m.op_start)
    _set_items(m, items)
    return pos


def _set_items(m: Machine, items: list[Node]) -> None:
    target = m.pop()
    m.stack.append(target)
    if isinstance(target, DictNode):
        target.items.extend(items)
    elif isinstance(target, Call):
        if not is_mapping_call(target):
            m.note_change_of_object()
        if target.items is None:
            target.items = items
        else:
            target.items.extend(items)
    elif items:  # none: nothing is done, whatever the target
        raise m.misuse("SETITEMS", target)


def _additems(m: Machine, pos: int) -> int:
    items = m.pop_mark()
    target = m.pop()
    m.stack.append(target)
    if isinstance(target, SetNode) and not target.frozen:
        target.items.extend(items)
    elif isinstance(target, Call):
        _append_to_call(target, items)
    elif items:  # none: nothing is done, whatever the target
        raise m.misuse("ADDITEMS", target)
    return pos


def _frozenset(m: Machine, pos: int) -> int:
    m.push_node(SetNode(m.pop_mark(), frozen=True))
    return pos


def _tuple3(m: Machine, pos: int) -> int:
    third, second, first = m.pop(), m.pop(), m.pop()
    m.push_node((first, second, third))
    return pos


def _pop(m: Machine, pos: int) -> int:
    # As CPython: POP right behind a MARK removes the mark.
    if m.marks and m.marks[-1] == len(m.stack):
        m.marks.pop()
    else:
        m.pop()
    return pos


def _pop_mark(m: Machine, pos: int) -> int:
    m.pop_mark()
    return pos


def _dup(m: Machine, pos: int) -> int:
    item = m.pop()
    m.stack += [item, item]
    return pos


def _get_text(m: Machine, pos: int) -> int:
    text, pos = m.line(pos)
    index = _decimal(m, text)
    m.stack.append(m.memo[index] if isinstance(index, int) else m.memo[-1])
    return pos


def _put_text(m: Machine, pos: int) -> int:
    text, pos = m.line(pos)
    index = _decimal(m, text)
    if not isinstance(index, int) or index < 0:
        raise MalformedCheckpoint("negative or huge memo index in a pickle", byte_offset=m.op_start)
    m.put(index)
    return pos


def _memoize(m: Machine, pos: int) -> int:
    m.put(len(m.memo))
    return pos


def _ext(size_nbytes: int, size: Callable[[bytes, int], tuple[int]]) -> Callable[[Machine, int], int]:
    def opcode(m: Machine, pos: int) -> int:
        code = size(m.data, pos)[0]
        m.stack.append(m.global_(*_registered(m, code) or ("copyreg.extension", str(code))))
        return pos + size_nbytes

    return opcode


def _registered(m: Machine, code: int) -> tuple[str, str] | None:
    """What a call of ``copyreg.add_extension`` in this pickle gave a code for: the first, others fail."""
    register = m.globals.get(ADD_EXTENSION)
    for call in register.first_calls if register is not None else ():
        args = call.args
        if type(args) is tuple and len(args) == 3 and type(args[2]) is int and args[2] == code:
            module, name = args[:2]
            if type(module) is str and type(name) is str:
                return module, name
    return None


def _global_text(m: Machine, pos: int) -> int:
    module, pos = m.line(pos)
    name, pos = m.line(pos)
    m.stack.append(m.global_(str(module, "utf-8"), str(name, "utf-8")))
    return pos


def _stack_global(m: Machine, pos: int) -> int:
    name, module = m.pop(), m.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise MalformedCheckpoint("STACK_GLOBAL in a pickle needs two strings", byte_offset=m.op_start)
    m.stack.append(m.global_(module, name))
    return pos


def _build(m: Machine, pos: int) -> int:
    state = m.pop()
    target = m.pop()
    m.stack.append(target)
    if isinstance(target, Call):
        if target.states is None:
            target.states = []
        target.states.append(state)
        if not is_mapping_call(target):
            m.note_change_of_object()
    else:  # setattr on something already there, e.g. a class: keep it in sight as a call
        m.note_change_of_object()
        m.stack[-1] = Call("build", target, (state,), m.op_start)
    m.nodes += 1
    return pos


def _inst(m: Machine, pos: int) -> int:
    module, pos = m.line(pos)
    name, pos = m.line(pos)
    args = tuple(m.pop_mark())
    m.call("inst", m.global_(str(module, "utf-8"), str(name, "utf-8")), args)
    return pos


def _obj(m: Machine, pos: int) -> int:
    items = m.pop_mark()
    if not items:
        raise m.underflow()
    m.call("obj", items[0], tuple(items[1:]))
    return pos


def _newobj(m: Machine, pos: int) -> int:
    args, cls = m.pop(), m.pop()
    m.call("newobj", cls, args)
    return pos


def _tuple1(m: Machine, pos: int) -> int:
    m.push_node((m.pop(),))
    return pos


def _none(m: Machine, pos: int) -> int:
    m.stack.append(None)
    return pos


def _newobj_ex(m: Machine, pos: int) -> int:
    kwargs, args, cls = m.pop(), m.pop(), m.pop()
    m.call("newobj_ex", cls, (args, kwargs))
    return pos


def _persid_text(m: Machine, pos: int) -> int:
    text, pos = m.line(pos)
    persistent = PersistentId(str(text, "utf-8"))
    m.persistent_ids.append(persistent)
    m.push_node(persistent)
    return pos


def _proto(m: Machine, pos: int) -> int:
    m.protocol = m.data[pos]
    if m.protocol > 5:
        raise MalformedCheckpoint(
            "unknown pickle protocol", byte_offset=m.op_start, expected="0 to 5", actual=m.protocol
        )
    return pos + 1


def _frame(_m: Machine, pos: int) -> int:
    return pos + 8  # a hint about buffering; the unpickler does not depend on it


def _buffer(m: Machine, pos: int) -> int:
    raise MalformedCheckpoint("the pickle needs out-of-band buffers", byte_offset=m.op_start)


RARE: dict[int, Callable[[Machine, int], int]] = {
    0x49: _int_text,  # INT
    0x4C: _long_text,  # LONG
    0x8A: lambda m, pos: _long_bytes(m, pos + 1, m.data[pos]),  # LONG1
    0x8B: _long4,  # LONG4
    0x46: _float_text,  # FLOAT
    0x47: _binfloat,  # BINFLOAT
    0x53: _string_text,  # STRING
    0x54: _sized(4, _I32, _push_python2),  # BINSTRING
    0x55: _sized(1, _u8, _push_python2),  # SHORT_BINSTRING
    0x56: _unicode_text,  # UNICODE
    0x8C: _sized(1, _u8, _push_text),  # SHORT_BINUNICODE
    0x8D: _sized(8, _U64, _push_text),  # BINUNICODE8
    0x42: _sized(4, _U32, _push_bytes),  # BINBYTES
    0x43: _sized(1, _u8, _push_bytes),  # SHORT_BINBYTES
    0x8E: _sized(8, _U64, _push_bytes),  # BINBYTES8
    0x96: _sized(8, _U64, _push_bytes),  # BYTEARRAY8
    0x97: _buffer,  # NEXT_BUFFER
    0x98: _buffer,  # READONLY_BUFFER
    0x88: _newtrue,  # NEWTRUE
    0x5D: _push(list),  # EMPTY_LIST
    0x7D: _push(DictNode),  # EMPTY_DICT
    0x8F: _push(lambda: SetNode([], frozen=False)),  # EMPTY_SET
    0x61: _append,  # APPEND
    0x65: _appends,  # APPENDS
    0x6C: _list,  # LIST
    0x64: _dict,  # DICT
    0x73: _setitem,  # SETITEM
    0x75: _setitems,  # SETITEMS
    0x90: _additems,  # ADDITEMS
    0x91: _frozenset,  # FROZENSET
    0x4E: _none,  # NONE
    0x85: _tuple1,  # TUPLE1
    0x81: _newobj,  # NEWOBJ
    0x87: _tuple3,  # TUPLE3
    0x30: _pop,  # POP
    0x31: _pop_mark,  # POP_MARK
    0x32: _dup,  # DUP
    0x67: _get_text,  # GET
    0x70: _put_text,  # PUT
    0x94: _memoize,  # MEMOIZE
    0x82: _ext(1, _u8),  # EXT1
    0x83: _ext(2, _U16),  # EXT2
    0x84: _ext(4, _I32),  # EXT4
    0x63: _global_text,  # GLOBAL
    0x93: _stack_global,  # STACK_GLOBAL
    0x62: _build,  # BUILD
    0x69: _inst,  # INST
    0x6F: _obj,  # OBJ
    0x92: _newobj_ex,  # NEWOBJ_EX
    0x50: _persid_text,  # PERSID
    0x80: _proto,  # PROTO
    0x95: _frame,  # FRAME
}
