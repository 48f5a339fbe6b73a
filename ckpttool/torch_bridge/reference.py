"""A live module -> its entries with exact kinds.

Kinds come from each module's own ``_parameters``, ``_buffers`` and ``_non_persistent_buffers_set``,
mapped to state_dict keys by object identity through ``state_dict(keep_vars=True)``. Never by
``isinstance`` (``register_buffer("x", nn.Parameter(…))`` is legal) and never by the names of
``named_buffers`` (checkpoint wrappers rename).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckpttool.analysis.model_spec import ModelSpec
from ckpttool.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    CompositeTensor,
    Entry,
    Kind,
    Presence,
    StorageRef,
    Tensor,
    TensorInfo,
)
from ckpttool.dtypes import DType, parse_torch_name
from ckpttool.errors import UnsupportedFeature

MODEL_FILE = "<model>"
_EXTRA_STATE = "_extra_state"  # torch.nn.modules.module._EXTRA_STATE_KEY_SUFFIX


class Registered(NamedTuple):
    """One slot of a module's own dicts. ``path`` is the module's, as ``named_modules`` gives it."""

    path: str
    name: str
    kind: Kind
    tensor: torch.Tensor | None

    @property
    def full_name(self) -> str:
        """``path.name``."""
        return f"{self.path}.{self.name}" if self.path else self.name


def iter_registered(module: nn.Module) -> Iterator[Registered]:
    """Every parameter and buffer slot, shared modules under each of their paths, None included."""
    for path, child in module.named_modules(remove_duplicate=False):
        for name, parameter in child._parameters.items():
            yield Registered(path, name, Kind.PARAMETER, parameter)
        for name, buffer in child._buffers.items():
            transient = name in child._non_persistent_buffers_set
            kind = Kind.NON_PERSISTENT_BUFFER if transient else Kind.PERSISTENT_BUFFER
            yield Registered(path, name, kind, buffer)


def named_state(module: nn.Module) -> dict[str, Any]:
    """``state_dict(keep_vars=True)``: the module's own tensor objects under the keys of a file."""
    state: dict[str, Any] = module.state_dict(keep_vars=True)
    return state


