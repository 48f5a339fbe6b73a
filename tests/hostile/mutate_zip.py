"""Mutations of a zip: any field of any header, members that overlap, repeat or change their contents.

``split_zip`` is lenient where a reader must not be: a mutated zip comes back as members once more, with those
fields overridden in which it lies.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from tests.hostile.containers import DEFLATED, STORED, Member, build_zip
from tests.hostile.mutate_bytes import clamp, edge_integer

_MAX_INFLATED = 1 << 20
_NAMES = (
    "data.pkl",
    "data/0",
    "data/1",
    "DATA/0",
    "constants.pkl",
    "constants/0",
    "version",
    ".data/version",
    "byteorder",
    ".format_version",
    "archive_format",
    "archive_version",
    "code/__torch__.py",
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/weights/weight_0",
    "serialized_exported_program.json",
    "serialized_state_dict.pt",
    "extra/[red]\x1b[2J\n\u202e",
    "../../x",
    "",
)


class Zip(NamedTuple):
    """Members, and the fields of ``build_zip`` beside them."""

    members: list[Member]
    fields: dict[str, Any]

    def build(self) -> bytes:
        """The file."""
        return build_zip(self.members, **self.fields)


def split_zip(data: bytes) -> Zip | None:
    """The members that the directory lists, or None if there is none that can be followed."""
    end = data.rfind(b"PK\x05\x06")
    if end < 0 or end + 22 > len(data):
        return None
    count, _, at, comment_nbytes = struct.unpack_from("<HIIH", data, end + 10)
    members: list[Member] = []
    while len(members) < min(count, 1000) and data[at : at + 4] == b"PK\x01\x02" and at + 46 <= len(data):
        flags, method, crc, compressed, nbytes, name_nbytes, extra_nbytes, more_nbytes, header = (
            struct.unpack_from("<HH4xIIIHHH8xI", data, at + 8)
        )
        name = data[at + 46 : at + 46 + name_nbytes]
        extra = data[at + 46 + name_nbytes :][:extra_nbytes]
        at += 46 + name_nbytes + extra_nbytes + more_nbytes
        wide = header == 0xFFFFFFFF and len(extra) >= 28 and extra[:2] == b"\x01\0"
        if wide:
            nbytes, compressed, header = struct.unpack_from("<3Q", extra, 4)
        member = _member(data, header, name, method, compressed)
        if member is None:
            return None
        member = member._replace(flags=flags, zip64=wide)
        if crc != zlib.crc32(member.data):
            member = member._replace(crc=crc)
        if nbytes != len(member.data):
            member = member._replace(nbytes=nbytes)
        members.append(member)
    fields: dict[str, Any] = {"comment": data[end + 22 :][:comment_nbytes]}
    return Zip(members, fields) if members else None


def _member(data: bytes, header: int, name: bytes, method: int, compressed: int) -> Member | None:
    """What the local header and its data say."""
    if data[header : header + 4] != b"PK\x03\x04" or header + 30 > len(data):
        return None
    local_flags, local_method, name_nbytes, extra_nbytes = struct.unpack_from("<HH16xHH", data, header + 6)
    start = header + 30 + name_nbytes + extra_nbytes
    content = data[start : start + compressed]
    local_name = data[header + 30 :][:name_nbytes]
    raw = False
    if method == DEFLATED:
        try:
            content = zlib.decompressobj(-15).decompress(content, _MAX_INFLATED)
        except zlib.error:
            raw = True
    return Member(
        name,
        content,
        method,
        local_name=None if local_name == name else local_name,
        local_method=None if local_method == method else local_method,
        local_flags=local_flags,
        local_extra=data[start - extra_nbytes : start],
        raw=raw,
    )


def _number(rnd: Random, near: int, nbytes: int) -> int:
    return clamp(edge_integer(rnd, near), nbytes)


_FIELDS: dict[str, Callable[[Random, Member], Any]] = {
    "method": lambda rnd, member: rnd.choice((STORED, DEFLATED, DEFLATED, 9, 12, 99)),
    "flags": lambda rnd, member: rnd.choice((0, 1, 8, 0x40, 0x800, 0x808, 0x2000, 0xFFFF)),
    "crc": lambda rnd, member: rnd.choice((0, 1, 0xFFFFFFFF)),
    "nbytes": lambda rnd, member: _number(rnd, len(member.data), 8),
    "compressed": lambda rnd, member: _number(rnd, len(member.data), 8),
    "header_offset": lambda rnd, member: _number(rnd, 30 * rnd.randrange(20), 8),
    "local_name": lambda rnd, member: rnd.choice((b"", b"archive/data.pkl", b"\xff" * 40)),
    "local_magic": lambda rnd, member: rnd.choice((b"PK\x01\x02", b"PK\x03\x05", b"\0\0\0\0")),
    "local_method": lambda rnd, member: rnd.choice((STORED, DEFLATED, 12)),
    "local_flags": lambda rnd, member: rnd.choice((0, 1, 8, 0x808)),
    "local_nbytes": lambda rnd, member: _number(rnd, len(member.data), 4),
    "local_extra": lambda rnd, member: rnd.choice(
        (b"", b"FB\x04\0ZZZZ", b"FB\xff\xff", b"\x01\0\x10\0" + b"\xff" * 16, bytes(5))
    ),
    "zip64": lambda rnd, member: not member.zip64,
    "listed": lambda rnd, member: False,
    "written": lambda rnd, member: False,
}

_END: dict[str, Callable[[Random], Any]] = {
    "prefix": lambda rnd: rnd.choice((b"\x80\x02}.", b"#!", bytes(64), b"PK\x03\x04")),
    "comment": lambda rnd: rnd.choice((b"x", b"PK\x05\x06" + bytes(18), b"\x1b[2J")),
    "tail": lambda rnd: rnd.choice((b"\0", b"\x80\x02}.", b"PK\x05\x06" + bytes(18))),
    "directory_tail": lambda rnd: rnd.choice((b"\0", b"PK\x05\x05\0\0", b"PK\x01\x02" + bytes(42))),
    "count": lambda rnd: _number(rnd, 4, 8),
    "directory_nbytes": lambda rnd: _number(rnd, 300, 8),
    "directory_offset": lambda rnd: _number(rnd, 600, 8),
    "disk": lambda rnd: rnd.choice((0, 1, 2, 0xFFFF)),
    "zip64_end": lambda rnd: True,
    "end_magic": lambda rnd: rnd.choice((b"PK\x05\x06", b"PK\x05\x07")),
}


def mutate_zip(archive: Zip, rnd: Random) -> Zip:
    """One change of the container; contents of members are the caller's."""
    members = list(archive.members)
    at = rnd.randrange(len(members))
    member = members[at]
    kind = rnd.randrange(8)
    if kind < 3:
        name = rnd.choice(list(_FIELDS))
        members[at] = member._replace(**{name: _FIELDS[name](rnd, member)})
    elif kind == 3:
        name = rnd.choice(list(_END))
        return Zip(members, {**archive.fields, name: _END[name](rnd)})
    elif kind == 4:
        del members[at]
    elif kind == 5:
        copy = member if rnd.randrange(2) else member._replace(name=_rename(member, rnd))
        # Written again, or a second entry for the same bytes.
        members.insert(rnd.randrange(len(members) + 1), copy._replace(written=bool(rnd.randrange(3))))
    elif kind == 6:
        members[at] = member._replace(name=_rename(member, rnd))
    else:
        other = rnd.randrange(len(members))
        members[at], members[other] = members[other], members[at]
    return Zip(members or archive.members, archive.fields)


def _rename(member: Member, rnd: Random) -> bytes:
    name = member.name if isinstance(member.name, bytes) else member.name.encode()
    top = rnd.choice((name.partition(b"/")[0] + b"/", name.partition(b"/")[0] + b"/", b"other/", b""))
    return (top + rnd.choice(_NAMES).encode())[:300]
