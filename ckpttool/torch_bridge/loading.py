"""One real ``load_state_dict(strict=True)`` and what can be said of it afterwards."""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckpttool.analysis.verification import Lossy, Mismatched
from ckpttool.torch_bridge.file_tensors import byte_view, same_bytes

_POISON_BYTE = 0x5A  # in every byte of an integer: 0x5a5a… is no index, count or offset of a real model
_CAST_CHUNK = 1 << 22  # elements

# The sentences of torch/nn/modules/module.py (load_state_dict, _load_from_state_dict), torch 2.5 to 2.13.
_MISSING = re.compile(r'Missing key\(s\) in state_dict: (".*?")\. ?$', re.MULTILINE | re.DOTALL)
_UNEXPECTED = re.compile(r'Unexpected key\(s\) in state_dict: (".*?")\. ?$', re.MULTILINE | re.DOTALL)
_MISMATCH = re.compile(
    r"size mismatch for (.+?): copying a param with shape (?:torch\.Size\()?\[?\(?([0-9, ]*)"
    r".*?the shape in current model is (?:torch\.Size\()?\[?\(?([0-9, ]*)"
)


class LoadOutcome(NamedTuple):
    """What the load said. ``other`` are messages that are none of the three usual ones."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatched, ...]
    other: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether torch was content."""
        return not (self.missing or self.unexpected or self.mismatched or self.other)


def load_strict(module: nn.Module, state: Mapping[str, Any], *, assign: bool = False) -> LoadOutcome:
    """Call ``module.load_state_dict(state, strict=True)`` and take apart what it raises."""
    # load_state_dict(assign=True) writes "assign_to_params_buffers" into the _metadata it is given,
    # and every later load of that state_dict assigns as well (torch 2.13): each load gets its own.
    fresh = with_metadata(dict(state), getattr(state, "_metadata", {}))
    try:
        with foreign_streams():
            module.load_state_dict(fresh, strict=True, assign=assign)
    except Exception as error:  # noqa: BLE001  hooks and overrides of the user's model may raise anything
        return parse_load_error(str(error) or type(error).__name__)
    return LoadOutcome((), (), (), ())


def parse_load_error(message: str) -> LoadOutcome:
    """Lists out of the text of a RuntimeError of load_state_dict."""
    missing = _quoted(_MISSING.search(message))
    unexpected = _quoted(_UNEXPECTED.search(message))
    mismatched = tuple(
        Mismatched(found[1], _numbers(found[2]), _numbers(found[3])) for found in _MISMATCH.finditer(message)
    )
    if missing or unexpected or mismatched:
        known = ("Missing key", "Unexpected key", "size mismatch for", "Error(s) in loading")
        lines = [line.strip() for line in message.splitlines()]
        other = tuple(line for line in lines if line and not line.startswith(known))
        return LoadOutcome(missing, unexpected, mismatched, other)
    return LoadOutcome((), (), (), (" ".join(message.split())[:500],))


def _quoted(found: re.Match[str] | None) -> tuple[str, ...]:
    return tuple(found[1].strip('"').split('", "')) if found else ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.replace(",", " ").split())


@contextlib.contextmanager
def foreign_streams() -> Iterator[None]:
    """The user's code prints to stderr; its warnings are not this tool's."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def with_metadata(state: dict[str, Any], versions: Mapping[str, Mapping[str, Any]]) -> OrderedDict[str, Any]:
    """A state_dict as torch.load gives it: with ``_metadata``, on which loading depends (batch norm)."""
    ordered: OrderedDict[str, Any] = OrderedDict(state)
    if versions:
        metadata = OrderedDict((path, dict(local)) for path, local in versions.items())
        ordered._metadata = metadata  # type: ignore[attr-defined]
    return ordered


# -- poison -----------------------------------------------------------------------------------------


class Poison:
    """Fills tensors with what no checkpoint holds, and tells afterwards which still hold it.

    Floats become NaN with all bits set (in every IEEE, bfloat16 and float8 format), integers the
    byte 0x5A throughout, bools their own negation: a bool that is still negated was not filled.
    """

    def __init__(self) -> None:
        self._negated: dict[str, torch.Tensor] = {}

    def fill(self, name: str, tensor: torch.Tensor) -> None:
        """Poison one tensor in place; meta and uninitialised ones hold nothing to poison."""
        if tensor.is_meta or is_lazy(tensor) or tensor.numel() == 0 or not _plain(tensor):
            return
        with torch.no_grad():
            if tensor.dtype is torch.bool:
                tensor.logical_not_()
                self._negated[name] = tensor.detach().clone()
            elif tensor.is_contiguous():
                byte_view(tensor).fill_(_poison_byte(tensor))
            else:
                tensor.copy_(_poisoned_like(tensor))

    def survives(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether the tensor holds nothing but poison."""
        if tensor.is_meta or is_lazy(tensor) or tensor.numel() == 0 or not _plain(tensor):
            return False
        if tensor.dtype is torch.bool:
            negated = self._negated.get(name)
            return negated is not None and same_bytes(tensor.cpu(), negated.cpu())
        return bool((byte_view(tensor) == _poison_byte(tensor)).all())


