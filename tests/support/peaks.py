"""Peak memory of one command in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

# The peak after exec: `ru_maxrss` would count what the parent had when it forked.
_CODE = """
import sys
from ckpttool.cli import entry
try:
    entry()
except SystemExit as done:
    status = done.code
sys.stdout.flush()
peaks = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")]
print(status, *peaks, file=sys.stderr)
"""


def peak_mib(*arguments: str, statuses: Sequence[int] = (0,)) -> float:
    """Run ``ckpttool`` with ``arguments``; its peak resident set in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *arguments], check=True, capture_output=True, text=True
    )
    *said, last = done.stderr.splitlines()
    status, peak = map(int, last.split())
    assert status in statuses, said
    return peak / 1024
