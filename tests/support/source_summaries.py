"""What a child of these tests makes of source, in place of the scanner."""

from __future__ import annotations

import ast


def scan(tree: ast.Module, text: str, module: str, is_package: bool) -> dict[str, object]:
    """The classes of a file, and what it was called."""
    classes = {node.name: node.lineno for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    return {"classes": classes, "module": module, "is_package": is_package, "length": len(text)}


def limits(tree: ast.Module, text: str, module: str, is_package: bool) -> dict[str, object]:
    """What the child may do, and where it would import from."""
    import resource
    import sys

    names = ("RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_FSIZE")
    found = {name: resource.getrlimit(getattr(resource, name))[0] for name in names}
    flags = {"isolated": sys.flags.isolated, "no_site": sys.flags.no_site, "utf8": sys.flags.utf8_mode}
    return {"classes": {}, "path": sys.path, **found, **flags}


def greedy(tree: ast.Module, text: str, module: str, is_package: bool) -> dict[str, object]:
    """Takes all memory for a file without text."""
    return {"classes": {}, "memory": len(b"x" * 2**30 if not text else b"")}


def deadly(tree: ast.Module, text: str, module: str, is_package: bool) -> dict[str, object]:
    """Does what its file's last line is called."""
    import os
    import signal
    import time

    found: dict[str, object] = {"classes": {}, "process": os.getpid()}
    match text.rpartition("\n")[2]:
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hangs":
            time.sleep(600)
        case "talks":
            found["talk"] = "x" * 2**20
    return found


def circular(tree: ast.Module, text: str, module: str, is_package: bool) -> dict[str, object]:
    """Leaves the tree in a circle, as objects that know each other do."""
    circle: list[object] = [tree]
    circle.append(circle)
    return {"classes": {}}
