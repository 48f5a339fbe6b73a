"""How the weights are shared out between the parts of a model, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ckpttool.inspection.weighed import Item
from ckpttool.values.card import Share

_MOST = 10  # parts that a split may lead to
_MOST_TOLD = 16  # of a model that has more in its first level
_DEEPEST = 24  # parts of a name that are looked at: how many it has is the file's choice
_WORTH = 3  # a part that holds less than one in so many bytes is not taken apart

_Path: TypeAlias = tuple[str, ...]
_Sizes: TypeAlias = dict[_Path, tuple[int, int]]  # elements and bytes, by the parts of names


def share_out(items: Sequence[Item]) -> tuple[Share, ...]:
    """The parts of the weights, the largest first; what is too little to be told is joined under ""."""
    sizes: _Sizes = {}
    for item in items:
        if not item.tied:
            parted = item.name.split(".", _DEEPEST)[:_DEEPEST]
            path = tuple(["*" if part.isdecimal() else part for part in parted])
            numel, nbytes = sizes.get(path, (0, 0))
            sizes[path] = numel + item.numel, nbytes + item.nbytes
    parts: dict[_Path, _Sizes] = _split((), sizes)
    whole = sum(nbytes for _, nbytes in sizes.values())
    while True:
        for path, inside in sorted(parts.items(), key=lambda item: -_total(item[1])[1]):
            if _total(inside)[1] * _WORTH < whole:
                return _told(parts)
            if "*" in path[:-1] and path[-1] != "*":
                continue  # a block is taken apart into what it has, and no further
            children = _split(path, inside)
            if len(children) > 1 and len(parts) + len(children) - 1 <= _MOST:
                del parts[path]
                parts.update(children)
                break
        else:
            return _told(parts)


def _split(path: _Path, sizes: _Sizes) -> dict[_Path, _Sizes]:
    """What lies below ``path`` by the next part of its names, itself where that would name single tensors."""
    while True:
        children: dict[_Path, _Sizes] = {}
        for name, size in sizes.items():
            children.setdefault(name[: len(path) + 1], {})[name] = size
        if not path and len(children) > 1:
            return children
        if all(name == child for child, inside in children.items() for name in inside):
            return {path: sizes}
        if len(children) > 1:
            return children
        [path] = children


def _told(parts: dict[_Path, _Sizes]) -> tuple[Share, ...]:
    shares = [Share(".".join(path), *_total(inside)) for path, inside in parts.items()]
    shares.sort(key=lambda share: -share.nbytes)
    rest = shares[_MOST_TOLD:]
    if rest:
        joined = Share("", sum(share.numel for share in rest), sum(share.nbytes for share in rest))
        shares[_MOST_TOLD:] = [joined]
    return tuple(shares)


def _total(sizes: _Sizes) -> tuple[int, int]:
    return sum(numel for numel, _ in sizes.values()), sum(nbytes for _, nbytes in sizes.values())
