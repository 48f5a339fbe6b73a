"""Containers that lie about their own structure, or end too early."""

from __future__ import annotations

from collections.abc import Iterator

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

PKL = op.dump({"w": op.tensor()})
EVIL = op.dump({"x": op.call("posix:system", "echo fired > hostile-canary")})
HEADER = {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}


def _change(name: str = "data/0", **fields: object) -> bytes:
    return torch_zip(PKL, change={name: fields})


ZIPS: dict[str, tuple[bytes, str, str]] = {
    # name: (file, part of the refusal, or finding of a file that reads)
    "local name differs": (_change(local_name="archive/data/9"), "", "zip-headers-differ"),
    "local name of data.pkl differs": (
        _change("data.pkl", local_name="archive/evil.pk"),
        "",
        "zip-headers-differ",
    ),
    "local method differs": (_change(local_method=8), "", "zip-headers-differ"),
    "local header says encrypted": (_change(local_flags=1), "", "zip-headers-differ"),
    "local sizes differ": (_change(local_nbytes=8), "", "zip-headers-differ"),
    "encrypted": (_change(flags=1), "encrypted", ""),
    "strongly encrypted": (_change(flags=0x41), "encrypted", ""),
    "method 12": (_change(method=12), "method 12", ""),
    "method 99": (_change("data.pkl", method=99), "method 99", ""),
    "no local header": (_change(local_magic=b"PK\x03\x05"), "no local header", ""),
    "header beyond the end": (_change(header_offset=1 << 30), "outside the file", ""),
    "header at 2**62": (_change(header_offset=1 << 62), "outside the file", ""),
    "two sizes": (_change(compressed=4), "two sizes", ""),
    "size beyond the end": (_change(nbytes=1 << 20, compressed=1 << 20), "outside the file", ""),
    "size 2**63": (_change(nbytes=1 << 63, compressed=1 << 63), "outside the file", ""),
    "member over its directory": (_change("version", nbytes=60, compressed=60), "overlap", ""),
    "overlapping members": (_change("byteorder", nbytes=40, compressed=40), "overlap", ""),
    "two members at one place": (
        torch_zip(PKL, more=[Member("archive/data/1", bytes(16), header_offset=0, written=False)]),
        "overlap",
        "",
    ),
    "name twice": (torch_zip(PKL, more=[Member("archive/data.pkl", EVIL)]), "same name", ""),
    "name twice but for case": (torch_zip(PKL, more=[Member("archive/DATA.pkl", EVIL)]), "same name", ""),
    "not DEFLATE": (_change("data.pkl", method=DEFLATED, raw=True), "damaged DEFLATE", ""),
    "DEFLATE cut": (
        torch_zip(PKL, change={"data.pkl": {"method": DEFLATED, "compressed": 9}}),
        "size that the zip says",
        "",
    ),
    "no folder": (torch_zip(PKL, top=""), "not written by torch.save", ""),
    "two folders": (torch_zip(PKL, more=[Member("other/data.pkl", EVIL)]), "", "zip-members-outside"),
    "folder of another first": (build_zip([Member("first/x", b""), *torch_members(PKL)]), "no data.pkl", ""),
    "member leaves its folder": (torch_zip(PKL, more=[Member("archive/../../etc/passwd", b"x")]), "", ""),
    "absolute member": (torch_zip(PKL, more=[Member("/etc/passwd", b"x")]), "", "zip-members-outside"),
    "NUL in a member's name": (torch_zip(PKL, more=[Member(b"archive/data.pkl\0x", EVIL)]), "", ""),
    "member name not UTF-8": (torch_zip(PKL, more=[Member(b"archive/\xff\xfe", b"x")]), "", ""),
    "no data.pkl": (build_zip(torch_members(PKL)[1:]), "without data.pkl", ""),
    "empty data.pkl": (torch_zip(b""), "cut off", ""),
    "data.pkl of text": (torch_zip(b"hello"), "memo", ""),
    "byteorder middle": (torch_zip(PKL, byteorder="middle"), "byte order", ""),
    "byteorder of ESC": (torch_zip(PKL, byteorder="\x1b]0;EVIL\x07"), "byte order", ""),
    "count too large": (torch_zip(PKL, count=9), "cut off", ""),
    "count too small": (torch_zip(PKL, count=2), "longer than its members", ""),
    "count of zero": (torch_zip(PKL, count=0), "longer than its members", ""),
    "bytes in the directory": (torch_zip(PKL, directory_tail=b"x" * 46), "longer than its members", ""),
    "directory in the wrong place": (torch_zip(PKL, directory_offset=3), "damaged", ""),
    "directory beyond the end": (torch_zip(PKL, directory_offset=1 << 30), "outside the file", ""),
    "end record gone": (torch_zip(PKL, end_magic=b"PK\x05\x07"), "no central directory", ""),
    "second disk": (torch_zip(PKL, disk=3), "split", ""),
    "zip64 of a second disk": (torch_zip(PKL, disk=3, zip64_end=True), "split", ""),
    "another zip behind": (torch_zip(PKL) + torch_zip(EVIL), "damaged", ""),
    "another zip in the comment": (torch_zip(PKL, comment=torch_zip(EVIL)), "damaged", ""),
    "end record in the comment": (torch_zip(PKL, comment=b"PK\x05\x06" + bytes(18)), "*", ""),
    "pickle in front": (torch_zip(PKL, prefix=EVIL), "", ""),
    "only an end record": (build_zip([]), "without members", ""),
}

