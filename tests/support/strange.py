"""What torch.load gives for a file, beside what the reader gives."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import Checkpoint, OddKey, TensorInfo
from sample_models.same_bytes import save_legacy


def read(path: Path, content: bytes) -> Checkpoint:
    path.write_bytes(content)
    return read_checkpoint(str(path))


def saved(value: object, *, legacy: bool = False, **options: Any) -> bytes:
    buffer = io.BytesIO()
    save = save_legacy if legacy else torch.save
    save(value, buffer, **options)
    return buffer.getvalue()


def load(path: Path, weights_only: bool = True) -> Any:
    return torch.load(path, weights_only=weights_only)


def viewed_bytes(info: TensorInfo) -> bytes:
    """The bytes between the first and the last element that a tensor views, as torch has them in memory."""
    ref = info.storage
    assert ref is not None
    with open(ref.file, "rb") as file:
        file.seek(ref.byte_offset)
        raw = file.read(ref.span_nbytes)
    if ref.compressed_nbytes is not None:
        import zlib

        raw = zlib.decompress(raw, wbits=-15)
    assert len(raw) == ref.nbytes
    if ref.big_endian:
        item = info.dtype.nbytes // (2 if info.dtype.kind == "complex" else 1)
        raw = b"".join(raw[at : at + item][::-1] for at in range(0, len(raw), item))
    start, end = info.byte_span
    return raw[start:end]


def torch_bytes(tensor: torch.Tensor) -> bytes:
    """The same bytes out of torch's storage."""
    if tensor.numel() == 0:
        return b""
    raw = bytes(torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).tolist())
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.storage_offset() * tensor.element_size()
    return raw[start : start + (last + 1) * tensor.element_size()]


def assert_same(info: Any, tensor: torch.Tensor) -> None:
    assert isinstance(info, TensorInfo)
    assert f"torch.{info.dtype.name}" == str(tensor.dtype)
    assert (info.shape, info.stride) == (tuple(tensor.shape), tensor.stride())
    assert info.storage_offset == tensor.storage_offset()
    assert (info.conj, info.neg) == (tensor.is_conj(), tensor.is_neg())
    if tensor.is_meta:
        assert info.storage is None
    elif tensor.numel():
        assert viewed_bytes(info) == torch_bytes(tensor)


def flatten(value: Any, root: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], torch.Tensor]]:
    """(path of keys, tensor) of nested dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield root, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(item, (*root, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from flatten(item, (*root, index))


def assert_as_loaded(checkpoint: Checkpoint, loaded: Any) -> None:
    expected = list(flatten(loaded))
    assert len(checkpoint.entries) == len(expected)
    for entry, (path, tensor) in zip(checkpoint.entries, expected, strict=True):
        names = [key.text if isinstance(key, OddKey) else key for key in (*entry.root, entry.name)]
        if path:
            expected_names = [key if type(key) in (str, int) else repr(key) for key in path]
            assert names == expected_names
        assert_same(entry.value, tensor)


# -- keys and structure ---------------------------------------------------------------------------

BASE = torch.arange(24.0)
