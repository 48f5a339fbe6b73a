"""Wrappers put their own attribute's name in front of every key.

`nn.parallel.DistributedDataParallel` and `nn.DataParallel` hold the model as `module`, `torch.compile` as
`_orig_mod`. Wrapped twice, `weight` becomes `module._orig_mod.weight`, and the bare model then finds each key
missing and each key unexpected. This file needs no process group and no compiler: only the attribute names
matter.
"""

from __future__ import annotations

from torch import Tensor, nn

from sample_models import only_parameters, running_mean


class AsDataParallel(nn.Module):
    """Holds a model under the name that `DistributedDataParallel` uses."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Tensor) -> Tensor:
        """Call the model."""
        y: Tensor = self.module(*args)
        return y


class AsCompiled(nn.Module):
    """Holds a model under the name that `torch.compile` uses."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module

    def forward(self, *args: Tensor) -> Tensor:
        """Call the model."""
        y: Tensor = self._orig_mod(*args)
        return y


class CenteredPerceptron(nn.Module):
    """A model that has something of each kind: parameters, a buffer, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = running_mean.SpectrumCentering(frame_length=10)
        self.mlp = only_parameters.build()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 10) to (batch, 6)."""
        y: Tensor = self.mlp(self.frontend(x))
        return y


def build() -> AsDataParallel:
    return AsDataParallel(AsCompiled(CenteredPerceptron()))


def example_input() -> tuple[Tensor]:
    """Return x of shape (3, 10)."""
    (x,) = running_mean.example_input()
    return (x[:, :10],)
