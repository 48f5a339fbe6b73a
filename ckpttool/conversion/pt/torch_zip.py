"""Writes ``.pt``: the zip container of ``torch.save``, with real checksums.

- Members in torch's order under the top folder ``archive``: ``data.pkl``, ``byteorder``, ``data/0`` …
  ``data/N`` numbered by first use, ``version``. No ``.format_version``: with it torch would trust
  computed storage offsets instead of those in the file.
- All STORED. The local header holds CRC and sizes (torch writes zeros there and a data descriptor
  after the data; every reader takes this simpler form). The CRC is put in once the bytes have passed.
- Data starts at a multiple of 64: the local extra field ``FB`` pads, as torch's does.
- Sizes or offsets from 4 GiB on stand in zip64 extra fields (APPNOTE 4.5.3); the zip64 end record and
  its locator are always written, as torch does.
- The date is 1980-01-01, the first that exists: equal input gives equal bytes.

Source: ``caffe2/serialize/inline_container.cc``, ``torch/serialization.py``, APPNOTE 6.3.10.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ckpttool.conversion.layout import Crcs, FileLayout, Segment
from ckpttool.conversion.pt.object_tree import build_tree, write_tree
from ckpttool.conversion.pt.pickle_writer import PickleWriter, StorageName
from ckpttool.values.conversion import ConversionPlan

_TOP = "archive"
_ALIGNMENT = 64  # kFieldAlignment of inline_container.h
_VERSION = b"3\n"  # kMinProducedFileFormatVersion
_UTF8_NAMES = 0x0800
_DATE = 0x0021  # 1980-01-01 in DOS format
_FULL32 = 0xFFFFFFFF
_COMMON = struct.Struct("<5H3I2H")
_LOCAL_NBYTES, _CENTRAL_NBYTES, _END_NBYTES = 4 + _COMMON.size, 20 + _COMMON.size, 56 + 20 + 22
_ZIP64_NEEDED, _ZIP_NEEDED = 45, 20  # "version needed to extract"


class _Member(NamedTuple):
    """A member of the zip: literal ``data``, or a piece. ``offset`` is that of its local header."""

    name: bytes
    nbytes: int
    data: bytes
    piece: int
    offset: int
    extra: bytes


def lay_out(name: str, plan: ConversionPlan) -> FileLayout:
    """A file called ``name`` that holds what ``plan`` does."""
    used = dict.fromkeys(placed.piece for tensor in plan.tensors for placed in tensor.leaves)
    storages = {
        piece: StorageName(str(number), plan.pieces[piece].nbytes) for number, piece in enumerate(used)
    }
    members: list[_Member] = []
    _append(members, "data.pkl", data=_pickle(plan, storages))
    _append(members, "byteorder", data=b"little")
    for piece, storage in storages.items():
        _append(members, f"data/{storage.key}", piece=piece, nbytes=storage.nbytes)
    _append(members, "version", data=_VERSION)
    nbytes = _end(members[-1]) + sum(map(_central_nbytes, members)) + _END_NBYTES
    return FileLayout(name, nbytes, partial(_iter_segments, members), wants_crcs=True)


def _pickle(plan: ConversionPlan, storages: Mapping[int, StorageName]) -> bytes:
    # Tree and memo take as much memory as all headers do: they are gone when those are made.
    writer = PickleWriter(storages)
    write_tree(writer, build_tree(plan), plan)
    return writer.finish()


def _append(
    members: list[_Member], name: str, *, data: bytes = b"", piece: int = -1, nbytes: int = 0
) -> None:
    """Place a member after the last one, its data aligned."""
    offset = _end(members[-1]) if members else 0
    encoded = f"{_TOP}/{name}".encode()
    nbytes = nbytes if piece >= 0 else len(data)
    extra = b""
    if nbytes >= _FULL32:
        extra = struct.pack("<HHQQ", 1, 16, nbytes, nbytes)
    start = offset + _LOCAL_NBYTES + len(encoded) + len(extra) + 4
    padding = -start % _ALIGNMENT
    extra += b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    members.append(_Member(encoded, nbytes, data, piece, offset, extra))


def _end(member: _Member) -> int:
    return member.offset + _LOCAL_NBYTES + len(member.name) + len(member.extra) + member.nbytes


def _iter_segments(members: Sequence[_Member], crcs: Crcs) -> Iterator[Segment]:
    """The whole file; a CRC that is not known yet is 0."""
    for member in members:
        literal = _local_header(member, _crc(member, crcs)) + member.data
        yield Segment(member.offset, len(literal), literal, late=member.piece >= 0)
        if member.piece >= 0 and member.nbytes:
            yield Segment(member.offset + len(literal), member.nbytes, piece=member.piece)
    literal = _directory(members, crcs)
    yield Segment(_end(members[-1]), len(literal), literal, late=True)


def _directory(members: Sequence[_Member], crcs: Crcs) -> bytes:
    headers = b"".join([_central_header(member, _crc(member, crcs)) for member in members])
    return headers + _end_records(len(members), len(headers), _end(members[-1]))


def _crc(member: _Member, crcs: Crcs) -> int:
    return zlib.crc32(member.data) if member.piece < 0 else crcs.get(member.piece, 0)


def _local_header(member: _Member, crc: int) -> bytes:
    needed = _ZIP64_NEEDED if member.nbytes >= _FULL32 else _ZIP_NEEDED
    return b"PK\x03\x04" + _common(member, crc, needed, member.extra) + member.name + member.extra


def _wide(member: _Member) -> list[int]:
    """Sizes and offset that the directory has in 64 bits."""
    wide = [member.nbytes, member.nbytes] if member.nbytes >= _FULL32 else []
    return [*wide, member.offset] if member.offset >= _FULL32 else wide


def _central_nbytes(member: _Member) -> int:
    wide = _wide(member)
    return _CENTRAL_NBYTES + len(member.name) + (4 + 8 * len(wide) if wide else 0)


def _central_header(member: _Member, crc: int) -> bytes:
    wide, offset = _wide(member), min(member.offset, _FULL32)
    extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    needed = _ZIP64_NEEDED if wide else _ZIP_NEEDED
    head = struct.pack("<4sH", b"PK\x01\x02", needed) + _common(member, crc, needed, extra)
    return head + struct.pack("<3H2I", 0, 0, 0, 0, offset) + member.name + extra


def _common(member: _Member, crc: int, needed: int, extra: bytes) -> bytes:
    """What stands in both headers: version, flags, method, time, date, CRC, sizes, lengths."""
    size = min(member.nbytes, _FULL32)
    lengths = len(member.name), len(extra)
    return _COMMON.pack(needed, _UTF8_NAMES, 0, 0, _DATE, crc, size, size, *lengths)


def _end_records(count: int, directory_nbytes: int, directory_offset: int) -> bytes:
    """zip64 end record, its locator, end record."""
    end64 = struct.pack("<4sQ2H2I", b"PK\x06\x06", 44, _ZIP64_NEEDED, _ZIP64_NEEDED, 0, 0)  # 44 bytes follow
    end64 += struct.pack("<4Q", count, count, directory_nbytes, directory_offset)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, directory_offset + directory_nbytes, 1)
    short, few = min(directory_offset, _FULL32), min(count, 0xFFFF)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, few, few, min(directory_nbytes, _FULL32), short, 0)
    return end64 + locator + end
