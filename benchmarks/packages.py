"""Modules of packages that no rule was written for: every ``nn.Module`` class that can be built by guessing.

A package's submodules are imported, and each class of theirs that is a module is made with what the names
and annotations of its arguments suggest. What raises is counted like every model that does not build.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

PACKAGES = """
    asteroid asteroid_filterbanks axial_positional_embedding botorch denoising_diffusion_pytorch e3nn
    efficientnet_pytorch ema_pytorch escnn flair gpytorch kornia local_attention lpips mace monai nequip
    neuralforecast nflows normflows open_clip perceiver_pytorch piq pykeen pyro pytorch_forecasting
    pytorch_tabnet pytorchvideo recbole schnetpack segmentation_models_pytorch sentence_transformers snntorch
    spandrel speechbrain spikingjelly torch_geometric torchaudio torchmetrics torchrl torchsde torchvision
    torchxrayvision tsai ultralytics vector_quantize_pytorch vit_pytorch x_transformers zuko
""".split()
"""Packages of other authors, of other fields than the rules were tuned on."""

HELD_OUT_SOURCES = frozenset(
    """
    asteroid asteroid_filterbanks mace nequip neuralforecast nflows open_clip pykeen pyro recbole
    schnetpack sentence_transformers snntorch speechbrain spikingjelly torchaudio torchrl torchvision tsai
    zuko
    """.split()
)
"""Packages whose source the rules on source were never tuned on, nor their mistakes looked at."""

_SKIPPED = re.compile(
    r"(?:^|\.)(?:tests?|testing|examples?|scripts?|cli|__main__|conftest|setup|benchmarks?)(?:\.|$)"
)

_BY_NAME: tuple[tuple[str, Any], ...] = (
    # The first pattern that is found in an argument's name gives its value.
    ("irreps", "4x0e + 2x1o"),
    ("spatial_dims|^dims?$|ndim|dimensions$", 2),
    ("image_size|img_size|input_size|seq_len|max_len", 32),
    ("patch_size|kernel_size", 4),
    ("layers|depth|blocks|heads|levels|stages|groups|stride|order|n_rbf|num_codebooks|quantizers", 2),
    ("rate|dropout|prob|alpha|beta|eps|momentum|gamma|cutoff|r_max|decay|lr|tau|temperature|beta", 0.5),
    ("activation|act|fn$|func|nonlinearity|norm_layer", nn.ReLU()),
    ("module|net|model|encoder|decoder|backbone|layer$|base", nn.Linear(8, 8)),
    ("weight|mean|std|loc|scale|low|high|mu|sigma|tensor", torch.ones(8)),
    ("channels|features|size|num|dim|hidden|^in|^out|classes|width|units|^n_|^n$|vocab", 8),
)
_BY_ANNOTATION: tuple[tuple[str, Any], ...] = (
    ("irreps", "4x0e + 2x1o"),
    ("(?:sequence|list|tuple)", (8, 8)),
    ("bool", False),
    ("int", 8),
    ("float", 0.5),
    ("tensor", torch.ones(8)),
    ("module", nn.Linear(8, 8)),
)


def iter_classes(package: str) -> Iterator[type[nn.Module]]:
    """Every class of ``package`` that is a module, once, by its dotted name."""
    root = importlib.import_module(package)
    names = [package]
    names += [
        found.name
        for found in pkgutil.walk_packages(root.__path__, f"{package}.", onerror=lambda _: None)
        if not _SKIPPED.search(found.name)
    ]
    classes: dict[str, type[nn.Module]] = {}
    for name in names:
        try:
            module = importlib.import_module(name)
        except BaseException:  # noqa: BLE001 - an optional dependency is missing in as many ways as there are
            continue
        for member in list(vars(module).values()):
            if (
                isinstance(member, type)
                and issubclass(member, nn.Module)
                and member.__module__.partition(".")[0] == package
            ):
                classes[f"{member.__module__}.{member.__qualname__}"] = member
    yield from (classes[name] for name in sorted(classes))


def build(cls: type[nn.Module]) -> nn.Module:
    """An instance of ``cls``, with guesses for what has no default.

    Raises:
        Exception: whatever the class raises, or ``ValueError`` if it has no entries.
    """
    model = _call(cls)
    if not model.state_dict():
        raise ValueError("no entries")
    return model


def _call(cls: type[nn.Module]) -> nn.Module:
    arguments = {}
    positional = []
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is not parameter.empty:
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(_guess(parameter))
        else:
            arguments[parameter.name] = _guess(parameter)
    return cls(*positional, **arguments)


def _guess(parameter: inspect.Parameter) -> Any:
    annotation = parameter.annotation
    text = "" if annotation is parameter.empty else str(getattr(annotation, "__name__", annotation)).lower()
    by_name = next((value for pattern, value in _BY_NAME if re.search(pattern, parameter.name.lower())), None)
    by_annotation = next((value for pattern, value in _BY_ANNOTATION if re.search(pattern, text)), None)
    if by_annotation is not None and type(by_annotation) is not type(by_name):
        return by_annotation
    return 8 if by_name is None else by_name
