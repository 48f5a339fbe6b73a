"""Mutations of a pickle that keep it a sequence of opcodes.

A pickle is cut into its opcodes, each with its argument. What pushes one value is replaced by something else
that pushes one value, so that most results are still read to the end; the rest makes stacks and memos that
no pickler would leave.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Sequence
from random import Random

from tests.hostile import pickles as op
from tests.hostile.mutate_bytes import clamp, edge_integer, mutate_bytes

GLOBALS = (
    "torch._utils:_rebuild_tensor",
    "torch._utils:_rebuild_tensor_v2",
    "torch._utils:_rebuild_tensor_v3",
    "torch._utils:_rebuild_parameter",
    "torch._utils:_rebuild_parameter_with_state",
    "torch._utils:_rebuild_qtensor",
    "torch._utils:_rebuild_sparse_tensor",
    "torch._utils:_rebuild_nested_tensor",
    "torch._utils:_rebuild_meta_tensor_no_storage",
    "torch._utils:_rebuild_wrapper_subclass",
    "torch._utils:_rebuild_device_tensor_from_cpu_tensor",
    "torch._utils:_rebuild_device_tensor_from_numpy",
    "torch._tensor:_rebuild_from_type_v2",
    "torch.nn.parameter:Parameter",
    "torch.nn.parameter:UninitializedParameter",
    "torch.nn.parameter:UninitializedBuffer",
    "torch.storage:_load_from_bytes",
    "torch.storage:UntypedStorage",
    "torch.serialization:_get_layout",
    "torch.jit._pickle:build_intlist",
    "torch.jit._pickle:restore_type_tag",
    "torch:FloatStorage",
    "torch:BoolStorage",
    "torch:QInt8Storage",
    "torch:ComplexDoubleStorage",
    "torch:Size",
    "torch:device",
    "torch:Tensor",
    "torch:float32",
    "torch:bits1x8",
    "torch:float4_e2m1fn_x2",
    "torch:per_tensor_affine",
    "collections:OrderedDict",
    "collections:defaultdict",
    "builtins:set",
    "builtins:complex",
    "builtins:getattr",
    "_codecs:encode",
    "numpy._core.multiarray:scalar",
    "numpy:dtype",
    "posix:system",
    "\u202e[red]:\x1b[2J",
)

TEXTS = (
    "",
    "0",
    "storage",
    "cpu",
    "cuda:0",
    "meta",
    "a.b",
    "module.weight",
    "_metadata",
    "version",
    "_parameters",
    "_buffers",
    "_modules",
    "_non_persistent_buffers_set",
    "state",
    "param_groups",
    "params",
    "exp_avg",
    "state_dict",
    "conj",
    "torch.sparse_coo",
    "[red]\x1b[2J\n\u202e",
    "\ud800",
    "x" * 300,
)

# Leaves, containers, tensors and objects: whatever stands where one value is expected.
VALUES: tuple[bytes, ...] = (
    op.NONE,
    op.NEWTRUE,
    op.EMPTY_TUPLE,
    op.EMPTY_LIST,
    op.EMPTY_DICT,
    op.EMPTY_SET,
    op.BINFLOAT(float("nan")),
    op.BINFLOAT(1e308),
    op.LONG1(b"\xff" * 9),
    op.LONG4(b"\x7f" * 600),
    op.INT("01"),
    op.LONG("9" * 1300),
    op.BINBYTES(bytes(200)),
    op.BYTEARRAY8(b"ab"),
    op.BINSTRING(b"\xff"),
    op.UNICODE("\u2028"),
    op.EXT1(7),
    op.PERSID("0"),
    op.storage(),
    op.storage(cls="torch.storage:UntypedStorage", numel=16),
    op.tensor(),
    op.tensor(size=(2, 0), stride=(1, 1)),
    op.tensor(size=(), stride=()),
    op.tensor(size=(2, 2), stride=(1, 2)),
    op.parameter(),
    op.ordered({"w": op.tensor()}, {"": {"version": 1}}),
    op.module(parameters={"w": op.parameter()}, buffers={"b": op.tensor()}, non_persistent=["b"]),
    op.call("torch:Size", [2, 3]),
    op.call("builtins:set", [1, "a"]),
    op.MARK + op.INST("a", "b") + op.push({"x": 1}) + op.BUILD,
    op.push({"state": {0: {"step": 1, "exp_avg": op.tensor()}}, "param_groups": [{"params": [0]}]}),
    op.laughs(4, 3, op.EMPTY_LIST + op.MARK, b"", op.APPENDS),
    op.laughs(3, 3, op.EMPTY_DICT + op.MARK, b"K%d", op.SETITEMS),
    op.EMPTY_LIST + op.BINPUT(9) + op.BINGET(9) + op.APPEND,
)

_PLAIN_OPCODES = b"(.012NRbos}]utleda)\x85\x86\x87\x81\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98Q"
_PUSHING = frozenset(b"N]})\x88\x89\x8fIJKMLGFXVTSUBC\x8a\x8b\x8c\x8d\x8e\x96hgj")
_INTEGERS = frozenset(b"IJKML\x8a\x8b")
_LENGTHS = {ord("T"): 4, ord("X"): 4, ord("B"): 4, 0x8B: 4, 0x8D: 8, 0x8E: 8, 0x96: 8, 0x95: 8}
_MEMO = {ord("q"): 1, ord("h"): 1, ord("r"): 4, ord("j"): 4}


def split_opcodes(data: bytes) -> list[bytes]:
    """The opcodes of the pickle at the front of ``data``; what follows STOP, or is no opcode, stays whole."""
    starts: list[int] = []
    end = len(data)
    try:
        for opcode, _, position in pickletools.genops(data):
            starts.append(position or 0)
            if opcode.code == ".":
                end = starts[-1] + 1
    except (ValueError, OverflowError, Warning):
        pass  # how long the last one is was not found out: it keeps all that follows
    chunks = [data[a:b] for a, b in zip(starts, [*starts[1:], end], strict=False)]
    return [*chunks, data[end:]] if data[end:] else chunks


def split_pickles(data: bytes, count: int) -> list[bytes]:
    """The first ``count`` pickles of ``data``, and what follows them."""
    parts = []
    for _ in range(count):
        chunks = split_opcodes(data)
        nbytes = sum(map(len, chunks[: chunks.index(op.STOP) + 1])) if op.STOP in chunks else len(data)
        parts.append(data[:nbytes])
        data = data[nbytes:]
    return [*parts, data]


def integer(value: int, rnd: Random) -> bytes:
    """``value`` in one of the spellings that hold it."""
    spellings = [op.push(value), op.INT(str(value)), op.LONG(str(value))]
    if 0 <= value < 256:
        spellings.append(b"K" + bytes([value]))
    return rnd.choice(spellings)


def value_of(rnd: Random) -> bytes:
    """Opcodes that push one value."""
    kind = rnd.randrange(4)
    if kind == 0:
        return integer(edge_integer(rnd), rnd)
    if kind == 1:
        return op.BINUNICODE(rnd.choice(TEXTS))
    if kind == 2:
        return op.GLOBAL(*rnd.choice(GLOBALS).split(":"))
    return rnd.choice(VALUES)


def _pick(chunks: Sequence[bytes], opcodes: frozenset[int], rnd: Random) -> int:
    """The position of one of these opcodes, or of any if there is none."""
    found = [position for position, chunk in enumerate(chunks) if chunk[0] in opcodes]
    return rnd.choice(found) if found else rnd.randrange(len(chunks))


def _replace_value(chunks: list[bytes], rnd: Random) -> None:
    chunks[_pick(chunks, _PUSHING, rnd)] = value_of(rnd)


def _replace_global(chunks: list[bytes], rnd: Random) -> None:
    chunks[_pick(chunks, frozenset(b"c"), rnd)] = op.GLOBAL(*rnd.choice(GLOBALS).split(":"))


def _replace_integer(chunks: list[bytes], rnd: Random) -> None:
    at = _pick(chunks, _INTEGERS, rnd)
    near = int.from_bytes(chunks[at][1:9], "little")
    chunks[at] = integer(edge_integer(rnd, near), rnd)


def _replace_text(chunks: list[bytes], rnd: Random) -> None:
    chunks[_pick(chunks, frozenset(b"X\x8c"), rnd)] = op.BINUNICODE(rnd.choice(TEXTS))


def _insert(chunks: list[bytes], rnd: Random) -> None:
    opcode = bytes([rnd.choice(_PLAIN_OPCODES)])
    chunks.insert(rnd.randrange(len(chunks) + 1), opcode if rnd.randrange(2) else value_of(rnd))


def _delete(chunks: list[bytes], rnd: Random) -> None:
    at = rnd.randrange(len(chunks))
    del chunks[at : at + rnd.choice((1, 1, 1, 2, 8))]


def _duplicate(chunks: list[bytes], rnd: Random) -> None:
    at = rnd.randrange(len(chunks))
    part = chunks[at : at + rnd.choice((1, 2, 4, 16))]
    chunks[at:at] = part * rnd.choice((1, 1, 1, 50))


def _move(chunks: list[bytes], rnd: Random) -> None:
    at = rnd.randrange(len(chunks))
    nops = rnd.choice((1, 2, 4, 16))
    part = chunks[at : at + nops]
    del chunks[at : at + nops]
    to = rnd.randrange(len(chunks) + 1)
    chunks[to:to] = part


def _swap(chunks: list[bytes], rnd: Random) -> None:
    a, b = rnd.randrange(len(chunks)), rnd.randrange(len(chunks))
    chunks[a], chunks[b] = chunks[b], chunks[a]


def _wrap(chunks: list[bytes], rnd: Random) -> None:
    """Nest a value in containers, up to deeper than anything is read."""
    at = _pick(chunks, _PUSHING, rnd)
    depth = rnd.choice((1, 2, 60, 600))
    before, after = rnd.choice(
        (
            (b"", op.TUPLE1),
            (op.EMPTY_LIST, op.APPEND),
            (op.EMPTY_DICT + op.push("k"), op.SETITEM),
            (op.named("collections:OrderedDict") + op.EMPTY_TUPLE + op.REDUCE + op.push("k"), op.SETITEM),
            (op.named("torch.nn.parameter:Parameter"), op.TUPLE1 + op.REDUCE),
        )
    )
    chunks[at] = before * depth + chunks[at] + after * depth


def _lie_about_length(chunks: list[bytes], rnd: Random) -> None:
    at = _pick(chunks, frozenset(_LENGTHS), rnd)
    chunk = chunks[at]
    width = _LENGTHS.get(chunk[0])
    if width is not None and len(chunk) > width:
        claimed = clamp(edge_integer(rnd, int.from_bytes(chunk[1 : 1 + width], "little")), width)
        chunks[at] = chunk[:1] + claimed.to_bytes(width, "little") + chunk[1 + width :]


def _change_memo_index(chunks: list[bytes], rnd: Random) -> None:
    at = _pick(chunks, frozenset(_MEMO), rnd)
    chunk = chunks[at]
    width = _MEMO.get(chunk[0])
    if width is not None and len(chunk) > width:
        index = clamp(rnd.choice((0, 1, 2, 3, rnd.randrange(64), (1 << 8 * width) - 1)), width)
        chunks[at] = chunk[:1] + index.to_bytes(width, "little")


def _change_raw(chunks: list[bytes], rnd: Random) -> None:
    at = rnd.randrange(len(chunks))
    chunks[at] = mutate_bytes(chunks[at], rnd) or b"0"


_MUTATIONS: tuple[Callable[[list[bytes], Random], None], ...] = (
    _replace_value,
    _replace_value,
    _replace_value,
    _replace_global,
    _replace_global,
    _replace_integer,
    _replace_integer,
    _replace_text,
    _insert,
    _delete,
    _duplicate,
    _move,
    _swap,
    _wrap,
    _lie_about_length,
    _change_memo_index,
    _change_raw,
)


def mutate_pickle(data: bytes, rnd: Random, donor: bytes = b"") -> bytes:
    """One change of the opcodes in ``data``; ``donor`` is a pickle to take a run of them from."""
    chunks = split_opcodes(data)
    if not chunks:
        return op.PROTO(2) + value_of(rnd) + op.STOP
    if donor and not rnd.randrange(8):
        given = split_opcodes(donor)
        at = rnd.randrange(len(given)) if given else 0
        to = rnd.randrange(len(chunks))
        chunks[to : to + rnd.randrange(3)] = given[at : at + rnd.choice((1, 4, 16, 64))]
    else:
        rnd.choice(_MUTATIONS)(chunks, rnd)
    return b"".join(chunks)
