"""Several files and an index, in the convention of Hugging Face (``split_torch_state_dict_into_shards``).

- ``model-00001-of-00003.safetensors`` and ``model.safetensors.index.json``, or for ``.pt``
  ``pytorch_model-00001-of-00003.bin`` and ``pytorch_model.bin.index.json``.
- What fits into one file is one file without an index: ``model.safetensors``, ``pytorch_model.bin``.
- A shard takes tensors in the order of the source until the next would exceed the limit; one that is
  larger than the limit has a shard of its own. Tensors that share a piece stay together.
- The index: ``metadata.total_size`` is the bytes of all tensors, ``weight_map`` name -> file, both
  sorted, two spaces of indent, a newline at the end.
- ``__metadata__`` stands in the first shard; the others say ``format=pt`` only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from ckpttool.conversion import safetensors
from ckpttool.conversion.layout import FileLayout, Segment
from ckpttool.conversion.pt import torch_zip
from ckpttool.values.conversion import ContainerName, ConversionPlan, Piece, Planned

_STEMS: dict[ContainerName, tuple[str, str]] = {
    "safetensors": ("model", ".safetensors"),
    "pt": ("pytorch_model", ".bin"),
}
INDEX_SUFFIX = ".index.json"


def lay_out_file(plan: ConversionPlan, name: str) -> list[FileLayout]:
    """The destination as one file called ``name``.

    Raises:
        LimitExceeded: a header would be longer than readers accept.
    """
    if plan.options.container == "safetensors":
        return [safetensors.lay_out(name, plan.tensors, plan.pieces, plan.metadata)]
    contents = torch_zip.Contents(
        plan.tensors,
        plan.values,
        plan.objects,
        plan.containers,
        plan.module_versions,
        plan.module_extras,
    )
    return [torch_zip.lay_out(name, contents, plan.pieces)]


def lay_out_folder(plan: ConversionPlan, max_shard_nbytes: int) -> list[FileLayout]:
    """The destination as files of a folder; the index, if there is one, comes last.

    Raises:
        LimitExceeded: a header would be longer than readers accept.
    """
    stem, suffix = _STEMS[plan.options.container]
    shards = split(plan.tensors, plan.pieces, max_shard_nbytes)
    if len(shards) == 1:
        return lay_out_file(plan, stem + suffix)
    names = [f"{stem}-{number:05d}-of-{len(shards):05d}{suffix}" for number in range(1, len(shards) + 1)]
    layouts = [
        _lay_out_shard(plan, name, shard, first=name is names[0])
        for name, shard in zip(names, shards, strict=True)
    ]
    files = {str(tensor.name): name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    total = sum(_nbytes(tensor) for tensor in plan.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": files}
    data = (json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
    return [*layouts, FileLayout(stem + suffix + INDEX_SUFFIX, len(data), [Segment(0, len(data), data)])]


def split(tensors: Sequence[Planned], pieces: Sequence[Piece], max_shard_nbytes: int) -> list[list[Planned]]:
    """Tensors by shard."""
    shards: list[list[Planned]] = [[]]
    shard_of: dict[int, int] = {}
    filled = 0
    for tensor in tensors:
        used = pieces_of(tensor)
        together = [shard_of[piece] for piece in used if piece in shard_of]
        if together:
            shards[together[0]].append(tensor)
            continue
        nbytes = sum(pieces[piece].nbytes for piece in used)
        if shards[-1] and filled + nbytes > max_shard_nbytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += nbytes
        shard_of.update(dict.fromkeys(used, len(shards) - 1))
    return shards


def _lay_out_shard(plan: ConversionPlan, name: str, tensors: Sequence[Planned], *, first: bool) -> FileLayout:
    if plan.options.container == "safetensors":
        metadata = plan.metadata if first else {"format": "pt"}
        return safetensors.lay_out(name, tensors, plan.pieces, metadata)
    contents = torch_zip.Contents(tensors)
    if first:
        contents = contents._replace(module_versions=plan.module_versions, module_extras=plan.module_extras)
    return torch_zip.lay_out(name, contents, plan.pieces)


def pieces_of(tensor: Planned) -> list[int]:
    """Positions of the pieces that a tensor views."""
    return [placed.piece for placed in torch_zip.leaves_of(tensor)]


def _nbytes(tensor: Planned) -> int:
    return sum((math.prod(leaf.shape) * leaf.dtype.bits + 7) // 8 for leaf in torch_zip.leaves_of(tensor))
