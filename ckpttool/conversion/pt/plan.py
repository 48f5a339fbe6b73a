"""A conversion to a ``.pt``: tensors as views of shared pieces, ties and overlaps as they were."""

from __future__ import annotations

from collections.abc import Sequence

from ckpttool.conversion.containers import ContainerKind
from ckpttool.conversion.items import compose
from ckpttool.conversion.placing import Item, Placing, as_bytes
from ckpttool.conversion.pt.torch_zip import lay_out
from ckpttool.values.checkpoint import Root
from ckpttool.values.containers import HELD_LAYOUTS
from ckpttool.values.conversion import ConversionPlan, Dropped, Placed
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import CkptToolError


def lacks_dtype(dtype: DType, shape: tuple[int, ...]) -> bool:
    """Whether torch has no such dtype: only the bytes can be kept."""
    return not dtype.in_torch


def place(plan: ConversionPlan, items: Sequence[Item], root: Root) -> ConversionPlan:
    """Every tensor as a view; ties and overlaps stay. Strings of a safetensors header have no place.

    Raises:
        CkptToolError: --metadata was given.
    """
    leaves = [leaf for item in items for leaf in item.leaves]
    placing = Placing()
    apart = plan.options.shared == "duplicate"
    groups = [[leaf] for leaf in leaves] if apart else [leaves]
    supply = (placed for group in groups for placed in placing.share_all(group))
    tensors = []
    first_at: dict[Placed, str] = {}
    aliases: dict[str, str] = {}
    for item in items:
        placed = compose(item.row.entry.value, supply)
        if isinstance(placed, Placed):
            if lacks_dtype(placed.dtype, placed.shape):
                placed = as_bytes(placed, placing)
            name = ".".join(map(str, (*item.root, item.name)))
            if placing.pieces[placed.piece].nbytes and first_at.setdefault(placed, name) != name:
                aliases[name] = first_at[placed]
        tensors.append(item.planned(item.root, item.name, placed))
    if plan.options.metadata:
        raise CkptToolError(
            "--metadata needs a safetensors destination: a .pt has no place for it", path=plan.source.path
        )
    dropped = [
        Dropped((), key, "metadata", 0, "a .pt has no place for it", asked=False)
        for key in plan.source.metadata
        if key not in ("format", "total_size")
    ]
    return plan._replace(
        pieces=tuple(placing.pieces),
        tensors=tuple(tensors),
        aliases=aliases,
        dropped=(*plan.dropped, *dropped),
    )


CONTAINER = ContainerKind(
    title="a .pt",
    stem="pytorch_model",
    suffix=".bin",
    place=place,
    lacks_dtype=lacks_dtype,
    lay_out=lay_out,
    holds_all=True,
    objects=frozenset(("torch.dtype",)),
    layouts=HELD_LAYOUTS["pt"],
)
