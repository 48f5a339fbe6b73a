"""What an optimizer in the file says of kinds: which entries it trains, and what is rebuilt without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import ckpttool
from ckpttool.formats import read_checkpoint
from ckpttool.kinds.classify import Kinds, classify
from ckpttool.kinds.optimizer import find_groups, match_order, read_optimizers
from ckpttool.values.checkpoint import Basis, Checkpoint, Kind, Value
from tests.support.classified import BUFFER, PARAMETER, UNKNOWN, Registers, checkpoint, entry, kind_of

# ----------------------------------------------------------------------------------------- optimizer


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> tuple[Checkpoint, Kinds]:
    """Save one step's checkpoint and classify it."""
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path)
    source = read_checkpoint(str(path))
    return source, classify(source)


def model_with_odd_names() -> nn.Module:
    return nn.Sequential(
        Registers(p={"odd": torch.zeros(5)}, b={"strange": torch.zeros(6)}),
        nn.Linear(3, 4),
        nn.BatchNorm1d(4),
    )


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("optimizer_class", "options", "guess"),
    [
        (torch.optim.Adam, {}, "Adam"),
        (torch.optim.AdamW, {}, "AdamW"),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, "SGD"),
        (torch.optim.Adagrad, {}, "Adagrad"),
        (torch.optim.RMSprop, {}, "RMSprop"),
        (torch.optim.Adadelta, {}, "Adadelta"),
        (torch.optim.NAdam, {}, "NAdam"),
    ],
)
def test_optimizer_names_the_parameters(
    optimizer_class: Any, options: dict[str, Any], guess: str, named: bool, tmp_path: Path
) -> None:
    model = model_with_odd_names()
    if named and torch.__version__ < "2.6":
        pytest.skip("torch before 2.6 takes no named parameters")
    optimizer = optimizer_class(model.named_parameters() if named else model.parameters(), **options)
    source, kinds = trained(model, optimizer, tmp_path / "x.pt")
    (match,) = kinds.optimizers
    assert (match.class_name, match.weights_root, match.mapped, match.parameters) == (guess, ("model",), 5, 5)
    assert match.by == ("names" if named else "order")
    found = {
        (item.root[0], item.name): said
        for item, said in zip(source.entries, kinds.classifications, strict=True)
    }
    assert (found["model", "0.odd"].kind, found["model", "0.odd"].basis) == (PARAMETER, Basis.OPTIMIZER)
    assert found["model", "0.strange"].kind is UNKNOWN
    assert "not in the optimizer" in found["model", "0.strange"].note
    assert found["model", "2.running_mean"].kind is BUFFER
    assert {said.kind for (root, _), said in found.items() if root == "optimizer"} == {Kind.OPTIMIZER_STATE}


def test_optimizer_over_a_part_names_only_what_is_sure(tmp_path: Path) -> None:
    """The first layer is frozen: of equal shapes the one that was trained cannot be told."""
    model = nn.Sequential(
        Registers(p={"x": torch.zeros(2)}), Registers(p={"y": torch.zeros(2)}), nn.Linear(3, 4)
    )
    optimizer = torch.optim.Adam([*model[1].parameters(), *model[2].parameters()])
    source, kinds = trained(model, optimizer, tmp_path / "x.pt")
    found = {item.name: said for item, said in zip(source.entries, kinds.classifications, strict=True)}
    assert found["2.weight"].basis is Basis.OPTIMIZER
    assert found["0.x"].kind is found["1.y"].kind is UNKNOWN
    assert kinds.optimizers[0].mapped == 2


