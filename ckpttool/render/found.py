"""The views of ``inspect``: the whole, one tensor, what would be imported, digests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ckpttool.render.views import InspectListing, View

if TYPE_CHECKING:
    from ckpttool.elements.digests import Digested
    from ckpttool.files.checksums import CheckReport
    from ckpttool.inspection.found import Found
    from ckpttool.render.tables import Line


def _lines(found: Found, width: int, options: InspectListing | None) -> Iterable[Line]:
    from ckpttool.render.globals import iter_globals, weights_only_fact
    from ckpttool.render.inspection import iter_inspection

    listing = options or InspectListing()
    inspection = found.inspection
    if found.picked:
        return _iter_picked(found, width)
    if found.values is not None:
        from ckpttool.render.values import iter_values

        return iter_values(found.values, width)
    if listing.show_globals:
        return iter_globals(inspection.checkpoint, width)
    facts = [weights_only_fact(inspection.checkpoint), *_check_facts(found)]
    return iter_inspection(
        inspection, width, listing, facts, found.stats if listing.stats else None, found.card()
    )


def _iter_picked(found: Found, width: int) -> Iterable[Line]:
    from ckpttool.render.tensor import iter_tensor

    inspection = found.inspection
    row = (*inspection.rows, *inspection.missing)[0]
    return iter_tensor(row, width, found.first_values, found.stats[0] if found.stats else ())


def _pipe(found: Found, options: InspectListing | None) -> tuple[Iterable[str], Iterable[str]] | None:
    from ckpttool.render.inspection import iter_finding_lines, iter_next_lines, iter_pipe

    listing = options or InspectListing()
    inspection = found.inspection
    if found.picked:
        return None
    if found.values is not None:
        from ckpttool.render.values import iter_values_pipe

        return iter_values_pipe(found.values), ()
    if listing.show_globals:
        from ckpttool.render.globals import iter_facts, iter_globals_pipe

        facts = (f"{fact}\n" for fact in iter_facts(inspection.checkpoint))
        return iter_globals_pipe(inspection.checkpoint), facts
    extra: list[list[str]] = []
    if found.stats and listing.stats:
        from ckpttool.render.stats import stats_fields

        extra = [stats_fields(items) for items in found.stats]

    def remarks() -> Iterator[str]:
        yield from iter_finding_lines(inspection.findings)
        yield from iter_next_lines(inspection)
        yield from (f"{fact}\n" for fact in _check_facts(found))

    return iter_pipe(inspection, extra), remarks()


def _check_facts(found: Found) -> list[str]:
    return [] if found.check is None else [check_fact(found.check)]


def check_fact(report: CheckReport) -> str:
    """Return ``checksums: 519 members verified (4.6 MiB), 2 have none``, what is wrong first."""
    from ckpttool.values.words import format_count, format_nbytes, plural

    verified, wrong, files = report.verified, len(report.bad), len(report.files_without_checksums)
    counted = (
        (wrong, f"{format_count(wrong)} wrong"),
        (verified, f"{plural(verified, 'member')} verified ({format_nbytes(report.verified_nbytes)})"),
        (report.not_recorded, f"{plural(report.not_recorded, 'member')} without"),
        (files, f"{plural(files, 'file')} of a format without; sizes add up"),
    )
    return f"checksums: {', '.join(fact for count, fact in counted if count) or 'none'}"


def _document(found: Found) -> dict[str, Any]:
    from ckpttool.render.json import inspect_document, numbers

    extra: dict[int, dict[str, Any]] = {}
    if found.stats is not None:
        from ckpttool.render.stats import stats_object

        for position, items in enumerate(found.stats):
            extra[position] = {"stats": [stats_object(item) for item in items]}
    if found.first_values is not None:
        extra.setdefault(0, {})["first_values"] = numbers(found.first_values)
    document = inspect_document(found.inspection, extra, found.card())
    if found.check is not None:
        document["check"] = _check_object(found.check)
    return document


def _check_object(report: CheckReport) -> dict[str, Any]:
    from ckpttool.render.json import encode, place

    document = {"ok": report.ok, "conclusive": report.conclusive, **encode(report._replace(bad=()))}
    for result in report.bad:
        fields = encode(result._replace(entries=()))
        del fields["nbytes"]
        fields["entries"] = [place(entry.root, entry.name) for entry in result.entries]
        document["bad"].append(fields)
    return document


FOUND = View(_lines, _pipe, _document, pages=True)


def _iter_digests(found: Digested) -> Iterator[str]:
    digest = found.digest
    yield f"{digest.all}\tall\t{digest.tensors}\n"
    yield f"{digest.parameters}\tparameters\t{digest.parameter_tensors}\n"
    yield f"{digest.buffers}\tbuffers\t{digest.buffer_tensors}\n"


def _digest_lines(found: Digested, width: int, options: None) -> Iterable[Line]:
    from ckpttool.render.tables import Span

    return ((Span(line.rstrip("\n")),) for line in _iter_digests(found))


def _digest_document(found: Digested) -> dict[str, Any]:
    return {"schema": "ckpttool/digest/1", "path": found.path, "digest": found.digest._asdict()}


DIGESTED = View(_digest_lines, lambda found, options: (_iter_digests(found), ()), _digest_document)
