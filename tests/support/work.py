"""How much work a command does, so that a test can say how it grows. Two ways to count, each blind somewhere.

``lines`` counts the lines of Python that run: the same in every run, whatever else the machine does, so that
small sizes and tight bounds will do. It does not see what one line has done in C (``name in a_list``).
``seconds`` is the processor time of this process in user mode: it sees that too, but wavers, so that it needs
sizes at which what is quadratic has become most of it, and wide bounds. Neither is the time that passes.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def lines(act: Callable[[], object]) -> int:
    """How many lines of Python run in ``act``; a comprehension counts one for each turn."""
    count = 0

    def in_frame(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return in_frame

    def in_call(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += 1
        return in_frame

    before = sys.gettrace()
    sys.settrace(in_call)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def seconds(act: Callable[[], object]) -> float:
    """Processor time of ``act`` in user mode: what the kernel does hangs on its other guests."""
    gc.collect()
    start = os.times().user
    act()
    return os.times().user - start
