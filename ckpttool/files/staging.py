"""Files that appear as a whole or not at all, whatever happens to the process that writes them.

What is written stands beside the target under a name of its own, ``.NAME.ckpttool-partial``, and gets
the target's name by one rename once it is complete and on disk. Its blocks are asked for before the first
byte, which finds a full disk then, not after an hour. That name is locked (``flock``) while
a process writes it: a second run says so and leaves; what a killed run left is not locked, and the
next run for the same target takes it over. Anything but SIGKILL removes it on the way out.

- A file takes the mode of the file that it replaces, else what the umask leaves of 0666.
- A symbolic link is replaced, not written through: it may point into a cache that others share.
- A folder that is not there yet appears by one rename. Into one that is there, files are renamed one by
  one, after all that they replace, the index first, were renamed into the partial folder: files of two
  runs never stand side by side under the names of one set. An error brings the old ones back.
- An error of a system call names the target where the call knew only a descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from ckpttool.files.local import naming
from ckpttool.values.checkpoint import FileInfo
from ckpttool.values.errors import CkptToolError, DestinationExists, NotEnoughSpace

PARTIAL_SUFFIX = ".ckpttool-partial"
_MOST_NAME_NBYTES = 255  # NAME_MAX of nearly every file system
_ASIDE = ".replaced"  # what is being replaced, in the partial folder
_ENDING_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW

# linux/falloc.h: fallocate with FALLOC_FL_KEEP_SIZE for any file system that has it (fs/ioctl.c). Where
# the direction of a request has other bits (POWER, MIPS), the number means nothing, and the answer is ENOTTY.
_FS_IOC_RESVSP64 = 0x4030582A
_SPACE_RESV = struct.Struct("@hhqq24x")  # l_type, l_whence, l_start, l_len; l_sysid, l_pid, l_pad
# All others (EOPNOTSUPP, ENOTTY, ENOSYS, EINVAL, EPERM of a sandbox …) say that it cannot be asked for.
_DISK_SAYS_NO = frozenset({errno.EDQUOT, errno.EFBIG, errno.EIO})


def partial_path(target: str) -> str:
    """Where ``target`` is written before it gets its name; of a long one the checksum stands for it."""
    folder, name = os.path.split(target)
    partial = f".{name}{PARTIAL_SUFFIX}"
    if len(encoded := os.fsencode(name)) > _MOST_NAME_NBYTES - len(f".{PARTIAL_SUFFIX}"):
        from zlib import crc32

        partial = f".{crc32(encoded):08x}{PARTIAL_SUFFIX}"
    return os.path.join(folder, partial)


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
    with _closing(fd, target), _on_error(lambda: _unlink_if_same(partial, fd), partial, target):
        _release_signals(unmasked)  # one that came meanwhile raises here, where the file is removed
        os.ftruncate(fd, 0)
        _take_mode(fd, target)
        check_space(fd, nbytes, target)
        reserve(fd, nbytes, target)
        yield fd
        os.fsync(fd)
        os.rename(partial, target)
        sync_folder(os.path.dirname(target))


@contextmanager
def created_file(path: str, target: str, nbytes: int) -> Iterator[int]:
    """A descriptor of a new file ``path`` of ``nbytes`` bytes that will become ``target``; synced on leaving.

    Raises:
        NotEnoughSpace: the file system has not so many bytes left.
        OSError: as the file system says.
    """
    fd = os.open(path, _OPEN | os.O_EXCL, 0o600 if _replaced_mode(target) else 0o666)
    with _closing(fd, target):
        _take_mode(fd, target)
        reserve(fd, nbytes, target)
        yield fd
        os.fsync(fd)


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
    with _closing(fd, target):
        with _on_error(lambda: _remove_folder(partial), partial, target):
            _release_signals(unmasked)
            _empty(partial)
            check_space(partial, nbytes, target)
            yield partial
            os.fsync(fd)
            unmasked = _hold_signals()
        try:
            _publish(partial, target.rstrip("/"), names)
        finally:
            _release_signals(unmasked)


def check_space(where: str | int, nbytes: int, target: str) -> None:
    """Compare with what is free for this user.

    Raises:
        NotEnoughSpace: there is less.
    """
    status = os.statvfs(where)
    available = status.f_bavail * status.f_frsize
    if available < nbytes:
        raise NotEnoughSpace(needed=nbytes, available=available, path=target)


def reserve(fd: int, nbytes: int, target: str) -> None:
    """Give an empty file its size, and on Linux its blocks, which a write then need not look for.

    Where the file system cannot, it has the size alone. The request is fallocate(2) by another door, which
    needs no ctypes; glibc's ``posix_fallocate`` writes into every block where the kernel says no.

    Raises:
        NotEnoughSpace: the file system has not so many bytes left.
        OSError: as the file system says.
    """
    os.ftruncate(fd, nbytes)
    if not nbytes or not sys.platform.startswith("linux"):
        return
    request = _SPACE_RESV.pack(0, os.SEEK_SET, 0, nbytes)
    while True:
        try:
            fcntl.ioctl(fd, _FS_IOC_RESVSP64, request)
        except InterruptedError:  # unlike the calls of os, this one is not made again by Python
            continue
        except OSError as error:
            if error.errno == errno.ENOSPC:
                os.ftruncate(fd, 0)  # what it got before it stopped is free again
                status = os.statvfs(fd)
                available = status.f_bavail * status.f_frsize
                raise NotEnoughSpace(needed=nbytes, available=available, path=target) from None
            if error.errno in _DISK_SAYS_NO:
                raise
        return


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
                "is a symbolic link that leads nowhere", path=target, hint="--force replaces it"
            ) from None
        return
    if not stat.S_ISREG(status.st_mode):
        raise DestinationExists("exists and is not a regular file", path=target)
    for source in sources:
        if os.path.samestat(status, os.stat(source.path)):
            raise DestinationExists(
                "this is the source itself (by path, hard link or symbolic link)",
                path=target,
                hint="write to another name, and rename it when you have looked at it",
            )
    if not force:
        raise DestinationExists("already exists", path=target, hint="--force replaces it")


def sync_folder(path: str) -> None:
    """Make renames in a folder outlast a crash of the machine."""
    path = path or "."
    fd = os.open(path, os.O_RDONLY)
    with _closing(fd, path):
        try:
            os.fsync(fd)
        except OSError as error:  # some network file systems cannot
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise


@contextmanager
def _closing(fd: int, path: str) -> Iterator[None]:
    """Close ``fd`` on leaving; what a system call with a descriptor raises is about ``path``."""
    with naming(path):
        try:
            yield
        finally:
            os.close(fd)


@contextmanager
def _on_error(undo: Callable[[], None], partial: str, target: str) -> Iterator[None]:
    """Call ``undo`` on the way out of an error, and say so if that leaves ``partial`` behind."""
    try:
        yield
    except BaseException as error:
        try:
            undo()
        except FileNotFoundError:  # it has its final name
            pass
        except OSError as failure:
            hint = f"{partial} stays behind: {failure.strerror}"
            if isinstance(error, OSError):
                what = (error.strerror or str(error)).lower()
                raise CkptToolError(what, path=error.filename or target, hint=hint) from error
            if isinstance(error, CkptToolError):
                error.hint = hint
        raise


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
        mode = 0o600 if _replaced_mode(target) else 0o666
        with _unmade_on_error(os.unlink, partial):
            fd = os.open(partial, _OPEN, mode)
            if _holds(fd, partial, target):
                return fd


def _lock_folder(partial: str, target: str) -> int:
    """The partial folder, created or taken over, with its lock held."""
    while True:
        with _unmade_on_error(os.rmdir, partial):
            with contextlib.suppress(FileExistsError):
                os.mkdir(partial)
            try:
                fd = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            if _holds(fd, partial, target):
                return fd


@contextmanager
def _unmade_on_error(remove: Callable[[str], None], partial: str) -> Iterator[None]:
    """Remove ``partial`` if it was not there before and the system refuses what is asked of it."""
    made = not os.path.lexists(partial)
    try:
        yield
    except OSError:
        if made:
            with contextlib.suppress(OSError):
                remove(partial)
        raise


def _holds(fd: int, partial: str, target: str) -> bool:
    """Lock what was opened; false, and closed again, if it is not what ``partial`` names by now.

    Its owner may have renamed or removed it between open and lock.
    """
    try:
        with naming(partial):
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


def _replaced_mode(target: str) -> int:
    """The ``st_mode`` of the regular file that will be replaced; 0 where there is none."""
    try:
        mode = os.stat(target, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0
    return mode if stat.S_ISREG(mode) else 0


def _take_mode(fd: int, target: str) -> None:
    """The mode of a regular file that will be replaced; a new file has the umask's already.

    What a killed run left may have been made under another umask; it was made for the same target.
    """
    if mode := _replaced_mode(target):
        os.fchmod(fd, stat.S_IMODE(mode))


def _unlink_if_same(partial: str, fd: int) -> None:
    """Remove the partial file, unless it has its final name already."""
    if os.path.samestat(os.fstat(fd), os.stat(partial)):
        os.unlink(partial)


def _publish(partial: str, target: str, names: Sequence[str]) -> None:
    """Rename a complete partial folder, or its files into a folder that is there."""
    if os.path.isdir(target):
        _replace_files(partial, target, names)
        with _on_error(lambda: _remove_folder(partial), partial, target):
            sync_folder(target)
        _remove_folder(partial)
        return
    with _on_error(lambda: _remove_folder(partial), partial, target):
        os.rename(partial, target)
    sync_folder(os.path.dirname(target))


def _replace_files(partial: str, target: str, names: Sequence[str]) -> None:
    """Rename files into ``target``: one by one rename, several not before all that they replace is aside."""
    several = len(names) > 1
    replaced = [name for name in names if several and os.path.lexists(os.path.join(target, name))]

    def bring_back() -> None:
        for name in names:
            aside, final = os.path.join(partial, name + _ASIDE), os.path.join(target, name)
            if os.path.lexists(aside):
                os.rename(aside, final)
            elif several and name not in replaced and not os.path.lexists(os.path.join(partial, name)):
                os.unlink(final)
        _remove_folder(partial)

    with _on_error(bring_back, partial, target):
        for name in reversed(replaced):  # the index first: it must never name files of another run
            os.rename(os.path.join(target, name), os.path.join(partial, name + _ASIDE))
        for name in names:
            os.rename(os.path.join(partial, name), os.path.join(target, name))


def _remove_folder(partial: str) -> None:
    _empty(partial)
    os.rmdir(partial)


def _empty(partial: str) -> None:
    """Remove what a killed run left: files only, and nothing that a link leads to."""
    for name in os.listdir(partial):
        path = os.path.join(partial, name)
        if os.path.isdir(path) and not os.path.islink(path):
            raise CkptToolError("a folder stands in what a killed run left", path=path)
        os.unlink(path)
