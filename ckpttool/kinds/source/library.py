"""What dotted names mean over several files: classes with their bases, functions, aliases, re-exports.

Files are read when a name leads to them. Other packages than those that were named are followed one step,
for bases and children of the named ones' own classes, and only so many files of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from ckpttool.kinds.source import torch_classes
from ckpttool.kinds.source.descriptions import Description
from ckpttool.kinds.source.torch_classes import TorchClass

Summary: TypeAlias = Mapping[str, Any]

_DEEPEST_NAME = 12  # re-exports of re-exports
_MOST_BASES = 32
_MANY_STARS = 24  # as a package has that takes all of hundreds of models: none is read to look for a name
_MOST_FOLLOWED = 300  # files of packages that nobody named

_NEVER_FOLLOWED = frozenset("torch numpy scipy typing abc collections functools dataclasses".split())

_HARMLESS = frozenset(
    """
    object abc.ABC typing.Generic typing.Protocol typing_extensions.Protocol torch.nn.Module
    torch.nn.modules.module.Module torch.jit.ScriptModule enum.Enum
    """.split()
)
"""Bases that register nothing."""


class Modules(Protocol):
    """Files of one package, or folder, as ``reader.Reader`` reads them."""

    def read(self, module: str) -> Summary | None:
        """The summary of the file that is imported as ``module``; None without one."""

    def locate(self, module: str) -> str | None:
        """Its path, relative to the folder that the package lies in; None without one."""

    def find_class(self, name: str) -> list[str]:
        """Modules in which a class seems to have the name."""

    @property
    def package(self) -> str:
        """The package that it is, "" for a folder of modules."""


class SourceClass:
    """A class in a file that was read; ``file`` is the path of that."""

    __slots__ = ("bases", "dotted", "file", "followed", "line", "methods", "module", "name")

    def __init__(self, module: str, name: str, file: str, summary: Summary, followed: bool) -> None:
        self.module = module
        self.name = name
        self.dotted = f"{module}.{name}" if module else name
        self.file = file
        self.line: int = summary["line"]
        self.bases: list[str] = summary["bases"]
        self.methods: dict[str, Any] = summary["methods"]
        self.followed = followed


class Function(NamedTuple):
    """A function that gives back modules or Parameters; ``summary`` as a method's."""

    module: str
    summary: Summary


class Alias(NamedTuple):
    """A name of a module that stands for something else."""

    described: Description


class Member(NamedTuple):
    """A class, and the attribute of it that a dotted name goes on with."""

    owner: SourceClass | TorchClass
    attribute: str


class TorchName(NamedTuple):
    """Something of torch that is no class of modules."""

    dotted: str


Symbol: TypeAlias = SourceClass | TorchClass | Function | Alias | Member | TorchName


class Lineage(NamedTuple):
    """A class and its bases, nearest first; ``known``: all of them could be read."""

    classes: tuple[SourceClass, ...]
    torch: tuple[TorchClass, ...]
    known: bool
    is_module: bool
    entry: str  # "parameter" or "buffer", of a class that is no module but one of these


