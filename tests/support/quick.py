"""What a process that runs thousands of commands may save itself, and one that runs a single one cannot."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable
from typing import Any

import typer.main


def make_quick() -> None:
    """Keep what Typer reads off the functions of commands, and collect garbage as the console script does.

    The annotations of a command are evaluated at each call: that takes longer than to read most test files.
    """
    gc.set_threshold(1_000_000, 20, 20)
    known: dict[Callable[..., Any], Any] = {}
    real: Callable[[Callable[..., Any]], Any] = typer.main.get_params_from_function

    def remembered(function: Callable[..., Any]) -> Any:
        wrapped = inspect.unwrap(function)
        if wrapped not in known:
            known[wrapped] = real(function)
        return known[wrapped]

    typer.main.get_params_from_function = remembered
