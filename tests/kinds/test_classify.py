"""Kinds from a file alone: each rule with a module that obeys it and one that breaks it on purpose."""

from __future__ import annotations

import string
from collections import OrderedDict
from collections.abc import Callable, Iterable
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
from ckpttool.kinds import known_names
from ckpttool.kinds.classify import Kinds, classify
from ckpttool.kinds.optimizer import find_groups, match_order, read_optimizers
from ckpttool.values.checkpoint import (
    EXACT_BASES,
    UNCLASSIFIED,
    Basis,
    Checkpoint,
    Classification,
    Entry,
    Kind,
    OddKey,
    Presence,
    StorageRef,
    TensorInfo,
    Value,
)
from ckpttool.values.dtypes import BY_NAME, parse_torch_name

PARAMETER = Kind.PARAMETER
BUFFER = Kind.PERSISTENT_BUFFER
UNKNOWN = Kind.UNKNOWN


# ------------------------------------------------------------------------------------------- making


def entry(
    name: Any, dtype: str = "float32", shape: tuple[int, ...] = (4,), root: Any = (), **more: Any
) -> Entry:
    storage = StorageRef("f", f"{root}{name}", 0, 1 << 40)
    return Entry(root, name, TensorInfo(BY_NAME[dtype], shape, (1,) * len(shape), 0, storage), **more)


def checkpoint(entries: Iterable[Entry], **more: Any) -> Checkpoint:
    return Checkpoint("x", "torch_zip", "", (), tuple(entries), **more)


def read_module(module: nn.Module, metadata: bool = True, ordered: bool = True) -> Checkpoint:
    """What a reader would give for ``module.state_dict()``, without a file."""
    state = module.state_dict()
    entries = []
    for name, value in state.items():
        dtype = parse_torch_name(str(value.dtype))
        assert dtype is not None
        storage = StorageRef("f", str(value.data_ptr()), 0, 1 << 40)
        entries.append(Entry((), name, TensorInfo(dtype, tuple(value.shape), value.stride(), 0, storage)))
    if not ordered:
        entries.sort(key=lambda item: str(item.name))
    versions = {path: local.get("version") for path, local in state._metadata.items()}  # type: ignore[attr-defined]
    return checkpoint(entries, module_versions={(): versions} if metadata else {}, ordered=ordered)


def by_name(source: Checkpoint) -> dict[Any, Classification]:
    kinds = classify(source)
    assert len(kinds.classifications) == len(source.entries)
    return {item.name: said for item, said in zip(source.entries, kinds.classifications, strict=True)}


def kind_of(source: Checkpoint) -> dict[Any, Kind]:
    return {name: said.kind for name, said in by_name(source).items()}


class Registers(nn.Module):
    """Parameters (p=...) then buffers (b=...), as torch writes them."""

    def __init__(
        self, p: dict[str, torch.Tensor] | None = None, b: dict[str, torch.Tensor] | None = None
    ) -> None:
        super().__init__()
        for name, value in (p or {}).items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=value.is_floating_point()))
        for name, value in (b or {}).items():
            self.register_buffer(name, value)


def frozen_batch_norm(size: int = 4) -> nn.Module:
    names = ("weight", "bias", "running_mean", "running_var")
    return Registers(b={name: torch.zeros(size) for name in names})


def float_() -> torch.Tensor:
    return torch.zeros(3)


def integer() -> torch.Tensor:
    return torch.arange(3)


# ---------------------------------------------------------------------------------------- batch norm


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("ordered", [True, False])
def test_batch_norm_weight_is_a_parameter(metadata: bool, ordered: bool) -> None:
    found = by_name(read_module(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), metadata, ordered))
    assert {name: said.kind for name, said in found.items()} == {
        "0.weight": PARAMETER,
        "0.bias": PARAMETER,
        "1.weight": PARAMETER,
        "1.bias": PARAMETER,
        "1.running_mean": BUFFER,
        "1.running_var": BUFFER,
        "1.num_batches_tracked": BUFFER,
    }
    assert found["1.weight"].basis is (Basis.METADATA if metadata else Basis.SIBLING)


@pytest.mark.parametrize("ordered", [True, False])
def test_frozen_batch_norm_is_all_buffers(ordered: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), frozen_batch_norm())
    found = by_name(read_module(model, metadata=ordered, ordered=ordered))
    assert [found[f"1.{name}"].kind for name in ("weight", "bias", "running_mean")] == [BUFFER] * 3
    assert found["0.weight"].kind is PARAMETER
    assert found["1.weight"].basis is (Basis.METADATA if ordered else Basis.SIBLING)


