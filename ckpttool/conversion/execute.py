"""Executes a ``ConversionPlan``: streams every byte to its place, checks what was written, renames.

The output of a file is one stream in order of offset through one buffer: headers, padding and
tensors, small ones together, in blocks of 512 KiB. Bytes that lie in the source as they will in the
destination go straight from ``preadv`` into that buffer; CRC-32 and digest are taken while they are in
the cache. Gathered tensors come in chunks from ``TensorReader``, cast ones through a ``Caster``.

The check sends the same stream once more and holds it against what is read back, byte for byte,
headers too. It sees what the kernel has for the file after fsync: a disk that lies is beyond it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from ckpttool.conversion.layout import FileLayout, Segment
from ckpttool.files.local import Sources
from ckpttool.files.staging import created_file, refuse_overwriting, staged_file, staged_folder
from ckpttool.files.streams import BLOCK_NBYTES, Checker, Crc32, Stream, Writer, load_crc32, write_at
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import TensorInfo
from ckpttool.values.conversion import (
    CastLoss,
    Conversion,
    ConversionPlan,
    FileWritten,
    Piece,
    Placed,
    Planned,
)
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import CkptToolError, DestinationExists
from ckpttool.values.words import agree, plural

if TYPE_CHECKING:
    from ckpttool.elements.digests import NamedDigest

# A gather holds 8 chunks (tensor_bytes), and all of it must stay far below 64 MiB.
_GATHER_NBYTES = 2 << 20


class Caster(Protocol):
    """Turns packed elements of one dtype into another's, and says what that cost."""

    def __call__(
        self, data: memoryview, before: DType, after: DType, *, judge: bool = True
    ) -> tuple[memoryview, CastLoss]:
        """The cast bytes and the loss, which is left empty without ``judge``: it takes half of the time."""


class Effort(NamedTuple):
    """How much is done besides copying. ``advance`` is told of bytes that are done, check included.

    ``sources`` are the files of the plan where they are held open.
    """

    check: bool = True
    digests: bool = False
    advance: Callable[[int], None] = lambda nbytes: None
    cast: Caster | None = None
    sources: Sources | None = None


class Target(NamedTuple):
    """Where to write: a file, or a folder that takes several."""

    path: str
    is_folder: bool
    force: bool = False

    def path_of(self, layout: FileLayout) -> str:
        """The final path of one file."""
        return os.path.join(self.path, layout.name) if self.is_folder else self.path


def convert(
    plan: ConversionPlan, layouts: Sequence[FileLayout], target: Target, effort: Effort
) -> Conversion:
    """Write all ``layouts`` of ``plan`` to ``target``.

    Raises:
        DestinationExists: the target is there, is a source, or is being written by another run.
        NotEnoughSpace: known before the first byte.
        CkptToolError: the source changed or is damaged, or what was written reads back otherwise.
        OSError: as the file system says.
    """
    begin = time.monotonic()
    plan = check_target(plan, layouts, target)
    sources = effort.sources or plan.source.files  # the reader's end refuses what changed meanwhile
    hashes: list[str | None] = []
    if target.is_folder:
        names = [layout.name for layout in layouts]
        with (
            staged_folder(target.path, names, sum(layout.nbytes for layout in layouts)) as folder,
            TensorReader(sources) as reader,
        ):
            run = _Run(plan, effort, reader)
            for layout in layouts:
                path = os.path.join(folder, layout.name)
                with created_file(path, target.path_of(layout), layout.nbytes) as fd:
                    hashes.append(run.fill(layout, fd))
            run.complete_digests()
    else:
        with staged_file(target.path, layouts[0].nbytes) as fd, TensorReader(sources) as reader:
            run = _Run(plan, effort, reader)
            hashes.append(run.fill(layouts[0], fd))
            run.complete_digests()
    files = tuple(
        FileWritten(target.path_of(layout), layout.nbytes, sha256)
        for layout, sha256 in zip(layouts, hashes, strict=True)
    )
    seconds = time.monotonic() - begin
    return Conversion(plan, target.path, files, True, effort.check, seconds, run.losses, run.digests)


