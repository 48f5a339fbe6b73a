"""Whatever is described is walked: no tensor of a pickle is lost, however its objects hide it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from ckpttool.cli import main
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import Checkpoint, views_of
from tests.support.object_trees import Plain, Stated, Whole, named_storages, trees
from tests.support.strange import saved

pytestmark = pytest.mark.filterwarnings("ignore")


def found_storages(checkpoint: Checkpoint) -> set[str]:
    """Keys of the storages that some entry views."""
    views = (view for entry in checkpoint.entries for view in views_of(entry.value))
    return {view.storage.key.rpartition("/")[2] for view in views if view.storage is not None}


def check_all_found(value: Any, folder: Path, protocol: int) -> None:
    content = saved(value, pickle_protocol=protocol)
    path = folder / "tree.pt"
    path.write_bytes(content)
    assert found_storages(read_checkpoint(str(path))) == named_storages(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("walk")


@given(value=trees)
@settings(max_examples=60)
def test_every_storage_is_in_an_entry(folder: Path, value: Any) -> None:
    check_all_found(value, folder, 2)


@pytest.mark.slow
@given(value=trees)
@settings(max_examples=1500)
def test_every_storage_is_in_an_entry_long(folder: Path, value: Any) -> None:
    for protocol in (2, 4):
        check_all_found(value, folder, protocol)
        check_all_found(torch.nn.Sequential(Whole(value), torch.nn.Linear(1, 1)), folder, protocol)


# -- what a library hides so ------------------------------------------------------------------------


def test_a_child_with_a_tuple_for_a_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As statically quantized modules keep theirs."""
    weight, bias = torch.ones(2, 2), torch.nn.Parameter(torch.ones(2))
    whole, loaded = tmp_path / "whole.pt", tmp_path / "state.pt"
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2), Whole((weight, bias, 3, True))), whole)
    torch.save({"0.weight": weight, "0.bias": bias.data, "1.weight": weight, "1.bias": bias.data}, loaded)
    assert main(["inspect", str(whole), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["summary"]["tensors"] == 4
    assert document["summary"]["tensor_nbytes"] == 2 * (16 + 8)
    assert {"root": ["1", "state"], "name": 2, "value": 3} in document["values"]
    main(["convert", str(whole), str(tmp_path / "out.pt"), "--json"])
    dropped = json.loads(capsys.readouterr().out)["dropped"]
    assert len(read_checkpoint(str(tmp_path / "out.pt")).entries) == 4
    assert [(item["root"], item["name"]) for item in dropped if item["type_name"].endswith("Whole")] == [
        ([], "1")
    ]


@pytest.mark.parametrize(
    "place", ["registered", "attribute", "child", "parameter's attribute", "key", "twice"]
)
def test_tensors_beside_what_a_module_registers(place: str, tmp_path: Path) -> None:
    hidden = torch.arange(5.0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    if place == "registered":
        module._buffers["held"] = Stated((hidden,))  # type: ignore[assignment]
    elif place == "attribute":
        module.held = Stated((hidden,))
    elif place == "child":
        module._modules["held"] = Stated(hidden)  # type: ignore[assignment]
    elif place == "parameter's attribute":
        module[0].weight.main_grad = {"deep": [hidden]}
    elif place == "key":
        module.held = {Plain(held=hidden): 1}
    else:
        module.held, module[0].held = Stated(hidden), Stated(hidden)
    path = tmp_path / "module.pt"
    torch.save(module, path)
    entries = read_checkpoint(str(path)).entries
    assert [entry.name for entry in entries[:2]] == ["0.weight", "0.bias"]
    assert {entry.value.shape for entry in entries[2:] if entry.value is not None} == {(5,)}
    assert found_storages(read_checkpoint(str(path))) == named_storages(path.read_bytes())


def test_a_plain_tensor_attribute_is_one_entry_and_no_object(tmp_path: Path) -> None:
    module = torch.nn.Linear(1, 1)
    module.offset = torch.ones(3)
    torch.save(module, tmp_path / "m.pt")
    checkpoint = read_checkpoint(str(tmp_path / "m.pt"))
    assert [entry.name for entry in checkpoint.entries] == ["weight", "bias", "offset"]
    assert checkpoint.opaque == ()


def test_an_optimizers_parameters_are_not_listed_again_as_keys(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer}, tmp_path / "o.pt")
    entries = read_checkpoint(str(tmp_path / "o.pt")).entries
    assert len(entries) == 2 + 2 + 2 * 3  # the model's, the groups' and three states of each
