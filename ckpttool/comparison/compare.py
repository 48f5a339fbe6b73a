"""Compare the bytes of two checkpoints, tensor by tensor, and put numbers on what differs.

Bytes first: NaN, -0.0, float8 and every other element is the same if its bits are, and most
tensors of two checkpoints of one run are. Equal tensors cost a ``preadv`` of each side and a
``memcmp`` in cache; neither numpy nor torch is imported. Where bytes or dtypes differ, a second
pass decodes both sides in blocks that stay in cache and adds up in float64.

- Elements correspond by their index, whatever the strides, the container and the byte order.
- Where both sides have the same strides, every *stored* element is compared once: an expanded tensor
  costs what its file holds. Views that expand differently, to far more than is stored, are refused.
- Work is cut into spans of 32 MiB for two threads (each with readers of its own), so that one
  large tensor is shared between them. Sums depend on the spans, which do not depend on threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from ckpttool.elements.arrays import import_numpy
from ckpttool.elements.sums import BLOCK_NUMEL, Sums, Tolerance
from ckpttool.files.strides import stored_view
from ckpttool.files.tensor_bytes import Files, TensorReader
from ckpttool.values.checkpoint import (
    CompositeTensor,
    StorageRef,
    Strided,
    Tensor,
    TensorInfo,
    has_bytes,
    parts,
    stored_nbytes,
    views_of,
)
from ckpttool.values.difference import Numbers, join_numbers
from ckpttool.values.errors import LimitExceeded, UnsupportedFeature

# Both blocks stay in an L2 cache between the read and the comparison.
_BLOCK_NBYTES = 512 << 10
_SPAN_NBYTES = 32 << 20
# Below this a second thread costs more than it gives.
_THREADED_NBYTES = 16 << 20
_THREADS = 2
# Views that expand in two different ways are walked as they claim to be, up to this many times their bytes.
_MOST_EXPANDED = 64
_ALWAYS_NUMEL = 1 << 24

Watch = Callable[[int], None]


class Outcome(NamedTuple):
    """What comparing one pair found. ``equal`` is None where there are no bytes to compare."""

    equal: bool | None
    numbers: Numbers | None = None
    note: str = ""


class Comparer:
    """Compares tensors of two sets of files. ``watch`` is told of bytes done on each side."""

    def __init__(
        self,
        files_a: Files,
        files_b: Files,
        tolerance: Tolerance | None = None,
        watch: Watch = lambda nbytes: None,
    ) -> None:
        self._files = files_a, files_b
        self._tolerance = tolerance or Tolerance()
        self._watch = watch

    def compare(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Outcome]:
        """The outcome of each pair of tensors of equal shape; ties are compared once.

        Raises:
            CkptToolError: a file changed or is damaged, or a pair expands to more than is compared.
            UnsupportedFeature: numbers are needed and numpy is not installed.
        """
        places: dict[tuple[Tensor, Tensor], int] = {}
        positions = [places.setdefault(pair, len(places)) for pair in pairs]
        found = self._compare_distinct(list(places))
        return [found[position] for position in positions]

    def _compare_distinct(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Outcome]:
        tasks: list[_Task] = []
        outcomes: list[Outcome] = []
        for a, b in pairs:
            made, outcome = _tasks_of(a, b, len(outcomes))
            tasks += made
            outcomes.append(outcome)
        differing = self._find_differing(tasks)
        for pair, found in self._measure([task for task in differing if not task.part]).items():
            outcomes[pair] = Outcome(False, found)
        other: dict[int, list[str]] = {}
        for task in differing:
            if task.part:
                other.setdefault(task.pair, []).append(task.part)
        for pair, names in other.items():
            outcomes[pair] = Outcome(False, note=f"other {', '.join(names)}")
        return outcomes

    def _find_differing(self, tasks: Sequence[_Task]) -> list[_Task]:
        """Tasks whose bytes are not the same."""
        differing = {(task.pair, task.part) for task in tasks if task.a.dtype is not task.b.dtype}
        unknown = [task for task in tasks if task.a.dtype is task.b.dtype and task.a != task.b]

        def work(readers: _Readers, task: _Task, first: int, count: int) -> None:
            place = task.pair, task.part
            if place not in differing and not readers.same_bytes(task, first, count):
                differing.add(place)

        self._share(unknown, work)
        return [task for task in tasks if (task.pair, task.part) in differing]

    def _measure(self, tasks: Sequence[_Task]) -> dict[int, Numbers]:
        """Numbers of each task, by its pair."""
        if not tasks:
            return {}
        np = import_numpy("the size of differences", "ask for --headers")
        found: dict[int, dict[int, Numbers]] = {task.pair: {} for task in tasks}

        def work(readers: _Readers, task: _Task, first: int, count: int) -> None:
            readers.sums = readers.sums or Sums(np, self._tolerance)
            with np.errstate(all="ignore"):
                found[task.pair][first] = readers.measure(task, first, count, readers.sums)

        self._share(tasks, work)
        # In the order of the spans: the same sum whichever thread was first.
        return {
            pair: join_numbers([parts[first] for first in sorted(parts)]) for pair, parts in found.items()
        }

    def _share(self, tasks: Sequence[_Task], work: _Work) -> None:
        """Let one or two threads work the spans of ``tasks`` off, each with readers of its own."""
        queue = deque((task, span) for task in tasks for span in _spans(task))

        def run() -> None:
            try:
                with TensorReader(self._files[0]) as reader_a, TensorReader(self._files[1]) as reader_b:
                    readers = _Readers(reader_a, reader_b)
                    while True:
                        try:
                            task, (first, count) = queue.popleft()
                        except IndexError:  # nothing is left
                            return
                        work(readers, task, first, count)
                        self._watch(count * task.a.dtype.bits // 8)
            finally:
                queue.clear()  # what one thread raises ends the other soon

        if sum(task.a.dtype.bits * task.a.numel for task in tasks) // 8 < _THREADED_NBYTES:
            run()
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_THREADS) as pool:
            futures = [pool.submit(run) for _ in range(_THREADS)]
            try:
                for future in futures:
                    future.result()
            finally:
                queue.clear()  # Ctrl-C comes here, and the pool waits for its threads


class _Task(NamedTuple):
    """Two strided tensors of one pair: all of it, or a part of composites."""

    pair: int
    a: Strided
    b: Strided
    part: str = ""


_Work: TypeAlias = "Callable[[_Readers, _Task, int, int], None]"
"""What is done with a span of a task: its first element and how many."""


def _tasks_of(a: Tensor, b: Tensor, index: int) -> tuple[list[_Task], Outcome]:
    """What to compare of a pair, and the outcome if all of that is equal."""
    same = Outcome(True)
    if not isinstance(a, CompositeTensor) and not isinstance(b, CompositeTensor):
        if 0 in a.shape:
            return [], same if a.dtype is b.dtype else Outcome(False, note="no elements")
        if not (has_bytes(a) and has_bytes(b)):
            one = has_bytes(a) != has_bytes(b)
            return [], Outcome(False if one else None, note="only one has values" if one else "no values")
        return [_Task(index, *_congruent(a, b))], same
    if not (isinstance(a, CompositeTensor) and isinstance(b, CompositeTensor)):
        return [], Outcome(False, note="one is made of parts, the other is not")
    parts_a, parts_b = dict(parts(a)), dict(parts(b))
    bare = [item._replace(parts=(), coalesced=None) for item in (a, b)]
    if bare[0] != bare[1] or parts_a.keys() != parts_b.keys():
        return [], Outcome(False, note=f"{a.layout} and {b.layout} of other parts or details")
    tasks = []
    for name, part in parts_a.items():
        other = parts_b[name]
        if (part.dtype, part.shape) != (other.dtype, other.shape):
            return [], Outcome(False, note=f"{name} of another dtype or shape")
        if not (has_bytes(part) and has_bytes(other)):
            both = has_bytes(part) == has_bytes(other)
            return [], Outcome(None if both else False, note=f"no values of {name}")
        tasks.append(_Task(index, *_congruent(part, other), name))
    return tasks, same


def _congruent(a: Strided, b: Strided) -> tuple[Strided, Strided]:
    """The two as views of the same shape whose elements correspond in order, as small as it can be.

    Raises:
        LimitExceeded: they expand in different ways to far more than is stored.
    """
    if isinstance(a, TensorInfo) and isinstance(b, TensorInfo):
        if a.stride == b.stride and _steps_apart(a):  # the k-th that is stored is the k-th that is stored
            return (a, b) if a.is_contiguous else (stored_view(a), stored_view(b))
        # What both repeat is compared once.
        kept = [place for place, steps in enumerate(zip(a.stride, b.stride, strict=True)) if any(steps)]
        a, b = (
            info._replace(
                shape=tuple(info.shape[place] for place in kept),
                stride=tuple(info.stride[place] for place in kept),
            )
            for info in (a, b)
        )
    limit = max(_ALWAYS_NUMEL, _MOST_EXPANDED * sum(stored_nbytes(x) * 8 // x.dtype.bits for x in (a, b)))
    if a.numel > limit:
        path = next((view.storage.file for view in views_of(a) if view.storage is not None), None)
        what = "the number of elements that two views expand to, in different ways,"
        raise LimitExceeded(what, limit=limit, actual=a.numel, path=path)
    return a, b


def _steps_apart(info: TensorInfo) -> bool:
    """Whether different indices are different elements, but for dimensions that repeat (stride 0)."""
    reach = 0
    for step, size in sorted(zip(info.stride, info.shape, strict=True)):
        if step and size != 1:
            if step <= reach:
                return False
            reach += (size - 1) * step
    return True


def _packed_run(info: Strided) -> tuple[StorageRef, int] | None:
    """The storage, and the bit where the elements begin, if any run of them is a run of bytes by itself."""
    if not isinstance(info, TensorInfo) or not info.is_contiguous or info.storage is None:
        return None
    start = info.storage_offset * info.dtype.bits
    return (info.storage, start) if info.storage.compressed_nbytes is None else None


def _spans(task: _Task) -> Iterator[tuple[int, int]]:
    """(first element, count) of the runs that may be compared apart."""
    numel = task.a.numel
    if _packed_run(task.a) is None or _packed_run(task.b) is None:
        yield 0, numel
        return
    # A multiple of every element's width, of 6-bit groups and of the blocks below.
    step = _SPAN_NBYTES // max(task.a.dtype.nbytes, task.b.dtype.nbytes)
    for start in range(0, numel, step):
        yield start, min(step, numel - start)


class _Readers:
    """The readers of one thread, one a side, and its memory."""

    def __init__(self, a: TensorReader, b: TensorReader) -> None:
        self._a, self._b = a, b
        self._buffers = bytearray(_BLOCK_NBYTES), bytearray(_BLOCK_NBYTES)
        self.sums: Sums | None = None  # made when it is needed

    def same_bytes(self, task: _Task, start: int, count: int) -> bool:
        """Whether ``count`` elements from ``start`` on have the same bits on both sides."""
        a, b, bits = task.a, task.b, task.a.dtype.bits
        run_a, run_b = _packed_run(a), _packed_run(b)
        if not run_a or not run_b or a[5:] != b[5:] or run_a[0].big_endian != run_b[0].big_endian:
            return all(bytes(x) == bytes(y) for x, y, _ in self._zip(task, start, count))
        for storage, first in (run_a, run_b):
            if first % 8:
                raise UnsupportedFeature(f"{a.dtype.name} that does not begin on a byte", path=storage.file)
        from_a, from_b = ((first + start * bits) // 8 for _, first in (run_a, run_b))
        nbytes = (count * bits + 7) // 8
        for at in range(0, nbytes, _BLOCK_NBYTES):
            size = min(_BLOCK_NBYTES, nbytes - at)
            read_a, read_b = self._buffers if size == _BLOCK_NBYTES else (bytearray(size), bytearray(size))
            self._a.read_into(run_a[0], from_a + at, memoryview(read_a))
            self._b.read_into(run_b[0], from_b + at, memoryview(read_b))
            if read_a != read_b:  # one memcmp; memoryviews would be compared item by item
                return False
        return True

    def measure(self, task: _Task, start: int, count: int, sums: Sums) -> Numbers:
        """Numbers of ``count`` elements from ``start`` on."""
        sums.begin(task.a.dtype, task.b.dtype)
        for chunk_a, chunk_b, numel in self._zip(task, start, count):
            sums.add(chunk_a, chunk_b, numel)
        return sums.result()

    def _zip(self, task: _Task, start: int, count: int) -> Iterator[tuple[memoryview, memoryview, int]]:
        """Chunks of both sides that hold the same elements, and how many: ``BLOCK_NUMEL`` at most.

        Eight times as many are read at once.
        """
        chunks_a, chunks_b = (
            reader.iter_chunks(_run(info, start, count), chunk_nbytes=BLOCK_NUMEL * info.dtype.bits)
            for reader, info in ((self._a, task.a), (self._b, task.b))
        )
        bits_a, bits_b = task.a.dtype.bits, task.b.dtype.bits
        a = b = memoryview(b"")
        while count:
            a = a if len(a) else next(chunks_a)
            b = b if len(b) else next(chunks_b)
            numel = min(len(a) * 8 // bits_a, len(b) * 8 // bits_b, BLOCK_NUMEL, count)
            cut_a, cut_b = (numel * bits_a + 7) // 8, (numel * bits_b + 7) // 8
            yield a[:cut_a], b[:cut_b], numel
            a, b, count = a[cut_a:], b[cut_b:], count - numel


def _run(info: Strided, start: int, count: int) -> Strided:
    """``count`` elements of a packed tensor as a tensor of their own; others are whole."""
    if count == info.numel or not isinstance(info, TensorInfo):
        return info
    return info._replace(shape=(count,), stride=(1,), storage_offset=info.storage_offset + start)
