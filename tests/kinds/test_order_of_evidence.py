"""No weaker evidence outranks a stronger one, and more evidence never makes a kind less right."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.kinds.classify import classify
from ckpttool.values.checkpoint import EXACT_BASES, Basis, Checkpoint, Classification, Root
from tests.support.classified import (
    BUFFER,
    PARAMETER,
    UNKNOWN,
    Registers,
    checkpoint,
    entry,
    float_,
    frozen_batch_norm,
    kind_of,
)
from tests.support.truth import truth_of


def said_of(source: Checkpoint, root: Root = ()) -> dict[Any, Classification]:
    """What is said of the entries of one state_dict."""
    said = classify(source).classifications
    return {item.name: s for item, s in zip(source.entries, said, strict=True) if item.root == root}


def save(path: Path, tree: Any) -> Checkpoint:
    torch.save(tree, path)
    return read_checkpoint(str(path))


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state after a step."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    return optimizer.state_dict()


def test_the_page_has_the_order_of_the_enum() -> None:
    page = (Path(__file__).parents[2] / "docs" / "kinds.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \|", page.partition("## The order of evidence")[2].partition("\n## ")[0], re.M
    )
    assert rows == [basis.value for basis in Basis if basis not in EXACT_BASES]


# --------------------------------------------------------------------------- pickled Parameters, modules


@pytest.mark.parametrize("buffers", [1, 3, 40])
def test_beside_pickled_parameters_every_other_tensor_is_a_buffer(buffers: int, tmp_path: Path) -> None:
    """However many there are, and whatever their names say."""
    names = ["score_bias", "temp", "weight", *(f"layer_scale{i}" for i in range(37))]
    model = nn.Sequential(nn.Linear(2, 2), *(Registers(b={name: float_()}) for name in names[:buffers]))
    found = said_of(save(tmp_path / "x.pt", model.state_dict(keep_vars=True)))
    assert {name: said.kind for name, said in found.items()} == truth_of(model)
    assert found["1.score_bias"].basis is Basis.PICKLED_PARAMETER


def test_a_parameter_put_into_a_finished_state_dict_says_nothing_of_the_others(tmp_path: Path) -> None:
    """It is behind the children, in a module that _metadata lacks, or beside a true batch norm."""
    added = nn.Parameter(float_())
    behind = nn.Sequential(nn.Linear(2, 2)).state_dict()
    behind["extra"] = added
    unheard = nn.Sequential(nn.Linear(2, 2)).state_dict()
    unheard["head.extra"] = added
    replaced = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)).state_dict()
    replaced["1.bias"] = added
    for state in (behind, unheard, replaced):
        found = said_of(save(tmp_path / "x.pt", state))
        assert {said.kind for name, said in found.items() if name.endswith(("weight", "bias"))} == {PARAMETER}


class Scaler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", float_())
        self.register_buffer("scale", float_())
        self.gain = nn.Parameter(float_())


class Net(nn.Module):
    def __init__(self, odd: int = 3) -> None:
        super().__init__()
        self.scaler = Scaler()
        self.blocks = nn.ModuleList([Scaler(), nn.Linear(odd, 2)])


def test_a_pickled_module_speaks_for_the_same_path_and_names_of_a_state_dict(tmp_path: Path) -> None:
    model = Net()
    tree = {"state_dict": model.state_dict(), "hyper_parameters": {"scaler": Scaler(), "rate": 0.1}}
    found = said_of(save(tmp_path / "x.ckpt", tree), ("state_dict",))
    assert {name: s.kind for name, s in found.items() if name.startswith("scaler.")} == {
        "scaler.gain": PARAMETER,
        "scaler.mean": BUFFER,
        "scaler.scale": BUFFER,
    }
    assert (found["scaler.scale"].basis, found["scaler.scale"].exact) == (Basis.COPY, False)
    assert "hyper_parameters.scaler" in found["scaler.scale"].note
    assert found["blocks.0.scale"].basis is not Basis.COPY


@pytest.mark.parametrize("key", ["scaler", "other"])
def test_a_pickled_module_of_another_shape_or_path_says_nothing(key: str, tmp_path: Path) -> None:
    pickled = Scaler()
    if key == "scaler":
        pickled.mean = torch.zeros(5)
    tree = {"state_dict": Net().state_dict(), "hyper_parameters": {key: pickled}}
    found = said_of(save(tmp_path / "x.ckpt", tree), ("state_dict",))
    assert Basis.COPY not in {said.basis for said in found.values()}


def test_of_several_places_the_one_with_most_of_the_path_is_meant(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.ModuleDict({"norm": Scaler()}), "b": nn.ModuleDict({"norm": Scaler()})})
    for keys, claimed in ((("b", "norm"), {"b.norm.scale"}), (("norm",), set())):
        tree: Any = Scaler()
        for key in reversed(keys):
            tree = {key: tree}
        tree = {"state_dict": model.state_dict(), "hyper_parameters": tree}
        found = said_of(save(tmp_path / "x.ckpt", tree), ("state_dict",))
        copied = {name for name, said in found.items() if said.basis is Basis.COPY and name.endswith("scale")}
        assert copied == claimed


# -------------------------------------------------------------------------------------------- optimizer


def trained_net() -> nn.Module:
    """Four linear layers, and a buffer whose name is that of a parameter."""
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    model.register_buffer("temp", torch.ones(()))
    model[2].register_buffer("scale", float_())
    return model


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_what_an_optimizer_of_everything_leaves_out_is_no_parameter_by_a_weak_name(
    momentum: float, tmp_path: Path
) -> None:
    """``scale`` has the shape of the biases beside it: shapes alone do not tell which was trained."""
    model = trained_net()
    states = stepped(model, torch.optim.SGD(model.parameters(), 0.1, momentum=momentum))
    averaged = {f"module.{name}": value for name, value in model.state_dict().items()}
    tree = {"state_dict": model.state_dict(), "optimizer_states": [states], "ema": averaged}
    if not momentum:
        del tree["ema"]  # without states nothing tells whose optimizer it is
    source = save(tmp_path / "x.ckpt", tree)
    found = said_of(source, ("state_dict",))
    assert {name for name, said in found.items() if said.kind is UNKNOWN} == {"temp", "2.scale"}
    assert all(said.kind is PARAMETER for name, said in found.items() if name.endswith(("weight", "bias")))
    assert "not in the optimizer" in found["temp"].note
    if momentum:
        assert {said.basis for said in found.values()} == {Basis.OPTIMIZER, Basis.NONE}
        assert said_of(source, ("ema",))["module.temp"].kind is UNKNOWN


def test_an_optimizer_of_a_part_takes_nothing_from_the_rest(tmp_path: Path) -> None:
    """The body was frozen and left out: its names say what they said."""
    model = nn.ModuleDict({"body": trained_net(), "head": nn.Linear(3, 7)})
    before = said_of(save(tmp_path / "x.ckpt", {"state_dict": model.state_dict()}), ("state_dict",))
    states = stepped(model["head"], torch.optim.Adam(model["head"].parameters()))
    tree = {"state_dict": model.state_dict(), "optimizer_states": [states]}
    after = said_of(save(tmp_path / "x.ckpt", tree), ("state_dict",))
    assert {name: said.kind for name, said in after.items()} == {n: s.kind for n, s in before.items()}
    assert after["head.weight"].basis is Basis.OPTIMIZER


def test_a_member_without_state_may_be_frozen_and_decides_nothing(tmp_path: Path) -> None:
    model = nn.Sequential(Registers(p={"scale": torch.zeros(5)}), nn.Linear(3, 4))
    model[0].scale.requires_grad_(False)
    states = stepped(model, torch.optim.Adam(model.parameters()))
    tree = {"state_dict": model.state_dict(), "optimizer_states": [states]}
    found = said_of(save(tmp_path / "x.ckpt", tree), ("state_dict",))
    assert found["0.scale"].kind is PARAMETER


def test_what_an_optimizer_names_anchors_the_order(tmp_path: Path) -> None:
    """``odd`` precedes a trained parameter, ``strange`` follows a sure buffer."""
    model = Registers(
        p={"odd": torch.zeros(2), "weight": torch.zeros(7)},
        b={"steps": torch.tensor(0), "gain": torch.zeros(3)},
    )
    model.odd.requires_grad_(False)
    states = stepped(model, torch.optim.Adam([model.weight]))
    tree = {"state_dict": model.state_dict(), "optimizer_states": [states]}
    found = said_of(save(tmp_path / "x.ckpt", tree), ("state_dict",))
    assert (found["odd"].kind, found["odd"].basis) == (PARAMETER, Basis.ORDER)
    assert (found["gain"].kind, found["gain"].basis) == (BUFFER, Basis.ORDER)


# ---------------------------------------------------------------------------------------- weaker rules


@pytest.mark.parametrize("ordered", [True, False])
def test_a_tensor_without_elements_is_a_buffer_unless_more_is_known(ordered: bool) -> None:
    entries = [
        entry("a.weight", shape=(0,)),
        entry("a.odd", shape=(3, 0)),
        entry("layer.weight", shape=(0, 3)),
        entry("layer.bias", shape=(0,)),
        entry("b.weight_g", shape=(0, 1)),
        entry("b.weight_v", shape=(0, 3)),
    ]
    assert kind_of(checkpoint(entries, ordered=ordered)) == {
        "a.weight": BUFFER,
        "a.odd": BUFFER,
        "layer.weight": PARAMETER,
        "layer.bias": PARAMETER,
        "b.weight_g": PARAMETER,
        "b.weight_v": PARAMETER,
    }


@pytest.mark.parametrize("ordered", [True, False])
def test_a_norm_of_uneven_shapes_is_no_frozen_batch_norm(ordered: bool) -> None:
    """Nor is then one of even shapes, by the same hand: statistics and weights of equivariant features."""
    entries = []
    for module, sizes in (("n0", (6, 4, 4, 6)), ("n1", (4, 4, 4, 4))):
        names = ("weight", "bias", "running_mean", "running_var")
        entries += [entry(f"{module}.{n}", shape=(size,)) for n, size in zip(names, sizes, strict=True)]
    versions: Any = {(): {"": 1, "n0": 1, "n1": 1}} if ordered else {}
    found = kind_of(checkpoint(entries, ordered=ordered, module_versions=versions))
    assert {found[f"{m}.{n}"] for m in ("n0", "n1") for n in ("weight", "bias")} == {PARAMETER}
    even = kind_of(checkpoint(entries[4:], ordered=ordered, module_versions=versions))
    assert even["n1.weight"] is even["n1.bias"] is BUFFER


def test_a_name_anchors_no_order() -> None:
    """``decay`` is called a buffer by its name alone, and ``scale`` a parameter."""
    entries = [entry("m.strange"), entry("m.scale"), entry("m.decay"), entry("m.odd"), entry("a.weight")]
    found = kind_of(checkpoint(entries))
    assert found["m.strange"] is found["m.odd"] is UNKNOWN


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_an_integer_is_a_buffer_also_where_the_name_is_ambiguous(dtype: str) -> None:
    assert kind_of(checkpoint([entry("a.mask", dtype)])) == {"a.mask": BUFFER}


# ------------------------------------------------------------------------------------------ the property

WEAK = ["scale", "temp", "gain", "pos_embed", "score_bias", "odd", "strange", "decay", "mask", "freqs"]
"""Names that a table has for one kind, for the other, for both or not at all: either kind may bear them."""

EVIDENCE = ["order", "metadata", "optimizer", "parameters", "module"]
"""What a file may hold beside names, dtypes and shapes."""


def draw_module(draw: st.DrawFn) -> nn.Module:
    """One module whose entries are registered as libraries do it: integers and empty tensors are buffers."""
    size = draw(st.integers(2, 4))
    build = draw(st.sampled_from([nn.BatchNorm1d, nn.LayerNorm, frozen_batch_norm, None, None, None]))
    if build is not None:
        return build(size)
    names = draw(st.lists(st.sampled_from(WEAK), max_size=4, unique=True))
    kinds = draw(st.lists(st.booleans(), min_size=4, max_size=4))
    shapes = draw(st.lists(st.sampled_from([(), (size,), (size, 2)]), min_size=4, max_size=4))
    trained = {n: torch.ones(s) for n, s, k in zip(names, shapes, kinds, strict=False) if k}
    kept = {n: torch.ones(s) for n, s, k in zip(names, shapes, kinds, strict=False) if not k}
    first = draw(st.sampled_from([{}, {"steps": torch.tensor(0)}, {"none": torch.zeros(0, 3)}]))
    if draw(st.booleans()):
        trained = {**trained, "weight": torch.ones(size, 3), "bias": torch.ones(size)}
    return Registers(p=trained, b={**first, **kept})


@st.composite
def models(draw: st.DrawFn) -> nn.Module:
    """A network under ``net``, of three to six modules."""
    modules = [draw_module(draw) for _ in range(draw(st.integers(2, 5)))]
    return nn.ModuleDict({"net": nn.Sequential(*modules, nn.Linear(2, 2))})


def write(model: nn.Module, evidence: set[str], path: Path) -> Checkpoint:
    """A checkpoint of ``model`` that holds just this evidence."""
    state: Any = model.state_dict(keep_vars="parameters" in evidence)
    if "order" not in evidence:
        ordered = sorted(state.items())
        versions = state._metadata
        state = OrderedDict(ordered)
        state._metadata = versions
    tree: dict[str, Any] = {"state_dict": state if "metadata" in evidence else dict(state)}
    if "optimizer" in evidence:
        tree["optimizer_states"] = [stepped(model, torch.optim.Adam(model.parameters()))]
    if "module" in evidence:
        tree["hyper_parameters"] = {"net": copy.deepcopy(model["net"])}
    return save(path, tree)


@given(models(), st.permutations(EVIDENCE))
@settings(max_examples=40)
def test_more_evidence_never_makes_a_kind_less_right(
    tmp_path_factory: pytest.TempPathFactory, model: nn.Module, evidence: list[str]
) -> None:
    path = tmp_path_factory.mktemp("kinds") / "x.ckpt"
    truth = truth_of(model)
    known: set[str] = set()
    for count in range(len(evidence) + 1):
        source = write(model, set(evidence[:count]), path)
        found = said_of(source, ("state_dict",))
        right = {name for name, said in found.items() if said.kind is truth[name]}
        assert known <= right, f"{evidence[:count]} lost {known - right}"
        assert all(said.kind is truth[name] for name, said in found.items() if said.exact)
        known = right
    assert known == set(truth)
