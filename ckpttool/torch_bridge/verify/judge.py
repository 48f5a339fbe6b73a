"""A loaded module against the file, by bytes, and against what a normal build gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckpttool.torch_bridge.reference import named_state, non_persistent_names
from ckpttool.torch_bridge.tensors import same_bytes
from ckpttool.torch_bridge.verify.builds import Builds
from ckpttool.torch_bridge.verify.casts import describe_values, find_loss
from ckpttool.torch_bridge.verify.device_compare import DeviceComparer
from ckpttool.torch_bridge.verify.loading import LoadOutcome
from ckpttool.torch_bridge.verify.placement import (
    find_untied,
    left_on_meta,
    share_memory,
    tie_groups,
    unmoved,
)
from ckpttool.torch_bridge.verify.poison import Poison, is_plain
from ckpttool.values.checkpoint import Entry, Kind
from ckpttool.values.model import ModelSpec
from ckpttool.values.verification import Lossy, Missing, NotRestored, Run, Wrong

NORMAL_BUILDS = ("copy", "round-trip")  # ways in which the constructor has run for real


class Judge:
    """Knows the model and the file; judges one loaded module at a time.

    ``state`` and ``in_file`` are the file's tensors and entries under the model's names. ``rewritten``
    are non-persistent buffers that the model's own loading code sets, as a normal load left them.
    """

    def __init__(
        self, spec: ModelSpec, in_file: Mapping[str, Entry], state: Mapping[str, Any], builds: Builds
    ) -> None:
        self.spec = spec
        self.in_file = in_file
        self.state = state
        self.builds = builds
        self.entries = {str(entry.name): entry for entry in spec.checkpoint.entries}
        self.ties = tie_groups(spec)
        self.custom = tuple(own.path for own in spec.custom_load)
        self.rewritten: dict[str, torch.Tensor] = {}

    def judge(self, module: nn.Module, outcome: LoadOutcome, poison: Poison, device: str, load: str) -> Run:
        """Compare what the module holds with the file and with normal builds."""
        loaded = {
            name: value for name, value in named_state(module).items() if isinstance(value, torch.Tensor)
        }
        bad_shape = {item.name for item in outcome.mismatched}
        shared = [name for name in loaded if name in self.in_file and name not in bad_shape]
        comparison = _Comparison(self, poison, device)
        for name in shared:
            comparison.add(name, loaded[name])
        nbytes, seconds = comparison.finish(loaded)
        hooked, kept = self._fill_without_file(loaded, outcome, poison, load, comparison.unfilled)
        total_nbytes, matched_nbytes = self._parameter_nbytes({*shared, *hooked})
        transient = non_persistent_names(module)
        filled = {name: loaded[name] for name in shared}
        return Run(
            device,
            load,
            False,
            None,
            len(shared) + len(hooked),
            len(loaded),
            matched_nbytes,
            total_nbytes,
            missing=tuple(self._missing(name, loaded, filled) for name in outcome.missing),
            unexpected=outcome.unexpected,
            mismatched=outcome.mismatched,
            lossy=tuple(comparison.lossy),
            cast=tuple(comparison.cast),
            not_restored=tuple(self._not_restored(transient, filled, poison, load)),
            unfilled=tuple(comparison.unfilled),
            wrong=tuple(comparison.wrong),
            untied=tuple(find_untied(self.ties, {**transient, **loaded})),
            unmoved=tuple(_misplaced(module, device, load)),
            gb_per_second=nbytes / seconds / 1e9 if nbytes else None,
            hooked=tuple(hooked),
            kept=tuple(kept),
            uncompared=tuple(comparison.uncompared),
            assigned_dtype=tuple(self._assigned_dtypes(filled)) if load == "assign" else (),
            errors=outcome.other,
        )

    def _fill_without_file(
        self,
        loaded: Mapping[str, torch.Tensor],
        outcome: LoadOutcome,
        poison: Poison,
        load: str,
        unfilled: list[str],
    ) -> tuple[list[str], list[str]]:
        """Entries that the file does not name and nobody missed: filled by hooks, kept as built, or left.

        Batch norm keeps its num_batches_tracked where an old file has none: right after a normal
        build, and garbage after ``to_empty``.
        """
        hooked, kept = [], []
        missing = set(outcome.missing)
        for name, tensor in loaded.items():
            if name in self.in_file or name in missing or is_lazy(tensor):
                continue
            partners = [
                loaded[other] for other in self._tied_to(name) if other in self.in_file and other in loaded
            ]
            if any(share_memory(tensor, partner) for partner in partners):
                continue  # filled through its tie
            if not tensor.is_meta and not poison.survives(name, tensor):
                hooked.append(name)
            elif load in NORMAL_BUILDS and self._is_buffer(name) and self.builds.agrees(name):
                kept.append(name)
            else:
                unfilled.append(name)
        return hooked, kept

    def _is_buffer(self, name: str) -> bool:
        entry = self.entries.get(name)
        return entry is not None and entry.declared.kind is not Kind.PARAMETER

    def why_wrong(self, name: str, tensor: torch.Tensor) -> str:
        """The cause of a difference, as far as it can be told."""
        for other in self._tied_to(name):
            stored = self.state.get(other)
            if isinstance(stored, torch.Tensor) and same_bytes(tensor.cpu(), stored):
                return f"tied to {other}, for which the file has another value: the last one loaded won"
        stored = self.state[name]
        if any(not path or name.startswith(f"{path}.") for path in self.custom):
            return "changed by the module's own loading code"
        if tensor.shape != stored.shape:
            return f"has shape {list(tensor.shape)}, in the file {list(stored.shape)}"
        return f"holds {describe_values(tensor)}, in the file {describe_values(stored)}"

    def _tied_to(self, name: str) -> Iterator[str]:
        for group in self.ties:
            if name in group:
                yield from (other for other in group if other != name)

    def _missing(
        self, name: str, loaded: Mapping[str, torch.Tensor], filled: Mapping[str, torch.Tensor]
    ) -> Missing:
        entry = self.entries.get(name)
        kind = entry.declared.kind if entry else Kind.UNKNOWN
        agrees = self.builds.agrees(name)
        tensor = loaded.get(name)
        partners = [filled[other] for other in self._tied_to(name) if other in filled]
        if tensor is not None and any(share_memory(tensor, partner) for partner in partners):
            becomes = "tied"
        elif agrees is None:
            becomes = "unknown"
        elif not agrees:
            becomes = "random"
        else:
            becomes = "default" if kind is Kind.PARAMETER else "rebuilt"
        return Missing(name, kind.value, entry.value.nbytes if entry and entry.value else 0, becomes)

    def _not_restored(
        self,
        transient: Mapping[str, torch.Tensor],
        filled: Mapping[str, torch.Tensor],
        poison: Poison,
        load: str,
    ) -> Iterator[NotRestored]:
        """Non-persistent buffers that two builds agree on and this module does not hold."""
        for name, tensor in transient.items():
            expected = self.rewritten.get(name, self.builds.expected.get(name))
            if expected is None or not is_plain(tensor):
                continue
            if tensor.is_meta:
                yield NotRestored(name, "meta", "no data (meta)", describe_values(expected))
            elif any(share_memory(tensor, filled[other]) for other in self._tied_to(name) if other in filled):
                continue  # a view of an entry that was loaded: it holds what the file has
            elif not same_bytes(tensor.cpu(), expected):
                if load in NORMAL_BUILDS:
                    # Nothing but the model's own loading code can have changed it since it was built.
                    self.rewritten[name] = tensor.detach().to("cpu", copy=True)
                    continue
                empty = poison.survives(name, tensor)
                holds = "uninitialised memory" if empty else describe_values(tensor)
                yield NotRestored(name, "garbage", holds, describe_values(expected))

    def _parameter_nbytes(self, matched: set[str]) -> tuple[int, int]:
        """(all, matched) bytes of the model's parameters."""
        total = found = 0
        for name, entry in self.entries.items():
            if entry.declared.kind is Kind.PARAMETER and entry.value is not None:
                total += entry.value.nbytes
                found += entry.value.nbytes if name in matched else 0
        return total, found

    def _assigned_dtypes(self, filled: Mapping[str, torch.Tensor]) -> Iterator[str]:
        """Entries that have the file's dtype now, and not the one that the model declares."""
        for name, tensor in filled.items():
            entry = self.entries.get(name)
            info = entry.tensor if entry else None
            if info is not None and str(tensor.dtype).removeprefix("torch.") != info.dtype.name:
                yield name


