"""Experiments on throw-away builds of a model: what really happens to each of its tensors.

Every probe builds the model anew. A deep copy would be cheaper, and raises for tensors with a
gradient history, which are among what is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ckpttool.torch_bridge.accelerator import seeded
from ckpttool.torch_bridge.door import foreign_code
from ckpttool.torch_bridge.lint.scan import iter_tensors, stray_tensors
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.reference import iter_filled, iter_registered
from ckpttool.torch_bridge.tensors import NamedTensors, has_bytes, is_lazy, same_bytes
from ckpttool.values.checkpoint import Kind
from ckpttool.values.errors import ModelImportFailed

T = TypeVar("T")
Example = Callable[[], tuple[torch.Tensor, ...]]
"""Makes the arguments of one forward, the same on every call."""


# -- looking at a model -----------------------------------------------------------------------------


def registered_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers under every name that they have."""
    return {slot.full_name: slot.tensor for slot in iter_filled(model)}


def all_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Registered tensors, then those in plain attributes."""
    return {**stray_tensors(model), **registered_tensors(model)}


def state_keys(source: ModelSource, model: nn.Module) -> tuple[str, ...]:
    """The keys of the model's state_dict.

    Raises:
        ModelImportFailed: hooks or overrides of the user's model raise.
    """
    with foreign_code(f"taking the state_dict of {source.text}"):
        return tuple(model.state_dict())


def storage_of(tensor: torch.Tensor) -> int:
    """The address of the tensor's storage; 0 where it has none."""
    return tensor.untyped_storage().data_ptr() if has_bytes(tensor) else 0


def equal_bytes(a: object, b: object) -> bool | None:
    """Whether two tensors have the same bytes; None if one of them has none to compare, or is no tensor."""
    return same_bytes(a.cpu(), b.cpu()) if has_bytes(a) and has_bytes(b) else None


def snapshot(tensors: NamedTensors) -> dict[str, torch.Tensor]:
    """Copies of those that have bytes."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items() if has_bytes(tensor)}


def changed(before: NamedTensors, after: NamedTensors) -> frozenset[str]:
    """Names in both whose bytes differ."""
    return frozenset(name for name, old in before.items() if equal_bytes(old, after.get(name)) is False)


def attempt(doing: str, action: Callable[[], T]) -> tuple[T | None, ModelImportFailed | None]:
    """What the user's code gives, or the error that it raises."""
    try:
        with foreign_code(doing):
            return action(), None
    except ModelImportFailed as error:
        return None, error


# -- builds -----------------------------------------------------------------------------------------


