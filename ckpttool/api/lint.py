"""Traps of Parameter and Buffer in a model; no checkpoint is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckpttool.api.arguments import parse_input_dtype
from ckpttool.api.models import Arguments, Model, find_model

if TYPE_CHECKING:
    from ckpttool.api.results.lint import LintReport


def lint(
    model: Model,
    *,
    model_args: Arguments | None = None,
    example_inputs: Sequence[tuple[tuple[int, ...], str]] = (),
    prove: bool = False,
) -> LintReport:
    """Find the traps of Parameter and Buffer in a model; no checkpoint is needed.

    Args:
        model: as for ``open``. **Its code runs**: it is built several times, cast, moved, saved and loaded.
        model_args: arguments of the factory.
        example_inputs: shape and dtype of each argument of ``forward``, ``((2, 16), "int64")``; with them
            ``forward`` runs.
        prove: what happens to each tensor: trained, moved, saved, restored.

    Raises:
        ModelImportFailed: it cannot be imported or built, or its ``forward`` raises.
        UnsupportedFeature: it is TorchScript, whose modules cannot be looked into.
        ValueError: a dtype is not one of torch's.

    >>> [finding.name for finding in ckpttool.lint("sample_models.unregistered_tensor:build").findings]
    ['offset', 'gains[0]', 'gains[1]', 'shift']
    """
    from ckpttool.api.results.lint import LintReport

    specs = [(tuple(shape), parse_input_dtype(str(dtype))) for shape, dtype in example_inputs]
    source = find_model(model, model_args or ())
    from ckpttool.torch_bridge.lint.lint import lint_model, make_example

    return LintReport._make(lint_model(source, make_example(specs) if specs else None, proved=prove))
