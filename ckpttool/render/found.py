"""The views of ``inspect``: the whole, one tensor, what would be imported, digests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ckpttool.render.views import View

if TYPE_CHECKING:
    from ckpttool.elements.digests import Digested
    from ckpttool.inspection.found import Found
    from ckpttool.render.tables import Line


class Listing(NamedTuple):
    """How an inspection is listed: the table's ``flat``, ``everything`` and ``sort``; with ``stats``.

    ``show_globals``: what an unpickler would import instead.
    """

    flat: bool = False
    everything: bool = False
    sort: str = "file"
    stats: bool = False
    show_globals: bool = False


def _lines(found: Found, width: int, options: Listing | None) -> Iterable[Line]:
    from ckpttool.render.globals import iter_globals, weights_only_fact
    from ckpttool.render.inspection import iter_inspection
    from ckpttool.render.inspection_table import Table

    listing = options or Listing()
    inspection = found.inspection
    if found.picked:
        return _iter_picked(found, width)
    if listing.show_globals:
        return iter_globals(inspection.checkpoint, width)
    facts = [weights_only_fact(inspection.checkpoint), *_check_facts(found)]
    table = Table(listing.flat, listing.everything, listing.sort)
    return iter_inspection(inspection, width, table, facts, found.stats if listing.stats else None)


def _iter_picked(found: Found, width: int) -> Iterable[Line]:
    from ckpttool.render.tensor import iter_tensor

    inspection = found.inspection
    row = (*inspection.rows, *inspection.missing)[0]
    return iter_tensor(row, width, found.first_values, found.stats[0] if found.stats else ())


def _pipe(found: Found, options: Listing | None) -> tuple[Iterable[str], Iterable[str]] | None:
    from ckpttool.render.inspection import iter_finding_lines, iter_next_lines, iter_pipe

    listing = options or Listing()
    inspection = found.inspection
    if found.picked:
        return None
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
    if found.check is None:
        return []
    from ckpttool.render.check import check_fact

    return [check_fact(found.check)]


def _document(found: Found) -> dict[str, Any]:
    from ckpttool.render.json import inspect_document, numbers

    extra: dict[int, dict[str, Any]] = {}
    if found.stats is not None:
        from ckpttool.render.stats import stats_object

        for position, items in enumerate(found.stats):
            extra[position] = {"stats": [stats_object(item) for item in items]}
    if found.first_values is not None:
        extra.setdefault(0, {})["first_values"] = numbers(found.first_values)
    document = inspect_document(found.inspection, extra)
    if found.check is not None:
        from ckpttool.render.check import check_object

        document["check"] = check_object(found.check)
    return document


FOUND = View(_lines, _pipe, _document)


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
