"""Everything that the rules of ``lint`` look at, gathered once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from ckpttool.torch_bridge.accelerator import accelerator
from ckpttool.torch_bridge.door import is_a
from ckpttool.torch_bridge.lint import probes
from ckpttool.torch_bridge.lint.scan import Stray, iter_strays
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.reference import Registered, iter_modules, iter_registered, named_state
from ckpttool.torch_bridge.tensors import is_tensor
from ckpttool.values.errors import UnsupportedFeature


class Hit(NamedTuple):
    """What a rule found: where, one sentence, and what to write instead."""

    name: str
    message: str
    fix: str


class Facts(NamedTuple):
    """A fresh build, and what the probes saw of others.

    ``modules`` has each module once, by its first path; ``slots`` are theirs. ``moved`` is a move
    to ``meta``, which shows on every machine what is left behind.
    """

    model: nn.Module
    modules: dict[str, nn.Module]
    slots: tuple[Registered, ...]
    strays: tuple[Stray, ...]
    state: dict[str, Any]
    builds: probes.Rebuilds
    cast: probes.Transfer
    moved: probes.Transfer
    reload: probes.Reload
    forward: probes.Forward

    def iter_filled(self) -> Iterator[Registered]:
        """Slots that hold a tensor."""
        return (slot for slot in self.slots if is_tensor(slot.held))


def gather(source: ModelSource, example: probes.Example | None) -> Facts:
    """Build the model several times and probe it.

    Raises:
        ModelImportFailed: it cannot be built, has no state_dict, or its forward raises.
        UnsupportedFeature: it is TorchScript, whose modules cannot be looked into.
    """
    model = source.build()
    if is_a(model, torch.jit.ScriptModule):
        raise UnsupportedFeature(f"{source.text} gives a TorchScript module")
    builds = probes.compare_builds(source, model)
    state = named_state(model, source.text)
    modules = dict(iter_modules(model))
    return Facts(
        model=model,
        modules=modules,
        slots=tuple(slot for slot in iter_registered(model) if slot.path in modules),
        strays=tuple(iter_strays(model)),
        state=state,
        builds=builds,
        cast=probes.transfer(source, ".double()", lambda fresh: fresh.double()),
        moved=probes.transfer(source, ".to('meta')", lambda fresh: fresh.to("meta")),
        reload=probes.reload(source, example),
        forward=probes.Forward() if example is None else probes.probe_forward(source, example),
    )


def move_for_proof(source: ModelSource, facts: Facts) -> tuple[str, probes.Transfer]:
    """The accelerator, or ``meta``, which is everywhere, and a move to it; that to ``meta`` is made."""
    device = accelerator()
    if device is None:
        return "meta", facts.moved
    return device, probes.transfer(source, f".to('{device}')", lambda fresh: fresh.to(device))
