"""What is read of a pickle that opcodes make, whatever file it would stand in: storages are as they claim."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled.arguments import StorageClaim
from ckpttool.formats.pickled.contents import Contents
from ckpttool.formats.pickled.objects import read_objects
from ckpttool.formats.pickled.tensors import StoredTensor, TensorReader
from ckpttool.pickles.nodes import Call, Global
from ckpttool.values.checkpoint import CompositeTensor, Key, Root, StorageRef
from ckpttool.values.errors import MalformedCheckpoint
from tests.hostile import pickles as op
from tests.support.parsed import parse

BIG = op.LONG4(b"\x7f" * 600)
OBJECT = "m:Obj"


def called(name: str, *args: Any) -> Call:
    """The node of ``name(*args)``."""
    module, _, last = name.rpartition(".")
    return Call("reduce", Global(module, last, 0), args, 0)


def as_claimed(claim: StorageClaim) -> StorageRef:
    """The storage of a container that holds what the pickle says."""
    return StorageRef("f", claim.key, 0, claim.whole_numel * claim.unit_nbytes, claim.location)


def reader(**more: Any) -> TensorReader:
    return TensorReader(as_claimed, **more)


def node(code: bytes) -> Any:
    return parse(op.PROTO(2) + code + op.STOP).value


def rebuilt(code: bytes, tensors: TensorReader | None = None) -> StoredTensor | None:
    """The tensor that opcodes rebuild, or None where they are some other call."""
    return (tensors or reader()).read(node(code))


def walk(value: Any, root: tuple[Any, ...] = (), **limits: int) -> Contents:
    """What is found in a pickle of ``value``; bytes are opcodes."""
    return read_objects(parse(op.dump(value)), reader(), Limits(**limits), root)


def read(code: bytes) -> StoredTensor:
    found = rebuilt(code)
    assert found is not None
    return found


def composite(code: bytes) -> CompositeTensor:
    found = read(code).tensor
    assert isinstance(found, CompositeTensor)
    return found


def refused(code: bytes, **more: Any) -> str:
    with pytest.raises(MalformedCheckpoint) as caught:
        rebuilt(code, reader(**more))
    return str(caught.value)


def obstacles(*codes: bytes, **more: Any) -> list[str]:
    tensors = reader(**more)
    for code in codes:
        rebuilt(code, tensors)
    return list(tensors.obstacles)


def shapes(found: CompositeTensor) -> dict[str, Any]:
    return {part.name: part.value.shape for part in found.parts}


def sized(*size: int) -> bytes:
    """A tensor of this size in a storage of its own, so that parts can be told apart."""
    stride = tuple(1 for _ in size)
    return op.tensor(op.storage("s" + "x".join(map(str, size)), numel=64), size=size, stride=stride)


def obj(*args: Any, **state: Any) -> bytes:
    made = op.call(OBJECT, *args)
    return op.with_state(made, state) if state else made


def filled(code: bytes, *pairs: tuple[Any, Any]) -> bytes:
    """SETITEMS on whatever is made."""
    return code + op.MARK + b"".join(op.push(key) + op.push(value) for key, value in pairs) + op.SETITEMS


def appended(code: bytes, *items: Any) -> bytes:
    return code + op.MARK + b"".join(map(op.push, items)) + op.APPENDS


def path(root: Root, name: Key) -> str:
    return ".".join(map(str, (*root, name)))


def entries(found: Contents) -> dict[str, int]:
    """The size of each tensor by its path."""
    return {path(item.root, item.name): item.shape[0] if item.shape else 0 for item in found.entries}


def values(found: Contents) -> dict[str, Any]:
    return {path(item.root, item.name): item.value for item in found.values}


def objects(found: Contents) -> dict[str, tuple[str, str]]:
    return {path(item.root, item.name): (item.type_name, item.summary) for item in found.opaque}


def containers(found: Contents) -> list[tuple[str, str, int]]:
    return [(".".join(map(str, item.path)), item.type_name, item.length) for item in found.containers]


def places(found: Contents) -> dict[str, tuple[str, ...]]:
    return {ref.name: ref.places for ref in found.globals if ref.module == "m"}
