"""What a live module says of itself, as values without torch: the strongest evidence there is."""

from __future__ import annotations

from typing import NamedTuple

from ckpttool.checkpoint import Checkpoint


class ModelSpec(NamedTuple):
    """A module as a checkpoint, and what has no place in one.

    ``checkpoint`` has the entries of ``state_dict(keep_vars=True)`` in its order, then the
    non-persistent buffers; each is declared with ``Basis.MODULE``. Its storages have no bytes
    (location ``meta``): equal storages are ties. Names are those of the state_dict.
    """

    checkpoint: Checkpoint
    class_name: str
    note: str  # e.g. why it was not built on meta
    none_names: tuple[str, ...]  # registered as None: no key until something is assigned
    lazy_names: tuple[str, ...]  # uninitialised parameters and buffers
    custom_load: tuple[str, ...]  # modules whose loading is overridden or hooked: "path (what)"
    arguments: tuple[str, ...] = ()  # of its factory, as they are typed: "key=value"
