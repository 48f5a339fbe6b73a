"""Small real models, one per file, each of which shows one way to own a tensor.

A file has `build() -> nn.Module`, the same weights on every call, and `example_input() -> tuple[Tensor,
...]`, which `forward` takes. Its docstring says what it shows. What each model owns is a table in
`tests/project/test_sample_models.py`.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from torch import Tensor, nn

NAMES: tuple[str, ...] = (
    "batch_norm_by_hand",
    "batch_norm_stack",
    "buffer_view_of_parameter",
    "conv_buffers",
    "conv_parameters",
    "extra_state",
    "four_ways_to_register",
    "frozen_parameters",
    "lazy_shapes",
    "linear_xavier",
    "low_precision",
    "none_slots",
    "only_parameters",
    "rotary_decoder",
    "running_mean",
    "scalar_and_empty",
    "shared_submodule",
    "sinusoidal_positions",
    "swin_window_attention",
    "tied_embeddings",
    "unregistered_tensor",
    "weight_norm",
    "wrapped_names",
)


class SampleModel(Protocol):
    """What every file here offers."""

    __name__: str
    __doc__: str | None

    def build(self) -> nn.Module:
        """Make the model, with the same weights on every call."""

    def example_input(self) -> tuple[Tensor, ...]:
        """Make arguments that its `forward` takes."""


def load(name: str) -> SampleModel:
    """Import the sample model of that name.

    Raises:
        KeyError: there is none.
    """
    if name not in NAMES:
        raise KeyError(f"no sample model {name!r}; there are {', '.join(NAMES)}")
    return cast(SampleModel, importlib.import_module(f"sample_models.{name}"))
