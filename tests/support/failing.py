"""A conversion in which one call of ``os`` does not do what it should."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ckpttool.conversion import execute as converting
from ckpttool.files import staging, streams


class Faulty:
    """``os`` with one call that fails, or that kills the process, at its n-th use."""

    def __init__(self, call: str, number: int, act: Callable[[], None]) -> None:
        self.call, self.left, self.act = call, number, act

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name != self.call:
            return real

        def counted(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.act()
            return real(*arguments)

        return counted


@contextlib.contextmanager
def fault(call: str, number: int, act: Callable[[], None]) -> Iterator[Faulty]:
    faulty = Faulty(call, number, act)
    with pytest.MonkeyPatch.context() as patch:
        for module in (converting, staging, streams):
            patch.setattr(module, "os", faulty)
        yield faulty
