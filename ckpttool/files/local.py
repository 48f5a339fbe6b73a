"""Files of this machine: opened once, and noticed when they are no longer what they were then.

Size, mtime and inode are compared. A file system that keeps times to a few milliseconds does not tell a
write of equal length within the same tick: nothing short of reading twice would.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from ckpttool.values.checkpoint import FileInfo
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint, redact
from ckpttool.values.words import plural

if TYPE_CHECKING:
    from mmap import mmap

# Descriptors held open; a checkpoint may have thousands of shards, and 1024 is a common limit.
_MOST_OPEN = 64


class naming:
    """Lets an ``OSError`` of a call that was given a descriptor name ``path``."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = self._path


def check_path(file: FileInfo) -> None:
    """Hold what now has the file's name to what the file was.

    Raises:
        MalformedCheckpoint: it was written to, replaced or removed.
        OSError: as the file system says.
    """
    try:
        status = os.stat(file.path)
    except FileNotFoundError:
        raise MalformedCheckpoint("the file was removed while it was read", path=file.path) from None
    check_status(file, status)


def check_status(file: FileInfo, status: os.stat_result) -> None:
    """Hold a status to what the file was.

    Raises:
        MalformedCheckpoint: it is that of another file, or the file was written to.
    """
    now = FileInfo.of(file.path, status)
    if now == file:
        return
    if not stat.S_ISREG(status.st_mode):
        raise MalformedCheckpoint("the file was replaced by something else", path=file.path)
    if now.inode != file.inode:
        raise MalformedCheckpoint("the file was replaced by another while it was read", path=file.path)
    if now.nbytes == file.nbytes:
        raise MalformedCheckpoint("the file was written to while it was read", path=file.path)
    raise MalformedCheckpoint(
        "the file changed while it was read",
        expected=plural(file.nbytes, "byte"),
        actual=plural(now.nbytes, "byte"),
        path=file.path,
    )


class FileSource:
    """A regular file, opened once without following it into a FIFO or device.

    ``known`` is what it was when it was opened before: it must still be that.
    """

    def __init__(self, path: str, known: FileInfo | None = None) -> None:
        self.name = path
        self.base = 0
        try:
            # O_NONBLOCK: opening a FIFO without a writer must not block before fstat can refuse it.
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a socket, or a device without its driver
                what = describe_file_type(os.stat(path).st_mode)
                raise CkptToolError(f"{what}, not a regular file", path=path) from None
            error.filename = redact(path, (path,))
            raise
        try:
            with naming(path):
                status = os.fstat(self._fd)
            if known is not None:
                check_status(known, status)
            if not stat.S_ISREG(status.st_mode):
                raise CkptToolError(f"{describe_file_type(status.st_mode)}, not a regular file", path=path)
        except BaseException:
            os.close(self._fd)
            raise
        self.size = status.st_size
        self.version = FileInfo.of(path, status)

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """See ``ByteSource.read_at``."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise MalformedCheckpoint(
                "a range lies outside the file",
                byte_offset=offset,
                expected=plural(nbytes, "byte"),
                actual=f"{max(0, self.size - offset):,} left",
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

    def read_into(self, offset: int, target: memoryview) -> None:
        """See ``ByteSource.read_into``."""
        while len(target):
            with naming(self.name):
                got = _pread_some(self._fd, target, offset)
            if not got:
                raise MalformedCheckpoint(
                    "the file shrank while it was read", byte_offset=offset, path=self.name
                )
            target = target[got:]
            offset += got

    def map(self) -> mmap:
        """The whole file in memory, which the system reads where it is looked at."""
        from mmap import ACCESS_READ, mmap

        with naming(self.name):
            return mmap(self._fd, 0, access=ACCESS_READ)

    def will_be_read_through(self) -> None:
        """Tell the system to read ahead."""
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # advice
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def close(self) -> None:
        """Close the descriptor."""
        with naming(self.name):
            os.close(self._fd)


def _pread_some(fd: int, target: memoryview, offset: int) -> int:
    """Read up to ``len(target)`` bytes without moving the file's position."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [target], offset)
    data = os.pread(fd, len(target), offset)  # macOS before 11
    target[: len(data)] = data
    return len(data)


class Sources:
    """The files of one checkpoint, each opened once and held for whoever reads it; for any threads.

    Beyond ``_MOST_OPEN`` the one that has been idle longest is closed, and is opened again when it is asked
    for: then, and where ``check`` is called, it must be what it was at first. All are closed with the last
    who holds this.
    """

    def __init__(self, files: Iterable[FileInfo] = ()) -> None:
        self._known = {file.path: file for file in files}
        self._open: dict[str, FileSource] = {}
        self._users: dict[str, int] = {}
        self._maps: WeakValueDictionary[str, mmap] = WeakValueDictionary()
        self._lock = Lock()

    def expect(self, files: Iterable[FileInfo]) -> None:
        """Read these as well."""
        self._known.update((file.path, file) for file in files)

    @contextmanager
    def reading(self, path: str) -> Iterator[FileSource]:
        """The file at ``path``, which stays open, must not have changed by the end, and is named in errors.

        Raises:
            CkptToolError: it is a directory, FIFO, socket or device, or was changed meanwhile.
            OSError: it cannot be opened.
        """
        source = self.take(path)
        try:
            yield source
            check_path(source.version)
        except CkptToolError as error:
            error.path = error.path or path
            check_path(source.version)  # that it changed explains what is wrong with it
            raise
        finally:
            self.leave(path)

    def check(self, path: str) -> None:
        """Hold what now has the file's name to what the file was.

        Raises:
            MalformedCheckpoint: it was written to, replaced or removed.
        """
        check_path(self._known[path])

    def close(self) -> None:
        """Close every descriptor; what is asked for later is opened again."""
        while self._open:
            self._open.popitem()[1].close()

    def __del__(self) -> None:
        """A program that runs many commands has only so many descriptors."""
        with suppress(OSError):  # nothing was written
            self.close()

    def map(self, path: str) -> mmap:
        """The whole file at ``path``, mapped to be read, as long as somebody uses it.

        Raises:
            MalformedCheckpoint: it is not what it was.
            OSError: as the file system says.
        """
        source = self.take(path)
        try:
            self.check(path)
            with self._lock:
                found = self._maps.get(path)
                if found is None:
                    found = self._maps[path] = source.map()
            return found
        finally:
            self.leave(path)

    def take(self, path: str) -> FileSource:
        """The file at ``path``, open and not closed before ``leave``.

        Raises:
            MalformedCheckpoint: it is not what it was.
            OSError: it cannot be opened.
        """
        with self._lock:
            source = self._open.pop(path, None)
            if source is None:
                self._make_room()
                source = FileSource(path, self._known.get(path))
                self._known[path] = source.version
            self._open[path] = source  # last: the first is idle longest
            self._users[path] = self._users.get(path, 0) + 1
            return source

    def leave(self, path: str) -> None:
        """Allow the file to be closed again."""
        with self._lock:
            self._users[path] -= 1

    def _make_room(self) -> None:
        if len(self._open) >= _MOST_OPEN:
            idle = next((path for path in self._open if not self._users[path]), None)
            if idle is not None:
                check_path(self._known[idle])
                self._open.pop(idle).close()


@contextmanager
def open_source(path: str) -> Iterator[FileSource]:
    """A ``FileSource`` that is closed at the end, and must not have changed by then.

    Raises:
        CkptToolError: ``path`` is a directory, FIFO, socket or device, or was changed meanwhile.
        OSError: it cannot be opened.
    """
    with closing(Sources()) as sources, sources.reading(path) as source:
        yield source


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
