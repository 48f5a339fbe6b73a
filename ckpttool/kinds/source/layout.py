"""Which dotted names are which files of a tree. Names come from source: none of them is trusted."""

from __future__ import annotations

import os
import stat
from functools import cached_property

from ckpttool.kinds.source.packages import Tree, walk_scope

_DEEPEST = 64  # parts of a name


class Layout:
    """The modules of a tree: of its package; or of a folder, wherever in it a package or a script lies."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        top = os.path.join(tree.path, tree.top)
        self._is_one_file = not os.path.isdir(top)
        self._base = tree.path if self._is_one_file else os.path.realpath(top)
        self._odd: dict[str, str] = {}  # files that no source can import, by what they are called here
        self._located: dict[str, str | None] = {}
        self._walked: frozenset[str] = frozenset()
        self._listed = {"": frozenset([tree.top] if tree.top else _list(tree.path))}  # by folder

    def place(self, file: str) -> str:
        """Where a file of the tree lies."""
        return f"{self.tree.path}/{file}"

    @cached_property
    def _named_files(self) -> list[str]:
        files = list(walk_scope(self.tree))
        if not (self.tree.entry and self.tree.installed):  # then no links were followed
            self._walked = frozenset(files)
        hidden = {f"{_folder(file)}.py" for file in files if file.endswith("/__init__.py")}
        return [file for file in files if file not in hidden]  # a package hides the module of its name

    @cached_property
    def named(self) -> dict[str, str]:
        """Module -> file of all that the user named, those of a folder before what is deeper."""
        return {self.name(file): file for file in self._named_files}

    @cached_property
    def _beginnings(self) -> dict[str, str]:
        """The folder, "" for several, in which the first part of a name lies that is not in the top one.

        A script imports what lies beside it, and packages lie in ``src``.
        """
        found: dict[str, str] = {}
        for file in self._named_files if not self.tree.top else ():
            root, first = self._beginning(file)
            if root and found.setdefault(first, root) != root:
                found[first] = ""
        return found

    @cached_property
    def _packages(self) -> frozenset[str]:
        return frozenset(_folder(file) for file in self._named_files if file.endswith("/__init__.py"))

    def _beginning(self, file: str) -> tuple[str, str]:
        """The first folder above a file that is no package, and the first part of the name from there."""
        below, root = file, _folder(file)
        while root in self._packages:
            below, root = root, _folder(root)
        return root, below.removeprefix(f"{root}/").removesuffix(".py")

    def name(self, file: str) -> str:
        """The dotted name of a file: ``mypkg/blocks/__init__.py`` is ``mypkg.blocks``."""
        steps = _steps(file)
        if self.tree.top:
            steps[0] = self.tree.package
        elif root := self._beginning(file)[0]:
            name = ".".join(_steps(file.removeprefix(f"{root}/")))
            if self.locate(name) == file:
                return name
        name = ".".join(step.replace(".", "_") for step in steps)
        if not all(step.isidentifier() for step in steps):
            self._odd[name] = file
        return name

    def locate(self, module: str) -> str | None:
        """The file of a module, None where the tree has none; a folder without ``__init__.py`` is no file."""
        if module in self._odd:
            return self._odd[module]
        if module not in self._located:
            steps = module.split(".")
            may_be = len(steps) <= _DEEPEST and all(step.isidentifier() for step in steps)
            self._located[module] = self._locate(steps) if may_be else None
        return self._located[module]

    def _locate(self, steps: list[str]) -> str | None:
        roots = [""]
        if not self.tree.top:
            roots += [f"{root}/" for root in (self._beginnings.get(steps[0]),) if root]
        elif steps[0] != self.tree.package:
            return None
        elif self._is_one_file:
            return self.tree.top if len(steps) == 1 else None
        else:
            steps[0] = self.tree.top
        for root in roots:
            stem = root + "/".join(steps)
            for file in (f"{stem}/__init__.py", f"{stem}.py"):
                if self.status(file) is not None:
                    return file
        return None

    def status(self, file: str) -> os.stat_result | None:
        """The status of a regular file that lies in the tree, whatever links lead to it; else None."""
        folder, _, name = file.rpartition("/")
        if file not in self._walked and name not in self._names(folder):
            return None
        try:
            place = self.place(file)
            status = os.lstat(place)
            if stat.S_ISLNK(status.st_mode) and self._is_inside(place):
                status = os.stat(place)
        except OSError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def _names(self, folder: str) -> frozenset[str]:
        """What lies in a folder of the tree, as it was first seen; nothing where a link leads out."""
        if folder not in self._listed:
            above, _, name = folder.rpartition("/")
            place = self.place(folder)
            is_ours = name in self._names(above) and self._is_inside(place)
            self._listed[folder] = frozenset(_list(place) if is_ours else ())
        return self._listed[folder]

    def _is_inside(self, place: str) -> bool:
        real = os.path.realpath(place)
        return real == self._base or real.startswith(self._base.rstrip(os.sep) + os.sep)


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # a file, or where nobody may look
        return []


def _folder(file: str) -> str:
    return file.rpartition("/")[0]


def _steps(file: str) -> list[str]:
    steps = file.removesuffix(".py").split("/")
    return steps[:-1] if len(steps) > 1 and steps[-1] == "__init__" else steps
