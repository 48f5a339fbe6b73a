"""Files of safetensors made by hand, and what is said of them."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace

from safetensors import SafetensorError, safe_open

from ckpttool.files.local import open_source
from ckpttool.formats import safetensors
from ckpttool.formats.base import Limits, Look
from ckpttool.values.checkpoint import Checkpoint


def read(path: Path, limits: Limits | None = None) -> Checkpoint:
    with open_source(str(path)) as source:
        return safetensors.read(Look(source, limits or Limits()))


def pack(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def opens(path: Path) -> dict[str, tuple[str, list[int]]] | None:
    """What the library says of a file: name -> (tag, shape of the header), None if it refuses."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except SafetensorError:
        return None


def sniff(content: bytes) -> bool:
    return safetensors.sniff(SimpleNamespace(head=content[:4096]))  # type: ignore[arg-type]
