"""The file's side of a load: one state_dict of it under the names that the model would know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ckpttool.analysis.match import NameMatch, match_names
from ckpttool.analysis.model_spec import ModelSpec
from ckpttool.checkpoint import Checkpoint, Entry, Key, Kind, Opaque, Root
from ckpttool.torch_bridge.file_tensors import FileTensors
from ckpttool.torch_bridge.loading import with_metadata


class StoredState:
    """The file's side: entries of one root under the names that the model would know."""

    def __init__(self, checkpoint: Checkpoint, root: Root, spec: ModelSpec) -> None:
        self.checkpoint = checkpoint
        self.tensors = FileTensors(checkpoint)
        self.entries = [
            entry
            for entry in checkpoint.entries
            # What a pickled module carries beside its state_dict is not given to load_state_dict.
            if entry.root == root and entry.value is not None and not _is_carried(entry)
        ]
        model_names = [str(entry.name) for entry in spec.checkpoint.entries if not _is_carried(entry)]
        self.extra = dict(_extra_states(checkpoint, root, self.tensors))
        names = [str(entry.name) for entry in self.entries] + list(self.extra)
        self.match: NameMatch = match_names(names, model_names)
        opaque = [item for item in checkpoint.opaque if _is_opaque_extra(item, root)]
        self.notes = tuple(
            f"extra state {'.'.join(map(str, (*item.root[len(root) :], item.name)))} is of type "
            f"{item.type_name}: it cannot be built without running the file"
            for item in opaque
        )
        versions = checkpoint.module_versions.get(root, {})
        extras = checkpoint.module_extras.get(root, {})
        self.metadata = {
            self._module_path(path): _local_metadata(version, extras.get(path, ()))
            for path, version in versions.items()
        }

    def _module_path(self, path: str) -> str:
        """A module's path under the model's names: the rule that its entries followed."""
        for old, new in self.match.to_model.items():
            if old.startswith(f"{path}.") if path else True:
                tail = old[len(path) :] if path else old
                if new.endswith(tail):
                    return new[: len(new) - len(tail)].rstrip(".")
        return path

    def by_model_name(self) -> dict[str, Entry]:
        """Entries under the names that the model would know them by."""
        return {self.match.to_model[str(entry.name)]: entry for entry in self.entries}

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` is given, in the file's order, with ``_metadata``."""
        state: dict[str, Any] = {
            self.match.to_model[str(entry.name)]: self.tensors.tensor(entry) for entry in self.entries
        }
        state.update({self.match.to_model[name]: value for name, value in self.extra.items()})
        return with_metadata(state, self.metadata)


def _is_carried(entry: Entry) -> bool:
    return entry.declared.kind is Kind.NON_PERSISTENT_BUFFER or "not registered" in entry.declared.note


def _is_extra(key: Key) -> bool:
    return str(key).rpartition(".")[2] == "_extra_state"


def _is_opaque_extra(item: Opaque, root: Root) -> bool:
    """Whether an object that cannot be built stands in the extra state of this state_dict."""
    path = (*item.root, item.name)
    return len(path) > len(root) and path[: len(root)] == root and _is_extra(path[len(root)])


def _extra_states(checkpoint: Checkpoint, root: Root, tensors: FileTensors) -> Iterator[tuple[str, Any]]:
    """What ``get_extra_state`` returned, where it is plain: scalars, tensors, and dicts or lists of them."""
    depth = len(root)
    broken = {(*item.root, item.name)[: depth + 1] for item in checkpoint.opaque}
    for value in checkpoint.values:
        if value.root == root and _is_extra(value.name):
            yield str(value.name), value.value
    leaves: dict[Root, dict[Key, Any]] = {}
    for value in checkpoint.values:
        leaves.setdefault(value.root, {})[value.name] = value.value
    for entry in checkpoint.entries:
        if len(entry.root) > depth and _is_extra(entry.root[depth]):
            leaves.setdefault(entry.root, {})[entry.name] = tensors.tensor(entry)
    # Containers stand in the order of the file, a container before what it holds: build from the end.
    for container in reversed(checkpoint.containers):
        path = container.path
        if (
            len(path) <= depth
            or path[:depth] != root
            or not _is_extra(path[depth])
            or path[: depth + 1] in broken
        ):
            continue
        held = leaves.get(path, {})
        built: Any = held
        if container.type_name in ("list", "tuple"):
            built = [held[index] for index in range(container.length) if index in held]
        if len(path) == depth + 1:
            yield str(path[depth]), built
        else:
            leaves.setdefault(path[:-1], {})[path[-1]] = built


def _local_metadata(version: int | None, extras: Sequence[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """One module's ``_metadata`` as torch wrote it."""
    local: dict[str, Any] = {} if version is None else {"version": version}
    for path, value in extras:
        place = local
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return local
