"""The corpus. A new case is a line in one of the tables of ``cases_*.py``."""

from __future__ import annotations

from tests.hostile import (
    cases_advisories,
    cases_bombs,
    cases_code,
    cases_containers,
    cases_found,
    cases_paths,
    cases_programs,
    cases_tensors,
    cases_text,
    cases_torchscript,
)
from tests.hostile.case import Case

_PARTS = (
    cases_code,
    cases_tensors,
    cases_containers,
    cases_paths,
    cases_text,
    cases_torchscript,
    cases_programs,
    cases_advisories,
    cases_found,
    cases_bombs,
)

CASES: dict[str, Case] = {case.name: case for part in _PARTS for case in part.CASES}
