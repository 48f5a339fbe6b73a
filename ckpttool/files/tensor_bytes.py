"""The only code that reads tensor bytes.

What comes out is always the same, whatever the container: elements in row-major order, packed,
little-endian, with the conj and neg bits resolved.

- A contiguous tensor, also one that views part of a storage, is read with plain ``preadv`` into
  one reused buffer. Never ``mmap``: a file that shrinks under a map kills the process.
- Any other strides are gathered in blocks of ``GATHER_BLOCKS`` chunks (see ``strides``). A block
  is made from windows of the storage, so a transposed matrix is read once a block, in runs as
  wide as the block is high. Peak memory: two blocks and a chunk, whatever the tensor's size.
- A DEFLATE storage is inflated as a stream from its start. Going on where the last read of the
  same storage ended costs nothing more; going back inflates again, so a *gathered* tensor of a
  compressed storage costs at most one pass over it a block. torch never writes such a storage.
- A tensor in chunks is read run by run where these are whole rows, else box by box: what each chunk
  has of a box is read in one piece and copied to its place.
- Numbers narrower than a byte have no address: read only when contiguous and byte-aligned.
- A logical size is not a stored one: an expanded tensor of a petabyte yields chunks lazily, and
  those of ``strides.stored_view(info)`` are each stored element once.

``TensorReader`` holds each file to what it was when its header was read (``files.local``), before the
first byte and again at the end. One reader belongs to one thread; ``Sources`` may be shared.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TypeAlias

from ckpttool.files.inflate import Inflater
from ckpttool.files.local import Sources
from ckpttool.files.strides import (
    GAP_NBYTES,
    ITEM_FORMATS,
    Dim,
    copy_strided,
    iter_blocks,
    iter_boxes,
    iter_windows,
    merge_dims,
    narrow,
    segments,
)
from ckpttool.values.checkpoint import (
    ChunkedTensor,
    FileInfo,
    Record,
    StorageRef,
    StoredRun,
    Strided,
    TensorInfo,
    packed_stride,
)
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint, UnsupportedFeature
from ckpttool.values.words import plural

# 8 MiB was fastest of 256 KiB to 64 MiB for reading and writing alike, and stays in a shared L3.
CHUNK_NBYTES = 8 << 20
# Chunks in a block of a gather: higher blocks make wider runs, and fewer passes over the storage.
GATHER_BLOCKS = 4

Files: TypeAlias = Iterable[FileInfo] | Sources
"""What a reader reads: files that it opens itself, or those that are held open."""

_FLIP_SIGN = bytes(byte ^ 0x80 for byte in range(256))


class TensorReader:
    """Reads the bytes of tensors and records of the given files. A context manager."""

    def __init__(self, files: Files) -> None:
        self._is_owner = not isinstance(files, Sources)
        self._sources = files if isinstance(files, Sources) else Sources(files)
        self._started: set[str] = set()
        self._path = ""  # of the source that is held, for the next read is most often of the same
        self._inflater: Inflater | None = None

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # That a file changed explains what is wrong with it.
            if kind is None or issubclass(kind, CkptToolError):
                for path in self._started:
                    self._sources.check(path)
        finally:
            self.close()

    def close(self) -> None:
        """Close every descriptor, if the sources are this reader's own."""
        self._release()
        self._started.clear()
        self._inflater = None
        if self._is_owner:
            self._sources.close()

    def iter_chunks(self, info: Strided, *, chunk_nbytes: int = CHUNK_NBYTES) -> Iterator[memoryview]:
        """The elements in row-major order, in chunks of whole elements of at most ``chunk_nbytes``.

        A chunk holds one element at least. It is overwritten by the next one: copy what must stay.

        Raises:
            MalformedCheckpoint: the elements leave their storage, the file changed or is damaged.
            UnsupportedFeature: meta device; sub-byte elements that are not packed; neg of integers.
        """
        if 0 in info.shape:
            return
        if isinstance(info, ChunkedTensor):
            yield from self._iter_chunked(info, chunk_nbytes)
            return
        storage = _checked_storage(info)
        if info.is_contiguous:
            group = info.dtype.bits // math.gcd(info.dtype.bits, 8)  # bytes of whole elements: 3 for 6 bits
            start, end = info.byte_span
            chunks = self._iter_range(storage, start, end, max(group, chunk_nbytes // group * group))
        else:
            chunks = self._iter_gathered(info, storage, chunk_nbytes)
        if not (storage.big_endian or info.conj or info.neg):
            yield from chunks
            return
        for chunk in chunks:
            _resolve(chunk, info, storage.big_endian)
            yield chunk

    def read(self, info: Strided, *, chunk_nbytes: int = CHUNK_NBYTES) -> bytearray:
        """All that ``iter_chunks`` gives, in one piece."""
        data = bytearray(info.nbytes)
        filled = 0
        for chunk in self.iter_chunks(info, chunk_nbytes=chunk_nbytes):
            data[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        return data

    def iter_record_chunks(self, record: Record, *, chunk_nbytes: int = CHUNK_NBYTES) -> Iterator[memoryview]:
        """The bytes of a zip member, inflated where it is compressed; what its CRC-32 is over.

        Raises:
            MalformedCheckpoint: it does not inflate to exactly the size that the archive claims.
        """
        storage = StorageRef(
            record.file,
            record.name,
            record.byte_offset,
            record.nbytes,
            compressed_nbytes=record.compressed_nbytes,
        )
        yield from self._iter_range(storage, 0, record.nbytes, chunk_nbytes)
        if storage.compressed_nbytes is not None:
            self._inflate_from(storage, record.nbytes).check_end()

    def read_into(self, storage: StorageRef, offset: int, target: memoryview) -> None:
        """Fill ``target`` with the raw bytes at ``offset`` of ``storage``.

        Raises:
            MalformedCheckpoint: the range leaves the storage, the file changed or is damaged.
        """
        if offset < 0 or offset + len(target) > storage.nbytes:
            raise MalformedCheckpoint(
                "a read leaves its storage", name=storage.key, byte_offset=offset, path=storage.file
            )
        if storage.compressed_nbytes is None:
            self._pread_into(storage.file, storage.byte_offset + offset, target)
        else:
            self._inflate_from(storage, offset).read_into(target)

    def _iter_range(
        self, storage: StorageRef, start: int, end: int, chunk_nbytes: int
    ) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(chunk_nbytes, end - start)))
        for offset in range(start, end, chunk_nbytes):
            chunk = buffer[: end - offset]
            self.read_into(storage, offset, chunk)
            yield chunk

    def _iter_gathered(
        self, info: TensorInfo, storage: StorageRef, chunk_nbytes: int
    ) -> Iterator[memoryview]:
        item, dims, start = _items(info)
        element = info.dtype.nbytes
        chunk_nbytes = max(element, chunk_nbytes // element * element)
        block = chunk_nbytes * GATHER_BLOCKS // item
        target = memoryview(bytearray(min(info.numel * element, block * item)))
        first, end = info.byte_span
        source = memoryview(bytearray(min(end - first, block * item)))
        # A stream must be inflated through its gaps anyway.
        gap = GAP_NBYTES // item if storage.compressed_nbytes is None else block
        for part in iter_blocks(dims, start, block):
            for window in iter_windows(part, block, gap):
                run = source[: window.span * item]
                self.read_into(storage, window.start * item, run)
                copy_strided(target, run, item, window.out, window.dims)
            for offset in range(0, part.numel * item, chunk_nbytes):
                yield target[offset : min(offset + chunk_nbytes, part.numel * item)]

    def _iter_chunked(self, tensor: ChunkedTensor, chunk_nbytes: int) -> Iterator[memoryview]:
        element = tensor.dtype.nbytes
        if tensor.dtype.bits % 8:
            raise UnsupportedFeature(f"{tensor.dtype.name} elements in chunks")
        chunk_nbytes = max(element, chunk_nbytes // element * element)
        for chunk in tensor.chunks:
            _checked_storage(chunk.value)
        runs = segments(tensor)
        if runs is not None:
            yield from self._iter_runs(runs, chunk_nbytes)
            return
        most = chunk_nbytes * GATHER_BLOCKS // element
        buffer = memoryview(bytearray(min(tensor.nbytes, most * element)))
        for start, shape in iter_boxes(tensor.shape, most):
            box = buffer[: math.prod(shape) * element]
            for offsets, view in tensor.chunks:
                self._read_into_box(box, start, shape, offsets, view)
            for at in range(0, len(box), chunk_nbytes):
                yield box[at : at + chunk_nbytes]

    def _iter_runs(self, runs: Iterable[StoredRun], chunk_nbytes: int) -> Iterator[memoryview]:
        """Runs of bytes one behind the other, in full chunks but for the last."""
        runs = list(runs)
        buffer = memoryview(bytearray(min(chunk_nbytes, sum(run.nbytes for run in runs))))
        filled = 0
        for storage, offset, nbytes in runs:
            while nbytes:
                part = buffer[filled : filled + nbytes]
                self.read_into(storage, offset, part)
                offset, nbytes, filled = offset + len(part), nbytes - len(part), filled + len(part)
                if filled == len(buffer):
                    yield buffer
                    filled = 0
        if filled:
            yield buffer[:filled]

    def _read_into_box(
        self,
        box: memoryview,
        start: Sequence[int],
        shape: Sequence[int],
        offsets: Sequence[int],
        view: TensorInfo,
    ) -> None:
        """Copy what the chunk ``view`` at ``offsets`` has of a box of the whole to its place there."""
        low = [max(a, b) for a, b in zip(start, offsets, strict=True)]
        high = [min(a + n, b + m) for a, n, b, m in zip(start, shape, offsets, view.shape, strict=True)]
        common = tuple(b - a for a, b in zip(low, high, strict=True))
        if min(common, default=1) <= 0:
            return
        inner = narrow(view, [a - b for a, b in zip(low, offsets, strict=True)], common)
        element = view.dtype.nbytes
        read = self.read(inner, chunk_nbytes=inner.nbytes)
        item = element if element in ITEM_FORMATS else 8
        scale = element // item
        steps, into = packed_stride((*common, scale)), packed_stride((*shape, scale))
        out = sum((a - b) * step for a, b, step in zip(low, start, into, strict=False))
        copy_strided(box, memoryview(read), item, out, list(map(Dim, (*common, scale), steps, into)))

    def _pread_into(self, path: str, offset: int, target: memoryview) -> None:
        if path != self._path:
            self._release()
            self._source = self._sources.take(path)
            self._path = path
            if path not in self._started:
                self._started.add(path)
                self._source.will_be_read_through()
        self._source.read_into(offset, target)

    def _release(self) -> None:
        if self._path:
            self._sources.leave(self._path)
            self._path = ""

    def _inflate_from(self, storage: StorageRef, offset: int) -> Inflater:
        """The stream of ``storage`` at ``offset``, going on where it stands if it can."""
        inflater = self._inflater
        if inflater is None or inflater.storage != storage or inflater.position > offset:
            inflater = self._inflater = Inflater(storage, self._pread_into)
        inflater.skip_to(offset)
        return inflater


def _checked_storage(info: TensorInfo) -> StorageRef:
    """The storage of ``info`` once its elements are known to lie in it, and to be readable."""
    storage = info.storage
    if storage is None or storage.location == "meta":
        raise UnsupportedFeature("a tensor on the meta device has no bytes")
    start, end = info.byte_span
    if start < 0 or end > storage.nbytes or min(info.stride, default=0) < 0:
        raise MalformedCheckpoint(
            "a tensor leaves its storage",
            name=storage.key,
            expected=f"at most {plural(storage.nbytes, 'byte')}",
            actual=f"bytes {start} to {end}",
            path=storage.file,
        )
    if info.dtype.bits % 8 and not (info.is_contiguous and info.storage_offset * info.dtype.bits % 8 == 0):
        raise UnsupportedFeature(
            f"{info.dtype.name} elements that are not packed from a whole byte on", path=storage.file
        )
    if info.neg and info.dtype.kind not in ("float", "complex"):
        raise UnsupportedFeature(f"the negative bit on a tensor of {info.dtype.name}", path=storage.file)
    return storage


def _items(info: TensorInfo) -> tuple[int, list[tuple[int, int]], int]:
    """Item size, dimensions and offset in items that ``memoryview`` has a format for.

    complex128 has none, so each element becomes a row of two items.
    """
    item = info.dtype.nbytes
    dims = merge_dims(info.shape, info.stride)
    if item in ITEM_FORMATS:
        return item, dims, info.storage_offset
    parts = item // 8
    return 8, [*((size, step * parts) for size, step in dims), (parts, 1)], info.storage_offset * parts


def _resolve(chunk: memoryview, info: TensorInfo, big_endian: bool) -> None:
    """Make stored elements those that the tensor means: swap bytes, then negate."""
    is_complex = info.dtype.kind == "complex"
    width = info.dtype.nbytes // 2 if is_complex else info.dtype.nbytes
    if big_endian:
        items = array(ITEM_FORMATS[width], bytes(chunk))
        items.byteswap()
        chunk[:] = memoryview(items).cast("B")
    # The sign is the top bit of the last byte. conj negates the imaginary half, neg negates both.
    flip_last = info.neg != (info.conj and is_complex)
    for last_byte, flip in ((width - 1, info.neg and is_complex), (info.dtype.nbytes - 1, flip_last)):
        if flip:
            signs = chunk[last_byte :: info.dtype.nbytes]
            signs[:] = bytes(signs).translate(_FLIP_SIGN)
