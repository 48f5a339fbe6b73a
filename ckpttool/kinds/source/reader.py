"""Reads the source of one tree: file by file as it is asked for, or all; from the cache where it can."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from unicodedata import normalize

from ckpttool.kinds.source.cache import Cache, Stamp, Summary
from ckpttool.kinds.source.files import MOST_FILE_NBYTES, MOST_FILES, MOST_NBYTES, read_file
from ckpttool.kinds.source.layout import Layout
from ckpttool.kinds.source.packages import Tree
from ckpttool.kinds.source.parsing import SCANNER, Parser, Request

_FILES_AT_ONCE = 64
_CLASS = re.compile(rb"class[ \t]+([\w\x80-\xff]+)")


class Reader:
    """What the files of a tree say, within the limits of ``files``; ``cached`` were read by a run before."""

    def __init__(self, tree: Tree, scanner: str = SCANNER) -> None:
        self.tree = tree
        self.layout = Layout(tree)
        self.cached = 0
        self._ms = 0.0
        self._admitted: set[str] = set()  # files within the limits
        self._nbytes = 0  # in them
        self._was_read: dict[str, bool] = {}  # by file
        self._cache = Cache(tree, scanner)
        self._parser = Parser(scanner)

    @property
    def package(self) -> str:
        """The top-level name as it is imported, "" for a folder that is no package."""
        return self.tree.package

    @property
    def files(self) -> int:
        """How many files were read."""
        return sum(self._was_read.values())

    @property
    def unread(self) -> int:
        """How many could not be: their syntax, their size, or that there were too many before them."""
        return len(self._was_read) - self.files

    @property
    def parsed_ms(self) -> int:
        """CPU time that parsing took, in ms."""
        return round(self._ms)

    def locate(self, module: str) -> str | None:
        """The file of a module, relative to ``tree.path``; None where the tree has none of the name."""
        return self.layout.locate(module)

    def read(self, module: str) -> Summary | None:
        """The summary of a module, None where the tree has none of the name, or it cannot be read.

        Raises:
            CkptToolError: Python cannot be started.
        """
        file = self.locate(module)
        return self._read([file])[file] if file else None

    def read_all(self) -> Iterator[tuple[str, Summary]]:
        """Every module of what the user named that can be read, with its summary.

        Raises:
            CkptToolError: Python cannot be started.
        """
        named = iter(self.layout.named.items())
        while some := list(islice(named, _FILES_AT_ONCE)):
            found = self._read([file for _, file in some])
            yield from ((module, summary) for module, file in some if (summary := found[file]) is not None)

    def find_class(self, name: str) -> list[str]:
        """The modules of what the user named in which a class seems to have the name, by its last part.

        Files that were not parsed yet are searched for the words: one may be a comment.
        """
        last = name.rpartition(".")[2]
        found, nbytes = [], 0
        for module, file in islice(self.layout.named.items(), MOST_FILES):
            status = self.layout.status(file)
            if status is None or status.st_size > MOST_FILE_NBYTES:
                continue
            nbytes += status.st_size
            if nbytes > MOST_NBYTES:
                break
            if last in self._classes(file, status):
                found.append(module)
        return found

    def _classes(self, file: str, status: os.stat_result) -> list[str]:
        classes = self._cache.classes(file, Stamp.of(status))
        if classes is None:
            try:
                data, status = read_file(self.layout.place(file))
            except OSError:
                return []
            words = {word.decode("utf-8", "replace") for word in _CLASS.findall(data)}
            classes = sorted(normalize("NFKC", word) for word in words)
            self._cache.put(file, Stamp.of(status), classes)
        return classes

    def _read(self, files: Sequence[str]) -> dict[str, Summary | None]:
        found: dict[str, Summary | None] = dict.fromkeys(files)
        asked = []
        for file in files:
            if (status := self._admit(file)) is None:
                continue
            summary = self._cache.summary(file, Stamp.of(status))
            if summary is None:
                asked.append(file)
                continue
            is_first = file not in self._was_read
            found[file] = self._count(file, summary)
            self.cached += is_first and self._was_read[file]
        answers = self._parser.parse([self._request(file) for file in asked])
        for file, answer in zip(asked, answers, strict=True):
            self._ms += answer.ms
            text = answer.summary or json.dumps({"error": answer.error})
            summary = json.loads(text)
            if answer.is_final:
                classes = [name.rpartition(".")[2] for name in summary.get("classes", ())]
                self._cache.put(file, Stamp(answer.size, answer.mtime_ns), classes, text)
            found[file] = self._count(file, summary)
        return found

    def _request(self, file: str) -> Request:
        is_package = file.rpartition("/")[2] == "__init__.py"
        return Request(self.layout.place(file), self.layout.name(file), is_package)

    def _admit(self, file: str) -> os.stat_result | None:
        """The status of a file that may be read, None if it may not."""
        status = self.layout.status(file)
        if status and file not in self._admitted:
            size = status.st_size
            room = len(self._admitted) < MOST_FILES and self._nbytes + size <= MOST_NBYTES
            if size <= MOST_FILE_NBYTES and room:
                self._admitted.add(file)
                self._nbytes += size
        if status and file in self._admitted and self._was_read.get(file, True):
            return status
        self._was_read[file] = False
        return None

    def _count(self, file: str, summary: Summary) -> Summary | None:
        self._was_read[file] = "error" not in summary
        return summary if self._was_read[file] else None

    def close(self) -> None:
        """End the child, and keep what is new for the next run."""
        self._parser.close()
        self._cache.write()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
