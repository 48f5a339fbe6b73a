"""``.pt2`` archives: ``torch.export.save`` since 2.1, and AOTInductor packages.

- MUST be a zip with ``archive_format`` (``pt2``) and ``archive_version`` (``0``) below its top folder, or
  (torch 2.1 to 2.7) with ``serialized_exported_program.json`` and no top folder at all.
- MUST NOT hold ``<top folder>/data.pkl``: torch.load would read that, and torch.export.load the rest.
- ``models/NAME.json`` holds the graph and its signature: the exact kind of every name (``export_schema``).
- ``data/weights/NAME_weights_config.json`` gives each name of the state_dict a member ``weight_N`` with the
  bytes of a storage (tied names share one), or, for tensor subclasses, a torch zip (``use_pickle``).
- ``data/constants/NAME_constants_config.json``: the same for non-persistent buffers and for tensors that are
  not registered at all, and pickles of custom objects (``custom_obj_N``, ``opaque_obj_N``).
- torch 2.8 has one torch zip instead of each config (``data/weights/NAME.pt``, ``data/constants/NAME.pt``);
  the older layout has ``serialized_state_dict.pt`` and ``serialized_constants.pt`` (at first ``.json``).
- ``data/sample_inputs/NAME.pt`` is a pickle that torch.export.load runs: described, never read as tensors.
- A weight whose member is empty though its shape is not was fake when it was saved: it has no data.
- ``data/aotinductor/NAME/`` holds compiled code; its ``weights_config.json`` views the tensors of
  ``data/weights``, each a torch zip, and says nothing about kinds.

Source: ``torch/export/pt2_archive/_package.py``, ``torch/export/__init__.py``, torch 2.13.
"""

from __future__ import annotations

from ckpttool.formats.base import Look
from ckpttool.formats.torch_archive import is_export
from ckpttool.values.checkpoint import Checkpoint


def sniff(look: Look) -> bool:
    """A zip that holds ``<top folder>/archive_format`` or the JSON of an older program."""
    return is_export(look)


def read(look: Look) -> Checkpoint:
    """See ``Format.read``."""
    from ckpttool.formats.export.archive import read_export

    return read_export(look)
