"""What every format shares: where bytes come from, how much may be read, and the protocol."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from ckpttool.checkpoint import Checkpoint, FileInfo, GlobalRef
from ckpttool.errors import CkptToolError, MalformedCheckpoint
from ckpttool.files.local import check_path, naming


class Limits(NamedTuple):
    """Fixed budgets for hostile input; all are far above any real checkpoint seen.

    The product of the pickle budgets bounds memory: each op adds at most one stack slot, each
    node at most a few hundred bytes.
    """

    header_nbytes: int = 100_000_000  # safetensors header (the library's own cap) and index JSON
    pickle_nbytes: int = 128 << 20  # data.pkl after inflation; 20,000 tensors take 2.5 MiB
    pickle_ops: int = 12_000_000  # 20,000 tensors take 0.9 million
    pickle_nodes: int = 2_000_000  # containers and calls; 20,000 tensors take 0.1 million
    depth: int = 512  # nesting of containers
    entries: int = 500_000  # tensors, values and opaque leaves
    name_nbytes: int = 1 << 20  # one key
    records: int = 500_000  # members of a zip
    code_nbytes: int = 16 << 20  # one source or JSON member of an archive after inflation


DEFAULT_LIMITS = Limits()

_SHOWN_PLACES = 4  # uses of a global over all pickles


class ByteSource(Protocol):
    """Random access to bytes: a file, a range of a file, later a remote object."""

    @property
    def name(self) -> str:
        """The file that holds the bytes, for messages and ``StorageRef.file``."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    @property
    def base(self) -> int:
        """Where byte 0 of this source lies in the file ``name``."""

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes from ``offset``.

        Raises:
            MalformedCheckpoint: the range leaves the source.
        """


class FileSource:
    """A regular file, opened once without following it into a FIFO or device."""

    def __init__(self, path: str) -> None:
        # O_NONBLOCK: opening a FIFO without a writer must not block before fstat can refuse it.
        flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        self.name = path
        self.base = 0
        try:
            self._fd = os.open(path, flags)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a socket, or a device without its driver
                what = describe_file_type(os.stat(path).st_mode)
                raise CkptToolError(f"{what}, not a regular file", path=path) from None
            raise
        try:
            with naming(path):
                status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise CkptToolError(f"{describe_file_type(status.st_mode)}, not a regular file", path=path)
        except BaseException:
            os.close(self._fd)
            raise
        self.size = status.st_size
        self.info = FileInfo.of(path, status)
        self.cache: dict[str, object] = {}  # what a sniff had to parse, kept for the read

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """See ``ByteSource.read_at``."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise MalformedCheckpoint(
                "a range lies outside the file",
                byte_offset=offset,
                expected=f"{nbytes} bytes",
                actual=f"{max(0, self.size - offset)} left",
                path=self.name,
            )
        data = self._pread(nbytes, offset)
        while len(data) < nbytes:  # a read may be short, e.g. above 2 GiB
            data += self._pread(nbytes - len(data), offset + len(data))
        return data

    def _pread(self, nbytes: int, offset: int) -> bytes:
        with naming(self.name):
            data = os.pread(self._fd, nbytes, offset)
        if nbytes and not data:
            raise MalformedCheckpoint("the file shrank while it was read", path=self.name)
        return data

    def close(self) -> None:
        """Close the descriptor."""
        with naming(self.name):
            os.close(self._fd)


class RangeSource:
    """Bytes ``offset`` to ``offset + size`` of another source, e.g. a zip inside a zip."""

    def __init__(self, parent: ByteSource, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > parent.size:
            raise MalformedCheckpoint("a range lies outside the file", byte_offset=offset, path=parent.name)
        self._parent = parent
        self._offset = offset
        self.name = parent.name
        self.size = size
        self.base = parent.base + offset

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """See ``ByteSource.read_at``."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise MalformedCheckpoint("a range lies outside its container", byte_offset=self.base + offset)
        return self._parent.read_at(self._offset + offset, nbytes)


@contextmanager
def open_source(path: str) -> Iterator[FileSource]:
    """A ``FileSource`` that is closed at the end, and must not have changed by then.

    Raises:
        CkptToolError: ``path`` is a directory, FIFO, socket or device, or was changed meanwhile.
        OSError: it cannot be opened.
    """
    source = FileSource(path)
    try:
        try:
            yield source
        except CkptToolError:
            check_path(source.info)  # that it changed explains what is wrong with it
            raise
        check_path(source.info)
    finally:
        source.close()


def describe_file_type(mode: int) -> str:
    """``a directory``, ``a FIFO`` … for an ``st_mode``."""
    for test, text in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    ):
        if test(mode):
            return text
    return "a special file"


class MergedGlobals:
    """The globals of several pickles, each once: with all its calls, and the first few places."""

    def __init__(self) -> None:
        self._refs: dict[tuple[str, str], GlobalRef] = {}

    def add(self, refs: Iterable[GlobalRef]) -> None:
        """Count what one more pickle names."""
        merged = self._refs
        for ref in refs:
            old = merged.get(ref[:2])
            if old is None:
                merged[ref[:2]] = ref
            else:
                merged[ref[:2]] = old._replace(
                    called=old.called or ref.called,
                    places=(*old.places, *ref.places)[:_SHOWN_PLACES],
                    calls=old.calls + ref.calls,
                )

    def refs(self) -> tuple[GlobalRef, ...]:
        """All of them, in order of appearance."""
        return tuple(self._refs.values())


def merge_globals(groups: Iterable[Iterable[GlobalRef]]) -> tuple[GlobalRef, ...]:
    """Each global of several pickles once."""
    merged = MergedGlobals()
    for group in groups:
        merged.add(group)
    return merged.refs()


class Format(Protocol):
    """A container format that is one file. Reading returns addresses, never tensor bytes."""

    name: str
    suffixes: tuple[str, ...]  # a hint for messages; content decides

    def sniff(self, head: bytes, source: ByteSource) -> bool:
        """Whether the content is this format; ``head`` is its first 4096 bytes or fewer.

        Cheap, and never raises for bad content: a damaged file of this format is still this
        format.
        """

    def read(self, source: FileSource, limits: Limits) -> Checkpoint:
        """Read the header bytes only.

        Raises:
            CkptToolError: malformed, unsupported or beyond ``limits``.
        """
