"""What must hold for any file whatever: the property of all fuzzing.

``exercise`` reads a file, looks into it in every way that ``inspect`` has, reads the tensors' bytes, converts
it both ways and compares it with itself. Nothing but ``CkptToolError`` and ``OSError`` may come out of any of
these, nothing that is shown may move a cursor, and time and memory are bounded: the reader's by 2 s and
200 MB whatever the file, the rest's by how much it turned out to hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import tempfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ckpttool.comparison.contents import digest_rows
from ckpttool.comparison.diff import Request, diff_sides, total_nbytes
from ckpttool.comparison.sides import Placed, make_side
from ckpttool.conversion.execute import Effort, Target, convert
from ckpttool.conversion.plan import plan_conversion
from ckpttool.conversion.shards import lay_out_file
from ckpttool.elements.stats import iter_stats
from ckpttool.files.checksums import iter_checks, summarize
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.formats import read_checkpoint
from ckpttool.formats.carried import expand
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.render.diff import iter_diff
from ckpttool.render.diff_data import iter_pipe as iter_diff_pipe
from ckpttool.render.found import check_fact
from ckpttool.render.globals import iter_globals, iter_globals_pipe, weights_only_fact
from ckpttool.render.inspection import iter_finding_lines, iter_inspection, iter_pipe
from ckpttool.render.json import dump, inspect_document
from ckpttool.render.stats import stats_fields
from ckpttool.render.tables import Line
from ckpttool.render.tensor import iter_tensor
from ckpttool.render.textconv import iter_textconv
from ckpttool.render.views import DiffListing, InspectListing
from ckpttool.values.checkpoint import Checkpoint, TensorInfo, views_of
from ckpttool.values.conversion import Options
from ckpttool.values.errors import CkptToolError
from ckpttool.values.inspection import Inspection
from ckpttool.values.words import safe
from tests.hostile.inert import RAW
from tests.hostile.mutations import write_input

_READ_SECONDS = 2.0  # of processor time, for reading and classifying
_READ_MEMORY = 200 << 20
_LEAF_SECONDS = 250e-6  # more for each leaf, for a dozen views, two conversions and a comparison
_LEAF_MEMORY = 10_000

_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc: gives free memory back

_READ_NBYTES = 1 << 16  # of each tensor: an expanded one may have petabytes
_MOVED_NBYTES = 1 << 20  # converted and compared: for the same reason
_SHOWN_ROWS = 3
_CONTAINERS = ("pt", "safetensors")


class Outcome(NamedTuple):
    """The checkpoint or the refusal, and how many containers it could be written to."""

    checkpoint: Checkpoint | None
    error: str = ""
    converted: int = 0


class TooSlow(BaseException):
    """The time limit; not an Exception, so that no handler takes it for one of its own."""


class TooMuchMemory(AssertionError):
    """The memory limit, seen afterwards."""


def try_out(data: bytes, slowness: float = 1.0) -> Outcome:
    """``exercise`` on a file, or a packed folder, with this content."""
    # In memory where that can be: what is converted is synced to its disk.
    disk = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with (
        tempfile.TemporaryDirectory(dir=disk, prefix="fuzz-") as source,
        tempfile.TemporaryDirectory(dir=disk, prefix="fuzz-") as scratch,
    ):
        return exercise(write_input(data, source), scratch, slowness)


def exercise(path: str, scratch: str, slowness: float = 1.0) -> Outcome:
    """Do everything with ``path`` that a command would; ``scratch`` is a folder to convert into.

    ``slowness`` multiplies the time limits, where the code under test is instrumented.

    Raises:
        TooSlow: beyond a limit of time; TooMuchMemory: of memory.
        Exception: whatever is not a ``CkptToolError`` or ``OSError`` is a defect; so is AssertionError.
    """
    with watched(_READ_SECONDS * slowness, _READ_MEMORY):
        try:
            checkpoint = read_checkpoint(path)
        except (CkptToolError, OSError) as error:
            text = safe(str(error), 4000)
            _check_text([text, safe(getattr(error, "hint", None) or "")])
            return Outcome(None, text)
        inspection = inspect_checkpoint(checkpoint)
    leaves = len(checkpoint.entries) + len(checkpoint.values) + len(checkpoint.opaque)
    seconds = (_READ_SECONDS + _LEAF_SECONDS * leaves) * slowness
    with watched(seconds, _READ_MEMORY + _LEAF_MEMORY * leaves):
        _show(inspection)
        _read_bytes(checkpoint)
        _read_values(checkpoint)
        converted = sum(_convert(checkpoint, container, scratch) for container in _CONTAINERS)
    return Outcome(checkpoint, "", converted)


def _show(inspection: Inspection) -> None:
    """Every view of ``inspect``."""
    checkpoint = inspection.checkpoint
    document = "".join(dump(inspect_document(inspection)))
    json.loads(document)
    report = summarize(list(iter_checks(checkpoint)))
    facts = [weights_only_fact(checkpoint), check_fact(report)]
    _check_text([document, *iter_pipe(inspection), *iter_finding_lines(inspection.findings)])
    _check_text([*iter_globals_pipe(checkpoint), *facts])
    _check_lines(iter_globals(checkpoint, 80))
    _check_lines(iter_inspection(inspection, 100, InspectListing(False, False, "file"), facts))
    _check_lines(iter_inspection(inspection, 40, InspectListing(True, True, "size"), facts))
    for row in inspection.rows[:_SHOWN_ROWS]:
        _check_lines(iter_tensor(row, 80, None, ()))


def _check_lines(lines: Iterable[Line]) -> None:
    _check_text(span.text for line in lines for span in line)


def _check_text(texts: Iterable[str]) -> None:
    for text in texts:
        found = RAW.search(text)
        assert found is None, f"raw control character in {text[max(0, found.start() - 60) :][:120]!r}"


def _read_bytes(checkpoint: Checkpoint) -> None:
    """The first bytes of every tensor."""
    with TensorReader(checkpoint.files) as reader:
        for entry in checkpoint.entries:
            for part in views_of(entry.value):
                _head(reader, part)


def _head(reader: TensorReader, info: TensorInfo) -> bytes | None:
    """The first bytes of a tensor, or None if that is refused."""
    head = bytearray()
    try:
        for chunk in reader.iter_chunks(info, chunk_nbytes=_READ_NBYTES):
            head += chunk
            if len(head) >= _READ_NBYTES:
                break
    except CkptToolError:
        return None
    # A chunk holds whole elements: its length depends on their size.
    assert len(head) >= min(info.nbytes, _READ_NBYTES - 16)
    return bytes(head[:_READ_NBYTES])


def _read_values(checkpoint: Checkpoint) -> None:
    """Statistics, digests, and a comparison with itself, of what is not large."""
    side = make_side(expand(checkpoint), "x")
    if total_nbytes(side, side) > _MOVED_NBYTES:
        return
    try:
        with TensorReader(checkpoint.files) as reader:
            for stats in iter_stats(checkpoint.entries, reader):
                _check_text(stats_fields([stats]))
        items = [Placed(row.entry.root, row.entry.name, row) for row in side.rows]
        _check_text(iter_textconv(side, digest_rows(items, side.checkpoint.files)))
        diff = diff_sides(side, side, Request())
    except (CkptToolError, OSError):
        return
    assert diff.equal, [entry for entry in diff.entries if entry.status.value != "equal"]
    _check_text(iter_diff_pipe(diff, DiffListing(True, None, None)))
    _check_lines(iter_diff(diff, 80, DiffListing(True, None, None)))


def _convert(checkpoint: Checkpoint, container: str, scratch: str) -> bool:
    """Convert, read back, and hold names, dtypes, shapes and bytes against the plan; False if refused."""
    source = expand(checkpoint)
    target = os.path.join(scratch, f"converted.{container}")
    try:
        plan = plan_conversion(inspect_checkpoint(source), Options(container))
        if plan.nbytes > _MOVED_NBYTES:
            return False
        convert(plan, lay_out_file(plan, os.path.basename(target)), Target(target, False, True), Effort())
    except (CkptToolError, OSError):
        return False
    written = read_checkpoint(target)
    inspect_checkpoint(expand(written))
    # In safetensors a name stands for the whole path.
    planned = {
        ((*tensor.root, tensor.name) if container == "pt" else tensor.name): tensor for tensor in plan.tensors
    }
    found = {
        ((*entry.root, entry.name) if container == "pt" else entry.name): entry for entry in written.entries
    }
    if any(container.type_name == "set" for container in source.containers):
        assert len(planned) == len(found)  # a place in a set is no name: what is left behind moves the others
        return True
    assert planned.keys() == found.keys(), planned.keys() ^ found.keys()
    with TensorReader((*source.files, *written.files)) as reader:
        for name, entry in found.items():
            before, after = planned[name].entry.tensor, entry.tensor
            if before is not None and after is not None:
                assert (before.dtype, before.shape) == (after.dtype, after.shape), name
                assert _head(reader, before) == _head(reader, after), name
    return True


@contextlib.contextmanager
def watched(seconds: float, nbytes: int) -> Iterator[None]:
    """Bound the processor time and, on Linux, the memory that a block takes more than there was before.

    Raises:
        TooSlow: at once.
        TooMuchMemory: at the end.
    """

    def too_slow(*_: object) -> None:
        raise TooSlow(f"more than {seconds} s of processor time")

    before = signal.signal(signal.SIGPROF, too_slow)
    resident = _reset_peak()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    grown = _peak() - resident
    if grown > nbytes:
        raise TooMuchMemory(f"{grown:,} bytes more than before")


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes; 0 where there is no such file."""
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(field.encode()):
                    return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass
    return 0


def _reset_peak() -> int:
    """Let the peak of the resident memory begin anew; the memory that is resident now.

    What earlier tests freed is given back first: where a block could take it, nothing would grow.
    """
    if _TRIM is not None:
        _TRIM(0)
    with contextlib.suppress(FileNotFoundError), open("/proc/self/clear_refs", "wb") as file:
        file.write(b"5")  # proc(5): reset VmHWM
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")
