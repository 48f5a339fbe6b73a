"""Traps of Parameter and Buffer in a model; no checkpoint is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckpttool.api.arguments import parse_input_dtype
from ckpttool.api.models import Arguments, Model, find_model
from ckpttool.values.progress import SILENT, Progress

if TYPE_CHECKING:
    from ckpttool.api.results.lint import LintReport


def lint(
    model: Model | None = None,
    *,
    source: Sequence[str] = (),
    model_args: Arguments | None = None,
    example_inputs: Sequence[tuple[tuple[int, ...], str]] = (),
    prove: bool = False,
    progress: Progress = SILENT,
) -> LintReport:
    """Find the traps of Parameter and Buffer in a model; no checkpoint is needed.

    Args:
        model: as for ``open``. **Its code runs**: it is built several times, cast, moved, saved and loaded.
        source: packages, folders or files instead of a model, as for ``open``: parsed, and never run.
        model_args: arguments of the factory.
        example_inputs: shape and dtype of each argument of ``forward``, ``((2, 16), "int64")``; with them
            ``forward`` runs.
        prove: what happens to each tensor: trained, moved, saved, restored.
        progress: is told what was read of the source.

    Raises:
        ModelImportFailed: it cannot be imported or built, or its ``forward`` raises.
        UnsupportedFeature: it is TorchScript, whose modules cannot be looked into.
        CkptToolError: there is no such package, folder, file or class of source.
        ValueError: a dtype is not one of torch's; there are both a model and source, or neither.

    >>> [finding.name for finding in ckpttool.lint("sample_models.unregistered_tensor:build").findings]
    ['offset', 'gains[0]', 'gains[1]', 'shift']
    """
    from ckpttool.api.results.lint import LintReport

    if (model is None) is not bool(source) or (source and (model_args or example_inputs or prove)):
        raise ValueError("lint takes a model, or source and nothing else")
    if model is None:
        from ckpttool.findings.source.lint import lint_source

        return LintReport._make(lint_source(source, progress))
    specs = [(tuple(shape), parse_input_dtype(str(dtype))) for shape, dtype in example_inputs]
    found = find_model(model, model_args or ())
    from ckpttool.torch_bridge.lint.lint import lint_model, make_example

    return LintReport._make(lint_model(found, make_example(specs) if specs else None, proved=prove))
