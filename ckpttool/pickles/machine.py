"""The unpickler's state, and the pieces that its opcodes share. The loop is in ``tree``."""

from __future__ import annotations

from ckpttool.pickles.nodes import CALLS_RESULT, ON_OBJECT, Call, Global, Node, PersistentId, PickleCutOff
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint
from ckpttool.values.words import indefinite, plural


class Machine:
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
        self.rare_opcodes: set[int] = set()
        self.protocol = 0

    def note_change_of_object(self) -> None:
        """Remember that the opcode at hand changes an object, where torch wants a list or a dict."""
        self.rare_opcodes.add(ON_OBJECT | self.data[self.op_start])

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
            what, left = "a string in a pickle is longer than the pickle", f"{len(self.data) - pos:,} left"
            raise PickleCutOff(what, byte_offset=self.op_start, expected=plural(nbytes, "byte"), actual=left)
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
        node = Call(op, function, args, self.op_start)
        if isinstance(function, Global):
            function.add_call(node)
        else:
            self.rare_opcodes.add(CALLS_RESULT)
        self.push_node(node)

    def misuse(self, opcode: str, target: Node) -> MalformedCheckpoint:
        """The error for an opcode applied to something that cannot take it."""
        return MalformedCheckpoint(
            f"{opcode} in a pickle is applied to {indefinite(type(target).__name__)}",
            byte_offset=self.op_start,
        )


def _python2_name(module: str, name: str) -> tuple[str, str]:
    """What ``fix_imports`` of the unpickler turns a Python 2 name into (stdlib's own table)."""
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    if (module, name) in NAME_MAPPING:
        return NAME_MAPPING[module, name]
    return IMPORT_MAPPING.get(module, module), name
