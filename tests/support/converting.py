"""A conversion that a test needs done."""

from __future__ import annotations

from ckpttool.cli import main


def convert(*arguments: object) -> None:
    assert main(["convert", *map(str, arguments), "--quiet"]) == 0
