"""What a rule for findings looks at, and how its sentence is worded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ckpttool.kinds.aliases import Aliasing
from ckpttool.kinds.quantized import Survey
from ckpttool.names.prefixes import Prefix
from ckpttool.values.checkpoint import Checkpoint, Entry, Finding, Root
from ckpttool.values.inspection import Group, Row, Spread, Summary
from ckpttool.values.words import agree, cut, format_path, format_root, plural, some


class Evidence(NamedTuple):
    """What the rules look at: the selected rows and what was counted of them."""

    checkpoint: Checkpoint
    rows: Sequence[Row]
    groups: Sequence[Group]
    weights_root: Root | None
    summary: Summary
    aliasing: Aliasing
    prefixes: Mapping[Root, Sequence[Prefix]]
    names: str  # of all rows, one a line: searched at once before rows are looked at one by one
    quantized: Survey | None = None  # of the weights
    spread: Spread | None = None

    def mentions(self, *texts: str) -> bool:
        """Whether any of ``texts`` stands in any name."""
        return any(text in self.names for text in texts)

    def ending(self, *texts: str) -> list[Entry]:
        """Entries whose name is a text that ends in one of ``texts``."""
        if not self.mentions(*texts):
            return []
        return [
            row.entry
            for row in self.rows
            if isinstance(row.entry.name, str) and row.entry.name.endswith(texts)
        ]


def about(code: str, severity: str, entries: Sequence[Entry], fact: str) -> Iterator[Finding]:
    """``3 entries (a, b, c) are <fact>``, with the first entry as its name; nothing about none."""
    distinct = list({id(entry): entry for entry in entries}.values())
    if distinct:
        who = f"{plural(len(distinct), 'entry')} ({some(distinct, short_name)})"
        text = f"{who} {agree(len(distinct), 'is', 'are')} {fact}"
        yield Finding(code, severity, str(distinct[0].name), text)


def short_name(entry: Entry) -> str:
    """The name of an entry as it stands in a sentence; a number in a list says nothing without its path."""
    return cut(entry.name if isinstance(entry.name, str) else format_path(entry.root, entry.name))


def name_pair(entry: Entry, first: Entry) -> str:
    """``lm_head.weight = embed.weight``, with their paths where they are in different branches."""
    if entry.root == first.root:
        return f"{short_name(entry)} = {short_name(first)}"
    return f"{cut(format_path(*entry[:2]))} = {cut(format_path(*first[:2]))}"


def name_branch(root: Root) -> str:
    """A branch as it stands in a sentence, spelled as ``--root`` takes it."""
    return cut(format_root(root)) or "the top"
