"""Finds tensors and modules that a model holds without having registered them.

``nn.Module.__setattr__`` registers a Parameter, a Buffer or a Module that is assigned directly. What
is put into a list, a tuple, a dict, a dataclass or a plain namespace is only an attribute, and so
is a plain tensor. Other objects are not looked into: where they lead is anybody's guess.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ckpttool.torch_bridge.door import ask, is_a, until_it_raises
from ckpttool.torch_bridge.reference import iter_filled, iter_modules, join, module_name
from ckpttool.torch_bridge.tensors import is_tensor
from ckpttool.values.words import format_int

_OWN = frozenset(vars(nn.Module()))  # _parameters, _buffers, _modules, the hooks, training
_MAX_DEPTH = 8  # of containers within one attribute
_MAX_KEY = 40  # characters of a dict's key in a name
_MAX_FOREIGN = 100_000  # items that the mappings of one attribute may give: their code may never end
_SEQUENCES: tuple[Any, ...] = (tuple, list, deque, set, frozenset)
# What an object really holds, whatever its class makes of `__dict__`.
_ATTRIBUTES: Any = vars(nn.Module)["__dict__"]
_FIELDS: Any = vars(SimpleNamespace)["__dict__"]


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
    modules = {id(module) for _, module in iter_modules(model)}
    registered = {id(slot.tensor) for slot in iter_filled(model)}
    for path, module in iter_modules(model):
        computed = computed_names(module)
        own = _ATTRIBUTES.__get__(module)
        for attribute, held in _attributes(module):
            for name, value in _walk(join(path, attribute), held):
                # What a class holds may come from another build: a list of all that were ever made.
                if id(value) not in modules and (attribute in own or is_tensor(value)):
                    yield Stray(name, value, value is held, attribute in computed, id(value) in registered)


def stray_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor in a plain attribute by name, and those of modules that nobody registered."""
    found: dict[str, torch.Tensor] = {}
    for stray in iter_strays(model):
        if is_tensor(stray.value):
            found[stray.name] = stray.value
        elif is_a(stray.value, nn.Module):
            found.update((f"{stray.name}.{slot.full_name}", slot.tensor) for slot in iter_filled(stray.value))
    return found


def iter_tensors(value: object) -> Iterator[torch.Tensor]:
    """Every tensor in what a forward returned."""
    return (item for _, item in _walk("", value) if is_tensor(item))


def computed_names(module: nn.Module) -> set[str]:
    """Attributes that ``weight_norm``, ``spectral_norm`` (old style) or ``prune`` compute on each forward."""
    names = set()
    for hook in module._forward_pre_hooks.values():
        if is_a(hook, WeightNorm) or is_a(hook, SpectralNorm):
            names.add(hook.name)
        elif is_a(hook, BasePruningMethod):
            names.add(hook._tensor_name)
    return names


def _attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    held = {name: value for name, value in _ATTRIBUTES.__get__(module).items() if is_a(name, str)}
    yield from ((name, value) for name, value in held.items() if name not in _OWN)
    # Tensors of the class are shared by all its objects, and follow none of them.
    for base in type(module).__mro__:
        if not is_stock(base) and base is not object:
            for name, value in vars(base).items():
                if is_a(value, (torch.Tensor, list, tuple, dict)) and name not in held:
                    yield name, value


def is_stock(kind: type) -> bool:
    """Whether torch itself defines the class."""
    return module_name(kind).partition(".")[0] == "torch"


def _walk(name: str, value: object) -> Iterator[tuple[str, Any]]:
    """Tensors and modules in nested containers, each container once, in order.

    Containers of Python are read as such, whatever a subclass makes of ``len`` or ``iter``; of other
    mappings and dataclasses is taken what they give before they raise.
    """
    stack = [(name, value, 0)]
    seen: dict[int, object] = {}  # held, so that what a foreign one makes anew takes no address twice
    foreign = iter(range(_MAX_FOREIGN))
    while stack:
        name, item, depth = stack.pop()
        if is_a(item, nn.Module) or (is_tensor(item) and ask(partial(_answers, item), False)):
            yield name, item
        elif depth < _MAX_DEPTH and id(item) not in seen:
            seen[id(item)] = item
            children = until_it_raises(partial(_children, item, foreign))
            inner = [(name + step, child, depth + 1) for step, child in children]
            stack.extend(reversed(inner))


def _answers(tensor: torch.Tensor) -> bool:
    """Whether a tensor tells what is asked of each; it may be of a class whose properties raise."""
    asked = (tensor.shape, tensor.dtype, tensor.device, tensor.layout, tensor.is_meta, tensor.grad_fn)
    return len(asked) > 0


def _children(item: Any, foreign: Iterator[int]) -> Iterator[tuple[str, object]]:
    """What may lead to a tensor, and how Python reaches it."""
    kind = type(item)
    if issubclass(kind, dict):
        return ((f"[{_key_text(key)}]", child) for key, child in list(dict.items(item)) if _may_hold(child))
    if issubclass(kind, SimpleNamespace):
        return ((f".{field}", child) for field, child in list(_FIELDS.__get__(item).items()))
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        return ((f".{name}", ask(partial(getattr, item, name), None)) for name in names)
    for base in _SEQUENCES:
        if issubclass(kind, base):
            fields = dict(enumerate(_field_names(kind)))
            items = enumerate(list(base.__iter__(item)))
            return (
                (f".{fields[index]}" if index in fields else f"[{index}]", child)
                for index, child in items
                if _may_hold(child)
            )
    if issubclass(kind, Mapping):
        given = zip(foreign, item.items(), strict=False)
        return ((f"[{_key_text(key)}]", child) for _, (key, child) in given if _may_hold(child))
    return iter(())


def _field_names(kind: Any) -> Sequence[str]:
    """Of a named tuple."""
    return ask(lambda: [str(name) for name in kind._fields], [])


def _may_hold(item: object) -> bool:
    """Whether it is no number or text, of which a list may hold millions."""
    return type(item) not in (int, float, str, bytes, bool, complex, type(None))


def _key_text(key: object) -> str:
    text = type(key).__name__
    if type(key) is bool:
        text = repr(key)
    elif is_a(key, str):
        text = str.__repr__(key)
    elif is_a(key, int):
        text = format_int(int.__index__(key))
    elif is_a(key, float):
        text = float.__repr__(key)
    return text if len(text) <= _MAX_KEY else f"{text[:_MAX_KEY]}…"
