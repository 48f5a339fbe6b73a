"""``plan_conversion``: from an inspection and what was asked for to every byte of the destination. Pure.

The plan is refused here, before the first write, if two names would become equal, a tensor has no
bytes, or the destination has no type for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ckpttool.conversion import safetensors as plan_safetensors
from ckpttool.conversion.items import Item, describe_casts, list_casts, module_facts, name_items, name_some
from ckpttool.conversion.placing import Placing, is_without_bytes, overlapping
from ckpttool.conversion.pt import plan as plan_pt
from ckpttool.conversion.selection import select
from ckpttool.names.renames import make_rule
from ckpttool.values.checkpoint import CompositeTensor, Tensor
from ckpttool.values.conversion import ConversionPlan, Dropped, Options, Planned
from ckpttool.values.errors import CkptToolError, UnsupportedFeature
from ckpttool.values.inspection import Inspection

_REBUILT = frozenset(
    ("quantized", "nested", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")
)
"""Composites that a ``.pt`` is written with; the others need a class of their own."""


def plan_conversion(inspection: Inspection, options: Options) -> ConversionPlan:
    """What ``convert`` will do with what ``inspection`` found (all of the file, unfiltered).

    Raises:
        CkptToolError: the branch is not clear, names collide, nothing is left, or --shared fail.
        UnsupportedFeature: a tensor cannot be written as it is.
    """
    checkpoint = inspection.checkpoint
    selection = select(inspection, options)
    rule = make_rule(options.strip_prefix, options.renames, options.add_prefix)
    items, renamed = name_items(checkpoint, selection, options, rule)
    _refuse_unwritable(items, options, checkpoint.path)
    if options.shared == "fail":
        _refuse_shared(items, checkpoint.path)
    versions, extras = module_facts(checkpoint, selection, rule)
    placing = Placing()
    notes: list[str] = []
    dropped: list[Dropped] = []
    metadata: dict[str, str] = {}
    tensors: list[Planned]
    if options.container == "pt":
        tensors, aliases = plan_pt.place_in_pt(items, options, placing)
        dropped = plan_pt.drop_metadata(checkpoint, options)
    else:
        named = plan_safetensors.name_flat(items, selection, checkpoint.path)
        own = plan_safetensors.foreign_metadata(checkpoint, options)
        tensors, aliases, notes = plan_safetensors.pack(named, options, placing, own)
        carried = plan_safetensors.carry(named, selection, versions, extras, ordered=checkpoint.ordered)
        metadata = {**own, **aliases, **carried}
    if options.dtype is not None:
        notes += describe_casts(items, options.dtype)
    base = len(selection.base)
    return ConversionPlan(
        source=checkpoint,
        options=options,
        root=selection.root,
        root_found=selection.found,
        pieces=tuple(placing.pieces),
        tensors=tuple(tensors),
        aliases=aliases,
        values=tuple(value._replace(root=value.root[base:]) for value in selection.values),
        objects=tuple(item._replace(root=item.root[base:]) for item in selection.objects),
        containers=tuple(item._replace(path=item.path[base:]) for item in selection.containers),
        module_versions=versions,
        module_extras=extras,
        metadata=metadata,
        renamed=renamed,
        dropped=(*selection.dropped, *dropped),
        casts=tuple(list_casts(tensors, placing.pieces)),
        notes=tuple(notes),
    )


def _refuse_unwritable(items: Sequence[Item], options: Options, path: str) -> None:
    """Refuse by name what has no bytes, or no type in the destination."""
    empty = [str(item.name) for item in items if _has_no_bytes(item.row.entry.value)]
    if empty:
        raise UnsupportedFeature(
            f"{name_some(empty)}: on the meta device, without bytes",
            path=path,
            hint="--drop GLOB leaves them out",
        )
    if options.as_bytes:
        refused = [item for item in items if isinstance(item.row.entry.value, CompositeTensor)]
    else:
        refused = list(items)
    reasons: dict[str, list[str]] = {}
    for item in refused:
        reason = _why_unwritable(item, options)
        if reason:
            reasons.setdefault(reason, []).append(str(item.name))
    if reasons:
        what = "; ".join(f"{name_some(names)}: {reason}" for reason, names in reasons.items())
        raise UnsupportedFeature(
            f"a .{options.container} cannot hold {what}".replace("a .safetensors", "safetensors"),
            path=path,
            hint="--as-bytes keeps plain tensors as U8 and notes the dtype; --drop GLOB leaves them out",
        )


def _why_unwritable(item: Item, options: Options) -> str:
    """Why the destination has no type for a tensor, or "" if it has."""
    value = item.row.entry.value
    if isinstance(value, CompositeTensor):
        if options.container == "pt" and value.layout in _REBUILT:
            return ""
        return f"{value.layout} tensor ({value.type_name})"
    if value is None:
        return ""
    dtype = item.cast or value.dtype
    if options.container == "pt":
        return dtype.name if plan_pt.lacks_dtype(dtype) else ""
    return dtype.name if plan_safetensors.lacks_dtype(dtype, value.shape) else ""


def _has_no_bytes(value: Tensor | None) -> bool:
    if isinstance(value, CompositeTensor):
        return value.layout == "uninitialized"
    return value is None or is_without_bytes(value)


def _refuse_shared(items: Sequence[Item], path: str) -> None:
    """``--shared fail``: name what shares bytes."""
    owners = [item for item in items for _ in item.leaves]
    for group in overlapping([leaf for item in items for leaf in item.leaves]):
        names = [str(owners[position].name) for position in group]
        raise CkptToolError(
            f"{name_some(names)} share bytes",
            path=path,
            hint="--shared alias keeps one and lists the others, --shared duplicate writes each",
        )
