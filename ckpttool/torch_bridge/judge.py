"""A loaded module against the file, by bytes, and against what a normal build gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckpttool.analysis.model_spec import ModelSpec
from ckpttool.analysis.verification import Lossy, Missing, NotRestored, Run, Wrong
from ckpttool.checkpoint import Entry, Kind
from ckpttool.torch_bridge.builds import Builds
from ckpttool.torch_bridge.file_tensors import DeviceComparer, same_bytes
from ckpttool.torch_bridge.loading import LoadOutcome, Poison, describe_values, find_loss
from ckpttool.torch_bridge.reference import iter_registered, named_state, non_persistent_names

_MAX_LISTED = 10_000  # of one sort in one run: beyond it a report helps nobody


class Judge:
    """Knows the model and the file; judges one loaded module at a time.

    ``state`` and ``in_file`` are the file's tensors and entries under the model's names; ``builds``
    is asked for only where something is missing or non-persistent.
    """

    def __init__(
        self,
        spec: ModelSpec,
        in_file: Mapping[str, Entry],
        state: Mapping[str, Any],
        builds: Callable[[], Builds],
    ) -> None:
        self.spec = spec
        self.in_file = in_file
        self.state = state
        self.builds = builds
        self.ties = tie_groups(spec)
        self.custom = tuple(item.partition(" (")[0] for item in spec.custom_load)

    def judge(self, module: nn.Module, outcome: LoadOutcome, poison: Poison, device: str, load: str) -> Run:
        """Compare what the module holds with the file and with a normal build."""
        loaded = {
            name: value for name, value in named_state(module).items() if isinstance(value, torch.Tensor)
        }
        bad_shape = {item.name for item in outcome.mismatched}
        comparer = DeviceComparer(torch.device(device)) if device != "cpu" else None
        started = time.perf_counter()
        lossy: list[Lossy] = []
        cast: list[str] = []
        wrong: list[Wrong] = []
        for name, tensor in loaded.items():
            if name in self.in_file and name not in bad_shape:
                self._compare(name, tensor, comparer, lossy, cast, wrong)
        elapsed = time.perf_counter() - started
        missing = [
            name for name in outcome.missing if name in loaded or name.rpartition(".")[2] == "_extra_state"
        ]
        unfilled = [
            name
            for name, tensor in loaded.items()
            if name not in self.in_file and name not in missing and poison.survives(name, tensor)
        ]
        matched = [name for name in loaded if name in self.in_file and name not in bad_shape]
        total_nbytes, matched_nbytes = self._parameter_nbytes(matched)
        return Run(
            device,
            load,
            False,
            None,
            len(matched),
            len(loaded),
            matched_nbytes,
            total_nbytes,
            tuple(self._missing(name) for name in outcome.missing[:_MAX_LISTED]),
            outcome.unexpected[:_MAX_LISTED],
            outcome.mismatched,
            tuple(lossy),
            tuple(cast),
            tuple(self._not_restored(module)),
            tuple(unfilled),
            tuple(wrong),
            tuple(self._untied(loaded)),
            tuple(unmoved(module, device)) if device != "cpu" and load in ("copy", "round-trip") else (),
            gb_per_second=comparer.nbytes / elapsed / 1e9 if comparer and elapsed else None,
        )

    def _compare(
        self,
        name: str,
        tensor: torch.Tensor,
        comparer: DeviceComparer | None,
        lossy: list[Lossy],
        cast: list[str],
        wrong: list[Wrong],
    ) -> None:
        """One loaded tensor against the file, by bytes."""
        stored = self.state[name]
        if tensor.is_meta:
            wrong.append(Wrong(name, "still on meta: no data was loaded"))
            return
        if is_lazy(tensor) or not isinstance(stored, torch.Tensor):
            return
        if stored.layout is not torch.strided or stored.is_quantized:
            if not torch.equal(stored.to_dense(), tensor.detach().cpu().to_dense()):
                wrong.append(Wrong(name, "its values are not the file's"))
            return
        if tensor.dtype != stored.dtype:
            loss = find_loss(name, stored, tensor)
            if loss is None:
                cast.append(name)
            else:
                lossy.append(loss)
            return
        if tensor.shape != stored.shape and tensor.numel() == stored.numel() == 1:
            stored = stored.reshape(tensor.shape)  # torch takes shape [1] for [] since 0.4.1
        on_device = comparer is not None and tensor.device.type == comparer.device.type
        same = comparer.equal(tensor, stored) if comparer and on_device else same_bytes(tensor, stored)
        if not same:
            wrong.append(Wrong(name, self._why_wrong(name, tensor)))

    def _why_wrong(self, name: str, tensor: torch.Tensor) -> str:
        """The cause, as far as it can be told."""
        for group in self.ties:
            if name not in group:
                continue
            for other in group:
                stored = self.state.get(other)
                if other != name and isinstance(stored, torch.Tensor) and same_bytes(tensor.cpu(), stored):
                    return f"tied to {other}, for which the file has another value: the last one loaded won"
        if any(name == path or name.startswith(f"{path}.") for path in self.custom):
            return "changed by the module's own loading code"
        return f"holds {describe_values(tensor)}, the file {describe_values(self.state[name])}"

    def _missing(self, name: str) -> Missing:
        entry = next((entry for entry in self.spec.checkpoint.entries if entry.name == name), None)
        kind = entry.declared.kind if entry else Kind.UNKNOWN
        agrees = self.builds().agrees(name)
        if agrees is None:
            becomes = "unknown"
        elif not agrees:
            becomes = "random"
        else:
            becomes = "default" if kind is Kind.PARAMETER else "rebuilt"
        return Missing(name, kind.value, entry.value.nbytes if entry and entry.value else 0, becomes)

    def _not_restored(self, module: nn.Module) -> list[NotRestored]:
        """Non-persistent buffers that two builds agree on and this module does not."""
        found = []
        for name, tensor in non_persistent_names(module).items():
            if not self.builds().agrees(name):
                continue
            expected = self.builds().first[name]
            if tensor.is_meta:
                found.append(NotRestored(name, "meta", "no data (meta)", describe_values(expected)))
            elif not same_bytes(tensor.cpu(), expected):
                found.append(NotRestored(name, "garbage", describe_values(tensor), describe_values(expected)))
        return found

    def _untied(self, loaded: Mapping[str, torch.Tensor]) -> list[tuple[str, ...]]:
        """Groups that share memory in the model as built, and do not any more."""
        found = []
        for group in self.ties:
            there = [loaded[name] for name in group if name in loaded and not loaded[name].is_meta]
            pointers = {tensor.untyped_storage().data_ptr() for tensor in there if _has_storage(tensor)}
            if len(pointers) > 1:
                found.append(group)
        return found

    def _parameter_nbytes(self, matched: Sequence[str]) -> tuple[int, int]:
        """(all, matched) bytes of the model's parameters."""
        names = set(matched)
        total = found = 0
        for entry in self.spec.checkpoint.entries:
            if entry.declared.kind is Kind.PARAMETER and entry.value is not None:
                total += entry.value.nbytes
                found += entry.value.nbytes if entry.name in names else 0
        return total, found


