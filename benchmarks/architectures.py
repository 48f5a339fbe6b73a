"""Model architectures of the installed libraries, built on the meta device, with the truth about each entry.

The truth is what the modules registered: their own ``_parameters``, ``_buffers`` and
``_non_persistent_buffers_set``, matched with ``state_dict(keep_vars=True)`` by object identity, so
that a state_dict hook that renames keys does not matter.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from benchmarks import packages, whole_models


class Architecture(NamedTuple):
    """One model that can be built. ``family`` is what is kept out of tuning as a whole."""

    library: str
    family: str
    name: str
    build: Callable[[], nn.Module]
    device: str = "meta"


class Truth(NamedTuple):
    """What a model's modules say: ``kinds`` by key of the state_dict, missing buffers by their path.

    ``root_class`` is the dotted name of the model's own class; ``package`` is what its source is asked
    for, which need not be where that class lies (``torch.nn`` gives many a library its ``Sequential``).
    """

    kinds: dict[str, str]  # "parameter" or "persistent_buffer"; other keys are extra state
    non_persistent: tuple[str, ...]
    root_class: str = ""
    package: str = ""


def truth_of(model: nn.Module, package: str = "") -> Truth:
    """The kind of every entry of ``model.state_dict()`` and the buffers that are left out of it."""
    registered: dict[int, str] = {}
    non_persistent = []
    for path, module in model.named_modules(remove_duplicate=False):
        # A buffer is written first, so that a parameter of the same identity wins: none is known.
        for name, buffer in module._buffers.items():
            if buffer is None:
                continue
            if name in module._non_persistent_buffers_set:
                non_persistent.append(f"{path}.{name}" if path else name)
            registered.setdefault(id(buffer), "persistent_buffer")
        for parameter in module._parameters.values():
            if parameter is not None:
                registered[id(parameter)] = "parameter"
    state = model.state_dict(keep_vars=True)
    kinds = {key: registered[id(value)] for key, value in state.items() if id(value) in registered}
    cls = type(model)
    return Truth(kinds, tuple(non_persistent), f"{cls.__module__}.{cls.__qualname__}", package)


# ------------------------------------------------------------------------------------------------------ stubs


class _StubMeta(type):
    """A class whose every attribute is a string: enough for tables keyed by members of an enum."""

    def __getattr__(cls, name: str) -> str:
        _refuse_dunder(name)
        return name


class _StubFinder:
    """Answers ``import PACKAGE...`` with empty modules, for a package that a model takes nothing from.

    timm imports torchvision for its data loading; torchvision's compiled operators do not load
    beside a CPU build of torch from elsewhere. No architecture takes a layer from it but
    FrozenBatchNorm2d, which is used by a helper that freezes a finished model, not by a model.
    """

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name.partition(".")[0] != self.package:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__version__ = "0.28.0"  # type: ignore[attr-defined]
        module.__getattr__ = _stub_class  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _stub_class(name: str) -> type:
    _refuse_dunder(name)
    return _StubMeta(name, (), {})


def _refuse_dunder(name: str) -> None:
    if name.startswith("__"):
        raise AttributeError(name)


def _stub_torchvision() -> None:
    """Import torchvision: as it is, else with its compiled operators declared, else stubs in its place."""
    for name in ("", "nms", "qnms"):
        if name and importlib.util.find_spec("torchvision"):
            torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float iou) -> Tensor")
        try:
            import torchvision  # noqa: F401
        except (ImportError, RuntimeError):
            for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
                del sys.modules[module]
        else:
            return
    sys.meta_path.append(_StubFinder("torchvision"))  # type: ignore[arg-type]


def _restore_torch_names() -> None:
    """Names that torch has lost and that a library, which builds otherwise, still imports."""
    from torch.utils.data import dataloader

    if not hasattr(dataloader, "T_co"):  # schnetpack
        dataloader.T_co = TypeVar("T_co", covariant=True)  # type: ignore[attr-defined, misc]


# -------------------------------------------------------------------------------------------- timm, diffusers


def _timm() -> Iterator[Architecture]:
    _stub_torchvision()
    import timm

    for name in timm.list_models():
        module = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]

        def build(name: str = name) -> nn.Module:
            return timm.create_model(name, pretrained=False)

        yield Architecture("timm", module, name, build)


def _diffusers() -> Iterator[Architecture]:
    _stub_torchvision()
    import diffusers
    import diffusers.models as models
    from diffusers import ModelMixin

    for name in sorted(set(dir(models))):
        try:
            cls = getattr(models, name)
        except Exception:  # noqa: BLE001 - a lazy import fails in as many ways as there are dependencies
            continue
        if isinstance(cls, type) and issubclass(cls, ModelMixin) and cls is not ModelMixin:
            family = cls.__module__.rpartition(".")[2]
            yield Architecture("diffusers", family, name, cls)
    del diffusers


# ----------------------------------------------------------------------------------------------- transformers

_DEPTHS = frozenset(
    {
        "num_hidden_layers",
        "num_layers",
        "n_layer",
        "n_layers",
        "encoder_layers",
        "decoder_layers",
        "num_encoder_layers",
        "num_decoder_layers",
        "num_block_layers",
        "encoder_num_hidden_layers",
        "decoder_num_hidden_layers",
    }
)
_DEPTH = 2
_EXPERTS = frozenset({"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"})


def _shrink(config: Any, depth: int) -> None:
    """Cut ``config`` and the configs inside it to ``depth`` layers and 16 experts."""
    for name, value in list(vars(config).items()):
        if name in _DEPTHS and isinstance(value, int) and value > depth:
            setattr(config, name, depth)
        elif name == "layer_types" and isinstance(value, list):
            # Keep one layer of every type where two layers can.
            kinds = sorted(set(value), key=value.index)
            setattr(config, name, (kinds + value)[:depth])
        elif name in _EXPERTS and isinstance(value, int) and value > 16:
            setattr(config, name, 16)
        elif hasattr(value, "to_dict") and hasattr(value, "model_type"):
            _shrink(value, depth)


def _build_transformers(config_class: type[Any], model_class: type[nn.Module]) -> nn.Module:
    failure: Exception | None = None
    for depth in (_DEPTH, 4, 0):
        config = config_class()
        if depth:
            _shrink(config, depth)
        try:
            return model_class(config)
        except Exception as error:  # noqa: BLE001 - any failure to build means: try the next depth
            failure = failure or error
    raise RuntimeError(f"{type(failure).__name__}: {failure}"[:200])


def _transformers() -> Iterator[Architecture]:
    _stub_torchvision()  # before transformers asks whether timm, and so torchvision, is there
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    transformers.logging.set_verbosity_error()
    mappings = [
        getattr(modeling_auto, name)
        for name in sorted(dir(modeling_auto))
        if name.endswith("MAPPING_NAMES") and name != "CONFIG_MAPPING_NAMES"
    ]
    for model_type, config_name in sorted(CONFIG_MAPPING_NAMES.items()):
        names: set[str] = set()
        for mapping in mappings:
            found = mapping.get(model_type, ())
            names.update((found,) if isinstance(found, str) else found)
        for name in sorted(names):

            def build(config_name: str = config_name, name: str = name) -> nn.Module:
                config_class = getattr(transformers, config_name)
                return _build_transformers(config_class, getattr(transformers, name))

            yield Architecture("transformers", model_type, name, build)


# --------------------------------------------------------------------------------------------------- torch.nn


def _torch_nn() -> Iterator[Architecture]:
    from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
    from torch.optim.swa_utils import AveragedModel

    def linear() -> nn.Module:
        return nn.Linear(8, 8)

    def stack() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))

    builders: dict[str, Callable[[], nn.Module]] = {
        "Linear": linear,
        "Bilinear": lambda: nn.Bilinear(4, 4, 4),
        "Embedding": lambda: nn.Embedding(10, 4),
        "EmbeddingBag": lambda: nn.EmbeddingBag(10, 4),
        "PReLU": lambda: nn.PReLU(),
        "LSTM": lambda: nn.LSTM(4, 4, 2, bidirectional=True, proj_size=2),
        "GRU": lambda: nn.GRU(4, 4),
        "RNN": lambda: nn.RNN(4, 4),
        "LSTMCell": lambda: nn.LSTMCell(4, 4),
        "MultiheadAttention": lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True),
        "MultiheadAttention (kdim)": lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=4),
        "Transformer": lambda: nn.Transformer(8, 2, 2, 2, 8),
        "GroupNorm": lambda: nn.GroupNorm(2, 4),
        "LayerNorm": lambda: nn.LayerNorm(4),
        "RMSNorm": lambda: nn.RMSNorm(4),
        "BatchNorm1d": lambda: nn.BatchNorm1d(4),
        "BatchNorm2d": lambda: nn.BatchNorm2d(4),
        "BatchNorm2d (affine=False)": lambda: nn.BatchNorm2d(4, affine=False),
        "BatchNorm2d (no stats)": lambda: nn.BatchNorm2d(4, track_running_stats=False),
        "SyncBatchNorm": lambda: nn.SyncBatchNorm(4),
        "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        "ConvTranspose2d": lambda: nn.ConvTranspose2d(4, 4, 3),
        "CrossEntropyLoss": lambda: nn.CrossEntropyLoss(weight=torch.ones(4)),
        "BCEWithLogitsLoss": lambda: nn.BCEWithLogitsLoss(pos_weight=torch.ones(4)),
        "AdaptiveLogSoftmaxWithLoss": lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10]),
        "spectral_norm": lambda: spectral_norm(linear()),
        "weight_norm": lambda: weight_norm(linear()),
        "parametrizations.weight_norm": lambda: parametrizations.weight_norm(linear()),
        "parametrizations.spectral_norm": lambda: parametrizations.spectral_norm(linear()),
        "parametrizations.orthogonal": lambda: parametrizations.orthogonal(linear()),
        "prune": lambda: prune.l1_unstructured(linear(), "weight", 0.5),
        "AveragedModel": lambda: AveragedModel(stack()),
        "AveragedModel (use_buffers)": lambda: AveragedModel(stack(), use_buffers=True),
    }
    for name, build in builders.items():
        yield Architecture("torch.nn", "torch.nn", name, build)


# ----------------------------------------------------------------------------------------------------- others


def _package(package: str) -> Iterator[Architecture]:
    """The whole models that somebody has written down how to make, then every class that guessing builds."""
    _stub_torchvision()
    _restore_torch_names()
    for name, build, device in whole_models.iter_models(package):
        yield Architecture(package, "models", name, build, device)
    for cls in packages.iter_classes(package):
        name = f"{cls.__module__}.{cls.__qualname__}"
        yield Architecture(package, package, name, functools.partial(packages.build, cls), "cpu")


LIBRARIES: dict[str, Callable[[], Iterator[Architecture]]] = {
    "torch.nn": _torch_nn,
    "timm": _timm,
    "transformers": _transformers,
    "diffusers": _diffusers,
    **{package: functools.partial(_package, package) for package in packages.PACKAGES},
}


def iter_architectures(libraries: tuple[str, ...]) -> Iterator[Architecture]:
    """Every architecture of the installed ones among ``libraries``."""
    for library in libraries:
        if library == "torch.nn" or importlib.util.find_spec(library):
            yield from LIBRARIES[library]()
