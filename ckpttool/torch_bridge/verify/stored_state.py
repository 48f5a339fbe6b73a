"""The file's side of a load: one state_dict of it under the names that the model would know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from ckpttool.names.match import NameMatch, match_names
from ckpttool.torch_bridge.reference import is_extra_state
from ckpttool.torch_bridge.tensors import FileTensors
from ckpttool.torch_bridge.verify.loading import with_metadata
from ckpttool.values.checkpoint import (
    Checkpoint,
    Key,
    Plain,
    PlainList,
    Root,
    in_state_dict,
    views_of,
)
from ckpttool.values.model import ModelSpec

_MAPPINGS = frozenset({"dict", "OrderedDict", "collections.OrderedDict", "defaultdict"})


class StoredState:
    """Entries of one root, the extra state, and what else the mapping holds, under the model's names.

    ``by_model_name`` are the entries under the names that the model would know them by. ``unbuilt`` are
    extra states that only running the file could make: their absence is no error of
    the file. ``foreign`` are keys without a tensor (``epoch``), which load_state_dict takes for unexpected.
    """

    def __init__(self, checkpoint: Checkpoint, root: Root, spec: ModelSpec) -> None:
        self.checkpoint = checkpoint
        self.tensors = FileTensors(checkpoint)
        self.entries = [
            entry
            for entry in checkpoint.entries
            # What a pickled module carries beside its state_dict is not given to load_state_dict.
            if entry.root == root and entry.value is not None and in_state_dict(entry)
        ]
        model_names = [str(entry.name) for entry in spec.checkpoint.entries if in_state_dict(entry)]
        self.extra = dict(_extra_states(checkpoint, root, self.tensors))
        below = [(_below((*item.root, item.name), root), item.type_name) for item in checkpoint.opaque]
        opaque = [(path, type_name) for path, type_name in below if path and is_extra_state(path[0])]
        unbuilt = {str(path[0]) for path, _ in opaque}
        self.foreign = tuple(_foreign_keys(checkpoint, root))
        names = [str(entry.name) for entry in self.entries] + list(self.extra) + sorted(unbuilt)
        self.match: NameMatch = match_names(names, model_names)
        self.by_model_name = {self.match.to_model[str(entry.name)]: entry for entry in self.entries}
        self.unbuilt = frozenset(self.match.to_model[name] for name in unbuilt)
        self.notes = tuple(
            f"extra state {'.'.join(map(str, path))} is of type {type_name}: it cannot be built without "
            "running the file, and is not checked"
            for path, type_name in opaque
        )
        paths = _module_paths(self.match.to_model)
        versions = checkpoint.module_versions.get(root, {})
        extras = checkpoint.module_extras.get(root, {})
        self.metadata = {
            paths.get(path, path): _local_metadata(version, extras.get(path, ()))
            for path, version in versions.items()
        }

    @property
    def copied_nbytes(self) -> int:
        """Bytes of storages that cannot be mapped, and are held in memory instead."""
        found = {
            (part.storage.file, part.storage.key): part.storage.nbytes
            for entry in self.entries
            for part in views_of(entry.value)
            if part.storage is not None and self.tensors.copies(part.storage)
        }
        return sum(found.values())

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` is given, in the file's order, with ``_metadata``.

        Raises:
            CkptToolError: a tensor of the file cannot be read as one of torch's, or a file changed meanwhile.
        """
        state: dict[str, Any] = {
            name: self.tensors.tensor(entry) for name, entry in self.by_model_name.items()
        }
        state.update({self.match.to_model[name]: value for name, value in self.extra.items()})
        for name in self.foreign:
            state.setdefault(name, None)
        return with_metadata(state, self.metadata)


def _below(path: Root, root: Root) -> Root:
    """What of ``path`` lies below ``root``: nothing, if it is another branch."""
    return path[len(root) :] if path[: len(root)] == root else ()


