"""What one pickle says, before and as a ``Checkpoint``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ckpttool.files.source import ByteSource
from ckpttool.values.checkpoint import (
    Checkpoint,
    Container,
    Entry,
    Finding,
    GlobalRef,
    ModuleExtras,
    Opaque,
    Record,
    Root,
    Value,
)


class Contents(NamedTuple):
    """What one pickle says, in the fields of ``Checkpoint``."""

    entries: list[Entry]
    values: list[Value]
    opaque: list[Opaque]
    containers: list[Container]
    module_versions: dict[Root, dict[str, int | None]]
    module_extras: dict[Root, dict[str, ModuleExtras]]
    globals: tuple[GlobalRef, ...]
    rare_opcodes: frozenset[int] = frozenset()
    findings: tuple[Finding, ...] = ()
    obstacles: tuple[str, ...] = ()
    attributes: Sequence[Value] = ()
    unread_modules: Sequence[Root] = ()

    @classmethod
    def empty(cls) -> Contents:
        """Lists and mappings to be filled."""
        return cls([], [], [], [], {}, {}, ())


def assemble(
    source: ByteSource,
    format_name: str,
    layout: str,
    contents: Contents,
    records: tuple[Record, ...] = (),
    findings: tuple[Finding, ...] = (),
    obstacles: tuple[str, ...] = (),
) -> Checkpoint:
    """A ``Checkpoint`` of one file from what its pickle says."""
    return Checkpoint(
        path=source.name,
        format=format_name,
        layout=layout,
        files=(source.version,),
        entries=tuple(contents.entries),
        values=tuple(contents.values),
        opaque=tuple(contents.opaque),
        containers=tuple(contents.containers),
        module_versions=contents.module_versions,
        module_extras=contents.module_extras,
        globals=contents.globals,
        records=records,
        findings=findings + contents.findings,
        rare_opcodes=contents.rare_opcodes,
        obstacles=obstacles + contents.obstacles,
        attributes=tuple(contents.attributes),
        unread_modules=frozenset(contents.unread_modules),
    )
