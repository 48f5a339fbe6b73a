"""What a program prints where a terminal listens: a pseudo-terminal, read until the program has closed it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

_ROWS = 40


def run_on_terminal(
    command: Sequence[str],
    *,
    width: int,
    environment: Mapping[str, str],
    folder: Path | None = None,
    with_errors: bool = True,
) -> tuple[int, str]:
    """Run ``command`` on a terminal of ``width`` columns; its status, and its output as lines.

    Standard error goes to the terminal too, or nowhere. There is no pager where ``environment`` names none:
    nobody would turn its pages.
    """
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, width, 0, 0))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={"CKPTTOOL_PAGER": "", **environment},
        stdin=child,
        stdout=child,
        stderr=child if with_errors else subprocess.DEVNULL,
    )
    os.close(child)
    pieces = []
    while True:
        try:
            piece = os.read(parent, 1 << 16)
        except OSError:  # Linux says EIO when the other side is closed
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(parent)
    return process.wait(60), b"".join(pieces).decode().replace("\r\n", "\n")
