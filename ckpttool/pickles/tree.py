"""Bytes of a pickle -> an inert tree. Nothing is imported, called or built; torch is unknown here.

The machine follows the stack and memo of CPython's unpickler (protocols 0 to 5) and turns every
opcode that would import or call into a node:

- GLOBAL, STACK_GLOBAL -> ``Global``;   EXT1/2/4 -> ``Global("copyreg.extension", code)``
- REDUCE, NEWOBJ, NEWOBJ_EX, INST, OBJ -> ``Call``; BUILD, APPEND(S), SETITEM(S) on it are kept
- PERSID, BINPERSID -> ``PersistentId``;   dict -> ``DictNode``, set -> ``SetNode``
- numbers, strings, bytes, None, tuples and lists stay themselves (a list is only a list here)

Mapping keys are never hashed or compared: a key may be a deep structure. ``pickletools`` is not
used at run time: its generator alone takes longer than this loop does with all its work, and it
imports ``pickle``; the tests compare the two, opcode by opcode (``tests/pickles/test_tree.py``).
"""

from __future__ import annotations

from itertools import repeat
from struct import Struct
from struct import error as StructError

from ckpttool.pickles.machine import Machine
from ckpttool.pickles.nodes import (
    CALLS_RESULT,
    Call,
    Global,
    PersistentId,
    PickleCutOff,
    PickleTree,
)
from ckpttool.pickles.opcodes import RARE
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint

_U16 = Struct("<H").unpack_from
_U32 = Struct("<I").unpack_from
_I32 = Struct("<i").unpack_from


def parse_pickle(data: bytes, *, start: int = 0, max_ops: int, max_nodes: int, max_name: int) -> PickleTree:
    """Run the machine over the pickle that begins at ``data[start]``.

    ``max_ops`` bounds opcodes, ``max_nodes`` containers with strings and (apart) memo entries,
    ``max_name`` the bytes of a global's name.

    Raises:
        MalformedCheckpoint: truncated, unknown opcode, stack or memo misuse, text that is not UTF-8.
        LimitExceeded: more opcodes, nodes or memo entries than allowed.
    """
    machine = Machine(data, start, max_ops, max_nodes, max_name)
    try:
        return _run(machine)
    except MalformedCheckpoint as error:
        error.named = tuple((node.module, node.name, node.calls > 0) for node in machine.globals.values())
        raise


def _run(machine: Machine) -> PickleTree:
    """Interpret until STOP.

    One long loop on purpose: 20,000 tensors are 900,000 opcodes, and a call for each would
    take most of the budget of ``inspect``. Opcodes are compared in order of their frequency
    in torch's pickles; all others go through ``RARE``.
    """
    data, stack, marks, memo = machine.data, machine.stack, machine.marks, machine.memo
    push, pop = stack.append, stack.pop
    max_nodes, persistent_ids = machine.max_nodes, machine.persistent_ids
    rare_opcodes = machine.rare_opcodes
    nodes = 0
    pos = machine.start
    try:
        for _ in repeat(None, machine.max_ops):
            op = data[pos]
            pos += 1
            if op == 0x72:  # LONG_BINPUT
                memo[_U32(data, pos)[0]] = stack[-1]
                pos += 4
                if len(memo) > max_nodes:
                    raise machine.too_many_nodes()
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
                    raise machine.too_many_nodes()
            elif op == 0x74:  # TUPLE
                mark = marks.pop()
                items = tuple(stack[mark:])
                del stack[mark:]
                push(items)
                nodes += 1
                if nodes > max_nodes or len(memo) > max_nodes:
                    raise machine.too_many_nodes()
            elif op == 0x86:  # TUPLE2
                second = pop()
                if len(stack) <= (marks[-1] if marks else 0):
                    raise machine.underflow(pos - 1)
                stack[-1] = (stack[-1], second)
                nodes += 1
                if nodes > max_nodes:
                    raise machine.too_many_nodes()
            elif op == 0x52:  # REDUCE
                args = pop()
                if len(stack) <= (marks[-1] if marks else 0):
                    raise machine.underflow(pos - 1)
                function = stack[-1]
                stack[-1] = call = Call("reduce", function, args, pos - 1)
                if type(function) is Global:
                    if function.calls < function.located:
                        function.first_calls += (call,)
                    function.calls += 1
                    count = len(args) if type(args) is tuple else -1
                    if count not in function.arities:
                        function.arities += (count,)
                else:
                    rare_opcodes.add(CALLS_RESULT)
                nodes += 1
                if nodes > max_nodes:
                    raise machine.too_many_nodes()
            elif op == 0x51:  # BINPERSID
                if len(stack) <= (marks[-1] if marks else 0):
                    raise machine.underflow(pos - 1)
                stack[-1] = persistent = PersistentId(stack[-1])
                persistent_ids.append(persistent)
                nodes += 1
                if nodes > max_nodes:
                    raise machine.too_many_nodes()
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
                if len(stack) <= (marks[-1] if marks else 0):  # a MARK may be left open
                    raise machine.underflow(pos - 1)
                return PickleTree(
                    stack[-1], pos, machine.protocol, machine.globals, persistent_ids, frozenset(rare_opcodes)
                )
            else:
                rare = RARE.get(op)
                if rare is None:
                    raise MalformedCheckpoint(
                        "not a pickle opcode", byte_offset=pos - 1, actual=f"byte 0x{op:02x}"
                    )
                rare_opcodes.add(op)
                machine.op_start = pos - 1
                pos = rare(machine, pos)
                if nodes + machine.nodes > max_nodes or len(memo) > max_nodes:
                    raise machine.too_many_nodes()
    except StructError:
        raise PickleCutOff("the pickle is cut off", byte_offset=pos) from None
    except IndexError:
        if pos >= len(data):  # of data, or of the stack by the last byte that there is
            raise PickleCutOff("the pickle is cut off", byte_offset=pos) from None
        raise machine.underflow(pos) from None
    except KeyError:
        raise MalformedCheckpoint(
            "a pickle reads a memo entry that was never written", byte_offset=pos
        ) from None
    except UnicodeDecodeError:
        raise MalformedCheckpoint("a string in a pickle is not UTF-8", byte_offset=pos) from None
    raise LimitExceeded("number of opcodes in a pickle", limit=machine.max_ops)
