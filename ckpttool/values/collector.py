"""Python's collector of reference cycles, at rest where many objects are made and none of them is one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Look for no cycles until the end, whatever ends it; then as before.

    A header becomes hundreds of thousands of small objects that live on, within the limits of its reader, and
    looking through them again and again takes a fifth of the time. The switch is that of the whole process:
    other threads make garbage meanwhile as if nobody collected it. Of two pauses at once the first to begin
    ends both; the other is then merely slower.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
