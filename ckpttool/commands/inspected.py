"""What ``inspect`` adds to a header by reading bytes: first values, statistics, checksums; and its status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ckpttool.errors import CkptToolError

if TYPE_CHECKING:
    from ckpttool.analysis.inspection import Inspection, Row
    from ckpttool.check import CheckReport
    from ckpttool.checkpoint import Finding
    from ckpttool.float_bits import Number
    from ckpttool.stats import EntryStats

FAIL_ON_VALUES = ("nan", "inf", "zero")
FAIL_ON = (*FAIL_ON_VALUES, "findings")

_MOST_SUGGESTED = 3
_MOST_COMPARED = 20_000  # names: beyond that, looking for a similar one takes seconds


class Found(NamedTuple):
    """An inspection with what was read of the tensors' bytes: statistics by row, first values of one."""

    inspection: Inspection
    stats: Sequence[Sequence[EntryStats]] | None = None
    first_values: Sequence[Number] | None = None
    check: CheckReport | None = None


def pick_one(inspection: Inspection, name: str, count: int) -> Found:
    """The one row that is called ``name``, with its first ``count`` values."""
    from ckpttool.checkpoint import Presence, TensorInfo
    from ckpttool.tensor_bytes import TensorReader, first_values

    row = _find_row(inspection, name)
    value = row.entry.value
    numbers: Sequence[Number] | None = None
    if isinstance(value, TensorInfo) and value.storage is not None and count:
        with TensorReader(inspection.checkpoint.files) as reader:
            numbers = first_values(reader, value, count)
    missing = row.classification.presence is Presence.MISSING
    one = inspection._replace(rows=() if missing else (row,), missing=(row,) if missing else ())
    return Found(one, first_values=numbers)


def _find_row(inspection: Inspection, name: str) -> Row:
    """The row with this name or path, as it is or as it is shown; the weights' own goes first."""
    from ckpttool.render.units import format_name, format_path

    rows = (*inspection.rows, *inspection.missing)
    found = []
    for row in rows:
        entry = row.entry
        if name == entry.name or name in (
            format_name(entry.name, None),
            format_path(entry.root, entry.name, None),
        ):
            found.append(row)
    if len(found) > 1:
        found = [row for row in found if row.entry.root == inspection.weights_root] or found
    if len(found) == 1:
        return found[0]
    if found:
        paths = [format_path(row.entry.root, row.entry.name) for row in found[:_MOST_SUGGESTED]]
        what = f"{name!r} names {len(found)} tensors"
        raise CkptToolError(what, path=inspection.checkpoint.path, hint=f"say which: {', '.join(paths)}")
    import difflib

    names = [str(row.entry.name) for row in rows]
    close = (
        difflib.get_close_matches(name[:200], names, _MOST_SUGGESTED) if len(names) <= _MOST_COMPARED else []
    )
    hint = f"did you mean {', '.join(close)}" if close else "ckpttool inspect CKPT --flat lists every name"
    raise CkptToolError(f"no tensor is called {name!r}", path=inspection.checkpoint.path, hint=hint)


def with_stats(found: Found, asked: Sequence[str], *, quiet: bool) -> Found:
    """Read every value of the rows once."""
    from ckpttool.render.progress import Progress
    from ckpttool.stats import iter_stats, iter_value_findings
    from ckpttool.tensor_bytes import TensorReader

    inspection = found.inspection
    entries = [row.entry for row in inspection.rows]
    positions = {id(entry): position for position, entry in enumerate(entries)}
    by_row: list[list[EntryStats]] = [[] for _ in entries]
    findings: list[Finding] = []
    total = inspection.summary.tensor_nbytes
    with (
        TensorReader(inspection.checkpoint.files) as reader,
        Progress("values", total, quiet=quiet) as progress,
    ):
        for item in iter_stats(entries, reader):
            by_row[positions[id(item.entry)]].append(item)
            if item.tied_to is None:
                findings += iter_value_findings(item, asked)
                progress.add(item.entry.value.nbytes if item.entry.value is not None else 0)
    inspection = inspection._replace(findings=(*inspection.findings, *findings))
    return found._replace(inspection=inspection, stats=by_row)


def with_check(found: Found, *, quiet: bool) -> Found:
    """Verify every checksum; what does not match becomes a finding."""
    from ckpttool.check import iter_checks, summarize
    from ckpttool.checkpoint import Finding
    from ckpttool.render.progress import Progress

    inspection = found.inspection
    records = inspection.checkpoint.records
    results = []
    with Progress("checksums", sum(record.nbytes for record in records), quiet=quiet) as progress:
        for result in iter_checks(inspection.checkpoint):
            results.append(result)
            progress.add(result.nbytes)
    report = summarize(results)
    findings = []
    for bad in report.bad:
        holds = f" (holds {', '.join(str(entry.name) for entry in bad.entries[:3])})" if bad.entries else ""
        findings.append(Finding("checksum", "error", bad.name, bad.message + holds))
    inspection = inspection._replace(findings=(*inspection.findings, *findings))
    return found._replace(inspection=inspection, check=report)


def fails(found: Found, asked: Sequence[str]) -> bool:
    """Whether something was found that the user asked to fail on."""
    if found.check is not None and not found.check.ok:
        return True
    codes = {f"value_{what}" for what in asked if what in FAIL_ON_VALUES}
    for finding in found.inspection.findings:
        if finding.code in codes and finding.severity == "error":
            return True
        if finding.severity != "info" and "findings" in asked:
            return True
    return False
