"""The difference of two files, and short words for what is in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ckpttool.api.opened import open_file
from ckpttool.comparison.diff import Request, diff_sides
from ckpttool.values.difference import Diff, DiffEntry, Side

Save = Callable[..., Path]


def side(path: Path) -> Side:
    return open_file(path).side


def diff(a: Path, b: Path, **request: Any) -> Diff:
    return diff_sides(side(a), side(b), Request(**request))


def entry(found: Diff, name: str) -> DiffEntry:
    (one,) = [item for item in found.entries if item.name == name]
    return one
