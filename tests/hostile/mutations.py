"""``mutate``: a checkpoint file with its structure bent in a few places, for hypothesis and for atheris.

What the file is decides what is mutated: opcodes of pickles, records of zips (and what their members hold),
the JSON of headers and indexes, the five pickles and the storages of a legacy file. Now and then bytes are
changed without looking.

A folder of shards is one string of bytes here as well: ``FOLDER`` and a zip of its files.
"""

from __future__ import annotations

import os
import struct
from random import Random

from tests.hostile import pickles as op
from tests.hostile.containers import Member, build_zip
from tests.hostile.mutate_bytes import clamp, edge_integer, mutate_bytes
from tests.hostile.mutate_json import mutate_json
from tests.hostile.mutate_pickle import mutate_pickle, split_pickles
from tests.hostile.mutate_zip import Zip, mutate_zip, split_zip

FOLDER = b"folder\n"
_MAX_NBYTES = 1 << 18
_LEGACY_PICKLES = 5
_LEGACY_HEAD = op.PROTO(2) + op.LONG1((0x1950A86A20F9469CFC6C).to_bytes(10, "little")) + op.STOP


def mutate(data: bytes, rnd: Random, donor: bytes = b"") -> bytes:
    """``data`` with one to four mutations; ``donor`` is another file to take opcodes from.

    A result that grows out of bounds is cut to the size of ``data``, or to 256 KiB.
    """
    bound = max(_MAX_NBYTES, len(data))
    for _ in range(rnd.choice((1, 1, 1, 2, 2, 4))):
        data = mutate_bytes(data, rnd) if not rnd.randrange(10) else _mutate_structure(data, rnd, donor)
    return data[:bound]


def _mutate_structure(data: bytes, rnd: Random, donor: bytes, depth: int = 0) -> bytes:
    """One mutation of whatever this is."""
    if data.startswith(FOLDER):
        return FOLDER + _mutate_structure(data[len(FOLDER) :], rnd, donor, depth)
    if data.startswith(b"PK\x03\x04"):
        archive = split_zip(data)
        return mutate_bytes(data, rnd) if archive is None else _mutate_archive(archive, rnd, donor, depth)
    if data.startswith(_LEGACY_HEAD):
        return _mutate_legacy(data, rnd, donor)
    if data[8:9] == b"{":
        return _mutate_safetensors(data, rnd)
    if data[:1] in (b"{", b"["):
        return mutate_json(data, rnd)
    if data.startswith(b"\x80") or data.endswith(op.STOP):
        return mutate_pickle(data, rnd, pickle_in(donor))
    return mutate_bytes(data, rnd)


def _mutate_archive(archive: Zip, rnd: Random, donor: bytes, depth: int) -> bytes:
    """The container itself, or, more often, what one of its members holds."""
    if depth > 2 or not rnd.randrange(3):
        return mutate_zip(archive, rnd).build()
    # Members that say something about the others are worth more than their bytes.
    telling = [at for at, member in enumerate(archive.members) if len(member.data) > 40] or [0]
    at = rnd.choice(telling) if rnd.randrange(8) else rnd.randrange(len(archive.members))
    member = archive.members[at]
    content = _mutate_structure(member.data, rnd, donor, depth + 1)
    archive.members[at] = member._replace(data=content, nbytes=None, compressed=None)
    return archive.build()


def _mutate_legacy(data: bytes, rnd: Random, donor: bytes) -> bytes:
    """One of the five pickles, or a storage's count of elements."""
    parts = split_pickles(data, _LEGACY_PICKLES)
    storages = parts.pop()
    at = rnd.choice((0, 1, 2, 3, 3, 3, 3, 4, 4, 5, 5))
    if at < _LEGACY_PICKLES:
        parts[at] = mutate_pickle(parts[at], rnd, pickle_in(donor))
    elif len(storages) >= 8 and rnd.randrange(2):
        numel = edge_integer(rnd, int.from_bytes(storages[:8], "little"))
        storages = struct.pack("<Q", clamp(numel, 8)) + storages[8:]
    else:
        storages = mutate_bytes(storages, rnd)
    return b"".join(parts) + storages


def _mutate_safetensors(data: bytes, rnd: Random) -> bytes:
    """The length, the header, or the data behind it."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    kind = rnd.randrange(10)
    if kind == 0:
        return struct.pack("<Q", clamp(edge_integer(rnd, length), 8)) + data[8:]
    if kind == 1:
        return data[:8] + header + mutate_bytes(rest, rnd)
    header = mutate_json(header.rstrip(b" "), rnd)
    return struct.pack("<Q", len(header)) + header + rest


def pickle_in(data: bytes) -> bytes:
    """The (object's) pickle of a file, or nothing."""
    archive = split_zip(data) if data.startswith(b"PK\x03\x04") else None
    if archive is not None:
        found = [member.data for member in archive.members if bytes(member.data[:1]) == b"\x80"]
        return found[0] if found else b""
    if data.startswith(_LEGACY_HEAD):
        return split_pickles(data, _LEGACY_PICKLES)[3]
    return data if data.startswith(b"\x80") else b""


def pack_folder(files: dict[str, bytes]) -> bytes:
    """A folder of files as one string of bytes."""
    return FOLDER + build_zip([Member(name, content) for name, content in files.items()])


def write_input(data: bytes, folder: str) -> str:
    """Write a file, or a packed folder, into an empty folder; the path to read."""
    if not data.startswith(FOLDER):
        path = os.path.join(folder, "checkpoint")
        with open(path, "wb") as file:
            file.write(data)
        return path
    archive = split_zip(data[len(FOLDER) :])
    for member in archive.members if archive else ():
        raw = member.name if isinstance(member.name, bytes) else member.name.encode()
        # What a folder cannot hold is not there, as with any other file that an index names.
        if raw not in (b"", b".", b"..") and b"/" not in raw and b"\0" not in raw and len(raw) < 256:
            with open(os.path.join(os.fsencode(folder), raw), "wb") as file:
                file.write(member.data)
    return folder
