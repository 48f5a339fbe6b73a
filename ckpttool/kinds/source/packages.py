"""Which package, folder or file of source a user means, found without importing any of it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from typing import NamedTuple

from ckpttool.kinds.source.files import walk
from ckpttool.kinds.source.versions import version_of
from ckpttool.values.errors import CkptToolError

# What a finder of an editable install, which is somebody else's code, may raise where it finds nothing.
_FINDING_FAILS = (ImportError, OSError, AttributeError, LookupError, TypeError, ValueError)


class SourceNotFound(CkptToolError):
    """What was named as source is no package, folder or ``.py`` file that can be read."""


class Tree(NamedTuple):
    """Where source lies. Paths in a tree are relative to ``path``, with ``/``.

    ``path`` is the real path of the folder in which dotted names begin: the one that contains the package.
    ``package`` is the top-level name as it is imported, ``top`` the folder or file that this is in ``path``;
    both are "" for a folder that is itself no package, and for a file in one. ``entry`` is what was named
    below that, a file or a folder, and "" where it was all of it. ``class_name`` may be dotted.
    """

    package: str
    path: str
    entry: str
    version: str
    class_name: str
    installed: bool
    top: str

    @property
    def scope(self) -> str:
        """What was named: a file, or a folder, "" for all of ``path``."""
        return self.entry or self.top


def find_tree(text: str, *, versioned: bool = True) -> Tree:
    """The source that ``PACKAGE``, ``FOLDER`` or ``FILE.py`` names; each may end in ``:CLASS``.

    An identifier is an installed package (``package.module`` is a part of one). What has a separator, ends
    in ``.py`` or begins with a dot is a path. The version is looked for if the tree is to be ``versioned``.

    Raises:
        SourceNotFound: there is no such thing, or no Python source in it.
    """
    head, colon, tail = text.rpartition(":")
    if colon and _is_dotted(tail) and not (_is_path(text) and os.path.lexists(text.replace("\0", ""))):
        return _find(head, versioned)._replace(class_name=tail)
    return _find(text, versioned)


def _find(name: str, versioned: bool) -> Tree:
    tree = _at_path(name) if _is_path(name) else _installed(name)
    if versioned and tree.package:
        folders = _import_folders() if tree.installed else []
        tree = tree._replace(version=version_of(tree.package, [tree.path, *folders]))
    if next(walk_scope(tree), None) is None:
        raise SourceNotFound("no .py file is in it", path=name, hint=_HINT)
    return tree


_HINT = "source is an installed package, a folder, or a file whose name ends in .py"


def walk_scope(tree: Tree) -> Iterator[str]:
    """The files of what was named, relative to ``tree.path``."""
    where = os.path.join(tree.path, tree.scope)
    if not os.path.isdir(where):
        return iter((tree.scope,))
    return (f"{tree.scope}/{name}" if tree.scope else name for name in walk(where))


def _is_path(text: str) -> bool:
    return "/" in text or os.sep in text or text.startswith(".") or text.endswith(".py")


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _at_path(text: str) -> Tree:
    path = os.path.realpath(text.replace("\0", ""))
    if "\0" in text or not os.path.exists(path):
        raise SourceNotFound("no such folder or .py file", path=text, hint=_HINT)
    if not os.path.isdir(path) and not (path.endswith(".py") and os.path.isfile(path)):
        raise SourceNotFound("not a folder or a .py file", path=text, hint=_HINT)
    container = path if os.path.isdir(path) else os.path.dirname(path)
    while os.path.isfile(os.path.join(container, "__init__.py")) and os.path.dirname(container) != container:
        container = os.path.dirname(container)
    steps = os.path.relpath(path, container).split(os.sep) if path != container else []
    in_package = bool(steps) and os.path.isfile(os.path.join(container, steps[0], "__init__.py"))
    top = steps[0] if in_package else ""
    # A folder may have any name, e.g. with a dash, and is then imported by none: relative imports hold in it.
    package = top if top.isidentifier() else re.sub(r"\W", "_", top)
    entry = "" if steps == [top] else "/".join(steps)
    return Tree(package, container, entry, "", "", installed=False, top=top)


def _installed(name: str) -> Tree:
    package, _, rest = name.partition(".")
    here = f"for the folder write ./{name}" if os.path.isdir(name) else ""
    if not _is_dotted(name):
        what = f"{name!r} is no name of a package"
        raise SourceNotFound(what, hint=here or f"{_HINT}; a package goes by the name that is imported")
    folders = _import_folders()
    spec = _find_spec(package, folders)
    if spec is None:
        raise SourceNotFound(f"no package {package!r} is installed", hint=here or _HINT)
    where = _place(spec)
    if where is None:
        what = f"the package {package!r} has no source that can be read: it lies in {spec.origin or 'Python'}"
        raise SourceNotFound(what, hint="an archive or compiled files: name a folder with its source")
    path, top = os.path.realpath(os.path.dirname(where)), os.path.basename(where)
    tree = Tree(package, path, "", "", "", installed=True, top=top)
    if not rest:
        return tree
    inner = f"{top}/{rest.replace('.', '/')}"
    for entry in (inner, f"{inner}.py"):
        if os.path.exists(os.path.join(path, entry)):
            return tree._replace(entry=entry)
    raise SourceNotFound(f"the package {package!r} has no module {name!r}", hint=f"it lies in {where}")


def _import_folders() -> list[str]:
    """Where packages are installed: ``sys.path`` but the current folder, which anybody may have filled."""
    here = os.path.realpath(os.curdir)
    return [folder for folder in sys.path if folder and os.path.realpath(folder) != here]


def _find_spec(package: str, folders: list[str]) -> ModuleSpec | None:
    """Ask where a top-level package lies: for such a name, finders import nothing."""
    spec = PathFinder.find_spec(package, folders)
    here = os.path.realpath(os.curdir)
    for finder in sys.meta_path:
        if spec is not None:
            break
        if finder in (BuiltinImporter, FrozenImporter, PathFinder):
            continue
        try:
            spec = finder.find_spec(package, None)
            where = spec and _place(spec)
        except _FINDING_FAILS:
            continue
        if where and os.path.dirname(os.path.realpath(where)) == here:
            spec = None
    return spec


def _place(spec: ModuleSpec) -> str | None:
    """The folder of a package, or the file of a module; None where that is no source."""
    folders = [os.path.normpath(folder) for folder in spec.submodule_search_locations or ()]
    if folders:  # more than one: parts of a namespace
        return next((folder for folder in folders if next(walk(folder), None) is not None), None)
    origin = spec.origin or ""
    return origin if origin.endswith(".py") and os.path.isfile(origin) else None
