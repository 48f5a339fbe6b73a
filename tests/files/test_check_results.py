"""Every field of what a check finds, for members that lie, inflate and add up in every way."""

from __future__ import annotations

import itertools
import zlib
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.files import checksums
from ckpttool.files.checksums import CheckReport, CheckResult, Status, check, iter_checks, summarize
from ckpttool.files.local import Sources
from ckpttool.values.checkpoint import (
    Checkpoint,
    CompositeTensor,
    Entry,
    FileInfo,
    Part,
    Record,
    StorageRef,
    Tensor,
    TensorInfo,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import MalformedCheckpoint

DATA = bytes((at * 7 + 3) % 256 for at in range(200))
OTHERWISE, OUTSIDE = "the bytes are not those that were written", "it does not lie inside the file"
OVERLAPS, NOTHING = "it overlaps another member", "no checksum in this format: sizes add up"


def deflated(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


def checkpoint(
    folder: Path, contents: dict[str, bytes], *records: Record, entries: tuple[Entry, ...] = ()
) -> Checkpoint:
    files = []
    for name, content in contents.items():
        path = folder / name
        path.write_bytes(content)
        files.append(FileInfo.of(str(path), path.stat()))
    return Checkpoint(str(folder), "x", "", tuple(files), entries, records=records)


def tensor(file: str, offset: int) -> TensorInfo:
    return TensorInfo(BY_NAME["uint8"], (4,), (1,), 0, StorageRef(file, "k", offset, 4))


def test_every_kind_of_result_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "BLOCK_NBYTES", 16)
    packed = deflated(DATA)
    x, y, z = (str(tmp_path / name) for name in "xyz")
    crc, packed_crc = zlib.crc32(DATA), zlib.crc32(packed)
    good = Record("good", x, 0, 200, None, crc)
    wrong = Record("wrong", x, 200, 200, None, crc ^ 1)
    bare = Record("bare", x, 400, 200, None, None)
    inflated = Record("inflated", y, 5, 200, len(packed), crc)
    unsummed = Record("unsummed", y, 5, 200, len(packed), None)
    short = Record("short", y, 5, 201, len(packed), crc)
    outside = Record("outside", y, 6, len(packed), None, packed_crc)
    entries = (
        Entry((), "a", tensor(x, 200)),
        Entry(
            (),
            "b",
            CompositeTensor("s", "t", None, None, (Part("p", tensor(x, 0)), Part("q", tensor(x, 399)))),
        ),
        Entry((), "none", None),
        Entry((), "meta", tensor(x, 250)._replace(storage=None)),
        Entry((), "before", tensor(x, 199)),
        Entry((), "behind", tensor(x, 400)),
        Entry((), "elsewhere", tensor(y, 250)),
        Entry((), "c", tensor(y, 5)),
    )
    made = checkpoint(
        tmp_path, {"x": DATA * 3, "y": b"-----" + packed, "z": b"zz"},
        good, wrong, bare, inflated, unsummed, short, outside, entries=entries,
    )  # fmt: skip
    too_early = "the compressed data ends too early"
    wanted = [
        CheckResult("good", x, 200, Status.VERIFIED, crc, crc),
        CheckResult("wrong", x, 200, Status.MISMATCHED, crc ^ 1, crc, OTHERWISE, entries[:2]),
        CheckResult("bare", x, 200, Status.NOT_RECORDED),
        CheckResult("inflated", y, 200, Status.VERIFIED, crc, crc),
        CheckResult("unsummed", y, 200, Status.NOT_RECORDED, None, crc),
        CheckResult("short", y, 201, Status.DAMAGED, crc, None, too_early, (entries[7],)),
        CheckResult("outside", y, len(packed), Status.DAMAGED, packed_crc, None, OUTSIDE, (entries[6],)),
        CheckResult("", z, 2, Status.NO_CHECKSUM, message=NOTHING),
    ]
    if len(packed) + 6 <= 250:  # then nothing lies there
        wanted[6] = wanted[6]._replace(entries=())
    assert list(iter_checks(made)) == wanted
    assert [result.ok for result in wanted] == [True, False, True, True, True, False, False, True]
    report = CheckReport(2, 400, 2, (z,), (wanted[1], wanted[5], wanted[6]))
    assert check(made) == summarize(wanted) == report
    with closing(Sources(made.files)) as sources:
        assert list(iter_checks(made, sources)) == wanted
        assert set(sources._open) == {x, y}  # these were read, and are held by whoever owns them


def test_a_report_says_good_and_proved_apart() -> None:
    bad = CheckResult("n", "f", 1, Status.DAMAGED)
    for verified, unrecorded, files, wrong in itertools.product(
        (0, 1, 2), (0, 1), ((), ("f",)), ((), (bad,))
    ):
        report = CheckReport(verified, 5, unrecorded, files, wrong)
        assert report.ok is (wrong == ())
        assert report.conclusive is (verified > 0 and unrecorded == 0 and files == () and wrong == ())


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.sampled_from("xy"), st.integers(-1, 11), st.integers(0, 5), st.booleans()), max_size=5
    )
)
def test_members_lie_inside_their_file_and_within_or_beside_each_other(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[str, int, int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("placed")
    records = [
        # What is compressed takes other bytes than it has.
        Record(f"{at}", str(folder / file), start, 7 if packed else size, size if packed else None, 0)
        for at, (file, start, size, packed) in enumerate(places)
    ]
    made = checkpoint(folder, {"x": bytes(12), "y": bytes(10)}, *records)
    sizes = {"x": 12, "y": 10}
    found = checksums._misplaced(made)
    inside = []
    for record, (file, start, size, _) in zip(records, places, strict=True):
        if start < 0 or start + size > sizes[file]:
            assert found.pop((record.file, record.name)) == OUTSIDE
        else:
            inside.append((record, file, start, start + size))
    crossing = [
        (a[0].name, b[0].name)
        for a, b in itertools.permutations(inside, 2)
        if a[1] == b[1] and a[2] < b[2] < a[3] < b[3]
    ]
    assert set(found.values()) <= {OVERLAPS}
    assert bool(found) is bool(crossing)


def test_a_record_of_a_file_that_is_none_of_the_checkpoint(tmp_path: Path) -> None:
    made = checkpoint(tmp_path, {"x": DATA}, Record("r", str(tmp_path / "y"), 0, 1, None, 5))
    assert next(iter_checks(made)).message == OUTSIDE


def test_a_file_that_is_cut_short_is_no_result(tmp_path: Path) -> None:
    made = checkpoint(tmp_path, {"x": DATA}, Record("r", str(tmp_path / "x"), 0, 200, None, zlib.crc32(DATA)))
    (tmp_path / "x").write_bytes(DATA[:100])
    with pytest.raises(MalformedCheckpoint, match="expected 200 bytes, got 100 bytes"):
        list(iter_checks(made))


@pytest.mark.parametrize("value", [None, tensor("x", 3)])
def test_what_has_no_bytes_in_a_member_is_not_named(tmp_path: Path, value: Tensor | None) -> None:
    record = Record("r", str(tmp_path / "x"), 0, 200, None, 1)
    made = checkpoint(tmp_path, {"x": DATA}, record, entries=(Entry((), "n", value),))
    assert [result.entries for result in iter_checks(made)] == [()]
