"""Files that appear as a whole or not at all, whatever happens to the process that writes them.

What is written stands beside the target under a name of its own, ``.NAME.ckpttool-partial``, and gets
the target's name by one rename once it is complete and on disk. That name is locked (``flock``) while
a process writes it: a second run says so and leaves; what a killed run left is not locked, and the
next run for the same target takes it over. Anything but SIGKILL removes it on the way out.

- A file takes the mode of the file that it replaces, else what the umask leaves of 0666.
- A symbolic link is replaced, not written through: it may point into a cache that others share.
- A folder that is not there yet appears by one rename. Into one that is there, the files are renamed
  one by one, the index last; between the first and the last rename there is no index at all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from ckpttool.checkpoint import FileInfo
from ckpttool.errors import CkptToolError, DestinationExists, NotEnoughSpace

PARTIAL_SUFFIX = ".ckpttool-partial"
_ENDING_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def partial_path(target: str) -> str:
    """Where ``target`` is written before it gets its name."""
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name}{PARTIAL_SUFFIX}")


@contextmanager
def staged_file(target: str, nbytes: int) -> Iterator[int]:
    """A descriptor of ``nbytes`` bytes to fill; on leaving it is ``target``, or nothing is there.

    Raises:
        DestinationExists: another process is writing ``target``.
        NotEnoughSpace: the file system has not so many bytes left.
        OSError: the folder cannot be written.
    """
    partial = partial_path(target)
    unmasked = _hold_signals()
    try:
        fd = _open_locked(partial, target)
    except BaseException:
        _release_signals(unmasked)
        raise
    try:
        _release_signals(unmasked)  # one that came meanwhile raises here, where the file is removed
        os.ftruncate(fd, 0)
        _take_mode(fd, target)
        reserve(fd, nbytes, target)
        yield fd
        os.fsync(fd)
        os.rename(partial, target)
        sync_folder(os.path.dirname(target))
    except BaseException:
        with contextlib.suppress(OSError):
            _unlink_if_same(partial, fd)
        raise
    finally:
        os.close(fd)


@contextmanager
def created_file(path: str, target: str, nbytes: int) -> Iterator[int]:
    """A descriptor of a new file ``path`` of ``nbytes`` bytes that will become ``target``; synced on leaving.

    Raises:
        OSError: as the file system says.
    """
    fd = os.open(path, _OPEN | os.O_EXCL, 0o600 if os.path.lexists(target) else 0o666)
    try:
        _take_mode(fd, target)
        os.ftruncate(fd, nbytes)
        yield fd
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def staged_folder(target: str, names: Sequence[str], nbytes: int) -> Iterator[str]:
    """A folder to write ``names`` into; on leaving they are in ``target``, the last one renamed last.

    Raises:
        DestinationExists: another process is writing ``target``.
        NotEnoughSpace: the file system has not ``nbytes`` left.
        OSError: the folder above cannot be written.
    """
    partial = partial_path(target.rstrip("/"))
    unmasked = _hold_signals()
    try:
        fd = _lock_folder(partial, target)
    except BaseException:
        _release_signals(unmasked)
        raise
    try:
        _release_signals(unmasked)
        _empty(partial)
        check_space(partial, nbytes, target)
        yield partial
        os.fsync(fd)
        _publish(partial, target, names)
    except BaseException:
        with contextlib.suppress(OSError):
            _empty(partial)
            os.rmdir(partial)
        raise
    finally:
        os.close(fd)


def reserve(fd: int, nbytes: int, target: str) -> None:
    """Give the file its size before the first byte.

    Raises:
        NotEnoughSpace: there is not room for it.
    """
    check_space(fd, nbytes, target)
    os.ftruncate(fd, nbytes)


def check_space(where: str | int, nbytes: int, target: str) -> None:
    """Compare with what is free for this user.

    Raises:
        NotEnoughSpace: there is less.
    """
    status = os.statvfs(where)
    available = status.f_bavail * status.f_frsize
    if available < nbytes:
        raise NotEnoughSpace(needed=nbytes, available=available, path=target)


def refuse_overwriting(target: str, *, force: bool, sources: Iterable[FileInfo]) -> None:
    """Refuse a target that is a source, that is no regular file, or that is there without ``force``.

    Raises:
        DestinationExists: any of these.
    """
    try:
        status = os.stat(target)
    except FileNotFoundError:
        if os.path.islink(target) and not force:
            raise DestinationExists(
                "a symbolic link that leads nowhere stands there", path=target, hint="--force replaces it"
            ) from None
        return
    if not stat.S_ISREG(status.st_mode):
        raise DestinationExists("it is there, and is no regular file", path=target)
    for source in sources:
        if os.path.samestat(status, os.stat(source.path)):
            raise DestinationExists(
                "this is the source itself (by path, hard link or symbolic link)",
                path=target,
                hint="write to another name, and rename it when you have looked at it",
            )
    if not force:
        raise DestinationExists("it is there already", path=target, hint="--force replaces it")


def sync_folder(path: str) -> None:
    """Make renames in a folder outlast a crash of the machine."""
    fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:  # some network file systems cannot
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def _hold_signals() -> set[signal.Signals]:
    """Let no signal that ends the process come between making a file and being ready to remove it."""
    return set(map(signal.Signals, signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)))


def _release_signals(unmasked: set[signal.Signals]) -> None:
    """Back to the signals that were let through before; what was held is delivered now."""
    signal.pthread_sigmask(signal.SIG_SETMASK, unmasked)


def _open_locked(partial: str, target: str) -> int:
    """The partial file, created or taken over, with its lock held."""
    while True:
        # Readable by nobody else until it has the mode of what it replaces.
        private = os.path.lexists(target)
        fd = os.open(partial, _OPEN, 0o600 if private else 0o666)
        if _holds(fd, partial, target):
            return fd


def _lock_folder(partial: str, target: str) -> int:
    """The partial folder, created or taken over, with its lock held."""
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(partial)
        try:
            fd = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        if _holds(fd, partial, target):
            return fd


def _holds(fd: int, partial: str, target: str) -> bool:
    """Lock what was opened; false, and closed again, if it is not what ``partial`` names by now.

    Its owner may have renamed or removed it between open and lock.
    """
    try:
        _lock(fd, target)
        if os.path.samestat(os.fstat(fd), os.stat(partial)):
            return True
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return False


def _lock(fd: int, target: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DestinationExists(
            "another ckpttool is writing it", path=target, hint="wait until it has finished"
        ) from None
    except OSError as error:
        # A file system without locks: two runs at once are then the user's care.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise


def _take_mode(fd: int, target: str) -> None:
    """The mode of a regular file that will be replaced; a new file has the umask's already.

    What a killed run left may have been made under another umask; it was made for the same target.
    """
    try:
        status = os.stat(target, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISREG(status.st_mode):
        os.fchmod(fd, stat.S_IMODE(status.st_mode))
    else:
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(fd, 0o666 & ~umask)


def _unlink_if_same(partial: str, fd: int) -> None:
    """Remove the partial file, unless it has its final name already."""
    if os.path.samestat(os.fstat(fd), os.stat(partial)):
        os.unlink(partial)


def _publish(partial: str, target: str, names: Sequence[str]) -> None:
    """Rename a complete partial folder, or its files into a folder that is there."""
    target = target.rstrip("/")
    if not os.path.isdir(target):
        os.rename(partial, target)
        sync_folder(os.path.dirname(target))
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(target, names[-1]))  # an index must never name files of another run
    for name in names:
        os.rename(os.path.join(partial, name), os.path.join(target, name))
    sync_folder(target)
    os.rmdir(partial)


def _empty(partial: str) -> None:
    """Remove what a killed run left: files only, and nothing that a link leads to."""
    for name in os.listdir(partial):
        path = os.path.join(partial, name)
        if os.path.isdir(path) and not os.path.islink(path):
            raise CkptToolError("a folder stands in what a killed run left", path=path)
        os.unlink(path)
