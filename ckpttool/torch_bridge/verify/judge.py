"""A loaded module against the file, by bytes, and against what a normal build gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ckpttool.torch_bridge.reference import named_state, non_persistent_names
from ckpttool.torch_bridge.tensors import NamedTensors, is_lazy, is_plain, is_tensor, same_bytes, type_name
from ckpttool.torch_bridge.verify import placement
from ckpttool.torch_bridge.verify.against_file import Comparison
from ckpttool.torch_bridge.verify.builds import Builds, Poison
from ckpttool.torch_bridge.verify.casts import describe_values
from ckpttool.torch_bridge.verify.loading import LoadOutcome
from ckpttool.values.checkpoint import Entry, Kind
from ckpttool.values.model import ModelSpec
from ckpttool.values.verification import NORMAL_BUILDS, Missing, NotRestored, Run, Wrong


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
        self.parameters = {
            name: entry.value.nbytes
            for name, entry in self.entries.items()
            if entry.declared.kind is Kind.PARAMETER and entry.value is not None
        }
        self.unlearnt = self.entries.keys() - self.parameters.keys()
        self.ties = placement.tie_groups(spec)
        self.rewritten: dict[str, torch.Tensor] = {}

    def judge(self, module: nn.Module, outcome: LoadOutcome, poison: Poison, device: str, load: str) -> Run:
        """Compare what the module holds with the file and with normal builds."""
        loaded = {name: value for name, value in named_state(module).items() if is_tensor(value)}
        bad_shape = {item.name for item in outcome.mismatched}
        shared = [name for name in loaded if name in self.in_file and name not in bad_shape]
        comparison = Comparison(loaded, self.state, poison, device)
        comparison.run(shared)
        hooked, kept = self._fill_without_file(loaded, outcome, poison, load, comparison.unfilled)
        transient = non_persistent_names(module)
        filled = {name: loaded[name] for name in shared}
        return Run(
            device,
            load,
            matched=len(shared) + len(hooked),
            total=len(loaded),
            matched_nbytes=sum(self.parameters.get(name, 0) for name in {*shared, *hooked}),
            total_nbytes=sum(self.parameters.values()),
            missing=tuple(self._missing(name, loaded, filled) for name in outcome.missing),
            unexpected=outcome.unexpected,
            mismatched=outcome.mismatched,
            lossy=tuple(comparison.lossy),
            cast=tuple(comparison.cast),
            not_restored=tuple(self._not_restored(transient, filled, poison, load)),
            unfilled=tuple(comparison.unfilled),
            wrong=tuple(
                Wrong(name, reason or self._why_wrong(name, loaded[name]))
                for name, reason in comparison.wrong.items()
            ),
            untied=tuple(placement.find_untied(self.ties, {**transient, **loaded})),
            unmoved=tuple(placement.misplaced(module, device, load)),
            gb_per_second=comparison.gb_per_second,
            hooked=tuple(hooked),
            kept=tuple(kept),
            uncompared=tuple(comparison.uncompared),
            assigned_dtype=tuple(self._assigned_dtypes(filled)) if load == "assign" else (),
            errors=outcome.other,
        )

    def _fill_without_file(
        self, loaded: NamedTensors, outcome: LoadOutcome, poison: Poison, load: str, unfilled: list[str]
    ) -> tuple[list[str], list[str]]:
        """Entries that the file does not name and nobody missed: filled by hooks, kept as built, or left.

        Batch norm keeps its num_batches_tracked where an old file has none: right after a normal
        build, and garbage after ``to_empty``.
        """
        hooked, kept = [], []
        named = {name: tensor for name, tensor in loaded.items() if name in self.in_file}
        others = loaded.keys() - named.keys() - set(outcome.missing)
        for name, tensor in loaded.items():
            if name not in others or is_lazy(tensor) or self._tied_into(named, name, tensor):
                continue
            if not tensor.is_meta and not poison.survives(name, tensor):
                hooked.append(name)
            elif load in NORMAL_BUILDS and name in self.unlearnt and self.builds.agrees(name):
                kept.append(name)
            else:
                unfilled.append(name)
        return hooked, kept

    def _why_wrong(self, name: str, tensor: torch.Tensor) -> str:
        """The cause of a difference, as far as it can be told."""
        for other in self._tied_to(name):
            stored = self.state.get(other)
            if isinstance(stored, torch.Tensor) and same_bytes(tensor.cpu(), stored):
                return f"tied to {other}, for which the file has another value: the last one loaded won"
        stored = self.state[name]
        if any(own.holds(name) for own in self.spec.custom_load):
            return "changed by the module's own loading code"
        if tensor.shape != stored.shape:
            return f"has shape {list(tensor.shape)}, in the file {list(stored.shape)}"
        return f"holds {describe_values(tensor)}, in the file {describe_values(stored)}"

    def _tied_to(self, name: str) -> Iterator[str]:
        for group in self.ties:
            if name in group:
                yield from (other for other in group if other != name)

    def _tied_into(self, held: NamedTensors, name: str, tensor: torch.Tensor) -> bool:
        """Whether it shares memory with one of ``held`` that it is tied to, and so has its values."""
        return any(
            placement.share_memory(tensor, held[other]) for other in self._tied_to(name) if other in held
        )

    def _missing(self, name: str, loaded: NamedTensors, filled: NamedTensors) -> Missing:
        entry = self.entries.get(name)
        kind = entry.declared.kind if entry else Kind.UNKNOWN
        agrees = self.builds.agrees(name)
        tensor = loaded.get(name)
        if tensor is not None and self._tied_into(filled, name, tensor):
            becomes = "tied"
        elif agrees is None:
            becomes = "unknown"
        elif not agrees:
            becomes = "random"
        else:
            becomes = "default" if kind is Kind.PARAMETER else "rebuilt"
        return Missing(name, kind.value, entry.value.nbytes if entry and entry.value else 0, becomes)

    def _not_restored(
        self, transient: NamedTensors, filled: NamedTensors, poison: Poison, load: str
    ) -> Iterator[NotRestored]:
        """Non-persistent buffers that two builds agree on and this module does not hold."""
        for name, tensor in transient.items():
            expected = self.rewritten.get(name, self.builds.expected.get(name))
            if expected is None or not is_plain(tensor):
                continue
            if tensor.is_meta:
                yield NotRestored(name, "meta", "no data (meta)", describe_values(expected))
            elif self._tied_into(filled, name, tensor):
                continue  # a view of an entry that was loaded: it holds what the file has
            elif not same_bytes(tensor.cpu(), expected):
                if load in NORMAL_BUILDS:
                    # Nothing but the model's own loading code can have changed it since it was built.
                    self.rewritten[name] = tensor.detach().to("cpu", copy=True)
                    continue
                empty = poison.survives(name, tensor)
                holds = "uninitialised memory" if empty else describe_values(tensor)
                yield NotRestored(name, "garbage", holds, describe_values(expected))

    def _assigned_dtypes(self, filled: NamedTensors) -> Iterator[str]:
        """Entries that have the file's dtype now, and not the one that the model declares."""
        for name, tensor in filled.items():
            info = self.entries[name].tensor if name in self.entries else None
            if info is not None and type_name(tensor.dtype) != info.dtype.name:
                yield name
