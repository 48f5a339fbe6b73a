"""Readers: from a path to a ``Checkpoint`` of addresses. Content decides, never the suffix."""

from __future__ import annotations

import os
from contextlib import closing
from typing import cast

from ckpttool.files.local import Sources
from ckpttool.formats.base import DEFAULT_LIMITS, Format, Limits, Look, Reading
from ckpttool.formats.validate import validate
from ckpttool.values.checkpoint import Checkpoint
from ckpttool.values.collector import collector_paused

# The module of each format (a ``Format``), in the order in which they are asked. They are imported one by
# one until a format recognises the content, so that a safetensors file costs no pickle machinery.
FORMATS: tuple[str, ...] = (
    "ckpttool.formats.safetensors",
    "ckpttool.formats.torchscript",
    "ckpttool.formats.export",
    "ckpttool.formats.torch_zip",
    "ckpttool.formats.torch_legacy",
    "ckpttool.formats.python_pickle",
)


@collector_paused()
def read_checkpoint(
    path: str,
    limits: Limits = DEFAULT_LIMITS,
    *,
    sources: Sources | None = None,
    manifests: bool = False,
) -> Checkpoint:
    """Read the header bytes of a file, an index or a folder of shards, or if ``manifests`` a manifest.

    The files stay open in ``sources``, for those who read tensors later; without, they are closed.

    Raises:
        CkptToolError: not a checkpoint, malformed, or beyond ``limits``; names the path.
        OSError: ``path`` cannot be opened.
    """
    if sources is None:
        with closing(Sources()) as sources:
            return read_checkpoint(path, limits, sources=sources, manifests=manifests)
    if os.path.isdir(path):
        from ckpttool.formats.folders import read_folder

        return read_folder(path, Reading(limits, sources, _read_file))
    with sources.reading(path) as source:
        look = Look(source, limits)
        if look.head.lstrip(b" \t\r\n").startswith(b"{"):  # JSON may follow: only then are indexes asked
            from ckpttool.formats.folders.shards import is_index, read_index

            if manifests:
                from ckpttool.formats.manifest import is_manifest, read_manifest

                if is_manifest(look.head):
                    return read_manifest(source, limits)
            if is_index(look.head, path):
                return read_index(look, Reading(limits, sources, _read_file))
        return _read_file(look)


def _read_file(look: Look) -> Checkpoint:
    """Read one regular file and prove its addresses."""
    from importlib import import_module

    for module in FORMATS:
        format_ = cast(Format, import_module(module))
        if format_.sniff(look):
            checkpoint = format_.read(look)
            validate(checkpoint)
            return checkpoint
    from ckpttool.formats.foreign.files import describe_foreign

    raise describe_foreign(look)
