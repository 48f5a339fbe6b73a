"""``os`` as a module sees it, with some calls that a test has made its own: a descriptor that misbehaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


class Os:
    """``os`` with the given calls in place of its own, and a list of all that were made: name, arguments."""

    def __init__(self, **calls: Callable[..., Any]) -> None:
        self.made: list[tuple[str, tuple[Any, ...]]] = []
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        real = self._calls.get(name) or getattr(os, name)
        if not callable(real) or isinstance(real, type):
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            self.made.append((name, arguments))
            return real(*arguments, **options)

        return call

    def arguments(self, name: str) -> list[tuple[Any, ...]]:
        """Of every call of ``name``, in order."""
        return [arguments for made, arguments in self.made if made == name]


def watch(patch: pytest.MonkeyPatch, *modules: ModuleType, **calls: Callable[..., Any]) -> Os:
    """Give ``modules`` such an ``os``."""
    seen = Os(**calls)
    for module in modules:
        patch.setattr(module, "os", seen)
    return seen
