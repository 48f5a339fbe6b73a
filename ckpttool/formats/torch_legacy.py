"""torch.save before 1.6, and ``_use_new_zipfile_serialization=False`` since.

- MUST be five pickles end to end: the magic number 0x1950a86a20f9469cfc6c, protocol 1001, sys_info,
  the object, the list of storage keys; then, per key in that order, an int64 (little-endian) number
  of ELEMENTS and the elements. Nothing is aligned. The number MUST be that of the object's pickle.
- The size of an element stands only in the object's pickle (the storage class), so offsets come from
  walking all storages in order; a key that no tensor names cannot be stepped over. Of elements that
  share a byte (quint4x2) the bytes are counted.
- Very old files give a storage as a view of another: the persistent id's sixth item.
- Data is little-endian whatever sys_info says: ``THPStorage_writeFileRaw`` swaps on big-endian
  machines and torch.load ignores sys_info.
- Older still (before 0.1.10) is a tar: refused by name.

Source: ``torch/serialization.py`` (``_legacy_save``, ``_legacy_load``), ``torch/csrc/serialization.cpp``.
"""

from __future__ import annotations

from typing import NamedTuple

from ckpttool.files.source import ByteSource, RangeSource
from ckpttool.formats.base import Limits, Look
from ckpttool.formats.pickled.arguments import StorageClaim, parse_storage_id
from ckpttool.formats.pickled.contents import assemble
from ckpttool.formats.pickled.globals import list_globals, merge_globals
from ckpttool.formats.pickled.objects import read_objects
from ckpttool.formats.pickled.stream import MAGIC_NUMBER, PickleStream
from ckpttool.formats.pickled.tensors import TensorReader
from ckpttool.formats.zip_records import FETCH_AGAIN
from ckpttool.pickles.nodes import LocatedBytes, PersistentId, PickleTree
from ckpttool.values.checkpoint import Checkpoint, Finding, GlobalRef, StorageRef
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import MalformedCheckpoint, UnsupportedFeature
from ckpttool.values.words import agree, plural

_MAGIC_BYTES = b"\x8a\x0a" + MAGIC_NUMBER.to_bytes(10, "little")  # LONG1 of ten bytes
_MAGIC_TEXT = f"L{MAGIC_NUMBER}L\n".encode()  # protocols 0 and 1
_PROTOCOL_VERSION = 1001

_LEGACY = Finding(
    "legacy-layout",
    "info",
    "",
    "pre-1.6 file layout: torch cannot memory-map it and reads the whole file into RAM",
)


def sniff(look: Look) -> bool:
    """The magic number's pickle stands at the front, in any protocol."""
    return _MAGIC_BYTES in look.head[:24] or look.head.startswith(_MAGIC_TEXT)


def read(look: Look) -> Checkpoint:
    """See ``Format.read``."""
    legacy = read_legacy(look.source, look.limits)

    def resolve(claim: StorageClaim) -> StorageRef:
        ref = legacy.storages.get(claim.key)
        if ref is None:
            raise MalformedCheckpoint("a tensor's storage is not in the file", name=claim.key)
        return ref

    findings = (*legacy.findings, _LEGACY)
    contents = read_objects(legacy.tree, TensorReader(resolve, id_length=6), look.limits, findings=findings)
    # Whatever stands in the four pickles around the object runs as well.
    contents = contents._replace(
        globals=merge_globals((contents.globals, *map(list_globals, legacy.around))),
        rare_opcodes=contents.rare_opcodes.union(*(tree.rare_opcodes for tree in legacy.around)),
    )
    return assemble(look.source, "torch_legacy", "before torch 1.6", contents)


class LegacyFile(NamedTuple):
    """The object's tree, the four pickles around it, where each storage lies, and what stands behind."""

    tree: PickleTree
    around: tuple[PickleTree, ...]
    storages: dict[str, StorageRef]
    findings: tuple[Finding, ...]


