"""The source that a user named, and the packages that it leads to: opened, read and closed together."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ckpttool.kinds.source.library import Library, SourceClass
from ckpttool.kinds.source.packages import SourceNotFound, find_tree
from ckpttool.kinds.source.parsing import SCANNER
from ckpttool.kinds.source.reader import Reader
from ckpttool.values.progress import Progress
from ckpttool.values.source import SourceUsed


class Sources:
    """A ``library`` of what was named. What was read stays in memory until it is closed."""

    def __init__(self, texts: Sequence[str], progress: Progress, scanner: str = SCANNER) -> None:
        """``texts`` are as in ``find_tree``; ``scanner`` is what makes the summaries.

        Raises:
            SourceNotFound: there is no such package, folder or file.
        """
        self._progress = progress
        self._scanner = scanner
        self.readers = [Reader(find_tree(text), scanner) for text in texts]
        self._followed: list[Reader] = []
        self.library = Library(self.readers, self._follow)

    def _follow(self, top: str) -> Reader | None:
        """Another package that a class derives from, or is built of; None if it is not installed."""
        try:
            reader = Reader(find_tree(top, versioned=False), self._scanner)
        except SourceNotFound:
            return None
        self._followed.append(reader)
        return reader

    def read_all(self, reader: Reader) -> None:
        """Read every file of what was named."""
        named = reader.layout.named
        statuses = {module: reader.layout.status(file) for module, file in named.items()}
        sizes = {module: status.st_size for module, status in statuses.items() if status is not None}
        self._progress.begin("source", sum(sizes.values()))
        for module, summary in reader.read_all():
            self.library.summaries.setdefault(module, summary)
            self._progress.advance(sizes.get(module, 0))
        self._progress.finish()

    def named_classes(self, reader: Reader) -> list[SourceClass]:
        """The classes that were named with this source, one or none; several files may have one of the name.

        Raises:
            SourceNotFound: there is none.
        """
        classes = self.find_classes(reader)
        if reader.tree.class_name and not classes:
            where = reader.package or os.path.join(reader.tree.path, reader.tree.scope)
            hint = "name a class as it is defined"
            raise SourceNotFound(f"no class {reader.tree.class_name} is in the source of {where}", hint=hint)
        return classes

    def find_classes(self, reader: Reader) -> list[SourceClass]:
        """As ``named_classes``, but there may be none: a checkpoint that names a class may lie."""
        name = reader.tree.class_name
        if not name:
            return []
        found = self.library.resolve(name) if name.partition(".")[0] == reader.package else None
        if isinstance(found, SourceClass):
            return [found]
        classes = []
        for module in reader.find_class(name):
            summary = self.library.read(module)
            if summary is not None and name in summary["classes"]:
                classes.append(self.library.class_of(module, name, summary))
        if not classes and reader.package:
            found = self.library.resolve(f"{reader.package}.{name}")
        return [found] if isinstance(found, SourceClass) else classes

    def used(self, fits: float = 0.0, root: str = "") -> tuple[SourceUsed, ...]:
        """What was read of each source that was named; ``root`` and ``fits`` as what was judged has them."""
        return tuple(
            SourceUsed(
                package=reader.package,
                version=reader.tree.version,
                path=os.path.join(reader.tree.path, reader.tree.scope),
                files=reader.files,
                unread=reader.unread,
                classes=self.library.count_classes(reader),
                cached=reader.cached,
                parsed_ms=reader.parsed_ms,
                root=root,
                fits=fits,
            )
            for reader in self.readers
        )

    def close(self) -> None:
        """End what parses, and keep what is new for the next run."""
        for reader in (*self.readers, *self._followed):
            reader.close()

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
