"""Which entries of a model are one tensor, or views of one, and whether they still are after a load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ckpttool.analysis.model_spec import ModelSpec
from ckpttool.torch_bridge.poison import is_plain


def tie_groups(spec: ModelSpec) -> list[tuple[str, ...]]:
    """Names of the model's entries that share memory: one tensor, or views that overlap."""
    by_storage: dict[str, list[tuple[int, int, str]]] = {}
    for entry in spec.checkpoint.entries:
        info = entry.tensor
        if info is not None and info.storage is not None and info.numel:
            by_storage.setdefault(info.storage.key, []).append((*info.byte_span, str(entry.name)))
    groups: list[list[str]] = []
    for spans in by_storage.values():
        end = -1
        for start, stop, name in sorted(spans):
            if start >= end:
                groups.append([])
            groups[-1].append(name)
            end = max(end, stop)
    return [tuple(names) for names in groups if len(names) > 1]


def share_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors that hold data view one storage."""
    if a.is_meta or b.is_meta or not is_plain(a) or not is_plain(b):
        return False
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def find_untied(groups: Sequence[tuple[str, ...]], held: Mapping[str, torch.Tensor]) -> list[tuple[str, ...]]:
    """Groups of the model as built of which not all members share memory any more."""
    found = []
    for group in groups:
        there = [held[name] for name in group if name in held and is_plain(held[name])]
        if len(there) > 1 and not all(share_memory(there[0], other) for other in there[1:]):
            found.append(group)
    return found
