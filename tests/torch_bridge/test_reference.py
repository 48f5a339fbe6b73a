"""Kinds that are read from a live model, against what torch itself does with its entries.

The oracle is behaviour, not registration: what `state_dict` saves, what an optimizer over `parameters()`
holds, what `buffers()` lists, and which keys appear once every buffer is made persistent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.nn.utils.parametrize import register_parametrization
from torch.optim.swa_utils import AveragedModel

import sample_models
from ckpttool.torch_bridge.reference import describe_model, non_persistent_names
from ckpttool.values.checkpoint import Basis, CompositeTensor, Entry, Kind, Presence, TensorInfo
from ckpttool.values.errors import ModelImportFailed
from ckpttool.values.model import ModelSpec


class Block(nn.Module):
    """A parameter, a persistent and a non-persistent buffer, and a child with nothing but the last."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.ones(3, 3), persistent=False)
        self.rotary = Rotary()


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.arange(4.0), persistent=False)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


class BufferTwice(nn.Module):
    """One tensor: persistent here, non-persistent there."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.arange(6.0)
        self.a, self.b = nn.Module(), nn.Module()
        self.a.register_buffer("table", table)
        self.b.register_buffer("table", table, persistent=False)


class ParameterAsBuffer(nn.Module):
    """A Parameter that is registered as a buffer is a buffer: no optimizer sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("scale", nn.Parameter(torch.ones(2)))


class Overrides(nn.Module):
    """Renames on load, as old batch norms of vision libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("stat", torch.zeros(2))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if prefix + "old" in state_dict:
            state_dict[prefix + "weight"] = state_dict.pop(prefix + "old")
        super()._load_from_state_dict(state_dict, prefix, *rest)


class RenamingHook(nn.Module):
    """A state_dict hook gives each of its keys another first part."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Block()
        self._register_state_dict_hook(self._rename)

    @staticmethod
    def _rename(module: nn.Module, state: Any, prefix: str, metadata: Any) -> None:
        for key in [key for key in state if key.startswith(prefix + "inner.")]:
            state[prefix + "outer." + key[len(prefix) + len("inner.") :]] = state.pop(key)


class PlainStateDict(nn.Module):
    """A state_dict of its own that takes no arguments and gives detached tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Block()

    def state_dict(self) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {f"student.{key}": value for key, value in self.net.state_dict().items()}


class Extra(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("scale", torch.ones(2))

    def get_extra_state(self) -> Any:
        return self.scale

    def set_extra_state(self, state: Any) -> None:
        pass


class Doubling(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2


def parametrized() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    register_parametrization(model[0], "weight", Doubling())
    return model


def shared() -> nn.Module:
    linear = nn.Linear(2, 2)
    return nn.Sequential(linear, nn.ReLU(), linear)


def pruned() -> nn.Module:
    return nn.Sequential(prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5))


def checkpointed() -> nn.Module:
    return nn.Sequential(checkpoint_wrapper(Block()), nn.Sequential(checkpoint_wrapper(Block())))


def wrapped_twice() -> nn.Module:
    return nn.DataParallel(nn.Sequential(checkpoint_wrapper(nn.Sequential(checkpoint_wrapper(Block())))))


def only_rotary_wrapped() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), checkpoint_wrapper(Rotary()))


def none_entries() -> nn.Module:
    model = nn.BatchNorm2d(3, affine=False)
    model.register_buffer("later", None)
    model.register_buffer("scratch", None, persistent=False)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{
        f"sample:{name}": (lambda name=name: sample_models.load(name).build()) for name in sample_models.NAMES
    },
    "nothing": nn.ReLU,
    "conv stack": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Conv2d(4, 2, 1)
    ),
    "transformer": lambda: nn.Transformer(8, 2, 1, 1, 8, batch_first=True),
    "lstm": lambda: nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2),
    "attention": lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=4, add_bias_kv=True),
    "norms": lambda: nn.Sequential(nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.BatchNorm1d(4)),
    "norm without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "parameter list": lambda: nn.ParameterList([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]),
    "parameter dict": lambda: nn.ParameterDict({"a": nn.Parameter(torch.ones(2))}),
    "loss weight": lambda: nn.CrossEntropyLoss(weight=torch.ones(4)),
    "block": Block,
    "tied": Tied,
    "shared submodule": shared,
    "buffer twice": BufferTwice,
    "parameter as buffer": ParameterAsBuffer,
    "none entries": none_entries,
    "weight norm, old": lambda: weight_norm(nn.Linear(3, 3)),
    "spectral norm, old": lambda: spectral_norm(nn.Linear(3, 3)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
    "parametrization": parametrized,
    "pruned": pruned,
    "extra state": Extra,
    "overridden load": Overrides,
    "renaming hook": RenamingHook,
    "own state_dict": PlainStateDict,
    "checkpoint wrapper": checkpointed,
    "wrapped twice": wrapped_twice,
    "wrapper around a rotary": only_rotary_wrapped,
    "compiled": lambda: torch.compile(Block()),
    "compiled in DataParallel": lambda: nn.DataParallel(torch.compile(Block())),
    "averaged": lambda: AveragedModel(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), use_buffers=True),
}


def test_the_matrix_has_at_least_25_models_besides_the_samples() -> None:
    assert len(MODELS) - len(sample_models.NAMES) >= 25


def mark(model: nn.Module) -> dict[int, set[str]]:
    """What torch's public methods say of each tensor object: the roles it plays."""
    roles: dict[int, set[str]] = {}
    trained = list(model.parameters())
    if trained:
        held = torch.optim.SGD(trained, lr=0.1).param_groups[0]["params"]
        for parameter in held:
            roles.setdefault(id(parameter), set()).add("parameter")
    for buffer in model.buffers():
        roles.setdefault(id(buffer), set()).add("buffer")
    return roles


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_kinds_agree_with_what_torch_does(name: str, device: str) -> None:
    if (name, device) == ("orthogonal", "meta"):
        pytest.skip("torch's orthogonal parametrization factors a matrix when it is made: not on meta")
    with torch.device(device):
        model = MODELS[name]()
    spec = describe_model(model, "m")
    found = {str(entry.name): entry.declared for entry in spec.checkpoint.entries}
    saved = model.state_dict()
    # 1. In a state_dict, or not: nothing else is a non-persistent buffer.
    transient = {key for key, said in found.items() if said.kind is Kind.NON_PERSISTENT_BUFFER}
    assert set(found) - transient == set(saved)
    assert not transient & set(saved)
    # 2. What an optimizer over parameters() holds, and what buffers() lists, by the object in the state_dict.
    roles = mark(model)
    if name != "own state_dict":  # the one that gives no objects
        for key, value in model.state_dict(keep_vars=True).items():
            if key.rpartition(".")[2] == "_extra_state":
                assert found[key].kind is Kind.EXTRA_STATE
                continue
            expected = Kind.PARAMETER if "parameter" in roles[id(value)] else Kind.PERSISTENT_BUFFER
            assert found[key].kind is expected, key
    # 3. As many non-persistent slots as buffers that are not saved, under each of their names.
    every = [key for key, _ in model.named_buffers(remove_duplicate=False)]
    parameters = len(list(model.named_parameters(remove_duplicate=False)))
    extra = sum(key.rpartition(".")[2] == "_extra_state" for key in saved)
    assert len(transient) == len(every) - (len(saved) - parameters - extra)
    # 4. All of it is exact.
    assert all(said.exact and said.presence is Presence.PRESENT for said in found.values())


