"""What a live module says of itself, as values without torch: the strongest evidence there is."""

from __future__ import annotations

from typing import NamedTuple

from ckpttool.values.checkpoint import Checkpoint


class CustomLoad(NamedTuple):
    """A module whose saving or loading is not torch's own. ``path`` is "" for the model itself.

    ``methods`` are those that are overridden, ``hooks`` what was registered, in words.
    """

    path: str
    methods: tuple[str, ...]
    hooks: tuple[str, ...] = ()

    @property
    def what(self) -> tuple[str, ...]:
        """Methods and hooks."""
        return (*self.methods, *self.hooks)

    @property
    def renames(self) -> bool:
        """Whether keys in a file may differ from the attributes; extra state has one key of its own."""
        return self.what != ("get_extra_state",)

    def holds(self, name: str) -> bool:
        """Whether the entry of this name belongs to the module, or to one inside it."""
        return not self.path or name.startswith(f"{self.path}.")

    def __str__(self) -> str:
        return f"{self.path or 'the model'} ({', '.join(self.what)})"


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
    custom_load: tuple[CustomLoad, ...]
    arguments: tuple[str, ...] = ()  # of its factory, as they are typed: "key=value"
