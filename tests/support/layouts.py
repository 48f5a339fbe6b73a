"""Tensors of every dtype that torch has, in every layout, and what torch itself says of two of them.

Nothing here knows how ckpttool reads, places or writes: expectations are torch's tensors.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch

NUMEL = 24
State = dict[str, Any]


def is_quantized(dtype: torch.dtype) -> bool:
    """Whether tensors of it have a quantizer."""
    return str(dtype).startswith(("torch.qint", "torch.quint"))


DTYPES = sorted({item for item in vars(torch).values() if isinstance(item, torch.dtype)}, key=str)
PLAIN = [dtype for dtype in DTYPES if not is_quantized(dtype)]
QUANTIZED = [dtype for dtype in DTYPES if is_quantized(dtype)]
SHELLS = [dtype for dtype in PLAIN if re.fullmatch(r"torch\.u?int[1-7]", str(dtype))]
"""What torch.save refuses."""
UNTYPED = [dtype for dtype in PLAIN if dtype in torch.storage._new_dtypes() and dtype not in SHELLS]
"""What torch.save pickles with an untyped storage."""
TYPED = [dtype for dtype in PLAIN if dtype not in UNTYPED and dtype not in SHELLS]


def flat(dtype: torch.dtype, numel: int = NUMEL) -> torch.Tensor:
    """Elements whose bits all differ where there are enough bits, as a run of its own storage."""
    raw = (torch.arange(numel * dtype.itemsize, dtype=torch.int64) * 37 + 11).to(torch.uint8)
    if dtype is torch.bool:
        raw &= 1
    return raw.view(dtype)


STRIDED: dict[str, Callable[[torch.Tensor], State]] = {
    "packed": lambda base: {"w": base.view(2, 3, 4)},
    "scalar": lambda base: {"w": base[3]},
    "empty": lambda base: {"w": base[:0].view(0, 4), "v": base[:4]},
    "at an offset": lambda base: {"w": base[5:17].view(3, 4)},
    "transposed": lambda base: {"w": base.view(4, 6).t()},
    "transposed at an offset": lambda base: {"w": base[7:19].view(3, 4).t()},
    "channels_last": lambda base: {"w": base.view(1, 3, 4, 2).permute(0, 3, 1, 2)},
    "expanded": lambda base: {"w": base[:4].unsqueeze(0).expand(3, 4)},
    "stepped": lambda base: {"w": base[1::2]},
    "windows": lambda base: {"w": base.unfold(0, 6, 2)},
    "irregular": lambda base: {"w": base.as_strided((3, 4), (5, 3), 2)},
    "tied": lambda base: {"a": base, "b": base, "c": base.view(4, 6)},
    "unequal views that overlap": lambda base: {
        "a": base[2:14],
        "b": base[8:20].view(3, 4),
        "c": base[10:12],
    },
    "views apart": lambda base: {"a": base[2:6], "b": base[20:]},
    "parameter": lambda base: {"w": torch.nn.Parameter(base.view(4, 6), requires_grad=False)},
}


def complex_views(base: torch.Tensor) -> State:
    """The conj bit, the neg bit, and both halves of complex numbers."""
    return {"conj": base.conj(), "neg": base.conj().imag, "real": base.real, "t": base.view(4, 6).conj().t()}


def sparse(base: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each sparse layout of a 4 by 6 matrix, with ``base`` as values."""
    warnings.simplefilter("ignore")
    every = torch.tensor([[i // 3 for i in range(12)], [2 * (i % 3) for i in range(12)]])
    size, values = (4, 6), base[:12]
    crow, col = torch.tensor([0, 3, 6, 9, 12]), torch.tensor([0, 2, 4] * 4)
    ccol, row = torch.tensor([0, 2, 4, 6, 8, 10, 12]), torch.tensor([0, 2] * 6)
    blocks = base[:24].view(6, 2, 2)
    brow, bcol = torch.tensor([0, 3, 6]), torch.tensor([0, 1, 2] * 2)
    return {
        "coo": torch.sparse_coo_tensor(every, values, size, check_invariants=False),
        "coalesced": torch.sparse_coo_tensor(every, values, size, is_coalesced=True),
        "hybrid": torch.sparse_coo_tensor(every[:1, :6], base.view(6, 4), (4, 4), check_invariants=False),
        "csr": torch.sparse_csr_tensor(crow, col, values, size),
        "csc": torch.sparse_csc_tensor(ccol, row, values, size),
        "bsr": torch.sparse_bsr_tensor(brow, bcol, blocks, size),
        "bsc": torch.sparse_bsc_tensor(torch.tensor([0, 2, 4, 6]), torch.tensor([0, 1] * 3), blocks, size),
    }


def quantized(dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Quantized per tensor and per channel, with integer or real zero points where torch has them."""
    warnings.simplefilter("ignore")
    values = torch.linspace(-1, 1, max(1, torch.Size(shape).numel()))[: torch.Size(shape).numel()].view(shape)
    made = {"tensor": torch.quantize_per_tensor(values, 0.1, 2, dtype)}
    if not shape:
        return made
    scales = torch.linspace(0.1, 0.2, shape[0], dtype=torch.float64)
    zeros = torch.arange(shape[0])
    if dtype.itemsize == 1 and str(dtype)[6:] in ("qint8", "quint8"):
        made["channel"] = torch.quantize_per_channel(values, scales, zeros, 0, dtype)
    if dtype is not torch.qint32:  # dies of an illegal instruction
        made["real zero points"] = torch.quantize_per_channel(values, scales.float(), zeros.float(), 0, dtype)
    return made


# ------------------------------------------------------------------------------------------ torch as oracle


def saved(state: Any, *, zipped: bool) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def loaded(content: bytes, *, weights_only: bool = True) -> Any:
    """What torch.load makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(content), weights_only=weights_only)


def bits(tensor: torch.Tensor) -> bytes:
    """The elements of a strided tensor in row-major order, one by one, whatever they mean."""
    plain = tensor.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    storage = bytes(plain.untyped_storage())
    width = plain.element_size()
    indices = torch.zeros((), dtype=torch.int64)
    for size, step in zip(plain.shape, plain.stride(), strict=True):
        indices = indices.unsqueeze(-1) + torch.arange(size) * step
    starts = [(plain.storage_offset() + index) * width for index in indices.reshape(-1).tolist()]
    return b"".join(storage[start : start + width] for start in starts)


def facts(tensor: torch.Tensor) -> list[Any]:
    """What two equal tensors agree in, whatever the storage around them: values, dtype, layout, quantizer."""
    found: list[Any] = [tensor.dtype, tensor.layout]
    if tensor.is_nested:
        found += [facts(tensor.values()), facts(tensor._nested_tensor_size())]
        return [
            *found,
            facts(tensor._nested_tensor_strides()),
            facts(tensor._nested_tensor_storage_offsets()),
        ]
    found.append(tuple(tensor.shape))
    if tensor.layout is torch.sparse_coo:
        return [*found, tensor.is_coalesced(), facts(tensor._indices()), facts(tensor._values())]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [*found, *map(facts, (tensor.crow_indices(), tensor.col_indices(), tensor.values()))]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [*found, *map(facts, (tensor.ccol_indices(), tensor.row_indices(), tensor.values()))]
    if tensor.device.type == "meta":
        return [*found, "meta", tensor.stride()]
    if not tensor.is_quantized:
        return [*found, bits(tensor)]
    # Of packed elements a storage has more than torch.load looks at: all of it must be there.
    found.append(tensor.qscheme())
    if tensor.dtype in (torch.quint4x2, torch.quint2x4):
        found += [tensor.stride(), tensor.storage_offset(), bytes(tensor.untyped_storage())]
    else:
        found.append(bits(tensor))
    if tensor.qscheme() is torch.per_tensor_affine:
        return [*found, tensor.q_scale(), tensor.q_zero_point()]
    parts = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return [*found, tensor.q_per_channel_axis(), *map(facts, parts)]


def places(state: State) -> list[Any]:
    """For each strided tensor its strides, and which others are views of its storage, and how far away."""
    plain = {
        name: tensor
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and not tensor.is_nested
    }
    found = []
    for name, tensor in plain.items():
        found.append((name, tensor.stride() if tensor.numel() else None))
        for other, item in plain.items():
            if name < other and tensor.numel() and item.numel():
                apart = item.data_ptr() - tensor.data_ptr()
                same = item.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
                found.append((name, other, apart if same else None))
    return found
