"""CRC-32 at the speed of the fastest library that is installed.

Python's ``zlib`` does 1 to 6 GB/s, depending on the zlib it was built with. The optional ``isal``
(Intel's library, by the author of its Python bindings kept for every CPython since 3.8, wheels for
x86-64 and arm64) does 10 GB/s and more; ``ckpttool[fast]`` installs it. All give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable

Crc32 = Callable[[bytes | bytearray | memoryview, int], int]


def load_crc32() -> Crc32:
    """``isal_zlib.crc32`` if there is one, else ``zlib.crc32``."""
    try:
        from isal.isal_zlib import crc32 as fast  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from zlib import crc32

        return crc32
    found: Crc32 = fast
    return found
