"""What ``inspect`` reads of the tensors themselves: first values, statistics, checksums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ckpttool.values.progress import SILENT, Progress

if TYPE_CHECKING:
    from ckpttool.elements.bits import Number
    from ckpttool.elements.stats import EntryStats
    from ckpttool.files.checksums import CheckReport
    from ckpttool.files.local import Sources
    from ckpttool.values.inspection import Inspection


class Found(NamedTuple):
    """An inspection with what was read of the tensors' bytes: statistics by row, first values of one.

    ``picked``: it is about one row only.
    """

    inspection: Inspection
    sources: Sources
    stats: Sequence[Sequence[EntryStats]] | None = None
    first_values: Sequence[Number] | None = None
    check: CheckReport | None = None
    picked: bool = False


def pick_one(found: Found, name: str, count: int) -> Found:
    """The one row that is called ``name``, with its first ``count`` values."""
    from ckpttool.elements.bits import first_values
    from ckpttool.files.tensor_bytes import TensorReader
    from ckpttool.inspection.rows import find_row
    from ckpttool.values.checkpoint import Presence, views_of

    inspection = found.inspection
    row = find_row(inspection, name)
    value = row.entry.strided
    numbers: Sequence[Number] | None = None
    if value is not None and all(view.storage is not None for view in views_of(value)) and count:
        with TensorReader(found.sources) as reader:
            numbers = first_values(reader, value, count)
    missing = row.classification.presence is Presence.MISSING
    one = inspection._replace(rows=() if missing else (row,), missing=(row,) if missing else ())
    return found._replace(inspection=one, first_values=numbers, picked=True)


def with_stats(found: Found, asked: Sequence[str], progress: Progress = SILENT) -> Found:
    """Read every value of the rows once; what was ``asked`` for (``nan`` …) becomes a finding."""
    from ckpttool.elements.stats import iter_stats, iter_value_findings
    from ckpttool.files.tensor_bytes import TensorReader
    from ckpttool.values.checkpoint import Finding

    inspection = found.inspection
    entries = [row.entry for row in inspection.rows]
    positions = {id(entry): position for position, entry in enumerate(entries)}
    by_row: list[list[EntryStats]] = [[] for _ in entries]
    findings: list[Finding] = []
    progress.begin("values", inspection.summary.tensor_nbytes)
    with TensorReader(found.sources) as reader:
        for item in iter_stats(entries, reader):
            by_row[positions[id(item.entry)]].append(item)
            if item.tied_to is None:
                findings += iter_value_findings(item, asked)
                progress.advance(item.entry.value.nbytes if item.entry.value is not None else 0)
    progress.finish()
    inspection = inspection._replace(findings=(*inspection.findings, *findings))
    return found._replace(inspection=inspection, stats=by_row)


def with_check(found: Found, progress: Progress = SILENT) -> Found:
    """Verify every checksum; what does not match becomes a finding."""
    from ckpttool.files.checksums import iter_checks, summarize
    from ckpttool.values.checkpoint import Finding

    inspection = found.inspection
    progress.begin("checksums", sum(record.nbytes for record in inspection.checkpoint.records))
    results = []
    for result in iter_checks(inspection.checkpoint, found.sources):
        results.append(result)
        progress.advance(result.nbytes)
    progress.finish()
    report = summarize(results)
    findings = []
    for bad in report.bad:
        holds = f" (holds {', '.join(str(entry.name) for entry in bad.entries[:3])})" if bad.entries else ""
        findings.append(Finding("checksum", "error", bad.name, bad.message + holds))
    inspection = inspection._replace(findings=(*inspection.findings, *findings))
    return found._replace(inspection=inspection, check=report)
