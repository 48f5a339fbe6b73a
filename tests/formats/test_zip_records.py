"""Members of a zip as ranges of bytes, held against Python's zipfile and the fields that were written."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.formats.base import Limits
from ckpttool.formats.zip_records import FETCH_AGAIN, ZipArchive, has_end_record, read_archive, read_record
from ckpttool.values.checkpoint import FileInfo
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint, UnsupportedFeature

FULL = 0xFFFFFFFF
WORDS = ("nbytes", "compressed", "header")


class Bytes:
    """A source in memory, at some place of a file, that counts what is read of it."""

    name = "a.zip"
    version = FileInfo("a.zip", 0, 0, 0)

    def __init__(self, data: bytes, base: int = 0) -> None:
        self.data, self.size, self.base = data, len(data), base
        self.reads: list[tuple[int, int]] = []

    def read_at(self, offset: int, nbytes: int) -> bytes:
        assert 0 <= offset and 0 <= nbytes and offset + nbytes <= self.size
        self.reads.append((offset, nbytes))
        return self.data[offset : offset + nbytes]

    def read_into(self, offset: int, target: memoryview) -> None:
        target[:] = self.read_at(offset, len(target))


class File(NamedTuple):
    """One member, and how its fields are said."""

    name: str
    data: bytes
    deflated: bool = False
    wide: tuple[str, ...] = ()  # of WORDS: in the zip64 field, although they are small
    before: bytes = b""  # other extra fields of the directory, before the zip64 field
    after: bytes = b""
    local_extra: bytes = b""
    descriptor: bool = False  # bit 3: the local header has no sizes
    gap: int = 0  # bytes before the local header
    crc: int | None = None
    extra: bytes | None = None  # all of the directory's extra field
    central: dict[str, int] = {}  # other values in the directory  # noqa: RUF012
    local: dict[str, int] = {}  # and in the local header  # noqa: RUF012
    local_name: bytes | None = None
    comment: bytes = b""


def packed(file: File) -> bytes:
    if not file.deflated:
        return file.data
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(file.data) + deflate.flush()


def write(*files: File, comment: bytes = b"", zip64: bool = False, tail: bytes = b"", **end: int) -> bytes:
    """A zip of these, with other fields of the end record if given."""
    body, directory = bytearray(), bytearray()
    for file in files:
        body += bytes(file.gap)
        name, data = file.name.encode(), packed(file)
        known = {
            "magic": 0x04034B50, "flags": 8 * file.descriptor, "method": 8 * file.deflated,
            "crc": zlib.crc32(file.data) if file.crc is None else file.crc,
            "compressed": len(data), "nbytes": len(file.data), "header": len(body),
        }  # fmt: skip
        seen = {**known, **({"nbytes": 0, "compressed": 0} if file.descriptor else {}), **file.local}
        local_name = name if file.local_name is None else file.local_name
        body += struct.pack("<I5H", seen["magic"], 20, seen["flags"], seen["method"], 0, 0)
        body += struct.pack("<3I", seen["crc"], seen["compressed"], seen["nbytes"])
        body += struct.pack("<2H", len(local_name), len(file.local_extra))
        body += local_name + file.local_extra + data
        wide = b"".join(struct.pack("<Q", known[word]) for word in WORDS if word in file.wide)
        field = struct.pack("<2H", 1, len(wide)) + wide if wide else b""
        extra = file.before + field + file.after if file.extra is None else file.extra
        said = {**known, **dict.fromkeys(file.wide, FULL), "magic": 0x02014B50, **file.central}
        directory += struct.pack("<I6H3I5H2I", said["magic"], 20, 20, said["flags"], said["method"], 0, 0,
                                 said["crc"], said["compressed"], said["nbytes"], len(name), len(extra),
                                 len(file.comment), 0, 0, 0, said["header"])  # fmt: skip
        directory += name + extra + file.comment
    at = len(body)
    fields = {
        "disk": 0,
        "directory_disk": 0,
        "count": len(files),
        "nbytes": len(directory),
        "offset": at,
        **end,
    }
    body += directory
    if zip64:
        end64 = len(body)
        body += struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, fields["disk"], fields["directory_disk"],
                            fields["count"], fields["count"], fields["nbytes"], fields["offset"])  # fmt: skip
        body += struct.pack("<4sIQI", b"PK\x06\x07", 0, end64, 1)
        fields |= {"count": 0xFFFF, "nbytes": FULL, "offset": FULL}
    body += struct.pack("<4s4H2IH", b"PK\x05\x06", fields["disk"], fields["directory_disk"], fields["count"],
                        fields["count"], fields["nbytes"], fields["offset"], len(comment))  # fmt: skip
    return bytes(body) + comment + tail


def archive(content: bytes, limits: Limits | None = None, base: int = 0) -> ZipArchive:
    return read_archive(Bytes(content, base), limits or Limits())


def refusal(content: bytes, limits: Limits | None = None) -> Any:
    with pytest.raises(CkptToolError) as caught:
        archive(content, limits)
    return caught.value


# -- what is right --------------------------------------------------------------------------------------

other_fields = st.lists(
    st.tuples(st.integers(2, 0xFFFF), st.binary(max_size=9)).map(
        lambda field: struct.pack("<2H", field[0], len(field[1])) + field[1]
    ),
    max_size=2,
).map(b"".join)


@st.composite
def archives(draw: Any) -> list[File]:
    names = draw(st.lists(st.text("abü/0", max_size=4), max_size=5, unique_by=str.lower))
    return [
        File(
            name,
            draw(st.binary(max_size=40)) * draw(st.sampled_from([1, 1, 50])),
            deflated=draw(st.booleans()),
            wide=tuple(draw(st.lists(st.sampled_from(WORDS), max_size=3, unique=True))),
            before=draw(other_fields),
            after=draw(other_fields),
            local_extra=bytes(draw(st.sampled_from([0, 0, 3, 64]))),
            descriptor=draw(st.booleans()),
            gap=draw(st.sampled_from([0, 0, 7])),
            comment=draw(st.binary(max_size=5)),
        )
        for name in names
    ]


@settings(max_examples=200)
@given(archives(), st.booleans(), st.sampled_from([b"", b"x", b"c" * 3000]), st.sampled_from([0, 5000]))
def test_members_are_those_of_zipfile_wherever_their_sizes_stand(
    files: list[File], zip64: bool, comment: bytes, base: int
) -> None:
    content = write(*files, zip64=zip64, comment=comment)
    source = Bytes(content, base)
    assert has_end_record(source)
    found = read_archive(source, Limits())
    assert found.findings == ()
    assert [record.name for record in found.records.values()] == [file.name for file in files]
    with zipfile.ZipFile(io.BytesIO(content)) as theirs:
        infos = theirs.infolist()
        assert [(info.file_size, info.compress_size) for info in infos] == [
            (record.nbytes, record.nbytes if record.compressed_nbytes is None else record.compressed_nbytes)
            for record in found.records.values()
        ]
    for file, record in zip(files, found.records.values(), strict=True):
        assert (record.compressed_nbytes is None) is not file.deflated
        assert record.crc32 == (zlib.crc32(file.data) or (None if file.data else 0))
        start = record.byte_offset - base
        assert content[start : start + len(packed(file))] == packed(file)
        assert read_record(source, record, 4096, "a member") == file.data


def test_a_checksum_of_0_is_none_unless_nothing_is_summed() -> None:
    found = archive(write(File("a", b"data", crc=0), File("b", b""), File("c", b"data")))
    assert [record.crc32 for record in found.records.values()] == [None, 0, zlib.crc32(b"data")]


def test_headers_that_lie_close_are_read_together_and_big_members_not_at_all() -> None:
    source = Bytes(write(*(File(f"m{number}", bytes(100)) for number in range(400))))
    read_archive(source, Limits())
    assert len(source.reads) < 8
    source = Bytes(write(*(File(f"m{number}", bytes(100)) for number in range(3000))))
    read_archive(source, Limits())
    assert sum(nbytes for _, nbytes in source.reads) < 1.15 * source.size
    assert len(source.reads) < 20
    source = Bytes(write(*(File(f"m{number}", bytes(1 << 18)) for number in range(6))))
    read_archive(source, Limits())
    # The window of the first member, which nothing stood before, and one header for each other one.
    assert sum(nbytes for _, nbytes in source.reads) < (1 << 16) + 2000
    assert len(source.reads) < 12


# -- local headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [
        File("a", b"data", local={"nbytes": 5}),
        File("a", b"data", local={"compressed": 5}),
        File("a", b"data", local={"method": 8}),
        File("a", b"data", local={"flags": 1}),
        File("a", b"data", local={"flags": 0x2000}),
        File("a", b"data", local_name=b"b"),
    ],
)
def test_a_local_header_that_contradicts_the_directory_is_reported(file: File) -> None:
    found = archive(write(File("before", b"x"), file, File("last", b"y", local={"nbytes": 9})))
    (finding,) = found.findings
    assert (finding.code, finding.severity, finding.name) == ("zip-headers-differ", "warning", "a")
    assert finding.message.startswith("2 members have a local header")
    assert list(found.records) == ["before", "a", "last"]


@pytest.mark.parametrize(
    "file",
    [
        File("a", b"data", local={"nbytes": FULL, "compressed": FULL}),
        File("a", b"data", local={"nbytes": FULL}),
        File("a", b"data", descriptor=True),
        File("a", b"data", descriptor=True, local={"nbytes": 7, "compressed": 9}),
        File("a", b"data", local={"crc": 5}),
    ],
)
def test_one_that_says_nothing_is_not(file: File) -> None:
    assert archive(write(file)).findings == ()


def test_a_member_begins_where_its_local_header_says() -> None:
    """With a longer name than the directory has, and padding."""
    content = write(File("a", b"data", local_name=b"longer", local_extra=bytes(9)))
    record = archive(content).records["a"]
    assert content[record.byte_offset :][:4] == b"data"


@pytest.mark.parametrize("magic", [0, 0x02014B50])
def test_where_no_local_header_stands_there_is_no_member(magic: int) -> None:
    error = refusal(write(File("first", b"x"), File("a", b"data", local={"magic": magic})))
    assert "no local header" in str(error) and error.name == "a"
    assert error.byte_offset == 30 + 5 + 1


# -- sizes and places -----------------------------------------------------------------------------------


def test_a_member_ends_with_the_file_and_its_header_lies_in_it() -> None:
    data = b"data"
    good = write(File("a", data))
    assert archive(good).records["a"].nbytes == 4
    beyond = len(good) - 31
    error = refusal(write(File("a", data, central={"header": beyond + 1})))
    assert "lies outside the file" in str(error)
    assert (error.name, error.byte_offset, error.expected, error.actual) == (
        "a", beyond + 1, "31 bytes", "30 left",
    )  # fmt: skip
    assert "no local header" in str(refusal(write(File("a", data, central={"header": beyond}))))
    assert refusal(write(File("a", data, central={"header": 1 << 20}))).actual == "0 left"
    most = len(good) - 31
    error = refusal(write(File("a", data, central={"nbytes": most + 1, "compressed": most + 1})))
    assert "lies outside the file" in str(error)
    assert (error.byte_offset, error.expected, error.actual) == (31, f"{most + 1} bytes", f"{most} left")
    error = refusal(write(File("a", data, central={"nbytes": most, "compressed": most})))
    assert "a member of the zip overlaps its central directory" in str(error)
    for header in (len(good) - 1, len(good), len(good) + 1):
        error = refusal(write(File("a", data, central={"header": header})))
        assert (error.byte_offset, error.actual) == (header, f"{max(len(good) - header, 0)} left")


def test_members_share_no_byte_with_each_other_or_with_the_directory() -> None:
    first, second = File("a", b"data"), File("b", b"more")
    assert len(archive(write(first, second)).records) == 2
    long = File("a", b"data", central={"nbytes": 5, "compressed": 5})
    error = refusal(write(long, second))
    assert "two members of the zip overlap" in str(error) and (error.name, error.byte_offset) == ("b", 35)
    error = refusal(write(first, second, long._replace(name="c")))
    assert "overlaps its central directory" in str(error) and (error.name, error.byte_offset) == ("c", 70)
    # The directory may list them in any order.
    turned = [first._replace(central={"header": 35}), second._replace(central={"header": 0})]
    assert list(archive(write(*turned)).records) == ["a", "b"]
    error = refusal(write(second, first, File("c", b"", central={"header": 35})))
    assert "two members of the zip overlap" in str(error)
    assert archive(write()).records == {}


def test_a_stored_member_has_one_size() -> None:
    error = refusal(write(File("a", b"data", central={"nbytes": 5})))
    assert "a stored zip member has two sizes" in str(error)
    assert (error.name, error.expected, error.actual) == ("a", 5, 4)


def test_a_deflated_member_holds_no_more_than_deflate_can() -> None:
    file = File("a", bytes(50_000), deflated=True)
    most = 1032 * (len(packed(file)) + 1)
    assert archive(write(file._replace(central={"nbytes": most}))).records["a"].nbytes == most
    error = refusal(write(file._replace(central={"nbytes": most + 1})))
    assert "claims more than DEFLATE can hold" in str(error)
    assert (error.name, error.expected, error.actual) == ("a", f"at most {most:,} bytes", most + 1)


@pytest.mark.parametrize("nbytes", [3, 5, 4000])
def test_a_deflated_member_has_the_size_that_it_says(nbytes: int) -> None:
    source = Bytes(write(File("a", b"data", deflated=True, central={"nbytes": nbytes})))
    record = read_archive(source, Limits()).records["a"]
    with pytest.raises(MalformedCheckpoint) as caught:
        read_record(source, record, 4096, "a member")
    assert "does not have the size" in str(caught.value) and caught.value.name == "a"
    assert caught.value.expected == f"{nbytes:,} bytes"
    assert caught.value.actual == ("4 or more" if nbytes == 3 else "4")


def test_a_member_is_read_up_to_a_limit(tmp_path: Any) -> None:
    source = Bytes(write(File("a", b"data"), File("b", b"\xff\xff", deflated=True, central={"method": 8})))
    record = read_archive(source, Limits()).records["a"]
    assert read_record(source, record, 4, "member a") == b"data"
    with pytest.raises(LimitExceeded) as caught:
        read_record(source, record, 3, "member a")
    assert (caught.value.what, caught.value.limit, caught.value.actual) == ("size of member a", 3, 4)
    broken = Bytes(write(File("a", b"\xff" * 9, central={"method": 8}, local={"method": 8})))
    with pytest.raises(MalformedCheckpoint, match="damaged DEFLATE stream"):
        read_record(broken, read_archive(broken, Limits()).records["a"], 4096, "member a")


# -- the zip64 field ------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, 7])
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("before", [b"", struct.pack("<2H5s", 0x5455, 5, b"\x01\0\0\0\0")])
@pytest.mark.parametrize("after", [b"", bytes(12)])
def test_a_zip64_field_too_short_for_what_it_must_hold_gives_nothing(
    word: str, before: bytes, after: bytes, nbytes: int
) -> None:
    """The full 32-bit number stands, and what lies there is outside of the file, whatever field follows."""
    extra = before + struct.pack("<2H", 1, nbytes) + bytes(nbytes) + after
    file = File("a", b"data", deflated=word != "nbytes", central={word: FULL}, extra=extra)
    assert "4,294,967,295" in str(refusal(write(file))) or "outside" in str(refusal(write(file)))
    enough = before + struct.pack(
        "<2HQ", 1, 8, {"nbytes": 4, "compressed": len(packed(file)), "header": 0}[word]
    )
    assert archive(write(file._replace(extra=enough))).records["a"].nbytes == 4


def test_a_zip64_field_gives_only_what_is_full() -> None:
    """Three values in the field where one is asked for: the first of them (APPNOTE 4.5.3)."""
    extra = struct.pack("<2H3Q", 1, 24, 0, 99, 99)
    found = archive(write(File("a", b"data", central={"header": FULL}, extra=extra)))
    assert (found.records["a"].byte_offset, found.records["a"].nbytes) == (31, 4)
    ignored = struct.pack("<2H3Q", 1, 24, 99, 99, 99)
    assert archive(write(File("a", b"data", extra=ignored))).records["a"].nbytes == 4


@pytest.mark.parametrize(
    "extra", [b"", b"\x01", b"\x01\0\x08", struct.pack("<2H", 7, 0), struct.pack("<2H4s", 2, 500, b""),
              struct.pack("<2H7s", 1, 8, b"")]
)  # fmt: skip
def test_an_extra_field_that_is_cut_gives_nothing(extra: bytes) -> None:
    file = File("a", b"data", central={"header": FULL}, extra=extra)
    for comment in (b"", bytes(1), bytes(24)):
        assert "outside the file" in str(refusal(write(file._replace(comment=comment))))


# -- the directory --------------------------------------------------------------------------------------


def test_the_directory_is_as_large_as_the_limits_say_and_no_larger() -> None:
    files = [File(f"m{number}", b"") for number in range(3)]
    content = write(*files)
    nbytes = 3 * (46 + 2)
    assert len(archive(content, Limits(header_nbytes=nbytes, records=3)).records) == 3
    error = refusal(content, Limits(header_nbytes=nbytes - 1))
    assert (error.what, error.limit, error.actual) == (
        "size of the zip's central directory", nbytes - 1, nbytes,
    )  # fmt: skip
    error = refusal(content, Limits(records=2))
    assert (error.what, error.limit, error.actual) == ("number of members in the zip", 2, 3)


def test_the_directory_lies_before_its_end_record() -> None:
    content = write(File("a", b"data"))
    at = len(content) - 22 - 47
    error = refusal(write(File("a", b"data"), offset=at + 1))
    assert "central directory lies outside the file" in str(error)
    assert (error.byte_offset, error.expected) == (at + 1, "47 bytes") and "fetch" in error.hint
    assert "damaged" in str(refusal(write(File("a", b"data"), offset=at - 1)))


def test_the_directory_has_as_many_members_as_it_says() -> None:
    files = [File(name, b"data") for name in ("a", "bc", "def")]
    entries = [46 + len(file.name) for file in files]
    error = refusal(write(*files, count=4))
    assert "is cut off" in str(error) and error.byte_offset == len(write(*files)) - 22
    for count in (0, 1, 2):
        error, more = refusal(write(*files, count=count)), sum(entries[count:])
        assert "is longer than its members" in str(error)
        assert (error.byte_offset, error.expected, error.actual) == (
            len(write(*files)) - 22 - more, f"{count} member" + "s" * (count != 1), f"{more} bytes more",
        )  # fmt: skip


def test_a_damaged_entry_of_the_directory_is_placed() -> None:
    error = refusal(write(File("a", b"data"), File("b", b"more", central={"magic": 0})))
    assert "central directory is damaged" in str(error) and error.byte_offset == 70 + 47


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (File("a", b"data", central={"method": 12}), "zip compression method 12 of member 'a'"),
        (File("a", b"data", central={"flags": 1}), "encrypted zip member 'a'"),
        (File("a", b"data", central={"flags": 0x40}), "encrypted zip member 'a'"),
        (File("a", b"data", central={"flags": 0x2000}), "encrypted zip member 'a'"),
    ],
)
def test_what_cannot_be_read_is_named(file: File, words: str) -> None:
    error = refusal(write(file))
    assert isinstance(error, UnsupportedFeature) and words in str(error)


@pytest.mark.parametrize(("disk", "whole"), [((0, 0), True), ((1, 1), True), ((0xFFFF, 0xFFFF), True),
                                             ((0, 1), False), ((2, 2), False)])  # fmt: skip
def test_a_zip_is_one_file(disk: tuple[int, int], whole: bool) -> None:
    """Some writers count disks from 1."""
    content = write(File("a", b"data"), disk=disk[0], directory_disk=disk[1])
    if whole:
        assert list(archive(content).records) == ["a"]
    else:
        assert "split over several files" in str(refusal(content))


@pytest.mark.parametrize("names", [["a", "b", "a"], ["a", "b", "A"]])
def test_two_names_that_are_equal_but_for_case_are_refused(names: list[str]) -> None:
    error = refusal(write(*(File(name, b"x") for name in names)))
    assert "the same name" in str(error) and error.name == names[2]


# -- the end record -------------------------------------------------------------------------------------


def test_the_end_record_is_found_as_far_back_as_a_comment_can_be_long() -> None:
    content = write(File("a", b"data"))
    assert has_end_record(Bytes(content + bytes(0xFFFF)))
    assert not has_end_record(Bytes(content + bytes(0x10000)))
    error = refusal(content + bytes(0x10000))
    assert error.hint == FETCH_AGAIN
    assert f"zip cut at byte {len(content) + 0x10000}: no central directory" in str(error)
    for size in range(23):
        assert has_end_record(Bytes(content[-22:][:size])) is (size == 22)
    assert not has_end_record(Bytes(b""))


def test_the_last_end_record_counts() -> None:
    """The first one stands in the data of a member."""
    decoy = write()
    found = archive(write(File("a", decoy), comment=b"then a comment"))
    assert found.records["a"].nbytes == len(decoy)


def test_a_locator_that_leads_nowhere_is_none() -> None:
    """Without a zip64 record before it, the numbers of the plain record stand."""
    for end64, magic in (
        (0, b"PK\x06\x07"),
        (80, b"PK\x06\x07"),
        (1 << 40, b"PK\x06\x07"),
        (0, b"PK\x06\x08"),
    ):
        locator = struct.pack("<4sIQI", magic, 0, end64, 1)
        plain = write(File("a", b"data"))
        content = plain[:-22] + locator + plain[-22:]
        assert list(archive(content).records) == ["a"]
    # Nor is a record one that nothing, or something else, leads to: this one would lead out of the file.
    for magic, locating, counts in (
        (b"PK\x06\x06", b"PK\x06\x07", True), (b"PK\x06\x06", b"PK\x06\x08", False),
        (b"PK\x06\x06", b"PK\x05\x07", False), (b"PK\x06\x05", b"PK\x06\x07", False),
    ):  # fmt: skip
        record = struct.pack("<4sQ2H2I4Q", magic, 44, 45, 45, 0, 0, 1, 1, 47, 1 << 40)
        content = plain[:-22] + record + struct.pack("<4sIQI", locating, 0, len(plain) - 22, 1) + plain[-22:]
        if counts:
            assert "central directory lies outside the file" in str(refusal(content))
        else:
            assert list(archive(content).records) == ["a"]


def test_the_numbers_of_a_zip64_record_are_held_to_the_same_rules() -> None:
    file = File("a", b"data")
    assert "split over" in str(refusal(write(file, zip64=True, disk=0, directory_disk=3)))
    assert "lies outside" in str(refusal(write(file, zip64=True, offset=36)))
    assert "lies outside" in str(refusal(write(file, zip64=True, nbytes=48)))
    assert "number of members" in str(refusal(write(file, zip64=True, count=1 << 40)))
