"""``lint M``: finds the traps of Parameter and Buffer in a model, and proves what each tensor is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch

from ckpttool.torch_bridge.door import looking_into
from ckpttool.torch_bridge.lint.facts import Facts, gather, move_for_proof
from ckpttool.torch_bridge.lint.probes import Example
from ckpttool.torch_bridge.lint.prove import prove, state_names, take_step
from ckpttool.torch_bridge.lint.rules import RULES
from ckpttool.torch_bridge.lint.scan import stray_tensors
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.reference import class_name, is_extra_state, iter_filled
from ckpttool.torch_bridge.tensors import is_lazy, is_tensor, type_name
from ckpttool.values.checkpoint import Kind
from ckpttool.values.lint import LintEntry, LintFinding, LintReport, Proof

InputSpec = tuple[tuple[int, ...], str]
"""Shape, and dtype as torch names it."""


def lint_model(source: ModelSource, example: Example | None = None, *, proved: bool = False) -> LintReport:
    """Build the model several times, probe the builds, and report; ``example`` allows rules that run it.

    Raises:
        ModelImportFailed: it cannot be built, its state_dict() raises, or its forward does.
        UnsupportedFeature: it is TorchScript, whose modules cannot be looked into.
    """
    with warnings.catch_warnings(), looking_into(source.text):
        warnings.simplefilter("ignore")  # every build would repeat those of the user's code
        facts = gather(source, example)
        findings = tuple(
            LintFinding(rule.code, rule.severity, *hit) for rule in RULES for hit in rule.find(facts)
        )
        notes = _notes(facts)
        proofs: Mapping[str, Proof] = {}
        device, loss = "", ""
        if proved:
            step = take_step(source, example)
            device, moved = move_for_proof(source, facts)
            proofs = prove(facts, step, moved, device)
            loss = step.loss
            notes += (step.note,) if step.note else ()
        return LintReport(
            model=source.text,
            class_name=class_name(facts.model),
            findings=findings,
            entries=tuple(_entries(facts, proofs)),
            notes=notes,
            device=device,
            loss=loss,
        )


def make_example(specs: Sequence[InputSpec]) -> Example:
    """Inputs of these shapes: normal floats, and integers 0 and 1, which are in every vocabulary."""

    def make() -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        inputs = []
        for shape, name in specs:
            dtype: torch.dtype = getattr(torch, name)
            if dtype.is_floating_point or dtype.is_complex:
                plain = torch.complex64 if dtype.is_complex else torch.float32
                inputs.append(torch.randn(shape, dtype=plain, generator=generator).to(dtype))
            else:
                inputs.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
        return tuple(inputs)

    return make


def _notes(facts: Facts) -> tuple[str, ...]:
    notes = []
    if not facts.forward.mode:
        notes.append("no forward was run, so CKPT601-606 were not checked: --example-input SHAPE[:dtype]")
    elif facts.forward.mode == "eval":
        notes.append("the forward raises in train mode with this input, so it ran in eval mode")
    if facts.builds.constant is None:
        notes.append(
            "the constructor does not run under a dispatch mode: CKPT201 and CKPT203 were not checked"
        )
    if facts.reload.error is None and facts.reload.restored is None:
        notes.append("its hooks refuse made-up values, so CKPT402 was not checked")
    return tuple(notes)


def _entries(facts: Facts, proofs: Mapping[str, Proof]) -> list[LintEntry]:
    """Registered tensors under every name, what else the state_dict has, then attributes."""
    slots = iter_filled(facts.model)
    entries = [_entry(slot.full_name, slot.kind.value, slot.tensor, proofs) for slot in slots]
    seen = {entry.name for entry in entries} | set(state_names(facts).values())
    for key, value in facts.state.items():
        if key not in seen:
            kind = Kind.EXTRA_STATE if is_extra_state(key) else Kind.UNKNOWN
            entries.append(_entry(key, kind.value, value, proofs))
    computed = {stray.name for stray in facts.strays if stray.computed}
    for name, tensor in stray_tensors(facts.model).items():
        entries.append(_entry(name, "computed" if name in computed else "attribute", tensor, proofs))
    return entries


def _entry(name: str, kind: str, value: object, proofs: Mapping[str, Proof]) -> LintEntry:
    proof = proofs.get(name)
    if proof is None and proofs:
        # Made by get_extra_state or a hook when it is saved: there is no tensor to follow.
        proof = Proof(None, False, True, None, None, None, None)
    if not is_tensor(value):
        return LintEntry(name, kind, None, None, proof)
    shape = None if is_lazy(value) else tuple(value.shape)
    return LintEntry(name, kind, type_name(value.dtype), shape, proof)