def tie_groups(spec: ModelSpec) -> list[tuple[str, ...]]:
    """Names of the model's entries that share memory: one tensor, or views that overlap."""
    by_storage: dict[str, list[tuple[int, int, str]]] = {}
    for entry in spec.checkpoint.entries:
        info = entry.tensor
        if info is not None and info.storage is not None and info.numel:
            by_storage.setdefault(info.storage.key, []).append((*info.byte_span, str(entry.name)))
    groups: list[list[str]] = []
    for spans in by_storage.values():
        end = -1
        for start, stop, name in sorted(spans):
            if start >= end:
                groups.append([])
            groups[-1].append(name)
            end = max(end, stop)
    return [tuple(names) for names in groups if len(names) > 1]


def _has_storage(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and not hasattr(type(tensor), "__tensor_flatten__")


def unmoved(module: nn.Module, device: str) -> list[str]:
    """Registered tensors, and plain attributes, that are not on the device after ``.to(device)``."""
    kind = torch.device(device).type
    found = [
        slot.full_name
        for slot in iter_registered(module)
        if slot.tensor is not None and slot.tensor.device.type != kind
    ]
    for path, child in module.named_modules():
        for name, value in vars(child).items():
            if isinstance(value, torch.Tensor) and value.device.type != kind:
                found.append(f"{path}.{name}" if path else name)
    return found
