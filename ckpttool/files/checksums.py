"""Is what the file holds still what was written: CRC-32 of every zip member, sizes, places.

``torch.load`` never compares the CRC-32 that ``torch.save`` stores (built with
MINIZ_DISABLE_ZIP_READER_CRC32_CHECKS, pytorch PR 28858): one flipped bit in a weight loads
without a word. What can be known depends on the container:

- zip: each member's checksum is verified over its inflated bytes, and a compressed member must
  inflate to exactly the size it claims. Members lie inside the file and apart from each other
  (one that is itself an archive may hold others).
- A recorded CRC of 0 means "not recorded" (``torch.serialization.set_crc32_options(False)``).
  Such members are counted, never called verified.
- safetensors and the legacy format store no checksum. Reading the header has proved that offsets
  and sizes add up with the size of the file (``formats.validate``); a flipped bit cannot be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from ckpttool.files.local import Sources
from ckpttool.files.streams import BLOCK_NBYTES, Crc32, load_crc32
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import Checkpoint, Entry, Record, views_of
from ckpttool.values.errors import MalformedCheckpoint


class Status(Enum):
    """What a check found."""

    VERIFIED = "verified"
    NOT_RECORDED = "not_recorded"  # the archive holds no checksum for this member
    NO_CHECKSUM = "no_checksum"  # the format knows no checksums; ``name`` is ""
    MISMATCHED = "mismatched"  # the bytes are not those that were written
    DAMAGED = "damaged"  # sizes or places contradict each other, or it does not inflate


class CheckResult(NamedTuple):
    """One zip member, or one file of a format without checksums (``name`` "").

    ``expected`` and ``actual`` are CRC-32 values where both are known. ``entries`` are those whose
    values lie in a member that is not as it should be; ``message`` says what is wrong with it.
    """

    name: str
    file: str
    nbytes: int
    status: Status
    expected: int | None = None
    actual: int | None = None
    message: str = ""
    entries: tuple[Entry, ...] = ()

    @property
    def ok(self) -> bool:
        """True unless something is wrong; what cannot be verified is not wrong."""
        return self.status not in (Status.MISMATCHED, Status.DAMAGED)


class CheckReport(NamedTuple):
    """All results in short. ``bad`` are those that are not ok; bytes are of verified members."""

    verified: int
    verified_nbytes: int
    not_recorded: int
    files_without_checksums: tuple[str, ...]
    bad: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        """True when nothing is wrong, also when nothing could be verified."""
        return not self.bad

    @property
    def conclusive(self) -> bool:
        """True when every byte of every member was held against a checksum, and there is one."""
        return self.verified > 0 and not (self.not_recorded or self.files_without_checksums or self.bad)


def iter_checks(checkpoint: Checkpoint, sources: Sources | None = None) -> Iterator[CheckResult]:
    """Check each record, and each file without records, in turn; reads every byte of the records.

    Raises:
        MalformedCheckpoint: a file changed since its header was read.
    """
    misplaced, crc32 = _misplaced(checkpoint), load_crc32()
    with TensorReader(sources or checkpoint.files) as reader:
        for record in checkpoint.records:
            message = misplaced.get((record.file, record.name), "")
            result = _bad(record, message) if message else _check_record(reader, record, crc32)
            if not result.ok:
                result = result._replace(entries=_entries_in(checkpoint, record))
            yield result
    with_records = {record.file for record in checkpoint.records}
    for file in checkpoint.files:
        if file.path not in with_records:
            message = "no checksum in this format: sizes add up"
            yield CheckResult("", file.path, file.nbytes, Status.NO_CHECKSUM, message=message)


def summarize(results: Iterable[CheckResult]) -> CheckReport:
    """Count ``results`` and keep those that are not ok."""
    counts = dict.fromkeys(Status, 0)
    verified_nbytes = 0
    without: list[str] = []
    bad: list[CheckResult] = []
    for result in results:
        counts[result.status] += 1
        if result.status is Status.VERIFIED:
            verified_nbytes += result.nbytes
        elif result.status is Status.NO_CHECKSUM:
            without.append(result.file)
        elif not result.ok:
            bad.append(result)
    return CheckReport(
        counts[Status.VERIFIED], verified_nbytes, counts[Status.NOT_RECORDED], tuple(without), tuple(bad)
    )


def check(checkpoint: Checkpoint) -> CheckReport:
    """``summarize(iter_checks(checkpoint))``, for callers that show no progress.

    Raises:
        MalformedCheckpoint: a file changed since its header was read.
    """
    return summarize(iter_checks(checkpoint))


def _check_record(reader: TensorReader, record: Record, crc32: Crc32) -> CheckResult:
    """Hold one member against its checksum, or at least against its size."""
    if record.crc32 is None and record.compressed_nbytes is None:
        return CheckResult(record.name, record.file, record.nbytes, Status.NOT_RECORDED)
    actual = 0
    try:
        for chunk in reader.iter_record_chunks(record, chunk_nbytes=BLOCK_NBYTES):
            actual = crc32(chunk, actual)
    except MalformedCheckpoint as error:
        if error.name is None:  # the file, not the member: it changed or shrank
            raise
        return _bad(record, error.what)
    if record.crc32 is None:
        return CheckResult(record.name, record.file, record.nbytes, Status.NOT_RECORDED, actual=actual)
    status = Status.VERIFIED if actual == record.crc32 else Status.MISMATCHED
    message = "" if actual == record.crc32 else "the bytes are not those that were written"
    return CheckResult(record.name, record.file, record.nbytes, status, record.crc32, actual, message)


def _bad(record: Record, message: str) -> CheckResult:
    return CheckResult(record.name, record.file, record.nbytes, Status.DAMAGED, record.crc32, None, message)


def _misplaced(checkpoint: Checkpoint) -> dict[tuple[str, str], str]:
    """What is wrong with the place of a record, by (file, name).

    The zip reader refuses such a file; this also holds for records that came another way.
    """
    sizes = {file.path: file.nbytes for file in checkpoint.files}
    wrong: dict[tuple[str, str], str] = {}
    around: list[int] = []  # ends of the records that hold the current one, outermost first
    previous = ""
    for record in sorted(checkpoint.records, key=lambda one: (one.file, one.byte_offset, -_end(one))):
        if record.file != previous:
            previous, around = record.file, []
        if record.byte_offset < 0 or _end(record) > sizes.get(record.file, 0):
            wrong[record.file, record.name] = "it does not lie inside the file"
            continue
        while around and around[-1] <= record.byte_offset:
            around.pop()
        if around and _end(record) > around[-1]:
            wrong[record.file, record.name] = "it overlaps another member"
        around.append(_end(record))
    return wrong


def _end(record: Record) -> int:
    packed = record.nbytes if record.compressed_nbytes is None else record.compressed_nbytes
    return record.byte_offset + packed


def _entries_in(checkpoint: Checkpoint, record: Record) -> tuple[Entry, ...]:
    """Entries with elements in ``record``: whose values are not to be trusted."""
    start, end = record.byte_offset, _end(record)
    return tuple(
        entry
        for entry in checkpoint.entries
        if any(
            part.storage and part.storage.file == record.file and start <= part.storage.byte_offset < end
            for part in views_of(entry.value)
        )
    )
