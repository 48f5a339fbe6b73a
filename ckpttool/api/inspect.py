"""What ``inspect`` reads: the headers, and what is asked of the tensors' bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from ckpttool.values.progress import SILENT, Progress

if TYPE_CHECKING:
    from ckpttool.api.opened import Opened
    from ckpttool.elements.bits import Number
    from ckpttool.elements.digests import Digested
    from ckpttool.elements.stats import EntryStats
    from ckpttool.files.checksums import CheckReport
    from ckpttool.inspection.found import Found as Found
    from ckpttool.inspection.found import Verdict
    from ckpttool.values.checkpoint import Entry, Finding, Root

_WEIGHTS_ROLES = ("weights", "ema", "module")  # of groups
_INTEGERS = ("int", "uint")


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
    found = Found(opened.inspection, maker=lambda: opened.card)
    if values is not None:
        from ckpttool.inspection.values import pick_values

        found = found._replace(values=pick_values(opened.inspection.checkpoint, values))
    if name is not None:
        found = _pick_one(found, opened, name, count)
    if stats:
        found = _with_stats(found, opened, asked, progress)
    return _with_check(found, opened, progress) if check else found


def verdict(path: str, found: Found | None, asked: Sequence[str] = (), unreadable: str = "") -> Verdict:
    """What one file of several comes to: it was ``found``, or is ``unreadable``."""
    from ckpttool.inspection.found import Verdict

    return Verdict(path, found, found is not None and found.fails_on(asked), unreadable)


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

    inspection = found.inspection
    entries = [row.entry for row in inspection.rows]
    positions = {id(entry): position for position, entry in enumerate(entries)}
    by_row: list[list[EntryStats]] = [[] for _ in entries]
    findings: list[Finding] = []
    weights = {group.root for group in inspection.groups if group.role in _WEIGHTS_ROLES}
    progress.begin("values", inspection.summary.tensor_nbytes)
    with TensorReader(opened.sources) as reader:
        for item in iter_stats(entries, reader):
            by_row[positions[id(item.entry)]].append(item)
            if item.tied_to is None:
                said = iter_value_findings(item, asked)
                findings += [finding for finding in said if _is_news(finding, item.entry, weights)]
                progress.advance(item.entry.value.nbytes if item.entry.value is not None else 0)
    progress.finish()
    inspection = inspection._replace(findings=(*inspection.findings, *findings))
    return found._replace(inspection=inspection, stats=by_row)


def _is_news(finding: Finding, entry: Entry, weights: Collection[Root]) -> bool:
    """Whether a finding about values is said that nobody asked for.

    A counter is zero before the first step, and what lies beside the weights may well be zero or infinite: an
    optimizer's state, the best value that a callback has seen.
    """
    if finding.severity == "error" or finding.code == "value_nan":
        return True
    if weights and entry.root not in weights:
        return False
    value = entry.value
    is_counter = (
        value is not None and value.shape == () and value.dtype is not None and value.dtype.kind in _INTEGERS
    )
    return not (is_counter and finding.code == "value_zero")


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
