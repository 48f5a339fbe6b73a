"""Small files that cost their reader memory or time without end. Each runs in a process of its own."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

from tests.hostile import pickles as op
from tests.hostile.case import Case
from tests.hostile.containers import (
    DEFLATED,
    Member,
    build_zip,
    legacy,
    safetensors,
    torch_members,
    torch_zip,
)

MIB = 1 << 20


def _in_zip(value: object) -> bytes:
    return torch_zip(op.dump(value))


def _many(item: bytes, count: int, close: bytes = op.LIST) -> bytes:
    return op.MARK + item * count + close


def _keys(count: int, value: bytes) -> bytes:
    """A dict of ``count`` keys with the same value, by reference."""
    return op.MARK + b"".join(op.BININT(n) + value for n in range(count)) + op.DICT


def _stored(code: bytes, index: int = 0) -> bytes:
    """Make ``code`` once, into the memo, and take it off the stack again."""
    return code + op.BINPUT(index) + op.POP


def _laughs(opener: bytes, item: bytes, closer: bytes, levels: int = 40, width: int = 10) -> bytes:
    return torch_zip(op.PROTO(2) + op.laughs(levels, width, opener, item, closer) + op.STOP)


def _module_laughs() -> bytes:
    """Modules in which ten names lead to the same module below, forty deep."""
    code = op.module(parameters={"p": op.parameter()}) + op.BINPUT(0)
    for level in range(40):
        below = {f"m{n}": op.BINGET(level) for n in range(10)}
        code += op.module(modules=below) + op.BINPUT(level + 1)
    return torch_zip(op.PROTO(2) + code + op.STOP)


def _tensor_laughs(function: str) -> bytes:
    """Tensors inside tensors, each of which holds the one below many times."""
    code = op.tensor() + op.BINPUT(0)
    for level in range(14):
        below = op.BINGET(level)
        if function == "nested":
            code += op.call("torch._utils:_rebuild_nested_tensor", below, below, below, below)
        else:
            state = {f"t{n}": below for n in range(30)}
            arguments = (op.storage(), 0, (4,), (1,), False, op.push({}))
            code += op.call(
                "torch._tensor:_rebuild_from_type_v2",
                op.named("torch._utils:_rebuild_tensor_v2"),
                op.named("a:B"),
                arguments,
                state,
            )
        code += op.BINPUT(level + 1)
    return torch_zip(op.PROTO(2) + op.push("w") + op.POP + code + op.STOP)


def _objects_by_many_names(attributes: int, names: int) -> bytes:
    """One object of many attributes, which many keys name."""
    state = op.MARK + b"".join(op.BININT(n) + op.EMPTY_LIST for n in range(attributes)) + op.DICT
    return torch_zip(
        op.PROTO(2) + _stored(op.with_state(op.call("a:B"), state)) + _keys(names, op.BINGET(0)) + op.STOP
    )


def _metadata_by_many() -> bytes:
    """One large _metadata that thousands of state_dicts share."""
    metadata = (
        op.MARK + b"".join(op.push(f"m{n}") + op.push({"version": 1}) for n in range(100_000)) + op.DICT
    )
    item = op.call("collections:OrderedDict") + op.push({"_metadata": op.BINGET(0)}) + op.BUILD
    return torch_zip(op.PROTO(2) + _stored(metadata) + _keys(20_000, item) + op.STOP)


def _embedded_by_many() -> bytes:
    """A pickled storage of a million opcodes, which thousands of tensors name."""
    inside = (
        op.PROTO(2)
        + (op.NONE + op.POP) * 400_000
        + op.storage("0", "torch:FloatStorage", 4, "cpu", None)
        + op.STOP
    )
    embedded = op.call("torch.storage:_load_from_bytes", op.BINBYTES(legacy(inside)))
    return op.PROTO(3) + _stored(embedded) + _keys(5_000, op.tensor(op.BINGET(0))) + op.STOP


def _deep_long_names() -> bytes:
    """Dicts in dicts, each under the same key of a megabyte, with a call at the bottom of each."""
    code = op.push("n" * (MIB - 1)) + op.BINPUT(0) + op.POP
    for _ in range(500):
        code += op.EMPTY_DICT + op.BINGET(0)
    code += op.call("a:B") + (op.SETITEM) * 500
    return torch_zip(op.PROTO(2) + code + op.STOP)


def _modules_of_long_names() -> bytes:
    """Modules in modules, each under the same name of a megabyte: joined names grow without end."""
    code = _stored(op.push("n" * (MIB - 1)))
    code += op.module(parameters={"p": op.tensor()}) + op.BINPUT(1)
    for _ in range(200):
        code += op.BINPUT(1) + op.POP
        code += op.module(modules=op.EMPTY_DICT + op.BINGET(0) + op.BINGET(1) + op.SETITEM)
    return torch_zip(op.PROTO(2) + code + op.STOP)


def _paths_of_depth() -> bytes:
    """Half a million empty dicts, each 500 containers down."""
    top = op.EMPTY_LIST * 500 + _many(op.EMPTY_LIST, 900_000) + op.APPEND * 500
    return torch_zip(op.PROTO(2) + top + op.STOP)


def _tuple_key() -> bytes:
    """A key whose text would be a gigabyte: a tuple of a thousand references to one megabyte."""
    key = op.MARK + op.BINGET(0) * 1000 + op.TUPLE
    return torch_zip(
        op.PROTO(2) + _stored(op.push("n" * MIB)) + op.MARK + key + op.tensor() + op.DICT + op.STOP
    )


def _deflated(name: str, nbytes: int, claimed: int | None = None) -> bytes:
    """A torch zip with one member that inflates to ``nbytes``."""
    deflate = zlib.compressobj(9, wbits=-15)
    packed = b"".join([deflate.compress(b"N" * MIB) for _ in range(nbytes // MIB)]) + deflate.flush()
    members = [m for m in torch_members(op.dump({"w": op.tensor()})) if m.name != f"archive/{name}"]
    bomb = Member(
        f"archive/{name}", packed, DEFLATED, nbytes=nbytes if claimed is None else claimed, crc=1, raw=True
    )
    return build_zip([*members, bomb])


def _many_members(count: int) -> bytes:
    """Members without names to speak of, in a directory of its own making."""
    local = b"PK\x03\x04" + bytes(22) + b"\x0d\0\0\0"
    whole = build_zip(torch_members(op.dump({}))[:1])
    cut, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    body, directory = bytearray(whole[:cut]), bytearray(whole[cut:end])
    for n in range(count):
        name = b"archive/%05x" % n
        directory += b"PK\x01\x02" + struct.pack(
            "<6H3I5H2I", 20, 20, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 0, 0, len(body)
        )
        directory += name
        body += local + name
    start = len(body)
    end = b"PK\x06\x06" + struct.pack(
        "<Q2H2I4Q", 44, 45, 45, 0, 0, count + 1, count + 1, len(directory), start
    )
    end += b"PK\x06\x07" + struct.pack("<IQI", 0, start + len(directory), 1)
    return (
        bytes(body + directory)
        + end
        + b"PK\x05\x06"
        + struct.pack("<4H2IH", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    )


def _header(count: int, entry: bytes) -> bytes:
    return safetensors(b"{" + b",".join(entry % n for n in range(count)) + b"}")


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "laughs: lists": (lambda: _laughs(op.MARK, b"", op.LIST), ""),
    "laughs: tuples": (lambda: _laughs(op.MARK, b"", op.TUPLE), ""),
    "laughs: dicts": (lambda: _laughs(op.MARK, b"I%d\n", op.DICT), ""),
    "laughs: pairs": (lambda: _laughs(op.MARK, op.NONE, op.TUPLE), ""),
    "laughs: tuple as a key": (
        lambda: torch_zip(
            op.PROTO(2)
            + op.MARK
            + op.laughs(40, 10, op.MARK, b"", op.TUPLE)
            + op.tensor()
            + op.DICT
            + op.STOP
        ),
        "",
    ),
    "laughs: frozensets": (lambda: _laughs(op.MARK, b"", op.FROZENSET), ""),
    "laughs: calls": (lambda: _laughs(op.GLOBAL("a", "B") + op.MARK, b"", op.TUPLE + op.REDUCE), ""),
    "laughs: modules": (_module_laughs, "number of"),
    "laughs: nested tensors": (lambda: _tensor_laughs("nested"), "parts"),
    "laughs: subclasses": (lambda: _tensor_laughs("subclass"), "parts"),
    "laughs: tensors": (
        lambda: torch_zip(
            op.PROTO(2)
            + _stored(op.tensor())
            + _stored(_many(op.BINGET(0), 20_000), 1)
            + _many(op.BINGET(1), 5_000)
            + op.STOP
        ),
        "",
    ),
    "one long list by many names": (
        lambda: torch_zip(
            op.PROTO(2) + _stored(_many(b"K\x01", 1_000_000)) + _keys(200_000, op.BINGET(0)) + op.STOP
        ),
        "names for one value",
    ),
    "long lists in a list": (
        lambda: torch_zip(
            op.PROTO(2)
            + _stored(_many(b"K\x01", 1_000_000))
            + op.push("k")
            + op.POP
            + op.MARK
            + op.push("k")
            + _many(op.BINGET(0), 1_000_000)
            + op.DICT
            + op.STOP
        ),
        "number of tensors, values",
    ),
    "one megabyte of text by many names": (
        lambda: torch_zip(op.PROTO(2) + _stored(op.push("x" * MIB)) + _keys(100_000, op.BINGET(0)) + op.STOP),
        "",
    ),
    "one megabyte of bytes by many names": (
        lambda: torch_zip(
            op.PROTO(2) + _stored(op.BINBYTES(bytes(MIB))) + _keys(100_000, op.BINGET(0)) + op.STOP
        ),
        "",
    ),
    "one large object by many names": (lambda: _objects_by_many_names(200_000, 9_000), ""),
    "one _metadata by many state_dicts": (_metadata_by_many, "number of items"),
    "one pickled storage by many tensors": (_embedded_by_many, ""),
    "shape of a thousand dimensions by many": (
        lambda: torch_zip(
            op.PROTO(2)
            + _stored(op.push((1,) * 1000))
            + _stored(op.storage(), 1)
            + _stored(op.push({}), 2)
            + _keys(
                200_000,
                op.GLOBAL("torch._utils", "_rebuild_tensor_v2")
                + op.MARK
                + op.BINGET(1)
                + b"K\0"
                + op.BINGET(0) * 2
                + op.NEWFALSE
                + op.BINGET(2)
                + op.TUPLE
                + op.REDUCE,
            )
            + op.STOP
        ),
        "dimensions",
    ),
    "keys of a gigabyte": (_tuple_key, ""),
    "path of many long names": (_deep_long_names, "length of all names"),
    "module names that grow": (_modules_of_long_names, "names"),
    "deep and wide": (_paths_of_depth, ""),
    "nested lists, 100,000 deep": (
        lambda: torch_zip(op.PROTO(2) + op.EMPTY_LIST * 100_000 + op.APPEND * 99_999 + op.STOP),
        "nesting",
    ),
    "nested tuples, 100,000 deep": (
        lambda: torch_zip(op.PROTO(2) + op.EMPTY_TUPLE + op.TUPLE1 * 100_000 + op.STOP),
        "nesting",
    ),
    "nested dicts, 100,000 deep": (
        lambda: torch_zip(
            op.PROTO(2) + (op.EMPTY_DICT + op.NONE) * 100_000 + op.NONE + op.SETITEM * 100_000 + op.STOP
        ),
        "nesting",
    ),
    "nested calls, 100,000 deep": (
        lambda: torch_zip(
            op.PROTO(2)
            + op.GLOBAL("a", "B") * 100_000
            + (op.EMPTY_TUPLE + op.REDUCE + op.TUPLE1 + op.REDUCE) * 40_000
            + op.STOP
        ),
        "nesting",
    ),
    "nested keys, 100,000 deep": (
        lambda: torch_zip(
            op.PROTO(2)
            + op.MARK * 3
            + op.EMPTY_TUPLE
            + op.TUPLE1 * 100_000
            + op.NONE
            + op.DICT
            + op.POP
            + op.POP
            + op.push({})
            + op.STOP
        ),
        "",  # MARKs that are left open at STOP are no error, here as in CPython
    ),
    "nested persistent ids": (
        lambda: torch_zip(op.PROTO(2) + op.NONE + op.BINPERSID * 1_000_000 + op.STOP),
        "",
    ),
    "marks without end": (lambda: torch_zip(op.PROTO(2) + op.MARK * 11_000_000 + op.STOP), "stack"),
    "stack without end": (lambda: torch_zip(op.PROTO(2) + op.BINFLOAT(1.5) * 11_000_000 + op.STOP), ""),
    "opcodes without end": (
        lambda: torch_zip(op.PROTO(2) + (op.NONE + op.POP) * 7_000_000 + op.NONE + op.STOP),
        "opcodes",
    ),
    "memo without end": (lambda: torch_zip(op.PROTO(2) + op.NONE + op.MEMOIZE * 3_000_000 + op.STOP), "memo"),
    "memo of huge indexes": (
        lambda: torch_zip(
            op.PROTO(2) + op.NONE + b"".join(op.LONG_BINPUT(2**32 - 1 - n) for n in range(100_000)) + op.STOP
        ),
        "",
    ),
    "dicts without end": (
        lambda: torch_zip(op.PROTO(2) + _many(op.EMPTY_DICT, 1_300_000) + op.STOP),
        "number of",
    ),
    "bytes without end": (
        lambda: torch_zip(op.PROTO(3) + _many(b"C\x01x", 1_900_000) + op.STOP),
        "number of tensors, values",
    ),
    "longer bytes without end": (
        lambda: torch_zip(op.PROTO(3) + _many(b"C\x80" + bytes(128), 300_000) + op.STOP),
        "",
    ),
    "strings without end": (
        lambda: torch_zip(op.PROTO(4) + _many(b"\x8c\x02ab", 10_000_000) + op.STOP),
        "strings",
    ),
    "strings without end, protocol 2": (
        lambda: torch_zip(op.PROTO(2) + _many(op.push("ab"), 10_000_000) + op.STOP),
        "strings",
    ),
    "appends one by one": (
        lambda: torch_zip(op.PROTO(2) + op.call("a:B") + (op.NONE + op.APPEND) * 1_000_000 + op.STOP),
        "",
    ),
    "states one by one": (
        lambda: torch_zip(op.PROTO(2) + op.call("a:B") + (op.EMPTY_DICT + op.BUILD) * 600_000 + op.STOP),
        "",
    ),
    "GLOBAL of 30 MB without a newline": (
        lambda: torch_zip(op.PROTO(2) + b"c" + b"a" * (30 * MIB)),
        "cut off",
    ),
    "GLOBAL of 30 MB": (lambda: torch_zip(op.PROTO(2) + op.GLOBAL("a" * (30 * MIB), "b") + op.STOP), "name"),
    "thousands of long GLOBALs": (
        lambda: torch_zip(
            op.PROTO(2) + b"".join(op.GLOBAL(f"{n}" + "a" * 100_000, "b") for n in range(600)) + op.STOP
        ),
        "",
    ),
    "BINUNICODE8 of 2**62": (
        lambda: torch_zip(op.PROTO(4) + op.BINUNICODE8("a", 2**62) + op.STOP),
        "longer than the pickle",
    ),
    "BINUNICODE of 4 GiB": (
        lambda: torch_zip(op.PROTO(2) + op.BINUNICODE("a", 2**32 - 1) + op.STOP),
        "cut off",
    ),
    "BINBYTES8 of 2**63": (
        lambda: torch_zip(op.PROTO(4) + op.BINBYTES8(b"a", 2**63) + op.STOP),
        "longer than the pickle",
    ),
    "BYTEARRAY8 of 2**40": (
        lambda: torch_zip(op.PROTO(5) + op.BYTEARRAY8(b"a", 2**40) + op.STOP),
        "longer than the pickle",
    ),
    "LONG4 of 2 GiB": (
        lambda: torch_zip(op.PROTO(2) + op.LONG4(b"a", 2**31 - 1) + op.STOP),
        "longer than the pickle",
    ),
    "LONG4 negative": (
        lambda: torch_zip(op.PROTO(2) + op.LONG4(b"a", -5) + op.STOP),
        "longer than the pickle",
    ),
    "integer of 8 million digits": (
        lambda: _in_zip({"n": op.LONG4(b"\x7f" * 4_000_000), "w": op.tensor()}),
        "",
    ),
    "decimal of 8 million digits": (
        lambda: _in_zip({"n": op.LONG("9" * 8_000_000), "i": op.INT("9" * 100_000)}),
        "",
    ),
    "float of 8 million digits": (lambda: _in_zip({"n": op.FLOAT("9" * 8_000_000)}), ""),
    "key of 100 MB": (
        lambda: torch_zip(
            op.PROTO(2) + op.MARK + op.push("k" * (100 * MIB)) + op.tensor() + op.DICT + op.STOP
        ),
        "key",
    ),
    "bytes key of 100 MB": (
        lambda: torch_zip(
            op.PROTO(2) + op.MARK + op.BINBYTES(bytes(100 * MIB)) + op.tensor() + op.DICT + op.STOP
        ),
        "",
    ),
    "STRING of escapes": (lambda: _in_zip({"s": op.STRING("'" + "\\x41" * 5_000_000 + "'")}), ""),
    "data.pkl that inflates to 1 GiB": (lambda: _deflated("data.pkl", 1024 * MIB), "size of member data.pkl"),
    "data.pkl that inflates beyond its claim": (
        lambda: _deflated("data.pkl", 64 * MIB, 1000),
        "size that the zip says",
    ),
    "byteorder that inflates": (lambda: _deflated("byteorder", 1024 * MIB), "size of member byteorder"),
    "version that inflates": (lambda: _deflated("version", 1024 * MIB), ""),
    "a million members": (lambda: _many_members(999_999), "number of members in the zip"),
    "400,000 members": (lambda: _many_members(399_999), ""),
    "directory that claims 4 GiB": (
        lambda: torch_zip(op.dump({}), directory_nbytes=2**32 - 2, directory_offset=0),
        "outside the file",
    ),
    "directory that claims 2**60 members": (
        lambda: torch_zip(op.dump({}), zip64_end=True, count=2**60),
        "number of members",
    ),
    "member of a 64 KB name": (
        lambda: torch_zip(op.dump({}), more=[Member("archive/" + "n" * 65_000, b"")]),
        "",
    ),
    "persistent id of a long key": (
        lambda: _in_zip({"w": op.tensor(op.storage("k" * (8 * MIB)))}),
        "not in the file",
    ),
    "safetensors: nesting": (
        lambda: safetensors(b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"),
        "nesting",
    ),
    "safetensors: empty arrays": (
        lambda: safetensors(b'{"a":[' + b"[]," * 30_000_000 + b"[]]}"),
        "number of values",
    ),
    "safetensors: header of exabytes": (lambda: safetensors({}, b"", 2**62), "ends inside"),
    "safetensors: 100,000 tensors": (
        lambda: _header(100_000, b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'),
        "",
    ),
    "safetensors: number of 100,000 digits": (
        lambda: safetensors(
            b'{"a":{"dtype":"U8","shape":[' + b"9" * 100_000 + b'],"data_offsets":[0,1]}}', b"x"
        ),
        "digits",
    ),
    "safetensors: name of 50 MB": (
        lambda: safetensors({"n" * (50 * MIB): {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"x"),
        "name",
    ),
}


# These only claim much: they need no process of their own.
LIGHT = (
    "laughs: ",
    "nested ",
    "BIN",
    "BYTEARRAY8",
    "LONG4",
    "float of",
    "decimal of",
    "directory that claims",
    "member of a",
    "persistent id",
    "safetensors: header",
    "safetensors: number",
    "keys of a",
    "module names",
)
HEAVY = ("laughs: modules", "laughs: nested", "laughs: subclasses", "laughs: tensors", "nested persistent")


def _iter_cases() -> Iterator[Case]:
    for name, (content, error) in BOMBS.items():
        suffix = ".safetensors" if name.startswith("safetensors") else ".pt"
        alone = name.startswith(HEAVY) or not name.startswith(LIGHT)
        yield Case(f"bomb: {name}", content, error, suffix=suffix, alone=alone)


CASES = tuple(_iter_cases())
