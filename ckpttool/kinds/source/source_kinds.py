"""What the source of packages, folders and files says of state_dicts: found, read, matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckpttool.kinds.classify import Verdict
from ckpttool.kinds.source.instances import Instance
from ckpttool.kinds.source.judge import judge_names
from ckpttool.kinds.source.library import SourceClass
from ckpttool.kinds.source.match import Matcher
from ckpttool.kinds.source.members import Interpreter
from ckpttool.kinds.source.sources import Sources
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
        self._sources = Sources((*(chosen or ()), *texts), progress)
        self._matcher: Matcher | None = None
        self._interpreter = Interpreter(self._sources.library)
        self._root_classes: list[SourceClass] = []
        self._verdicts: list[Verdict] = []

    def judge(self, checkpoint: Checkpoint, weights: Mapping[Root, Sequence[int]]) -> dict[Root, Verdict]:
        """What source says of each state_dict, whose entries are at these positions of the checkpoint's."""
        if not self._sources.readers:
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
            sources = self._sources
            for at, reader in enumerate(sources.readers):
                find = sources.find_classes if at < self._chosen else sources.named_classes
                self._root_classes += find(reader)
                if not reader.tree.class_name or len(reader.layout.named) <= _FEW_FILES:
                    sources.read_all(reader)
            if self._root_classes:
                self._reach(self._root_classes)
            self._matcher = Matcher(self._interpreter)
        return self._matcher

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

    @property
    def used(self) -> tuple[SourceUsed, ...]:
        """What was read of each source that was named, and how much of what was judged it fits."""
        modules = sum(verdict.modules for verdict in self._verdicts)
        fitting = sum(verdict.fitting for verdict in self._verdicts)
        root = next((verdict.root for verdict in self._verdicts if verdict.root), "")
        return self._sources.used(round(fitting / modules, 4) if modules else 0.0, root)

    def close(self) -> None:
        """End what parses, and keep what is new for the next run."""
        self._sources.close()
