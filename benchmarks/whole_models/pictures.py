"""Models of pictures and of pictures with text, and spiking networks."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.whole_models.calls import Models, calls, first_that_builds, plain


def ultralytics() -> Models:
    import ultralytics

    def build(path: str) -> nn.Module:
        cls = ultralytics.RTDETR if "rtdetr" in path else ultralytics.YOLO
        return cls(path).model

    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    for path in sorted(folder.glob("*/*.yaml")):
        yield path.stem, functools.partial(build, str(path))


def segmentation_models() -> Models:
    names = "unet unetplusplus manet linknet fpn pspnet deeplabv3 deeplabv3plus pan upernet segformer dpt"
    for encoder in ("resnet18", "mobilenet_v2", "efficientnet-b0", "mit_b0", "tu-vit_tiny_patch16_224"):
        for name in names.split():
            arguments = {"arch": name, "encoder_name": encoder, "encoder_weights": None}
            for _, build in calls("segmentation_models_pytorch", {"create_model": arguments}):
                yield f"{name} {encoder}", build


def open_clip() -> Models:
    import open_clip

    for name in open_clip.list_models():
        yield name, functools.partial(open_clip.create_model, name, load_weights=False, device="meta")

    def small(cls: str, vision: dict[str, Any], text: dict[str, Any]) -> nn.Module:
        from open_clip import model

        with torch.device("cpu"):
            towers = model.CLIPVisionCfg(**vision), model.CLIPTextCfg(**text)
            return getattr(open_clip, cls)(embed_dim=32, vision_cfg=towers[0], text_cfg=towers[1])

    vision = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32}
    text = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}
    for cls in ("CLIP", "CustomTextCLIP"):
        yield f"small {cls}", functools.partial(small, cls, vision, text)
        resnet = {"layers": [1, 1, 1, 1], "width": 16, "image_size": 32}
        yield f"small {cls} resnet", functools.partial(small, cls, resnet, text)
        pooled = {**vision, "attentional_pool": True, "attn_pooler_heads": 2}
        yield f"small {cls} pool", functools.partial(small, cls, pooled, text)
        sin_cos = {**vision, "pos_embed_type": "sin_cos_2d", "ls_init_value": 0.1}
        no_causal = {**text, "no_causal_mask": True, "embed_cls": True}
        yield f"small {cls} sin_cos", functools.partial(small, cls, sin_cos, no_causal)


def torchvision() -> Models:
    import torchvision

    for name in torchvision.models.list_models():
        arguments = {"weights_backbone": None} if "/" not in name and "_fpn" in name else {}
        yield name, functools.partial(torchvision.models.get_model, name, weights=None, **arguments)


def spikingjelly() -> Models:
    from spikingjelly.activation_based import model, neuron, surrogate

    learnt = {"spiking_neuron": neuron.ParametricLIFNode, "surrogate_function": surrogate.ATan()}
    attempts: tuple[dict[str, Any], ...] = (
        {**learnt, "detach_reset": True},
        {**learnt, "detach_reset": True, "cnf": "ADD"},
        {"spiking_neuron": neuron.LIFNode},
        {"spiking_neuron": neuron.LIFNode, "channels": 16},
        {"spiking_neuron": neuron.IFNode, "cnf": "ADD"},
        {},
    )
    for found in pkgutil.iter_modules(model.__path__):
        module = importlib.import_module(f"{model.__name__}.{found.name}")
        for name, make in sorted(vars(module).items()):
            if getattr(make, "__module__", "") != module.__name__ or name.startswith("_"):
                continue
            is_network = isinstance(make, type) and issubclass(make, nn.Module) and name.endswith("Net")
            if is_network or (callable(make) and re.search(r"net|vgg|former|sdt_", name) and name.islower()):
                yield f"{found.name}.{name}", functools.partial(first_that_builds, make, *attempts)


def vit_pytorch() -> Models:
    common = {"image_size": 32, "patch_size": 8, "num_classes": 4, "dim": 32, "depth": 2, "heads": 2}
    yield from calls("vit_pytorch", {"ViT": {"mlp_dim": 64}, "SimpleViT": {"mlp_dim": 64}}, **common)


def denoising_diffusion() -> Models:
    module = "denoising_diffusion_pytorch"

    def diffusion(cls: str, **arguments: Any) -> nn.Module:
        found = importlib.import_module(module)
        one = "1D" in cls
        unet = found.Unet1D(dim=16, channels=4) if one else found.Unet(dim=16, **arguments)
        size = {"seq_length": 32} if one else {"image_size": 32}
        return getattr(found, cls)(unet, **size)

    for cls in ("GaussianDiffusion", "GaussianDiffusion1D"):
        yield cls, functools.partial(diffusion, cls)
    yield (
        "ElucidatedDiffusion",
        functools.partial(diffusion, "ElucidatedDiffusion", learned_sinusoidal_cond=True),
    )
    yield (
        "LearnedGaussianDiffusion",
        functools.partial(diffusion, "LearnedGaussianDiffusion", learned_variance=True),
    )


def kornia() -> Models:
    names = "HardNet HyNet SOSNet TFeat KeyNet LAFAffNetShapeEstimator OriNet"
    yield from calls("kornia.feature", {"LoFTR": {"pretrained": None}})
    yield from calls("kornia.feature", plain(names), pretrained=False)
    yield from calls("kornia.feature", plain("DISK DeDoDe"))
    yield from calls("kornia.contrib", plain("TinyViT"))
