"""Content hashes of a tensor and of a set of named tensors, and the manifest that keeps them.

- A *tensor digest* is SHA-256 over dtype, shape and the SHA-256 of each 64 MiB of its elements,
  packed, little-endian, in row-major order: what ``TensorReader.iter_chunks`` gives. It does not
  depend on strides, container or byte order of the file. Fixed chunks, so that several threads or
  a later resume may hash parts apart.
- A *set digest* is SHA-256 over the lines ``name digest`` in the order of their names: independent
  of order, container and sharding. There is one over all tensors, one over those known to be
  parameters and one over those known to be buffers. Kinds are no part of the lines: a container
  that gives less evidence of kinds (safetensors) has the same digest over all.
- A tied name counts as a tensor of its own, so that a file that keeps one name and lists the other
  has the digest of the one that has both.

``convert`` makes them while the bytes are warm: ``TensorDigest(dtype, shape)`` for each tensor of the
destination, ``update(chunk)`` with its packed bytes in order, ``hexdigest()``; then
``manifest_document`` over one ``NamedDigest`` per name, aliases included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import (
    CompositeTensor,
    Key,
    Kind,
    OddKey,
    Root,
    Strided,
    Tensor,
    parts,
    stored_nbytes,
)
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import LimitExceeded
from ckpttool.values.words import plural

DIGEST_CHUNK_NBYTES = 64 << 20
MANIFEST_SCHEMA = "ckpttool/manifest/1"

# Hashing takes what a tensor claims, and an expanded one claims more than it stores: up to this many
# times the bytes that are there, and this much in any case.
_MOST_EXPANDED = 1024
_ALWAYS_NBYTES = 1 << 30


class TensorDigest:
    """The digest of one tensor, from its packed bytes in order."""

    def __init__(self, dtype: DType, shape: tuple[int, ...]) -> None:
        self._whole = hashlib.sha256(f"{dtype.name} {list(shape)}\n".encode())
        self._chunk = hashlib.sha256()
        self._room = DIGEST_CHUNK_NBYTES

    def update(self, data: memoryview) -> None:
        """Take in the next bytes, of any number."""
        while len(data):
            part = data[: self._room]
            self._chunk.update(part)
            self._room -= len(part)
            data = data[len(part) :]
            if not self._room:
                self._close_chunk()

    def hexdigest(self) -> str:
        """64 hexadecimal digits; nothing may be added after that."""
        if self._room < DIGEST_CHUNK_NBYTES:
            self._close_chunk()
        return self._whole.hexdigest()

    def _close_chunk(self) -> None:
        self._whole.update(self._chunk.digest())
        self._chunk = hashlib.sha256()
        self._room = DIGEST_CHUNK_NBYTES


class NamedDigest(NamedTuple):
    """A tensor by name with its digest."""

    root: Root
    name: Key
    kind: Kind
    dtype: DType | None
    shape: tuple[int, ...] | None
    sha256: str


class SetDigests(NamedTuple):
    """Digests over all tensors, over the parameters and over the buffers, with how many each covers."""

    all: str
    parameters: str
    buffers: str
    tensors: int
    parameter_tensors: int
    buffer_tensors: int


class Digested(NamedTuple):
    """The content hash of a checkpoint, or of what was asked for of it."""

    path: str
    digest: SetDigests


def digest_tensor(reader: TensorReader, value: Tensor) -> str:
    """The digest of a strided tensor, or of all parts of one that is made of others.

    Raises:
        LimitExceeded: it claims far more elements than its file stores.
        CkptToolError: as ``TensorReader.iter_chunks``.
    """
    if not isinstance(value, CompositeTensor):
        check_claim(value)
        digest = TensorDigest(value.dtype, value.shape)
        for chunk in reader.iter_chunks(value):
            digest.update(chunk)
        return digest.hexdigest()
    whole = hashlib.sha256(f"{value.layout} {value.shape} {value.details!r}\n".encode(errors="replace"))
    for name, part in parts(value):
        whole.update(f"{json.dumps(name)} {digest_tensor(reader, part)}\n".encode())
    return whole.hexdigest()


def digest_set(tensors: Iterable[NamedDigest]) -> SetDigests:
    """One digest over all of ``tensors``, and one over each of the two kinds that are known."""
    lines: list[tuple[str, Kind]] = []
    for root, name, kind, _, _, sha256 in tensors:
        path = json.dumps([*map(_key_object, root), _key_object(name)] if root else [_key_object(name)])
        lines.append((f"{path} {sha256}\n", kind))
    lines.sort(key=lambda line: line[0])
    buffers = (Kind.PERSISTENT_BUFFER, Kind.NON_PERSISTENT_BUFFER)
    chosen = (
        [line for line, _ in lines],
        [line for line, kind in lines if kind is Kind.PARAMETER],
        [line for line, kind in lines if kind in buffers],
    )
    digests = [hashlib.sha256("".join(those).encode()).hexdigest() for those in chosen]
    return SetDigests(digests[0], digests[1], digests[2], *map(len, chosen))


def manifest_document(tensors: Sequence[NamedDigest]) -> dict[str, object]:
    """The manifest as JSON has it: what ``convert --manifest`` writes and ``diff`` takes for a file."""
    digests = digest_set(tensors)
    return {
        "schema": MANIFEST_SCHEMA,
        "digest": {"all": digests.all, "parameters": digests.parameters, "buffers": digests.buffers},
        "entries": [
            {
                "root": list(map(_key_object, item.root)),
                "name": _key_object(item.name),
                "kind": item.kind.value,
                "dtype": None if item.dtype is None else item.dtype.name,
                "shape": None if item.shape is None else list(item.shape),
                "sha256": item.sha256,
            }
            for item in tensors
        ],
    }


def _key_object(key: Key) -> str | int | dict[str, str]:
    return {"key": key.text} if isinstance(key, OddKey) else key


def check_claim(tensor: Strided) -> None:
    """Refuse to read far more elements than a file stores.

    Raises:
        LimitExceeded: a tensor claims them, by strides of 0.
    """
    limit = claim_limit(tensor, _MOST_EXPANDED)
    if tensor.nbytes > limit:
        what = f"the size that a tensor of {plural(stored_nbytes(tensor), 'stored byte')} claims"
        raise LimitExceeded(what, limit=limit, actual=tensor.nbytes)


def claim_limit(tensor: Strided, times: int) -> int:
    """The bytes that a tensor may claim: 1 GiB in any case, and ``times`` what its file stores."""
    return max(_ALWAYS_NBYTES, times * stored_nbytes(tensor))
