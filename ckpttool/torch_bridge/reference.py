"""A live module -> its entries with exact kinds.

Kinds come from each module's own ``_parameters``, ``_buffers`` and ``_non_persistent_buffers_set``,
mapped to state_dict keys by object identity through ``state_dict(keep_vars=True)``. Never by
``isinstance`` (``register_buffer("x", nn.Parameter(…))`` is legal) and never by the names of
``named_buffers`` (checkpoint wrappers rename).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from ckpttool.torch_bridge.door import ask, foreign_code, is_a, looking_into
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.tensors import is_lazy, is_strided, is_tensor, type_name
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    CompositeTensor,
    Entry,
    Kind,
    StorageRef,
    Tensor,
    TensorInfo,
)
from ckpttool.values.dtypes import parse_torch_name
from ckpttool.values.errors import ModelImportFailed, UnsupportedFeature
from ckpttool.values.model import CustomLoad, ModelSpec
from ckpttool.values.words import indefinite

MODEL_FILE = "<model>"
_EXTRA_STATE = "_extra_state"  # torch.nn.modules.module._EXTRA_STATE_KEY_SUFFIX
T = TypeVar("T")


def join(path: str, name: str) -> str:
    """``path.name``, or the name alone in the module itself."""
    return f"{path}.{name}" if path else name


class Registered(NamedTuple):
    """One slot of a module's own dicts. ``path`` is the module's, as ``named_modules`` gives it.

    ``held`` is None in an empty slot; ``tensor`` is for those that ``iter_filled`` gives.
    """

    path: str
    name: str
    kind: Kind
    held: torch.Tensor | None

    @property
    def full_name(self) -> str:
        """``path.name``."""
        return join(self.path, self.name)

    @property
    def tensor(self) -> torch.Tensor:
        """What a slot that is not empty holds."""
        if self.held is None:
            raise ValueError(f"the slot {self.full_name} is empty")
        return self.held


def iter_modules(model: nn.Module, *, every_path: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """Every module with its path, in torch's order: once, or under each of its paths.

    By the modules' own dicts: an override of ``named_modules``, or a ``__hash__`` that a dataclass took away,
    has no say. A module within itself is not entered again.
    """
    seen: set[int] = set()
    stack: list[tuple[str, nn.Module, frozenset[int]]] = [("", model, frozenset())]
    while stack:
        path, module, above = stack.pop()
        if id(module) in (above if every_path else seen):
            continue
        seen.add(id(module))
        yield path, module
        inside = above | {id(module)}
        for name, child in reversed(list(module._modules.items())):
            if is_a(child, nn.Module):
                stack.append((join(path, name), child, inside))


def iter_registered(module: nn.Module) -> Iterator[Registered]:
    """Every parameter and buffer slot, shared modules under each of their paths, None included."""
    for path, child in iter_modules(module, every_path=True):
        for name, parameter in child._parameters.items():
            yield Registered(path, name, Kind.PARAMETER, parameter)
        for name, buffer in child._buffers.items():
            transient = name in child._non_persistent_buffers_set
            kind = Kind.NON_PERSISTENT_BUFFER if transient else Kind.PERSISTENT_BUFFER
            yield Registered(path, name, kind, buffer)


def iter_filled(module: nn.Module) -> Iterator[Registered]:
    """The slots that hold a tensor."""
    return (slot for slot in iter_registered(module) if is_tensor(slot.held))


def slots_by(key: Callable[[Registered], T], slots: Iterable[Registered]) -> dict[T, list[Registered]]:
    """Slots in groups of one ``key``, all in their order."""
    groups: dict[T, list[Registered]] = {}
    for slot in slots:
        groups.setdefault(key(slot), []).append(slot)
    return groups


def is_extra_state(key: object) -> bool:
    """Whether a key of a state_dict is where ``get_extra_state`` goes."""
    return str(key).rpartition(".")[2] == _EXTRA_STATE


def class_name(module: nn.Module) -> str:
    """``package.module.Class``."""
    return f"{module_name(type(module))}.{type(module).__qualname__}"


def module_name(kind: type) -> str:
    """Where a class was defined; "?" where that is no text."""
    name = kind.__module__
    return name if is_a(name, str) else "?"


def named_state(module: nn.Module, text: str = "the model") -> dict[str, Any]:
    """``state_dict(keep_vars=True)``: the module's own tensor objects under the keys of a file.

    A ``state_dict`` of the user's own that takes no such argument gives detached ones.

    Raises:
        ModelImportFailed: hooks or overrides of the user's model raise, or give no mapping.
    """
    state: Any
    with foreign_code(f"taking the state_dict of {text}"):
        try:
            state = module.state_dict(keep_vars=True)
        except TypeError:
            state = module.state_dict()
    if not issubclass(type(state), Mapping):
        raise ModelImportFailed(
            f"state_dict() of {text} gives {indefinite(type(state).__name__)}, not a mapping"
        )
    return state  # type: ignore[no-any-return]


def non_persistent_names(module: nn.Module, state: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """Non-persistent buffers under the names that they would have in a state_dict.

    Wrappers rename keys on the way out, by hooks of their own: so the state_dict is taken once more
    with every buffer persistent. What does not appear there has the path of its module.
    """
    buffers = [slot for slot in iter_filled(module) if slot.kind is Kind.NON_PERSISTENT_BUFFER]
    if not buffers:
        return {}
    state = named_state(module) if state is None else state
    keys: dict[object, list[str]] = {}
    try:
        with _all_persistent(module):
            for key, value in named_state(module).items():
                if key not in state and is_tensor(value):
                    keys.setdefault(_view(value), []).append(key)
    except ModelImportFailed:  # a hook that does not expect these keys
        keys = {}
    found: dict[str, torch.Tensor] = {}
    for slot in buffers:
        name, known = slot.full_name, keys.get(_view(slot.tensor), [])
        found[name if name in known or not known else known.pop(0)] = slot.tensor
    return found


@contextlib.contextmanager
def _all_persistent(module: nn.Module) -> Iterator[None]:
    """Every buffer is persistent inside; afterwards all is as it was."""
    kept = [(child, child._non_persistent_buffers_set) for _, child in iter_modules(module)]
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
        ModelImportFailed: a hook, an override or an object of the model's own raises.
        UnsupportedFeature: a dtype that has no entry in the dtype table.
    """
    with looking_into(text):
        return _describe_model(module, text, note)


