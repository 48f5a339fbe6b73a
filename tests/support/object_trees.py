"""Objects of every build with tensors hidden in them, and a test-side unpickler that says what they are."""

from __future__ import annotations

import collections
import functools
import io
import pickle
import zipfile
from typing import Any

import torch
from hypothesis import strategies as st


class Plain:
    """Its attributes are a dict in the pickle; hashable by identity."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slotted:
    """Its state is ``(None, slots)``."""

    __slots__ = ("a", "b")

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b


class SlottedToo(Slotted):
    """Its state is ``(dict, slots)``."""

    __slots__ = ("__dict__",)

    def __init__(self, a: Any, b: Any, c: Any) -> None:
        super().__init__(a, b)
        self.c = c


class Stated:
    """Its state is whatever it is given: a tensor, a list, a tuple, another object."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __getstate__(self) -> Any:
        return self.state

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Reduced:
    """All that ``__reduce__`` may give: arguments, a state, items to append and items to set."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        args, state, items, pairs = self.parts
        return Reduced, tuple(args), {"state": state}, iter(items), iter(pairs)

    def append(self, item: Any) -> None:
        """As the unpickler does."""

    def extend(self, items: Any) -> None:
        """As the unpickler does."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """As the unpickler does."""


class Named(Plain):
    """Made by keyword arguments: NEWOBJ_EX in protocol 4."""

    def __new__(cls, **_: Any) -> Named:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (), dict(self.__dict__)


class Numbers(list[Any]):
    """A list with attributes."""


class Settings(dict[Any, Any]):
    """A dict with attributes, of a class of its own."""


class Whole(torch.nn.Module):
    """A module whose state is whatever it is given, as quantized ones have a tuple."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    def __getstate__(self) -> Any:
        return self.state

    def __setstate__(self, state: Any) -> None:
        torch.nn.Module.__init__(self)
        self.state = state


def _module(tensors: tuple[torch.Tensor, ...], attribute: Any, child: Any, extra: Any) -> torch.nn.Module:
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(tensors[0])
    if extra is not None:
        module.weight.extra = extra  # type: ignore[attr-defined]
    module.register_buffer("running", tensors[1])
    module.register_buffer("scratch", tensors[2], persistent=False)
    module.attribute = attribute
    module.child = child if isinstance(child, torch.nn.Module) else Whole(child)
    return module


def _ordered(items: Any, attribute: Any) -> Any:
    made = collections.OrderedDict(items)
    made.a = attribute  # type: ignore[attr-defined]
    return made


def _with_attribute(made: Any, attribute: Any) -> Any:
    made.a = attribute
    return made


_tensors = st.builds(lambda n: torch.zeros(n), st.integers(1, 3))
_names = st.sampled_from(["a", "b", "state", "args[0]", "0", ""])
_keys = st.one_of(_names, st.integers(-1, 2), st.sampled_from([1.5, None, (1, "a"), True]))
_plain = st.sampled_from([None, 1, 0.5, "text", b"bytes", True, [1, 2], (3, "x")])


def _grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists, pairs = st.lists(inner, max_size=3), st.lists(st.tuples(_keys, inner), max_size=3)
    dicts = st.dictionaries(_keys, inner, max_size=3)
    keys = st.builds(lambda value: Plain(held=value), inner)
    tensors = st.tuples(_tensors, _tensors, _tensors)
    return st.one_of(
        lists,
        lists.map(tuple),
        dicts,
        st.lists(keys, max_size=2).map(set),
        st.lists(keys, max_size=2).map(frozenset),
        st.dictionaries(st.one_of(keys, _tensors, st.tuples(keys, keys)), inner, max_size=2),
        st.builds(lambda a, b: Plain(a=a, state=b), inner, inner),
        st.builds(Slotted, inner, inner),
        st.builds(SlottedToo, inner, inner, inner),
        st.builds(Stated, inner),
        st.builds(Reduced, lists, inner, lists, pairs),
        st.builds(lambda a: Named(a=a), inner),
        st.builds(_with_attribute, lists.map(Numbers), inner),
        st.builds(_with_attribute, dicts.map(Settings), inner),
        st.builds(_ordered, dicts, inner),
        st.builds(lambda a, b: collections.defaultdict(functools.partial(max, a), {"b": b}), inner, inner),
        st.builds(lambda a: functools.partial(max, a, key=a), inner),
        st.builds(Whole, inner),
        st.builds(_module, tensors, inner, inner, st.one_of(st.none(), inner)),
    )


trees = st.recursive(st.one_of(_tensors, _tensors, _plain), _grown, max_leaves=12)
"""Python objects with tensors in them, to be saved by ``torch.save``."""


def named_storages(content: bytes) -> set[str]:
    """Keys of the storages that the pickle of a file of ``torch.save`` names, by Python's own unpickler."""
    found: set[str] = set()

    class Reader(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            found.add(pid[2])
            return torch.storage.TypedStorage(
                wrap_storage=torch.UntypedStorage(pid[4] * 4), dtype=torch.float32, _internal=True
            )

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        Reader(io.BytesIO(archive.read(name))).load()
    return found
