"""What ``inspect`` reads: the headers, and what is asked of the tensors' bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckpttool.values.progress import SILENT, Progress

if TYPE_CHECKING:
    from ckpttool.api.opened import Opened
    from ckpttool.elements.bits import Number
    from ckpttool.elements.digests import Digested
    from ckpttool.elements.stats import EntryStats
    from ckpttool.files.checksums import CheckReport
    from ckpttool.inspection.found import Found


def inspect(
    opened: Opened,
    *,
    name: str | None = None,
    count: int = 0,
    stats: bool = False,
    asked: Sequence[str] = (),
    check: bool = False,
    values: str | None = None,
    progress: Progress = SILENT,
) -> Found:
    """Everything that the headers tell; of the one row called ``name``, with its first ``count`` values.

    With ``stats`` every value is read once, and what is ``asked`` for (``nan`` …) becomes a finding; with
    ``check`` every checksum is verified, and what does not match becomes one. ``values`` is a glob of plain
    values to list.

    Raises:
        CkptToolError: there is no such row; a file changed since its header was read, or is damaged.
    """
    from ckpttool.inspection.found import Found

    opened.progress = progress
    found = Found(opened.inspection)
    if values is not None:
        from ckpttool.inspection.values import pick_values

        found = found._replace(values=pick_values(opened.inspection.checkpoint, values))
    if name is not None:
        found = _pick_one(found, opened, name, count)
    if stats:
        found = _with_stats(found, opened, asked, progress)
    return _with_check(found, opened, progress) if check else found


def _pick_one(found: Found, opened: Opened, name: str, count: int) -> Found:
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
        with TensorReader(opened.sources) as reader:
            numbers = first_values(reader, value, count)
    missing = row.classification.presence is Presence.MISSING
    one = inspection._replace(rows=() if missing else (row,), missing=(row,) if missing else ())
    return found._replace(inspection=one, first_values=numbers, picked=True)


def _with_stats(found: Found, opened: Opened, asked: Sequence[str], progress: Progress) -> Found:
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
    with TensorReader(opened.sources) as reader:
        for item in iter_stats(entries, reader):
            by_row[positions[id(item.entry)]].append(item)
            if item.tied_to is None:
                findings += iter_value_findings(item, asked)
                progress.advance(item.entry.value.nbytes if item.entry.value is not None else 0)
    progress.finish()
    inspection = inspection._replace(findings=(*inspection.findings, *findings))
    return found._replace(inspection=inspection, stats=by_row)


def _with_check(found: Found, opened: Opened, progress: Progress) -> Found:
    """What ``check`` finds; what does not match becomes a finding."""
    from ckpttool.values.checkpoint import Finding

    inspection = found.inspection
    report = check(opened, progress)
    findings = []
    for bad in report.bad:
        holds = f" (holds {', '.join(str(entry.name) for entry in bad.entries[:3])})" if bad.entries else ""
        findings.append(Finding("checksum", "error", bad.name, bad.message + holds))
    inspection = inspection._replace(findings=(*inspection.findings, *findings))
    return found._replace(inspection=inspection, check=report)


def check(opened: Opened, progress: Progress = SILENT) -> CheckReport:
    """Verify every checksum.

    Raises:
        CkptToolError: a file changed since its header was read, or is damaged.
    """
    from ckpttool.files.checksums import iter_checks, summarize

    checkpoint = opened.inspection.checkpoint
    progress.begin("checksums", sum(record.nbytes for record in checkpoint.records))
    results = []
    for result in iter_checks(checkpoint, opened.sources):
        results.append(result)
        progress.advance(result.nbytes)
    progress.finish()
    return summarize(results)


def digest(opened: Opened, progress: Progress = SILENT) -> Digested:
    """Digests of the weights' content, or of the branch or entries that were asked for.

    Raises:
        CkptToolError: a file changed since its header was read, or is damaged.
    """
    from ckpttool.comparison.contents import digest_weights
    from ckpttool.elements.digests import Digested

    inspection = opened.inspection
    progress.begin("digest", inspection.summary.tensor_nbytes)
    digests = digest_weights(inspection, opened.sources, progress.advance)
    progress.finish()
    return Digested(inspection.checkpoint.path, digests)


def iter_textconv(opened: Opened) -> Iterator[str]:
    """Yield the lines that git compares instead of the file.

    Raises:
        CkptToolError: a file changed since its header was read, or is damaged.
    """
    from ckpttool.comparison.contents import digest_rows
    from ckpttool.comparison.sides import Placed
    from ckpttool.render.textconv import iter_textconv

    side = opened.side
    items = [Placed(row.entry.root, row.entry.name, row) for row in side.rows]
    yield from iter_textconv(side, digest_rows(items, opened.sources))