def test_a_pickle_without_metadata_may_be_older_than_the_counter() -> None:
    found = kind_of(read_module(frozen_batch_norm(), metadata=False))
    assert found["weight"] is UNKNOWN
    mixed = kind_of(read_module(nn.Sequential(frozen_batch_norm(), nn.BatchNorm2d(4)), metadata=False))
    assert mixed["0.weight"] is BUFFER
    assert mixed["1.weight"] is PARAMETER


def test_batch_norm_by_hand_without_counter_is_wrong_but_not_exact() -> None:
    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(float_())
            self.bias = nn.Parameter(float_())
            self.register_buffer("running_mean", float_())
            self.register_buffer("running_var", float_())

    assert not any(said.exact for said in by_name(read_module(ByHand())).values())


# --------------------------------------------------------------------------------------------- order


def test_what_precedes_a_sure_parameter_is_one_and_what_follows_a_sure_buffer_too() -> None:
    model = Registers(
        p={"odd": float_(), "weight_g": float_(), "weight_v": float_()},
        b={"steps": integer(), "strange": float_()},
    )
    found = by_name(read_module(model))
    assert (found["odd"].kind, found["odd"].basis) == (PARAMETER, Basis.ORDER)
    assert (found["strange"].kind, found["strange"].basis) == (BUFFER, Basis.ORDER)
    unordered = by_name(read_module(model, ordered=False))
    assert unordered["odd"].kind is UNKNOWN
    assert unordered["strange"].kind is UNKNOWN


def test_an_average_of_weights_in_buffers_is_found_from_its_counter() -> None:
    """LitEma of latent diffusion: decay, num_updates, then every weight under a name without dots."""
    shadow = {"decay": torch.tensor(0.9), "num_updates": torch.tensor(0)}
    shadow.update({f"diffusion_model{i}weight": float_() for i in range(20)})
    model = nn.ModuleDict({"model": nn.Linear(2, 2), "model_ema": Registers(b=shadow)})
    found = by_name(read_module(model))
    assert found["model.weight"].kind is PARAMETER
    assert {said.kind for name, said in found.items() if name.startswith("model_ema")} == {BUFFER}
    assert found["model_ema.diffusion_model0weight"].basis is Basis.ORDER


@pytest.mark.parametrize("beside", [nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Identity()], ids=type)
def test_a_sorted_file_silences_the_order_rule(beside: nn.Module) -> None:
    """Sorted, the integer ``a`` stands before the parameter ``weight``."""
    model = nn.Sequential(beside, Registers(p={"weight": float_(), "z": float_()}, b={"a": integer()}))
    source = read_module(model)
    assert kind_of(source)["1.weight"] is PARAMETER
    resorted = source._replace(entries=tuple(sorted(source.entries, key=lambda item: str(item.name))))
    found = kind_of(resorted)
    assert found["1.weight"] is PARAMETER
    assert found["1.z"] is UNKNOWN
    assert found["1.a"] is BUFFER


def test_an_own_entry_after_a_childs_silences_the_order_rule() -> None:
    names = ["a", "child.weight", "child.bias", "z"]
    source = checkpoint([entry(name, "int64" if name == "a" else "float32") for name in names])
    assert kind_of(source)["z"] is UNKNOWN


# --------------------------------------------------------------------------------------- names, siblings


def test_weight_v_depends_on_what_stands_beside_it() -> None:
    from torch.nn.utils import spectral_norm, weight_norm

    with pytest.warns(FutureWarning):
        model = nn.Sequential(weight_norm(nn.Linear(2, 2)), spectral_norm(nn.Linear(2, 2)))
    for ordered in (True, False):
        found = kind_of(read_module(model, ordered=ordered))
        assert found["0.weight_g"] is found["0.weight_v"] is PARAMETER
        assert found["1.weight_orig"] is PARAMETER
        assert found["1.weight_u"] is found["1.weight_v"] is BUFFER


def test_parametrizations() -> None:
    from torch.nn.utils.parametrizations import spectral_norm, weight_norm

    found = kind_of(read_module(nn.Sequential(spectral_norm(nn.Linear(2, 2)), weight_norm(nn.Linear(2, 2)))))
    assert found["0.parametrizations.weight.original"] is PARAMETER
    assert found["0.parametrizations.weight.0._u"] is BUFFER
    assert found["1.parametrizations.weight.original0"] is PARAMETER


