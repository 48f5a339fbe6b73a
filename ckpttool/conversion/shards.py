"""Several files and an index, in the convention of Hugging Face (``split_torch_state_dict_into_shards``).

- ``model-00001-of-00003.safetensors`` and ``model.safetensors.index.json``, or for ``.pt``
  ``pytorch_model-00001-of-00003.bin`` and ``pytorch_model.bin.index.json``.
- What fits into one file is one file without an index: ``model.safetensors``, ``pytorch_model.bin``.
- A shard takes tensors in the order of the source until the next would exceed the limit; one that is
  larger than the limit has a shard of its own. Tensors that share a piece stay together.
- The index: ``metadata.total_size`` is the bytes of all tensors, ``weight_map`` name -> file, both
  sorted, two spaces of indent, a newline at the end.
- ``__metadata__`` and ``_metadata`` stand in the first shard; the others say ``format=pt`` only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from ckpttool.conversion.containers import load_container
from ckpttool.conversion.layout import FileLayout, SegmentList
from ckpttool.values.conversion import ConversionPlan, Piece, Planned

INDEX_SUFFIX = ".index.json"


def lay_out_file(plan: ConversionPlan, name: str) -> list[FileLayout]:
    """The destination as one file called ``name``.

    Raises:
        LimitExceeded: a header would be longer than readers accept.
    """
    return [load_container(plan.options.container).lay_out(name, plan)]


def lay_out_folder(plan: ConversionPlan, max_shard_nbytes: int) -> list[FileLayout]:
    """The destination as files of a folder; the index, if there is one, comes last.

    Raises:
        LimitExceeded: a header would be longer than readers accept.
    """
    container = load_container(plan.options.container)
    stem, suffix = container.stem, container.suffix
    shards = split(plan.tensors, plan.pieces, max_shard_nbytes)
    if len(shards) == 1:
        return lay_out_file(plan, stem + suffix)
    by_file = {f"{stem}-{at:05d}-of-{len(shards):05d}{suffix}": shard for at, shard in enumerate(shards, 1)}
    part = plan._replace(values=(), objects=(), containers=())
    whose = {key: text for key, text in plan.metadata.items() if key == "format"}
    layouts = []
    for name, shard in by_file.items():
        layouts.append(container.lay_out(name, part._replace(tensors=tuple(shard))))
        # What stands around the tensors is in the first shard.
        part = part._replace(module_versions={}, module_extras={}, metadata=whose)
    files = {str(tensor.name): name for name, shard in by_file.items() for tensor in shard}
    total = sum(_nbytes(tensor) for tensor in plan.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": files}
    data = (json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
    segments = SegmentList()
    segments.add_literal(data)
    return [*layouts, segments.layout(stem + suffix + INDEX_SUFFIX)]


def split(tensors: Sequence[Planned], pieces: Sequence[Piece], max_shard_nbytes: int) -> list[list[Planned]]:
    """Tensors by shard."""
    shards: list[list[Planned]] = [[]]
    shard_of: dict[int, list[Planned]] = {}
    groups = _tie(tensors)
    used: dict[int, set[int]] = {}
    for group, tensor in zip(groups, tensors, strict=True):
        used.setdefault(group, set()).update(placed.piece for placed in tensor.leaves)
    filled = 0
    for group, tensor in zip(groups, tensors, strict=True):
        if group not in shard_of:
            nbytes = sum(pieces[piece].nbytes for piece in used[group])
            if shards[-1] and filled + nbytes > max_shard_nbytes:
                shards.append([])
                filled = 0
            shard_of[group] = shards[-1]
            filled += nbytes
        shard_of[group].append(tensor)
    return shards


def _tie(tensors: Sequence[Planned]) -> list[int]:
    """For each tensor the position of the first that it shares a piece with, be it by way of others."""
    first = list(range(len(tensors)))
    owner: dict[int, int] = {}  # of a piece

    def find(position: int) -> int:
        while first[position] != position:
            first[position] = first[first[position]]
            position = first[position]
        return position

    for position, tensor in enumerate(tensors):
        for placed in tensor.leaves:
            one, other = find(position), find(owner.setdefault(placed.piece, position))
            first[max(one, other)] = min(one, other)
    return [find(position) for position in range(len(first))]


def _nbytes(tensor: Planned) -> int:
    return sum((math.prod(leaf.shape) * leaf.dtype.bits + 7) // 8 for leaf in tensor.leaves)
