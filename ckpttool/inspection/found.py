"""What ``inspect`` reads of the tensors themselves: first values, statistics, checksums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ckpttool.elements.bits import Number
    from ckpttool.elements.stats import EntryStats
    from ckpttool.files.checksums import CheckReport
    from ckpttool.values.card import Card
    from ckpttool.values.checkpoint import Value
    from ckpttool.values.inspection import Inspection


class Found(NamedTuple):
    """An inspection with what was read of the tensors' bytes: statistics by row, first values of one.

    ``picked``: it is about one row only. ``maker`` makes the card with what lies beside the file. ``values``
    are those to list instead of the entries.
    """

    inspection: Inspection
    stats: Sequence[Sequence[EntryStats]] | None = None
    first_values: Sequence[Number] | None = None
    check: CheckReport | None = None
    picked: bool = False
    maker: Callable[[], Card] | None = None
    values: Sequence[Value] | None = None

    def card(self) -> Card:
        """What the model is, worked out when it is shown: a pipe does without."""
        from ckpttool.inspection.card import make_card

        return self.maker() if self.maker is not None else make_card(self.inspection)

    @property
    def counts(self) -> Counter[str]:
        """Findings by severity."""
        return Counter(finding.severity for finding in self.inspection.findings)

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


class Verdict(NamedTuple):
    """One file of several: what was ``found``, or the sentence that says why it cannot be read.

    ``failed``: there is what was asked not to be.
    """

    path: str
    found: Found | None = None
    failed: bool = False
    unreadable: str = ""

    @property
    def word(self) -> str:
        """``ok``, ``findings`` (a warning or an error), ``failed`` or ``unreadable``."""
        if self.found is None:
            return "unreadable"
        counts = self.found.counts
        return "failed" if self.failed else "findings" if counts["error"] or counts["warning"] else "ok"