def non_persistent_names(module: nn.Module, state: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """Non-persistent buffers under the names that they would have in a state_dict.

    A wrapper that renames keys on the way out renames these, too: its rule is learnt from the
    persistent entries, whose names are known both ways.
    """
    state = named_state(module) if state is None else state
    renames = _path_renames(module, state)
    found = {}
    for slot in iter_registered(module):
        if slot.kind is Kind.NON_PERSISTENT_BUFFER and slot.tensor is not None:
            path = _rename(slot.path, renames)
            found[f"{path}.{slot.name}" if path else slot.name] = slot.tensor
    return found


def describe_model(module: nn.Module, text: str, note: str = "") -> ModelSpec:
    """The spec of a built module; ``text`` is how the user named it.

    Raises:
        UnsupportedFeature: a dtype that has no entry in the dtype table.
    """
    state = named_state(module)
    slots: dict[int, list[Registered]] = {}
    for slot in iter_registered(module):
        if slot.tensor is not None:
            slots.setdefault(id(slot.tensor), []).append(slot)
    storages = _Storages()
    entries = [
        Entry((), key, storages.describe(value), _requires_grad(value), _classify(key, value, slots))
        for key, value in state.items()
    ]
    known = {entry.name for entry in entries}
    declared = Classification(Kind.NON_PERSISTENT_BUFFER, Basis.MODULE, Presence.PRESENT)
    for name, buffer in non_persistent_names(module, state).items():
        if name not in known:
            entries.append(Entry((), name, storages.describe(buffer), buffer.requires_grad, declared))
    versions = {path: local.get("version") for path, local in getattr(state, "_metadata", {}).items()}
    checkpoint = Checkpoint(
        path=text,
        format="model",
        layout=type(module).__name__,
        files=(),
        entries=tuple(entries),
        module_versions={(): versions},
    )
    return ModelSpec(
        checkpoint,
        f"{type(module).__module__}.{type(module).__qualname__}",
        note,
        tuple(slot.full_name for slot in iter_registered(module) if slot.tensor is None),
        tuple(name for name, value in state.items() if _is_lazy(value)),
        tuple(_custom_load(module)),
        tuple(
            (path, f"{type(child).__module__}.{type(child).__qualname__}")
            for path, child in module.named_modules(remove_duplicate=False)
        ),
    )


def _classify(key: str, value: Any, slots: dict[int, list[Registered]]) -> Classification:
    """The kind of one state_dict entry by the slots that hold this very object."""
    if key.rpartition(".")[2] == _EXTRA_STATE:
        return Classification(Kind.EXTRA_STATE, Basis.MODULE)
    found = slots.get(id(value))
    if not found:
        return Classification(Kind.UNKNOWN, Basis.NONE, note="made by a state_dict hook")
    # One object may stand in several slots, as a parameter here and a buffer there: the slot of
    # this very name decides, else the first that a state_dict would save.
    for slot in found:
        if slot.full_name == key:
            return Classification(slot.kind, Basis.MODULE)
    saved = [slot for slot in found if slot.kind is not Kind.NON_PERSISTENT_BUFFER]
    return Classification((saved or found)[0].kind, Basis.MODULE)


class _Storages:
    """Storages numbered in order of appearance; those seen are kept alive so that ids stay theirs."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.alive: list[Any] = []

    def describe(self, value: Any) -> Tensor | None:
        """A tensor as addresses without bytes; None for what is no tensor (extra state)."""
        if not isinstance(value, torch.Tensor):
            return None
        if _is_lazy(value):
            return CompositeTensor(
                "uninitialized", f"torch.nn.parameter.{type(value).__name__}", None, None, ()
            )
        dtype = dtype_of(value)
        if value.layout is not torch.strided or _is_wrapper(value):
            name = str(value.layout).removeprefix("torch.")
            layout = "subclass" if value.layout is torch.strided else name
            return CompositeTensor(layout, type(value).__name__, dtype, tuple(value.shape), ())
        storage = value.untyped_storage()
        self.alive.append(storage)
        number = self.numbers.setdefault(storage._cdata, len(self.numbers))
        ref = StorageRef(MODEL_FILE, str(number), 0, storage.nbytes(), "meta")
        return TensorInfo(
            dtype,
            tuple(value.shape),
            value.stride(),
            int(value.storage_offset()),
            ref,
            value.is_conj(),
            value.is_neg(),
        )


def dtype_of(tensor: torch.Tensor) -> DType:
    """The dtype table's entry for a tensor.

    Raises:
        UnsupportedFeature: a dtype that is newer than the table.
    """
    dtype = parse_torch_name(str(tensor.dtype))
    if dtype is None:
        raise UnsupportedFeature(f"{tensor.dtype} is not a dtype known here")
    return dtype


def _is_lazy(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and bool(is_lazy(value))


def _is_wrapper(value: torch.Tensor) -> bool:
    """Whether a subclass holds its data in inner tensors (DTensor, quantised weights)."""
    return hasattr(type(value), "__tensor_flatten__")


def _requires_grad(value: Any) -> bool | None:
    return bool(value.requires_grad) if isinstance(value, torch.Tensor) else None


def _path_renames(module: nn.Module, state: dict[str, Any]) -> dict[str, str]:
    """Module path -> prefix in the state_dict, where wrappers make the two differ."""
    keys = {id(value): key for key, value in state.items()}
    renames = {}
    for slot in iter_registered(module):
        key = keys.get(id(slot.tensor)) if slot.tensor is not None else None
        if key is None or key == slot.full_name or slot.full_name in state:
            continue
        prefix, _, name = key.rpartition(".")
        if name == slot.name:
            renames[slot.path] = prefix
    return renames


def _rename(path: str, renames: dict[str, str]) -> str:
    """``path`` with its longest known leading module path replaced."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        head = ".".join(parts[:cut])
        if head in renames:
            return ".".join(filter(None, [renames[head], *parts[cut:]]))
    return path


def _custom_load(module: nn.Module) -> Iterator[str]:
    """Modules whose loading is not torch's own: keys in a file may differ from their attributes."""
    for path, child in module.named_modules():
        found = []
        if type(child)._load_from_state_dict is not nn.Module._load_from_state_dict:
            found.append("_load_from_state_dict")
        if child._load_state_dict_pre_hooks:
            found.append("load_state_dict pre-hook")
        if child._state_dict_hooks:
            found.append("state_dict hook")
        if type(child).get_extra_state is not nn.Module.get_extra_state:
            found.append("get_extra_state")
        # Batch norm overrides loading to tell old files without num_batches_tracked: nothing odd.
        if found and not type(child).__module__.startswith("torch.nn.modules."):
            yield f"{path or 'the model'} ({', '.join(found)})"
