"""The one row of an inspection that a person means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckpttool.values.errors import CkptToolError, NoSuchEntry
from ckpttool.values.words import format_name, format_path, inspect_command, plural

if TYPE_CHECKING:
    from ckpttool.values.inspection import Inspection, Row

_MOST_SUGGESTED = 3

_LONGEST_COMPARED = 200  # characters of what was typed
_MOST_COMPARED = 20_000  # names: beyond that, looking for a similar one takes seconds


def find_row(inspection: Inspection, name: str) -> Row:
    """The row with this name or path, as it is or as it is shown; the weights' own goes first.

    Raises:
        NoSuchEntry: there is none.
        CkptToolError: there are several.
    """
    found = matching_rows(inspection, name)
    if len(found) == 1:
        return found[0]
    path = inspection.checkpoint.path
    if found:
        paths = [format_path(row.entry.root, row.entry.name) for row in found[:_MOST_SUGGESTED]]
        what = f"{name!r} names {plural(len(found), 'tensor')}"
        raise CkptToolError(what, path=path, hint=f"say which: {', '.join(paths)}")
    close = similar(name, [str(row.entry.name) for row in (*inspection.rows, *inspection.missing)])
    hint = (
        f"did you mean {', '.join(close)}" if close else f"{inspect_command(path, '--flat')} lists every name"
    )
    raise NoSuchEntry(f"no tensor is called {name!r}", path=path, hint=hint)


def matching_rows(inspection: Inspection, name: str) -> list[Row]:
    """The rows with this name or path; of several those of the weights, if it is any of these."""
    found = []
    for row in (*inspection.rows, *inspection.missing):
        entry = row.entry
        if name == entry.name or name in (
            format_name(entry.name, None),
            format_path(entry.root, entry.name, None),
        ):
            found.append(row)
    if len(found) > 1:
        return [row for row in found if row.entry.root == inspection.weights_root] or found
    return found


def similar(name: str, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that are spelled nearly so, the nearest first."""
    import difflib

    if len(names) > _MOST_COMPARED:
        return []
    return difflib.get_close_matches(name[:_LONGEST_COMPARED], dict.fromkeys(names), _MOST_SUGGESTED)
