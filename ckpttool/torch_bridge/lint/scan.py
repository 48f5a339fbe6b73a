"""Finds tensors and modules that a model holds without having registered them.

``nn.Module.__setattr__`` registers a Parameter, a Buffer or a Module that is assigned directly. What
is put into a list, a tuple, a dict, a dataclass or a plain namespace is only an attribute, and so
is a plain tensor. Other objects are not looked into: where they lead is anybody's guess.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ckpttool.torch_bridge.reference import iter_filled, join

_OWN = frozenset(vars(nn.Module()))  # _parameters, _buffers, _modules, the hooks, training
_MAX_DEPTH = 8  # of containers within one attribute
_MAX_KEY = 40  # characters of a dict's key in a name
_CONTAINERS = (list, tuple, deque, set, frozenset, Mapping, SimpleNamespace)


class Stray(NamedTuple):
    """A tensor or a module in an attribute. ``name`` is how Python reaches it: ``encoder.cache[0]``.

    ``direct``: it is the attribute itself, not an item of it. ``computed``: old-style hooks of
    torch write it before each forward. ``registered``: the same tensor is a parameter or buffer, too.
    """

    name: str
    value: torch.Tensor | nn.Module
    direct: bool
    computed: bool
    registered: bool


def iter_strays(model: nn.Module) -> Iterator[Stray]:
    """Every tensor and module in a plain attribute, but for those that are registered somewhere.

    A registered *tensor* in a list is yielded: it is an alias, which may go stale.
    """
    modules = {id(module) for module in model.modules()}
    registered = {id(slot.tensor) for slot in iter_filled(model)}
    for path, module in model.named_modules():
        computed = computed_names(module)
        for attribute, held in _attributes(module):
            for name, value in _walk(join(path, attribute), held):
                if id(value) not in modules:
                    yield Stray(name, value, value is held, attribute in computed, id(value) in registered)


def stray_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor in a plain attribute by name, and those of modules that nobody registered."""
    found: dict[str, torch.Tensor] = {}
    for stray in iter_strays(model):
        if isinstance(stray.value, torch.Tensor):
            found[stray.name] = stray.value
        else:
            found.update((f"{stray.name}.{slot.full_name}", slot.tensor) for slot in iter_filled(stray.value))
    return found


def iter_tensors(value: object) -> Iterator[torch.Tensor]:
    """Every tensor in what a forward returned."""
    return (item for _, item in _walk("", value) if isinstance(item, torch.Tensor))


def computed_names(module: nn.Module) -> set[str]:
    """Attributes that ``weight_norm``, ``spectral_norm`` (old style) or ``prune`` compute on each forward."""
    names = set()
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            names.add(hook.name)
        elif isinstance(hook, BasePruningMethod):
            names.add(hook._tensor_name)
    return names


def _attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    for name, value in list(vars(module).items()):
        if name not in _OWN:
            yield name, value
    # Tensors of the class are shared by all its objects, and follow none of them.
    for base in type(module).__mro__:
        if not is_stock(base) and base is not object:
            for name, value in vars(base).items():
                if isinstance(value, torch.Tensor | list | tuple | dict) and name not in vars(module):
                    yield name, value


def is_stock(kind: type) -> bool:
    """Whether torch itself defines the class."""
    return kind.__module__.partition(".")[0] == "torch"


def _walk(name: str, value: object) -> Iterator[tuple[str, Any]]:
    """Tensors and modules in nested containers, each container once, in order."""
    stack = [(name, value, 0)]
    seen: set[int] = set()
    while stack:
        name, item, depth = stack.pop()
        if isinstance(item, torch.Tensor | nn.Module):
            yield name, item
        elif depth < _MAX_DEPTH and id(item) not in seen and _is_container(item):
            seen.add(id(item))
            inner = [(name + step, child, depth + 1) for step, child in _children(item) if _may_hold(child)]
            stack.extend(reversed(inner))


def _may_hold(item: object) -> bool:
    return isinstance(item, torch.Tensor | nn.Module) or _is_container(item)


def _is_container(item: object) -> bool:
    return isinstance(item, _CONTAINERS) or (dataclasses.is_dataclass(item) and not isinstance(item, type))


def _children(item: Any) -> Iterable[tuple[str, object]]:
    if isinstance(item, Mapping):
        return [(f"[{_key_text(key)}]", child) for key, child in list(item.items())]
    if isinstance(item, SimpleNamespace):
        return [(f".{field}", child) for field, child in vars(item).items()]
    if dataclasses.is_dataclass(item):
        fields = [field.name for field in dataclasses.fields(item)]
        return [(f".{field}", getattr(item, field, None)) for field in fields]
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return [(f".{field}", child) for field, child in zip(item._fields, item, strict=False)]
    return [(f"[{index}]", child) for index, child in enumerate(list(item))]


def _key_text(key: object) -> str:
    if isinstance(key, str | int | float | bool):
        text = repr(key)
        return text if len(text) <= _MAX_KEY else f"{text[:_MAX_KEY]}…"
    return type(key).__name__
