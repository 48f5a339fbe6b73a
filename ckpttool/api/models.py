"""The model that a user names: by ``M`` as on a command line, or, in Python, by the factory itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ckpttool.values.errors import ModelImportFailed

if TYPE_CHECKING:
    from ckpttool.torch_bridge.model import ModelSource
    from ckpttool.values.model import ModelSpec

Model: TypeAlias = str | Callable[..., Any]
"""``package.module:factory``, ``path/to/file.py:factory``, ``hf``, or a callable that makes the module."""

Arguments: TypeAlias = Sequence[str] | Mapping[str, Any]
"""Arguments of a factory: as typed (``key=value``), or as they are."""


def names_model(text: str) -> bool:
    """Whether ``text`` is ``package.module:factory`` or ``file.py:factory``: a path that exists never is."""
    where, _, factory = text.rpartition(":")
    if not where or not _is_dotted(factory) or os.path.lexists(text):
        return False
    return where.endswith(".py") or _is_dotted(where)


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def find_model(model: Model, arguments: Arguments = (), *, checkpoint_path: str | None = None) -> ModelSource:
    """Import what ``model`` names, or take it as it is; ``hf`` needs the ``checkpoint_path``.

    Raises:
        ModelImportFailed: torch is not installed, the import fails, or it is no factory.
    """
    try:
        from ckpttool.torch_bridge.model import import_model, take_factory
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "ckpttool":
            raise
        raise ModelImportFailed(
            f"a model needs torch, which cannot be imported: {error}", hint="pip install torch"
        ) from error
    if isinstance(model, str):
        return import_model(model, arguments, checkpoint_path=checkpoint_path)
    return take_factory(model, arguments)


def read_model(model: Model, arguments: Arguments = (), *, checkpoint_path: str | None = None) -> ModelSpec:
    """Import, build and describe a model.

    Raises:
        ModelImportFailed: as ``find_model``, or the factory fails.
        UnsupportedFeature: a tensor of the model has a dtype that is not known here.
    """
    source = find_model(model, arguments, checkpoint_path=checkpoint_path)
    from ckpttool.torch_bridge.reference import describe_model

    module, note = source.build_light()
    spec = describe_model(module, source.text, note)
    return spec._replace(arguments=tuple(map(_as_typed, source.arguments.items())))


def _as_typed(argument: tuple[str, Any]) -> str:
    """``key=value`` as on a command line: JSON, or a plain string."""
    key, value = argument
    if isinstance(value, str):
        return f"{key}={value}"
    try:
        return f"{key}={json.dumps(value)}"
    except (TypeError, ValueError):  # an object that Python code handed over
        return f"{key}={type(value).__name__}"
