"""The table that explains Parameter and Buffer for one model: seen, not recited.

Each column is an experiment on a throw-away build: membership by identity, one forward, one step of
SGD, one ``.to(device)``, one state_dict into a fresh build.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from ckpttool.torch_bridge.door import ask
from ckpttool.torch_bridge.lint import probes
from ckpttool.torch_bridge.lint.facts import Facts
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.reference import iter_filled
from ckpttool.torch_bridge.tensors import NamedTensors, is_lazy
from ckpttool.values.lint import Proof


class Step(NamedTuple):
    """One step of SGD: copies of all tensors before the forward, before the step and after it.

    ``ran``: there was a forward. ``loss`` says what the step was for, empty if there was none.
    """

    ran: bool
    loss: str
    before: NamedTensors
    stepping: NamedTensors
    after: NamedTensors
    note: str = ""


def take_step(source: ModelSource, example: probes.Example | None) -> Step:
    """Make one forward (with an example), one backward and one step of SGD over ``parameters()``.

    Raises:
        ModelImportFailed: the forward raises.
    """
    if example is None:
        model, output = source.build(), None
        before = probes.snapshot(probes.all_tensors(model))
    else:
        before = probes.snapshot(probes.all_tensors(source.build()))
        model, _, output = probes.forward_model(source, example)
    ran = example is not None
    held, refused = probes.attempt("parameters()", lambda: list(model.parameters()))
    parameters = [parameter for parameter in held or () if not bool(is_lazy(parameter))]
    stepping = probes.snapshot(probes.all_tensors(model))
    not_made = Step(ran, "", before, stepping, stepping)
    if refused is not None:
        return not_made._replace(note=f"no step: {refused.what}")
    if not parameters:
        return not_made._replace(note="no step: parameters() is empty, and SGD refuses that")
    loss, text = probes.weigh(output), "forward of the example input"
    if loss is None:
        # The plain sum has gradient 1 everywhere: nothing stands still because it happens to be 0.
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if not trained:
            return not_made._replace(note="no step: no parameter requires a gradient")
        loss, text = torch.stack(list(map(_real_sum, trained))).sum(), "the sum of all parameters"
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    _, error = probes.attempt("backward()", loss.backward)
    if error is None:
        _, error = probes.attempt("a step of SGD", optimizer.step)
    note = "" if error is None else f"no step: {error.what}"
    return Step(ran, text, before, stepping, probes.all_tensors(model), note)


def _real_sum(parameter: nn.Parameter) -> torch.Tensor:
    return (torch.view_as_real(parameter) if parameter.is_complex() else parameter).float().sum()


def prove(facts: Facts, step: Step, moved: probes.Transfer, device: str) -> dict[str, Proof]:
    """One proof per tensor by its name; ``moved`` is the move to ``device``."""
    parameters: set[int] = ask(lambda: set(map(id, facts.model.parameters())), set())
    keys, restored = state_names(facts), facts.reload.restored or {}
    return {
        name: Proof(
            requires_grad=tensor.requires_grad,
            in_parameters=id(tensor) in parameters,
            in_state_dict=name in keys,
            changed_by_forward=_differs(step.before, step.stepping, name) if step.ran else None,
            changed_by_step=_differs(step.stepping, step.after, name),
            moved=moved.after[name].device == device if name in moved.after else None,
            restored=restored.get(name),
        )
        for name, tensor in probes.all_tensors(facts.model).items()
    }


def _differs(before: NamedTensors, after: NamedTensors, name: str) -> bool | None:
    equal = probes.equal_bytes(before.get(name), after.get(name))
    return None if equal is None else not equal


def state_names(facts: Facts) -> dict[str, str]:
    """Name of a slot -> its key in the state_dict, for those that have one.

    It is the slot's own name, or, behind a wrapper that renames keys, the one of the same tensor.
    """
    names = {name: name for name in probes.registered_tensors(facts.model) if name in facts.state}
    others: dict[int, list[str]] = {}
    for key, value in facts.state.items():
        if key not in names:
            others.setdefault(id(value), []).append(key)
    for slot in iter_filled(facts.model):
        keys = others.get(id(slot.tensor), [])
        if slot.full_name not in names and keys:
            names[slot.full_name] = keys.pop(0)
    return names
