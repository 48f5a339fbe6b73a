"""The table of torch's classes against torch itself: every class of torch.nn, built in many ways."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import pkgutil
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.ao.nn
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ckpttool.kinds.source.torch_classes import (
    SAME_MODULE,
    TorchClass,
    find,
    gives_same_module,
    is_buffer,
    is_parameter,
    torch_classes,
)

OTHERS = ("intrinsic", "qat", "quantizable", "quantized", "utils")
"""Modules of torch.nn that stand for those of torch.ao, and functions."""


def classes_with_names(package: ModuleType, leave: tuple[str, ...] = ()) -> dict[type[nn.Module], set[str]]:
    """Every module class that a module of the package holds, with all names that it is imported by."""
    found: dict[type[nn.Module], set[str]] = {}
    prefix = f"{package.__name__}."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = [module.name for module in pkgutil.walk_packages(package.__path__, prefix)]
        stay = [name for name in names if not name.removeprefix(prefix).startswith(leave)]
        for module in [package, *map(importlib.import_module, stay)]:
            for name, value in vars(module).items():
                if inspect.isclass(value) and issubclass(value, nn.Module):
                    found.setdefault(value, set()).add(f"{module.__name__}.{name}")
    return found


# The wrapper for modules of C++ is left out.
NAMES = {of: names for of, names in classes_with_names(nn, OTHERS).items() if of.__module__ != "torch.nn.cpp"}
NAMES[AveragedModel] = {"torch.optim.swa_utils.AveragedModel"}


def encoder_layer(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 8, **options)


def decoder_layer(**options: Any) -> nn.Module:
    return nn.TransformerDecoderLayer(8, 2, 8, **options)


REQUIRED: dict[str, Any] = {
    "embed_dim": 8, "num_heads": 2, "num_groups": 2, "num_channels": 4, "normalized_shape": (4,),
    "in_channels": 4, "out_channels": 4, "kernel_size": 2, "num_features": 4, "in_features": 8,
    "out_features": 4, "in1_features": 3, "in2_features": 4, "num_embeddings": 5, "embedding_dim": 4,
    "num_classes": 4, "cutoffs": [2, 3], "n_classes": 6,
    "mode": "LSTM", "input_size": 3, "hidden_size": 4, "num_chunks": 4,
    "bias": True, "d_model": 8, "nhead": 2, "num_layers": 2, "padding": 1, "value": 0.5, "size": 2,
    "threshold": 0.1, "output_size": 2, "output_ratio": None, "upscale_factor": 2, "downscale_factor": 2,
    "groups": 1, "dim": 1, "unflattened_size": (2, 2), "norm_type": 2, "lower": 0.1, "stride": (1,),
    "dilation": (1,), "transposed": False, "output_padding": (0,), "padding_mode": "zeros", "lambd": 0.5,
}  # fmt: skip

# What can be said to a constructor, one list of values a name; each class is built with all combinations of
# those that it takes.
OPTIONS: dict[str, list[Any]] = {
    "bias": [True, False],
    "affine": [True, False],
    "track_running_stats": [True, False],
    "elementwise_affine": [True, False],
    "head_bias": [True, False],
    "batch_first": [True, False],
    "bidirectional": [True, False],
    "add_bias_kv": [False, True],
    "kdim": [None, 5],
    "vdim": [None, 6],
    "num_layers": [1, 2],
    "proj_size": [0, 2],
    "norm": [None, nn.LayerNorm(8)],
    "activation": ["relu", nn.PReLU()],
    "norm_first": [False, True],
    "weight": [None, torch.ones(4)],
    "pos_weight": [None, torch.ones(4)],
    "_random_samples": [None, torch.ones(1, 1, 2)],
    "num_encoder_layers": [1],
    "num_decoder_layers": [1],
    "dim_feedforward": [8],
    "custom_encoder": [None, nn.Linear(8, 8)],
    "custom_decoder": [None, nn.Linear(8, 8)],
}
MODULES = {
    "module": nn.Linear(2, 3),
    "model": nn.Linear(2, 3),
    "encoder_layer": encoder_layer(),
    "decoder_layer": decoder_layer(),
}
ARGUMENTS: dict[str, list[tuple[Any, ...]]] = {
    "Sequential": [(), (nn.ReLU(), nn.Linear(2, 2)), (OrderedDict(any=nn.ReLU()),)],
    "ModuleList": [([nn.ReLU(), nn.Linear(2, 2)],)],
    "ModuleDict": [({"any": nn.ReLU()},)],
    "Container": [()],
    "ParameterList": [([torch.ones(2), nn.Parameter(torch.ones(2))],)],
    "_ConvNd": [(4, 4, (2,), (1,), (0,), (1,), False, (0,), 1, bias, "zeros") for bias in (True, False)],
    "_ConvTransposeNd": [
        (4, 4, (2,), (1,), (0,), (1,), True, (0,), 1, bias, "zeros") for bias in (True, False)
    ],
    "ParameterDict": [({"any": torch.ones(2)},)],
}
"""Arguments of the classes whose signature tells nothing."""


def parameters_of(of: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """What a constructor takes by name."""
    of_rnn = issubclass(of, nn.RNNBase)
    found = inspect.signature((nn.RNNBase if of_rnn else of).__init__).parameters.values()
    left_out = {"self", *(["mode"] if of_rnn and of is not nn.RNNBase else [])}
    left_out |= {"proj_size"} if of in (nn.RNN, nn.GRU) else set()
    return {one.name: one for one in found if one.kind.name[:4] != "VAR_" and one.name not in left_out}


def calls(of: type[nn.Module]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments to build a class with, all combinations of what it takes."""
    if of.__name__ in ARGUMENTS:
        yield from ((arguments, {}) for arguments in ARGUMENTS[of.__name__])
        return
    taken = parameters_of(of)
    given = {name: MODULES[name] for name in taken.keys() & MODULES.keys()}
    given |= {
        name: REQUIRED[name]
        for name, parameter in taken.items()
        if name not in given
        and (parameter.default is parameter.empty or name in ("output_size", "num_layers"))
    }
    varied = {name: OPTIONS[name] for name in OPTIONS if name in taken}
    for values in itertools.product(*varied.values()):
        yield (), given | dict(zip(varied, values, strict=True))


