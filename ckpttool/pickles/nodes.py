"""The inert tree of a pickle: what stands for globals, calls, containers and oversized leaves.

Numbers, strings, bytes, None, tuples and lists stay themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from ckpttool.values.errors import MalformedCheckpoint

Node: TypeAlias = Any
"""int, float, bool, None, str, bytes, tuple, list, or one of the classes below."""


class PickleCutOff(MalformedCheckpoint):
    """The data ends before the pickle's STOP: a caller that has more data may try again with it."""


# Shorter bytes hold no file, so nobody asks where they lie; a LocatedBytes takes 200 bytes more.
LOCATED_NBYTES = 128
LOCATED_CALLS = 4  # calls of one global whose places are kept; the rest are counted
ADD_EXTENSION = ("copyreg", "add_extension")  # its calls say what the opcodes EXT1, EXT2 and EXT4 mean
_ALL_CALLS = 1000
MAX_INT_NBYTES = 512  # longer integers become BigInt: 100,000-bit ints are legal and useless here


class Global:
    """A name that an unpickler would import; ``calls`` counts what applies it, ``first_calls`` are some."""

    __slots__ = ("arities", "byte_offset", "calls", "first_calls", "located", "module", "name")

    def __init__(self, module: str, name: str, byte_offset: int) -> None:
        self.module = module
        self.name = name
        self.byte_offset = byte_offset
        self.calls = 0
        self.located = _ALL_CALLS if (module, name) == ADD_EXTENSION else LOCATED_CALLS
        self.first_calls: tuple[Call, ...] = ()
        self.arities: tuple[int, ...] = ()  # how many arguments it is given, -1 for what is no tuple of them

    def add_call(self, call: Call) -> None:
        """Count a call of it, whether or not its result is kept."""
        if self.calls < self.located:
            self.first_calls += (call,)
        self.calls += 1
        count = len(call.args) if type(call.args) is tuple else -1
        if count not in self.arities:
            self.arities += (count,)

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

    @property
    def name(self) -> str:
        """``module.name`` of the global that is called; empty for what is computed."""
        return self.function.full_name if isinstance(self.function, Global) else ""

    @property
    def only_argument(self) -> Node:
        """The argument of a call that has one; None where there are none or more."""
        return self.args[0] if isinstance(self.args, tuple) and len(self.args) == 1 else None


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


ON_OBJECT = 0x100
"""Added in ``PickleTree.rare_opcodes`` to an opcode that changed an object, not a list or dict."""

CALLS_RESULT = ON_OBJECT | 0x52
"""In ``PickleTree.rare_opcodes``: what is called is no global, but an object."""

NOT_UTF8 = 0x255
"""In ``PickleTree.rare_opcodes``: a string of Python 2 that is not UTF-8."""

MANY_DIGITS = 0x24C
"""In ``PickleTree.rare_opcodes``: an integer in text that is longer than ``int()`` takes."""

MAX_DIGITS = 4300  # sys.int_info.default_max_str_digits

_MAPPINGS = frozenset(("collections.OrderedDict", "collections.Counter"))


def is_mapping_call(node: Call) -> bool:
    """Whether the call makes one of the mappings that unpicklers fill by SETITEMS."""
    return node.name in _MAPPINGS


class PickleTree(NamedTuple):
    """One pickle: its value, where it ends, and every global and call on the way.

    ``globals`` holds each distinct (module, name) once, in order of appearance, whether or not the
    value reaches it: a call that is popped again still runs in an unpickler. ``persistent_ids`` are all
    of the pickle's, in order; ``rare_opcodes`` are those that it uses besides the ones that every torch
    pickle has, with ``ON_OBJECT`` where they change an object. ``base`` and ``within`` tell people what
    byte offsets count from.
    """

    value: Node
    end: int
    protocol: int
    globals: dict[tuple[str, str], Global]
    persistent_ids: list[PersistentId]
    rare_opcodes: frozenset[int] = frozenset()
    base: int = 0
    within: str = "the pickle"


def iter_items(flat: list[Node] | None) -> Iterator[tuple[Node, Node]]:
    """(key, value) pairs of a flat item list."""
    items = iter(flat or ())
    return zip(items, items, strict=True)
