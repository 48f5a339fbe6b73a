"""``plan_conversion``: from an inspection and what was asked for to every byte of the destination. Pure.

The plan is refused here, before the first write, if two names would become equal, a tensor has no
bytes, or the destination has no type for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckpttool.conversion.containers import ContainerKind, load_container
from ckpttool.conversion.items import describe_casts, describe_classes, list_casts, module_facts, name_items
from ckpttool.conversion.placing import Item, overlapping
from ckpttool.conversion.selection import select
from ckpttool.names.renames import make_rule
from ckpttool.values.checkpoint import CompositeTensor, Tensor, views_of
from ckpttool.values.containers import CONTAINERS
from ckpttool.values.conversion import ConversionPlan, Options
from ckpttool.values.errors import CkptToolError, UnsupportedFeature
from ckpttool.values.inspection import Inspection
from ckpttool.values.words import some


def plan_conversion(inspection: Inspection, options: Options) -> ConversionPlan:
    """What ``convert`` will do with what ``inspection`` found (all of the file, unfiltered).

    Raises:
        CkptToolError: the branch is not clear, names collide, nothing is left, or --shared fail.
        UnsupportedFeature: a tensor cannot be written as it is.
    """
    checkpoint = inspection.checkpoint
    container = load_container(options.container)
    selection = select(inspection, options, container)
    rule = make_rule(options.strip_prefix, options.renames, options.add_prefix)
    items, renamed = name_items(checkpoint, selection, options, rule)
    _refuse_unwritable(items, options, container, checkpoint.path)
    if options.shared == "fail":
        _refuse_shared(items, checkpoint.path)
    versions, extras = module_facts(checkpoint, selection, rule)
    base = len(selection.base)
    plan = ConversionPlan(
        source=checkpoint,
        options=options,
        root=selection.root,
        root_found=selection.found,
        values=tuple(value._replace(root=value.root[base:]) for value in selection.values),
        objects=tuple(item._replace(root=item.root[base:]) for item in selection.objects),
        containers=tuple(item._replace(path=item.path[base:]) for item in selection.containers),
        module_versions=versions,
        module_extras=extras,
        renamed=renamed,
        dropped=tuple(selection.dropped),
    )
    plan = container.place(plan, items, (selection.root or ())[base:])
    casts = describe_casts(items, options.dtype) if options.dtype is not None else []
    casts += describe_classes(items)
    return plan._replace(casts=tuple(list_casts(plan.tensors, plan.pieces)), notes=(*plan.notes, *casts))


def _refuse_unwritable(items: Sequence[Item], options: Options, container: ContainerKind, path: str) -> None:
    """Refuse by name what has no bytes, or no type in the destination."""
    empty = [str(item.name) for item in items if _has_no_bytes(item.row.entry.value)]
    if empty:
        raise UnsupportedFeature(
            f"{some(empty, repr)}: on the meta device, without bytes",
            path=path,
            hint="--drop GLOB leaves them out",
        )
    reasons: dict[str, list[str]] = {}
    layouts: set[str] = set()  # "" stands for plain tensors
    for item in items:
        value = item.row.entry.value
        if isinstance(value, CompositeTensor) or not options.as_bytes:
            reason = _why_unwritable(item, container)
            if reason:
                reasons.setdefault(reason, []).append(str(item.name))
                layouts.add(value.layout if isinstance(value, CompositeTensor) else "")
    if reasons:
        what = "; ".join(f"{some(names, repr)}: {reason}" for reason, names in reasons.items())
        hint = "; ".join((*_ways_out(layouts), "--drop GLOB leaves them out"))
        raise UnsupportedFeature(f"{container.title} cannot hold {what}", path=path, hint=hint)


def _ways_out(layouts: set[str]) -> Iterator[str]:
    """What helps with tensors of these layouts, "" for plain ones, that a container cannot hold."""
    if "" in layouts:
        yield "--as-bytes keeps plain tensors as U8 and notes the dtype"
    if "subclass" in layouts:
        yield (
            "only their class puts the parts together: if you trust the file, load it, take plain tensors "
            "(full_tensor() of a DTensor, dequantize() of torchao's) and save those"
        )
    made_of_parts = layouts - {"", "subclass"}
    containers = [load_container(name) for name in CONTAINERS] if made_of_parts else []
    what = f"{some(sorted(made_of_parts))} tensors"
    yield from (f"{other.title} can hold {what}" for other in containers if made_of_parts <= other.layouts)


def _why_unwritable(item: Item, container: ContainerKind) -> str:
    """Why the destination has no type for a tensor, or "" if it has."""
    value = item.row.entry.value
    if isinstance(value, CompositeTensor):
        return "" if value.layout in container.layouts else f"{value.layout} tensor ({value.type_name})"
    if value is None:
        return ""
    dtype = item.cast or value.dtype
    return dtype.name if container.lacks_dtype(dtype, value.shape) else ""


def _has_no_bytes(value: Tensor | None) -> bool:
    """Whether a tensor has elements but no bytes: on the meta device, of a lazy module."""
    if isinstance(value, CompositeTensor):
        return value.layout == "uninitialized"
    storages = [view.storage for view in views_of(value)]
    absent = any(ref is None or ref.location == "meta" for ref in storages)
    return value is None or (absent and value.numel > 0)


def _refuse_shared(items: Sequence[Item], path: str) -> None:
    """``--shared fail``: name what shares bytes."""
    owners = [item for item in items for _ in item.leaves]
    for group in overlapping([leaf for item in items for leaf in item.leaves]):
        names = [str(owners[position].name) for position in group]
        raise CkptToolError(
            f"{some(names, repr)} share bytes",
            path=path,
            hint="--shared alias keeps one and lists the others, --shared duplicate writes each",
        )