@functools.cache
def builds(of: type[nn.Module]) -> list[nn.Module]:
    """A class built in every way that it allows; some combinations it refuses."""
    built = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for arguments, options in calls(of):
            try:
                built.append(of(*arguments, **options))
            except (ValueError, AssertionError, RuntimeError):
                continue
    assert built, of
    return built


def stands_for(pattern: str, name: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\#", "#").replace("#", r"\d+"), name) is not None


def registered(module: nn.Module) -> tuple[set[str], set[str], set[str]]:
    """Parameters, persistent and other buffers of the module itself, without those that are None."""
    parameters = {name for name, value in module._parameters.items() if value is not None}
    buffers = {name for name, value in module._buffers.items() if value is not None}
    return (
        parameters,
        buffers - module._non_persistent_buffers_set,
        buffers & module._non_persistent_buffers_set,
    )


def children(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module._modules.items() if child is not None}


def name_of(of: type[nn.Module]) -> str:
    return f"{of.__module__}.{of.__qualname__}"


def row_of(of: type[nn.Module]) -> TorchClass:
    known = find(name_of(of))
    assert known is not None, of
    return known


BUILT_ELSEWHERE = ("DistributedDataParallel", "DistributedDataParallelCPU")
MIXINS = ("_ConvTransposeMixin", "_LazyConvXdMixin", "_LazyNormBase", "LazyModuleMixin")
BUILT = sorted((of for of in NAMES if of.__name__ not in (*BUILT_ELSEWHERE, *MIXINS)), key=name_of)


def test_every_module_class_of_torch_nn_has_a_row() -> None:
    assert sorted(name_of(of) for of in NAMES if find(name_of(of)) is None) == []
    assert len(NAMES) > 150


def test_every_row_is_a_class_of_torch_and_has_one_place() -> None:
    known = torch_classes()
    assert all(known[name] is row and row.name == name for name, row in known.items())
    written = {of.__name__ for of in NAMES} | {"LazyModuleMixin", "_LazyConvXdMixin"}
    # Older releases lack what newer ones brought.
    new = {"RMSNorm", "LinearCrossEntropyLoss"}
    assert {name.rpartition(".")[2] for name in known} - new == written - new


def test_a_class_is_found_under_every_name_that_it_is_imported_by() -> None:
    for of, names in NAMES.items():
        for name in names:
            assert find(name) is row_of(of), name
    for name in ("torch.nn.Linear", "torch.nn.modules.Linear", "torch.nn.modules.linear.Linear"):
        assert find(name) is torch_classes()["torch.nn.Linear"]
    assert find("torch.nn.parallel.DataParallel") is find("torch.nn.DataParallel") is not None


def test_what_is_no_class_of_the_table_is_not_found() -> None:
    quantized = classes_with_names(torch.ao.nn)
    assert len(quantized) > 50
    for of, names in quantized.items():
        assert not [name for name in names if find(name)]
        assert of in NAMES or find(name_of(of)) is None
    for name in (
        "", "torch", "torch.nn", "nn.Linear", "Linear", "torch.Linear", "torch.nn.functional.Linear",
        "torch.nn.linear",
        "torch.nn.utils.Linear", "torch.nn.modules", "torch.nn.modules.linear", "torch.nn.modules.a.b.Linear",
        "torch.nn.Linear.forward", "torch.nn.quantized.Linear", "my.torch.nn.Linear",
        "torch.nn.intrinsic.qat.Linear",
    ):  # fmt: skip
        assert find(name) is None, name


@pytest.mark.parametrize("of", BUILT, ids=lambda of: of.__name__)
def test_a_row_says_what_the_class_registers(of: type[nn.Module]) -> None:
    """Nothing that the row lacks, nothing sure that a build lacks, what is optional seen and missed."""
    row, all_builds = row_of(of), builds(of)
    seen = [registered(module) for module in all_builds]
    for kind, sure, optional in (
        (0, row.parameters, row.optional_parameters),
        (1, row.buffers, row.optional_buffers),
        (2, row.non_persistent, ()),
    ):
        for names in (one[kind] for one in seen):
            assert names >= set(sure)
            if not (kind == 0 and row.container == "parameters"):
                stray = [n for n in names if not any(stands_for(p, n) for p in (*sure, *optional))]
                assert stray == []
        for pattern in optional:
            hits = [any(stands_for(pattern, name) for name in one[kind]) for one in seen]
            assert any(hits), pattern
            # A number that is always there is listed as sure beside its pattern.
            assert not all(hits) or any(stands_for(pattern, name) for name in sure), pattern


@pytest.mark.parametrize("of", BUILT, ids=lambda of: of.__name__)
def test_a_row_says_which_children_the_class_has(of: type[nn.Module]) -> None:
    row, all_builds = row_of(of), builds(of)
    named = dict(row.children)
    for module in all_builds:
        for name, child in children(module).items():
            if row.container and name not in named:
                assert name.isdecimal() or isinstance(all_builds[0], nn.ModuleDict | nn.Sequential)
            else:
                assert named[name] in ("", row_of(type(child)).name), name
    assert named.keys() <= {name for module in all_builds for name in children(module)}


def test_containers_are_of_the_kind_that_the_row_says() -> None:
    kinds = {"sequential": nn.Sequential, "list": nn.ModuleList, "dict": nn.ModuleDict}
    for of in BUILT:
        kind = row_of(of).container
        if kind in kinds:
            assert issubclass(of, kinds[kind]) or of.__name__ == "Container"
        else:
            assert (kind == "parameters") == issubclass(of, nn.ParameterList | nn.ParameterDict)
            assert not issubclass(of, tuple(kinds.values()))


def test_losses_are_those_of_the_module_of_losses() -> None:
    assert all(row_of(of).loss == (of.__module__ == "torch.nn.modules.loss") for of in NAMES)


def test_lazy_modules_have_the_same_entries_once_they_are_sized() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = nn.Sequential(nn.LazyConv2d(4, 2), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))
    before = [(row_of(type(module)), registered(module)) for module in lazy]
    lazy(torch.ones(2, 3, 4, 4))
    for (row, names), module in zip(before, lazy, strict=True):
        assert row_of(type(module))[1:] == row[1:]
        assert registered(module) == names


