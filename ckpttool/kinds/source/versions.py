"""The version of an installed package, by what pip left beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ckpttool.kinds.source.files import read_file

_MOST_NBYTES = 4 * 2**20  # of RECORD: torch's has 2 MiB
_LONGEST_VERSION = 64


def version_of(package: str, folders: Sequence[str]) -> str:
    """The version in the first of ``folders`` with a distribution that has the package; "" if unknown.

    A distribution may have another name than its package: then its lists of names and of files are asked,
    and what is in several (parts of one namespace) has no version.
    """
    for folder in folders:
        try:
            infos = sorted(name for name in os.listdir(folder) if name.endswith((".dist-info", ".egg-info")))
        except OSError:
            continue
        same = [name for name in infos if _normal(re.split(r"-|\.egg", name)[0]) == _normal(package)]
        found = same[:1] or [name for name in infos if _holds(os.path.join(folder, name), package)]
        if len(found) == 1:
            return _version(os.path.join(folder, found[0]))
    return ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _holds(place: str, package: str) -> bool:
    name = package.encode()
    if name in _read(place, "top_level.txt").split():
        return True
    lines = b"\n" + _read(place, "RECORD")
    return b"\n%s/" % name in lines or b"\n%s.py," % name in lines


def _version(place: str) -> str:
    head = (_read(place, "METADATA") or _read(place, "PKG-INFO")).partition(b"\n\n")[0]
    found = re.search(rb"^Version:[ \t]*(\S+)", head, re.MULTILINE)
    return found[1].decode("utf-8", "replace")[:_LONGEST_VERSION] if found else ""


def _read(place: str, name: str) -> bytes:
    try:
        return read_file(os.path.join(place, name), _MOST_NBYTES)[0]
    except OSError:
        return b""
