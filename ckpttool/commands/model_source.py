"""``M`` on a command line: telling it from a path, and the spec of the model that it names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckpttool.errors import ModelImportFailed

if TYPE_CHECKING:
    from ckpttool.analysis.model_spec import ModelSpec
    from ckpttool.torch_bridge.model import ModelSource


def names_model(text: str) -> bool:
    """Whether ``text`` is ``package.module:factory`` or ``file.py:factory``: a path that exists never is."""
    where, _, factory = text.rpartition(":")
    if not where or not _is_dotted(factory) or os.path.lexists(text):
        return False
    return where.endswith(".py") or _is_dotted(where)


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def find_model(
    text: str, arguments: Sequence[str] = (), *, checkpoint_path: str | None = None
) -> ModelSource:
    """Import what ``text`` names; ``hf`` needs the ``checkpoint_path``.

    Raises:
        ModelImportFailed: torch is not installed, or the import fails.
    """
    try:
        from ckpttool.torch_bridge.model import import_model
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "ckpttool":
            raise
        raise ModelImportFailed(
            f"a model needs torch, which cannot be imported: {error}", hint="pip install torch"
        ) from error
    return import_model(text, arguments, checkpoint_path=checkpoint_path)


def read_model(text: str, arguments: Sequence[str] = (), *, checkpoint_path: str | None = None) -> ModelSpec:
    """Import, build and describe the model that ``text`` names.

    Raises:
        ModelImportFailed: as ``find_model``, or the factory fails.
        UnsupportedFeature: a tensor of the model has a dtype that is not known here.
    """
    source = find_model(text, arguments, checkpoint_path=checkpoint_path)
    from ckpttool.torch_bridge.reference import describe_model

    module, note = source.build_light()
    return describe_model(module, text, note)
