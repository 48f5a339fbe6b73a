"""A result of the tests, and how it is shown."""

from __future__ import annotations

from typing import NamedTuple

from ckpttool.render.tables import Span
from ckpttool.render.views import View


class Counted(NamedTuple):
    """How many tensors there are."""

    tensors: int


COUNTED = View(
    lambda result, width, options: [(Span(f"{result.tensors} tensors", "title"),)],
    lambda result, options: ([f"{result.tensors}\n"], ["said\n"]),
    lambda result: {"schema": "toy/1", "tensors": result.tensors},
)
