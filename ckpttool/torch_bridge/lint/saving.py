"""Rules about what is saved: persistence (2xx), and memory that several entries share (3xx)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from ckpttool.torch_bridge.door import is_a
from ckpttool.torch_bridge.lint.facts import Facts, Hit
from ckpttool.torch_bridge.lint.probes import storage_of
from ckpttool.torch_bridge.reference import Registered, iter_filled, iter_modules, slots_by
from ckpttool.torch_bridge.tensors import byte_view, has_bytes
from ckpttool.values.checkpoint import Kind
from ckpttool.values.words import agree, plural

_TABLE_NBYTES = 1024  # below, a rebuildable buffer (a mean, a scale) is not worth a remark
_UNUSED_NBYTES = 1024  # of a storage that torch.save writes for nothing
_UNUSED_SHARE = 0.1  # as `inspect` has it


# -- 2xx: persistence -------------------------------------------------------------------------------


def find_rebuildable(facts: Facts) -> Iterator[Hit]:
    """Persistent tables that the constructor computes without random numbers and nothing updates."""
    for slot in facts.iter_filled():
        constant = slot.kind is Kind.PERSISTENT_BUFFER and _is_constant(facts, slot)
        if constant and slot.tensor.nbytes >= _TABLE_NBYTES:
            message = (
                f"persistent, and every build computes the same {plural(slot.tensor.nbytes, 'byte')}: each "
            )
            message += "file carries them, and the size is locked"
            fix = "register_buffer(..., persistent=False); older files then have an unexpected key to drop"
            yield Hit(slot.full_name, message, fix)


def find_random_constants(facts: Facts) -> Iterator[Hit]:
    """Non-persistent buffers with random values: a fresh build has others, and no file brings them back."""
    for slot in facts.iter_filled():
        if slot.kind is Kind.NON_PERSISTENT_BUFFER and slot.full_name in facts.builds.varies:
            message = "not persistent, but random: a fresh build holds other values, and loading does not "
            message += "restore these"
            yield Hit(slot.full_name, message, "persistent=True, or draw it from a generator of fixed seed")


def find_frozen_constants(facts: Facts) -> Iterator[Hit]:
    """Frozen parameters that are tables: ``requires_grad_(True)`` on the model would train them."""
    for slot in facts.iter_filled():
        frozen = slot.kind is Kind.PARAMETER and not slot.tensor.requires_grad
        if frozen and _is_constant(facts, slot):
            message = "frozen Parameter that every build computes alike: requires_grad_(True) on the model "
            message += "would train it, and a state_dict does not say that it was frozen"
            yield Hit(slot.full_name, message, "make it a buffer; the key stays the same")


def _is_constant(facts: Facts, slot: Registered) -> bool:
    """Whether no build varies it, no forward changed it, and it is more than one value repeated."""
    name, tensor = slot.full_name, slot.tensor
    if name not in (facts.builds.constant or ()) or not has_bytes(tensor):
        return False
    if name in facts.builds.varies or name in facts.forward.changed:
        return False
    rows = byte_view(tensor).reshape(tensor.numel(), -1)
    return bool((rows != rows[0]).any())


def find_large_storages(facts: Facts) -> Iterator[Hit]:
    """Entries that look into a storage that is larger than all that is registered of it."""
    for group in _by_storage(_saved(facts)):
        tensors = [slot.tensor for slot in group]
        views = {(t.storage_offset(), t.shape, t.stride(), t.dtype): t.nbytes for t in tensors}
        whole, used = tensors[0].untyped_storage().nbytes(), sum(views.values())
        if whole - used >= max(_UNUSED_NBYTES, whole * _UNUSED_SHARE):
            message = f"a view: torch.save writes all {plural(whole, 'byte')} of its storage for "
            message += f"{plural(used, 'byte')} of entries"
            yield Hit(group[0].full_name, message, "register a .clone() of the part that is used")


def find_expanded(facts: Facts) -> Iterator[Hit]:
    """Elements that share memory with each other: ``copy_`` cannot write them, so loading raises."""
    for slot in _saved(facts):
        if has_bytes(slot.tensor) and _overlaps_itself(slot.tensor):
            message = "expanded: several elements lie in one place, so load_state_dict raises"
            fix = "expand(...).clone(), or register the small one and expand later"
            yield Hit(slot.full_name, message, fix)


def find_non_contiguous(facts: Facts) -> Iterator[Hit]:
    """Strides other than row-major ones, of what is saved."""
    for slot in _saved(facts):
        tensor = slot.tensor
        if has_bytes(tensor) and not tensor.is_contiguous() and not _overlaps_itself(tensor):
            message = f"not row-major (stride {tuple(tensor.stride())}): safetensors' save_file refuses it"
            yield Hit(slot.full_name, message, ".contiguous() before it is registered")


def find_batch_norms_without_statistics(facts: Facts) -> Iterator[Hit]:
    """Batch norms with ``track_running_stats=False``."""
    for path, module in facts.modules.items():
        if is_a(module, _BatchNorm) and module._buffers.get("running_mean") is None:
            message = "batch norm without running statistics: eval() uses those of the batch, too, and files "
            message += "of its twin with statistics have unexpected keys"
            yield Hit(path, message, "track_running_stats=True, unless batch statistics are meant")


def find_averaged_buffers(facts: Facts) -> Iterator[Hit]:
    """``AveragedModel`` with ``use_buffers=False`` around a model that has persistent buffers."""
    for path, module in facts.modules.items():
        if is_a(module, AveragedModel) and not module.use_buffers:
            count = sum(slot.kind is Kind.PERSISTENT_BUFFER for slot in iter_filled(module.module))
            if count:
                message = (
                    f"averages parameters only: {plural(count, 'buffer stays', 'buffers stay')} as copied"
                )
                fix = "use_buffers=True, or torch.optim.swa_utils.update_bn at the end"
                yield Hit(path, message, fix)


def _saved(facts: Facts) -> Iterator[Registered]:
    return (slot for slot in facts.iter_filled() if slot.kind is not Kind.NON_PERSISTENT_BUFFER)


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


# -- 3xx: sharing -----------------------------------------------------------------------------------


def find_tied(facts: Facts) -> Iterator[Hit]:
    """One Parameter in several modules."""
    for slots in slots_by(lambda slot: id(slot.tensor), facts.iter_filled()).values():
        parameters = [slot for slot in slots if slot.kind is Kind.PARAMETER]
        for slot in parameters[1:]:
            message = f"tied to {parameters[0].full_name}: two keys in a .pt, one in safetensors; to_empty() "
            message += "and load_state_dict(assign=True) untie them"
            fix = "tie again after such a load; verify shows whether it held"
            yield Hit(slot.full_name, message, fix)


def find_shared_modules(facts: Facts) -> Iterator[Hit]:
    """A module with tensors under several paths; its children go without saying."""
    first = {id(module): path for path, module in facts.modules.items()}
    reported: list[str] = []
    for path, module in iter_modules(facts.model, every_path=True):
        original = first[id(module)]
        if path == original or any(path.startswith(f"{known}.") for known in reported):
            continue
        keys = len(list(iter_filled(module)))
        if keys:
            reported.append(path)
            saved = plural(keys, "tensor is", "tensors are")
            message = f"the same module as {original}: {saved} saved under both names, and "
            message += f"parameters() lists {agree(keys, 'it', 'them')} once"
            yield Hit(path, message, "call the one module twice, or deepcopy it if two were meant")


def find_buffers_in_parameters(facts: Facts) -> Iterator[Hit]:
    """Buffers in the memory of a parameter."""
    for slot, other in _overlaps(facts):
        buffer, parameter = (other, slot) if slot.kind is Kind.PARAMETER else (slot, other)
        if buffer.kind is not Kind.PARAMETER and parameter.kind is Kind.PARAMETER:
            message = f"lies in the memory of the parameter {parameter.full_name} and changes with it; .to() "
            message += "makes two of them, which drift apart, and safetensors refuses the pair"
            yield Hit(buffer.full_name, message, "register .detach().clone(), or compute it in forward")


def find_overlapping_parameters(facts: Facts) -> Iterator[Hit]:
    """Two Parameters with common memory: tied by accident of storage, and only until ``.to()``."""
    for slot, other in _overlaps(facts):
        if slot.kind is Kind.PARAMETER and other.kind is Kind.PARAMETER and slot.tensor is not other.tensor:
            message = f"another Parameter in the memory of {other.full_name}: tied on this device only, "
            message += ".to() unties them, and an optimizer steps twice"
            yield Hit(slot.full_name, message, "assign the same Parameter object to tie them, else .clone()")


def find_overlapping_buffers(facts: Facts) -> Iterator[Hit]:
    """Two buffers with common memory."""
    for slot, other in _overlaps(facts):
        if Kind.PARAMETER not in (slot.kind, other.kind):
            message = f"shares memory with the buffer {other.full_name}: .to() makes two of them, so an "
            message += "update in place reaches one only"
            yield Hit(slot.full_name, message, "register it once and pass it on, or .clone() it")


def _by_storage(slots: Iterator[Registered]) -> Iterator[list[Registered]]:
    """Slots that look into one storage."""
    groups = slots_by(lambda slot: storage_of(slot.tensor), slots)
    return (group for address, group in groups.items() if address)


def _overlaps(facts: Facts) -> Iterator[tuple[Registered, Registered]]:
    """(later, earlier) slots whose byte spans meet: each with the one that reaches furthest before it."""
    for group in _by_storage(facts.iter_filled()):
        reach, holder = 0, group[0]
        # Parameters first at equal starts, so that a buffer is told which parameter it lies in.
        for slot in sorted(group, key=lambda slot: (_span(slot)[0], slot.kind is not Kind.PARAMETER)):
            start, end = _span(slot)
            if start < reach:
                yield slot, holder
            if end > reach:
                reach, holder = end, slot


def _span(slot: Registered) -> tuple[int, int]:
    """(start, end) of its bytes in the storage."""
    tensor = slot.tensor
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset()) * tensor.element_size()
    return start, start + (int(last) + 1) * tensor.element_size()
