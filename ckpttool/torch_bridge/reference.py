"""A live module -> its entries with exact kinds.

Kinds come from each module's own ``_parameters``, ``_buffers`` and ``_non_persistent_buffers_set``,
mapped to state_dict keys by object identity through ``state_dict(keep_vars=True)``. Never by
``isinstance`` (``register_buffer("x", nn.Parameter(…))`` is legal) and never by the names of
``named_buffers`` (checkpoint wrappers rename).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckpttool.torch_bridge.model import ModelSource, foreign_code
from ckpttool.values.checkpoint import (
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
from ckpttool.values.dtypes import DType, parse_torch_name
from ckpttool.values.errors import ModelImportFailed, UnsupportedFeature
from ckpttool.values.model import CustomLoad, ModelSpec

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
    """``state_dict(keep_vars=True)``: the module's own tensor objects under the keys of a file.

    A ``state_dict`` of the user's own that takes no such argument gives detached ones.
    """
    state: dict[str, Any]
    try:
        state = module.state_dict(keep_vars=True)
    except TypeError:
        state = module.state_dict()
    return state


def non_persistent_names(module: nn.Module, state: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """Non-persistent buffers under the names that they would have in a state_dict.

    Wrappers rename keys on the way out, by hooks of their own: so the state_dict is taken once more
    with every buffer persistent. What does not appear there has the path of its module.
    """
    buffers = [
        (slot.full_name, slot.tensor)
        for slot in iter_registered(module)
        if slot.kind is Kind.NON_PERSISTENT_BUFFER and slot.tensor is not None
    ]
    if not buffers:
        return {}
    state = named_state(module) if state is None else state
    keys: dict[object, list[str]] = {}
    try:
        with foreign_code("taking the state_dict", "the model"), _all_persistent(module):
            for key, value in named_state(module).items():
                if key not in state and isinstance(value, torch.Tensor):
                    keys.setdefault(_view(value), []).append(key)
    except ModelImportFailed:  # a hook that does not expect these keys
        keys = {}
    found: dict[str, torch.Tensor] = {}
    for name, buffer in buffers:
        known = keys.get(_view(buffer), [])
        found[name if name in known or not known else known.pop(0)] = buffer
    return found


@contextlib.contextmanager
def _all_persistent(module: nn.Module) -> Iterator[None]:
    """Every buffer is persistent inside; afterwards all is as it was."""
    kept = [(child, child._non_persistent_buffers_set) for child in module.modules()]
    try:
        for child, _ in kept:
            child._non_persistent_buffers_set = set()
        yield
    finally:
        for child, names in kept:
            child._non_persistent_buffers_set = names


def describe_model(module: nn.Module, text: str, note: str = "") -> ModelSpec:
    """The spec of a built module; ``text`` is how the user named it.

    Raises:
        ModelImportFailed: a hook or an override of the model's own raises.
        UnsupportedFeature: a dtype that has no entry in the dtype table.
    """
    with foreign_code(f"taking the state_dict of {text}", text):
        state = named_state(module)
        registered = tuple(iter_registered(module))
        transient = non_persistent_names(module, state)
        custom_load = tuple(iter_custom_load(module.named_modules()))
    slots = _Slots(registered)
    storages = _Storages()
    entries = [
        Entry((), key, storages.describe(value), _requires_grad(value), slots.classify(key, value))
        for key, value in state.items()
    ]
    declared = Classification(Kind.NON_PERSISTENT_BUFFER, Basis.MODULE, Presence.PRESENT)
    entries += [
        Entry((), name, storages.describe(buffer), buffer.requires_grad, declared)
        for name, buffer in transient.items()
        if name not in state
    ]
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
        _class_name(type(module)),
        note,
        tuple(slot.full_name for slot in registered if slot.tensor is None),
        tuple(name for name, value in state.items() if _is_lazy(value)),
        custom_load,
    )


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


class _Slots:
    """Registered tensors by object, and by what they view: a state_dict may hold detached ones."""

    def __init__(self, registered: Iterable[Registered]) -> None:
        self.by_id: dict[int, list[Registered]] = {}
        self.by_view: dict[object, list[Registered]] = {}
        for slot in registered:
            if slot.tensor is not None:
                self.by_id.setdefault(id(slot.tensor), []).append(slot)
                self.by_view.setdefault(_view(slot.tensor), []).append(slot)

    def classify(self, key: str, value: Any) -> Classification:
        """The kind of one state_dict entry by the slots that hold this very tensor."""
        found = self.by_id.get(id(value), [])
        if not found and isinstance(value, torch.Tensor):
            found = self.by_view.get(_view(value), [])
        # One tensor may stand in several slots, as a parameter here and a buffer there: the slot of
        # this very name decides.
        for slot in found:
            if slot.full_name == key:
                return Classification(slot.kind, Basis.MODULE)
        # After the slots: what get_extra_state returns may be a registered tensor itself.
        name = key.rpartition(".")[2]
        if name == _EXTRA_STATE:
            return Classification(Kind.EXTRA_STATE, Basis.MODULE)
        # Renamed by a wrapper: non-persistent slots are not saved, and wrappers keep the last part.
        saved = [slot for slot in found if slot.kind is not Kind.NON_PERSISTENT_BUFFER]
        kinds = {slot.kind for slot in saved if slot.name == name} or {slot.kind for slot in saved}
        if len(kinds) == 1:
            return Classification(kinds.pop(), Basis.MODULE)
        note = "one tensor, registered as parameter and as buffer" if kinds else "made by a state_dict hook"
        return Classification(Kind.UNKNOWN, Basis.NONE, note=note)


def _view(tensor: torch.Tensor) -> object:
    """What tells one view of a storage from another; the object itself where there is no storage."""
    if _is_lazy(tensor) or tensor.layout is not torch.strided or tensor.is_nested or _is_wrapper(tensor):
        return id(tensor)
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset()


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
        if value.is_nested:
            return CompositeTensor("nested", type(value).__name__, dtype, None, ())
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


_METHODS = (
    "load_state_dict",
    "_load_from_state_dict",
    "state_dict",
    "_save_to_state_dict",
    "get_extra_state",
)
_HOOKS = {
    "_state_dict_pre_hooks": "state_dict pre-hook",
    "_state_dict_hooks": "state_dict hook",
    "_load_state_dict_pre_hooks": "load_state_dict pre-hook",
    "_load_state_dict_post_hooks": "load_state_dict post-hook",
}


def iter_custom_load(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[CustomLoad]:
    """Modules whose saving or loading is not that of the layers of torch.

    What else torch ships, such as observers and parametrizations, renames keys as anybody's code does.
    """
    for path, child in modules:
        found = [name for name in _METHODS if not _is_of_torch_nn(getattr(type(child), name))]
        found += [
            said
            for attribute, said in _HOOKS.items()
            if any(not _is_of_torch_nn(hook) for hook in getattr(child, attribute, {}).values())
        ]
        if found:
            yield CustomLoad(path, tuple(found))


def _is_of_torch_nn(function: Any) -> bool:
    """Whether torch wrote it for a layer of its own: batch norm tells old files, lazy layers find shapes."""
    for attribute in ("hook", "func", "__func__"):  # torch wraps hooks, and binds modules to them
        function = getattr(function, attribute, function)
    return str(getattr(function, "__module__", "")).startswith("torch.nn.modules.")


def save_buffers(source: ModelSource, names: Collection[str], path: str) -> None:
    """Build the model on CPU and save those of its non-persistent buffers that ``names`` asks for.

    Raises:
        ModelImportFailed: the factory fails.
        OSError: ``path`` cannot be written.
    """
    buffers = non_persistent_names(source.build(device="cpu"))
    torch.save({name: buffers[name].detach() for name in buffers if name in names}, path)
