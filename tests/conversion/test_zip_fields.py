"""Every field of the zip that is written, byte by byte as APPNOTE 6.3.10 has them; nothing is unread."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from ckpttool.conversion.layout import Segment
from ckpttool.conversion.pt import torch_zip
from ckpttool.conversion.shards import lay_out_file
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    Entry,
    Kind,
    StorageRef,
    TensorInfo,
)
from ckpttool.values.conversion import ConversionPlan, Options, Piece, Placed, Planned
from ckpttool.values.dtypes import BY_NAME
from tests.support.converting import plan_of

FULL = 0xFFFFFFFF


class Bytes:
    """What is known of a file: literals at their offsets. Each byte is taken once."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.parts: list[tuple[int, bytes]] = []
        self.holes: list[tuple[int, int]] = []
        self.end = 0
        for segment in segments:
            assert segment.offset == self.end and segment.nbytes > 0
            self.end += segment.nbytes
            if segment.piece < 0:
                assert len(segment.literal) == segment.nbytes
                self.parts.append((segment.offset, segment.literal))
            else:
                assert (segment.literal, segment.late) == (b"", False)
                self.holes.append((segment.offset, segment.nbytes))
        self.taken: set[tuple[int, int]] = set()

    def take(self, offset: int, nbytes: int) -> bytes:
        (found,) = [
            literal[offset - start : offset - start + nbytes]
            for start, literal in self.parts
            if start <= offset < start + len(literal)
        ] or [b""]
        assert len(found) == nbytes
        if nbytes:
            self.taken.add((offset, offset + nbytes))
        return found

    def fields(self, form: str, offset: int) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self.take(offset, struct.calcsize("<" + form)))

    def check_all_taken(self) -> None:
        at = 0
        for start, end in sorted([*self.taken, *((start, start + size) for start, size in self.holes)]):
            assert start == at
            at = end
        assert at == self.end


class Member(NamedTuple):
    name: str
    offset: int  # of the data
    nbytes: int
    crc: int
    data: bytes | None  # None where the file has a hole


def extras(data: bytes) -> list[tuple[int, bytes]]:
    """Identifier and content of each extra field."""
    found = []
    while data:
        field, nbytes = struct.unpack_from("<2H", data)
        assert len(data) >= 4 + nbytes
        found.append((field, data[4 : 4 + nbytes]))
        data = data[4 + nbytes :]
    return found


def widen(size: int, fields: dict[int, bytes], at: int) -> int:
    """4.5.3: what is all ones stands in the zip64 field, in its order."""
    return struct.unpack_from("<Q", fields[1], at)[0] if size == FULL else size


def members_of(file: Bytes) -> list[Member]:
    """Read from the end, as a reader does; what has one legal or one intended value is held to it."""
    end = file.fields("4s4H2IH", file.end - 22)
    locator = file.fields("4sIQI", file.end - 42)
    assert (locator[:2], locator[3]) == ((b"PK\x06\x07", 0), 1)
    assert locator[2] == file.end - 98
    end64 = file.fields("4sQ2H2I4Q", file.end - 98)
    count, nbytes, start = end64[7:]
    assert end64[:7] == (b"PK\x06\x06", 56 - 12, 45, 45, 0, 0, count)
    few = min(count, 0xFFFF)
    assert end == (b"PK\x05\x06", 0, 0, few, few, min(nbytes, FULL), min(start, FULL), 0)
    assert start + nbytes == file.end - 98
    members, at = [], start
    for _ in range(count):
        head = file.fields("4s6H3I5H2I", at)
        signature, made, needed, flags, method, time, date, crc, packed, size, name_nbytes, extra_nbytes = (
            head[:12]
        )
        assert (signature, flags, method, time, date) == (
            b"PK\x01\x02",
            0x800,
            0,
            0,
            (1980 - 1980) << 9 | 1 << 5 | 1,
        )
        assert head[12:16] == (0, 0, 0, 0) and packed == size
        name = file.take(at + 46, name_nbytes)
        found = extras(file.take(at + 46 + name_nbytes, extra_nbytes))
        fields = dict(found)
        wide = [value for value in (size, size, head[16]) if value == FULL]
        assert [(field, len(data)) for field, data in found] == ([(1, 8 * len(wide))] if wide else [])
        assert made == needed == (45 if wide else 20)
        total, offset = widen(size, fields, 0), widen(head[16], fields, 8 * (len(wide) - 1))
        assert not wide or max(total, offset) >= FULL
        assert size != FULL or widen(packed, fields, 8) == total
        at += 46 + name_nbytes + extra_nbytes

        local = file.fields("4s5H3I2H", offset)
        large = total >= FULL
        assert local[:6] == (b"PK\x03\x04", 45 if large else 20, 0x800, 0, 0, date)
        assert local[6:10] == (crc, size, size, name_nbytes)
        assert file.take(offset + 30, name_nbytes) == name
        body = offset + 30 + name_nbytes + local[10]
        *zip64, (pad, padding) = extras(file.take(offset + 30 + name_nbytes, local[10]))
        assert zip64 == ([(1, struct.pack("<2Q", total, total))] if large else [])
        assert pad == int.from_bytes(b"FB", "little") and padding == b"Z" * len(padding)
        assert body % 64 == 0 and len(padding) < 64
        data = None if (body, total) in file.holes else file.take(body, total)
        members.append(Member(name.decode(), body, total, crc, data))
    assert at == start + nbytes
    file.check_all_taken()
    return members


