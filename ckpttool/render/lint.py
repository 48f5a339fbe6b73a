"""The views of ``lint``: findings and the table of proofs for a person, for a pipe, and as JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ckpttool.names.fold import FoldedRow, fold_names
from ckpttool.render.kinds import KIND_NAMES, KIND_NOUNS, KIND_STYLES
from ckpttool.render.tables import Cell, Column, Line, Span, block, fill, hang, iter_table, times
from ckpttool.render.views import View
from ckpttool.values.lint import LintEntry, LintFinding, LintReport, Proof
from ckpttool.values.words import NAME_LIMIT, format_count, format_shape, plural, safe

LINT_SCHEMA = "ckpttool/lint/1"

_SEVERITIES = ("error", "warning", "info")
_MAX_MESSAGE = 2000  # characters of a sentence: it may quote what the user's code raised
_MAX_NAMES = 3  # of one finding, folded, before the rest is counted
_INDENT = 10  # of a sentence below its code
_DIGITS = re.compile(r"\d+")

_NOUNS = {**KIND_NOUNS, "persistent_buffer": "persistent buffer", "attribute": "unregistered tensor"}
_STYLES = {**KIND_STYLES, "attribute": "error", "computed": "dim"}


# -- for a person -----------------------------------------------------------------------------------


def iter_report(report: LintReport, width: int) -> Iterator[Line]:
    """Yield the verdict, the table of proofs if there are any, findings, and what was not checked."""
    yield from _iter_head(report, width)
    if any(entry.proof is not None for entry in report.entries):
        yield from block(_iter_proofs(report, width))
    for group in _alike(report.findings):
        yield from block(_iter_finding(group, width))
    notes = (safe(note, _MAX_MESSAGE) for note in report.notes)
    yield from block(line for note in notes for line in hang(Span("  · ", "info"), note, width, under=""))


def _iter_head(report: LintReport, width: int) -> Iterator[Line]:
    counts = Counter(finding.severity for finding in report.findings)
    found = [
        Span(plural(counts[severity], "note" if severity == "info" else severity), severity)
        for severity in _SEVERITIES
        if counts[severity]
    ]
    if report.ok:
        found.insert(0, Span("no trap found", "good"))
    kinds = Counter(entry.kind for entry in report.entries)
    tensors = ", ".join(plural(n, _NOUNS.get(kind, f"{kind} tensor")) for kind, n in kinds.items())
    facts = [Span(safe(report.class_name, NAME_LIMIT), "title"), Span(tensors or "no tensors")]
    if report.sources:
        facts = [Span(safe(source.title, NAME_LIMIT), "title") for source in report.sources]
        files = sum(source.files for source in report.sources)
        unread = sum(source.unread for source in report.sources)
        read = f"{plural(files, 'file')}, {format_count(unread)} unread" if unread else plural(files, "file")
        facts.append(Span(f"{plural(report.modules, 'module class', 'module classes')} in {read}"))
    yield from fill([*found, *facts], width, indent=0)


def _iter_finding(group: Sequence[LintFinding], width: int) -> Iterator[Line]:
    first = group[0]
    blank = Span(" " * _INDENT)
    if first.file is not None:
        yield from _iter_places(group, width)
    else:
        yield _names(group)
        yield from hang(blank, safe(first.message, _MAX_MESSAGE), width)
    yield from hang(blank, f"fix: {safe(first.fix, _MAX_MESSAGE)}", width, "dim")


def _names(group: Sequence[LintFinding]) -> Line:
    """The code, and to which names it applies."""
    first = group[0]
    names = [folded.pattern for folded in fold_names(finding.name for finding in group)]
    shown = ", ".join(safe(name, NAME_LIMIT) for name in names[:_MAX_NAMES] if name) or "the model"
    more = f" and {format_count(len(names) - _MAX_NAMES)} more" if len(names) > _MAX_NAMES else ""
    start = f"{first.code} {first.severity}"
    return (Span(start, first.severity), Span("  "), Span(f"{shown}{more}"), Span(times(len(group)), "count"))


def _iter_places(group: Sequence[LintFinding], width: int) -> Iterator[Line]:
    """The code with its sentence, and each line of source that it applies to."""
    first = group[0]
    yield (Span(f"{first.code} {first.severity}", first.severity), Span(times(len(group)), "count"))
    yield from hang(Span(" " * _INDENT), safe(first.message, _MAX_MESSAGE), width)
    places = [f"{safe(str(finding.file))}:{finding.line}" for finding in group]
    column = max(map(len, places))
    for finding, place in zip(group, places, strict=True):
        name = safe(finding.name, NAME_LIMIT)
        if _INDENT + column + 2 + len(name) <= width:
            yield (Span(f"{' ' * _INDENT}{place:{column}}  "), Span(name, "title"))
        else:
            yield (Span(f"{' ' * _INDENT}{place}"),)
            yield (Span(f"{' ' * (_INDENT + 2)}{name}", "title"),)


def _alike(findings: Sequence[LintFinding]) -> list[list[LintFinding]]:
    """Findings that differ only in their names and in numbers, the gravest first."""
    groups: dict[tuple[str, str, str], list[LintFinding]] = {}
    for finding in sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity)):
        key = (finding.code, _DIGITS.sub("#", finding.message), _DIGITS.sub("#", finding.fix))
        groups.setdefault(key, []).append(finding)
    return list(groups.values())


def _iter_proofs(report: LintReport, width: int) -> Iterator[Line]:
    columns = (
        Column("kind"),
        Column("name", floor=16),
        Column("dtype", optional=2),
        Column("shape", right=True, optional=2),
        *map(Column, ("grad", "parameters()", "state_dict()", "forward", "step")),
        Column(f"to {safe(report.device)}"),
        Column("restored"),
    )
    alike: dict[tuple[object, ...], dict[str, int]] = {}
    for position, entry in enumerate(report.entries):
        alike.setdefault(entry[1:], {})[entry.name] = position
    rows: list[tuple[int, list[Cell]]] = []
    for positions in alike.values():
        for folded in fold_names(positions):
            position = positions[str(folded.rows[0].entry.name)]
            rows.append((position, _proof_row(report.entries[position], folded)))
    rows.sort(key=lambda row: row[0])
    yield from iter_table(columns, [cells for _, cells in rows], width)
    step = f"the step changed it (SGD, {safe(report.loss)})" if report.loss else "no step was made"
    legend = [
        "grad: requires_grad",
        "parameters(), state_dict(): it is in there",
        "forward: a forward changed it",
        f"step: {step}",
        f"to {safe(report.device)}: it moved",
        "restored: other bytes came back by load_state_dict",
    ]
    yield from fill([Span(text, "dim") for text in legend], width)


def _proof_row(entry: LintEntry, folded: FoldedRow) -> list[Cell]:
    style = _STYLES.get(entry.kind, "unknown")
    tail = f" ×{format_count(folded.count)}" if folded.count > 1 else ""
    answers = (None,) * len(Proof._fields) if entry.proof is None else entry.proof
    return [
        Cell(KIND_NAMES.get(entry.kind, entry.kind), style),
        Cell(safe(folded.pattern, NAME_LIMIT), tail=tail),
        Cell(entry.dtype or ""),
        Cell("" if entry.dtype is None else format_shape(entry.shape)),
        *(_ANSWERS[answer] for answer in answers),
    ]


_ANSWERS = {True: Cell("yes", "good"), False: Cell("no"), None: Cell("—", "dim")}


# -- for a pipe -------------------------------------------------------------------------------------


def iter_findings_pipe(report: LintReport) -> Iterator[str]:
    """Yield ``code, severity, name, message, fix`` per finding, of source ``file:line`` too, with tabs."""
    for finding in report.findings:
        fields = [finding.code, finding.severity, finding.name, finding.message, finding.fix]
        fields += [f"{finding.file}:{finding.line}"] if finding.file is not None else []
        yield "\t".join([safe(field) or "-" for field in fields]) + "\n"


_WORDS = {True: "yes", False: "no", None: "-"}


def iter_proofs_pipe(report: LintReport) -> Iterator[str]:
    """Yield ``kind, name, dtype, shape`` and the seven columns of the proof per entry, with tabs between."""
    for entry in report.entries:
        shape = "-" if entry.shape is None else "x".join(map(str, entry.shape)) or "()"
        answers = [_WORDS[answer] for answer in entry.proof or ()]
        fields = [entry.kind, safe(entry.name), entry.dtype or "-", shape, *answers]
        yield "\t".join(fields) + "\n"


def iter_finding_lines(report: LintReport) -> Iterator[str]:
    """Yield a sentence per finding and note, for stderr."""
    for finding in report.findings:
        name = f"{safe(finding.name)}: " if finding.name else ""
        yield f"{finding.severity}: {name}{safe(finding.message)} [{safe(finding.code)}]\n"
    for note in report.notes:
        yield f"info: {safe(note)}\n"


# -- JSON -------------------------------------------------------------------------------------------


def lint_document(report: LintReport) -> dict[str, object]:
    """Return the document of ``lint``."""
    from ckpttool.render.json import encode

    return {
        "schema": LINT_SCHEMA,
        "ok": report.ok,
        "model": report.model or None,
        "class": report.class_name or None,
        "device": report.device or None,
        "loss": report.loss or None,
        "findings": encode(report.findings),
        "entries": [fields | (fields.pop("proof") or {}) for fields in encode(report.entries)],
        "notes": list(report.notes),
        "sources": encode(report.sources),
        "modules": report.modules,
    }


def _pipe(report: LintReport, prove: bool | None) -> tuple[Iterable[str], Iterable[str]]:
    if prove:
        return iter_proofs_pipe(report), iter_finding_lines(report)
    return iter_findings_pipe(report), ()


LINT_REPORT = View(lambda report, width, prove: iter_report(report, width), _pipe, lint_document)