@pytest.mark.parametrize("name", MODELS)
def test_non_persistent_names_are_those_that_a_state_dict_would_have(name: str) -> None:
    model = MODELS[name]()
    found = non_persistent_names(model)
    before = [(child, set(child._non_persistent_buffers_set)) for child in model.modules()]
    for child in model.modules():
        child._non_persistent_buffers_set.clear()
    everything = model.state_dict()
    for child, names in before:
        child._non_persistent_buffers_set.update(names)
    assert set(found) == set(everything) - set(model.state_dict())
    assert {id(child): names for child, names in before} == {
        id(child): set(child._non_persistent_buffers_set) for child in model.modules()
    }


def kinds(spec: ModelSpec) -> dict[str, Kind]:
    return {str(entry.name): entry.declared.kind for entry in spec.checkpoint.entries}


def entry_of(spec: ModelSpec, name: str) -> Entry:
    return next(entry for entry in spec.checkpoint.entries if entry.name == name)


def test_wrappers_rename_non_persistent_buffers_as_they_rename_all_else() -> None:
    model = nn.Sequential(checkpoint_wrapper(Block()))
    assert "0._checkpoint_wrapped_module.mask" in dict(model.named_buffers())
    assert list(kinds(describe_model(model, "m"))) == [
        "0.count",
        "0.fc.weight",
        "0.fc.bias",
        "0.mask",
        "0.rotary.inv_freq",
    ]


def test_one_tensor_in_two_slots_has_the_kind_of_each() -> None:
    found = kinds(describe_model(BufferTwice(), "m"))
    assert found == {"a.table": Kind.PERSISTENT_BUFFER, "b.table": Kind.NON_PERSISTENT_BUFFER}


def test_one_tensor_as_parameter_and_buffer_is_told_by_its_name() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(2))
    model.register_buffer("copy", model.weight)
    assert kinds(describe_model(model, "m")) == {
        "weight": Kind.PARAMETER,
        "copy": Kind.PERSISTENT_BUFFER,
    }


def test_a_renamed_tensor_with_two_kinds_is_not_guessed() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(2))
    model.register_buffer("copy", model.weight)

    def rename(module: nn.Module, state: Any, prefix: str, metadata: Any) -> None:
        state["other"] = state.pop("weight")

    model._register_state_dict_hook(rename)
    found = entry_of(describe_model(model, "m"), "other").declared
    assert (found.kind, found.basis, found.exact) == (Kind.UNKNOWN, Basis.NONE, False)


