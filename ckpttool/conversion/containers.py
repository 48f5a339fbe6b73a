"""What every container says of itself: what it can hold, how it is planned, how a file of it is laid out.

A container is one line of ``values.containers`` and the module that it names, which has a ``ContainerKind``
called ``CONTAINER``. Nobody asks a container for its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from ckpttool.conversion.layout import FileLayout
from ckpttool.values import containers
from ckpttool.values.checkpoint import Root
from ckpttool.values.conversion import ConversionPlan
from ckpttool.values.dtypes import DType

if TYPE_CHECKING:
    from ckpttool.conversion.placing import Item


class ContainerKind(NamedTuple):
    """One way to write a checkpoint.

    ``place`` completes a plan without tensors: it is given the kept ones in order, and the root that their
    names leave out, and refuses names and strings that the container cannot hold. ``lacks_dtype`` says of a
    dtype and a shape that only the bytes can be kept. ``lay_out`` makes one file, or a shard, of a plan.
    """

    title: str  # in a sentence: "a .pt"
    stem: str  # of a shard's name, before its number
    suffix: str  # of a shard's name
    place: Callable[[ConversionPlan, Sequence[Item], Root], ConversionPlan]
    lacks_dtype: Callable[[DType, tuple[int, ...]], bool]
    lay_out: Callable[[str, ConversionPlan], FileLayout]
    describes: bool = False  # objects, in a word each beside their plain attributes
    holds_all: bool = False  # the whole tree at its paths, not only the tensors of one branch
    objects: AbstractSet[str] = frozenset()  # types of objects that are written as they are
    layouts: AbstractSet[str] = frozenset()  # of tensors made of parts


def load_container(name: str) -> ContainerKind:
    """Import one line of the table."""
    container: ContainerKind = import_module(containers.CONTAINERS[name][1]).CONTAINER
    return container
