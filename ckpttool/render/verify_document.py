"""The document of ``verify --json``: the contract of ``docs/json.md``."""

from __future__ import annotations

from typing import Any

from ckpttool.render.json import root_keys
from ckpttool.values.verification import Run, Verification

VERIFY_SCHEMA = "ckpttool/verify/1"


def verify_document(result: Verification) -> dict[str, object]:
    """Return the document of one verification."""
    return {
        "schema": VERIFY_SCHEMA,
        "ok": result.ok,
        "path": result.path,
        "model": result.model,
        "class": result.class_name,
        "root": root_keys(result.root),
        "mapping": result.mapping,
        "allow_cast": result.allow_cast,
        "parameters": result.parameters,
        "persistent_buffers": result.persistent_buffers,
        "rebuilt": list(result.rebuilt),
        "random": list(result.random),
        "changed_reference": [item._asdict() for item in result.changed_reference],
        "notes": list(result.notes),
        "runs": [_run_object(run) for run in result.runs],
        "suggestions": list(result.suggestions),
    }


def _run_object(run: Run) -> dict[str, Any]:
    fields = run._asdict()
    # Lists of named tuples as lists of objects; what is a plain tuple of names or numbers is a list as it is.
    for name in ("missing", "mismatched", "lossy", "not_restored", "wrong"):
        fields[name] = [item._asdict() for item in fields[name]]
    fields["untied"] = [list(group) for group in run.untied]
    fields["seconds"] = round(run.seconds, 6)
    if run.gb_per_second is not None:
        fields["gb_per_second"] = round(run.gb_per_second, 3)
    return fields
