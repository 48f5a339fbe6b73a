"""A conversion that a test needs planned or done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckpttool.cli import main
from ckpttool.conversion.plan import plan_conversion
from ckpttool.formats import read_checkpoint
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.values.conversion import ConversionPlan, Options


def plan_of(path: Path, to: str, **options: Any) -> ConversionPlan:
    return plan_conversion(inspect_checkpoint(read_checkpoint(str(path))), Options(to, **options))


def convert(*arguments: object) -> None:
    assert main(["convert", *map(str, arguments), "--quiet"]) == 0