class _OtherDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes each random operation draw twice: other numbers come out, whoever seeded the generator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func``, and once before for nothing if it draws."""
        if torch.Tag.nondeterministic_seeded in func.tags:
            func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class Rebuilds(NamedTuple):
    """What other builds of the same model say of its values, by names of slots.

    ``varies``: bytes differ under another seed. ``constant``: the constructor computes the bytes
    without random numbers, None if that could not be tried.
    """

    varies: frozenset[str]
    constant: frozenset[str] | None


def compare_builds(source: ModelSource, model: nn.Module) -> Rebuilds:
    """Build twice more: once seeded otherwise, and once with other numbers from every generator.

    Raises:
        ModelImportFailed: the factory gives one and the same module again.
    """
    other = source.build(seed=1)
    if other is model:
        what = f"{source.text} gives the same module on every call, and it must be built anew"
        raise ModelImportFailed(what, hint="name the function or class that makes it")
    tensors = registered_tensors(model)
    varies = changed(tensors, registered_tensors(other))
    del other
    try:
        with _OtherDraws():  # type: ignore[no-untyped-call]
            redrawn = registered_tensors(source.build())
    except ModelImportFailed:
        return Rebuilds(varies, None)  # some constructors do not run under a dispatch mode
    names = [name for name, old in tensors.items() if equal_bytes(old, redrawn.get(name))]
    return Rebuilds(varies, frozenset(names))


# -- .double() and .to(device) ----------------------------------------------------------------------


class Arrival(NamedTuple):
    """What is left to know of a tensor after a transfer; the tensor itself would keep its memory."""

    dtype: torch.dtype
    device: str
    lazy: bool

    @property
    def is_meta(self) -> bool:
        """Whether it has no data."""
        return self.device == "meta"


class Transfer(NamedTuple):
    """What another dtype or device made of a model. ``keys`` are those of its state_dict.

    ``aliases`` maps a tensor in a plain attribute to the registered one whose memory it shared
    before; ``stale`` are those that share no registered tensor's memory afterwards, though that was
    transferred.
    """

    after: dict[str, Arrival]
    keys_before: tuple[str, ...]
    keys_after: tuple[str, ...]
    aliases: dict[str, str]
    stale: frozenset[str]
    error: ModelImportFailed | None = None


def transfer(source: ModelSource, doing: str, action: Callable[[nn.Module], object]) -> Transfer:
    """Apply ``action`` (``.double()`` or ``.to(...)``) to a fresh build."""
    model = source.build()
    strays = stray_tensors(model)
    owners = {storage_of(tensor): name for name, tensor in registered_tensors(model).items()}
    owners.pop(0, None)
    aliases = {name: owners[at] for name, tensor in strays.items() if (at := storage_of(tensor)) in owners}
    keys = state_keys(source, model)
    _, error = attempt(doing, lambda: action(model))
    if error is not None:
        return Transfer({}, keys, keys, aliases, frozenset(), error)
    after = {
        name: Arrival(tensor.dtype, tensor.device.type, bool(is_lazy(tensor)))
        for name, tensor in all_tensors(model).items()
    }
    strays = stray_tensors(model)
    owned = {storage_of(tensor) for tensor in registered_tensors(model).values()}
    stale = frozenset(
        name
        for name in aliases
        if name in strays and storage_of(strays[name]) not in owned and not strays[name].is_meta
    )
    return Transfer(after, keys, state_keys(source, model), aliases, stale)


# -- state_dict and back ----------------------------------------------------------------------------


class Reload(NamedTuple):
    """A state_dict of one build, loaded strictly into another one.

    ``differing`` are keys that come back with other bytes; ``restored`` says of each tensor whether
    bytes that no constructor makes arrived, and is None where the load raised.
    """

    error: ModelImportFailed | None
    keys_before: tuple[str, ...] = ()
    keys_after: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    restored: Mapping[str, bool | None] | None = None


def reload(source: ModelSource, example: Example | None = None) -> Reload:
    """Save one build, altered in every byte, and load it into a fresh one."""
    saved, target = source.build(seed=1), source.build()
    if example is not None and any(is_lazy(tensor) for tensor in registered_tensors(saved).values()):
        run_forward(source, saved, example)
    keys = state_keys(source, target)
    doing = "loading its own state_dict into a fresh build"
    _, error = attempt(doing, lambda: target.load_state_dict(saved.state_dict(), strict=True))
    if error is not None:
        return Reload(error)
    untouchable = {storage_of(tensor) for tensor in all_tensors(target).values()}
    alter(all_tensors(saved), untouchable)
    state, error = attempt(doing, saved.state_dict)
    if error is None:
        _, error = attempt(doing, lambda: target.load_state_dict(state or {}, strict=True))
    if state is None or error is not None:
        return Reload(None, keys, state_keys(source, target))  # hooks may refuse values that make no sense
    after = target.state_dict()
    differing = tuple(key for key, value in state.items() if equal_bytes(value, after.get(key)) is False)
    arrived = all_tensors(target)
    restored = {
        name: None if storage_of(tensor) in untouchable else equal_bytes(tensor, arrived.get(name))
        for name, tensor in all_tensors(saved).items()
    }
    return Reload(None, keys, tuple(after), differing, restored)


def alter(tensors: NamedTensors, untouchable: set[int]) -> None:
    """Flip the lowest bit of every byte, once per storage; a bool stays a bool.

    ``untouchable`` are storages that several builds share: a cached table, say.
    """
    for address, tensor in {storage_of(tensor): tensor for tensor in tensors.values()}.items():
        if address and address not in untouchable:
            raw = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
            raw.bitwise_xor_(1)


# -- one forward, and the same again -----------------------------------------------------------------


class Forward(NamedTuple):
    """What two equal forwards in train mode do to a model; ``mode`` is empty where none was run.

    ``changed`` compares before and after both, ``learned`` after the first and after the second;
    ``appeared`` are tensors that they left in a plain attribute, ``unmoved`` those of them that the
    second did not replace and ``.to("meta")`` leaves behind; ``graphs`` hold a gradient history.
    """

    mode: str = ""
    keys_before: tuple[str, ...] = ()
    keys_after: tuple[str, ...] = ()
    non_persistent_before: frozenset[str] = frozenset()
    changed: Set[str] = frozenset()
    learned: Set[str] = frozenset()
    appeared: Set[str] = frozenset()
    unmoved: Set[str] = frozenset()
    graphs: Set[str] = frozenset()


def run_forward(source: ModelSource, model: nn.Module, example: Example) -> object:
    """Call the model once on the example, with seeded generators.

    Raises:
        ModelImportFailed: it raises.
    """
    inputs = example()
    with foreign_code(f"forward of {source.text} on the example input"), seeded(0):
        return model(*inputs)


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
    keys, slots = state_keys(source, fresh), registered_tensors(fresh)
    buffers = [slot for slot in iter_registered(fresh) if slot.kind is Kind.NON_PERSISTENT_BUFFER]
    transient = frozenset(slot.full_name for slot in buffers)  # also of empty slots
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
    _, error = attempt(".to('meta') after a forward", lambda: model.to("meta"))
    moved = stray_tensors(model) if error is None else {}
    unmoved = {name for name in kept if name in moved and not moved[name].is_meta}
    return Forward(mode, keys, keys_after, transient, changed_names, learned, appeared, unmoved, graphs)


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
