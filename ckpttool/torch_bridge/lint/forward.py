"""The probe that runs the model: one forward, and the same again."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from ckpttool.torch_bridge.lint.probes import (
    Example,
    attempt,
    changed,
    non_persistent_slots,
    registered_tensors,
    run_forward,
    snapshot,
    state_keys,
    storage_of,
)
from ckpttool.torch_bridge.lint.scan import iter_tensors, stray_tensors
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.values.errors import ModelImportFailed


class Forward(NamedTuple):
    """What two equal forwards in train mode do to a model; ``mode`` is empty where none was run.

    ``changed`` compares before and after both, ``learned`` after the first and after the second;
    ``kept`` are tensors that the first left in a plain attribute and the second did not replace,
    ``unmoved`` those of them that ``.to("meta")`` leaves behind; ``graphs`` hold a gradient history.
    """

    mode: str = ""
    keys_before: tuple[str, ...] = ()
    keys_after: tuple[str, ...] = ()
    non_persistent_before: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    learned: frozenset[str] = frozenset()
    appeared: frozenset[str] = frozenset()
    unmoved: frozenset[str] = frozenset()
    graphs: frozenset[str] = frozenset()


def forward_model(source: ModelSource, example: Example) -> tuple[nn.Module, str, object]:
    """A build after one forward, in train mode, or in eval mode where train mode raises.

    Raises:
        ModelImportFailed: it raises in both.
    """
    model = source.build().train()
    try:
        return model, "train", run_forward(source, model, example)
    except ModelImportFailed:
        model = source.build().eval()  # batch norm refuses a batch of one while it trains
        return model, "eval", run_forward(source, model, example)


def probe_forward(source: ModelSource, example: Example) -> Forward:
    """Run two forwards on a fresh build and compare.

    Raises:
        ModelImportFailed: the forward raises.
    """
    fresh = source.build()
    keys, slots, transient = state_keys(source, fresh), registered_tensors(fresh), non_persistent_slots(fresh)
    known = stray_tensors(fresh).keys()
    model, mode, _ = forward_model(source, example)
    first, first_strays = registered_tensors(model), stray_tensors(model)
    # Held, so that no later tensor takes the address of one that a second forward drops.
    after_first = snapshot(first)
    run_forward(source, model, example)
    second, strays = registered_tensors(model), stray_tensors(model)
    graphs = {name for name, tensor in (second | strays).items() if tensor.grad_fn is not None}
    owned = set(map(storage_of, second.values()))
    appeared = {name for name in strays if name not in known and storage_of(strays[name]) not in owned}
    kept = {name for name in appeared if first_strays.get(name) is strays[name]}
    keys_after = state_keys(source, model)
    changed_names = changed(slots, second)
    learned = changed(after_first, second)
    _, error = attempt(".to('meta') after a forward", source.text, lambda: model.to("meta"))
    moved = stray_tensors(model) if error is None else {}
    unmoved = {name for name in kept if name in moved and not moved[name].is_meta}
    return Forward(
        mode,
        keys,
        keys_after,
        transient,
        changed_names,
        learned,
        frozenset(appeared),
        frozenset(unmoved),
        frozenset(graphs),
    )


def weigh(output: object) -> torch.Tensor | None:
    """A loss of whatever a forward returned: each element by a weight of its own, so that none cancel."""
    total: torch.Tensor | None = None
    for tensor in iter_tensors(output):
        if not tensor.requires_grad or tensor.numel() == 0:
            continue
        real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        weights = torch.arange(real.numel(), device=real.device, dtype=torch.float32).add_(1).cos_()
        part = (real.reshape(-1).float() * weights).sum()
        total = part if total is None else total + part
    return total
