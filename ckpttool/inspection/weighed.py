"""The tensors of the weights, without copies, optimizer and wrappers: what a card is made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ckpttool.inspection.structure import Structure, find_structure
from ckpttool.names.prefixes import ANYWHERE, LEADING, strip_wrappers
from ckpttool.values.checkpoint import Kind

if TYPE_CHECKING:
    from ckpttool.inspection.structure import Shape
    from ckpttool.values.checkpoint import Root
    from ckpttool.values.inspection import Inspection

_FIRST = tuple(f"{parts[0]}." for parts in LEADING)
_INSIDE = tuple(f".{part}." for part in ANYWHERE)
_ADAPTED = ".base_layer."  # of PEFT, around the weight that an adapter adds to


class Item(NamedTuple):
    """A tensor of the weights under its name without wrappers; what is ``tied`` is counted elsewhere."""

    name: str
    shape: Shape
    numel: int
    nbytes: int
    dtype: str  # of a parameter in floating point, else ""
    tied: bool


class Weighed(NamedTuple):
    """All tensors of the weights, and the structure that they show."""

    items: Sequence[Item]
    structure: Structure

    @property
    def float_dtypes(self) -> Counter[str]:
        """Bytes of the parameters by floating dtype."""
        dtypes: Counter[str] = Counter()
        for item in self.items:
            if item.dtype:
                dtypes[item.dtype] += item.nbytes
        return dtypes


def weigh(inspection: Inspection) -> Weighed:
    """The weights, where it is clear which they are."""
    roots: set[Root | None] = {inspection.weights_root}
    if inspection.weights_root is None:
        roots = {group.root for group in inspection.groups if group.role in ("weights", "module")}
    items = [] if len(roots) > 1 else _items(inspection, roots)
    return Weighed(items, find_structure({item.name: item.shape for item in items}))


def _items(inspection: Inspection, roots: set[Root | None]) -> list[Item]:
    items = []
    for (root, name, value, *_), known, tied_to in inspection.rows:
        if root not in roots or not isinstance(name, str) or value is None or known.averaged_of:
            continue
        if known.kind is Kind.OPTIMIZER_STATE:
            continue
        if name.startswith(_FIRST) or ("._" in name and any(part in name for part in _INSIDE)):
            name = strip_wrappers(name)
        name = name.replace(_ADAPTED, ".")
        dtype = value.dtype
        is_float = dtype is not None and dtype.is_floating_point and known.kind is Kind.PARAMETER
        told = dtype.name if dtype is not None and is_float else ""
        items.append(Item(name, value.shape or (), value.numel, value.nbytes, told, tied_to is not None))
    return items