def test_pruning() -> None:
    from torch.nn.utils import prune

    found = kind_of(read_module(prune.l1_unstructured(nn.Linear(2, 2), "weight", 0.5), ordered=False))
    assert found == {"bias": PARAMETER, "weight_orig": PARAMETER, "weight_mask": BUFFER}


def test_a_codebook_is_known_by_its_cluster_sizes() -> None:
    alone = kind_of(read_module(Registers(b={"embed": float_()})))
    beside = kind_of(read_module(Registers(b={"embed": float_(), "cluster_size": float_()}), ordered=False))
    assert alone["embed"] is UNKNOWN
    assert beside["embed"] is BUFFER


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("attn.bias", (4,), PARAMETER),
        ("attn.bias", (1, 1, 8, 8), BUFFER),
        ("grn.bias", (1, 1, 1, 8), PARAMETER),
        ("rope.freqs", (8,), BUFFER),
        ("rope.freqs", (2, 4, 8), UNKNOWN),
        ("layers.3.mlp.gate.e_score_correction_bias", (8,), BUFFER),
        ("final_logits_bias", (1, 8), BUFFER),
        ("encoder.positional_embedding", (8, 4), UNKNOWN),
        ("visual.positional_embedding", (8, 4), PARAMETER),
        ("prompt.positional_embedding", (2, 64), BUFFER),
        ("cls_token1", (1, 1, 4), PARAMETER),
        ("x.pos_embed_window", (1, 4), PARAMETER),
        ("x.clip_mean", (4,), PARAMETER),
        ("x.latents_mean", (4,), BUFFER),
        ("x.mean", (4,), UNKNOWN),
        ("x.nothing_known", (4,), UNKNOWN),
        ("module._orig_mod.x.inv_freq", (4,), BUFFER),
        ("x._extra_state", (4,), Kind.EXTRA_STATE),
        ("state.0.exp_avg", (4,), Kind.OPTIMIZER_STATE),
    ],
)
def test_names(name: str, shape: tuple[int, ...], kind: Kind) -> None:
    said = by_name(checkpoint([entry(name, shape=shape)], ordered=False))[name]
    assert said.kind is kind
    assert said.basis in ((Basis.NONE,) if kind is UNKNOWN else (Basis.NAME, Basis.SIBLING))


def test_the_table_names_nothing_twice() -> None:
    seen: dict[tuple[str, str], str] = {}
    for kind, rules in known_names.RULES.items():
        for rule in rules:
            assert rule.note
            for key in ("names", "endings"):
                for name in getattr(rule, key).split():
                    place = (f"{key} {rule.shape}", name)
                    assert place not in seen, f"{name}: {seen[place]} and {kind}"
                    seen[place] = kind.value


# ------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize(
    ("dtype", "shape", "kind"),
    [
        ("int64", (3, 4), BUFFER),
        ("bool", (3, 4), BUFFER),
        ("int32", (), BUFFER),
        ("uint8", (3, 4), UNKNOWN),
        ("int8", (3, 4), UNKNOWN),
        ("qint8", (3, 4), UNKNOWN),
        ("float8_e4m3fn", (3, 4), PARAMETER),
    ],
)
def test_dtype(dtype: str, shape: tuple[int, ...], kind: Kind) -> None:
    assert by_name(checkpoint([entry("layer.weight", dtype, shape)]))["layer.weight"].kind is kind


# ----------------------------------------------------------------------------- modules made to deceive


def integer_parameter() -> nn.Module:
    return Registers(p={"table": torch.arange(4)})


def parameter_in_buffers() -> nn.Module:
    return Registers(b={"weight": nn.Parameter(float_())})


def parameter_called_running_mean() -> nn.Module:
    return Registers(p={"running_mean": float_(), "running_var": float_(), "num_batches_tracked": float_()})


def buffer_called_weight() -> nn.Module:
    return nn.CrossEntropyLoss(weight=torch.ones(3))


DECEIVERS = [
    integer_parameter,
    parameter_in_buffers,
    parameter_called_running_mean,
    buffer_called_weight,
    frozen_batch_norm,
]


