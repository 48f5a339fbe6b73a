"""What the source of packages, folders and files says of state_dicts: found, read, matched."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ckpttool.kinds.classify import Verdict
from ckpttool.kinds.source.instances import Instance
from ckpttool.kinds.source.judge import judge_names
from ckpttool.kinds.source.library import Library, SourceClass
from ckpttool.kinds.source.match import Matcher
from ckpttool.kinds.source.members import Interpreter
from ckpttool.kinds.source.packages import SourceNotFound, find_tree
from ckpttool.kinds.source.reader import Reader
from ckpttool.values.checkpoint import Checkpoint, Root
from ckpttool.values.progress import SILENT, Progress
from ckpttool.values.source import SourceUsed

_FEW_FILES = 500
"""A package of more is not read whole where a class is named: only what the class leads to."""

_MOST_REACHED = 2000  # instances that a class leads to


class SourceKinds:
    """Source that may be asked about checkpoints. What was read stays in memory until it is closed."""

    def __init__(
        self, texts: Sequence[str], *, chosen: Sequence[str] | None = None, progress: Progress = SILENT
    ) -> None:
        """``texts`` are as in ``find_tree``, none where nothing names a package.

        ``chosen`` are those that the checkpoint itself names, and may lie about: with them (and if there are
        none of them) nothing is said where no class fits the whole file, and a class may not be there.

        Raises:
            SourceNotFound: there is no such package, folder, file or class.
        """
        self.strict = chosen is not None
        self._chosen = len(chosen or ())
        self._progress = progress
        self._readers = [Reader(find_tree(text)) for text in (*(chosen or ()), *texts)]
        self._followed: list[Reader] = []
        self._library = Library(self._readers, self._follow)
        self._matcher: Matcher | None = None
        self._interpreter = Interpreter(self._library)
        self._root_classes: list[SourceClass] = []
        self._verdicts: list[Verdict] = []

    def judge(self, checkpoint: Checkpoint, weights: Mapping[Root, Sequence[int]]) -> dict[Root, Verdict]:
        """What source says of each state_dict, whose entries are at these positions of the checkpoint's."""
        if not self._readers:
            return {}
        matcher = self._read()
        verdicts = {}
        for root, indices in weights.items():
            names = [
                (position, name)
                for position, index in enumerate(indices)
                if isinstance(name := checkpoint.entries[index].name, str)
            ]
            empty = {
                position
                for position, index in enumerate(indices)
                if 0 in (checkpoint.entries[index].shape or ())
            }
            verdicts[root] = judge_names(matcher, names, self._root_classes, self.strict, empty)
        self._verdicts += verdicts.values()
        return verdicts

    def _read(self) -> Matcher:
        """Read all that was named, or where a class is named what it leads to."""
        if self._matcher is None:
            for at, reader in enumerate(self._readers):
                name = reader.tree.class_name
                if name:
                    classes = self._find_classes(reader, name)
                    if not classes and at >= self._chosen:
                        where = reader.package or os.path.join(reader.tree.path, reader.tree.scope)
                        hint = "name a class as it is defined"
                        raise SourceNotFound(f"no class {name} is in the source of {where}", hint=hint)
                    self._root_classes += classes
                if not name or len(reader.layout.named) <= _FEW_FILES:
                    self._read_all(reader)
            if self._root_classes:
                self._reach(self._root_classes)
            self._matcher = Matcher(self._interpreter)
        return self._matcher

    def _read_all(self, reader: Reader) -> None:
        named = reader.layout.named
        statuses = {module: reader.layout.status(file) for module, file in named.items()}
        sizes = {module: status.st_size for module, status in statuses.items() if status is not None}
        self._progress.begin("source", sum(sizes.values()))
        for module, summary in reader.read_all():
            self._library.summaries.setdefault(module, summary)
            self._progress.advance(sizes.get(module, 0))
        self._progress.finish()

    def _find_classes(self, reader: Reader, name: str) -> list[SourceClass]:
        """The classes of this name; several files may have one, and which is meant the state_dict shows."""
        found = self._library.resolve(name) if name.partition(".")[0] == reader.package else None
        if isinstance(found, SourceClass):
            return [found]
        classes = []
        for module in reader.find_class(name):
            summary = self._library.read(module)
            if summary is not None and name in summary["classes"]:
                classes.append(self._library.class_of(module, name, summary))
        found = self._library.resolve(f"{reader.package}.{name}") if not classes and reader.package else None
        if isinstance(found, SourceClass):
            return [found]
        return classes

    def _reach(self, classes: Sequence[SourceClass]) -> None:
        """Read the files of every class that ``classes`` are seen to build, and theirs."""
        queue = [Instance(cls, ()) for cls in classes]
        seen = {cls.dotted for cls in classes}
        while queue and len(seen) < _MOST_REACHED:
            members = self._interpreter.members(queue.pop())
            attributes = [*members.by_name.values(), *(found for _, found in members.by_pattern)]
            stack = [item for attribute in attributes for item in attribute.value.types]
            while stack:
                item = stack.pop()
                if item.items is not None:
                    stack += [inner for _, value in item.items.children for inner in value.types]
                if isinstance(item, Instance) and item.cls.dotted not in seen:
                    seen.add(item.cls.dotted)
                    queue.append(item)

    def _follow(self, top: str) -> Reader | None:
        """Another package that a class derives from, or is built of; None if it is not installed."""
        try:
            reader = Reader(find_tree(top, versioned=False))
        except SourceNotFound:
            return None
        self._followed.append(reader)
        return reader

    @property
    def used(self) -> tuple[SourceUsed, ...]:
        """What was read of each source that was named, and how much of what was judged it fits."""
        modules = sum(verdict.modules for verdict in self._verdicts)
        fitting = sum(verdict.fitting for verdict in self._verdicts)
        root = next((verdict.root for verdict in self._verdicts if verdict.root), "")
        return tuple(
            SourceUsed(
                package=reader.package,
                version=reader.tree.version,
                path=os.path.join(reader.tree.path, reader.tree.scope),
                files=reader.files,
                unread=reader.unread,
                classes=self._library.count_classes(reader),
                cached=reader.cached,
                parsed_ms=reader.parsed_ms,
                root=root,
                fits=round(fitting / modules, 4) if modules else 0.0,
            )
            for reader in self._readers
        )

    def close(self) -> None:
        """End what parses, and keep what is new for the next run."""
        for reader in (*self._readers, *self._followed):
            reader.close()