class _Comparison:
    """Loaded tensors against the file, sorted by what became of them."""

    def __init__(self, judge: Judge, poison: Poison, device: str) -> None:
        self.judge = judge
        self.poison = poison
        self.device = torch.device(device)
        self.lossy: list[Lossy] = []
        self.cast: list[str] = []
        self.wrong: list[Wrong] = []
        self.unfilled: list[str] = []
        self.uncompared: list[str] = []
        self._comparer = DeviceComparer(self.device) if self.device.type != "cpu" else None

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Compare one tensor, or begin to where it is on a device."""
        stored = self.judge.state[name]
        if tensor.is_meta:
            self.wrong.append(Wrong(name, "still on meta: no data was loaded"))
        elif is_lazy(tensor):
            self.wrong.append(Wrong(name, "still uninitialised: no data was loaded"))
        elif not (is_plain(tensor) and is_plain(stored)):
            self._add_composite(name, tensor, stored)
        elif tensor.shape != stored.shape and not tensor.numel() == stored.numel() == 1:
            self._add_wrong(name, tensor)
        elif tensor.dtype != stored.dtype:
            self._add_cast(name, tensor, stored)
        else:
            stored = stored.reshape(tensor.shape)  # torch takes shape [1] for [] since 0.4.1
            if self._comparer is not None and tensor.device.type == self.device.type:
                self._comparer.submit(name, tensor, stored)
            elif not same_bytes(tensor.cpu(), stored):
                self._add_wrong(name, tensor)

    def finish(self, loaded: Mapping[str, torch.Tensor]) -> tuple[int, float]:
        """Wait for what is under way; bytes that were brought to the device, and the seconds."""
        if self._comparer is None:
            return 0, 0.0
        names, seconds = self._comparer.finish()
        for name in names:
            self._add_wrong(name, loaded[name])
        return self._comparer.nbytes, seconds

    def _add_cast(self, name: str, tensor: torch.Tensor, stored: torch.Tensor) -> None:
        loss = find_loss(name, stored, tensor)
        if loss is None:
            self.cast.append(name)
        elif self.poison.survives(name, tensor):
            self.unfilled.append(name)
        else:
            self.lossy.append(loss)

    def _add_wrong(self, name: str, tensor: torch.Tensor) -> None:
        if self.poison.survives(name, tensor):
            self.unfilled.append(name)
        else:
            self.wrong.append(Wrong(name, self.judge.why_wrong(name, tensor)))

    def _add_composite(self, name: str, tensor: torch.Tensor, stored: torch.Tensor) -> None:
        """Sparse and quantized tensors by the tensors that they are made of."""
        left, right = _components(tensor.detach().cpu()), _components(stored)
        if left is None or right is None:
            self.uncompared.append(name)
        elif len(left) != len(right) or not all(map(same_bytes, left, right)):
            self.wrong.append(Wrong(name, f"its {_layout_name(stored)} parts are not the file's"))


def _components(tensor: torch.Tensor) -> Sequence[torch.Tensor] | None:
    """Strided tensors that say the same; None for layouts and subclasses that are not taken apart here."""
    if is_plain(tensor):
        return [tensor]
    if tensor.layout is torch.sparse_coo:
        whole = tensor.coalesce()
        return [whole.indices(), whole.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    if tensor.is_quantized and tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return [
            tensor.int_repr(),
            torch.tensor([tensor.q_scale(), tensor.q_zero_point()], dtype=torch.float64),
        ]
    if tensor.is_quantized:
        scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
        return [tensor.int_repr(), scales, zeros, torch.tensor(tensor.q_per_channel_axis())]
    return None


def _layout_name(tensor: torch.Tensor) -> str:
    return "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")


def _misplaced(module: nn.Module, device: str, load: str) -> list[str]:
    """Tensors that are not on the device, or that a build on meta left without data for good."""
    if load not in NORMAL_BUILDS:
        return left_on_meta(module)
    return unmoved(module, device) if device != "cpu" else []
