"""What ``inspect`` adds to a header by reading bytes: first values, statistics, checksums; and its status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ckpttool.elements.bits import Number
    from ckpttool.elements.stats import EntryStats
    from ckpttool.files.checksums import CheckReport
    from ckpttool.values.checkpoint import Finding
    from ckpttool.values.inspection import Inspection

FAIL_ON_VALUES = ("nan", "inf", "zero")
FAIL_ON = (*FAIL_ON_VALUES, "findings")


class Found(NamedTuple):
    """An inspection with what was read of the tensors' bytes: statistics by row, first values of one."""

    inspection: Inspection
    stats: Sequence[Sequence[EntryStats]] | None = None
    first_values: Sequence[Number] | None = None
    check: CheckReport | None = None


def pick_one(inspection: Inspection, name: str, count: int) -> Found:
    """The one row that is called ``name``, with its first ``count`` values."""
    from ckpttool.elements.bits import first_values
    from ckpttool.files.tensor_bytes import TensorReader
    from ckpttool.inspection.rows import find_row
    from ckpttool.values.checkpoint import Presence, TensorInfo

    row = find_row(inspection, name)
    value = row.entry.value
    numbers: Sequence[Number] | None = None
    if isinstance(value, TensorInfo) and value.storage is not None and count:
        with TensorReader(inspection.checkpoint.files) as reader:
            numbers = first_values(reader, value, count)
    missing = row.classification.presence is Presence.MISSING
    one = inspection._replace(rows=() if missing else (row,), missing=(row,) if missing else ())
    return Found(one, first_values=numbers)


def with_stats(found: Found, asked: Sequence[str], *, quiet: bool) -> Found:
    """Read every value of the rows once."""
    from ckpttool.elements.stats import iter_stats, iter_value_findings
    from ckpttool.files.tensor_bytes import TensorReader
    from ckpttool.render.progress import Progress

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
    from ckpttool.files.checksums import iter_checks, summarize
    from ckpttool.render.progress import Progress
    from ckpttool.values.checkpoint import Finding

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
