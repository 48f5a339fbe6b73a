"""TorchScript archives: ``torch.jit.save`` since 1.4, and the lite interpreter's ``.ptl``.

- MUST be a zip with ``constants.pkl`` below its top folder: the rule by which torch.load itself tells
  them from its own archives (``torch/serialization.py``, ``_is_torchscript_zip``).
- ``data.pkl`` is an instance of a class ``__torch__.a.b.Name``; its state is a dict of attributes, and
  modules are among them. Storages are ``data/KEY``.
- ``code/__torch__/a/b.py`` lists ``__parameters__`` and ``__buffers__`` of each class. A state_dict holds
  per module its parameters, its buffers, then its children, each in the order of the attributes.
- A tensor in neither list is a plain attribute, no part of a state_dict; it is listed under the root
  ``attributes``, as are all other attributes. A class with ``__setstate__`` has a state of its own making:
  its tensors are listed there below the name of the module.
- ``constants.pkl`` is a tuple of the code's constants over storages ``constants/KEY``; freezing moves all
  weights there. They are listed under the root ``constants``.
- ``model.json`` without ``data.pkl`` is the layout of torch 1.0 to 1.3: recognised, not read.
- ``bytecode.pkl`` makes it a lite interpreter file; it repeats the code and holds no weights.

Source: ``torch/csrc/jit/serialization`` and ``torch/jit/_recursive.py``, torch 2.13.
"""

from __future__ import annotations

from ckpttool.formats.base import Look
from ckpttool.formats.torch_archive import has_member, is_export
from ckpttool.values.checkpoint import Checkpoint


def sniff(look: Look) -> bool:
    """A zip that holds ``<top folder>/constants.pkl``, or ``model.json`` of torch 1.0 to 1.3."""
    if has_member(look, "constants.pkl"):
        return not is_export(look)  # which refuses an archive of both
    return has_member(look, "model.json") and not has_member(look, "data.pkl")


def read(look: Look) -> Checkpoint:
    """See ``Format.read``."""
    from ckpttool.formats.torchscript.modules import read_torchscript

    return read_torchscript(look)
