"""Bytes of a pickle -> an inert tree. Nothing is imported, called or built; torch is unknown here.

The machine follows the stack and memo of CPython's unpickler (protocols 0 to 5) and turns every
opcode that would import or call into a node:

- GLOBAL, STACK_GLOBAL -> ``Global``;   EXT1/2/4 -> ``Global("copyreg.extension", code)``
- REDUCE, NEWOBJ, NEWOBJ_EX, INST, OBJ -> ``Call``; BUILD, APPEND(S), SETITEM(S) on it are kept
- PERSID, BINPERSID -> ``PersistentId``;   dict -> ``DictNode``, set -> ``SetNode``
- numbers, strings, bytes, None, tuples and lists stay themselves (a list is only a list here)

Mapping keys are never hashed or compared: a key may be a deep structure. ``pickletools`` is not
used at run time because its generator is five times slower than this loop and imports ``pickle``;
the tests compare the two, opcode by opcode (``tests/test_pickle_tree.py``).
"""

from __future__ import annotations

from codecs import escape_decode
from collections.abc import Callable, Iterator
from itertools import repeat
from struct import Struct
from struct import error as StructError
from typing import Any, TypeAlias
from warnings import catch_warnings, simplefilter

from ckpttool.errors import LimitExceeded, MalformedCheckpoint

Node: TypeAlias = Any
"""int, float, bool, None, str, bytes, bytearray, tuple, list, or one of the classes below."""


class PickleCutOff(MalformedCheckpoint):
    """The data ends before the pickle's STOP: a caller that has more data may try again with it."""


# Shorter bytes hold no file, so nobody asks where they lie; a LocatedBytes takes 200 bytes more.
_LOCATED_NBYTES = 128
_MAX_INT_NBYTES = 512  # longer integers become BigInt: 100,000-bit ints are legal and useless here


class Global:
    """A name that an unpickler would import."""

    __slots__ = ("byte_offset", "called", "module", "name")

    def __init__(self, module: str, name: str, byte_offset: int) -> None:
        self.module = module
        self.name = name
        self.byte_offset = byte_offset
        self.called = False

    @property
    def full_name(self) -> str:
        """``module.name``."""
        return f"{self.module}.{self.name}"


class Call:
    """Something an unpickler would call; ``op`` is the opcode's name in lower case.

    ``states`` are the arguments of BUILD, ``appended`` of APPEND(S), ``items`` of SETITEM(S) as a
    flat list key, value, key, value …
    """

    __slots__ = ("appended", "args", "byte_offset", "function", "items", "op", "states")

    def __init__(self, op: str, function: Node, args: Node, byte_offset: int) -> None:
        self.op = op
        self.function = function
        self.args = args
        self.byte_offset = byte_offset
        self.states: list[Node] | None = None
        self.appended: list[Node] | None = None
        self.items: list[Node] | None = None


class PersistentId:
    """An object that lies outside the pickle, by its id."""

    __slots__ = ("pid",)

    def __init__(self, pid: Node) -> None:
        self.pid = pid


class DictNode:
    """A dict as a flat list key, value, key, value … in the order of insertion."""

    __slots__ = ("items",)

    def __init__(self, items: list[Node] | None = None) -> None:
        self.items: list[Node] = [] if items is None else items


