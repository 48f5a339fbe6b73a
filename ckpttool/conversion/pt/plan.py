"""A conversion's tensors in a ``.pt``: views of shared pieces, ties and overlaps as they were."""

from __future__ import annotations

from collections.abc import Sequence

from ckpttool.conversion.items import Item, compose
from ckpttool.conversion.placing import Placing, Wanted, as_bytes
from ckpttool.values.checkpoint import Checkpoint, CompositeTensor
from ckpttool.values.conversion import Dropped, Options, Placed, PlacedComposite, Planned
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import CkptToolError

# safetensors alone has these two.
_NO_TORCH_NAME = frozenset(("float6_e2m3fn", "float6_e3m2fn"))


def lacks_dtype(dtype: DType) -> bool:
    """Whether torch has no such dtype: only the bytes can be kept."""
    return dtype.name in _NO_TORCH_NAME


def place_in_pt(
    items: Sequence[Item], options: Options, placing: Placing
) -> tuple[list[Planned], dict[str, str]]:
    """Every tensor as a view; ties and overlaps stay."""
    leaves: list[Wanted] = []
    for item in items:
        leaves += item.leaves
    duplicate = options.shared == "duplicate"
    places = placing.pack_all(leaves) if duplicate else placing.share_all(leaves)
    supply = iter(places)
    planned = []
    first_at: dict[Placed, str] = {}
    aliases: dict[str, str] = {}
    for item in items:
        entry = item.row.entry
        value = entry.value
        placed: Placed | PlacedComposite
        if isinstance(value, CompositeTensor):
            placed = compose(value, supply)
        else:
            placed = next(supply)
            if lacks_dtype(placed.dtype):
                placed = as_bytes(placed, placing)
            name = ".".join(map(str, (*item.root, item.name)))
            if placing.pieces[placed.piece].nbytes and first_at.setdefault(placed, name) != name:
                aliases[name] = first_at[placed]
        planned.append(item.planned(item.root, item.name, placed))
    return planned, aliases


def drop_metadata(checkpoint: Checkpoint, options: Options) -> list[Dropped]:
    """Strings of a safetensors header that a ``.pt`` has no place for.

    Raises:
        CkptToolError: --metadata was given.
    """
    if options.metadata:
        raise CkptToolError(
            "--metadata needs a safetensors destination: a .pt has no place for it",
            path=checkpoint.path,
        )
    return [
        Dropped((), key, "metadata", 0, "a .pt has no place for it", asked=False)
        for key in checkpoint.metadata
        if key not in ("format", "total_size")
    ]
