"""torch.save's zip container, torch 1.6 to 2.13, and the experimental one of 1.4.

- MUST be a zip whose members lie under one top folder of any name: the folder of the first member.
- MUST hold ``data.pkl`` (the object) and one member ``data/KEY`` per storage; tensors name storages
  by persistent ids ``("storage", class, key, location, numel)``.
- torch 1.4 called the members ``tensors/KEY``, when asked for a zip by a private argument.
- MAY hold ``byteorder`` (``little`` or ``big``; since 2.1), ``version`` or ``.data/version`` (required
  by torch, not here), ``.format_version`` and ``.storage_alignment`` (since 2.7),
  ``.data/serialization_id`` (since 2.1).
- A storage MAY be STORED (its bytes lie in the file as they are; aligned to 64 since 1.6) or
  DEFLATEd by a re-zip; CRCs may be 0.
- ``constants.pkl`` or ``code/`` make it a TorchScript archive, ``archive_format`` or
  ``serialized_exported_program.json`` a ``.pt2``: other formats.

Source: ``torch/serialization.py``, ``caffe2/serialize/inline_container.cc``.
"""

from __future__ import annotations

from ckpttool.formats.base import Look
from ckpttool.formats.pickled.contents import assemble
from ckpttool.formats.pickled.objects import read_objects
from ckpttool.formats.pickled.tensors import TensorReader
from ckpttool.formats.torch_archive import describe_layout, open_torch_archive, sniff_records
from ckpttool.formats.zip_records import read_archive
from ckpttool.values.checkpoint import Checkpoint


def sniff(look: Look) -> bool:
    """A zip that holds ``<top folder>/data.pkl``, or that cannot be opened at all."""
    names = sniff_records(look)
    return names is not None and (not names or any(name.endswith("/data.pkl") for name in names))


def read(look: Look) -> Checkpoint:
    """See ``Format.read``."""
    archive = look.parse(read_archive)
    view = open_torch_archive(look.source, archive)
    tree, findings = view.pickle("data.pkl", look.limits)
    tensors = TensorReader(view.resolver(("data", "tensors")), id_length=5)
    contents = read_objects(tree, tensors, look.limits, findings=findings)
    records = tuple(archive.records.values())
    return assemble(
        look.source, "torch_zip", describe_layout(view), contents, records, view.findings, view.obstacles
    )
