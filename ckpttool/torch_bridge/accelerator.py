"""The accelerator of this machine by its name: cuda, mps, xpu or whatever torch was built for.

``torch.accelerator`` knows from torch 2.6 on; before, it is CUDA or none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

KNOWN = ("cuda", "mps", "xpu")
"""Those that a user may ask for where they are not."""

# Of a module that torch 2.5 lacks.
_api: Any = getattr(torch, "accelerator", None)


def accelerator() -> str | None:
    """The type of the accelerator that is here; None without one."""
    if _api is None:
        return "cuda" if torch.cuda.is_available() else None
    return str(_api.current_accelerator().type) if _api.is_available() else None


def count() -> int:
    """How many devices of that type are here."""
    return int((torch.cuda if _api is None else _api).device_count())


def indexed(device: torch.device) -> torch.device:
    """With the index that tensors on it have: that of the current one where none is said."""
    if device.type != accelerator() or ":" in str(device):
        return device
    if _api is None:
        return torch.device(device.type, torch.cuda.current_device())
    # Its name from torch 2.7 on.
    current = getattr(_api, "current_device_index", None) or _api.current_device_idx
    return torch.device(device.type, current())


def synchronize(device: torch.device) -> None:
    """Wait for all that was begun on it."""
    if device.type == accelerator():
        (torch.cuda if _api is None else _api).synchronize(device)


def pinned(nbytes: int, device: torch.device) -> torch.Tensor | None:
    """Host memory that is copied to ``device`` while the host goes on; None where there is no such thing."""
    with contextlib.suppress(RuntimeError, NotImplementedError):
        if device.type == accelerator():
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    return None


def record_event(device: torch.device) -> Any:
    """An event behind all that was begun on the current stream of ``device``, to ``synchronize`` with."""
    return (torch.cuda if _api is None else _api).current_stream(device).record_event()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generators inside, and put them back as they were."""
    kind = accelerator() or "cuda"
    # The generator of MPS takes no index: fork_rng knows nothing of it.
    with torch.random.fork_rng(range(count()) if kind != "mps" else (), device_type=kind):
        mps = torch.mps.get_rng_state() if kind == "mps" else None
        torch.manual_seed(seed)
        try:
            yield
        finally:
            if mps is not None:
                torch.mps.set_rng_state(mps)
