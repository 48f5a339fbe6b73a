"""Parses files of source in a process of its own, whose memory is bounded: what kills it kills no more.

Started by ``parsing``, as ``python -c ... ROOT module:function``. Each line of stdin is a request, ``[path,
module, is_package]`` as JSON; each gets one line of JSON on stdout, in their order: ``summary``, what the
function made of the syntax tree, again as JSON, or ``error``, the reason; ``size`` and ``mtime_ns`` of the
file; CPU time ``ms``; ``last``, true where this process ends of itself. The first line says that it is ready.
"""

from __future__ import annotations

import ast
import gc
import json
import re
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ckpttool.kinds.source.files import read_file

_MOST_MEMORY = 512 * 2**20  # of addresses; 512 KiB of `x=1` lines take 320 MiB
_NBYTES_A_COLLECTION = 256 * 1024  # of source: what a scan leaves in circles may hold all of their trees

# PEP 263. A declared encoding chooses between two decoders here, and names none: Python's own would look for
# a codec of any name, and some of those rewrite the text.
_CODING = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_BLANK = re.compile(rb"[ \t\f]*(?:#.*)?\r?")
_LATIN_1 = frozenset({b"latin-1", b"latin1", b"iso-8859-1", b"iso8859-1", b"iso-latin-1", b"l1"})

Scan = Callable[[ast.Module, str, str, bool], dict[str, object]]
"""From the syntax tree of a file, its text, its dotted name, and whether it is a package."""


def decode(data: bytes) -> str:
    """Source as text: UTF-8, or Latin-1 where its first two lines declare that.

    Raises:
        ValueError: it is neither, or holds a NUL.
    """
    if b"\0" in data:
        raise ValueError("holds a NUL")
    if not data.startswith(b"\xef\xbb\xbf"):
        for line in data.split(b"\n", 2)[:2]:
            if found := _CODING.match(line):
                if found[1].lower().replace(b"_", b"-") in _LATIN_1:
                    return data.decode("latin-1")
                break
            if not _BLANK.fullmatch(line):
                break
    return data.decode("utf-8-sig")


def answer(path: str, module: str, is_package: bool, scan: Scan) -> dict[str, Any]:
    """What one file says, as it is written into JSON, or why it says nothing."""
    started = time.process_time()
    found: dict[str, Any] = {"last": False}
    try:
        data, status = read_file(path)
        found |= {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        text = decode(data)
        found["summary"] = _dumps(scan(ast.parse(text), text, module, is_package))
    except MemoryError:  # what is left of it may be too little for the next file
        found |= {"error": "takes too much memory to parse", "last": True}
    except RecursionError:
        found["error"] = "is nested too deeply"
    except OSError as error:
        found["error"] = error.strerror or str(error)
    except SyntaxError as error:
        found["error"] = f"has a syntax error on line {error.lineno or '?'}"
    except (ValueError, OverflowError) as error:
        found["error"] = f"cannot be parsed: {type(error).__name__}"
    found["ms"] = (time.process_time() - started) * 1000
    return found


def main() -> None:
    """Answer requests until there are no more."""
    module, _, function = sys.argv[2].partition(":")
    scan: Scan = getattr(import_module(module), function)
    warnings.simplefilter("ignore")  # of the syntax: an invalid escape
    _bound_memory()
    gc.disable()  # a syntax tree is a million objects, and holds no circles
    _write({"ready": True})
    nbytes = 0
    for line in sys.stdin.buffer:
        path, name, is_package = json.loads(line)
        found = answer(path, name, is_package, scan)
        _write(found)
        if found["last"]:
            return
        nbytes += found.get("size", 0)
        if nbytes > _NBYTES_A_COLLECTION:
            gc.collect()
            nbytes = 0


def _write(found: dict[str, object]) -> None:
    sys.stdout.buffer.write(_dumps(found).encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    for which, most in (("RLIMIT_AS", _MOST_MEMORY), ("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0)):
        try:
            hard = resource.getrlimit(number := getattr(resource, which))[1]
            if hard != resource.RLIM_INFINITY:
                most = min(most, hard)
            resource.setrlimit(number, (most, most))
        except (AttributeError, OSError, ValueError):  # macOS bounds no addresses
            continue
