"""The tensors of the weights, without copies, optimizer and wrappers: what a card is made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpttool.names.prefixes import ANYWHERE, LEADING, strip_wrappers
from ckpttool.values.checkpoint import Kind

if TYPE_CHECKING:
    from ckpttool.inspection.structure import Shape
    from ckpttool.values.checkpoint import Tensor
    from ckpttool.values.inspection import Inspection, Row

_FIRST = tuple(f"{parts[0]}." for parts in LEADING)
_ADAPTED = ".base_layer."  # of PEFT, around the weight that an adapter adds to
_INSIDE = tuple(f".{part}." for part in ANYWHERE)


def iter_weighed(inspection: Inspection) -> Iterator[tuple[str, Tensor, Row]]:
    """Yield the name without wrappers, the value and the row of each tensor of the weights, ties too."""
    roots = {inspection.weights_root}
    if inspection.weights_root is None:
        roots = {group.root for group in inspection.groups if group.role in ("weights", "module")}
        if len(roots) > 1:
            return
    for row in inspection.rows:
        entry, known, _ = row
        name, value = entry.name, entry.value
        if entry.root not in roots or not isinstance(name, str) or value is None or known.averaged_of:
            continue
        if known.kind is Kind.OPTIMIZER_STATE:
            continue
        if name.startswith(_FIRST) or any(part in name for part in _INSIDE):
            name = strip_wrappers(name)
        yield name.replace(_ADAPTED, "."), value, row


def weights_shapes(inspection: Inspection) -> dict[str, Shape]:
    """The shapes of the weights by name."""
    return {name: value.shape or () for name, value, _ in iter_weighed(inspection)}


def float_dtypes(inspection: Inspection) -> Counter[str]:
    """Bytes of the parameters by floating dtype."""
    dtypes: Counter[str] = Counter()
    for _, value, row in iter_weighed(inspection):
        if row.classification.kind is Kind.PARAMETER and value.dtype and value.dtype.is_floating_point:
            dtypes[value.dtype.name] += value.nbytes
    return dtypes
