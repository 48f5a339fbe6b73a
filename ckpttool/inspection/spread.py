"""Which tensors are spread over the processes of a distributed job, as far as they say so."""

from __future__ import annotations

from collections.abc import Sequence

from ckpttool.values.checkpoint import CompositeTensor, Entry, Plain
from ckpttool.values.inspection import Row, Spread

_WHOLE = "Replicate()"


def find_spread(rows: Sequence[Row]) -> Spread | None:
    """What the DTensors and ShardedTensors among ``rows`` say of themselves; None where none is spread."""
    spread: list[tuple[Entry, CompositeTensor, dict[str, Plain]]] = []
    for row in rows:
        value = row.entry.value
        if isinstance(value, CompositeTensor) and value.details and row.tied_to is None:
            details = dict(value.details)
            placements, mesh = details.get("placements"), details.get("mesh")
            if isinstance(placements, tuple) and isinstance(mesh, tuple) and _is_split(placements, mesh):
                spread.append((row.entry, value, details))
    if not spread:
        return None
    mesh, rank = spread[0][2]["mesh"], spread[0][2].get("rank")
    return Spread(
        tuple([entry for entry, _, _ in spread]),
        sum(sum(part.value.numel for part in value.local_parts) for _, value, _ in spread),
        sum(value.numel for _, value, _ in spread),
        tuple(size for size in mesh if isinstance(size, int)) if isinstance(mesh, tuple) else (),
        rank if isinstance(rank, int) else None,
    )


def _is_split(placements: Sequence[object], mesh: Sequence[object]) -> bool:
    """Whether a tensor is in parts: one rank alone, and ranks that all hold the same, take nothing away."""
    return any(how != _WHOLE and size != 1 for how, size in zip(placements, mesh, strict=False))
