"""Members of a zip file as ranges of bytes, by the rules of torch's reader (miniz 2.x).

- MUST end in an end-of-central-directory record within the last 65,557 bytes (APPNOTE 4.3.16); the
  last such record counts. zip64 record and locator are used where present (APPNOTE 4.3.14, 4.3.15).
- The central directory decides names, sizes, methods and CRCs; the local header only the place of
  the data: 30 bytes + name + its own extra field (torch pads it, so it differs from the central one).
- A local header that contradicts the central directory is reported, as torch loads such files and
  Python's ``zipfile`` does not (CVE-2025-1944, CVE-2025-1945).
- MUST NOT hold two members whose names are equal but for case: miniz looks names up so, and would
  take either. MUST NOT overlap, leave the file, be encrypted, or use a method but STORED and DEFLATE.
- A CRC of 0 on a member that is not empty means "not recorded" (torch's set_crc32_options(False)).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple, TypeAlias

from ckpttool.files.source import ByteSource
from ckpttool.formats.base import Limits, first_repeated
from ckpttool.values.checkpoint import Finding, Record
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint, UnsupportedFeature
from ckpttool.values.words import plural

_EOCD = Struct("<4s4H2IH")
_EOCD64_LOCATOR = Struct("<4sIQI")
_EOCD64 = Struct("<4sQ2H2I4Q")
_CENTRAL = Struct("<4s4x2H4x3I3H8xI")  # without versions, time, date, disk and attributes
_LOCAL = Struct("<4s2x2H4x4x2I2H")  # without version, time, date and CRC
_EXTRA = Struct("<2H")  # of a field in an extra field: its id, its length
_MAX_COMMENT = 0xFFFF
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # traditional, strong, masked headers (APPNOTE 4.4.4)
_STORED, _DEFLATED = 0, 8
_MAX_RATIO = 1032  # of DEFLATE: a match of 258 bytes takes two bits at least (zlib.net/zlib_tech.html)
LOCAL_MAGIC = b"PK\x03\x04"

FETCH_AGAIN = "the download or save was interrupted: fetch or save the file again"
"""The hint for a file that is cut."""


class ZipArchive(NamedTuple):
    """``records`` by name, in the order of the central directory; ``findings`` about the container."""

    records: dict[str, Record]
    findings: tuple[Finding, ...]


_Member: TypeAlias = tuple[str, bytes, int, int, int, int, int]
"""Of the central directory: name, raw name, method, CRC, compressed size, size, header offset."""


def has_end_record(source: ByteSource) -> bool:
    """Whether an end-of-central-directory record can be found at the end of ``source``."""
    return _find_end(source)[1] >= 0


def read_archive(source: ByteSource, limits: Limits) -> ZipArchive:
    """The members of the zip file that fills ``source``.

    Raises:
        MalformedCheckpoint: no central directory, or one that contradicts the file.
        UnsupportedFeature: encrypted, split over disks, or an unknown compression method.
        LimitExceeded: more members, or a larger directory, than ``limits`` allow.
    """
    offset, nbytes, count = _locate_directory(source, limits)
    members = _parse_directory(source.read_at(offset, nbytes), count, offset)
    window = _Window(source)
    records: dict[str, Record] = {}
    folded: set[str] = set()
    spans: list[tuple[int, int, str]] = []
    differing: list[str] = []
    base, file, size = source.base, source.name, source.size
    unpack = _LOCAL.unpack_from
    for name, raw_name, method, crc, compressed, member_nbytes, header in members:
        folded.add(name.lower())
        head_nbytes = 30 + len(raw_name)
        if header + head_nbytes > size:
            raise _outside(source, name, header, head_nbytes)
        data, at = window.at(header, head_nbytes)
        magic, flags, local_method, local_compressed, local_nbytes, name_len, extra_len = unpack(data, at)
        if magic != LOCAL_MAGIC:
            what = "no local header where the zip's directory points"
            raise MalformedCheckpoint(what, name=name, byte_offset=header)
        if (
            local_method != method
            or flags & _ENCRYPTED
            or data[at + 30 : at + head_nbytes] != raw_name
            # Bit 3: the sizes follow the data, so the header has zeros or nothing to compare.
            or (not flags & 8 and local_nbytes not in (member_nbytes, 0xFFFFFFFF))
            or (not flags & 8 and local_compressed not in (compressed, 0xFFFFFFFF))
        ):
            differing.append(name)
        start = header + 30 + name_len + extra_len
        end = start + compressed
        if end > size:
            raise _outside(source, name, start, compressed)
        spans.append((header, end, name))
        records[name] = Record(
            name,
            file,
            base + start,
            member_nbytes,
            None if method == _STORED else compressed,
            crc if crc or not member_nbytes else None,
        )
    if len(folded) != count:
        what = "two members of the zip have the same name (but for case)"
        raise MalformedCheckpoint(what, name=first_repeated((member[0] for member in members), str.lower))
    _refuse_overlap(spans, offset)
    if not differing:
        return ZipArchive(records, ())
    message = (
        f"{plural(len(differing), 'member has', 'members have')} a local header that contradicts the zip's "
        "directory: "
        "other readers may see another file"
    )
    return ZipArchive(records, (Finding("zip-headers-differ", "warning", differing[0], message),))


class _Window:
    """Local headers, read together where they lie close: 20,000 small tensors cost 70 reads."""

    nbytes = 1 << 16

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.data = b""
        self.start = 0
        self.previous = 0

    def at(self, offset: int, nbytes: int) -> tuple[bytes, int]:
        """(data, index in it) of the ``nbytes`` at ``offset``, which lie inside the source."""
        index = offset - self.start
        if index < 0 or index + nbytes > len(self.data):
            # A header far from the one before is read alone, so that big storages stay unread.
            near = 0 <= offset - self.previous < 1 << 14
            wanted = max(nbytes, self.nbytes) if near else nbytes
            self.data = self.source.read_at(offset, min(wanted, self.source.size - offset))
            self.start, index = offset, 0
        self.previous = offset
        return self.data, index


def read_record(source: ByteSource, record: Record, max_nbytes: int, what: str) -> bytes:
    """The bytes of a member, inflated with a running limit whatever size it claims.

    Raises:
        LimitExceeded: more than ``max_nbytes``; ``what`` names the member for people.
        MalformedCheckpoint: the compressed stream is damaged or not as long as it says.
    """
    if record.nbytes > max_nbytes:
        raise LimitExceeded(f"size of {what}", limit=max_nbytes, actual=record.nbytes)
    offset = record.byte_offset - source.base
    if record.compressed_nbytes is None:
        return source.read_at(offset, record.nbytes)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # The compressed length was checked against the file; one byte more shows an overlong stream.
        data = inflater.decompress(source.read_at(offset, record.compressed_nbytes), record.nbytes + 1)
    except zlib.error:
        raise MalformedCheckpoint("damaged DEFLATE stream", name=record.name) from None
    if len(data) != record.nbytes:
        what = "a compressed member does not have the size that the zip says"
        more = " or more" if len(data) > record.nbytes else ""
        expected, actual = plural(record.nbytes, "byte"), f"{len(data):,}{more}"
        raise MalformedCheckpoint(what, name=record.name, expected=expected, actual=actual)
    return data


def _outside(source: ByteSource, name: str, offset: int, nbytes: int) -> MalformedCheckpoint:
    return MalformedCheckpoint(
        "a member of the zip lies outside the file",
        name=name,
        byte_offset=offset,
        expected=plural(nbytes, "byte"),
        actual=f"{max(0, source.size - offset):,} left",
    )


def _find_end(source: ByteSource) -> tuple[int, int, bytes]:
    """(offset of the tail, index of the end record in it or -1, tail)."""
    tail_nbytes = min(source.size, _EOCD.size + _MAX_COMMENT)
    start = source.size - tail_nbytes
    # The record is nearly always the last 22 bytes; only then read the room for a comment.
    short = source.read_at(source.size - min(_EOCD.size, source.size), min(_EOCD.size, source.size))
    if len(short) == _EOCD.size and short.startswith(b"PK\x05\x06"):
        return source.size - _EOCD.size, 0, short
    tail = source.read_at(start, tail_nbytes)
    index = tail.rfind(b"PK\x05\x06", 0, max(0, tail_nbytes - _EOCD.size + 4))
    return start, index, tail


def _locate_directory(source: ByteSource, limits: Limits) -> tuple[int, int, int]:
    """(offset, nbytes, number of members) of the central directory."""
    tail_start, index, tail = _find_end(source)
    if index < 0:
        raise MalformedCheckpoint(f"zip cut at byte {source.size}: no central directory", hint=FETCH_AGAIN)
    _, disk, directory_disk, _, count, nbytes, offset, _ = _EOCD.unpack_from(tail, index)
    end_offset = tail_start + index
    locator_offset = end_offset - _EOCD64_LOCATOR.size
    if locator_offset >= 0:
        magic, _, end64_offset, _ = _EOCD64_LOCATOR.unpack(
            source.read_at(locator_offset, _EOCD64_LOCATOR.size)
        )
        if magic == b"PK\x06\x07" and end64_offset + _EOCD64.size <= locator_offset:
            fields = _EOCD64.unpack(source.read_at(end64_offset, _EOCD64.size))
            if fields[0] == b"PK\x06\x06":
                disk, directory_disk, count, nbytes, offset = fields[4], fields[5], *fields[7:10]
                end_offset = end64_offset
    if disk != directory_disk or disk not in (0, 1, 0xFFFF):
        raise UnsupportedFeature("a zip that is split over several files")
    if offset + nbytes > end_offset:
        raise MalformedCheckpoint(
            "the zip's central directory lies outside the file",
            byte_offset=offset,
            expected=plural(nbytes, "byte"),
            hint="the file was cut or joined: fetch or save it again",
        )
    if count > limits.records:
        raise LimitExceeded("number of members in the zip", limit=limits.records, actual=count)
    if nbytes > limits.header_nbytes:
        raise LimitExceeded("size of the zip's central directory", limit=limits.header_nbytes, actual=nbytes)
    return offset, nbytes, count


def _parse_directory(data: bytes, count: int, offset: int) -> list[_Member]:
    """All entries of the central directory ``data``, which begins at ``offset`` of the file."""
    members: list[_Member] = []
    pos = 0
    unpack, size, end = _CENTRAL.unpack_from, _CENTRAL.size, len(data)
    for _ in range(count):
        if pos + size > end:
            raise MalformedCheckpoint("the zip's central directory is cut off", byte_offset=offset + pos)
        magic, flags, method, crc, compressed, nbytes, name_len, extra_len, comment_len, header = unpack(
            data, pos
        )
        if magic != b"PK\x01\x02":
            raise MalformedCheckpoint("the zip's central directory is damaged", byte_offset=offset + pos)
        name_start = pos + size
        pos = name_start + name_len
        raw_name = data[name_start:pos]
        name = raw_name.decode("utf-8", "surrogateescape")
        if nbytes == 0xFFFFFFFF or compressed == 0xFFFFFFFF or header == 0xFFFFFFFF:
            nbytes, compressed, header = _zip64(data[pos : pos + extra_len], (nbytes, compressed, header))
        if flags & _ENCRYPTED:
            raise UnsupportedFeature(f"encrypted zip member {name!r}")
        if method == _STORED:
            if compressed != nbytes:
                what = "a stored zip member has two sizes"
                raise MalformedCheckpoint(what, name=name, expected=nbytes, actual=compressed)
        elif method != _DEFLATED:
            raise UnsupportedFeature(f"zip compression method {method} of member {name!r}")
        elif nbytes > _MAX_RATIO * (compressed + 1):
            what, most = "a zip member claims more than DEFLATE can hold", _MAX_RATIO * (compressed + 1)
            raise MalformedCheckpoint(
                what, name=name, expected=f"at most {plural(most, 'byte')}", actual=nbytes
            )
        members.append((name, raw_name, method, crc, compressed, nbytes, header))
        pos += extra_len + comment_len
    if pos < end:
        # Readers that go by the size would see more members than those that go by the count.
        what, more = (
            "the zip's central directory is longer than its members",
            plural(end - pos, "byte") + " more",
        )
        raise MalformedCheckpoint(
            what, byte_offset=offset + pos, expected=plural(count, "member"), actual=more
        )
    return members


def _zip64(extra: bytes, narrow: Sequence[int]) -> Sequence[int]:
    """Put the 8-byte values of extra field 0x0001 where the 32-bit ones are full (APPNOTE 4.5.3)."""
    pos = 0
    while pos + 4 <= len(extra):
        field, length = _EXTRA.unpack_from(extra, pos)
        pos += 4
        if field == 1:
            body = extra[pos : pos + length]
            wide = (int.from_bytes(body[at : at + 8], "little") for at in range(0, len(body) - 7, 8))
            values = [next(wide, -1) if value == 0xFFFFFFFF else value for value in narrow]
            return narrow if -1 in values else values
        pos += length
    # Exactly 4 GiB - 1 is legal without the field; the caller's bounds checks decide.
    return narrow


def _refuse_overlap(spans: list[tuple[int, int, str]], directory_offset: int) -> None:
    """Members that share bytes are how zip bombs are made; torch writes none."""
    spans.sort()
    previous_end = 0
    for start, end, name in spans:
        if start < previous_end:
            raise MalformedCheckpoint("two members of the zip overlap", name=name, byte_offset=start)
        previous_end = end
    if previous_end > directory_offset and spans:
        start, _, name = spans[-1]
        what = "a member of the zip overlaps its central directory"
        raise MalformedCheckpoint(what, name=name, byte_offset=start)
