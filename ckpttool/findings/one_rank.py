"""A file in which one process of a distributed job saved its own part of every tensor.

As FSDP2 has it in DTensors, and FSDP1 in ShardedTensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckpttool.findings.text import Evidence, short_name
from ckpttool.values.checkpoint import (
    LOCAL_SHARDS,
    LOCAL_TENSOR,
    CompositeTensor,
    Entry,
    Finding,
    Part,
    Plain,
)
from ckpttool.values.inspection import Row, Spread
from ckpttool.values.words import cut, format_shape, plural, some

_WHOLE = "Replicate()"
_MOST_PARTS = 2  # of one tensor, in a message


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
        sum(sum(part.value.numel for part in _local(value)) for _, value, _ in spread),
        sum(value.numel for _, value, _ in spread),
        tuple(size for size in mesh if isinstance(size, int)) if isinstance(mesh, tuple) else (),
        rank if isinstance(rank, int) else None,
    )


def _local(value: CompositeTensor) -> list[Part]:
    """The parts that are here of what is spread."""
    return [part for part in value.parts if part.name.startswith((LOCAL_TENSOR, LOCAL_SHARDS))]


def _is_split(placements: Sequence[object], mesh: Sequence[object]) -> bool:
    """Whether a tensor is in parts: one rank alone, and ranks that all hold the same, take nothing away."""
    return any(how != _WHOLE and size != 1 for how, size in zip(placements, mesh, strict=False))


def find_one_rank(evidence: Evidence) -> Iterator[Finding]:
    """That a file has one rank's part of its tensors, and how they are spread."""
    spread = evidence.spread
    if spread is None:
        return
    who = "" if spread.rank is None else f" (rank {spread.rank} saved it)"
    which = some(spread.entries, _placed)
    fact = (
        f"{spread.fact} of {plural(len(spread.entries), _class_name(spread.entries[0]))} on a mesh of "
        f"{format_shape(spread.mesh)}{who}: {which}; the rest is in the other ranks' files: save with "
        "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)), or with "
        "torch.distributed.checkpoint"
    )
    yield Finding("one-rank", "warning", str(spread.entries[0].name), fact)


def _placed(entry: Entry) -> str:
    """``0.weight (Shard(0): 3×4 of 6×4)``."""
    value = entry.value
    if not isinstance(value, CompositeTensor):
        return short_name(entry)
    placements = dict(value.details)["placements"]
    how = ", ".join(map(str, placements)) if isinstance(placements, tuple) else ""
    local = " and ".join([format_shape(part.value.shape) for part in _local(value)[:_MOST_PARTS]])
    return f"{short_name(entry)} ({cut(how)}: {local or 'nothing'} of {format_shape(value.shape)})"


def _class_name(entry: Entry) -> str:
    """``DTensor`` or ``ShardedTensor``."""
    type_name = entry.value.type_name if isinstance(entry.value, CompositeTensor) else ""
    return cut(type_name.rpartition(".")[2])
