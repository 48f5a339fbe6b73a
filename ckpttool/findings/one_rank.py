"""A file in which one process of a distributed job saved its own part of every tensor.

As FSDP2 has it in DTensors, and FSDP1 in ShardedTensors.
"""

from __future__ import annotations

from collections.abc import Iterator

from ckpttool.findings.text import Evidence, short_name
from ckpttool.values.checkpoint import CompositeTensor, Entry, Finding
from ckpttool.values.words import cut, format_shape, plural, some

_MOST_PARTS = 2  # of one tensor, in a message


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
    local = " and ".join([format_shape(part.value.shape) for part in value.local_parts[:_MOST_PARTS]])
    return f"{short_name(entry)} ({cut(how)}: {local or 'nothing'} of {format_shape(value.shape)})"


def _class_name(entry: Entry) -> str:
    """``DTensor`` or ``ShardedTensor``."""
    type_name = entry.value.type_name if isinstance(entry.value, CompositeTensor) else ""
    return cut(type_name.rpartition(".")[2])
