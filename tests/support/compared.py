"""Pairs of tensors in files, compared, and torch's own numbers for them in float64."""

from __future__ import annotations

import pytest
import torch

from ckpttool.comparison.compare import Comparer, Outcome
from ckpttool.elements.sums import Tolerance
from ckpttool.values.checkpoint import Tensor, views_of
from ckpttool.values.difference import Numbers
from tests.support.raw_storages import RawStorages


class Files(RawStorages):
    """Pairs of tensors, compared."""

    def compare(self, *pairs: tuple[Tensor, Tensor], tolerance: Tolerance | None = None) -> list[Outcome]:
        """Each side is held to what its own files were."""
        sides = [
            [info for info in self.files if any(info.path in paths_of(pair[side]) for pair in pairs)]
            for side in range(2)
        ]
        return Comparer(sides[0], sides[1], tolerance).compare(pairs)

    def one(self, a: torch.Tensor, b: torch.Tensor, tolerance: Tolerance | None = None) -> Outcome:
        (outcome,) = self.compare((self.info(a), self.info(b)), tolerance=tolerance)
        return outcome


def paths_of(value: Tensor | None) -> set[str]:
    return {view.storage.file for view in views_of(value) if view.storage is not None}


def wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64).flatten()


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.contiguous().resolve_conj().resolve_neg().flatten()
    packed = torch.empty(flat.shape, dtype=flat.dtype).copy_(flat)  # one or no element may have any stride
    return packed.view(torch.uint8).reshape(flat.numel(), flat.itemsize)


def check(numbers: Numbers | None, a: torch.Tensor, b: torch.Tensor) -> None:
    """Hold ``numbers`` against torch."""
    assert numbers is not None
    x, y = wide(a), wide(b)
    if a.dtype is b.dtype:
        changed = (bits_of(a) != bits_of(b)).any(dim=1)
    else:
        changed = (x != y) & ~(torch.isnan(x) & torch.isnan(y))
    finite = torch.isfinite(x) & torch.isfinite(y)
    x, y = x[finite], y[finite]
    delta = x - y
    assert numbers.numel == a.numel()
    assert numbers.changed == int(changed.sum())
    assert numbers.finite == int(finite.sum())
    if not numbers.finite:
        assert numbers.max_abs is None and numbers.mean_abs is None and numbers.rel_l2 is None
        return
    assert numbers.max_abs == pytest.approx(delta.abs().max().item(), rel=1e-14)
    assert numbers.mean_abs == pytest.approx(delta.abs().mean().item(), rel=1e-12)
    norm = torch.linalg.vector_norm
    if norm(x) > 0:
        assert numbers.rel_l2 == pytest.approx((norm(delta) / norm(x)).item(), rel=1e-12)
    if norm(x) > 0 and norm(y) > 0:
        dot = torch.vdot(x, y).real if x.is_complex() else torch.dot(x, y)
        assert numbers.cosine == pytest.approx((dot / (norm(x) * norm(y))).item(), abs=1e-12)


def values(name: str, numel: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, name)
    if dtype.is_complex:
        return torch.randn(numel, dtype=dtype, generator=generator)
    if dtype.is_floating_point:
        return torch.randn(numel, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randint(0, 2 if name == "bool" else 100, (numel,), generator=generator).to(dtype)