@pytest.mark.parametrize("build", DECEIVERS)
@pytest.mark.parametrize("keep_vars", [False, True])
def test_no_state_dict_makes_an_exact_claim(
    build: Callable[[], nn.Module], keep_vars: bool, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    torch.save(build().state_dict(keep_vars=keep_vars), path)
    source = read_checkpoint(str(path))
    assert source.entries
    assert not any(said.exact for said in classify(source).classifications)


def test_what_a_reader_declares_wins_over_every_rule() -> None:
    declared = Classification(BUFFER, Basis.PICKLED_MODULE)
    entries = [entry("weight", declared=declared), entry("bias"), entry("running_mean", declared=declared)]
    found = by_name(checkpoint(entries))
    assert found["weight"] == declared
    assert found["weight"].exact


def test_what_a_reader_says_is_not_registered_stays_unknown() -> None:
    """A plain tensor attribute that views a parameter, stands among its copies and bears a known name."""
    plain = Classification(UNKNOWN, Basis.NONE, note="plain tensor attribute")
    weight = entry("a.weight", root=("model",), shape=(4, 4))
    attribute = weight._replace(name="a.bias", declared=plain)
    copy = entry("a.bias", root=("ema",), shape=(4, 4))
    said = classify(checkpoint([weight, attribute, copy])).classifications
    assert [item.kind for item in said] == [PARAMETER, UNKNOWN, PARAMETER]
    assert said[1] == plain


def test_a_kind_taken_from_an_exact_one_is_not_exact() -> None:
    declared = Classification(BUFFER, Basis.PICKLED_MODULE)
    entries = [
        entry("a.strange", root=("model",), declared=declared),
        entry("a.strange", root=("ema",)),
    ]
    _, copied = classify(checkpoint(entries)).classifications
    assert (copied.kind, copied.exact) == (BUFFER, False)


def test_in_a_keep_vars_file_the_rest_are_buffers(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Linear(2, 2), nn.Linear(2, 2), Registers(b={"strange": float_()}), nn.BatchNorm1d(2)
    )
    torch.save(model.state_dict(keep_vars=True), tmp_path / "x.pt")
    found = by_name(read_checkpoint(str(tmp_path / "x.pt")))
    assert found["0.weight"] == Classification(PARAMETER, Basis.PICKLED_PARAMETER)
    assert (found["2.strange"].kind, found["2.strange"].basis) == (BUFFER, Basis.PICKLED_PARAMETER)


def test_one_added_parameter_does_not_make_the_rest_buffers(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict()
    state["added"] = nn.Parameter(float_())
    torch.save(state, tmp_path / "x.pt")
    assert set(kind_of(read_checkpoint(str(tmp_path / "x.pt"))).values()) == {PARAMETER}


# ------------------------------------------------------------------------------------------- missing


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", float_(), persistent=False)


def test_an_empty_module_names_its_missing_buffer() -> None:
    model = nn.ModuleDict({"rotary_emb": Rotary(), "lin": nn.Linear(2, 2)})
    (missing,) = classify(read_module(model)).missing
    assert (missing.name, missing.value, missing.root) == ("rotary_emb.inv_freq", None, ())
    assert missing.declared.kind is Kind.NON_PERSISTENT_BUFFER
    assert missing.declared.presence is Presence.MISSING
    assert missing.declared.basis is Basis.METADATA
    assert classify(read_module(model, metadata=False)).missing == ()


@pytest.mark.parametrize(
    "module",
    [Registers(b={"inv_freq": float_()}), nn.Sequential(nn.Identity()), nn.Sequential(nn.Linear(2, 2))],
    ids=["has it", "has a child", "has a child with entries"],
)
def test_a_module_with_an_entry_or_a_child_misses_nothing(module: nn.Module) -> None:
    assert classify(read_module(nn.ModuleDict({"rotary_emb": module}))).missing == ()


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


# ----------------------------------------------------------------------------------- copies, ties, roots


def test_a_copy_of_the_weights_has_their_kinds() -> None:
    state = read_module(nn.Sequential(nn.Conv2d(3, 4, 1), frozen_batch_norm()))
    names = [(str(item.name), item.value) for item in state.entries]
    entries = [Entry((root,), name, value) for root in ("model", "ema") for name, value in names]
    source = checkpoint(entries, module_versions={("model",): state.module_versions[()]})
    kinds = classify(source, [None] * len(entries))
    said = {(item.root[0], item.name): s for item, s in zip(entries, kinds.classifications, strict=True)}
    assert said["ema", "1.weight"].kind is said["model", "1.weight"].kind is BUFFER
    assert said["ema", "0.weight"].kind is PARAMETER


def test_two_names_of_one_tensor_have_one_kind() -> None:
    first = entry("decoder.weight", shape=(4, 4))
    alias = first._replace(name="strange.thing")
    found = by_name(checkpoint([first, alias]))
    assert found["strange.thing"].kind is PARAMETER
    assert "tied" in found["strange.thing"].note


def test_tensors_beside_the_weights_are_not_called_buffers() -> None:
    entries = [
        entry("a.weight", root=("model",)),
        entry("rng_state", "int64", (8,)),
        entry(0, root=("losses",)),
    ]
    kinds = classify(checkpoint(entries))
    assert [said.kind for said in kinds.classifications] == [PARAMETER, UNKNOWN, UNKNOWN]


# --------------------------------------------------------------------------------------------- files


def test_a_file_of_each_container_agrees(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.PReLU())
    torch.save(model.state_dict(), tmp_path / "x.pt")
    save_file(dict(model.state_dict()), tmp_path / "x.safetensors")
    pt = kind_of(read_checkpoint(str(tmp_path / "x.pt")))
    assert pt == kind_of(read_checkpoint(str(tmp_path / "x.safetensors")))
    parameters = {name for name, _ in model.named_parameters()}
    assert {name for name, kind in pt.items() if kind is PARAMETER} == parameters
    assert {name for name, kind in pt.items() if kind is BUFFER} == {
        name for name, _ in model.named_buffers()
    }


# -------------------------------------------------------------------------------------------- hostile

KEYS = st.one_of(
    st.text(alphabet=string.ascii_lowercase + "._0", max_size=20),
    st.sampled_from(
        ["weight", "a.running_mean", "a.running_var", "x_g", "x_v", "x_orig", "...", "", "a.0.0.0"]
    ),
    st.text(max_size=5),
    st.integers(),
    st.builds(OddKey, st.text(max_size=3), st.booleans()),
)
ROOTS = st.lists(st.one_of(KEYS, st.sampled_from(["state", "param_groups", "optimizer"])), max_size=4).map(
    tuple
)
DECLARED = [
    UNCLASSIFIED,
    Classification(PARAMETER, Basis.PICKLED_MODULE),
    Classification(PARAMETER, Basis.PICKLED_PARAMETER),
    Classification(UNKNOWN, Basis.EXPORT, note="constant"),
    Classification(UNKNOWN, Basis.NONE, note="plain tensor attribute"),
]
ENTRIES = st.builds(
    entry,
    KEYS,
    st.sampled_from(sorted(BY_NAME)),
    st.lists(st.integers(0, 3), max_size=5).map(tuple),
    ROOTS,
    declared=st.sampled_from(DECLARED),
)
PLAIN = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=3),
    st.lists(KEYS.filter(lambda k: type(k) is not OddKey)).map(tuple),
)
VALUES = st.builds(
    Value,
    st.one_of(ROOTS, st.tuples(st.just("optimizer"), st.just("param_groups"), st.integers(0, 2))),
    st.sampled_from(["params", "param_names", "buffer_names", "lr"]),
    PLAIN,
)


