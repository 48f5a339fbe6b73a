"""What a ``.pt`` holds besides tensors, as strings of safetensors' ``__metadata__``, and back.

A safetensors file has names, tensors and strings. The keys below carry the rest; each value is JSON.

- ``ckpttool.root``: the keys above the state_dict, so that it comes back at its place.
- ``ckpttool.values``: ``[[path, value], …]``: epoch, lr, strings, lists of them.
- ``ckpttool.objects``: ``[[path, type, summary], …]``: what is described and never built. Their plain
  attributes are among the values.
- ``ckpttool.module_versions``: ``[[path, {module: {"version": 1, …}}], …]``: ``_metadata``.
- ``ckpttool.order``: positions in the sorted names (aliases included) in the order of the source;
  ``[]`` if that is sorted.
- ``ckpttool.paths``: ``{name: path}`` where a name stands for a path of several keys.
- ``ckpttool.lists``: ``[[path, type], …]``: containers that are not plain dicts, or hold nothing.
- ``ckpttool.parameters``: names of those that were saved as ``nn.Parameter``.
- ``ckpttool.as_bytes``: ``{name: {"dtype": …, "shape": […]}}`` for what stands in the file as U8.

A tied name is an entry of its own, ``alias: kept``, as ``safetensors.torch.save_model`` writes it.
In JSON a list is an array and a tuple ``{"tuple": […]}``; ``{"bytes": hex}``, ``{"float": "nan"}`` and
``{"int": hex}`` are what JSON cannot say. A key of a path that is neither string nor integer is
``{"key": literal}``. Everything here comes from a file that anybody may have written: what cannot be
understood is left out and named in a finding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    Container,
    Entry,
    Finding,
    Key,
    Kind,
    ModuleExtras,
    OddKey,
    Opaque,
    Plain,
    PlainList,
    Root,
    TensorInfo,
    Value,
    packed_stride,
)
from ckpttool.values.dtypes import BY_NAME, DType

_T = TypeVar("_T")
PREFIX = "ckpttool."
_MAX_DEPTH = 64  # of a value; files of torch have 4 at most
_JSON_INT_BITS = 4096  # Python converts up to 4300 digits
_PARAMETER = Classification(Kind.PARAMETER, Basis.PICKLED_PARAMETER)

# ASCII, for strings of a pickle may hold lone surrogates, which a header cannot.
carry_json = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
"""Compact JSON of something that is made of strings, numbers, lists and dicts only."""


# ------------------------------------------------------------------------------------------------ writing


def carry_values(values: Iterable[Value]) -> str:
    """JSON of ``[[path, value], …]``."""
    return carry_json(
        [[encode_path((*value.root, value.name)), encode_plain(value.value)] for value in values]
    )


def carry_versions(
    versions: Mapping[Root, Mapping[str, int | None]], extras: Mapping[Root, Mapping[str, ModuleExtras]]
) -> str:
    """JSON of every ``_metadata``, in its natural shape."""
    found = []
    for root, modules in versions.items():
        document: dict[str, dict[str, Any]] = {}
        for module, version in modules.items():
            facts: dict[str, Any] = {} if version is None else {"version": version}
            for path, plain in extras.get(root, {}).get(module, ()):
                inner = facts
                for key in path[:-1]:
                    inner = inner.setdefault(key, {})
                inner[path[-1]] = encode_plain(plain)
            document[module] = facts
        found.append([encode_path(root), document])
    return carry_json(found)


def carry_order(names: Sequence[str]) -> str:
    """The order of ``names`` as positions among the sorted ones; empty if they are sorted already."""
    positions = {name: position for position, name in enumerate(sorted(names))}
    order = [positions[name] for name in names]
    return carry_json([] if order == list(range(len(order))) else order)


def encode_path(path: Root) -> list[Any]:
    """Keys as JSON has them."""
    return [{"key": key.text} if isinstance(key, OddKey) else key for key in path]


def encode_plain(value: Plain) -> Any:
    """One value as JSON; depth is bounded by the reader that made the value."""
    if isinstance(value, PlainList):
        return [encode_plain(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode_plain(item) for item in value]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if type(value) is int and value.bit_length() > _JSON_INT_BITS:
        return {"int": hex(value)}
    return value


# ------------------------------------------------------------------------------------------------ reading


def expand(checkpoint: Checkpoint) -> Checkpoint:
    """``checkpoint`` with everything that its ``__metadata__`` carries put back in its place.

    Aliases become entries that share bytes with the kept one, values and ``_metadata`` stand where
    they stood. A checkpoint that carries nothing is returned as it is; keys of others stay in
    ``metadata``. What a load is given, which knows nothing of all this, is its ``stored``.
    """
    names = {entry.name for entry in checkpoint.entries if not entry.root and isinstance(entry.name, str)}
    aliases = {
        alias: kept
        for alias, kept in checkpoint.metadata.items()
        if kept in names and alias not in names and not alias.startswith(PREFIX) and alias != "format"
    }
    if not aliases and not any(key.startswith(PREFIX) for key in checkpoint.metadata):
        return checkpoint
    return _Expansion(checkpoint, aliases).run()


class _Expansion:
    """One checkpoint with its carried facts; what is malformed becomes a finding."""

    def __init__(self, checkpoint: Checkpoint, aliases: Mapping[str, str]) -> None:
        self.checkpoint = checkpoint
        self.aliases = aliases
        self.findings: list[Finding] = []
        self.is_ordered = checkpoint.ordered

    def run(self) -> Checkpoint:
        """Put everything back."""
        checkpoint = self.checkpoint
        root = self.read("root", _decode_path, ())
        paths = self.read("paths", _decode_paths, {})
        parameters = frozenset(self.read("parameters", _list_of(str), ()))
        as_bytes = self.read("as_bytes", _decode_as_bytes, {})
        entries = []
        put_back = set()
        for entry in self.ordered_entries():
            name = entry.name
            if entry.root or not isinstance(name, str):
                entries.append(entry)
                continue
            path = (*root, *paths.get(name, (name,)))
            value = _view_as(entry, as_bytes.get(name))
            declared = _PARAMETER if name in parameters else entry.declared
            grad = True if name in parameters else entry.requires_grad
            entries.append(Entry(path[:-1], path[-1], value, grad, declared))
            if name in self.aliases:
                put_back.add(entries[-1][:2])
        if len({entry[:2] for entry in entries}) != len(entries):  # forged: two names on one path
            self.findings.append(_finding("paths", "two tensors would get the same path"))
            entries = list(checkpoint.entries)
            put_back = set()
        values = self.read("values", _decode_values, ())
        versions, extras = self.read("module_versions", _decode_versions, ({}, {}))
        return checkpoint._replace(
            entries=tuple(entries),
            values=(*checkpoint.values, *values),
            opaque=(*checkpoint.opaque, *self.read("objects", _decode_objects, ())),
            containers=(*checkpoint.containers, *self.read("lists", _decode_containers, ())),
            metadata={
                key: text
                for key, text in checkpoint.metadata.items()
                if not key.startswith(PREFIX) and key not in self.aliases
            },
            module_versions={**checkpoint.module_versions, **versions},
            module_extras={**checkpoint.module_extras, **extras},
            findings=(*checkpoint.findings, *self.findings),
            ordered=self.is_ordered,
            stored=checkpoint,
            put_back=frozenset(put_back),
        )

    def read(self, key: str, decode: Any, default: Any) -> Any:
        """The decoded value of a key, or ``default`` and a finding."""
        text = self.checkpoint.metadata.get(PREFIX + key)
        if text is None:
            return default
        try:
            return decode(json.loads(text))
        except (ValueError, TypeError, RecursionError):  # JSONDecodeError is a ValueError
            self.findings.append(_finding(key, "it is left out"))
            return default

    def ordered_entries(self) -> list[Entry]:
        """Entries of the file and one for each tied name, in the order of the source if that still fits."""
        entries = list(self.checkpoint.entries)
        by_name = {entry.name: entry for entry in entries if not entry.root}
        entries += (by_name[kept]._replace(name=alias) for alias, kept in self.aliases.items())
        order = self.read("order", _list_of(int), None)
        if order is None:
            return entries
        ranked = sorted(entries, key=lambda entry: str(entry.name))
        positions = list(range(len(ranked)))
        order = order or positions
        if sorted(order) != positions:
            self.findings.append(_finding("order", "tensors were added or removed since"))
            return entries
        self.is_ordered = True
        return [ranked[position] for position in order]


def _finding(key: str, why: str) -> Finding:
    return Finding("carried-malformed", "warning", "", f"__metadata__ {PREFIX}{key} cannot be used: {why}")


def _view_as(entry: Entry, claim: tuple[DType, tuple[int, ...]] | None) -> Any:
    """The tensor that bytes stand for; as it is if the claim does not fit the bytes."""
    info = entry.tensor
    if claim is None or info is None or info.storage is None:
        return entry.value
    dtype, shape = claim
    if (math.prod(shape) * dtype.bits + 7) // 8 != info.nbytes or info.dtype.name != "uint8":
        return entry.value
    return TensorInfo(dtype, shape, packed_stride(shape), 0, info.storage)


def _want(condition: bool) -> None:
    if not condition:
        raise ValueError


def _typed(kind: type[_T], value: Any) -> _T:
    _want(type(value) is kind)
    return value  # type: ignore[no-any-return]


def _decode_key(value: Any) -> Key:
    if type(value) in (str, int):
        return value  # type: ignore[no-any-return]
    _want(list(_typed(dict, value)) == ["key"])
    return OddKey(_typed(str, value["key"]), literal=True)


def _decode_path(value: Any) -> Root:
    _want(len(_typed(list, value)) <= _MAX_DEPTH)
    return tuple(map(_decode_key, value))


def _decode_paths(value: Any) -> dict[str, Root]:
    paths = {name: _decode_path(path) for name, path in _typed(dict, value).items()}
    _want(all(paths.values()))
    return paths


def _list_of(kind: type[_T]) -> Callable[[Any], list[_T]]:
    return lambda value: [_typed(kind, item) for item in _typed(list, value)]


def _decode_containers(value: Any) -> tuple[Container, ...]:
    return tuple(Container(_decode_path(path), _typed(str, name), 0) for path, name in _pairs(value))


def _decode_values(value: Any) -> tuple[Value, ...]:
    found = []
    for path, plain in _pairs(value):
        keys = _decode_path(path)
        _want(bool(keys))
        found.append(Value(keys[:-1], keys[-1], _decode_plain(plain, 0)))
    return tuple(found)


def _decode_objects(value: Any) -> tuple[Opaque, ...]:
    found = []
    for item in _typed(list, value):
        _want(len(_typed(list, item)) == 3)
        path = _decode_path(item[0])
        _want(bool(path))
        found.append(Opaque(path[:-1], path[-1], _typed(str, item[1]), _typed(str, item[2])))
    return tuple(found)


def _decode_as_bytes(value: Any) -> dict[str, tuple[DType, tuple[int, ...]]]:
    found = {}
    for name, claim in _typed(dict, value).items():
        shape = _typed(list, _typed(dict, claim).get("shape"))
        _want(claim.get("dtype") in BY_NAME and all(0 <= _typed(int, size) < 1 << 63 for size in shape))
        found[name] = BY_NAME[claim["dtype"]], tuple(shape)
    return found


def _decode_versions(
    value: Any,
) -> tuple[dict[Root, dict[str, int | None]], dict[Root, dict[str, ModuleExtras]]]:
    versions: dict[Root, dict[str, int | None]] = {}
    extras: dict[Root, dict[str, ModuleExtras]] = {}
    for path, modules in _pairs(value):
        root = _decode_path(path)
        versions[root] = {}
        for module, facts in _typed(dict, modules).items():
            version = _typed(dict, facts).pop("version", None)
            _want(version is None or type(version) is int)
            versions[root][module] = version
            if facts:
                extras.setdefault(root, {})[module] = tuple(_decode_facts(facts))
    return versions, extras


def _decode_facts(facts: dict[str, Any]) -> Iterable[tuple[tuple[str, ...], Plain]]:
    """Facts of a module, which nest one deep; an object of one reserved key is a value."""
    for key, value in facts.items():
        if type(value) is dict and not (len(value) == 1 and next(iter(value)) in _TAGS):
            for inner, plain in value.items():
                yield (key, inner), _decode_plain(plain, 0)
        else:
            yield (key,), _decode_plain(value, 0)


def _pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    for pair in _typed(list, value):
        _want(len(_typed(list, pair)) == 2)
        yield pair[0], pair[1]


_TAGS = frozenset(("tuple", "bytes", "float", "int"))


def _decode_plain(value: Any, depth: int) -> Plain:
    _want(depth <= _MAX_DEPTH)
    if type(value) is list:
        return PlainList([_decode_plain(item, depth + 1) for item in value])
    if type(value) is not dict:
        plain: Plain = value
        return plain
    _want(len(value) == 1)
    (tag, content), *_ = value.items()
    if tag == "tuple":
        return tuple([_decode_plain(item, depth + 1) for item in _typed(list, content)])
    _want(type(content) is str)
    if tag == "bytes":
        return bytes.fromhex(content)
    if tag == "float":
        _want(content in ("nan", "inf", "-inf"))
        return float(content)
    _want(tag == "int")
    return int(content, 16)
