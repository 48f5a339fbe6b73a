"""What the models of every package are written with."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

Build = Callable[[], nn.Module]
Models = Iterator[tuple[str, Build]]


def calls(module: str, arguments: Mapping[str, Mapping[str, Any]], **common: Any) -> Models:
    """Each of ``module``'s callables called with its own arguments and the common ones.

    A name may carry what tells it from another call of the same: ``ConvTasNet causal``.
    """
    for name, own in arguments.items():

        def build(name: str = name.split()[0], own: Mapping[str, Any] = own) -> nn.Module:
            return getattr(importlib.import_module(module), name)(**{**common, **own})

        yield f"{module}.{name}", build


def plain(names: str) -> dict[str, dict[str, Any]]:
    """Callables that need no argument of their own."""
    return {name: {} for name in names.split()}


def first_that_builds(make: Callable[..., nn.Module], *attempts: Mapping[str, Any]) -> nn.Module:
    """``make`` called with the first of ``attempts`` that it takes.

    Raises:
        Exception: what the first of them raised, where none works.
    """
    failure: Exception | None = None
    for arguments in attempts:
        try:
            return make(**arguments)
        except Exception as error:  # noqa: BLE001 - any failure means: try the next
            failure = failure or error
    raise failure or TypeError("no arguments to try")