@given(
    st.lists(ENTRIES, max_size=25),
    st.lists(VALUES, max_size=6),
    st.booleans(),
    st.dictionaries(
        KEYS.filter(lambda k: isinstance(k, str)), st.one_of(st.none(), st.integers()), max_size=5
    ),
)
def test_classify_never_raises_and_keeps_exact_claims(
    entries: list[Entry], values: list[Value], ordered: bool, versions: dict[str, int | None]
) -> None:
    roots = {item.root for item in entries}
    source = checkpoint(
        entries, values=tuple(values), ordered=ordered, module_versions=dict.fromkeys(roots, versions)
    )
    kinds = classify(source)
    assert len(kinds.classifications) == len(entries)
    for item, said in zip(entries, kinds.classifications, strict=True):
        assert (said.basis in EXACT_BASES) == (item.declared.basis in EXACT_BASES)
        assert said.presence is Presence.PRESENT
        if item.declared == UNCLASSIFIED:
            assert (said.kind is UNKNOWN) == (said.basis is Basis.NONE)
        elif item.declared.basis is not Basis.PICKLED_PARAMETER:
            assert said == item.declared
    present = {(item.root, item.name) for item in entries}
    assert not present & {(item.root, item.name) for item in kinds.missing}


def test_a_name_of_a_million_dots_costs_little() -> None:
    names = ["." * 1_000_000 + f"{i}" for i in range(3)] + ["0." * 500_000 + "weight"]
    classify(checkpoint([entry(name) for name in names]))


def test_state_dicts_of_odd_order_are_read_as_they_are() -> None:
    state = OrderedDict([(3, "float32"), ("weight", "float32"), (OddKey("None", True), "int64")])
    kinds = classify(checkpoint([entry(name, dtype) for name, dtype in state.items()]))
    assert [said.kind for said in kinds.classifications][1] is PARAMETER