class SetNode:
    """A set or frozenset as a list of its items."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: list[Node], frozen: bool) -> None:
        self.items = items
        self.frozen = frozen


class BigInt:
    """An integer of more than 4096 bits: only its size is of interest."""

    __slots__ = ("nbits",)

    def __init__(self, nbits: int) -> None:
        self.nbits = nbits


class LocatedBytes(bytes):
    """A bytes object, not a short one, that knows where its first byte lies in the pickle."""

    byte_offset: int = 0


class PickleTree:
    """One pickle: its value, where it ends, and every global and call on the way.

    ``globals`` holds each distinct (module, name) once, in order of appearance, whether or not the
    value reaches it: a call that is popped again still runs in an unpickler. ``persistent_ids`` are all
    of the pickle's, in order.
    """

    __slots__ = ("end", "globals", "persistent_ids", "protocol", "value")

    def __init__(
        self,
        value: Node,
        end: int,
        protocol: int,
        globals_: dict[tuple[str, str], Global],
        persistent_ids: list[PersistentId],
    ) -> None:
        self.value = value
        self.end = end
        self.protocol = protocol
        self.globals = globals_
        self.persistent_ids = persistent_ids


def iter_items(flat: list[Node] | None) -> Iterator[tuple[Node, Node]]:
    """(key, value) pairs of a flat item list."""
    if flat:
        yield from zip(flat[::2], flat[1::2], strict=True)


def parse_pickle(
    data: bytes, *, start: int = 0, max_ops: int, max_nodes: int, max_name: int, path: str | None = None
) -> PickleTree:
    """Run the machine over the pickle that begins at ``data[start]``.

    ``max_ops`` bounds opcodes, ``max_nodes`` containers with strings and (apart) memo entries,
    ``max_name`` the bytes of a global's name.

    Raises:
        MalformedCheckpoint: truncated, unknown opcode, stack or memo misuse, text that is not UTF-8.
        LimitExceeded: more opcodes, nodes or memo entries than allowed.
    """
    machine = _Machine(data, start, max_ops, max_nodes, max_name)
    try:
        return machine.run()
    except (MalformedCheckpoint, LimitExceeded) as error:
        error.path = path
        raise


_U16 = Struct("<H").unpack_from
_U32 = Struct("<I").unpack_from
_I32 = Struct("<i").unpack_from
_U64 = Struct("<Q").unpack_from
_F64_BIG = Struct(">d").unpack_from


class _Machine:
    """The unpickler's state. ``run`` holds the opcodes that fill real checkpoints in one loop."""

    def __init__(self, data: bytes, start: int, max_ops: int, max_nodes: int, max_name: int) -> None:
        self.data = data
        self.start = start
        self.op_start = start  # where the current rare opcode begins, for messages
        self.max_ops = max_ops
        self.max_nodes = max_nodes
        self.max_name = max_name
        self.nodes = 0
        self.stack: list[Node] = []
        self.marks: list[int] = []  # stack heights at each open MARK
        self.memo: dict[int, Node] = {}
        self.globals: dict[tuple[str, str], Global] = {}
        self.persistent_ids: list[PersistentId] = []
        self.protocol = 0

    def run(self) -> PickleTree:
        """Interpret until STOP.

        One long loop on purpose: 20,000 tensors are 900,000 opcodes, and a call for each would
        take most of the budget of ``inspect``. Opcodes are compared in order of their frequency
        in torch's pickles; all others go through ``_RARE``.
        """
        data, stack, marks, memo = self.data, self.stack, self.marks, self.memo
        push, pop = stack.append, stack.pop
        max_nodes, persistent_ids = self.max_nodes, self.persistent_ids
        nodes = 0
        pos = self.start
        try:
            for _ in repeat(None, self.max_ops):
                op = data[pos]
                pos += 1
                if op == 0x72:  # LONG_BINPUT
                    memo[_U32(data, pos)[0]] = stack[-1]
                    pos += 4
                    if len(memo) > max_nodes:
                        raise self.too_many_nodes()
                elif op == 0x4B:  # BININT1
                    push(data[pos])
                    pos += 1
                elif op == 0x68:  # BINGET
                    push(memo[data[pos]])
                    pos += 1
                elif op == 0x28:  # MARK
                    marks.append(len(stack))
                elif op == 0x58:  # BINUNICODE
                    end = pos + 4 + _U32(data, pos)[0]
                    if end > len(data):
                        raise PickleCutOff("the pickle is cut off in a string", byte_offset=pos - 1)
                    push(str(data[pos + 4 : end], "utf-8", "surrogatepass"))
                    pos = end
                    nodes += 1
                    if nodes > max_nodes:
                        raise self.too_many_nodes()
                elif op == 0x74:  # TUPLE
                    mark = marks.pop()
                    items = tuple(stack[mark:])
                    del stack[mark:]
                    push(items)
                    nodes += 1
                    if nodes > max_nodes or len(memo) > max_nodes:
                        raise self.too_many_nodes()
                elif op == 0x86:  # TUPLE2
                    second = pop()
                    if len(stack) <= (marks[-1] if marks else 0):
                        raise self.underflow(pos - 1)
                    stack[-1] = (stack[-1], second)
                    nodes += 1
                    if nodes > max_nodes:
                        raise self.too_many_nodes()
                elif op == 0x52:  # REDUCE
                    args = pop()
                    if len(stack) <= (marks[-1] if marks else 0):
                        raise self.underflow(pos - 1)
                    function = stack[-1]
                    if type(function) is Global:
                        function.called = True
                    stack[-1] = Call("reduce", function, args, pos - 1)
                    nodes += 1
                    if nodes > max_nodes:
                        raise self.too_many_nodes()
                elif op == 0x51:  # BINPERSID
                    if len(stack) <= (marks[-1] if marks else 0):
                        raise self.underflow(pos - 1)
                    stack[-1] = persistent = PersistentId(stack[-1])
                    persistent_ids.append(persistent)
                    nodes += 1
                    if nodes > max_nodes:
                        raise self.too_many_nodes()
                elif op == 0x29:  # EMPTY_TUPLE
                    push(())
                elif op == 0x89:  # NEWFALSE
                    push(False)
                elif op == 0x71:  # BINPUT
                    memo[data[pos]] = stack[-1]
                    pos += 1
                elif op == 0x4D:  # BININT2
                    push(_U16(data, pos)[0])
                    pos += 2
                elif op == 0x6A:  # LONG_BINGET
                    push(memo[_U32(data, pos)[0]])
                    pos += 4
                elif op == 0x4A:  # BININT
                    push(_I32(data, pos)[0])
                    pos += 4
                elif op == 0x2E:  # STOP
                    if marks or not stack:
                        raise self.underflow(pos - 1)
                    return PickleTree(stack[-1], pos, self.protocol, self.globals, persistent_ids)
                else:
                    rare = _RARE.get(op)
                    if rare is None:
                        raise MalformedCheckpoint(
                            "not a pickle opcode", byte_offset=pos - 1, actual=f"byte 0x{op:02x}"
                        )
                    self.op_start = pos - 1
                    pos = rare(self, pos)
                    if nodes + self.nodes > max_nodes or len(memo) > max_nodes:
                        raise self.too_many_nodes()
        except StructError:
            raise PickleCutOff("the pickle is cut off", byte_offset=pos) from None
        except IndexError:
            if pos >= len(data):  # of data, or of the stack by the last byte that there is
                raise PickleCutOff("the pickle is cut off", byte_offset=pos) from None
            raise self.underflow(pos) from None
        except KeyError:
            raise MalformedCheckpoint(
                "a pickle reads a memo entry that was never written", byte_offset=pos
            ) from None
        except UnicodeDecodeError:
            raise MalformedCheckpoint("a string in a pickle is not UTF-8", byte_offset=pos) from None
        raise LimitExceeded("number of opcodes in a pickle", limit=self.max_ops)

    # -- pieces that the rare opcodes share ------------------------------------------------

    def underflow(self, byte_offset: int | None = None) -> MalformedCheckpoint:
        """The error for an opcode that finds too little on the stack."""
        where = self.op_start if byte_offset is None else byte_offset
        return MalformedCheckpoint("a pickle opcode finds its stack empty", byte_offset=where)

    def too_many_nodes(self) -> LimitExceeded:
        """The error for a pickle that builds more than any checkpoint needs."""
        what = "number of containers, calls, strings or memo entries in a pickle"
        return LimitExceeded(what, limit=self.max_nodes)

    def pop(self) -> Node:
        """Pop one item above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.underflow()
        return self.stack.pop()

    def pop_mark(self) -> list[Node]:
        """Pop everything above the last mark, and the mark."""
        if not self.marks:
            raise self.underflow()
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def push_node(self, node: Node) -> None:
        """Push a container or call and count it."""
        self.nodes += 1
        self.stack.append(node)

    def put(self, index: int) -> None:
        """Store the top of the stack in the memo."""
        if not self.stack:
            raise self.underflow()
        self.memo[index] = self.stack[-1]

    def take(self, pos: int, nbytes: int) -> bytes:
        """``nbytes`` bytes at ``pos``; the length is compared before anything is allocated."""
        if nbytes < 0 or pos + nbytes > len(self.data):
            raise PickleCutOff(
                "a string in a pickle is longer than the pickle",
                byte_offset=self.op_start,
                expected=f"{nbytes} bytes",
                actual=f"{len(self.data) - pos} left",
            )
        return self.data[pos : pos + nbytes]

    def line(self, pos: int) -> tuple[bytes, int]:
        """The text argument at ``pos`` up to its newline, and the position after it."""
        end = self.data.find(b"\n", pos)
        if end < 0:
            raise PickleCutOff("the pickle is cut off in a text argument", byte_offset=self.op_start)
        return self.data[pos:end], end + 1

    def global_(self, module: str, name: str) -> Global:
        """The one node for a global; names of Python 2 become what the unpickler makes of them."""
        if len(module) > self.max_name or len(name) > self.max_name:
            raise LimitExceeded("length of a global's name", limit=self.max_name)
        if self.protocol < 3:
            module, name = _python2_name(module, name)
        node = self.globals.get((module, name))
        if node is None:
            node = self.globals[module, name] = Global(module, name, self.op_start)
            self.nodes += 1
        return node

    def call(self, op: str, function: Node, args: Node) -> None:
        """Push a call node."""
        if isinstance(function, Global):
            function.called = True
        self.push_node(Call(op, function, args, self.op_start))

    def misuse(self, opcode: str, target: Node) -> MalformedCheckpoint:
        """The error for an opcode applied to something that cannot take it."""
        return MalformedCheckpoint(
            f"{opcode} in a pickle is applied to a {type(target).__name__}", byte_offset=self.op_start
        )


def _python2_name(module: str, name: str) -> tuple[str, str]:
    """What ``fix_imports`` of the unpickler turns a Python 2 name into (stdlib's own table)."""
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    if (module, name) in NAME_MAPPING:
        return NAME_MAPPING[module, name]
    return IMPORT_MAPPING.get(module, module), name


# -- rare opcodes: (machine, position of the argument) -> position after it -------------------


def _int_text(m: _Machine, pos: int) -> int:
    text, pos = m.line(pos)
    if text in (b"00", b"01"):  # protocol 0's booleans
        m.stack.append(text == b"01")
    else:
        m.stack.append(_decimal(m, text))
    return pos


def _long_text(m: _Machine, pos: int) -> int:
    text, pos = m.line(pos)
    m.stack.append(_decimal(m, text.removesuffix(b"L")))
    return pos


def _decimal(m: _Machine, text: bytes) -> int | BigInt:
    """An integer in decimal; ``int()`` is quadratic, so long ones only give their size."""
    if len(text) > 1233:  # digits of 2**4096
        return BigInt(len(text) * 3322 // 1000)
    try:
        return int(text)
    except ValueError:
        raise MalformedCheckpoint("not an integer in a pickle", byte_offset=m.op_start) from None


def _long_bytes(m: _Machine, pos: int, nbytes: int) -> int:
    raw = m.take(pos, nbytes)
    if nbytes > _MAX_INT_NBYTES:
        m.stack.append(BigInt(nbytes * 8))
    else:
        m.stack.append(int.from_bytes(raw, "little", signed=True))
    return pos + nbytes


def _long4(m: _Machine, pos: int) -> int:
    return _long_bytes(m, pos + 4, _I32(m.data, pos)[0])


def _float_text(m: _Machine, pos: int) -> int:
    text, pos = m.line(pos)
    try:
        m.stack.append(float(text))
    except ValueError:
        raise MalformedCheckpoint("not a number in a pickle", byte_offset=m.op_start) from None
    return pos


def _binfloat(m: _Machine, pos: int) -> int:
    m.stack.append(_F64_BIG(m.data, pos)[0])
    return pos + 8


def _python2_string(m: _Machine, raw: bytes) -> None:
    """A str of Python 2: text if it is UTF-8 (as torch.load asks for), else bytes."""
    try:
        m.stack.append(raw.decode("utf-8"))
    except UnicodeDecodeError:
        m.stack.append(raw)


def _string_text(m: _Machine, pos: int) -> int:
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


def _unicode_text(m: _Machine, pos: int) -> int:
    text, pos = m.line(pos)
    m.stack.append(str(text, "raw-unicode-escape"))
    return pos


def _sized(
    size_nbytes: int, size: Callable[[bytes, int], tuple[int]], push: Callable[[_Machine, bytes, int], None]
) -> Callable[[_Machine, int], int]:
    """An opcode with a length in front of its bytes; ``push`` takes the bytes and their offset."""

    def opcode(m: _Machine, pos: int) -> int:
        nbytes = size(m.data, pos)[0]
        pos += size_nbytes
        push(m, m.take(pos, nbytes), pos)
        return pos + nbytes

    return opcode


def _u8(data: bytes, pos: int) -> tuple[int]:
    return (data[pos],)


def _push_text(m: _Machine, raw: bytes, _pos: int) -> None:
    m.push_node(str(raw, "utf-8", "surrogatepass"))


def _push_bytes(m: _Machine, raw: bytes, pos: int) -> None:
    if len(raw) < _LOCATED_NBYTES:
        m.push_node(raw)
        return
    located = LocatedBytes(raw)
    located.byte_offset = pos
    m.push_node(located)


def _push_python2(m: _Machine, raw: bytes, _pos: int) -> None:
    _python2_string(m, raw)


def _push(make: Callable[[], Node]) -> Callable[[_Machine, int], int]:
    def opcode(m: _Machine, pos: int) -> int:
        m.push_node(make())
        return pos

    return opcode


def _newtrue(m: _Machine, pos: int) -> int:
    m.stack.append(True)
    return pos


def _append(m: _Machine, pos: int) -> int:
    item = m.pop()
    _extend(m, [item])
    return pos


def _appends(m: _Machine, pos: int) -> int:
    _extend(m, m.pop_mark())
    return pos


def _extend(m: _Machine, items: list[Node]) -> None:
    target = m.pop()
    m.stack.append(target)
    if type(target) is list:
        target.extend(items)
    elif isinstance(target, Call):
        _append_to_call(target, items)
    else:
        raise m.misuse("APPENDS", target)


def _append_to_call(target: Call, items: list[Node]) -> None:
    """Keep appended items, in place: a pickle may append a million, one by one."""
    if target.appended is None:
        target.appended = items
    else:
        target.appended.extend(items)


def _list(m: _Machine, pos: int) -> int:
    m.push_node(m.pop_mark())
    return pos


def _dict(m: _Machine, pos: int) -> int:
    items = m.pop_mark()
    if len(items) % 2:
        raise MalformedCheckpoint("odd number of items for a dict in a pickle", byte_offset=m.op_start)
    m.push_node(DictNode(items))
    return pos


def _setitem(m: _Machine, pos: int) -> int:
    value = m.pop()
    key = m.pop()
    _set_items(m, [key, value])
    return pos


def _setitems(m: _Machine, pos: int) -> int:
    items = m.pop_mark()
    if len(items) % 2:
        raise MalformedCheckpoint("odd number of items for SETITEMS in a pickle", byte_offset=m.op_start)
    _set_items(m, items)
    return pos


def _set_items(m: _Machine, items: list[Node]) -> None:
    target = m.pop()
    m.stack.append(target)
    if isinstance(target, DictNode):
        target.items.extend(items)
    elif isinstance(target, Call):
        if target.items is None:
            target.items = items
        else:
            target.items.extend(items)
    else:
        raise m.misuse("SETITEMS", target)


def _additems(m: _Machine, pos: int) -> int:
    items = m.pop_mark()
    target = m.pop()
    m.stack.append(target)
    if isinstance(target, SetNode) and not target.frozen:
        target.items.extend(items)
    elif isinstance(target, Call):
        _append_to_call(target, items)
    else:
        raise m.misuse("ADDITEMS", target)
    return pos


def _frozenset(m: _Machine, pos: int) -> int:
    m.push_node(SetNode(m.pop_mark(), frozen=True))
    return pos


def _tuple3(m: _Machine, pos: int) -> int:
    third, second, first = m.pop(), m.pop(), m.pop()
    m.push_node((first, second, third))
    return pos


def _pop(m: _Machine, pos: int) -> int:
    # As CPython: POP right behind a MARK removes the mark.
    if m.marks and m.marks[-1] == len(m.stack):
        m.marks.pop()
    else:
        m.pop()
    return pos


def _pop_mark(m: _Machine, pos: int) -> int:
    m.pop_mark()
    return pos


def _dup(m: _Machine, pos: int) -> int:
    item = m.pop()
    m.stack += [item, item]
    return pos


def _get_text(m: _Machine, pos: int) -> int:
    text, pos = m.line(pos)
    index = _decimal(m, text)
    m.stack.append(m.memo[index] if isinstance(index, int) else m.memo[-1])
    return pos


def _put_text(m: _Machine, pos: int) -> int:
    text, pos = m.line(pos)
    index = _decimal(m, text)
    if not isinstance(index, int) or index < 0:
        raise MalformedCheckpoint("negative or huge memo index in a pickle", byte_offset=m.op_start)
    m.put(index)
    return pos


def _memoize(m: _Machine, pos: int) -> int:
    m.put(len(m.memo))
    return pos


def _ext(size_nbytes: int, size: Callable[[bytes, int], tuple[int]]) -> Callable[[_Machine, int], int]:
    def opcode(m: _Machine, pos: int) -> int:
        m.stack.append(m.global_("copyreg.extension", str(size(m.data, pos)[0])))
        return pos + size_nbytes

    return opcode


def _global_text(m: _Machine, pos: int) -> int:
    module, pos = m.line(pos)
    name, pos = m.line(pos)
    m.stack.append(m.global_(str(module, "utf-8"), str(name, "utf-8")))
    return pos


def _stack_global(m: _Machine, pos: int) -> int:
    name, module = m.pop(), m.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise MalformedCheckpoint("STACK_GLOBAL in a pickle needs two strings", byte_offset=m.op_start)
    m.stack.append(m.global_(module, name))
    return pos


def _build(m: _Machine, pos: int) -> int:
    state = m.pop()
    target = m.pop()
    m.stack.append(target)
    if isinstance(target, Call):
        if target.states is None:
            target.states = []
        target.states.append(state)
    else:  # setattr on something already there, e.g. a class: keep it in sight as a call
        m.stack[-1] = Call("build", target, (state,), m.op_start)
    m.nodes += 1
    return pos


def _inst(m: _Machine, pos: int) -> int:
    module, pos = m.line(pos)
    name, pos = m.line(pos)
    args = tuple(m.pop_mark())
    m.call("inst", m.global_(str(module, "utf-8"), str(name, "utf-8")), args)
    return pos


def _obj(m: _Machine, pos: int) -> int:
    items = m.pop_mark()
    if not items:
        raise m.underflow()
    m.call("obj", items[0], tuple(items[1:]))
    return pos


def _newobj(m: _Machine, pos: int) -> int:
    args, cls = m.pop(), m.pop()
    m.call("newobj", cls, args)
    return pos


def _tuple1(m: _Machine, pos: int) -> int:
    m.push_node((m.pop(),))
    return pos


def _none(m: _Machine, pos: int) -> int:
    m.stack.append(None)
    return pos


def _newobj_ex(m: _Machine, pos: int) -> int:
    kwargs, args, cls = m.pop(), m.pop(), m.pop()
    m.call("newobj_ex", cls, (args, kwargs))
    return pos


def _persid_text(m: _Machine, pos: int) -> int:
    text, pos = m.line(pos)
    persistent = PersistentId(str(text, "utf-8"))
    m.persistent_ids.append(persistent)
    m.push_node(persistent)
    return pos


def _proto(m: _Machine, pos: int) -> int:
    m.protocol = m.data[pos]
    if m.protocol > 5:
        raise MalformedCheckpoint(
            "unknown pickle protocol", byte_offset=m.op_start, expected="0 to 5", actual=m.protocol
        )
    return pos + 1


def _frame(_m: _Machine, pos: int) -> int:
    return pos + 8  # a hint about buffering; the unpickler does not depend on it


def _buffer(m: _Machine, pos: int) -> int:
    raise MalformedCheckpoint("the pickle needs out-of-band buffers", byte_offset=m.op_start)


_RARE: dict[int, Callable[[_Machine, int], int]] = {
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