class Library:
    """All that is read: of ``named``, which the user named, and of packages that ``follow`` opens by name."""

    def __init__(self, named: Sequence[Modules], follow: Callable[[str], Modules | None]) -> None:
        self._named = named
        self._follow = follow
        self._followed: dict[str, Modules | None] = {}
        self._left = _MOST_FOLLOWED
        self._symbols: dict[tuple[str, bool], Symbol | None] = {}
        self._classes: dict[str, SourceClass] = {}
        self._lineages: dict[str, Lineage] = {}
        self._imported: dict[str, dict[str, list[str]]] = {}  # by module and last part of the name
        self.summaries: dict[str, Summary] = {}

    # ------------------------------------------------------------------------------------- reading

    def read(self, module: str, may_follow: bool = True) -> Summary | None:
        """The summary of ``module``."""
        if module in self.summaries:
            return self.summaries[module]
        modules = self._holder(module)
        top = module.partition(".")[0]
        if modules is None and (may_follow or top in self._followed):
            modules = self._other(top)
            if modules is not None and modules.locate(module) is not None:
                self._left -= 1
                modules = modules if self._left >= 0 else None
        summary = None if modules is None else modules.read(module)
        if summary is not None:
            self.summaries[module] = summary
        return summary

    def _holder(self, module: str) -> Modules | None:
        """Which of the named ones has ``module``."""
        for package in (module.partition(".")[0], ""):  # a folder may hold a package that was named too
            for modules in self._named:
                if modules.package == package and modules.locate(module) is not None:
                    return modules
        return None

    def _reader_of(self, module: str) -> Modules | None:
        """What reads ``module``, of what was named or is followed."""
        return self._holder(module) or self._followed.get(module.partition(".")[0])

    def _other(self, top: str) -> Modules | None:
        if top not in self._followed:
            own = any(modules.package == top for modules in self._named)
            self._followed[top] = (
                self._follow(top) if top and not own and top not in _NEVER_FOLLOWED else None
            )
        return self._followed[top]

    def file(self, module: str) -> str:
        """The path of the file of ``module``, below the folder that its package lies in; "" without one."""
        modules = self._reader_of(module)
        return (modules.locate(module) if modules is not None else None) or ""

    def is_named(self, module: str) -> bool:
        """Whether ``module`` is of what the user named."""
        return self._holder(module) is not None

    def iter_classes(self) -> Iterator[SourceClass]:
        """Every class of the files that were read so far, those of followed packages left out."""
        for module, summary in list(self.summaries.items()):
            if self.is_named(module):
                for name in summary["classes"]:
                    yield self.class_of(module, name, summary)

    def count_classes(self, modules: Modules) -> int:
        """How many classes were read in ``modules``."""
        return sum(
            len(summary["classes"])
            for module, summary in self.summaries.items()
            if self._holder(module) is modules
        )

    def class_of(self, module: str, name: str, summary: Summary) -> SourceClass:
        """The class that ``summary`` has under ``name``."""
        dotted = f"{module}.{name}"
        found = self._classes.get(dotted)
        if found is None:
            place = self.file(module)
            found = SourceClass(module, name, place, summary["classes"][name], not self.is_named(module))
            self._classes[dotted] = found
        return found

    # ------------------------------------------------------------------------------------- symbols

    def resolve(self, dotted: str, may_follow: bool = True) -> Symbol | None:
        """What ``dotted`` means; None if that cannot be seen."""
        return self._resolve_once(dotted, may_follow, _DEEPEST_NAME)

    def _resolve_once(self, dotted: str, may_follow: bool, depth: int) -> Symbol | None:
        key = dotted, may_follow
        if key not in self._symbols:
            self._symbols[key] = None  # for names that lead to themselves
            self._symbols[key] = self._resolve(dotted, may_follow, depth)
        return self._symbols[key]

    def _resolve(self, dotted: str, may_follow: bool, depth: int) -> Symbol | None:
        if not depth or not dotted:
            return None
        if dotted.startswith("torch."):
            return _resolve_torch(dotted)
        parts = dotted.split(".")
        for length in range(min(len(parts) - 1, _DEEPEST_NAME), -1, -1):
            module = ".".join(parts[:length])
            summary = self.read(module, may_follow) if module else None
            if summary is not None:
                return self._look_up(module, summary, parts[length:], may_follow, depth - 1)
        return None

    def _look_up(
        self, module: str, summary: Summary, rest: list[str], may_follow: bool, depth: int
    ) -> Symbol | None:
        first, more = rest[0], rest[1:]
        if first in summary["classes"]:
            while more and f"{first}.{more[0]}" in summary["classes"]:
                first, more = f"{first}.{more[0]}", more[1:]
            found = self.class_of(module, first, summary)
            return Member(found, more[0]) if more else found
        if first in summary["functions"]:
            return Function(module, summary["functions"][first]) if not more else None
        if first in summary["aliases"]:
            described = summary["aliases"][first]
            if described[0] == "ref":
                return self._resolve_once(".".join((described[1], *more)), may_follow, depth)
            return Alias(described) if not more else None
        if first in summary["imports"]:
            return self._resolve_once(".".join((summary["imports"][first], *more)), may_follow, depth)
        if not more and self.file(f"{module}.{first}"):
            return None  # a module
        if len(summary["stars"]) > _MANY_STARS:
            return self._find_class(module, first) if not more else None
        for star in summary["stars"]:
            if self.read(star, may_follow) is None:
                continue  # the name would grow with each star
            found_there = self._resolve_once(".".join((star, *rest)), may_follow, depth)
            if found_there is not None:
                return found_there
        return None

    def sees(self, module: str, cls: SourceClass) -> bool:
        """Whether ``module`` defines ``cls``, or imports it, by whatever name and way."""
        summary = self.summaries[module]
        if module == cls.module or cls.module in summary["stars"]:
            return True
        if module not in self._imported:
            by_last: dict[str, list[str]] = {}
            for dotted in summary["imports"].values():
                by_last.setdefault(dotted.rpartition(".")[2], []).append(dotted)
            self._imported[module] = by_last
        # Only what has the name is looked up: an import may lead to many files.
        same = self._imported[module].get(cls.name, ())
        return any(dotted == cls.dotted or self.resolve(dotted) is cls for dotted in same)

    def _find_class(self, package: str, name: str) -> SourceClass | None:
        """The class of this name somewhere in a package that takes all of many modules."""
        modules = self._reader_of(package)
        for module in modules.find_class(name) if modules is not None and name[:1].isupper() else ():
            summary = self.read(module) if module.startswith(f"{package}.") else None
            if summary is not None and name in summary["classes"]:
                return self.class_of(module, name, summary)
        return None

    # ------------------------------------------------------------------------------------- lineage

    def lineage(self, cls: SourceClass) -> Lineage:
        """``cls`` and its bases, in the order in which Python looks."""
        found = self._lineages.get(cls.dotted)
        if found is None:
            found = self._lineages[cls.dotted] = self._find_lineage(cls)
        return found

    def _find_lineage(self, cls: SourceClass) -> Lineage:
        classes: dict[str, SourceClass] = {}
        of_torch: list[TorchClass] = []
        known = True
        is_module = False
        entry = ""
        stack = [cls]
        for _ in range(_MOST_BASES):  # classes may be bases of each other
            if not stack:
                break
            item = stack.pop()
            classes.pop(item.dotted, None)  # a base of several stands behind the last
            classes[item.dotted] = item
            bases: list[SourceClass] = []
            for base in item.bases:
                symbol = None if base in _HARMLESS else self.resolve(base, not item.followed)
                if isinstance(symbol, SourceClass):
                    if symbol.dotted != cls.dotted:
                        bases.append(symbol)
                elif isinstance(symbol, TorchClass):
                    of_torch.append(symbol)
                    is_module = True
                elif isinstance(symbol, TorchName) and torch_classes.is_parameter(symbol.dotted):
                    entry = "parameter"
                elif isinstance(symbol, TorchName) and torch_classes.is_buffer(symbol.dotted):
                    entry = "buffer"
                elif base not in _HARMLESS:
                    known = False
                is_module = is_module or base.startswith("torch.")
            stack += reversed(bases)
        return Lineage(tuple(classes.values()), tuple(of_torch), known, is_module or not known, entry)


def _resolve_torch(dotted: str) -> Symbol | None:
    found = torch_classes.find(dotted)
    if found is not None:
        return found
    owner, _, attribute = dotted.rpartition(".")
    found = torch_classes.find(owner)
    if found is not None and not torch_classes.gives_same_module(dotted):
        return Member(found, attribute)
    return TorchName(dotted)
