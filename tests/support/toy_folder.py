"""A folder format of the tests: ``toy.json`` says which bytes of which file are which block of a tensor."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ckpttool.files.folder import Listing, resolve_member
from ckpttool.formats.base import Reading
from ckpttool.values.checkpoint import (
    Checkpoint,
    Chunk,
    ChunkedTensor,
    Entry,
    FileInfo,
    StorageRef,
    TensorInfo,
    packed_stride,
)
from ckpttool.values.dtypes import BY_NAME

INDEX = "toy.json"
Cuts = Sequence[Sequence[int]]
"""Along each dimension the indices at which a tensor is cut."""


proves_files = False


def sniff(listing: Listing) -> bool:
    return INDEX in listing.files


def read(listing: Listing, reading: Reading) -> Checkpoint:
    index = resolve_member(listing.path, INDEX, listing.path)
    with reading.sources.reading(index) as source:
        document = json.loads(source.read_at(0, source.size))
        files = {INDEX: source.version}
    entries = []
    for name, (dtype, shape, chunks) in document.items():
        for _, _, file, _, _ in chunks:
            if file not in files:
                with reading.sources.reading(resolve_member(listing.path, file, index)) as source:
                    files[file] = source.version
        found = tuple(chunk_of(BY_NAME[dtype], files, *chunk) for chunk in chunks)
        entries.append(Entry((), name, ChunkedTensor(BY_NAME[dtype], tuple(shape), found)))
    return Checkpoint(listing.path, "toy", "", tuple(files.values()), tuple(entries))


def chunk_of(
    dtype: Any,
    files: Mapping[str, FileInfo],
    offsets: list[int],
    shape: list[int],
    file: str,
    at: int,
    nbytes: int,
) -> Chunk:
    storage = StorageRef(files[file].path, f"{at}", at, nbytes)
    view = TensorInfo(dtype, tuple(shape), packed_stride(shape), 0, storage)
    return Chunk(tuple(offsets), view)


def write_toy(folder: Path, state: Mapping[str, torch.Tensor], cuts: Mapping[str, Cuts]) -> dict[str, Any]:
    """Write ``state`` in blocks, by turns into one of two files, the last block first; the index."""
    folder.mkdir(exist_ok=True)
    contents = {"0.bin": bytearray(b"head"), "1.bin": bytearray()}
    document: dict[str, Any] = {}
    for name, tensor in state.items():
        chunks = []
        for number, box in enumerate(reversed(boxes(tuple(tensor.shape), cuts.get(name, ())))):
            block = tensor[tuple(slice(start, end) for start, end in box)].contiguous()
            data = bytes(block.reshape(-1).view(torch.uint8).tolist()) if block.numel() else b""
            file = f"{number % 2}.bin"
            chunks.append(([s for s, _ in box], list(block.shape), file, len(contents[file]), len(data)))
            contents[file] += data
        document[name] = [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), chunks]
    for file, data in contents.items():
        (folder / file).write_bytes(data)
    (folder / INDEX).write_text(json.dumps(document))
    return document


def boxes(shape: tuple[int, ...], cuts: Cuts) -> list[list[tuple[int, int]]]:
    """Every box between the cuts, in row-major order."""
    found: list[list[tuple[int, int]]] = [[]]
    for dim, size in enumerate(shape):
        edges = [0, *(cuts[dim] if dim < len(cuts) else ()), size]
        found = [[*box, edge] for box in found for edge in itertools.pairwise(edges)]
    assert sum(math.prod(end - start for start, end in box) for box in found) == math.prod(shape)
    return found