def test_what_a_hook_makes_is_not_claimed() -> None:
    model = nn.Linear(2, 2)

    def add(module: nn.Module, state: Any, prefix: str, metadata: Any) -> None:
        state["fused"] = torch.cat([state["weight"], state["bias"][:, None]], 1)
        state["format"] = "v2"

    model._register_state_dict_hook(add)
    spec = describe_model(model, "m")
    assert entry_of(spec, "fused").declared.kind is Kind.UNKNOWN
    assert entry_of(spec, "format").value is None
    assert kinds(spec)["weight"] is Kind.PARAMETER


def test_what_extra_state_returns_is_extra_state_though_it_is_a_buffer() -> None:
    assert kinds(describe_model(Extra(), "m")) == {
        "weight": Kind.PARAMETER,
        "scale": Kind.PERSISTENT_BUFFER,
        "_extra_state": Kind.EXTRA_STATE,
    }


def test_a_buffer_called_extra_state_is_a_buffer() -> None:
    model = nn.Module()
    model.register_buffer("_extra_state", torch.ones(2))
    assert kinds(describe_model(model, "m")) == {"_extra_state": Kind.PERSISTENT_BUFFER}


def test_ties_are_equal_storages_and_only_they() -> None:
    spec = describe_model(Tied(), "m")
    embed, head = entry_of(spec, "embed.weight").tensor, entry_of(spec, "head.weight").tensor
    assert embed is not None and embed == head
    block = [entry.tensor for entry in describe_model(Block(), "m").checkpoint.entries]
    assert len({tensor.storage for tensor in block if tensor}) == len(block)


def test_none_slots_and_lazy_parameters_are_listed() -> None:
    spec = describe_model(nn.Sequential(none_entries(), nn.LazyLinear(3)), "m")
    assert set(spec.none_names) == {"0.weight", "0.bias", "0.later", "0.scratch"}
    assert set(spec.lazy_names) == {"1.weight", "1.bias"}
    lazy = entry_of(spec, "1.weight")
    assert isinstance(lazy.value, CompositeTensor) and lazy.value.shape is None
    assert lazy.declared.kind is Kind.PARAMETER


def test_shapes_strides_and_dtypes_are_those_of_the_tensors() -> None:
    model = nn.Module()
    model.register_buffer("turned", torch.zeros(3, 5, dtype=torch.float16).t())
    model.register_buffer("part", torch.arange(10)[2:4])
    value = entry_of(describe_model(model, "m"), "turned").value
    assert isinstance(value, TensorInfo)
    assert (value.dtype.name, value.shape, value.stride) == ("float16", (5, 3), (1, 5))
    part = entry_of(describe_model(model, "m"), "part").tensor
    assert part is not None and (part.storage_offset, part.shape) == (2, (2,))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_that_are_not_strided_are_described() -> None:
    model = nn.Module()
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    model.register_buffer("nested", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))
    model.register_buffer("quantized", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))
    spec = describe_model(model, "m")
    assert set(kinds(spec).values()) == {Kind.PERSISTENT_BUFFER}
    sparse, nested = entry_of(spec, "sparse").value, entry_of(spec, "nested").value
    assert isinstance(sparse, CompositeTensor) and (sparse.layout, sparse.shape) == ("sparse_coo", (3, 3))
    assert isinstance(nested, CompositeTensor) and nested.shape is None


def test_modules_with_loading_of_their_own_are_named() -> None:
    linear = nn.Linear(2, 2)
    linear.register_load_state_dict_pre_hook(lambda *_: None)
    model = nn.ModuleDict({"a": Overrides(), "b": linear, "c": RenamingHook(), "d": Extra()})
    found = {own.path: own.what for own in describe_model(model, "m").custom_load}
    assert found == {
        "a": ("_load_from_state_dict",),
        "b": ("load_state_dict pre-hook",),
        "c": ("state_dict hook",),
        "d": ("get_extra_state",),
    }


def test_layers_of_torch_have_no_loading_of_their_own() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.LazyLinear(2), nn.LSTM(2, 2), nn.MultiheadAttention(4, 2))
    assert describe_model(model, "m").custom_load == ()


def test_versions_are_those_of_metadata() -> None:
    spec = describe_model(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)), "m")
    assert spec.checkpoint.module_versions == {(): {"": 1, "0": 2, "1": 1}}


class Raising(nn.Linear):
    def get_extra_state(self) -> Any:
        raise ValueError("no state today")


def test_a_hook_that_raises_is_the_users_and_is_said() -> None:
    with pytest.raises(ModelImportFailed, match="ValueError: no state today") as caught:
        describe_model(Raising(2, 2), "net.py:build")
    assert "get_extra_state" in caught.value.trace


def test_a_hook_that_fears_unknown_keys_leaves_the_module_as_it_was() -> None:
    model = Block()

    def strict(module: nn.Module, state: Any, prefix: str, metadata: Any) -> None:
        if "mask" in state:
            raise KeyError("mask")

    model._register_state_dict_hook(strict)
    assert set(non_persistent_names(model)) == {"mask", "rotary.inv_freq"}
    assert model._non_persistent_buffers_set == {"mask"}
