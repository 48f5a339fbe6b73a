"""The first lines of ``inspect``, and what stands around the table of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckpttool.render.tables import Line, Span, fill
from ckpttool.render.tree import count_facts, iter_groups, iter_values
from ckpttool.values.inspection import Inspection, ModelFacts
from ckpttool.values.words import NAME_LIMIT, format_count, format_nbytes, plural, safe

_MAX_FACTS = 6  # dtypes or devices named in one line
_MAX_REASON = 400  # characters of why a model was not built on meta


def iter_head(inspection: Inspection, width: int, facts: Sequence[str]) -> Iterator[Line]:
    """Yield what it is, what it holds in all, and which model gave the kinds."""
    checkpoint, summary = inspection.checkpoint, inspection.summary
    layout = f" ({safe(checkpoint.layout, NAME_LIMIT)})" if checkpoint.layout else ""
    files = f" in {plural(len(checkpoint.files), 'file')}" if len(checkpoint.files) > 1 else ""
    first = [
        Span(safe(inspection.title, NAME_LIMIT), "title"),
        Span(f"{safe(checkpoint.format).replace('_', ' ')}{layout}"),
    ]
    if checkpoint.files:
        first.append(Span(f"{format_nbytes(checkpoint.file_nbytes)}{files}"))
    locations = [name for name, _ in summary.locations if name]
    if locations:
        first.append(Span(f"saved on {_some(locations, ', ')}"))
    first += [Span(fact) for fact in facts if fact]
    yield from fill(first, width, indent=0)
    buffers = summary.persistent_buffers + summary.non_persistent_buffers
    second = [
        Span(count_facts(summary.parameter_numel, buffers, summary.unknown)),
        Span(f"{format_nbytes(summary.tensor_nbytes)} of tensors"),
    ]
    if summary.storage_nbytes != summary.tensor_nbytes:
        second.append(Span(f"{format_nbytes(summary.storage_nbytes)} of storages"))
    if summary.dtypes:
        dtypes = [f"{name} {format_count(count)}" for name, count in summary.dtypes]
        second.append(Span(summary.dtypes[0][0] if len(dtypes) == 1 else _some(dtypes, ", ")))
    yield from fill([span for span in second if span.text], width, indent=0)
    if inspection.model is not None:
        yield from fill(_model_facts(inspection.model), width, indent=0)


def _model_facts(model: ModelFacts) -> list[Span]:
    """``kinds by net.py:build (Net)``, where it was built, and how names met."""
    built = Span(safe(model.built, _MAX_REASON), "dim")
    if model.matched is None:
        return [built]
    who = safe(f"{model.text} ({model.class_name.rpartition('.')[2]})", NAME_LIMIT)
    return [
        Span(f"kinds by {who}"),
        built,
        Span(f"{format_count(model.matched)} of {plural(model.names, 'name')} met"),
    ]


def _some(texts: Sequence[str], separator: str) -> str:
    shown = separator.join([safe(text, 40) for text in texts[:_MAX_FACTS]])
    return shown if len(texts) <= _MAX_FACTS else f"{shown}{separator}… ({len(texts)})"


def iter_around(inspection: Inspection, width: int) -> Iterator[Line]:
    """Yield the groups of tensors and the plain values beside them."""
    if len(inspection.groups) > 1 or any(group.root for group in inspection.groups):
        yield from iter_groups(inspection, width)
    yield from iter_values(inspection, width)
    yield from _iter_metadata(inspection, width)


def _iter_metadata(inspection: Inspection, width: int) -> Iterator[Line]:
    metadata = inspection.checkpoint.metadata
    pieces = [Span("metadata:", "dim")] if metadata else []
    for key, text in list(metadata.items())[:_MAX_FACTS]:
        pieces.append(Span(f"{safe(key, 40)} {safe(text, 60)}"))
    if len(metadata) > _MAX_FACTS:
        pieces.append(Span(f"… {len(metadata) - _MAX_FACTS} more: --json", "dim"))
    yield from fill(pieces, width, separator="  ")
