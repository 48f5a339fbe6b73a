"""Modules of slots that a test lists, for what ``verify`` says of each single fault of a file or a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import nn


class Slot(NamedTuple):
    """A slot of a module. ``kind``: parameter, persistent, transient, or none (a parameter that is None).

    ``drawn``: each build draws its values; else all hold ``value``. ``tied``: the slot before it has the same
    Parameter.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = (2, 3)
    dtype: torch.dtype = torch.float32
    drawn: bool = False
    value: int = 1
    tied: bool = False

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Made(nn.Module):
    """A module of ``slots``; ``after`` is for the loading code of subclasses."""

    def __init__(self, slots: Sequence[Slot], after: Any = None) -> None:
        super().__init__()
        self.__dict__["_after"] = after
        last: nn.Parameter | None = None
        for slot in slots:
            *path, leaf = slot.name.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            if slot.kind == "none":
                owner.register_parameter(leaf, None)
                continue
            if not slot.tied:
                tensor = torch.rand(slot.shape) if slot.drawn else torch.full(slot.shape, slot.value)
                tensor = tensor.to(slot.dtype)
            if slot.kind == "parameter":
                if not slot.tied:
                    last = nn.Parameter(tensor, requires_grad=slot.dtype.is_floating_point)
                owner.register_parameter(leaf, last)
            else:
                owner.register_buffer(leaf, tensor, persistent=slot.kind == "persistent")


class Alters(Made):
    """Changes what it has loaded: ``after`` is given the state_dict."""

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        found = super().load_state_dict(*arguments, **options)
        with torch.no_grad():
            self.__dict__["_after"](self.state_dict())
        return found


class Ignores(Made):
    """Loads all but ``after``, and is content."""

    def load_state_dict(self, state: Any, *_arguments: Any, assign: bool = False, **_options: Any) -> Any:
        rest = {name: value for name, value in state.items() if name != self.__dict__["_after"]}
        return super().load_state_dict(rest, strict=False, assign=assign)


DRAWN = [torch.float32, torch.float64]
CONSTANT = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.int64,
    torch.uint8,
    torch.bool,
]
SHAPES = [(2, 3), (4,), (1,), (), (0, 2)]
PATHS = ["", "a.", "b.", "a.deep."]


@st.composite
def slot_lists(draw: st.DrawFn) -> list[Slot]:
    """Two to seven slots, of which the first is a plain parameter; a tie follows what it is tied to."""
    slots = [Slot("first", "parameter", (3, 2), drawn=draw(st.booleans()))]
    for number in range(draw(st.integers(1, 6))):
        name = f"{draw(st.sampled_from(PATHS))}s{number}"
        kind = draw(st.sampled_from(["parameter", "persistent", "transient", "none", "tie"]))
        drawn = draw(st.booleans())
        shape = draw(st.sampled_from(SHAPES))
        dtype = draw(st.sampled_from(DRAWN if drawn else CONSTANT))
        before = slots[-1]
        if kind != "tie":
            slots.append(Slot(name, kind, shape, dtype, drawn and 0 not in shape, draw(st.integers(0, 9))))
        elif before.kind == "parameter":
            slots.append(before._replace(name=name, tied=True))
    return slots


def saved_slots(slots: Sequence[Slot]) -> list[Slot]:
    """Those that a state_dict has, in the order of ``slots``."""
    return [slot for slot in slots if slot.kind in ("parameter", "persistent")]


def ties(slots: Sequence[Slot]) -> list[tuple[str, ...]]:
    """Names of one Parameter with elements, sorted; those that have one name are left out."""
    groups: list[list[str]] = []
    for slot in slots:
        if slot.tied:
            groups[-1].append(slot.name)
        elif slot.kind == "parameter":
            groups.append([slot.name] if math.prod(slot.shape) else [])
    return [tuple(sorted(group)) for group in groups if len(group) > 1]
