"""What a person sees of a ``diff``: the answer, what changed most, and what was not looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from ckpttool.names.fold import fold_names
from ckpttool.render.diff_table import (
    COLUMNS,
    GROUP_COLUMNS,
    GUESSED,
    STATUS_STYLES,
    block_depth,
    is_rounded,
    is_shown,
    iter_group_rows,
    make_rows,
)
from ckpttool.render.inspection import iter_findings
from ckpttool.render.kinds import KIND_NOUNS
from ckpttool.render.tables import Cell, Column, Line, Span, block, cell_width, fill, hang, iter_table
from ckpttool.render.views import DiffListing
from ckpttool.values.checkpoint import Key, Kind, Root, is_buffer
from ckpttool.values.difference import Diff, DiffEntry, RenameRule, Status, ValueChange
from ckpttool.values.words import (
    NAME_LIMIT,
    first_few,
    format_count,
    format_name,
    format_path,
    format_root,
    format_value,
    plural,
    quote,
    safe,
)

_MOST_ROWS = 100  # of a table on a screen, unless --all or --top say otherwise
_MOST_VALUES = 12
_MANY = 20  # entries in a table, from which on a summary by block comes first
_MOST_BLOCKS = _MOST_MOVERS = 10
_MOST_PLACES = 3  # named in the first line

_VALUE_COLUMNS = (Column(""), Column("", floor=20), Column("", floor=20))
_COUNTED = (Status.CHANGED, Status.ADDED, Status.REMOVED, Status.RENAMED, Status.DTYPE, Status.SHAPE)


def iter_diff(diff: Diff, width: int, listing: DiffListing) -> Iterator[Line]:
    """Yield the answer, rows sorted by relative change, values, what was left out, findings."""
    title, *facts = _summary_spans(diff)
    for position, line in enumerate(fill(facts, width - len(title.text) - 1, indent=0)):
        yield (title if not position else Span(" " * len(title.text)), Span(" "), *line)
    yield from _labelled("names aligned: ", diff.aligned, width)
    for text in renamed_by_rule(diff):
        yield from hang(Span("  "), text, width)
    listed, others = _listed(diff, listing)
    yield from _iter_tables(diff, listed, listing, width)
    yield from block(_iter_renames(diff, listing, width))
    yield from block(_iter_others(others))
    yield from block(_iter_values(diff.values, width))
    yield from block(_labelled("not compared: ", diff.left_out, width))
    yield from block(iter_findings(diff.findings, width))


def summary_line(diff: Diff) -> str:
    """Return the answer as one line without colour."""
    title, *facts = _summary_spans(diff)
    return f"{title.text} {' · '.join([span.text for span in facts])}".rstrip()


def renamed_by_rule(diff: Diff) -> Iterator[str]:
    """Yield a sentence per rule that names follow which were taken for one: ``47 renamed: _ → .``."""
    for rule in diff.renames:
        old, new = (quote(safe(text)) if not text.strip() else safe(text) for text in (rule.old, rule.new))
        if rule.where in ("prefix", "suffix"):
            old, new = (
                f"{safe(text)}X" if rule.where == "prefix" else f"X{safe(text)}"
                for text in (rule.old, rule.new)
            )
        elif rule.where != "all":
            old = f"the {rule.where} {old}"
        yield f"{format_count(rule.names)} renamed: {old} → {new}"


def _labelled(label: str, texts: Sequence[str], width: int) -> Iterator[Line]:
    spans = [Span(safe(text, NAME_LIMIT), "dim") for text in texts]
    for position, line in enumerate(fill(spans, width - len(label) - 2, indent=0)):
        yield (Span("  "), Span(label if not position else " " * len(label), "dim"), *line)


# ------------------------------------------------------------------------------------------ the answer


def _summary_spans(diff: Diff) -> Iterator[Span]:
    counts, total = diff.counts, len(diff.entries)
    same = "same structure" if diff.structure_only else "identical"
    tolerated = counts[Status.WITHIN_TOLERANCE]
    ignored = [item for item in diff.ignored if item.differences]
    whole = diff.equal and diff.whole and not (ignored or diff.left_out or diff.weights_only)
    if diff.weights_equal and not whole:
        weights = [entry for entry in diff.entries if diff.is_weight(entry)]
        within = any(entry.status is Status.WITHIN_TOLERANCE for entry in weights)
        yield Span(f"weights {'equal within tolerance' if within else 'identical'}:", "title")
        yield Span(f"{plural(len(weights), 'tensor')}{_kind_counts(weights)}")
    elif diff.equal:
        answer = "equal within tolerance" if tolerated else same
        yield Span(f"{answer}:", "title")
        yield Span(f"{plural(total, 'tensor')}{_kind_counts(diff.entries)}")
    else:
        yield Span("different:", "title")
        yield Span(f"{same} {format_count(counts[Status.EQUAL])} of {format_count(total)}")
    if tolerated:
        if diff.equal:
            yield Span(f"identical {format_count(counts[Status.EQUAL])}")
        yield Span(f"within tolerance {format_count(tolerated)}")
    for which, only in (("A", Status.REMOVED), ("B", Status.ADDED)):
        tied = sum(entry.status is only and entry.tied_to is not None for entry in diff.entries)
        if tied:
            yield Span(f"{plural(tied, 'tied name')} stored in {which} only")
    if diff.structure_only:
        yield Span("values not compared")
    for status in _COUNTED if not diff.equal else ():
        those = [entry for entry in diff.entries if entry.status is status and entry.differs]
        if those:
            facts = _branches(those) if diff.weights_equal else _facts(those, total)
            said = f"{_word(status, those)} {format_count(len(those))}{facts}"
            yield Span(said, STATUS_STYLES[status])
        elif status in _COUNTED[:3] and not diff.weights_equal:
            yield Span(f"{status.value} 0", "dim")
    for status, where in (
        (Status.CHANGED, ""), (Status.REMOVED, " only in A"), (Status.ADDED, " only in B")
    ):  # fmt: skip
        count = sum(change.status is status for change in diff.values)
        if count:
            yield Span(f"{plural(count, 'value' if where else 'other value')}{where}")
    for item in ignored:
        yield Span(f"ignored: {plural(item.differences, 'difference')} in {item.what}", "dim")


def _word(status: Status, entries: Sequence[DiffEntry]) -> str:
    if status is Status.SHAPE:
        return "other shape"
    if status is Status.DTYPE and all(map(is_rounded, entries)):
        return "dtype-only"
    return str(status.value)


def _kind_counts(entries: Sequence[DiffEntry]) -> str:
    """`` (300 parameters, 22 buffers)``."""
    parameters = sum(entry.kind is Kind.PARAMETER for entry in entries)
    buffers = sum(is_buffer(entry.kind) for entry in entries)
    others = len(entries) - parameters - buffers
    named = ((parameters, "parameter"), (buffers, "buffer"), (others, "other"))
    parts = [plural(count, noun) for count, noun in named if count]
    return f" ({', '.join(parts)})" if parts else ""


def _facts(entries: Sequence[DiffEntry], total: int) -> str:
    """`` (buffers; layers.{30..31}, lm_head)``: the kind if they are of one, and where they stand."""
    kinds = {Kind.PERSISTENT_BUFFER if is_buffer(entry.kind) else entry.kind for entry in entries}
    buffers = sum(is_buffer(entry.kind) for entry in entries)
    facts = []
    if len(kinds) == 1 and Kind.UNKNOWN not in kinds:
        facts.append(plural(len(entries), KIND_NOUNS[kinds.pop()]).partition(" ")[2])
    elif buffers:
        facts.append(f"{plural(buffers, 'buffer')} among them")
    places = _places(entries) if len(entries) < total else []
    if 0 < len(places) <= _MOST_PLACES:
        facts.append(", ".join(places))
    return f" ({'; '.join(facts)})" if facts else ""


def _branches(entries: Sequence[DiffEntry]) -> str:
    """`` (optimizer)``: the branches that the entries stand in."""
    return f" ({first_few(list(dict.fromkeys([format_root(e.root[:1]) or '(top)' for e in entries])))})"


def _places(entries: Sequence[DiffEntry]) -> list[str]:
    """Modules that the entries stand in, down to the first index, runs of indices joined."""
    modules = []
    for entry in entries:
        parts = str(entry.name).split(".")
        modules.append(".".join([*parts[: block_depth(parts)], "x"]))
    return [safe(folded.pattern.removesuffix(".x"), 60) for folded in fold_names(dict.fromkeys(modules))]


# ------------------------------------------------------------------------------------------- the tables


def _listed(diff: Diff, listing: DiffListing) -> tuple[list[DiffEntry], list[DiffEntry]]:
    """Entries of the table, and those of other branches, which are summed up as ``inspect`` does it."""
    all_of_them = listing.everything or listing.group_depth is not None
    wanted = [entry for entry in diff.entries if all_of_them or is_shown(entry)]
    weights = [entry for entry in wanted if diff.is_weight(entry)]
    if listing.everything or not weights:
        return wanted, []
    return weights, [entry for entry in diff.entries if not diff.is_weight(entry)]


def _iter_tables(
    diff: Diff, entries: Sequence[DiffEntry], listing: DiffListing, width: int
) -> Iterator[Line]:
    """The totals that were asked for; or a row per fold, with totals by block above where these are many."""
    base = _common_root(entries)
    limit = listing.top if listing.top is not None else None if listing.everything else _MOST_ROWS
    grouped = partial(iter_group_rows, base=base, everything=listing.everything)
    if listing.group_depth is not None:
        yield from block(
            _iter_table(GROUP_COLUMNS, list(grouped(entries, listing.group_depth)), limit, width)
        )
        return
    # What has only another name has a list of its own.
    listed = [entry for entry in entries if entry.status is not Status.RENAMED]
    rows, said = make_rows(listed, base=base)
    for text in said:
        yield from hang(Span("  "), text, width)
    # The sizes of rounding errors tell nothing of a block.
    if limit == _MOST_ROWS and len(listed) > _MANY and not all(map(is_rounded, listed)):
        # What is equal is a part of its block, too.
        blocks = list(grouped(_listed(diff, listing._replace(group_depth=0))[0], None))
        if 1 < len(blocks) < len(listed):
            yield from block(_iter_table(GROUP_COLUMNS, blocks, _MOST_BLOCKS, width, "block"))
            limit = _MOST_MOVERS
    yield from block(_iter_table(COLUMNS, rows, limit, width))


def _iter_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    limit: int | None,
    width: int,
    noun: str = "row",
) -> Iterator[Line]:
    shown = rows if limit is None else rows[:limit]
    if shown:
        yield from iter_table(columns, shown, width)
    if len(shown) < len(rows):
        how = "--all lists everything" if noun == "row" else "--group-depth N lists totals"
        yield (Span(f"  … {plural(len(rows) - len(shown), f'more {noun}')}: {how}", "dim"),)


def _iter_renames(diff: Diff, listing: DiffListing, width: int) -> Iterator[Line]:
    """Old and new names that no rule explains, in full; with ``--all`` those that one does, too."""
    texts = []
    for entry in diff.entries:
        names = entry.guessed_names
        if names is None or entry.ignored or listing.group_depth is not None:
            continue
        if listing.everything or not any(_follows(rule, names) for rule in diff.renames):
            old, new = map(format_name, names)
            texts.append((old, f"→ {new} ({GUESSED[entry.basis]})"))
    limit = listing.top if listing.top is not None else None if listing.everything else _MOST_ROWS
    shown = texts if limit is None else texts[:limit]
    start = Span("  renamed  ", STATUS_STYLES[Status.RENAMED])
    for old, new in shown:
        if cell_width(start.text + old + new) < width:
            yield start, Span(f"{old} {new}")
        else:
            yield from hang(start, old, width)
            yield from hang(start._replace(text=" " * len(start.text)), new, width)
    if len(shown) < len(texts):
        yield (Span(f"  … {plural(len(texts) - len(shown), 'more rename')}: --all lists everything", "dim"),)


def _follows(rule: RenameRule, names: tuple[Key, Key]) -> bool:
    return isinstance(names[0], str) and rule.new_name(names[0]) == names[1]


def _common_root(entries: Sequence[DiffEntry]) -> Root:
    roots = {entry.root for entry in entries}
    return roots.pop() if len(roots) == 1 else ()


def _iter_others(entries: Sequence[DiffEntry]) -> Iterator[Line]:
    """A line per branch beside the weights: ``optimizer  381 tensors: changed 381``."""
    branches: dict[Root, Counter[Status]] = {}
    for entry in entries:
        branches.setdefault(entry.root[:1], Counter())[entry.status] += 1
    for root, counts in branches.items():
        facts = [
            f"{status.value.replace('_', ' ')} {format_count(counts[status])}"
            for status in Status
            if counts[status]
        ]
        name = format_root(root) or "(top)"
        said = f"  {plural(sum(counts.values()), 'tensor')}: {', '.join(facts)}"
        how = f"  --root {quote(name)} or --all lists them" if root else "  --all lists them"
        yield Span(f"  {name}", "state"), Span(said), Span(how, "dim")


def _iter_values(values: Sequence[ValueChange], width: int) -> Iterator[Line]:
    cells = []
    for change in values[:_MOST_VALUES]:
        before = "" if change.status is Status.ADDED else format_value(change.a, 40)
        after = "" if change.status is Status.REMOVED else format_value(change.b, 40)
        text = f"{before} → {after}" if before and after else f"{change.status.value}: {before or after}"
        path = format_path(change.root, change.name) or "(top)"
        style = STATUS_STYLES[change.status] if change.status is not Status.CHANGED else ""
        cells.append((Cell(change.section, "dim"), Cell(path), Cell(text, style)))
    yield from iter_table(_VALUE_COLUMNS, cells, width, head=False)
    if len(values) > _MOST_VALUES:
        yield (Span(f"  … {format_count(len(values) - _MOST_VALUES)} more: --json lists all", "dim"),)
