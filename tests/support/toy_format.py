"""A file format of the tests: a magic word, a small JSON header, and one tensor of float32."""

from __future__ import annotations

import json

from ckpttool.formats.base import Look
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    Entry,
    Kind,
    StorageRef,
    TensorInfo,
)
from ckpttool.values.dtypes import BY_NAME

MAGIC = b"TOYFMT\x00\x01"


def sniff(look: Look) -> bool:
    return look.head.startswith(MAGIC)


def read(look: Look) -> Checkpoint:
    source = look.source
    length = int.from_bytes(source.read_at(len(MAGIC), 4), "little")
    header = json.loads(source.read_at(len(MAGIC) + 4, length))
    numel = header["numel"]
    storage = StorageRef(source.name, "0", len(MAGIC) + 4 + length, 4 * numel)
    info = TensorInfo(BY_NAME["float32"], (numel,), (1,), 0, storage)
    declared = Classification(Kind.PARAMETER, Basis.METADATA, note="a toy says so")
    entry = Entry((), header["name"], info, declared=declared)
    return Checkpoint(source.name, "toy", "", (source.version,), (entry,))
