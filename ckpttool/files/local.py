"""Files of this machine: opened once, and noticed when they are no longer what they were then.

Size, mtime and inode are compared. A file system that keeps times to a few milliseconds does not tell a
write of equal length within the same tick: nothing short of reading twice would.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from ckpttool.values.checkpoint import FileInfo
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint


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
        expected=f"{file.nbytes:,} bytes",
        actual=f"{now.nbytes:,} bytes",
        path=file.path,
    )


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