def _describe_model(module: nn.Module, text: str, note: str) -> ModelSpec:
    state = named_state(module, text)
    registered = tuple(iter_registered(module))
    transient = non_persistent_names(module, state)
    filled = [slot for slot in registered if is_tensor(slot.held)]
    by_id = slots_by(lambda slot: id(slot.tensor), filled)
    by_view = slots_by(lambda slot: _view(slot.tensor), filled)  # a state_dict may hold detached ones
    seen: dict[int, tuple[int, torch.UntypedStorage]] = {}
    entries = []
    for key, value in state.items():
        slots = by_id.get(id(value), [])
        requires_grad = None
        if is_tensor(value):
            slots = slots or by_view.get(_view(value), [])
            requires_grad = value.requires_grad
        entries.append(Entry((), key, _describe(value, seen), requires_grad, _classify(key, slots)))
    declared = Classification(Kind.NON_PERSISTENT_BUFFER, Basis.MODULE)
    entries += [
        Entry((), name, _describe(buffer, seen), buffer.requires_grad, declared)
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
        class_name(module),
        note,
        tuple(slot.full_name for slot in registered if slot.held is None),
        tuple(name for name, value in state.items() if is_lazy(value)),
        tuple(iter_custom_load(iter_modules(module))),
    )


def _classify(key: str, slots: Collection[Registered]) -> Classification:
    """The kind of one state_dict entry by the slots that hold this very tensor."""
    # One tensor may stand in several slots, as a parameter here and a buffer there: the slot of
    # this very name decides.
    for slot in slots:
        if slot.full_name == key:
            return Classification(slot.kind, Basis.MODULE)
    # After the slots: what get_extra_state returns may be a registered tensor itself.
    if is_extra_state(key):
        return Classification(Kind.EXTRA_STATE, Basis.MODULE)
    # Renamed by a wrapper: non-persistent slots are not saved, and wrappers keep the last part.
    saved = [slot for slot in slots if slot.kind is not Kind.NON_PERSISTENT_BUFFER]
    leaf = key.rpartition(".")[2]
    kinds = {slot.kind for slot in saved if slot.name == leaf} or {slot.kind for slot in saved}
    if len(kinds) == 1:
        return Classification(kinds.pop(), Basis.MODULE)
    note = "one tensor, registered as parameter and as buffer" if kinds else "made by a state_dict hook"
    return Classification(Kind.UNKNOWN, Basis.NONE, note=note)


