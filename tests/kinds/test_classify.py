"""Kinds from a file alone: each rule with a module that obeys it and one that breaks it on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.kinds import known_names
from ckpttool.kinds.classify import classify
from ckpttool.values.checkpoint import Basis, Checkpoint, Entry, Kind, Presence, StorageRef, TensorInfo
from ckpttool.values.dtypes import parse_torch_name
from tests.support.classified import (
    BUFFER,
    PARAMETER,
    UNKNOWN,
    Registers,
    by_name,
    checkpoint,
    entry,
    float_,
    frozen_batch_norm,
    kind_of,
)


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
        ("cross_entropy.weight", (4,), BUFFER),
        ("head.loss_fn.weight", (4,), BUFFER),
        ("arcface_loss.weight", (4, 8), PARAMETER),
        ("glossy.weight", (4,), PARAMETER),
        ("layers.0.vec_layernorm.weight", (4,), UNKNOWN),
        ("layers.0.norm.weight", (4,), PARAMETER),
        ("pool._poolingconv_weight", (4,), UNKNOWN),
        ("pool.conv_weight", (4,), PARAMETER),
    ],
)
def test_names(name: str, shape: tuple[int, ...], kind: Kind) -> None:
    said = by_name(checkpoint([entry(name, shape=shape)], ordered=False))[name]
    assert said.kind is kind
    assert said.basis in ((Basis.NONE,) if kind is UNKNOWN else (Basis.NAME, Basis.SIBLING))


@pytest.mark.parametrize(
    ("beside", "kind"),
    [("inv_freq", BUFFER), ("zero_point", BUFFER), ("mean", UNKNOWN), ("shift", UNKNOWN), ("odd", PARAMETER)],
)
def test_what_a_scale_is_depends_on_what_stands_beside_it(beside: str, kind: Kind) -> None:
    found = kind_of(checkpoint([entry("m.scale"), entry(f"m.{beside}")], ordered=False))
    assert found["m.scale"] is kind


def test_target_networks_of_reinforcement_learning_are_buffers() -> None:
    """``target_X_params`` beside ``X_params``; a target encoder of another make is a module like any."""
    names = ["value_params.0.weight", "target_value_params.0.weight", "target_policy_params.0.weight"]
    names += ["encoder.weight", "target_encoder.weight"]
    found = kind_of(checkpoint([entry(name) for name in names]))
    assert [name for name, kind in found.items() if kind is BUFFER] == ["target_value_params.0.weight"]


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
