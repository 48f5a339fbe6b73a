"""What ``get`` finds at one path of a checkpoint: a tensor or a part of it, or a plain value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ckpttool.values.checkpoint import Entry, Strided, Tensor


class Picked(NamedTuple):
    """What stands at a path; the elements of a tensor are still in the file.

    ``tensor`` is what was asked for of the one that ``entry`` has. Without one it is a plain ``value``, as
    JSON has it. ``numbers`` reads the elements of a tensor in row-major order, in lists.
    """

    entry: Entry | None
    tensor: Tensor | None
    value: object
    numbers: Callable[[Strided], Iterator[list[bool | int | float | complex]]]