def read_legacy(source: ByteSource, limits: Limits) -> LegacyFile:
    """The pickles and storage headers of a legacy file that fills ``source``.

    Raises:
        CkptToolError: malformed, truncated or beyond ``limits``.
    """
    stream = PickleStream(source, limits)
    magic = stream.next()
    if type(magic.value) is not int or magic.value != MAGIC_NUMBER:
        raise MalformedCheckpoint("no torch magic number in the first pickle")
    version = stream.next()
    if type(version.value) is not int or version.value != _PROTOCOL_VERSION:
        shown = f"{version.value}"[:40] if type(version.value) is int else "is no integer"
        raise UnsupportedFeature(f"legacy protocol version {shown}, only 1001 is known")
    sys_info = stream.next()  # torch ignores what it says, too
    tree = stream.next()
    last = stream.next()
    keys = last.value
    if type(keys) is not list or any(type(key) not in (str, int) for key in keys):
        raise MalformedCheckpoint("the fifth pickle is not a list of storage keys")
    claims = _claims(tree.persistent_ids)
    storages, end = _walk_storages(source, [str(key) for key in keys], claims, stream.position)
    findings: tuple[Finding, ...] = ()
    if end < source.size:
        rest = source.size - end
        follow = plural(rest, "byte follows", "bytes follow")
        message = f"{follow} the last storage and {agree(rest, 'is', 'are')} not read"
        findings = (Finding("bytes-after-storages", "warning", "", message),)
    return LegacyFile(tree, (magic, version, sys_info, last), storages, findings)


def resolve_embedded(
    source: ByteSource, raw: bytes, limits: Limits
) -> tuple[StorageRef, DType, tuple[GlobalRef, ...]]:
    """The storage in ``torch.storage._load_from_bytes(raw)``, a legacy file inside a pickle, and its globals.

    ``raw`` must know its place (``LocatedBytes``), relative to ``source``.

    Raises:
        UnsupportedFeature: protocol 2 and older write such bytes re-encoded, so they have no address.
        MalformedCheckpoint: not a legacy file with one storage.
    """
    if not isinstance(raw, LocatedBytes):
        raise UnsupportedFeature(
            "a tensor pickled by pickle.dump with protocol 2 or older, whose bytes are re-encoded as text",
            hint="where you trust the file: load it with pickle and write it with torch.save",
        )
    inside = RangeSource(source, raw.byte_offset, len(raw))
    legacy = read_legacy(inside, limits)
    node = legacy.tree.value
    claim = parse_storage_id(node.pid) if isinstance(node, PersistentId) else None
    ref = legacy.storages.get(claim.key) if claim is not None else None
    if claim is None or claim.dtype is None or ref is None:
        raise MalformedCheckpoint("the bytes of a pickled storage hold no storage")
    # Keys are unique per embedded file only.
    refs = merge_globals(map(list_globals, (legacy.tree, *legacy.around)))
    return ref._replace(key=f"{inside.base}/{ref.key}"), claim.dtype, refs


def _claims(persistent_ids: list[PersistentId]) -> dict[str, StorageClaim]:
    """The first claim for each storage key; ids of other kinds (``("module", …)``) are not storages."""
    claims: dict[str, StorageClaim] = {}
    for node in persistent_ids:
        pid = node.pid
        if type(pid) is str or (type(pid) is tuple and pid and type(pid[0]) is str and pid[0] == "storage"):
            claim = parse_storage_id(pid)
            claims.setdefault(claim.key, claim)
    return claims


def _walk_storages(
    source: ByteSource, keys: list[str], claims: dict[str, StorageClaim], position: int
) -> tuple[dict[str, StorageRef], int]:
    """Step over the storages, whose sizes are known only one after the other, to where they end."""
    storages: dict[str, StorageRef] = {}
    for key in keys:
        claim = claims.get(key)
        if claim is None:
            raise MalformedCheckpoint(
                "a storage that no tensor names, so its size is unknown",
                name=key,
                byte_offset=source.base + position,
            )
        if position + 8 > source.size:
            raise _cut(source, key, 8, position)
        numel = int.from_bytes(source.read_at(position, 8), "little", signed=True)
        position += 8
        nbytes = numel * claim.unit_nbytes
        if numel < 0 or key in storages:
            raise MalformedCheckpoint("a storage of negative size, or twice", name=key)
        if numel != claim.whole_numel:
            raise MalformedCheckpoint(
                "a storage of another size than its pickle says",
                name=key,
                byte_offset=source.base + position - 8,
                expected=plural(claim.whole_numel, "element"),
                actual=numel,
            )
        if position + nbytes > source.size:
            raise _cut(source, key, nbytes, position)
        storages[key] = StorageRef(source.name, key, source.base + position, nbytes, claim.location)
        position += nbytes
    return storages, position


def _cut(source: ByteSource, key: str, nbytes: int, position: int) -> MalformedCheckpoint:
    return MalformedCheckpoint(
        "the file is cut off in a storage",
        name=key,
        byte_offset=source.base + position,
        expected=plural(nbytes, "byte"),
        actual=f"{source.size - position:,} left",
        hint=FETCH_AGAIN,
    )
