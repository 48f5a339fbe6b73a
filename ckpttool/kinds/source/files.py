"""Files of Python source below a folder, within bounds; none is opened that is no regular file."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from itertools import islice

MOST_FILE_NBYTES = 512 * 1024
"""Of one file: the largest in four big libraries has 327 kB, and 1 MiB takes 630 MiB to parse."""

MOST_FILES = 5_000
"""Of one tree: transformers has 2,912."""

MOST_NBYTES = 64 * 2**20
"""Of one tree: transformers has 51 MiB."""

_MOST_SEEN = 100_000  # names in all folders: a folder of images is not searched for source to its end
_NO_SOURCE = frozenset({"__pycache__", "node_modules", "site-packages"})
_ENVIRONMENT = frozenset({"pyvenv.cfg", "conda-meta"})  # a folder that holds one is an environment

# Opening a FIFO must not wait for a writer before it can be refused; Windows has neither it nor the others.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def read_file(
    path: str, most: int = MOST_FILE_NBYTES, flags: int = 0, folder: int | None = None
) -> tuple[bytes, os.stat_result]:
    """The bytes of a regular file, and its status then; ``folder`` is a descriptor that ``path`` begins at.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than ``most`` bytes.
    """
    with open(os.open(path, _OPEN | flags, dir_fd=folder), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        data = file.read(most + 1)
        if len(data) > most:
            raise OSError(f"more than {most} bytes")
        return data, status


def walk(folder: str) -> Iterator[str]:
    """The ``.py`` files below ``folder``, relative to it with ``/``: those of a folder before what is deeper.

    Links are left out: what one within the folder leads to is found under its own name.
    """
    waiting, left = deque([""]), _MOST_SEEN
    while waiting and left:
        inside = waiting.popleft()
        try:
            with os.scandir(os.path.join(folder, inside)) as entries:
                found = sorted(islice(entries, left), key=lambda entry: entry.name)
            left -= len(found)
            if inside and any(entry.name in _ENVIRONMENT for entry in found):
                continue
            files = [entry.name for entry in found if entry.name.endswith(".py") and _is_file(entry)]
            waiting.extend(f"{inside}{entry.name}/" for entry in found if _may_hold_source(entry))
        except OSError:  # where nobody may look, or that is gone
            continue
        yield from (f"{inside}{name}" for name in files)


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)


def _may_hold_source(entry: os.DirEntry[str]) -> bool:
    hidden = entry.name.startswith(".") or entry.name in _NO_SOURCE
    return not hidden and entry.is_dir(follow_symlinks=False)