def plan_only(plan: ConversionPlan, layouts: Sequence[FileLayout], target: Target) -> Conversion:
    """What ``convert`` would give.

    Raises:
        DestinationExists: the target is there, or is a source.
    """
    plan = check_target(plan, layouts, target)
    files = tuple(FileWritten(target.path_of(layout), layout.nbytes) for layout in layouts)
    return Conversion(plan, target.path, files, written=False)


def check_target(plan: ConversionPlan, layouts: Sequence[FileLayout], target: Target) -> ConversionPlan:
    """Refuse what must not be overwritten, before anything is written; note what would stay beside it.

    Shards of an older set, or its index, are not removed: loaders may follow them all the same.

    Raises:
        DestinationExists: the target is there, or is a source.
    """
    for layout in layouts:
        refuse_overwriting(target.path_of(layout), force=target.force, sources=plan.source.files)
    if not os.path.isdir(target.path):  # a file that is to be there was refused if it is a folder
        return plan
    from ckpttool.files.folder import list_folder
    from ckpttool.formats.folders.choice import find_leftovers, shorten_list

    leftovers = find_leftovers(list_folder(target.path), [layout.name for layout in layouts])
    if not leftovers:
        return plan
    found = f"{plural(len(leftovers), 'file')} of an older set: {shorten_list(leftovers)}"
    if not target.force:
        raise DestinationExists(
            f"already holds {found}",
            path=target.path,
            hint="write into another folder; --force writes beside them",
        )
    them = agree(len(leftovers), "it", "them")
    note = f"{target.path} still holds {found}; remove {them}, or a loader may take {them} for these"
    return plan._replace(notes=(*plan.notes, note))


class _Run:
    """One conversion under way: the open source, and what is learnt from its bytes."""

    def __init__(self, plan: ConversionPlan, effort: Effort, reader: TensorReader) -> None:
        self._plan = plan
        self._effort = effort
        self._reader = reader
        self._crcs: dict[int, int] = {}
        # By tensor: the piece that is all of it, and what its digest is over besides bytes.
        self._wholes = (
            [_whole_piece(tensor, plan.pieces) for tensor in plan.tensors] if effort.digests else []
        )
        self._meanings = dict(filter(None, reversed(self._wholes)))  # by piece, those of the first tensor
        self._piece_digests: dict[tuple[int, _Meaning], str] = {}
        self.losses: dict[int, CastLoss] = {}
        self.digests: dict[int, str] = {}

    def fill(self, layout: FileLayout, fd: int) -> str | None:
        """Write one file and check it; its SHA-256 if digests are wanted.

        Raises:
            MalformedCheckpoint: what is read back is not what was written.
        """
        segments = self._write(layout, fd)
        if not (self._effort.check or self._effort.digests):
            return None
        os.fsync(fd)
        hasher = None
        if self._effort.digests:
            from hashlib import sha256  # loads OpenSSL: 2 ms, for digests alone

            hasher = sha256()
        checker = Checker(fd, layout.name, hasher.update if hasher else None)
        if self._effort.check:
            self._check(segments, checker)
        else:
            checker.read_all(layout.nbytes)
        return hasher.hexdigest() if hasher else None

    def _write(self, layout: FileLayout, fd: int) -> Iterable[Segment]:
        """Write one file; its segments as they stand there, checksums included."""
        crc32 = load_crc32() if layout.wants_crcs else None
        writer = Writer(fd)
        for segment in layout.segments({}):
            if segment.piece < 0:
                writer.append(segment.literal)
            else:
                self._write_piece(segment.piece, writer, crc32)
        writer.flush()
        if layout.wants_crcs:
            for segment in layout.segments(self._crcs):
                if segment.late:
                    write_at(fd, segment.literal, segment.offset)
        return layout.segments(self._crcs)

    def complete_digests(self) -> None:
        """Digests by tensor; one that is a strided view of its piece is read once more."""
        if not self._effort.digests:
            return
        from ckpttool.elements.digests import TensorDigest, digest_tensor

        for position, (tensor, whole) in enumerate(zip(self._plan.tensors, self._wholes, strict=True)):
            if whole in self._piece_digests:
                self.digests[position] = self._piece_digests[whole]
            elif whole is not None and not self._plan.pieces[whole[0]].nbytes:
                self.digests[position] = TensorDigest(*whole[1]).hexdigest()
            elif tensor.entry.value is not None:
                self.digests[position] = digest_tensor(self._reader, tensor.entry.value)

    def _write_piece(self, position: int, writer: Writer, crc32: Crc32 | None) -> None:
        """Send one piece into the file."""
        piece, meaning = self._plan.pieces[position], self._meanings.get(position)
        digester = None
        if meaning is not None:
            from ckpttool.elements.digests import TensorDigest

            digester = TensorDigest(*meaning)
        crc, advance = 0, self._effort.advance
        for block in self._iter_into(piece, writer, position):
            if crc32 is not None:
                crc = crc32(block, crc)
            if digester is not None:
                digester.update(block)
            advance(len(block))
        if crc32 is not None:
            self._crcs[position] = crc
        if digester is not None and meaning is not None:
            self._piece_digests[position, meaning] = digester.hexdigest()

    def _check(self, segments: Iterable[Segment], checker: Checker) -> None:
        """Send the same stream against the file."""
        advance = self._effort.advance
        for segment in segments:
            if segment.piece < 0:
                checker.append(segment.literal)
                continue
            for block in self._iter_into(self._plan.pieces[segment.piece], checker):
                advance(len(block))
        checker.flush()

    def _iter_into(self, piece: Piece, stream: Stream, position: int | None = None) -> Iterator[memoryview]:
        """Append a piece to ``stream``, yielding what was appended block by block.

        ``position`` is where to count what a cast loses; None if it was counted before.
        """
        if piece.cast is None and piece.runs is not None:
            for storage, offset, nbytes in piece.runs:
                end = offset + nbytes
                while offset < end:
                    room = stream.room(min(BLOCK_NBYTES, end - offset))
                    self._reader.read_into(storage, offset, room)
                    offset += len(room)
                    yield room
            return
        for chunk in self._iter_elements(piece, position):
            for at in range(0, len(chunk), BLOCK_NBYTES):
                block = chunk[at : at + BLOCK_NBYTES]
                stream.append(block)
                yield block

    def _iter_elements(self, piece: Piece, position: int | None) -> Iterator[memoryview]:
        """The elements of a piece that is gathered or cast, in chunks."""
        chunks = self._reader.iter_chunks(piece.source, chunk_nbytes=_GATHER_NBYTES)
        if piece.cast is None:
            yield from chunks
            return
        if self._effort.cast is None:
            raise CkptToolError("this plan casts, and no caster was given")
        for chunk in chunks:
            judge = position is not None
            data, loss = self._effort.cast(chunk, piece.source.dtype, piece.cast, judge=judge)
            if position is not None:
                self.losses[position] = self.losses.get(position, CastLoss()).joined(loss)
            yield data


