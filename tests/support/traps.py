"""Modules with a trap of ``lint`` each, at one tensor and at more, beside what has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

X = ((2, 3), "float32")
"""The input of those that show their trap in a forward."""


class Free(nn.Module):
    """Holds what it is given: tensors as buffers, if their name begins with ``b_``, else as attributes."""

    def __init__(self, **held: Any) -> None:
        super().__init__()
        for name, value in held.items():
            if name.startswith("b_"):
                self.register_buffer(name, value)
            elif name.startswith("t_"):
                self.register_buffer(name, value, persistent=False)
            else:
                setattr(self, name, value)


class Runs(Free):
    """Calls ``run`` with itself and the input in each forward."""

    def __init__(self, run: Callable[[Any, torch.Tensor], Any], **held: Any) -> None:
        super().__init__(**held)
        self.run = run

    def forward(self, x: torch.Tensor) -> Any:
        found = self.run(self, x)
        return x if found is None else found


class Stays(nn.Linear):
    """Its ``_apply`` reaches nothing."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        return self


class Keeps(nn.Linear):
    """Moves, and keeps its dtype."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def careful(tensor: torch.Tensor) -> torch.Tensor:
            made = fn(tensor)
            return made if made.dtype is tensor.dtype else tensor

        return super()._apply(careful, recurse)


class Refuses(nn.Linear):
    """Raises at ``.double()``."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if fn(torch.ones(1)).dtype is torch.float64:
            raise ValueError("single only")
        return super()._apply(fn, recurse)


class Drops(nn.Linear):
    """Comes back from a load with another bias, and no word."""

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        state = {**state, f"{prefix}bias": state[f"{prefix}bias"] * 2}
        super()._load_from_state_dict(state, prefix, *rest)


class Renames(nn.Linear):
    """Saves under another name than it loads."""

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        return {f"new_{name}": value for name, value in super().state_dict(*arguments, **options).items()}


class Extra(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"steps": 3}

    def set_extra_state(self, state: Any) -> None:
        return None


