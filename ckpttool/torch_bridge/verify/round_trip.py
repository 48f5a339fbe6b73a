"""A loaded model saved as .pt and as .safetensors, and loaded again from each."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ckpttool.torch_bridge.verify.loading import LoadOutcome, foreign_streams, load_strict

_SPARE_NBYTES = 16 << 20  # left free for headers, and for others


class RoundTrip(NamedTuple):
    """The model that came back (None if none did), what loading said, and what was left out."""

    module: nn.Module | None
    outcome: LoadOutcome
    note: str = ""


def round_trip(held: list[nn.Module], build: Callable[[int], nn.Module], nbytes: int) -> RoundTrip:
    """Both trips of the one module in ``held``, which is taken out: one at a time is in memory.

    ``build`` makes a fresh one from a seed; ``nbytes`` is the size of its state_dict.
    """
    with tempfile.TemporaryDirectory(prefix="ckpttool-verify-") as folder:
        free = shutil.disk_usage(folder).free
        if free < nbytes + _SPARE_NBYTES:
            said = f"{tempfile.gettempdir()} has {free:,} bytes free and {nbytes:,} are needed: set TMPDIR"
            return RoundTrip(None, LoadOutcome(other=(said,)))
        try:
            return _through_both(held, build, Path(folder))
        except Exception as error:  # noqa: BLE001  savers and loaders raise what they like
            text = " ".join(str(error).split())[:300]
            return RoundTrip(None, LoadOutcome(other=(f"{type(error).__name__}: {text}",)))


def _through_both(held: list[nn.Module], build: Callable[[int], nn.Module], folder: Path) -> RoundTrip:
    import safetensors.torch

    first, second = folder / "model.pt", str(folder / "model.safetensors")
    with foreign_streams():
        torch.save(held.pop().state_dict(), first)
    again = build(1)
    saved = torch.load(first, map_location="cpu", weights_only=True, mmap=True)
    outcome = load_strict(again, saved)
    del saved
    os.unlink(first)
    if not outcome.ok:
        return RoundTrip(again, outcome)
    plain = [key for key, value in again.state_dict().items() if not isinstance(value, torch.Tensor)]
    if plain:
        return RoundTrip(again, outcome, f"as .pt only: safetensors holds no {', '.join(plain[:3])}")
    with foreign_streams():
        safetensors.torch.save_model(again, second)
    del again
    third: Any = build(2)
    try:
        safetensors.torch.load_model(third, second)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:300]
        return RoundTrip(third, LoadOutcome(other=(f"as .safetensors: {text}",)))
    return RoundTrip(third, outcome)
