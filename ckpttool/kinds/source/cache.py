"""What was read of a tree before: one file a tree and scanner in the user's cache folder, or none.

    CRC-32 of the header in hex, a space, the header as JSON, a line break
    the summaries, each JSON in zlib

The header is a pair: what it is made by and of, and for every file ``[size, mtime_ns, offset, nbytes, crc32,
classes]``; offsets count from the end of the header. Without a summary (nbytes 0) a file was searched for
classes only. Nothing of it is believed that is not the user's own; what cannot be read is not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
import zlib
from typing import Any, NamedTuple, TypeAlias

from ckpttool.kinds.source.files import read_file
from ckpttool.kinds.source.own_folder import cache_folder, read_own, write_own
from ckpttool.kinds.source.packages import Tree

Summary: TypeAlias = dict[str, Any]

_FORMAT = 1
_MOST_NBYTES = 64 * 2**20  # of a cache: that of transformers has 2 MiB
# A file that was written this shortly before it was read may be written again without another mtime.
_SETTLED_NS = 2 * 10**9


class Stamp(NamedTuple):
    """What tells a file from what it was: bytes, and time of the last write."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of a file with this status."""
        return cls(status.st_size, status.st_mtime_ns)


class _File(NamedTuple):
    size: int
    mtime_ns: int
    offset: int
    nbytes: int
    crc32: int
    classes: list[str]


class Cache:
    """The summaries of one tree, by file; a file that has another size or mtime now has none."""

    def __init__(self, tree: Tree, scanner: str) -> None:
        self._folder = cache_folder()
        where = os.path.join(tree.path, tree.top)
        label = re.sub(r"\W", "_", tree.package or os.path.basename(where), flags=re.ASCII)[:40]
        self._name = f"{label}-{zlib.crc32(os.fsencode(f'{scanner} {where}')):08x}"
        self._made: dict[str, object] = {
            "format": _FORMAT,
            "scanner": _version_of(scanner),
            "python": ".".join(map(str, sys.version_info[:2])),
            "path": where,
        }
        self._files: dict[str, _File] = {}
        self._bodies = b""  # as they were loaded
        self._new: dict[str, bytes] = {}
        self._unsettled: set[str] = set()
        self._changed = False
        if self._folder:
            with contextlib.suppress(OSError, ValueError, TypeError):
                self._load(read_own(self._folder, self._name, _MOST_NBYTES))

    def _load(self, data: bytes) -> None:
        line, _, bodies = data.partition(b"\n")
        check, _, header = line.partition(b" ")
        if check != b"%08x" % zlib.crc32(header):
            return
        made, files = json.loads(header)
        if made == self._made:
            self._files = {name: _File(*file) for name, file in files.items()}
            self._bodies = bodies

    def classes(self, file: str, stamp: Stamp) -> list[str] | None:
        """The names of the classes in a file, None where they are not known."""
        known = self._known(file, stamp)
        return known and known.classes

    def summary(self, file: str, stamp: Stamp) -> Summary | None:
        """The summary of a file, None where it is not known."""
        known = self._known(file, stamp)
        if known is None or not known.nbytes:
            return None
        body = self._body(file)
        if zlib.crc32(body) != known.crc32:
            return None
        summary: Summary = json.loads(zlib.decompress(body))
        return summary

    def _known(self, file: str, stamp: Stamp) -> _File | None:
        known = self._files.get(file)
        if known is None or (known.size, known.mtime_ns) == stamp:
            return known
        del self._files[file]
        self._changed = True
        return None

    def _body(self, file: str) -> bytes:
        known = self._files[file]
        return self._new.get(file) or self._bodies[known.offset : known.offset + known.nbytes]

    def put(self, file: str, stamp: Stamp, classes: list[str], summary: str = "") -> None:
        """Keep what a file says, its summary as JSON, "" where it is not known."""
        body = zlib.compress(summary.encode("ascii"), 1) if summary else b""
        self._files[file] = _File(*stamp, 0, len(body), zlib.crc32(body), classes)
        self._new[file] = body
        if time.time_ns() - stamp.mtime_ns < _SETTLED_NS:
            self._unsettled.add(file)
        else:
            self._unsettled.discard(file)
            self._changed = True

    def write(self) -> None:
        """Write what has changed, if anything has and it can be written."""
        if not self._changed or not self._folder:
            return
        files, bodies, offset = {}, [], 0
        for name, file in self._files.items():
            body = self._body(name)
            if name not in self._unsettled and len(body) == file.nbytes:
                files[name] = file._replace(offset=offset)
                bodies.append(body)
                offset += file.nbytes
        header = json.dumps([self._made, files], separators=(",", ":")).encode("ascii")
        data = b"".join([b"%08x " % zlib.crc32(header), header, b"\n", *bodies])
        with contextlib.suppress(OSError):
            write_own(self._folder, self._name, data)
        self._changed = False


def _version_of(scanner: str) -> str:
    """What changes with the code that makes summaries: nobody has to remember a number."""
    check = 0
    for package in sorted({__package__, scanner.partition(":")[0].rpartition(".")[0]}):
        folder = os.path.join(*[os.path.dirname(__file__), *[os.pardir] * 3], *package.split("."))
        with contextlib.suppress(OSError):  # in an archive
            for name in sorted(os.listdir(folder)):
                if name.endswith(".py"):
                    check = zlib.crc32(read_file(os.path.join(folder, name))[0], check)
    return f"{scanner} {check:08x}"