def _poison_byte(tensor: torch.Tensor) -> int:
    return 0xFF if tensor.is_floating_point() or tensor.is_complex() else _POISON_BYTE


def _poisoned_like(tensor: torch.Tensor) -> torch.Tensor:
    raw = torch.full((tensor.numel() * tensor.element_size(),), _poison_byte(tensor), dtype=torch.uint8)
    return raw.view(tensor.dtype).reshape(tensor.shape).to(tensor.device)


def _plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor's bytes are its own: no wrapper subclass, no sparse or quantized layout."""
    return (
        tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor.is_nested
        and not hasattr(type(tensor), "__tensor_flatten__")
    )


# -- casts ------------------------------------------------------------------------------------------


def find_loss(name: str, stored: torch.Tensor, loaded: torch.Tensor) -> Lossy | None:
    """The first value that the cast from the file's dtype to the model's changed, or None.

    Values are compared after a cast back: an element is lost when it does not return to what it was
    (NaN returns to NaN; -0.0 and 0.0 count as equal numbers, as a cast to int cannot keep the sign).
    """
    flat_stored, flat_loaded = stored.reshape(-1), loaded.detach().cpu().reshape(-1)
    changed, first = 0, -1
    for start in range(0, flat_stored.numel(), _CAST_CHUNK):
        old = flat_stored[start : start + _CAST_CHUNK]
        new = flat_loaded[start : start + _CAST_CHUNK]
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch warns that a cast drops the imaginary part: that is the finding
            wide_old, wide_new = _comparable(old), _comparable(new)
        differs = _differs(wide_old, wide_new)
        count = int(differs.sum())
        if count and first < 0:
            first = start + int(differs.nonzero()[0])
        changed += count
    if not changed:
        return None
    return Lossy(
        name,
        str(stored.dtype).removeprefix("torch."),
        str(loaded.dtype).removeprefix("torch."),
        changed,
        first,
        number_text(flat_stored[first]),
        number_text(flat_loaded[first]),
    )


def _comparable(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers wide enough to hold every value of the dtype: complex128, float64 or int64."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    if tensor.is_floating_point():
        return tensor.to(torch.float64)
    return tensor.to(torch.int64)


def _differs(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Element by element, exactly; int64 against float64 without rounding through the other."""
    if old.dtype is torch.int64 and new.dtype is torch.float64:
        # 2**63 does not fit int64: a float that large is no int64's value.
        fits = (new >= -(2.0**63)) & (new < 2.0**63)
        back = torch.where(fits, new, torch.zeros_like(new)).to(torch.int64)
        return ~fits | (back != old)
    if old.dtype is torch.float64 and new.dtype is torch.int64:
        return _differs(new, old)
    if old.is_complex() != new.is_complex():
        old, new = old.to(torch.complex128), new.to(torch.complex128)
    both_nan = (
        old.isnan() & new.isnan() if old.dtype is not torch.int64 else torch.zeros_like(old, dtype=torch.bool)
    )
    return (old != new) & ~both_nan


def number_text(value: torch.Tensor) -> str:
    """One element as a person writes it: ``2.87`` for the float32 nearest to it."""
    if value.dtype is torch.bool or value.is_complex():
        return str(value.item())
    if value.is_floating_point():
        return f"{value.to(torch.float64).item():.7g}"
    return str(value.item())


def describe_values(tensor: torch.Tensor) -> str:
    """What a tensor holds, in a few words: ``0..168`` or ``NaN``."""
    if tensor.is_meta:
        return "no data (meta)"
    if tensor.numel() == 0:
        return "nothing (empty)"
    flat = tensor.detach().cpu().reshape(-1)
    if flat.is_complex():
        flat = flat.abs()
    if flat.dtype is torch.bool:
        return f"{int(flat.sum())} of {flat.numel()} true"
    wide = flat.to(torch.float64) if flat.is_floating_point() else flat.to(torch.int64)
    if wide.dtype is torch.float64:
        nan = int(wide.isnan().sum())
        if nan == wide.numel():
            return "NaN"
        wide = wide[~wide.isnan()]
        suffix = f" and {nan} NaN" if nan else ""
    else:
        suffix = ""
    low, high = number_text(wide.min()), number_text(wide.max())
    return (low if low == high else f"{low}..{high}") + suffix
