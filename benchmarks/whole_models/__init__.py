"""Whole models of packages: how to make each, in a line or two, small where its library lets one choose.

A package has one function in ``_MODELS``, which gives (name, how to build it). Nothing of a package is
imported before its models are asked for; one that does not build is counted, as everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from benchmarks.whole_models import data, pictures, science, sound
from benchmarks.whole_models.calls import Build, Models

_LARGE = frozenset({"open_clip"})  # built on the meta device, without values

_MODELS: dict[str, Callable[[], Models]] = {
    "asteroid": sound.asteroid,
    "botorch": science.botorch,
    "denoising_diffusion_pytorch": pictures.denoising_diffusion,
    "e3nn": science.e3nn,
    "kornia": pictures.kornia,
    "mace": science.mace,
    "nequip": science.nequip,
    "neuralforecast": data.neuralforecast,
    "nflows": science.nflows,
    "normflows": science.normflows,
    "open_clip": pictures.open_clip,
    "pykeen": data.pykeen,
    "pyro": science.pyro,
    "recbole": data.recbole,
    "schnetpack": science.schnetpack,
    "segmentation_models_pytorch": pictures.segmentation_models,
    "sentence_transformers": data.sentence_transformers,
    "snntorch": data.snntorch,
    "speechbrain": sound.speechbrain,
    "spikingjelly": pictures.spikingjelly,
    "torch_geometric": data.torch_geometric,
    "torchaudio": sound.torchaudio,
    "torchvision": pictures.torchvision,
    "tsai": data.tsai,
    "ultralytics": pictures.ultralytics,
    "vit_pytorch": pictures.vit_pytorch,
    "zuko": science.zuko,
}


def iter_models(package: str) -> Iterator[tuple[str, Build, str]]:
    """The name of each whole model of ``package``, how to build it, and on which device."""
    if package not in _MODELS:
        return
    device = "meta" if package in _LARGE else "cpu"
    try:
        for name, build in _MODELS[package]():
            yield name.replace("/", "-"), build, device
    except ImportError as error:
        print(f"{package}: no whole models: {error}", file=sys.stderr)
