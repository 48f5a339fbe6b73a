"""Models of torch that are clean, and what ``lint`` finds in one that a test builds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

from ckpttool.torch_bridge.lint.lint import lint_model, make_example
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.values.lint import LintReport


def source(factory: Callable[..., Any], **arguments: Any) -> ModelSource:
    return ModelSource("here:build", factory, arguments)


def lint(factory: Callable[..., Any], *inputs: tuple[tuple[int, ...], str]) -> LintReport:
    return lint_model(source(factory), make_example(inputs) if inputs else None)


def found(report: LintReport) -> list[tuple[str, str]]:
    return [(finding.code, finding.name) for finding in report.findings]


def shared_activation() -> nn.Module:
    activation = nn.ReLU()
    return nn.Sequential(nn.Linear(2, 2), activation, nn.Linear(2, 2), activation)


STOCK: dict[str, Callable[[], nn.Module]] = {
    "Identity": nn.Identity,
    "Linear": partial(nn.Linear, 4, 3),
    "Linear without bias": partial(nn.Linear, 4, 3, bias=False),
    "Linear float64": partial(nn.Linear, 4, 3, dtype=torch.float64),
    "Linear bfloat16": partial(nn.Linear, 4, 3, dtype=torch.bfloat16),
    "Linear complex64": partial(nn.Linear, 4, 3, dtype=torch.complex64),
    "Bilinear": partial(nn.Bilinear, 2, 3, 4),
    "PReLU": nn.PReLU,
    **{kind: partial(getattr(nn, kind), 3, 4, 3) for kind in ("Conv1d", "Conv2d", "Conv3d")},
    **{f"ConvTranspose{dims}d": partial(getattr(nn, f"ConvTranspose{dims}d"), 3, 4, 3) for dims in (1, 2, 3)},
    **{f"BatchNorm{dims}d": partial(getattr(nn, f"BatchNorm{dims}d"), 4) for dims in (1, 2, 3)},
    "BatchNorm1d without affine": partial(nn.BatchNorm1d, 4, affine=False),
    "SyncBatchNorm": partial(nn.SyncBatchNorm, 4),
    "InstanceNorm2d": partial(nn.InstanceNorm2d, 4),
    "InstanceNorm2d with statistics": partial(nn.InstanceNorm2d, 4, affine=True, track_running_stats=True),
    "LayerNorm": partial(nn.LayerNorm, 4),
    "LayerNorm without affine": partial(nn.LayerNorm, 4, elementwise_affine=False),
    "RMSNorm": partial(nn.RMSNorm, 4),
    "GroupNorm": partial(nn.GroupNorm, 2, 4),
    "Embedding": partial(nn.Embedding, 9, 4, padding_idx=0),
    "EmbeddingBag": partial(nn.EmbeddingBag, 9, 4),
    "LSTM": partial(nn.LSTM, 3, 4, 2, bidirectional=True),
    "LSTM with projection": partial(nn.LSTM, 3, 4, proj_size=2),
    "GRU": partial(nn.GRU, 3, 4, 2),
    "RNN without bias": partial(nn.RNN, 3, 4, bias=False),
    "LSTMCell": partial(nn.LSTMCell, 3, 4),
    "MultiheadAttention": partial(nn.MultiheadAttention, 8, 2),
    "MultiheadAttention of other sizes": partial(
        nn.MultiheadAttention, 8, 2, kdim=4, vdim=4, add_bias_kv=True
    ),
    "Transformer": partial(nn.Transformer, 8, 2, 1, 1, 16),
    "TransformerEncoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2),
    "Sequential": lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Dropout()),
    "ModuleList": lambda: nn.ModuleList([nn.Linear(2, 2), nn.ModuleList([nn.Conv1d(2, 2, 1)])]),
    "ModuleDict": lambda: nn.ModuleDict({"a": nn.Linear(2, 2)}),
    "ParameterList": lambda: nn.ParameterList([torch.randn(2), torch.randn(3)]),
    "ParameterDict": lambda: nn.ParameterDict({"a": torch.randn(2)}),
    "one activation used twice": shared_activation,
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(3, 2)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 2)),
    "CrossEntropyLoss": lambda: nn.CrossEntropyLoss(weight=torch.ones(3)),
    "BCEWithLogitsLoss": lambda: nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)),
    "AdaptiveLogSoftmaxWithLoss": partial(nn.AdaptiveLogSoftmaxWithLoss, 8, 20, [5, 10]),
    "AveragedModel": lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)),
    "DataParallel": lambda: nn.DataParallel(nn.Linear(2, 2)),
    "compile": lambda: torch.compile(nn.Linear(2, 2)),  # type: ignore[return-value]
}
