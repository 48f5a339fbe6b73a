"""What a person should know of a difference: one sentence each, that ends in what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ckpttool.comparison.sides import Tie, tie_of
from ckpttool.values.checkpoint import Finding, Root, is_buffer
from ckpttool.values.difference import SAME, DiffEntry, Side, Status
from ckpttool.values.inspection import Row, is_rebuilt
from ckpttool.values.words import first_few, inspect_command

_STATISTICS = ("running_mean", "running_var")


def find_differences(a: Side, b: Side, entries: Sequence[DiffEntry]) -> Iterator[Finding]:
    """All findings of a comparison."""
    yield from _buffer_dtypes(entries)
    yield from _ties(entries, stored=a.has_bytes and b.has_bytes)
    yield from _non_persistent(entries)
    yield from _statistics(entries)
    yield from _nonfinite(b, entries)


def _about(code: str, severity: str, entries: Sequence[DiffEntry], one: str, many: str) -> Iterator[Finding]:
    if entries:
        named = first_few(entries, lambda entry: _cut(str(entry.name)))
        text = one if len(entries) == 1 else f"{len(entries):,} {many} ({named})"
        yield Finding(code, severity, str(entries[0].name) if len(entries) == 1 else "", text)


def _cut(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:40]}…{name[-39:]}"


def _buffer_dtypes(entries: Sequence[DiffEntry]) -> Iterator[Finding]:
    found = [entry for entry in entries if entry.status is Status.DTYPE and is_buffer(entry.kind)]
    why = "statistics and tables lose what they need; cast parameters alone, as --dtype of convert does"
    yield from _about(
        "buffer-dtype",
        "warning",
        found,
        f"a buffer changed its dtype: {why}",
        f"buffers changed their dtype: {why}",
    )


def _ties(entries: Sequence[DiffEntry], *, stored: bool) -> Iterator[Finding]:
    """Names that share bytes on one side and do not on the other; ``stored``: both sides have bytes."""
    lost = list(_untied([(entry.a, entry.b, entry) for entry in entries]))
    gained = list(_untied([(entry.b, entry.a, entry) for entry in entries]))
    if stored:
        yield from _about(
            "lost-tie",
            "warning",
            lost,
            "shares its bytes with another name in A and has bytes of its own in B: the tie is lost, and "
            "training moves the two apart; tie them again in the model",
            "names share bytes with another in A and not in B: the ties are lost; tie them in the model",
        )
        yield from _about(
            "new-tie",
            "info",
            gained,
            "has bytes of its own in A and shares them with another name in B",
            "names have bytes of their own in A and share them in B",
        )
    kept = {tie_of(entry.a) for entry in entries if entry.a is not None and entry.b is not None}
    dropped = [
        entry for entry in entries if entry.b is None and entry.a is not None and tie_of(entry.a) in kept
    ]
    yield from _about(
        "tied-name-dropped",
        "info",
        dropped,
        "is tied to a name that B keeps: a model that ties the two finds everything in B",
        "removed names are tied to names that B keeps: a model that ties them finds everything in B",
    )
    added = [entry for entry in entries if entry.status is Status.ADDED and entry.tied_to is not None]
    yield from _about(
        "tied-name-added",
        "info",
        added,
        f"{_cut(str(added[0].name))} is tied to {_cut(str(added[0].tied_to))}; not stored on side A"
        if added
        else "",
        "names are tied to names that both sides have; not stored on side A",
    )


def _untied(rows: Iterable[tuple[Row | None, Row | None, DiffEntry]]) -> Iterator[DiffEntry]:
    """Entries that share bytes with an earlier one in the first file, and not with that one in the second."""
    groups: dict[Tie, Tie] = {}  # a group of ties in the first file -> that of its first one in the second
    for first, second, entry in rows:
        if first is not None and second is not None:
            there = tie_of(second)
            if groups.setdefault(tie_of(first), there) != there:
                yield entry


def _non_persistent(entries: Sequence[DiffEntry]) -> Iterator[Finding]:
    """Buffers that a library saves in some versions only."""
    for status, code, what in (
        (Status.ADDED, "non-persistent-entered", "came into the file"),
        (Status.REMOVED, "non-persistent-left", "left the file"),
    ):
        found = [
            entry
            for entry in entries
            if entry.status is status and any(map(is_rebuilt, filter(None, (entry.a, entry.b))))
        ]
        said = "versions of the library differ in whether they save it; its constructor makes it"
        many = "versions of the library differ in whether they save them; their constructor makes them"
        yield from _about(
            code, "info", found, f"a buffer that {what}: {said}", f"buffers that {what}: {many}"
        )


def _statistics(entries: Sequence[DiffEntry]) -> Iterator[Finding]:
    """Running statistics that moved in a module whose own weights did not."""
    modules: dict[tuple[Root, str], tuple[list[DiffEntry], list[DiffEntry]]] = {}
    for entry in entries:
        if isinstance(entry.name, str) and entry.a is not None and entry.b is not None:
            path, _, leaf = entry.name.rpartition(".")
            if leaf in _STATISTICS or leaf in ("weight", "bias"):
                modules.setdefault((entry.root, path), ([], []))[leaf in _STATISTICS].append(entry)
    moved: list[DiffEntry] = []
    for weights, statistics in modules.values():
        if weights and all(entry.status in SAME for entry in weights):
            moved += [entry for entry in statistics if entry.status is Status.CHANGED][:1]
    why = "the module ran in train mode while it was frozen; call .eval() on it"
    yield from _about(
        "batch-norm-moved",
        "warning",
        moved,
        f"running statistics moved while the module's own weights did not: {why}",
        f"modules have other running statistics and the same weights: {why}",
    )


def _nonfinite(b: Side, entries: Sequence[DiffEntry]) -> Iterator[Finding]:
    nan = [entry for entry in entries if entry.numbers and entry.numbers.nan_appeared]
    inf = [entry for entry in entries if entry.numbers and entry.numbers.inf_appeared]
    look = f"{inspect_command(b.checkpoint.path, '--stats')} shows where"
    for code, severity, found, what in (
        ("nan-appeared", "error", nan, "NaN"),
        ("inf-appeared", "warning", inf, "infinite"),
    ):
        yield from _about(
            code,
            severity,
            found,
            f"values became {what} that were not in A; {look}",
            f"tensors hold values that became {what}; {look}",
        )
