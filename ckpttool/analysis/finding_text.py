"""What a rule for findings looks at, and how its sentence is worded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ckpttool.analysis.aliases import Aliasing
from ckpttool.analysis.inspection import Group, Row, Summary
from ckpttool.analysis.prefixes import Prefix
from ckpttool.checkpoint import Checkpoint, Entry, Finding, Root

MOST_NAMED = 3  # entries spelled out in a sentence
_LONGEST_NAME = 80  # characters of one of them
_MOST_WRITTEN = 10**18


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

    def mentions(self, *texts: str) -> bool:
        """Whether any of ``texts`` stands in any name."""
        return any(text in self.names for text in texts)


def about(code: str, severity: str, entries: Sequence[Entry], fact: str) -> Finding:
    """``3 entries (a, b, c) are <fact>``, with the first entry as its name."""
    distinct = list({id(entry): entry for entry in entries}.values())
    names = some([short_name(entry) for entry in distinct])
    is_are = "is" if len(distinct) == 1 else "are"
    return Finding(
        code,
        severity,
        name_of(distinct[0]),
        f"{count_of(len(distinct), 'entry', 'entries')} ({names}) {is_are} {fact}",
    )


def some(texts: Sequence[str]) -> str:
    """The first few ``texts``, and how many more."""
    more = len(texts) - MOST_NAMED
    return ", ".join(texts[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def count_of(number: int, one: str, many: str = "") -> str:
    """``1 pair``, ``2 pairs``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def nbytes_of(number: int) -> str:
    """A number of bytes in digits, or its magnitude."""
    # An expanded tensor claims any size: Python refuses to write integers of 4,300 digits.
    return f"{number:,} bytes" if number < _MOST_WRITTEN else f"about 2**{number.bit_length()} bytes"


def name_of(entry: Entry) -> str:
    """The name of an entry as text."""
    return str(entry.name)


def short_name(entry: Entry) -> str:
    """The name of an entry as it stands in a sentence."""
    return cut(name_of(entry))


def cut(text: str) -> str:
    """A string of the file, at most ``_LONGEST_NAME`` characters of it."""
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"
