"""``inspect`` of a model: its entries as a file would hold them, and what no file would."""

from __future__ import annotations

from collections.abc import Sequence

from ckpttool.analysis.apply_model import model_facts, without_storage
from ckpttool.analysis.findings import CARRIED
from ckpttool.analysis.inspect import inspect_checkpoint
from ckpttool.analysis.inspection import Inspection
from ckpttool.analysis.model_findings import model_findings
from ckpttool.analysis.model_spec import ModelSpec


def inspect_model(spec: ModelSpec, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Inspection:
    """Show a model as a checkpoint is shown: what its state_dict would hold, and what it would not."""
    # Without the versions of modules nothing is guessed to be missing: the model says all there is.
    checkpoint = spec.checkpoint._replace(module_versions={}, findings=tuple(model_findings(spec)))
    found = inspect_checkpoint(checkpoint, include=include, exclude=exclude)
    placed = {id(row.entry): row.entry._replace(value=without_storage(row.entry.value)) for row in found.rows}
    return found._replace(
        title=spec.checkpoint.layout,
        checkpoint=spec.checkpoint._replace(layout=spec.class_name),
        rows=tuple(
            row._replace(
                entry=placed[id(row.entry)],
                tied_to=None if row.tied_to is None else placed[id(row.tied_to)],
            )
            for row in found.rows
        ),
        summary=found.summary._replace(locations=()),
        findings=tuple(finding for finding in found.findings if finding.code != CARRIED),
        model=model_facts(spec),
    )
