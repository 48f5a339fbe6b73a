"""Rules that look at what the probes did: loading (4xx), conversion (5xx), one forward (6xx)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ckpttool.torch_bridge.lint.facts import Facts, Hit
from ckpttool.torch_bridge.lint.probes import Arrival, Forward, Reload, Transfer
from ckpttool.torch_bridge.reference import is_extra_state, iter_custom_load
from ckpttool.torch_bridge.tensors import is_tensor, type_name
from ckpttool.values.checkpoint import Kind
from ckpttool.values.words import indefinite

_INTO_EXPANDED = "single memory location"  # of torch's message when copy_ meets an expanded tensor


# -- 4xx: state_dict and back -----------------------------------------------------------------------


def find_failing_reload(facts: Facts) -> Iterator[Hit]:
    """A state_dict of its own that a fresh build refuses."""
    error = facts.reload.error
    if error is not None and _INTO_EXPANDED not in str(error.__cause__):  # which CKPT205 explains
        message = f"{error.what}; what was copied before it stays copied: the model is half written"
        yield Hit("", message, "make the saving side and the loading side agree, for every key")


def find_silent_reload(facts: Facts) -> Iterator[Hit]:
    """Keys that load without a word and come back with other bytes."""
    for key in facts.reload.differing:
        message = '"All keys matched", and yet the tensor in the file is not the one in the model afterwards'
        yield Hit(key, message, "look at hooks, set_extra_state and _load_from_state_dict of its module")


def find_own_loading(facts: Facts) -> Iterator[Hit]:
    """Modules whose saving or loading is not torch's own."""
    for own in iter_custom_load(facts.modules.items()):
        if own.renames:
            what = ", ".join([*own.methods, *(f"a {hook}" for hook in own.hooks)])
            kind = type(facts.modules[own.path]).__name__
            message = f"{kind} has {what}: keys in a file may differ from attributes"
            yield Hit(own.path, message, "keep both sides in one class, and test an old file against them")


def find_opaque_extra_state(facts: Facts) -> Iterator[Hit]:
    """Extra state that is no tensor."""
    for key, value in facts.state.items():
        if is_extra_state(key) and not is_tensor(value):
            given = indefinite(type(value).__name__)
            message = f"get_extra_state() gives {given}: safetensors has no place for it, and strict=True "
            message += "misses it"
            yield Hit(key, message, "return a tensor (of bytes, if need be), or keep it beside the weights")


# -- 5xx: .to() and .double() -----------------------------------------------------------------------


def find_unmoved(facts: Facts) -> Iterator[Hit]:
    """Registered tensors that ``.to()`` leaves where they are: an override of ``_apply``."""
    for name, arrival in _registered_after(facts, facts.moved):
        if not arrival.is_meta:
            message = f'registered, and yet on {arrival.device} after .to("meta"): an _apply stops it'
            yield Hit(name, message, "call super()._apply(fn) in every override, and return its result")


def find_uncast(facts: Facts) -> Iterator[Hit]:
    """Registered floats that keep their dtype under ``.double()``, though they move."""
    unmoved = {hit.name for hit in find_unmoved(facts)}
    for name, arrival in _registered_after(facts, facts.cast):
        dtype = arrival.dtype
        if dtype.is_floating_point and dtype is not torch.float64 and name not in unmoved:
            message = f"stays {type_name(dtype)} under .double(), and so under .half(): an _apply keeps it"
            yield Hit(name, message, "nothing, if the precision is meant; it is not visible in the file")


def find_stale_aliases(facts: Facts) -> Iterator[Hit]:
    """Attributes that were a registered tensor and are an old copy after a conversion."""
    kinds = {slot.full_name: slot.kind for slot in facts.slots}
    # A move to meta makes new Parameters, one to a GPU does not: there only buffers count.
    stale = facts.cast.stale | {
        name for name in facts.moved.stale if kinds.get(facts.moved.aliases[name]) is not Kind.PARAMETER
    }
    computed = {stray.name for stray in facts.strays if stray.computed}
    for name, owner in facts.moved.aliases.items():
        if name in stale and name not in computed:
            message = f"shares memory with {owner}, but only until .to() or .double(): then it is the old "
            message += "tensor, on the old device"
            yield Hit(name, message, "look the tensor up when it is needed: getattr(self, name)")