def _foreign_keys(checkpoint: Checkpoint, root: Root) -> Iterator[str]:
    """Keys of the mapping at ``root`` that hold no tensor and are no extra state.

    What stands beside the entries of a pickled module or an archive are attributes, not keys.
    """
    types = {container.path: container.type_name for container in checkpoint.containers}
    if types.get(root) not in _MAPPINGS:
        return
    keys = [value.name for value in checkpoint.values if value.root == root]
    keys += [item.name for item in checkpoint.opaque if item.root == root]
    keys += [path[-1] for path in types if len(_below(path, root)) == 1]
    yield from dict.fromkeys(str(key) for key in keys if not is_extra_state(key))


def _module_paths(to_model: Mapping[str, str]) -> dict[str, str]:
    """Module path in the file -> in the model, where they differ: the rule that the entries followed."""
    paths: dict[str, str] = {}
    for old, new in to_model.items():
        if old == new:
            continue
        cut = len(old)
        while cut > 0:
            cut = old.rfind(".", 0, cut)
            tail = old[cut + 1 :]
            if new == tail:
                paths[old[: max(cut, 0)]] = ""
            elif new.endswith(f".{tail}"):
                paths[old[: max(cut, 0)]] = new[: -len(tail) - 1]
    return paths


def _extra_states(checkpoint: Checkpoint, root: Root, tensors: FileTensors) -> Iterator[tuple[str, Any]]:
    """What ``get_extra_state`` returned, where it is plain: scalars, tensors, and dicts or lists of them."""
    for value in checkpoint.values:
        if value.root == root and is_extra_state(value.name):
            yield str(value.name), thaw(value.value)
    paths = [container.path for container in checkpoint.containers]
    tops = {path for path in paths if len(_below(path, root)) == 1 and is_extra_state(path[-1])}
    tops -= {(*item.root, item.name)[: len(root) + 1] for item in checkpoint.opaque}
    built = _build_plain(checkpoint, tops, len(root) + 1, tensors) if tops else {}
    for top in sorted(built, key=str):
        yield str(top[-1]), built[top]


def _build_plain(
    checkpoint: Checkpoint, tops: AbstractSet[Root], depth: int, tensors: FileTensors
) -> dict[Root, Any]:
    """The dicts and lists at ``tops``, paths of ``depth`` keys, made of the leaves below them."""
    held: dict[Root, dict[Key, Any]] = {}
    for value in checkpoint.values:
        if value.root[:depth] in tops:
            held.setdefault(value.root, {})[value.name] = thaw(value.value)
    for entry in checkpoint.entries:
        if entry.root[:depth] in tops:
            held.setdefault(entry.root, {})[entry.name] = tensors.tensor(entry)
    below = [container for container in checkpoint.containers if container.path[:depth] in tops]
    found: dict[Root, Any] = {}
    # The deepest first, so that what a container holds is there when it is built.
    for container in sorted(below, key=lambda container: len(container.path), reverse=True):
        path = container.path
        built: Any = held.get(path, {})
        if container.type_name in ("list", "tuple"):
            items = [built[index] for index in range(container.length) if index in built]
            built = tuple(items) if container.type_name == "tuple" else items
        if path in tops:
            found[path] = built
        else:
            held.setdefault(path[:-1], {})[path[-1]] = built
    return found


def thaw(value: Plain) -> Any:
    """A plain value with its lists, as Python had it. How deep they nest is the file's choice: a loop."""
    holder: list[Any] = [value]
    order: list[tuple[list[Any], int, Plain]] = [(holder, 0, value)]
    for place, index, item in order:  # grows while it is walked
        if isinstance(item, tuple):
            inner: list[Any] = list(item)
            place[index] = inner
            order += [(inner, position, child) for position, child in enumerate(item)]
    for place, index, item in reversed(order):  # the innermost first
        if isinstance(item, tuple) and not isinstance(item, PlainList):
            place[index] = tuple(place[index])
    return holder[0]


def _local_metadata(version: int | None, extras: Sequence[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """One module's ``_metadata`` as torch wrote it."""
    local: dict[str, Any] = {} if version is None else {"version": version}
    for path, value in extras:
        place = local
        for part in path[:-1]:
            inner = place.get(part)
            if not isinstance(inner, dict):
                inner = place[part] = {}
            place = inner
        place[path[-1]] = thaw(value)
    return local
