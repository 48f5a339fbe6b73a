"""Models that more than one test module of ``verify`` loads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.support.verifying import DEVICES

on_devices = pytest.mark.parametrize("device", DEVICES)


class Plain(nn.Module):
    """A parameter, a persistent buffer and a non-persistent one that the constructor always makes alike."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_buffer("scale", torch.rand(4))
        self.register_buffer("table", torch.arange(6.0), persistent=False)


class Rope(nn.Module):
    def __init__(self, base: float = 1e4) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("inv_freq", base ** -(torch.arange(0, 8, 2) / 8), persistent=False)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 2)
        self.head = nn.Linear(2, 4, bias=False)
        self.head.weight = self.embed.weight
