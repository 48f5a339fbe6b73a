"""Containers by hand: torch zips, legacy files and safetensors with any field overridden.

What is not overridden is right, so that a test shows which field makes the difference.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.hostile import pickles as op

STORED, DEFLATED = 0, 8
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
ZEROS = bytes(16)


class Member(NamedTuple):
    """A member of a zip. None means: the right value. ``local_*`` differ from the directory only if given."""

    name: str | bytes
    data: bytes
    method: int = STORED
    flags: int = 0
    crc: int | None = None
    nbytes: int | None = None
    compressed: int | None = None
    header_offset: int | None = None
    local_name: str | bytes | None = None
    local_magic: bytes = b"PK\x03\x04"
    local_method: int | None = None
    local_flags: int | None = None
    local_nbytes: int | None = None
    local_extra: bytes = b""
    zip64: bool = False  # sizes and offset in an extra field although they are small
    listed: bool = True  # in the central directory
    written: bool = True  # its local header and data are in the file
    raw: bool = False  # data is the compressed stream already


def _as_bytes(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode()


def build_zip(
    members: Sequence[Member],
    *,
    prefix: bytes = b"",
    comment: bytes = b"",
    tail: bytes = b"",
    directory_tail: bytes = b"",
    count: int | None = None,
    directory_nbytes: int | None = None,
    directory_offset: int | None = None,
    disk: int = 0,
    zip64_end: bool = False,
    end_magic: bytes = b"PK\x05\x06",
) -> bytes:
    """The bytes of a zip file."""
    body, directory = bytearray(prefix), bytearray()
    for member in members:
        name = _as_bytes(member.name)
        local_name = name if member.local_name is None else _as_bytes(member.local_name)
        packed = member.data
        if member.method == DEFLATED and not member.raw:
            deflate = zlib.compressobj(wbits=-15)
            packed = deflate.compress(member.data) + deflate.flush()
        nbytes = len(member.data) if member.nbytes is None else member.nbytes
        compressed = len(packed) if member.compressed is None else member.compressed
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        offset = len(body) if member.header_offset is None else member.header_offset
        if member.written:
            local_nbytes = nbytes if member.local_nbytes is None else member.local_nbytes
            body += member.local_magic + struct.pack(
                "<5H3I2H",
                20,
                member.flags if member.local_flags is None else member.local_flags,
                member.method if member.local_method is None else member.local_method,
                0,
                0,
                crc,
                min(compressed, 0xFFFFFFFF),
                min(local_nbytes, 0xFFFFFFFF),
                len(local_name),
                len(member.local_extra),
            )
            body += local_name + member.local_extra + packed
        if member.listed:
            wide = member.zip64 or max(nbytes, compressed, offset) >= 0xFFFFFFFF
            extra = struct.pack("<2H3Q", 1, 24, nbytes, compressed, offset) if wide else b""
            full = 0xFFFFFFFF
            directory += b"PK\x01\x02" + struct.pack(
                "<6H3I5H2I",
                20,
                20,
                member.flags,
                member.method,
                0,
                0,
                crc,
                full if wide else compressed,
                full if wide else nbytes,
                len(name),
                len(extra),
                0,
                0,
                0,
                0,
                full if wide else offset,
            )
            directory += name + extra
    directory += directory_tail
    start = len(body) if directory_offset is None else directory_offset
    size = len(directory) if directory_nbytes is None else directory_nbytes
    listed = sum(member.listed for member in members) if count is None else count
    end = b""
    if zip64_end:
        end64_offset = len(body) + len(directory)
        end = b"PK\x06\x06" + struct.pack("<Q2H2I4Q", 44, 45, 45, disk, disk, listed, listed, size, start)
        end += b"PK\x06\x07" + struct.pack("<IQI", 0, end64_offset, 1)
        listed, size, start = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
    end += end_magic + struct.pack(
        "<4H2IH",
        disk,
        disk,
        min(listed, 0xFFFF),
        min(listed, 0xFFFF),
        min(size, 0xFFFFFFFF),
        min(start, 0xFFFFFFFF),
        len(comment),
    )
    return bytes(body) + bytes(directory) + end + comment + tail


def torch_members(
    data_pkl: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    top: str = "archive",
    byteorder: str | None = "little",
    version: str | None = "3\n",
    change: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Member]:
    """Members as torch.save writes them; ``change`` overrides fields by the name below the top folder."""
    blobs = {"data.pkl": data_pkl}
    if byteorder is not None:
        blobs["byteorder"] = byteorder.encode()
    blobs.update(
        {f"data/{key}": raw for key, raw in ({"0": ZEROS} if storages is None else storages).items()}
    )
    if version is not None:
        blobs["version"] = version.encode()
    members = [Member(f"{top}/{name}" if top else name, data) for name, data in blobs.items()]
    return [
        member._replace(**(change or {}).get(name, {})) for name, member in zip(blobs, members, strict=True)
    ]


def torch_zip(
    data_pkl: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    more: Sequence[Member] = (),
    **fields: Any,
) -> bytes:
    """A torch zip around ``data_pkl``. ``fields`` of ``torch_members`` or ``build_zip``."""
    ours = {name: fields.pop(name) for name in ("top", "byteorder", "version", "change") if name in fields}
    return build_zip([*torch_members(data_pkl, storages, **ours), *more], **fields)


def legacy(
    data_pkl: bytes,
    storages: Sequence[tuple[int, bytes]] = ((4, ZEROS),),
    *,
    magic: bytes | None = None,
    version: bytes | None = None,
    sys_info: bytes | None = None,
    keys: bytes | None = None,
) -> bytes:
    """A file of torch.save before 1.6; each of the five pickles can be replaced."""
    parts = [
        op.dump(MAGIC_NUMBER) if magic is None else magic,
        op.dump(1001) if version is None else version,
        op.dump({"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}})
        if sys_info is None
        else sys_info,
        data_pkl,
        op.dump([str(index) for index in range(len(storages))]) if keys is None else keys,
    ]
    return b"".join(parts) + b"".join(struct.pack("<q", numel) + raw for numel, raw in storages)


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file; ``header`` may be raw bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data