_Meaning: TypeAlias = tuple[DType, tuple[int, ...]]
"""The dtype and shape that elements have in any container, also where one holds them as bytes."""


def _whole_piece(tensor: Planned, pieces: Sequence[Piece]) -> tuple[int, _Meaning] | None:
    """The piece whose bytes are exactly those of the tensor, packed; None for other views."""
    value = tensor.value
    if not isinstance(value, Placed) or value.conj or value.neg or value.storage_offset:
        return None
    piece = pieces[value.piece]
    view = TensorInfo(value.dtype, value.shape, value.stride, 0, None)
    if not view.is_contiguous or view.nbytes != piece.nbytes:
        return None
    info = tensor.entry.strided or piece.source
    return value.piece, (piece.cast or info.dtype, info.shape)


def named_digests(conversion: Conversion) -> list[NamedDigest]:
    """Return the digest of each name of the destination, tied ones too."""
    from ckpttool.elements.digests import NamedDigest

    plan = conversion.plan
    digests: list[NamedDigest] = []
    for position, digest in conversion.digests.items():
        tensor = plan.tensors[position]
        value = tensor.entry.value
        dtype, shape = (None, None) if value is None else (value.dtype, value.shape)
        if isinstance(tensor.value, Placed):
            dtype = plan.pieces[tensor.value.piece].cast or dtype
        kind = tensor.classification.kind
        digests.append(NamedDigest(tensor.root, tensor.name, kind, dtype, shape, digest))
    found = {str(item.name): item for item in digests}
    tied = plan.listed.items()
    return digests + [found[kept]._replace(name=alias) for alias, kept in tied if kept in found]