def test_distributed_data_parallel_has_one_child() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        module = nn.parallel.DistributedDataParallel(nn.BatchNorm1d(2))
    finally:
        torch.distributed.destroy_process_group()
    assert registered(module) == (set(), set(), set())
    assert set(children(module)) == {"module"}
    for name in BUILT_ELSEWHERE:
        row = find(f"torch.nn.parallel.{name}")
        assert row is not None and row[1:] == row_of(nn.DataParallel)[1:]
        assert row.children == (("module", ""),)


def test_parameters_and_buffers_by_every_name() -> None:
    places = ("torch.nn", "torch.nn.parameter", "torch.nn.modules.module", "torch.nn.modules.linear")
    for place in places:
        assert is_parameter(f"{place}.Parameter") and is_parameter(f"{place}.UninitializedParameter")
        assert is_buffer(f"{place}.Buffer") and is_buffer(f"{place}.UninitializedBuffer")
        assert not is_parameter(f"{place}.Buffer") and not is_buffer(f"{place}.Parameter")
    for name in ("torch.Parameter", "torch.Tensor", "Parameter", "torch.nn.ParameterList", "my.nn.Parameter"):
        assert not is_parameter(name) and not is_buffer(name)
    # What torch itself makes of them, under the names that it has in this release.
    for of in (nn.Parameter, nn.UninitializedParameter, nn.Buffer, nn.UninitializedBuffer):
        module = nn.Module()
        module.entry = of()
        name = f"{of.__module__}.{of.__qualname__}"
        assert is_parameter(name) == ("entry" in module._parameters)
        assert is_buffer(name) == ("entry" in module._buffers) == (not is_parameter(name))


