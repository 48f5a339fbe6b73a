"""Runs inputs once, without atheris, and shows what they are made of: ``python -m fuzz.replay FILE…``.

A find becomes a case of ``tests/hostile/cases_found.py`` by writing what is shown here with the assembler of
``tests/hostile/pickles.py`` and the builders of ``tests/hostile/containers.py``.
"""

from __future__ import annotations

import pickletools
import sys
import time
import traceback
from pathlib import Path

from tests.hostile.exercise import TooSlow, try_out
from tests.hostile.mutate_zip import split_zip
from tests.hostile.mutations import FOLDER

_SHOWN = 4000


def replay(data: bytes) -> str:
    """What becomes of ``data``, and in how much processor time."""
    start = time.process_time()
    try:
        outcome = try_out(data)
        text = outcome.error or f"reads, and was written to {outcome.converted} containers"
    except (TooSlow, Exception):  # noqa: BLE001 - whatever escapes is what is asked for
        text = traceback.format_exc()[-_SHOWN:]
    return f"{text}\n{time.process_time() - start:.2f} s\n"


def describe(data: bytes) -> str:
    """Members of a zip, opcodes of a pickle, or the bytes as Python writes them."""
    if data.startswith((FOLDER, b"PK\x03\x04")):
        archive = split_zip(data.removeprefix(FOLDER))
        if archive is None:
            return f"{data!r}\n"
        parts = [f"{member._replace(data=b'')}\n{describe(member.data)}" for member in archive.members]
        return "".join(parts) + f"{archive.fields}\n"
    if data.startswith(b"\x80"):
        lines = []
        try:
            for opcode, argument, position in pickletools.genops(data):
                lines.append(f"  {position}: {opcode.name} {argument!r:.200}\n")
        except ValueError as error:
            lines.append(f"  {error}\n")
        return "".join(lines)
    return f"  {data!r}\n"


def main(paths: list[str]) -> None:
    """Show each file."""
    for path in paths:
        data = Path(path).read_bytes()
        sys.stdout.write(f"{path}, {len(data)} bytes\n{describe(data)[:_SHOWN]}\n{replay(data)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
