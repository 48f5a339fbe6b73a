"""Shares and bars: what only a table draws."""

from __future__ import annotations

import math
from collections.abc import Iterable

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def join_facts(facts: Iterable[str]) -> str:
    """Return the facts that are not empty, with a middle dot between them."""
    return " · ".join(fact for fact in facts if fact)


def format_percent(part: float, whole: float) -> str:
    """Return ``13 %``; below one percent with one digit, ``< 0.1 %`` below that; ``0 %`` of nothing."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %" if 0 < percent < 1 else f"{percent:.0f} %"


def bar(fraction: float, width: int = 8) -> str:
    """Return a bar of eighths, at most ``width`` cells; something above zero always shows."""
    if math.isnan(fraction) or fraction <= 0:
        return ""
    eighths = max(1, round(min(fraction, 1.0) * width * 8))
    full, rest = divmod(eighths, 8)
    return "█" * full + _EIGHTHS[rest].strip()
