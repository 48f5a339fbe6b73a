"""The view of ``inspect --tensor``: one entry in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckpttool.elements.bits import Number
from ckpttool.elements.stats import EntryStats
from ckpttool.render.fields import dtype_name
from ckpttool.render.kinds import KIND_NOUNS, basis_name, kind_style
from ckpttool.render.stats import iter_bins, iter_stats_details
from ckpttool.render.tables import Cell, Column, Line, Span, block, fill, iter_table, number_columns
from ckpttool.render.units import join_facts
from ckpttool.values.checkpoint import (
    Chunk,
    ChunkedTensor,
    CompositeTensor,
    Entry,
    Kind,
    StorageRef,
    Tensor,
    TensorInfo,
    views_of,
)
from ckpttool.values.inspection import Row
from ckpttool.values.words import (
    NAME_LIMIT,
    format_count,
    format_int,
    format_nbytes,
    format_number,
    format_path,
    format_shape,
    format_value,
    plural,
    safe,
)

_FACTS = (Column(""), Column(""))
_BINS = (Column("", right=True), Column(""), Column("", right=True))
_PATH_LIMIT = 4096  # PATH_MAX of Linux
_ALL_DIMS = 64  # numpy allows no more


def iter_tensor(
    row: Row, width: int, values: Sequence[Number] | None, stats: Sequence[EntryStats]
) -> Iterator[Line]:
    """Yield everything that is known of ``row``; ``values`` are its first ones."""
    entry, classification, tied_to = row
    yield (Span(format_path(entry.root, entry.name), "title"),)
    yield ()
    facts = [("kind", join_facts((KIND_NOUNS[classification.kind], classification.presence.value)))]
    evidence = join_facts((basis_name(classification.basis), safe(classification.note, NAME_LIMIT)))
    facts.append(("evidence", evidence + ("" if classification.exact else " (inferred)")))
    if classification.source is not None:
        facts.append(("registered by", safe(classification.source.class_name or "—", NAME_LIMIT)))
    if entry.requires_grad or (entry.requires_grad is False and _is_telling(entry)):
        facts.append(("requires_grad", str(entry.requires_grad)))
    if entry.subclass:
        facts.append(("class", safe(entry.subclass, NAME_LIMIT)))
    if tied_to is not None:
        facts.append(("tied to", format_path(tied_to.root, tied_to.name)))
    if entry.value is not None:
        facts += _tensor_facts(entry.value)
    style = kind_style(classification)
    rows = [(Cell(word, "dim"), Cell(text, style if word == "kind" else "")) for word, text in facts]
    yield from iter_table(_FACTS, rows, width, head=False)
    yield from _iter_parts(entry.value, width)
    for item in stats:
        yield from _iter_stats(item, width)
    if values is not None and entry.value is not None:
        yield ()
        shown = [Span(format_element(value)) for value in values]
        if len(values) < entry.value.numel:
            shown.append(Span(f"… of {format_count(entry.value.numel)}", "dim"))
        yield from fill(shown, width, separator="  ")


def _is_telling(entry: Entry) -> bool:
    """Whether a file says something by no gradient: a state_dict is detached, a frozen parameter is not."""
    return entry.declared.kind is Kind.PARAMETER


def _tensor_facts(value: Tensor) -> list[tuple[str, str]]:
    facts = [
        ("dtype", dtype_name(value)),
        ("shape", format_shape(value.shape, _ALL_DIMS)),
        ("elements", format_count(value.numel)),
        ("size", _exact_nbytes(value.nbytes)),
    ]
    if isinstance(value, TensorInfo):
        layout = "contiguous" if value.is_contiguous else "strided"
        flags = join_facts((layout, "conj" if value.conj else "", "neg" if value.neg else ""))
        facts.append(("stride", f"{format_value(value.stride)} · {flags}"))
        facts.append(("storage_offset", format_int(value.storage_offset)))
        facts += _storage_facts(value.storage)
    elif isinstance(value, ChunkedTensor):
        files = {view.storage.file for view in views_of(value) if view.storage is not None}
        facts.append(("made of", f"{plural(len(value.chunks), 'chunk')} in {plural(len(files), 'file')}"))
    else:
        made_by = safe(value.type_name, NAME_LIMIT)
        facts.append(("made of", f"{safe(value.layout, NAME_LIMIT)}, rebuilt by {made_by}"))
        facts += [(safe(name, 40), format_value(detail)) for name, detail in value.details]
    return facts


def _storage_facts(storage: StorageRef | None) -> list[tuple[str, str]]:
    if storage is None:
        return [("storage", "none: on the meta device")]
    facts = [
        ("storage", f"{safe(storage.key, NAME_LIMIT)} · {_exact_nbytes(storage.nbytes)}"),
        ("in file", f"{safe(storage.file, _PATH_LIMIT)} at byte {format_count(storage.byte_offset)}"),
    ]
    if storage.compressed_nbytes is not None:
        facts.append(("compressed", f"to {_exact_nbytes(storage.compressed_nbytes)}"))
    if storage.big_endian:
        facts.append(("byte order", "big-endian"))
    if storage.location is not None:
        facts.append(("saved on", safe(storage.location, NAME_LIMIT)))
    return facts


def _exact_nbytes(nbytes: int) -> str:
    text = format_nbytes(nbytes)
    return text if nbytes < 1024 else f"{text} ({plural(nbytes, 'byte')})"


def _iter_parts(value: Tensor | None, width: int) -> Iterator[Line]:
    columns = (Column("part", floor=20), Column("dtype"), *number_columns("shape", "size"))
    named: list[tuple[str, Tensor]] = []
    if isinstance(value, CompositeTensor):
        named = [(part.name, part.value) for part in value.parts]
    elif isinstance(value, ChunkedTensor):
        named = [(_place(chunk), chunk.value) for chunk in value.chunks]
    rows = []
    for name, part in named:
        texts = safe(name, NAME_LIMIT), dtype_name(part), format_shape(part.shape), format_nbytes(part.nbytes)
        rows.append(tuple(map(Cell, texts)))
    if rows:
        yield from block(iter_table(columns, rows, width))


def _place(chunk: Chunk) -> str:
    """``[0:4, 8:16]``: the indices of the whole that a chunk holds."""
    sizes = zip(chunk.offsets, chunk.value.shape, strict=True)
    return f"[{', '.join(f'{start}:{start + size}' for start, size in sizes)}]"


def _iter_stats(stats: EntryStats, width: int) -> Iterator[Line]:
    yield ()
    if stats.part:
        yield (Span("  "), Span(safe(stats.part, NAME_LIMIT), "title"))
    rows = [(Cell(word, "dim"), Cell(text)) for word, text in iter_stats_details(stats)]
    yield from iter_table(_FACTS, rows, width, head=False)
    yield from iter_table(_BINS, list(iter_bins(stats)), width, head=False)


def format_element(value: Number) -> str:
    """Return an element of a tensor: six significant digits, or all of an int."""
    if isinstance(value, (bool, complex)):
        return f"{value:.6g}" if isinstance(value, complex) else str(value)
    return format_number(value)
