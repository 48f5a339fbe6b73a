"""Rules about registration (1xx): what a model holds without owning it, and slots that mislead."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ckpttool.torch_bridge.door import is_a
from ckpttool.torch_bridge.lint.facts import Facts, Hit
from ckpttool.torch_bridge.lint.scan import Stray, is_stock
from ckpttool.torch_bridge.reference import iter_filled, slots_by
from ckpttool.torch_bridge.tensors import is_lazy, is_parameter, is_tensor, type_name
from ckpttool.values.checkpoint import Kind
from ckpttool.values.words import agree, plural

_ASSIGN = "assign it to the module itself"
_REGISTER = 'self.register_buffer("{}", ..., persistent=False) for a constant, persistent=True for a state'


def find_plain_tensors(facts: Facts) -> Iterator[Hit]:
    """Tensors in attributes that neither ``.to`` nor ``.double`` reaches."""
    for stray, tensor in _unregistered(facts):
        if is_parameter(tensor) or _has_history(tensor):
            continue
        effects = _left_behind(facts, stray.name, tensor)
        if effects:
            yield Hit(stray.name, f"tensor attribute, not registered: {effects}, is not saved", _fix(stray))


def find_plain_parameters(facts: Facts) -> Iterator[Hit]:
    """Parameters that no module registered."""
    for stray, tensor in _unregistered(facts):
        if is_parameter(tensor):
            message = "Parameter that no module registered: not in parameters(), so not trained, not saved"
            fix = _ASSIGN if stray.direct else "use nn.ParameterList or ParameterDict"
            yield Hit(stray.name, message, fix)


def find_plain_modules(facts: Facts) -> Iterator[Hit]:
    """Modules with tensors that no module registered; those that only look at registered ones own nothing."""
    known = {id(slot.tensor) for slot in facts.iter_filled()}
    for stray in facts.strays:
        if not is_a(stray.value, nn.Module):
            continue
        slots = [slot for slot in iter_filled(stray.value) if id(slot.tensor) not in known]
        if slots:
            parameters = sum(slot.kind is Kind.PARAMETER for slot in slots)
            held = f"{plural(parameters, 'parameter')} and {plural(len(slots) - parameters, 'buffer')}"
            message = f"{type(stray.value).__name__} that no module registered: its {held} are not trained, "
            message += "moved or saved"
            yield Hit(stray.name, message, _ASSIGN if stray.direct else "use nn.ModuleList or nn.ModuleDict")


def find_tensors_with_history(facts: Facts) -> Iterator[Hit]:
    """``nn.Parameter(...).half()`` and the like: results of operations are plain tensors."""
    for stray, tensor in _unregistered(facts):
        if not is_parameter(tensor) and _has_history(tensor):
            how = f"the result of {tensor.grad_fn.name()}" if tensor.grad_fn is not None else "requires_grad"
            message = f"plain tensor with a gradient ({how}), not a Parameter: not trained, not saved"
            yield Hit(stray.name, message, "convert first, then wrap: nn.Parameter(tensor.half())")


def find_parameters_as_buffers(facts: Facts) -> Iterator[Hit]:
    """``register_buffer`` with an nn.Parameter, which torch accepts."""
    for slot in facts.iter_filled():
        if slot.kind is not Kind.PARAMETER and is_parameter(slot.tensor):
            message = "nn.Parameter in a buffer: isinstance says Parameter, parameters() leaves it out"
            fix = "assign the Parameter to train it, else register .detach().clone()"
            yield Hit(slot.full_name, message, fix)


def find_empty_slots(facts: Facts) -> Iterator[Hit]:
    """Slots that hold None and would get a key; those of torch's own layers are ordinary (``bias=False``)."""
    for slot in facts.slots:
        if slot.held is None and slot.kind is not Kind.NON_PERSISTENT_BUFFER:
            owner = facts.modules[slot.path]
            if any(is_stock(base) for base in type(owner).__mro__ if base is not nn.Module):
                continue
            what = "parameter" if slot.kind is Kind.PARAMETER else "persistent buffer"
            message = f"empty {what} slot: no key now, but one as soon as it is assigned, "
            message += 'which is then "Unexpected" in a fresh model'
            fix = "assign it in __init__ whenever the option is on; leave it None for good otherwise"
            yield Hit(slot.full_name, message, fix)


def find_uninitialized(facts: Facts) -> Iterator[Hit]:
    """Lazy modules before their first forward, one hit per module."""
    lazy = [slot for slot in facts.iter_filled() if is_lazy(slot.tensor)]
    for path, slots in slots_by(lambda slot: slot.path, lazy).items():
        names = ", ".join(slot.name for slot in slots)
        message = f"{names} {agree(len(slots), 'has', 'have')} no shape before the first forward: "
        message += "weights_only=True refuses such a file, safetensors cannot write one"
        yield Hit(path, message, "run one forward on an example before saving, or give the sizes")


def find_meta_tensors(facts: Facts) -> Iterator[Hit]:
    """Tensors without data in a model that was built on the CPU."""
    for slot in facts.iter_filled():
        if not is_lazy(slot.tensor) and slot.tensor.is_meta:
            message = "on the meta device after an ordinary build: it has no data, and .to() raises"
            yield Hit(slot.full_name, message, "compute it outside of torch.device('meta')")


def find_computed(facts: Facts) -> Iterator[Hit]:
    """Attributes that old-style hooks compute from parameters."""
    for stray in facts.strays:
        if stray.computed:
            message = "computed on each forward from other entries (_g and _v, or _orig); no key of its own"
            fix = "torch.nn.utils.parametrizations does the same, or prune.remove() to bake it"
            yield Hit(stray.name, message, fix)


def _unregistered(facts: Facts) -> Iterator[tuple[Stray, torch.Tensor]]:
    """Tensors in plain attributes that are neither computed nor aliases of registered ones."""
    for stray in facts.strays:
        known = stray.computed or stray.registered or stray.name in facts.moved.aliases
        if is_tensor(stray.value) and not known:
            yield stray, stray.value


def _has_history(tensor: torch.Tensor) -> bool:
    return tensor.requires_grad or tensor.grad_fn is not None


def _left_behind(facts: Facts, name: str, tensor: torch.Tensor) -> str:
    """How the two probes missed a tensor; empty if it followed them (an override of ``_apply``)."""
    moved, cast = facts.moved.after.get(name), facts.cast.after.get(name)
    effects = []
    if moved is not None and not moved.is_meta:
        effects.append(f'stays on {tensor.device.type} under .to("meta")')
    if cast is not None and tensor.is_floating_point() and cast.dtype is not torch.float64:
        effects.append(f"{type_name(tensor.dtype)} under .double()")
    return ", ".join(effects)


def _fix(stray: Stray) -> str:
    if stray.direct:
        leaf = stray.name.rpartition(".")[2]
        return f"{_REGISTER.format(leaf)}; with False existing checkpoints stay loadable"
    return "register each as a buffer under a name of its own, and look it up with getattr"
