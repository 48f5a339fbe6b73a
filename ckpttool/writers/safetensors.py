"""Writes safetensors: the header that ``save_file`` of safetensors 0.8.0 writes, byte for byte.

- u64 little-endian length, compact JSON with ``__metadata__`` first, spaces to a multiple of 8, data.
- Tensors by dtype (``_RANK``, widest alignment first), then by the bytes of the name: every tensor
  lies aligned to its element size. Keys of an entry: dtype, shape, data_offsets.
- ``__metadata__`` is sorted by key (``save_file`` writes it in the order of a hash map, so that equal
  calls give different files).
- Text is UTF-8, unescaped but for what JSON demands.

Source: ``safetensors/src/tensor.rs`` (``prepare``, ``Dtype``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from ckpttool.analysis.conversion import Piece, Placed, Planned
from ckpttool.errors import LimitExceeded
from ckpttool.writers.layout import FileLayout, SegmentList

# `Dtype` derives Ord from its declaration; the header is sorted by it in descending order.
_TAGS = (
    "BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ "
    "I16 U16 F16 BF16 I32 U32 F32 C64 F64 I64 U64"
)
_RANK = {tag: rank for rank, tag in enumerate(reversed(_TAGS.split()))}
MAX_HEADER_NBYTES = 100_000_000  # MAX_HEADER_SIZE of the library
_ALIGNMENT = 8

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def lay_out(
    name: str, tensors: Iterable[Planned], pieces: Sequence[Piece], metadata: Mapping[str, str]
) -> FileLayout:
    """A file called ``name`` that holds ``tensors``.

    Raises:
        LimitExceeded: the header would be longer than readers accept.
    """
    rows = []
    for tensor in tensors:
        placed = tensor.value
        if isinstance(placed, Placed):  # the plan refuses all else
            rows.append((_RANK[placed.dtype.safetensors or "U8"], str(tensor.name).encode(), placed))
    rows.sort(key=lambda row: row[:2])
    header = [f'"__metadata__":{_encode(dict(sorted(metadata.items())))}'] if metadata else []
    offset = 0
    for _, encoded, placed in rows:
        shape = list(placed.shape)
        if placed.dtype.packed > 1:
            shape[-1] *= placed.dtype.packed
        end = offset + pieces[placed.piece].nbytes
        header.append(
            f'{_encode(encoded.decode())}:{{"dtype":"{placed.dtype.safetensors}","shape":{_encode(shape)},'
            f'"data_offsets":[{offset},{end}]}}'
        )
        offset = end
    raw = f"{{{','.join(header)}}}".encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    if len(raw) > MAX_HEADER_NBYTES:
        raise LimitExceeded("length of the safetensors header", limit=MAX_HEADER_NBYTES, actual=len(raw))
    segments = SegmentList()
    segments.add_literal(len(raw).to_bytes(8, "little") + raw)
    for _, _, placed in rows:
        segments.add_piece(placed.piece, pieces[placed.piece].nbytes)
    return FileLayout(name, segments.nbytes, segments.segments)