LEGACY = legacy(op.dump({"w": op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", None))}))
SAFETENSORS = safetensors(HEADER, bytes(16))
WHOLE = {
    ".pt": torch_zip(PKL),
    ".pth": LEGACY,
    ".safetensors": SAFETENSORS,
    ".pkl": op.dump({"n": "text" * 9}),
}

STREAMS: dict[str, tuple[bytes, str]] = {
    "unknown opcode": (b"\xff", "not a pickle opcode"),
    "empty stack": (op.REDUCE + op.STOP, "stack"),
    "STOP on an empty stack": (op.STOP, "stack"),
    "STOP in a MARK": (op.NONE + op.MARK + op.STOP, "stack"),
    "REDUCE over a MARK": (op.GLOBAL("a", "B") + op.MARK + op.EMPTY_TUPLE + op.REDUCE + op.STOP, "stack"),
    "TUPLE without MARK": (op.NONE + op.TUPLE + op.STOP, "stack"),
    "memo never written": (op.BINGET(5) + op.STOP, "memo"),
    "memo of a negative index": (op.NONE + op.PUT("-1") + op.STOP, "memo index"),
    "memo of text": (op.NONE + op.PUT("x") + op.STOP, "not an integer"),
    "protocol 6": (op.PROTO(6) + op.NONE + op.STOP, "protocol"),
    "protocol 255": (op.PROTO(255) + op.NONE + op.STOP, "protocol"),
    "odd dict": (op.MARK + op.NONE + op.DICT + op.STOP, "odd number"),
    "odd SETITEMS": (op.EMPTY_DICT + op.MARK + op.NONE + op.SETITEMS + op.STOP, "odd number"),
    "SETITEM on a tensor's number": (op.push(1) + op.push(2) + op.push(3) + op.SETITEM + op.STOP, "SETITEMS"),
    "APPEND to a tuple": (op.EMPTY_TUPLE + op.NONE + op.APPEND + op.STOP, "APPENDS"),
    "ADDITEMS to a list": (op.EMPTY_LIST + op.MARK + op.NONE + op.ADDITEMS + op.STOP, "ADDITEMS"),
    "STACK_GLOBAL of numbers": (op.push(1) + op.push(2) + op.STACK_GLOBAL + op.STOP, "two strings"),
    "out-of-band buffer": (op.NEXT_BUFFER + op.STOP, "out-of-band"),
    "text that is not UTF-8": (op.BINUNICODE(b"\xff\xff") + op.STOP, "UTF-8"),
    "global that is not UTF-8": (b"c\xff\xff\nx\n" + op.STOP, "UTF-8"),
    "INT of letters": (op.INT("abc") + op.STOP, "not an integer"),
    "FLOAT of letters": (op.FLOAT("abc") + op.STOP, "not a number"),
    "STRING without quotes": (op.STRING("abc") + op.STOP, "not quoted"),
    "STRING with a bad escape": (op.STRING("'\\x1'") + op.STOP, "escape"),
    "UNICODE with a bad escape": (b"V\\u12\n" + op.STOP, "string in a pickle"),
    "OBJ of nothing": (op.MARK + op.OBJ + op.STOP, "stack"),
    "FRAME beyond the end": (op.FRAME(2**63) + op.BINUNICODE("a", 99), "cut off"),
    "BINPERSID of nothing": (op.BINPERSID + op.STOP, "stack"),
}


def _iter_cases() -> Iterator[Case]:
    for name, (content, error, finding) in ZIPS.items():
        yield Case(f"zip: {name}", content, error, finding=finding)
    for name, (code, error) in STREAMS.items():
        yield Case(f"pickle: {name}", torch_zip(op.PROTO(2) + code), error)
    for suffix, content in WHOLE.items():
        for at in sorted(
            {1, 2, 3, 5, 8, 9, 12, *range(16, len(content), max(1, len(content) // 12)), len(content) - 1}
        ):
            yield Case(f"cut: {suffix} after {at} bytes", content[:at], "*", suffix=suffix)
    # The one byte that a flip is least likely to show.
    yield Case("safetensors: tail", SAFETENSORS + b"x", "after the last tensor", suffix=".safetensors")


CASES = tuple(_iter_cases())
