"""Digests of tensors that do not depend on the container, the order, the shards or the process.

A tensor's digest is the SHA-256 of the SHA-256 digests of its packed little-endian bytes in chunks of
64 MiB (the last one may be shorter): chunks can be hashed in any order and by several workers. That of
a set of tensors is the SHA-256 of one line a tensor, sorted: path as JSON, dtype, shape, digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

ALGORITHM = "sha256"
CHUNK_NBYTES = 64 << 20


class TensorDigest(NamedTuple):
    """A tensor by its path, with what its bytes mean and the digest of them."""

    path: tuple[str | int, ...]
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    digest: str


class Digester:
    """The digest of one tensor from its bytes in order."""

    __slots__ = ("_chunk", "_left", "_root")

    def __init__(self) -> None:
        self._root = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._left = CHUNK_NBYTES

    def update(self, data: memoryview) -> None:
        """Take more bytes."""
        while len(data) >= self._left:
            self._chunk.update(data[: self._left])
            data = data[self._left :]
            self._root.update(self._chunk.digest())
            self._chunk = hashlib.sha256()
            self._left = CHUNK_NBYTES
        if data:
            self._chunk.update(data)
            self._left -= len(data)

    def hexdigest(self) -> str:
        """The digest of what was taken so far."""
        root = self._root.copy()
        if self._left != CHUNK_NBYTES:
            root.update(self._chunk.digest())
        return root.hexdigest()


def digest_all(digests: Iterable[TensorDigest]) -> str:
    """The digest of a set of tensors."""
    lines = sorted(
        f"{json.dumps(list(item.path))} {item.dtype} {list(item.shape)} {item.digest}\n" for item in digests
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