# ------------------------------------------------------------------------------------------------- a file


@pytest.mark.parametrize("sizes", [[1], [0, 5], [16, 16, 16, 1], [7, 0, 0, 300]], ids=str)
def test_a_small_file_in_full(tmp_path: Path, sizes: list[int]) -> None:
    torch.save({f"w{at}": torch.full((size,), at) for at, size in enumerate(sizes)}, tmp_path / "a.pt")
    plan = plan_of(tmp_path / "a.pt", "pt")
    (layout,) = lay_out_file(plan, "b.pt")
    crcs = {piece: 0x01020304 + piece for piece in range(len(sizes))}
    file = Bytes(layout.segments(crcs))
    assert (layout.name, layout.nbytes, layout.wants_crcs) == ("b.pt", file.end, True)
    first, second, *stored, last = members_of(file)
    assert first.name == "archive/data.pkl" and first.data is not None and first.crc == zlib.crc32(first.data)
    assert second == ("archive/byteorder", second.offset, 6, zlib.crc32(b"little"), b"little")
    assert last == ("archive/version", last.offset, 2, zlib.crc32(b"3\n"), b"3\n")
    assert [(member.name, member.nbytes, member.crc) for member in stored] == [
        (f"archive/data/{at}", size * 8, crcs[at]) for at, size in enumerate(sizes)
    ]
    assert [member.data for member in stored] == [None if size else b"" for size in sizes]
    # Checksums are all that is known late: what has none is the same without, and nothing moves.
    for before, after in zip(layout.segments({}), layout.segments(crcs), strict=True):
        assert before._replace(literal=b"") == after._replace(literal=b"")
        assert before.late or before.literal == after.literal
    assert all(member.crc == 0 for member in members_of(Bytes(layout.segments({}))) if "data/" in member.name)


# ----------------------------------------------------------------------------------------- around 4 GiB


def plan_with(sizes: list[int]) -> ConversionPlan:
    """A plan of tensors of so many bytes, out of no file."""
    kind = Classification(Kind.UNKNOWN, Basis.NONE)
    tensors, pieces = [], []
    for at, size in enumerate(sizes):
        info = TensorInfo(BY_NAME["uint8"], (size,), (1,), 0, StorageRef("", str(at), 0, size))
        placed = Placed(at, *info[:3])
        tensors.append(Planned((), f"w{at}", placed, Entry((), f"w{at}", info), kind))
        pieces.append(Piece(info, size, None))
    plan = ConversionPlan(
        Checkpoint("a", "", "", (), ()), Options("pt"), None, False, (), (), (), {}, {}, {}, ()
    )
    return plan._replace(tensors=tuple(tensors), pieces=tuple(pieces))


def start_of(sizes: list[int], number: int) -> int:
    """Where the local header of a member stands: behind the data of the one before."""
    (layout,) = lay_out_file(plan_with(sizes), "b.pt")
    before = members_of(Bytes(layout.segments({})))[1 + number]
    return before.offset + before.nbytes


@pytest.mark.parametrize("by", [-2, -1, 0, 1])
@pytest.mark.parametrize("beside", [[], [3], [1 << 33]], ids=str)
def test_sizes_around_32_bits(by: int, beside: list[int]) -> None:
    sizes = [FULL + by, *beside]
    (layout,) = lay_out_file(plan_with(sizes), "b.pt")
    file = Bytes(layout.segments({}))
    assert layout.nbytes == file.end
    assert [member.nbytes for member in members_of(file)[2:-1]] == sizes


@pytest.mark.parametrize("by", [-2, -1, 0, 1])
def test_offsets_around_32_bits(by: int) -> None:
    sizes = [1 << 20, 1 << 30, 5]
    while (missing := FULL + by - start_of(sizes, 2)) != 0:  # the pickle grows with the numbers in it
        sizes[1] += missing
    (layout,) = lay_out_file(plan_with(sizes), "b.pt")
    file = Bytes(layout.segments({}))
    assert layout.nbytes == file.end
    assert [member.nbytes for member in members_of(file)[2:-1]] == sizes


@pytest.mark.parametrize("count", [0xFFFE, 0xFFFF, 0x10000, 1 << 33])
@pytest.mark.parametrize("nbytes", [46, FULL - 1, FULL, FULL + 1])
def test_counts_and_lengths_of_a_directory(count: int, nbytes: int) -> None:
    for start in (1, FULL - 1, FULL, FULL + 1):
        records = torch_zip._end_records(count, nbytes, start)
        assert struct.unpack_from("<4Q", records, 24) == (count, count, nbytes, start)
        assert struct.unpack_from("<Q", records, 56 + 8)[0] == start + nbytes  # of the zip64 record
        few, size, at = min(count, 0xFFFF), min(nbytes, FULL), min(start, FULL)
        assert struct.unpack_from("<2H2I", records, 76 + 8) == (few, few, size, at)
        assert len(records) == 98
