"""What ``inspect`` reads of the tensors themselves: first values, statistics, checksums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ckpttool.elements.bits import Number
    from ckpttool.elements.stats import EntryStats
    from ckpttool.files.checksums import CheckReport
    from ckpttool.values.checkpoint import Value
    from ckpttool.values.inspection import Inspection


class Found(NamedTuple):
    """An inspection with what was read of the tensors' bytes: statistics by row, first values of one.

    ``picked``: it is about one row only. ``values`` are those to list instead of the entries.
    """

    inspection: Inspection
    stats: Sequence[Sequence[EntryStats]] | None = None
    first_values: Sequence[Number] | None = None
    check: CheckReport | None = None
    picked: bool = False
    values: Sequence[Value] | None = None

    def fails_on(self, asked: Sequence[str]) -> bool:
        """Whether a checksum is wrong, or something is that was ``asked`` for: ``nan`` …, ``findings``."""
        if self.check is not None and not self.check.ok:
            return True
        codes = {f"value_{what}" for what in asked}
        return any(
            (finding.code in codes and finding.severity == "error")
            or (finding.severity != "info" and "findings" in asked)
            for finding in self.inspection.findings
        )