def test_groups_for_matrices_and_for_the_rest(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    _, kinds = trained(model, torch.optim.AdamW(groups), tmp_path / "x.pt")
    assert kinds.optimizers[0].mapped == 4


def test_tied_parameters_count_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    model[1].weight = model[0].weight
    source, kinds = trained(model, torch.optim.Adam(model.parameters()), tmp_path / "x.pt")
    said = [
        s for item, s in zip(source.entries, kinds.classifications, strict=True) if item.root == ("model",)
    ]
    assert [(s.kind, s.basis) for s in said] == [(PARAMETER, Basis.OPTIMIZER)] * 2 or said[
        0
    ].kind is PARAMETER
    assert kinds.optimizers[0].mapped == 1


def test_lightning_names_have_a_prefix() -> None:
    entries = [entry(f"model.{name}", root=("state_dict",)) for name in ("a.odd", "b.odd")]
    values = [
        Value(("optimizer_states", 0, "param_groups", 0), "params", (0, 1)),
        Value(("optimizer_states", 0, "param_groups", 0), "param_names", ("a.odd", "b.odd")),
    ]
    source = checkpoint(entries, values=tuple(values))
    assert [said.basis for said in classify(source).classifications] == [Basis.OPTIMIZER] * 2


def test_an_optimizer_without_states_says_nothing_by_order() -> None:
    values = (
        Value(("opt", "param_groups", 0), "params", (0, 1)),
        Value(("opt", "param_groups", 0), "nesterov", False),
    )
    source = checkpoint([entry("a.odd", root=("m",)), entry("b.odd", root=("m",))], values=values)
    kinds = classify(source)
    assert {said.kind for said in kinds.classifications} == {UNKNOWN}
    assert kinds.optimizers[0].mapped == 0


@given(st.lists(st.integers(1, 3)), st.data())
def test_positions_sure_by_order_are_those_of_every_embedding(shapes: list[int], data: st.DataObject) -> None:
    """The real positions are one embedding; a position that all embeddings share is among them."""
    chosen = sorted(data.draw(st.sets(st.integers(0, max(0, len(shapes) - 1)), max_size=len(shapes))))
    chosen = [position for position in chosen if position < len(shapes)]
    root = ("o",)
    values = (Value((*root, "param_groups", 0), "params", tuple(range(len(chosen)))),)
    states = {
        (*root, "state", key): [entry("exp_avg", shape=(shapes[position],), root=(*root, "state", key))]
        for key, position in enumerate(chosen)
    }
    (optimizer,) = read_optimizers(find_groups(checkpoint([], values=values)), states)
    sure = match_order(optimizer, [(size,) for size in shapes])
    assert set(sure) <= set(chosen)
    if len(chosen) == len(shapes):
        assert sure == chosen


def test_deepspeed_says_which_names_are_buffers() -> None:
    entries = [entry(name, root=("module",)) for name in ("a.weight", "a.strange", "a.odd")]
    values = (Value((), "buffer_names", ("a.strange",)),)
    source = checkpoint(entries, values=values)
    assert kind_of(source) == {"a.weight": PARAMETER, "a.strange": BUFFER, "a.odd": PARAMETER}


def test_what_newer_code_rebuilds_is_known_whatever_says_that_it_is_a_buffer(tmp_path: Path) -> None:
    """Neither DeepSpeed's list of buffers nor a tie to one may hide it from --drop-known-buffers."""
    ids = torch.arange(4)
    state = {"embed.weight": torch.ones(4, 2), "embed.position_ids": ids, "embed.strange": torch.zeros(1)}
    names = ["embed.position_ids", "embed.strange"]
    torch.save({"module": state, "buffer_names": names}, tmp_path / "zero.pt")
    torch.save({"module": state}, tmp_path / "plain.pt")
    for name in ("zero", "plain"):
        found = ckpttool.open(tmp_path / f"{name}.pt")
        (finding,) = [item for item in found.findings if item.code == "known-buffers"]
        assert finding.name == "embed.position_ids" and "not saved since" in finding.message
        target = tmp_path / f"{name}.safetensors"
        converted = found.convert(target, drop_known_buffers=True)
        assert [item.name for item in converted.dropped if item.type_name == "int64"] == [
            "embed.position_ids"
        ]
        assert sorted(load_file(target)) == ["embed.strange", "embed.weight"]
