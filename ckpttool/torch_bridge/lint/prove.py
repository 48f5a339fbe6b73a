"""The table that explains Parameter and Buffer for one model: seen, not recited.

Each column is an experiment on a throw-away build: membership by identity, one forward, one step of
SGD, one ``.to(device)``, one state_dict into a fresh build.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckpttool.torch_bridge.lint.probes import (
    Example,
    Reload,
    Transfer,
    all_tensors,
    attempt,
    equal_bytes,
    forward_model,
    registered_tensors,
    snapshot,
    weigh,
)
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.reference import iter_filled
from ckpttool.values.lint import Proof

_SYNTHETIC = "the sum of all parameters"
_FORWARD = "forward of the example input"


class Step(NamedTuple):
    """One step of SGD: copies of all tensors before the forward, before the step and after it.

    ``ran``: there was a forward. ``loss`` says what the step was for, empty if there was none.
    """

    ran: bool
    loss: str
    before: dict[str, torch.Tensor]
    stepping: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    note: str = ""


def take_step(source: ModelSource, example: Example | None) -> Step:
    """Make one forward (with an example), one backward and one step of SGD over ``parameters()``.

    Raises:
        ModelImportFailed: the forward raises.
    """
    if example is None:
        model, output = source.build(), None
        before = snapshot(all_tensors(model))
    else:
        before = snapshot(all_tensors(source.build()))
        model, _, output = forward_model(source, example)
    ran = example is not None
    parameters = [parameter for parameter in model.parameters() if not bool(is_lazy(parameter))]
    stepping = snapshot(all_tensors(model))
    if not parameters:
        return Step(
            ran, "", before, stepping, stepping, "no step: parameters() is empty, and SGD refuses that"
        )
    loss, text = weigh(output), _FORWARD
    if loss is None:
        # The plain sum has gradient 1 everywhere: nothing stands still because it happens to be 0.
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if not trained:
            return Step(ran, "", before, stepping, stepping, "no step: no parameter requires a gradient")
        loss, text = torch.stack([_real_sum(parameter) for parameter in trained]).sum(), _SYNTHETIC
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    _, error = attempt("backward()", source.text, loss.backward)
    if error is None:
        _, error = attempt("a step of SGD", source.text, optimizer.step)
    note = "" if error is None else f"no step: {error.what}"
    return Step(ran, text, before, stepping, all_tensors(model), note)


def _real_sum(parameter: nn.Parameter) -> torch.Tensor:
    total = parameter.sum() if parameter.element_size() > 1 else parameter.float().sum()
    return (total.real + total.imag if total.is_complex() else total).to(torch.float32)


def prove(
    model: nn.Module, keys: Mapping[str, str], step: Step, moved: Transfer, reloaded: Reload, device: str
) -> dict[str, Proof]:
    """One proof per tensor by its name; ``keys`` maps names to the keys that they have in the state_dict."""
    in_parameters = {id(parameter) for parameter in model.parameters()}
    return {
        name: Proof(
            requires_grad=tensor.requires_grad,
            in_parameters=id(tensor) in in_parameters,
            in_state_dict=name in keys,
            changed_by_forward=_differs(step.before, step.stepping, name) if step.ran else None,
            changed_by_step=_differs(step.stepping, step.after, name),
            moved=_arrived(moved, name, device),
            restored=(reloaded.restored or {}).get(name),
        )
        for name, tensor in all_tensors(model).items()
    }


def _differs(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], name: str) -> bool | None:
    equal = equal_bytes(before.get(name), after.get(name))
    return None if equal is None else not equal


def _arrived(moved: Transfer, name: str, device: str) -> bool | None:
    arrival = moved.after.get(name)
    return None if arrival is None else arrival.device == device


def state_names(model: nn.Module, state: Mapping[str, object]) -> dict[str, str]:
    """Name of a slot -> its key in the state_dict, for those that have one.

    It is the slot's own name, or, behind a wrapper that renames keys, the one of the same tensor.
    """
    names = {name: name for name in registered_tensors(model) if name in state}
    others: dict[int, list[str]] = {}
    for key, value in state.items():
        if key not in names:
            others.setdefault(id(value), []).append(key)
    for slot in iter_filled(model):
        keys = others.get(id(slot.tensor), [])
        if slot.full_name not in names and keys:
            names[slot.full_name] = keys.pop(0)
    return names