class Anew(nn.Linear):
    """Registers its buffer again when it is converted, and forgets that it is not persistent."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer("scale", torch.ones(2), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.register_buffer("scale", self.scale)
        return self


class OldNorm(nn.Linear):
    """A parameter in the attribute of another name, which a conversion leaves behind."""

    def __init__(self) -> None:
        super().__init__(2, 3)
        self.turned = self.weight.detach().t()


def shared_layers() -> nn.Module:
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2, bias=False)
    return nn.ModuleDict({"a": layer, "b": layer, "c": other, "d": other, "e": layer})


def tied_weights() -> nn.Module:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    model[1].weight = model[0].weight  # type: ignore[union-attr]
    model[2].weight = model[0].weight  # type: ignore[union-attr]
    return model


def overlapping(*kinds: str) -> nn.Module:
    """Views of one storage that overlap, a parameter or a buffer each."""
    whole, model = torch.randn(6), nn.Module()
    for number, kind in enumerate(kinds):
        piece = whole[number : number + 4]
        if kind == "parameter":
            model.register_parameter(f"x{number}", nn.Parameter(piece))
        else:
            model.register_buffer(f"x{number}", piece)
    return model


def pruned(*names: str) -> nn.Module:
    model = nn.Linear(3, 2)
    for name in names:
        prune.random_unstructured(model, name, 0.5)
    return model


def averaged(count: int) -> nn.Module:
    return AveragedModel(nn.Sequential(nn.Linear(2, 2), *(nn.BatchNorm1d(2) for _ in range(count))))


def hooked() -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_load_state_dict_pre_hook(lambda *_: None)
    model.register_state_dict_post_hook(lambda *_: None)
    return model


def grow(model: Any, x: torch.Tensor) -> None:
    model.b_late = x.detach().clone()


def count_up(model: Any, x: torch.Tensor) -> None:
    model.t_count = model.t_count + 1


def save_it(model: Any, x: torch.Tensor) -> None:
    model.t_table = nn.Buffer(torch.arange(2.0))


def cache(model: Any, x: torch.Tensor) -> None:
    if not hasattr(model, "cache"):
        model.cache = torch.ones(3)


def keep_output(model: Any, x: torch.Tensor) -> torch.Tensor:
    model.last = model.fc(x)
    return model.last


def average(model: Any, x: torch.Tensor) -> torch.Tensor:
    out = model.fc(x)
    model.b_mean = 0.9 * model.b_mean + out.mean()
    return out


def slots_of_none(*names: str) -> nn.Module:
    model = nn.Module()
    for name in names:
        if name.startswith("p"):
            model.register_parameter(name, None)
        else:
            model.register_buffer(name, None, persistent=name.startswith("b"))
    return model


def aside(inner: Any, **held: Any) -> nn.Module:
    """Something in an attribute that torch did not see."""
    model = Free(**held)
    model.__dict__["inner"] = inner
    return model


TRAPS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "101 direct": (lambda: Free(scale=torch.ones(2), steps=torch.arange(2)), False),
    "101 held": (lambda: Free(held=[torch.ones(2), {"a": torch.ones(1, dtype=torch.float64)}]), False),
    "102": (lambda: aside(nn.Parameter(torch.rand(2)), held=[nn.Parameter(torch.rand(2))]), False),
    "102 frozen": (lambda: Free(held=[nn.Parameter(torch.rand(2), False)]), False),
    "103": (lambda: Free(held=[nn.Linear(2, 2), nn.ReLU()], more=(nn.BatchNorm1d(2),)), False),
    "103 one": (lambda: Free(held=[nn.Linear(2, 2, bias=False)]), False),
    "103 aside": (lambda: aside(nn.Linear(2, 2)), False),
    "104": (lambda: Free(w=nn.Parameter(torch.rand(2)) * 2, v=torch.rand(2, requires_grad=True)), False),
    "105": (lambda: Free(b_mean=nn.Parameter(torch.zeros(3))), False),
    "106": (lambda: slots_of_none("p", "b", "t"), False),
    "107": (lambda: nn.Sequential(nn.LazyLinear(2), nn.LazyLinear(2, bias=False)), False),
    "108": (lambda: Free(b_table=torch.ones(2, device="meta")), False),
    "109": (lambda: pruned("weight", "bias"), False),
    "201 203": (lambda: Free(b_t=torch.arange(512), w=nn.Parameter(torch.arange(3.0), False)), False),
    "202": (lambda: Free(t_noise=torch.randn(3), t_table=torch.arange(3)), False),
    "204": (lambda: Free(b_head=torch.randn(4096)[:16], b_all=torch.randn(16)), False),
    "205 206": (lambda: Free(b_ids=torch.rand(5).expand(4, -1), w=nn.Parameter(torch.rand(3, 2).t())), False),
    "207": (lambda: nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2)), False),
    "208": (lambda: averaged(1), False),
    "208 none": (lambda: averaged(0), False),
    "301": (tied_weights, False),
    "302": (shared_layers, False),
    "303": (lambda: overlapping("parameter", "buffer"), False),
    "303 turned": (lambda: overlapping("buffer", "parameter"), False),
    "304": (lambda: overlapping("parameter", "parameter"), False),
    "305": (lambda: overlapping("buffer", "buffer", "buffer"), False),
    "401": (lambda: Renames(2, 2), False),
    "402": (lambda: Drops(2, 2), False),
    "403": (hooked, False),
    "404": (lambda: nn.Sequential(Extra(2, 2)), False),
    "501": (lambda: nn.Sequential(Stays(2, 2), nn.Linear(2, 2)), False),
    "502": (lambda: nn.Sequential(Keeps(2, 2), nn.Linear(2, 2)), False),
    "503": (OldNorm, False),
    "504": (lambda: Refuses(2, 2), False),
    "505": (Anew, False),
    "601": (lambda: Runs(grow, b_late=None), True),
    "602": (lambda: Runs(save_it, t_table=torch.arange(2.0)), True),
    "603": (lambda: Runs(count_up, t_count=torch.zeros(())), True),
    "604": (lambda: Runs(cache), True),
    "605": (lambda: Runs(keep_output, fc=nn.Linear(3, 3)), True),
    "606": (lambda: Runs(average, fc=nn.Linear(3, 3), b_mean=torch.zeros(())), True),
}
