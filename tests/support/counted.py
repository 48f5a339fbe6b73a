"""Objects to save that have none, one or two of something that ckpttool counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

Make = Callable[[], Any]
INF, NAN = float("inf"), float("nan")


def pair() -> torch.Tensor:
    return torch.ones(2)


def named(count: int, form: str = "layer{}.weight", make: Make = pair) -> dict[str, Any]:
    """So many entries."""
    return {form.format(number): make() for number in range(count)}


class Odd:
    """An object with so many plain attributes."""

    def __init__(self, count: int = 0) -> None:
        for number in range(count):
            setattr(self, f"attribute{number}", number)


def filled(count: int, value: float, numel: int = 3) -> torch.Tensor:
    tensor = torch.ones(numel)
    tensor[:count] = value
    return tensor


def tied(count: int) -> dict[str, Any]:
    weight = pair()
    return {"first.weight": weight, **named(count, "other{}.weight", lambda: weight)}


def overlapping(count: int) -> dict[str, Any]:
    whole = torch.ones(4, 4)
    return {"whole": whole, **{f"part{number}": whole[number : number + 2] for number in range(count)}}


def trained(count: int) -> dict[str, Any]:
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(max(1, count))]
    optimizer = torch.optim.Adam(parameters)
    torch.stack([parameter.sum() for parameter in parameters]).sum().backward()
    if count:
        optimizer.step()
    weights = named(count, "w{}", lambda: torch.ones(1))
    return {"model": weights, "optimizer": optimizer.state_dict(), "epoch": count}


def norms(count: int, without: str) -> dict[str, Any]:
    state = nn.ModuleDict({f"bn{number}": nn.BatchNorm1d(2) for number in range(count)}).state_dict()
    for name in [name for name in state if name.endswith(without)]:
        del state[name]
    return state


def linears(count: int) -> nn.Module:
    return nn.Sequential(*[nn.Linear(1, 1) for _ in range(count)])


def quantized(count: int) -> dict[str, Any]:
    packed = lambda: torch.ones(16, 8, dtype=torch.int32)  # noqa: E731
    scales = named(count, "layer{}.q_proj.scales", lambda: torch.ones(1, 8))
    return {"embed.weight": pair(), **named(count, "layer{}.q_proj.qweight", packed), **scales}


def weight_norms(count: int) -> dict[str, Any]:
    name = "l{}.parametrizations.weight.original"
    return {**named(count, f"{name}0"), **named(count, f"{name}1")}


FAMILIES: dict[str, Callable[[int], object]] = {
    "tensors": named,
    "scalars": lambda n: named(n, "s{}", lambda: torch.tensor(0.0)),
    "elements": lambda n: {"w": torch.ones(n)},
    "zeros": lambda n: {"w": torch.zeros(n), "v": filled(n, 0.0)},
    "NaN": lambda n: {"w": filled(n, NAN), "v": torch.full((n,), NAN)},
    "inf": lambda n: {"w": filled(n, INF), "v": filled(n, -INF), "u": torch.full((n,), INF)},
    "both infinities": lambda n: {"w": torch.tensor([INF, *[-INF] * n, 1.0]), "v": torch.tensor([INF, -INF])},
    "mask": lambda n: {"w": torch.tensor([0.0, *[-INF] * n])},
    "tied": tied,
    "overlapping": overlapping,
    "branches": lambda n: {f"branch{number}": named(2) for number in range(n)},
    "copies": lambda n: {"model": named(2), **{f"copy{number}": named(2) for number in range(n)}},
    "averaged": lambda n: AveragedModel(linears(n)).state_dict(),
    "wrapped": lambda n: {**named(n, "module.w{}"), "n": torch.ones(1)},
    "all wrapped": lambda n: named(n, "module.w{}"),
    "lightning": lambda n: {"state_dict": named(n, "net.w{}"), "pytorch-lightning_version": "2.0"},
    "values": lambda n: {"model": named(1), "args": {f"value{number}": number for number in range(n)}},
    "NaN values": lambda n: {"model": named(1), "log": named(n, "v{}", lambda: NAN)},
    "bytes": lambda n: {"model": named(1), "raw": b"x" * n, "text": "x" * n},
    "objects": lambda n: {"model": named(1), **named(n, "object{}", Odd)},
    "attributes": lambda n: {"model": named(1), "odd": Odd(n)},
    "trained": trained,
    "norms": lambda n: norms(n, "nothing"),
    "norms without a counter": lambda n: norms(n, "num_batches_tracked"),
    "norms without statistics": lambda n: norms(n, "running_mean"),
    "transposed": lambda n: named(n, "w{}", lambda: torch.ones(2, 3).t()),
    "conjugate": lambda n: named(n, "w{}", lambda: torch.ones(2, dtype=torch.complex64).conj()),
    "complex128": lambda n: named(n, "w{}", lambda: torch.ones(1, dtype=torch.complex128)),
    "bloat": lambda n: {"kept": torch.ones(1), **named(n, "w{}", lambda: torch.zeros(2000)[:1])},
    "bytes of bloat": lambda n: {"w": torch.zeros(3, dtype=torch.uint8)[: 3 - n]},
    "meta": lambda n: named(n, "w{}", lambda: torch.ones(2, device="meta")),
    "lazy": lambda n: nn.Sequential(*[nn.LazyLinear(1) for _ in range(n)]).state_dict(),
    "ZeRO-3": lambda n: named(2 + n, "w{}", lambda: torch.ones(0)),
    "mixed": lambda n: {**named(2, "a{}"), **named(n, "h{}", lambda: torch.ones(1).half())},
    "sparse": lambda n: named(n, "w{}", lambda: torch.eye(2).to_sparse()),
    "qint8": lambda n: named(n, "q{}", lambda: torch.quantize_per_tensor(pair(), 1.0, 0, torch.qint8)),
    "GPTQ": quantized,
    "extra state": lambda n: {**named(1), **named(n, "m{}._extra_state")},
    "extra objects": lambda n: {**named(1), **named(n, "m{}._extra_state", Odd)},
    "adapter": lambda n: named(n, "base_model.model.l{}.lora_A.weight", lambda: torch.ones(1, 1)),
    "weight norm": weight_norms,
    "pruned": lambda n: named(n, "l{}.weight_orig"),
    "known buffers": lambda n: {"w": pair(), **named(n, "l{}.rotary_emb.inv_freq")},
    "module": linears,
    "one tensor": torch.ones,
    "list": lambda n: [torch.ones(1) for _ in range(n)],
}