def resolve(dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        return getattr(resolve(module), name)


def test_functions_that_give_back_the_module_are_there_and_do() -> None:
    mask = {"mask": torch.ones(4, 4)}
    amount = {"name": "weight", "amount": 1}
    asked: dict[str, tuple[Any, ...]] = {
        "copy": (), "deepcopy": (), "compile": (), "script": (), "convert_sync_batchnorm": (),
        "weight_norm": (),
        "spectral_norm": (), "orthogonal": (), "identity": ("weight",), "checkpoint_wrapper": (),
        "register_parametrization": ("weight", nn.Identity()), "remove_parametrizations": ("weight",),
        "remove_weight_norm": (), "remove_spectral_norm": (), "remove": ("weight",),
        "trace": (torch.ones(1, 4),), "trace_module": ({"forward": torch.ones(1, 4)},), "freeze": (),
        "optimize_for_inference": (),
        "convert_conv2d_weight_memory_format": (torch.channels_last,),
        "convert_conv3d_weight_memory_format": (torch.channels_last_3d,),
    }  # fmt: skip
    before = {
        "remove_weight_norm": "torch.nn.utils.weight_norm",
        "remove_spectral_norm": "torch.nn.utils.spectral_norm",
        "remove_parametrizations": "torch.nn.utils.parametrizations.weight_norm",
    }
    other = "torch.jit torch.compile torch.distributed copy".split()  # the same class, by another object
    for dotted in SAME_MODULE.split():
        name = dotted.rpartition(".")[2]
        function, module = resolve(dotted), nn.Linear(4, 4)
        if name == "fully_shard":  # needs a process group
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name in before:
                module = resolve(before[name])(module)
            if name == "remove":
                module = nn.utils.prune.identity(module, "weight")
            if name in ("freeze", "optimize_for_inference"):
                module = torch.jit.script(module.eval())
            if name == "custom_from_mask":
                back = function(module, "weight", **mask)
            elif name.endswith("structured"):
                more = {"dim": 0} if "_structured" in name else {}
                back = function(module, **amount, **more, **({"n": 2} if name == "ln_structured" else {}))
            else:
                back = function(module, *asked[name])
        assert isinstance(back, nn.Module)
        assert back is module or dotted.startswith(tuple(other)), dotted
        assert gives_same_module(dotted)


def test_other_functions_do_not_give_back_their_module() -> None:
    assert gives_same_module("torch.nn.modules.batchnorm.SyncBatchNorm.convert_sync_batchnorm")
    assert gives_same_module("torch.nn.modules.SyncBatchNorm.convert_sync_batchnorm")
    for name in (
        "torch.nn.Linear",
        "torch.nn.utils",
        "compile",
        "torch.nn.utils.clip_grad_norm_",
        "torch.nn.init",
    ):
        assert not gives_same_module(name)
