"""The first lines of ``inspect``, and what stands around the weights: groups of tensors, plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ckpttool.render.tables import Cell, Column, Line, Span, fill, iter_table
from ckpttool.values.checkpoint import Objects, Root
from ckpttool.values.inspection import Copy, Inspection, ModelFacts, Quantization, Weights
from ckpttool.values.source import SourceUsed
from ckpttool.values.words import (
    NAME_LIMIT,
    agree,
    format_count,
    format_magnitude,
    format_nbytes,
    format_root,
    format_value,
    plural,
    safe,
)

_MAX_FACTS = 6  # dtypes or devices named in one line
_MAX_COPIES = 2  # of the weights, named in one line
_MAX_SCHEMES = 3  # of quantised weights, the same
_MAX_REASON = 400  # characters of why a model was not built on meta


def iter_head(inspection: Inspection, width: int, facts: Sequence[str]) -> Iterator[Line]:
    """Yield what it is, what it holds in all, and which model gave the kinds."""
    checkpoint, summary = inspection.checkpoint, inspection.summary
    layout = f" ({safe(checkpoint.layout, NAME_LIMIT)})" if checkpoint.layout else ""
    files = f" in {plural(len(checkpoint.files), 'file')}" if len(checkpoint.files) > 1 else ""
    locations = [name for name, _ in summary.locations if name]
    first = [
        f"{safe(checkpoint.format).replace('_', ' ')}{layout}",
        f"{format_nbytes(checkpoint.file_nbytes)}{files}" if checkpoint.files else "",
        f"saved on {_some(locations)}" if locations else "",
        *facts,
    ]
    title = Span(safe(inspection.title, NAME_LIMIT), "title")
    yield from fill([title, *_spans(first)], width, indent=0)
    dtypes = [f"{name} {format_count(count)}" for name, count in summary.dtypes]
    has_gaps = summary.storage_nbytes != summary.tensor_nbytes
    second = [
        *_weight_facts(inspection.weights),
        inspection.spread.fact if inspection.spread is not None else "",
        f"{format_nbytes(summary.tensor_nbytes)} of tensors",
        f"{format_nbytes(summary.storage_nbytes)} of storages" if has_gaps else "",
        summary.dtypes[0][0] if len(dtypes) == 1 else _some(dtypes),
        plural(len(checkpoint.attributes), "attribute") + " of modules" if checkpoint.attributes else "",
    ]
    yield from fill(_spans(second), width, indent=0)
    if inspection.model is not None:
        yield from fill(_model_facts(inspection.model), width, indent=0)
    for source in inspection.sources:
        yield from fill(_source_facts(source), width, indent=0)


def _model_facts(model: ModelFacts) -> list[Span]:
    """``kinds by net.py:build (Net)``, where it was built, and how names met."""
    built = Span(safe(model.built, _MAX_REASON), "dim")
    if model.matched is None:
        return [built]
    match = agree(model.matched, "matches", "match")
    who = safe(f"{model.text} ({model.class_name.rpartition('.')[2]})", NAME_LIMIT)
    return [
        Span(f"kinds by {who}"),
        built,
        Span(f"{format_count(model.matched)} of {plural(model.names, 'name')} {match}"),
    ]


def _source_facts(source: SourceUsed) -> list[Span]:
    """``source of timm 1.0.31: VisionTransformer``, the share of modules that a class fits, what was read."""
    named = safe(source.title, NAME_LIMIT)
    unread = f", {format_count(source.unread)} unread" if source.unread else ""
    root = f": {safe(source.root.rpartition('.')[2], NAME_LIMIT)}" if source.root else ""
    return [
        Span(f"kinds by source of {named}{root}"),
        Span(f"{source.fits:.0%} of the modules have a class"),
        Span(f"{plural(source.files, 'file')}{unread} read, none run", "dim"),
    ]


def _spans(texts: Sequence[str]) -> list[Span]:
    return [Span(text) for text in texts if text]


def _some(texts: Sequence[str]) -> str:
    shown = ", ".join([safe(text, 40) for text in texts[:_MAX_FACTS]])
    return shown if len(texts) <= _MAX_FACTS else f"{shown}, … ({len(texts)})"


def iter_around(inspection: Inspection, width: int) -> Iterator[Line]:
    """Yield the groups of tensors and the plain values beside them."""
    if len(inspection.groups) > 1 or any(group.root for group in inspection.groups):
        yield from _iter_groups(inspection, width)
    yield from _iter_values(inspection, width)
    yield from _iter_metadata(inspection, width)


def _iter_metadata(inspection: Inspection, width: int) -> Iterator[Line]:
    metadata = inspection.checkpoint.metadata
    pieces = [Span("metadata:", "dim")] if metadata else []
    pieces += [Span(f"{safe(key, 40)} {safe(text, 60)}") for key, text in list(metadata.items())[:_MAX_FACTS]]
    if len(metadata) > _MAX_FACTS:
        pieces.append(Span(f"… {len(metadata) - _MAX_FACTS} more: --json", "dim"))
    yield from fill(pieces, width, separator="  ")


_GROUP_COLUMNS = (
    Column("group", floor=12),
    Column("tensors", right=True, optional=1),
    Column("size", right=True),
    Column("what"),
    Column("role"),
    Column("note", floor=12, optional=1, prose=True),
)

_MAX_VALUES = 40  # plain values of the top that are shown one by one
_PLAIN_CONTAINERS = frozenset({"dict", "list", "tuple", "OrderedDict", "set"})


def _iter_groups(inspection: Inspection, width: int) -> Iterator[Line]:
    """Yield a line per group of tensors; the one that other commands would take is pointed at."""
    rows = []
    for group in inspection.groups:
        is_weights = group.root == inspection.weights_root
        counts = (
            plural(group.parameter_numel, "parameter") if group.parameter_numel else "",
            plural(group.buffers, "buffer") if group.buffers else "",
            f"{format_count(group.unknown)} unknown" if group.unknown else "",
        )
        what = " · ".join(filter(None, counts))
        note = safe(group.note, NAME_LIMIT)
        if group.role == "optimizer":
            what, note = note, ""
        cells = (
            Cell(format_root(group.root) or "(top)", "title" if is_weights else ""),
            Cell(plural(group.tensors, "tensor")),
            Cell(format_nbytes(group.nbytes)),
            Cell(what),
            Cell("← weights" if is_weights else "", "good"),
            Cell(note, "dim"),
        )
        rows.append(cells)
    return iter_table(_GROUP_COLUMNS, rows, width, head=False)


def _weight_facts(weights: Weights) -> Iterator[str]:
    """Yield what there is of weights, what they are quantised by, and where copies of them are."""
    copies = "".join([f" + {_copy_text(copy)}" for copy in weights.copies[:_MAX_COPIES]])
    if len(weights.copies) > _MAX_COPIES:
        copies += f" + {format_count(len(weights.copies) - _MAX_COPIES)} more"
    first, *more = _count_facts(weights)
    if weights.quantized:
        first, more = _magnitude(weights.weights_numel, "weight"), []
        if any(item.weights is None for item in weights.quantized):
            first = _magnitude(weights.weights_numel, "other weight") if weights.weights_numel else ""
        shown = weights.quantized[:_MAX_SCHEMES]
        more.append(
            " + ".join(map(quantization_text, shown)) + (" + …" if shown != weights.quantized else "")
        )
        more.append(_magnitude(weights.stored_numel, "stored element", about=""))
    yield f"{first}{copies}" if first else copies.removeprefix(" + ")
    yield from more


def _magnitude(count: int, noun: str, about: str = "about ") -> str:
    return f"{format_magnitude(count, about)} {agree(count, noun, f'{noun}s')}"


def _copy_text(copy: Copy) -> str:
    what = "averaged copy" if copy.averaged else "copy of the same names and shapes"
    if copy.prefix:
        return f"{what} under {safe(copy.prefix, NAME_LIMIT)}*"
    return f"{what} under {format_root(copy.root) or '(top)'}"


def quantization_text(item: Quantization) -> str:
    """Return ``GPTQ 4-bit, group 128``."""
    bits = f" {item.bits}-bit" if item.bits and not item.scheme[-1].isdigit() else ""
    if item.weights is None:
        modules = plural(item.modules, "module")
        bits += f" ({modules} of unknown size)" if item.bits else f" ({modules} of unknown bits)"
    by = "block" if item.scheme == "bitsandbytes" else "group"
    group = f", {by} {item.group}" if item.group is not None else ""
    return f"{item.scheme}{bits}{group}{f', {item.detail}' if item.detail else ''}"


def _count_facts(counts: Weights) -> tuple[str, str, str]:
    """Return ``412,525 parameters in 28 tensors``, ``2 buffers (82,688 elements)``, ``1 unknown``.

    Nothing is said of what there is none of.
    """
    tied = f", {format_count(counts.tied_parameters)} of them tied" if counts.tied_parameters else ""
    tensors = f"{plural(counts.parameters, 'tensor')}{tied}"
    if counts.parameter_numel:
        tensors = f"{plural(counts.parameter_numel, 'parameter')} in {tensors}"
    elements = f" ({plural(counts.buffer_numel, 'element')})" if counts.buffer_numel else ""
    return (
        tensors if counts.parameters else "",
        f"{plural(counts.buffers, 'buffer')}{elements}" if counts.buffers else "",
        f"{format_count(counts.unknown)} unknown" if counts.unknown else "",
    )


def _iter_values(inspection: Inspection, width: int) -> Iterator[Line]:
    """Yield the plain values of the top, and how many lie in each branch that holds no tensors."""
    checkpoint = inspection.checkpoint
    groups = {group.root for group in inspection.groups}
    types = {container.path: container.type_name for container in checkpoint.containers}
    values, opaque = checkpoint.values, checkpoint.opaque
    objects = Objects(opaque, checkpoint.containers)
    held = Counter([owner for item in values if (owner := objects.owner(item.root)) is not None])
    top = [
        f"{format_root((item.name,))} {format_value(item.value)}"
        for item in values
        if not item.root and () not in held
    ]
    for item in opaque:
        if not item.root:
            name = f"{format_root((item.name,))}: " if item.name != "" else ""
            inside = held[() if item.name == "" else (item.name,)]
            counted = f" ({plural(inside, 'value')})" if inside else ""
            top.append(f"{name}{safe(item.type_name, 60)}{counted}")
    pieces = list(map(Span, top))
    roots = [item.root for item in values] + [item.root for item in opaque]
    roots = [root for root in roots if objects.owner(root) is None]
    branches = Counter(_branch(root, groups) for root in roots if root)
    for branch, count in branches.items():
        if branch in groups:
            continue  # lr and betas of an optimizer: its group line tells what it is
        type_name = types.get(branch, "").rpartition(".")[2]
        shown = f" {safe(type_name, 40)}" if type_name and type_name not in _PLAIN_CONTAINERS else ""
        pieces.append(Span(f"{format_root(branch)}{shown} ({plural(count, 'value')})"))
    if len(pieces) > _MAX_VALUES:
        more = len(pieces) - _MAX_VALUES
        pieces[_MAX_VALUES:] = [Span(f"… {format_count(more)} more: --json", "dim")]
    return fill(pieces, width)


def _branch(root: Root, groups: set[Root]) -> Root:
    """The group that ``root`` lies in, else its first key; below a parent of groups, its first two."""
    for length in range(1, len(root) + 1):
        if root[:length] in groups:
            return root[:length]
    is_parent = any(group[:1] == root[:1] for group in groups)
    return root[:2] if is_parent else root[:1]