def _view(tensor: torch.Tensor) -> object:
    """What tells one view of a storage from another; the object itself where there is no storage."""
    if is_lazy(tensor) or not is_strided(tensor):
        return id(tensor)
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset()


def _describe(value: Any, seen: dict[int, tuple[int, torch.UntypedStorage]]) -> Tensor | None:
    """A tensor as addresses without bytes; None for what is no tensor (extra state).

    ``seen`` numbers storages in order of appearance, and keeps them alive so that their ids stay theirs.

    Raises:
        UnsupportedFeature: a dtype that is newer than the dtype table.
    """
    if not is_tensor(value):
        return None
    subclass = type(value).__name__
    if is_lazy(value):
        return CompositeTensor("uninitialized", f"torch.nn.parameter.{subclass}", None, None, ())
    dtype = parse_torch_name(str(value.dtype))
    if dtype is None:
        raise UnsupportedFeature(f"{value.dtype} is not a dtype known here")
    if value.is_nested:
        return CompositeTensor("nested", subclass, dtype, None, ())
    if not is_strided(value):
        layout = "subclass" if value.layout is torch.strided else type_name(value.layout)
        return CompositeTensor(layout, subclass, dtype, tuple(value.shape), ())
    storage = value.untyped_storage()
    number, _ = seen.setdefault(storage._cdata, (len(seen), storage))
    ref = StorageRef(MODEL_FILE, str(number), 0, storage.nbytes(), "meta")
    shape, offset = tuple(value.shape), int(value.storage_offset()) * dtype.per_offset
    return TensorInfo(dtype, shape, value.stride(), offset, ref, value.is_conj(), value.is_neg())


_METHODS = (
    "load_state_dict", "_load_from_state_dict", "state_dict", "_save_to_state_dict", "get_extra_state"
)  # fmt: skip
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
        methods = [name for name in _METHODS if not _is_of_torch_nn(getattr(type(child), name, None))]
        hooks = [
            said
            for attribute, said in _HOOKS.items()
            if not all(map(_is_of_torch_nn, getattr(child, attribute, {}).values()))
        ]
        if methods or hooks:
            yield CustomLoad(path, tuple(methods), tuple(hooks))


def _is_of_torch_nn(function: Any) -> bool:
    """Whether torch wrote it for a layer of its own: batch norm tells old files, lazy layers find shapes."""
    for attribute in ("hook", "func", "__func__"):  # torch wraps hooks, and binds modules to them
        function = ask(partial(getattr, function, attribute), function)
    return ask(lambda: str(function.__module__), "").startswith("torch.nn.modules.")


def save_buffers(source: ModelSource, names: Collection[str], path: str) -> None:
    """Build the model on CPU and save those of its non-persistent buffers that ``names`` asks for.

    Raises:
        ModelImportFailed: the factory fails.
        OSError: ``path`` cannot be written.
    """
    buffers = non_persistent_names(source.build(device="cpu"))
    torch.save({name: buffers[name].detach() for name in buffers if name in names}, path)