def find_failing_conversions(facts: Facts) -> Iterator[Hit]:
    """Conversions that raise."""
    for error in (facts.cast.error, facts.moved.error):
        if error is not None:
            yield Hit("", error.what, "let _apply and to() pass every function on to the tensors")


def find_keys_changed_by_conversion(facts: Facts) -> Iterator[Hit]:
    """Keys that come or go when a model is cast, moved or loaded."""
    probes = ((facts.cast, ".double()"), (facts.moved, '.to("meta")'), (facts.reload, "load_state_dict()"))
    for probe, what in probes:
        for name, message in _key_changes(probe, what):
            yield Hit(name, message, "pass persistent= again where a buffer is registered anew")


def _registered_after(facts: Facts, transfer: Transfer) -> Iterator[tuple[str, Arrival]]:
    for slot in facts.iter_filled():
        arrival = transfer.after.get(slot.full_name)
        if arrival is not None and not arrival.lazy:
            yield slot.full_name, arrival


def _key_changes(probe: Transfer | Reload | Forward, what: str) -> Iterator[tuple[str, str]]:
    old, new = dict.fromkeys(probe.keys_before), dict.fromkeys(probe.keys_after)
    for key in new:
        if key not in old:
            yield key, f'a key of the state_dict only after {what}: "Unexpected" in a fresh model'
    for key in old:
        if key not in new:
            yield key, f'no key of the state_dict any more after {what}: "Missing" in a fresh model'


# -- 6xx: one forward -------------------------------------------------------------------------------


def find_keys_changed_by_forward(facts: Facts) -> Iterator[Hit]:
    """Keys that come or go during a forward."""
    for name, message in _key_changes(facts.forward, "a forward"):
        if name not in facts.forward.non_persistent_before:
            yield Hit(name, message, "give the slot its tensor in __init__, or persistent=False")


def find_flags_lost_in_forward(facts: Facts) -> Iterator[Hit]:
    """Non-persistent buffers that a forward made persistent."""
    message = "persistent=False until a forward assigned a new nn.Buffer or Parameter to it: now it is saved"
    fix = "assign the plain tensor, which keeps the flag, or nn.Buffer(..., persistent=False)"
    for name in sorted(facts.forward.non_persistent_before.intersection(facts.forward.keys_after)):
        yield Hit(name, message, fix)


def find_learning_non_persistent(facts: Facts) -> Iterator[Hit]:
    """Non-persistent buffers that learn or count."""
    for slot in facts.slots:
        if slot.kind is Kind.NON_PERSISTENT_BUFFER and slot.full_name in facts.forward.learned:
            message = "not persistent, but another value after each forward on the same input: what it "
            message += "learned or counted is lost with every save"
            yield Hit(slot.full_name, message, "persistent=True, unless it may start again at any time")


def find_caches(facts: Facts) -> Iterator[Hit]:
    """Tensors that a forward left in a plain attribute and ``.to()`` leaves behind."""
    for name in sorted(facts.forward.unmoved):
        message = "made by the first forward and kept as a plain attribute: stays on the device and in the "
        message += "dtype of that forward"
        yield Hit(name, message, "register_buffer(name, None, persistent=False) in __init__, then assign")


def find_kept_graphs(facts: Facts) -> Iterator[Hit]:
    """Results of a forward in attributes, with all that led to them."""
    for name in sorted(facts.forward.appeared & facts.forward.graphs):
        message = "kept from the last forward with its gradient history: its activations stay in memory, and "
        message += "copy.deepcopy(model) raises"
        yield Hit(name, message, "store .detach(), or return it")


def find_buffers_with_history(facts: Facts) -> Iterator[Hit]:
    """Buffers that were updated without ``no_grad``."""
    message = "has a gradient history after a forward: each step keeps the graphs of all steps before it"
    for slot in facts.slots:
        if slot.kind is not Kind.PARAMETER and slot.full_name in facts.forward.graphs:
            yield Hit(slot.full_name, message, "update it under torch.no_grad(), or from .detach()")
