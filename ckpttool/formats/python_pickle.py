"""A plain ``pickle.dump`` of tensors: no container, every storage inside the pickle.

- One pickle of any protocol; a tensor's storage is a ``torch.storage._load_from_bytes(bytes)`` whose
  bytes are a legacy file of their own, so its data has an address as in any other format.
- ``joblib`` without compression and scikit-learn models are such pickles, too: their objects are
  described, not built.
- A persistent id means the pickle is the ``data.pkl`` of an unpacked torch zip: refused by name.
"""

from __future__ import annotations

import sys

from ckpttool.files.source import ByteSource
from ckpttool.formats import torch_legacy
from ckpttool.formats.base import Limits, Look
from ckpttool.formats.pickled.arguments import StorageClaim
from ckpttool.formats.pickled.contents import assemble
from ckpttool.formats.pickled.globals import merge_globals
from ckpttool.formats.pickled.objects import read_objects
from ckpttool.formats.pickled.stream import MAGIC_NUMBER, PickleStream
from ckpttool.formats.pickled.tensors import TensorReader
from ckpttool.pickles.nodes import PickleCutOff, PickleTree
from ckpttool.values.checkpoint import Checkpoint, GlobalRef, StorageRef
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint, UnsupportedFeature

_TEXT_STARTS = b"(]}cVSIFL"  # opcodes that protocols 0 and 1 begin a container, object or value with
_FOREIGN_MODULES = frozenset(("__builtin__", "torch", "numpy"))


def sniff(look: Look) -> bool:
    """PROTO 2 to 5 at the front, or a text protocol whose first pickle parses, or calls something first."""
    head = look.head
    if len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return True
    if not head or head[0] not in _TEXT_STARTS:
        return False
    try:
        look.parse(_read_first)
    except CkptToolError as error:
        return isinstance(error, MalformedCheckpoint) and _is_broken_off(error)
    return True


def _is_broken_off(error: MalformedCheckpoint) -> bool:
    """Whether what does not parse is a damaged pickle nonetheless, and no text that begins like one."""
    names = [(module, name, called) for module, name, called in error.named if _is_dotted(f"{module}.{name}")]
    if any(called for _, _, called in names):
        return True
    known = sys.stdlib_module_names | _FOREIGN_MODULES
    return isinstance(error, PickleCutOff) and any(module.split(".")[0] in known for module, _, _ in names)


def _is_dotted(path: str) -> bool:
    return all(part.isidentifier() for part in path.split("."))


def read(look: Look) -> Checkpoint:
    """See ``Format.read``."""
    source, limits = look.source, look.limits
    stream, tree = look.parse(_read_first)
    # Opcodes of no effect in front of the magic number hide it from a sniff, not from torch.load.
    if type(tree.value) is int and tree.value == MAGIC_NUMBER:
        return torch_legacy.read(look)
    findings = stream.absorb_following(tree)
    embedded: tuple[GlobalRef, ...] = ()

    def resolve(_claim: StorageClaim) -> StorageRef:
        raise UnsupportedFeature(
            "the data.pkl of an unpacked torch file: its tensors lie in other files",
            hint="zip the folder that holds it again (zip -0 -r model.pt FOLDER) and inspect that",
        )

    def resolve_nested(raw: bytes) -> tuple[StorageRef, DType]:
        nonlocal embedded
        ref, dtype, inner = torch_legacy.resolve_embedded(source, raw, limits)
        embedded = merge_globals((embedded, inner))  # thousands of storages name the same few
        return ref, dtype

    contents = read_objects(tree, TensorReader(resolve, resolve_nested), limits)
    contents = contents._replace(globals=merge_globals((contents.globals, embedded)))
    return assemble(source, "pickle", f"protocol {tree.protocol}", contents, findings=findings)


def _read_first(source: ByteSource, limits: Limits) -> tuple[PickleStream, PickleTree]:
    """The first pickle, and the stream that stands behind it."""
    stream = PickleStream(source, limits)
    return stream, stream.next()
