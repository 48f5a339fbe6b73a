"""The view of ``inspect``: lines for a person, one entry per line for a pipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckpttool.findings.next_commands import next_commands
from ckpttool.render.fields import entry_fields, format_sizes
from ckpttool.render.inspection_card import iter_shares
from ckpttool.render.inspection_head import iter_around, iter_head
from ckpttool.render.inspection_table import iter_missing, iter_rows, missing_facts
from ckpttool.render.kinds import iter_legend
from ckpttool.render.tables import Line, Span, block, fill, hang, wrap, wrap_command
from ckpttool.render.views import InspectListing
from ckpttool.values.card import Card
from ckpttool.values.checkpoint import CompositeTensor, Finding, Root
from ckpttool.values.inspection import Inspection
from ckpttool.values.words import (
    NAME_LIMIT,
    format_count,
    format_int,
    format_name,
    format_path,
    format_root,
    quote,
    safe,
)

if TYPE_CHECKING:
    from ckpttool.elements.stats import EntryStats

_MAX_FINDINGS = 20  # sentences on a screen; the rest is counted
_AROUND = 6  # lines that are no rows: around the table, above and below its rows, and what is typed next
_LEAST_ROWS = 12  # a table of so many is shown, however low the terminal
_MAX_MESSAGE = 2000  # characters of a sentence: it may quote what a file says


def iter_inspection(
    inspection: Inspection,
    width: int,
    listing: InspectListing,
    facts: Sequence[str] = (),
    stats: Sequence[Sequence[EntryStats]] | None = None,
    card: Card | None = None,
) -> Iterator[Line]:
    """Yield what a person sees, findings last; ``facts`` end the first line, ``stats`` go with rows.

    Without a ``card`` it is made from the headers alone.
    """
    if card is None:
        from ckpttool.inspection.card import make_card

        card = make_card(inspection)
    above = [
        *iter_head(inspection, width, facts, card),
        *block(iter_around(inspection, width)),
    ]
    legend = (*iter_legend(inspection.summary.bases), *missing_facts(inspection))
    below = [
        *block(fill(legend, width)),
        *iter_missing(inspection, width, in_table=stats is None),
        *block(iter_findings(inspection.findings, width)),
        *block(_iter_next(inspection, width)),
    ]
    most = listing.rows
    if most is None and listing.height is not None and not listing.flat:
        most = max(listing.height - len(above) - len(below) - _AROUND, _LEAST_ROWS)
    yield from above
    yield from block(iter_rows(inspection, listing, width, stats, most, list(iter_shares(card, width))))
    yield from below


def _iter_next(inspection: Inspection, width: int) -> Iterator[Line]:
    """Yield ``→ command`` and below it what for; a long command goes on as one does in a shell."""
    for item in next_commands(inspection):
        start = Span("  → ", "good")
        for line in wrap_command(list(map(quote, item.words)), width - 6):
            yield (start, Span(line))
            start = Span("      ")
        for text in wrap(safe(item.why), width - 4):
            yield (Span(f"    {text}", "dim"),)


def iter_next_lines(inspection: Inspection) -> Iterator[str]:
    """Yield ``next: command`` per command where there are findings, for stderr."""
    for item in next_commands(inspection) if inspection.findings else ():
        yield f"next: {safe(item.command)}\n"


def iter_findings(findings: Sequence[Finding], width: int) -> Iterator[Line]:
    """Yield ``! sentence`` per finding, the gravest first, wrapped under itself."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for finding in gravest_first(findings):
        alike.setdefault((finding.severity, finding.code, finding.message), []).append(finding.name)
    shown = list(alike.items())[:_MAX_FINDINGS]
    for (severity, _, message), names in shown:
        mark = "·" if severity == "info" else "!"
        yield from hang(Span(f"  {mark} ", severity), say_finding(names, message), width)
    if len(alike) > len(shown):
        yield (Span(f"    … and {format_count(len(alike) - len(shown))} more: --json lists all", "dim"),)


def say_finding(names: Sequence[str], message: str) -> str:
    """``name: message``, the name once; of many names the first."""
    message = safe(message, _MAX_MESSAGE)
    name = safe(names[0], NAME_LIMIT)
    more = f" and {format_count(len(names) - 1)} more" if len(names) > 1 else ""
    return f"{name}{more}: {message}" if name and (more or not _says(message, name)) else message


def _says(message: str, name: str) -> bool:
    """Whether a sentence has a name as a name: that of an entry may be ``a``, or any word there is."""
    before, after = r"(?:^|[(\"'`=:]\s?|, |of |and )", r"(?=$|[)\"'`,:;]| [(=]| and | is | are | has | have )"
    return name in message and re.search(before + re.escape(name) + after, message) is not None


def iter_finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield ``severity: sentence [code]`` per finding, for stderr."""
    for finding in gravest_first(findings):
        sentence = say_finding([finding.name], finding.message)
        yield f"{safe(finding.severity)}: {sentence} [{safe(finding.code)}]\n"


def gravest_first(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings as a screen has them: errors, warnings, notes."""
    ranks = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda finding: ranks.get(finding.severity, 0))


PIPE_COLUMNS = tuple("kind presence root name dtype shape nbytes basis location tied_to".split())
"""Fields of a line, in this order, with a tab between; ``-`` where there is none. Only ever added to."""


def iter_pipe(inspection: Inspection, extra: Sequence[Sequence[str]] = ()) -> Iterator[str]:
    """Yield a line per entry; ``extra`` are further fields of the row at the same position."""
    roots: dict[Root, str] = {}
    for position, row in enumerate((*inspection.rows, *inspection.missing)):
        known = entry_fields(row)
        root = roots.get(known.root)
        if root is None:
            root = roots[known.root] = format_root(known.root) or "-"
        is_composite = isinstance(row.entry.value, CompositeTensor)  # its parts may lie anywhere
        fields = [
            known.kind.value,
            known.presence.value,
            root,
            format_name(known.name, None),
            known.dtype or "-",
            format_sizes(known.shape),
            "-" if known.nbytes is None else format_int(known.nbytes),
            known.basis.value,
            "-" if is_composite else safe(known.location or "-"),
            "-" if known.tied_to is None else format_path(*known.tied_to, None),
        ]
        if extra:
            fields += extra[position] if position < len(extra) else ["-"] * len(extra[0])
        yield "\t".join(fields) + "\n"
