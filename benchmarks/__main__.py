"""``make bench``: every benchmark of a command, one after the other, each in a process of its own.

``benchmarks.kinds`` (needs timm and transformers) and ``benchmarks.cuda`` (needs a GPU) run by name.
"""

from __future__ import annotations

import subprocess
import sys

NAMES = ("inspect", "diff", "convert", "verify")


def main() -> int:
    """Run all of them; the status of the first that fails, else 0."""
    for name in NAMES:
        print(f"\n# {name}\n", flush=True)
        status = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=False
        ).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
