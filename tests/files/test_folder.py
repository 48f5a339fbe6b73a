"""Names in a folder, and which of them may be opened."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ckpttool.files import folder as module
from ckpttool.files.folder import Listing, list_folder, resolve_member
from ckpttool.files.local import FileSource, check_status, describe_file_type, open_source
from ckpttool.files.source import RangeSource
from ckpttool.values.checkpoint import FileInfo
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint


def test_names_are_sorted_and_links_are_what_they_lead_to(tmp_path: Path) -> None:
    for name in "cab":
        (tmp_path / name).touch()
    (tmp_path / "z").mkdir()
    (tmp_path / "y").symlink_to("z")
    (tmp_path / "x").symlink_to("a")
    (tmp_path / "w").symlink_to("nowhere")
    listing = list_folder(str(tmp_path))
    assert (listing.files, listing.folders) == (("a", "b", "c", "w", "x"), ("y", "z"))
    assert listing.at("a") == f"{tmp_path}/a"
    assert Listing(f"{tmp_path}//", (), ()).at("a") == f"{tmp_path}/a"
    assert Listing("/", (), ()).at("a") == "/a"


def test_a_link_that_leads_nowhere_in_any_way_is_no_folder(tmp_path: Path) -> None:
    """And what stands beside it can be read all the same."""
    (tmp_path / "file").touch()
    for name, target in (("circle", "circle"), ("there", "back"), ("back", "there"), ("below", "file/x"),
                         ("long", "x" * 300)):  # fmt: skip
        (tmp_path / name).symlink_to(target)
    listing = list_folder(str(tmp_path))
    assert (listing.files, listing.folders) == (("back", "below", "circle", "file", "long", "there"), ())


def test_a_folder_of_too_many_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._MAX_LISTED == 100_000
    monkeypatch.setattr(module, "_MAX_LISTED", 3)
    for name in ("a", "b"):
        (tmp_path / name).touch()
    (tmp_path / "c").mkdir()
    assert len(list_folder(str(tmp_path)).files) == 2
    (tmp_path / "d").touch()
    with pytest.raises(LimitExceeded) as caught:
        list_folder(str(tmp_path))
    assert (caught.value.limit, caught.value.path) == (3, str(tmp_path))
    assert caught.value.hint == "name the checkpoint itself"
    assert str(caught.value).startswith(f"{tmp_path}: number of files in the folder")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "a\\b", "a\0", "x" * 256, "é" * 128, "../a", "\\", "\0"]
)
def test_a_shard_is_a_plain_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(MalformedCheckpoint, match="not named by a plain file name") as caught:
        resolve_member(str(tmp_path), name, "index.json")
    assert caught.value.path == "index.json"


def test_a_refused_name_or_link_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MalformedCheckpoint) as caught:
        resolve_member(str(tmp_path), "../" + "x" * 300, "index.json")
    said = str(caught.value)
    assert said.startswith("index.json: a shard is not named by a plain file name: '../xxx")
    assert said.endswith(", expected a file of the same folder") and len(said) < 250
    (tmp_path / "link").symlink_to("/etc/hosts")
    with pytest.raises(MalformedCheckpoint) as caught:
        resolve_member(str(tmp_path), "link", "index.json")
    what = "a shard is a symbolic link that leaves the folder: 'link', got '/etc/hosts'"
    assert str(caught.value) == f"index.json: {what}"
    assert caught.value.hint == (
        "links are followed inside the folder and in a Hugging Face cache: copy the file here"
    )


@pytest.mark.parametrize("name", ["a", "...", ".a", "x" * 255, "é" * 127, "a b", "\udcff"])
def test_any_other_name_is_one(tmp_path: Path, name: str) -> None:
    assert resolve_member(str(tmp_path), name, "index.json") == f"{tmp_path}/{name}"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of Hugging Face: revisions of links into blobs."""
    for name in ("models/snapshots/rev", "models/blobs/deep", "other/blobs", "models/snapshots/rev2"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("models/blobs/b", "models/blobs/deep/b", "other/blobs/b", "models/snapshots/rev2/b", "out"):
        (tmp_path / name).touch()
    (tmp_path / "models/snapshots/rev/here").touch()
    return tmp_path


LINKS = {
    "../../blobs/b": True,
    "here": True,
    "../../blobs/deep/b": False,
    "../../../other/blobs/b": False,
    "../rev2/b": False,  # begins with the same letters
    "../../../out": False,
    "/etc/hosts": False,
    "../../blobs": False,
}


@pytest.mark.parametrize("target", LINKS)
def test_a_link_leads_into_the_folder_or_the_blobs_of_its_cache(cache: Path, target: str) -> None:
    home = cache / "models/snapshots/rev"
    (home / "link").symlink_to(target)
    if LINKS[target]:
        assert resolve_member(str(home), "link", "index.json") == f"{home}/link"
        return
    with pytest.raises(MalformedCheckpoint, match="leaves the folder") as caught:
        resolve_member(str(home), "link", "index.json")
    assert (caught.value.name, caught.value.path) == ("link", "index.json")
    assert caught.value.actual == repr(os.path.realpath(home / "link"))


def test_blobs_beside_any_other_folder_are_not_its_own(cache: Path) -> None:
    (cache / "plain").mkdir()
    (cache / "blobs").mkdir()
    (cache / "blobs/b").touch()
    for target in ("../blobs/b", "../models/blobs/b"):
        (cache / "plain/link").symlink_to(target)
        with pytest.raises(MalformedCheckpoint, match="leaves the folder"):
            resolve_member(str(cache / "plain"), "link", "index.json")
        (cache / "plain/link").unlink()
    (cache / "alias").symlink_to("models/snapshots/rev")
    (cache / "models/snapshots/rev/link").symlink_to("../../blobs/b")
    assert resolve_member(str(cache / "alias"), "link", "i") == f"{cache}/alias/link"


# -- one file -------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    return tmp_path / "a"


RANGES = [(0, 100, True), (100, 0, True), (99, 1, True), (0, 0, True), (40, 20, True), (0, 101, False),
          (100, 1, False), (101, 0, False), (-1, 2, False), (5, -1, False), (99, 2, False)]  # fmt: skip


@pytest.mark.parametrize(("offset", "nbytes", "inside"), RANGES)
def test_a_range_lies_inside_its_source(file: Path, offset: int, nbytes: int, inside: bool) -> None:
    with open_source(str(file)) as source:
        if inside:
            assert source.read_at(offset, nbytes) == bytes(range(100))[offset : offset + nbytes]
            part = RangeSource(source, offset, nbytes)
            assert (part.size, part.base, part.name) == (nbytes, offset, str(file))
            assert part.version == source.version
            assert part.read_at(0, nbytes) == source.read_at(offset, nbytes)
            buffer = bytearray(nbytes)
            part.read_into(0, memoryview(buffer))
            assert buffer == part.read_at(0, nbytes)
            return
        with pytest.raises(MalformedCheckpoint) as caught:
            source.read_at(offset, nbytes)
        assert caught.value.actual == f"{max(0, 100 - offset)} left" and caught.value.path == str(file)
        with pytest.raises(MalformedCheckpoint) as caught:
            RangeSource(source, offset, nbytes)
        assert (caught.value.byte_offset, caught.value.path) == (offset, str(file))


@pytest.mark.parametrize(("offset", "nbytes", "inside"), RANGES)
def test_a_range_of_a_range_counts_from_its_own_start(
    file: Path, offset: int, nbytes: int, inside: bool
) -> None:
    file.write_bytes(b"before" + bytes(range(100)) + b"behind it")
    with open_source(str(file)) as source:
        outer = RangeSource(source, 2, 108)
        part = RangeSource(outer, 4, 100)
        assert part.base == 6
        if inside:
            assert part.read_at(offset, nbytes) == bytes(range(100))[offset : offset + nbytes]
            assert RangeSource(part, offset, nbytes).read_at(0, nbytes) == part.read_at(offset, nbytes)
            return
        with pytest.raises(MalformedCheckpoint) as caught:
            part.read_at(offset, nbytes)
        assert caught.value.byte_offset == 6 + offset
        with pytest.raises(MalformedCheckpoint):
            RangeSource(part, offset, nbytes)


def test_short_reads_are_gone_on_with(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda fd, nbytes, at: pread(fd, min(nbytes, 7), at))
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:7]], at))
    with open_source(str(file)) as source:
        assert source.read_at(3, 50) == bytes(range(3, 53))
        buffer = bytearray(50)
        source.read_into(3, memoryview(buffer))
        assert bytes(buffer) == bytes(range(3, 53))
        monkeypatch.delattr(os, "preadv")
        source.read_into(40, memoryview(buffer))
        assert bytes(buffer) == bytes(range(40, 90))


def test_a_file_that_shrinks_is_no_loop(file: Path) -> None:
    source = FileSource(str(file))
    os.truncate(file, 30)
    for read in (lambda: source.read_at(20, 20), lambda: source.read_into(20, memoryview(bytearray(20)))):
        with pytest.raises(MalformedCheckpoint, match="shrank"):
            read()
    source.close()


def status_of(file: Path) -> tuple[FileInfo, os.stat_result]:
    return FileInfo.of(str(file), file.stat()), file.stat()


def test_each_change_of_a_file_is_called_by_its_name(file: Path) -> None:
    known, status = status_of(file)
    check_status(known, status)
    os.utime(file, ns=(1, 1))
    cases = {"was written to": file.stat(), "was replaced by something else": file.parent.stat()}
    file.write_bytes(bytes(20))
    cases["changed while it was read (expected 100 bytes, got 20 bytes)"] = file.stat()
    other = file.with_name("b")
    other.write_bytes(bytes(range(100)))
    other.replace(file)
    cases["was replaced by another"] = file.stat()
    for said, now in cases.items():
        with pytest.raises(MalformedCheckpoint) as caught:
            check_status(known, now)
        words, _, numbers = said.partition(" (")
        assert words in caught.value.what and caught.value.path == str(file)
        assert (caught.value.expected, caught.value.actual) == (
            ("100 bytes", "20 bytes") if numbers else (None, None)
        )
    with pytest.raises(MalformedCheckpoint, match="replaced by another"):
        FileSource(str(file), known)


def test_what_is_no_regular_file_is_called_by_its_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        kinds = {
            "folder": "a directory",
            "fifo": "a FIFO",
            "socket": "a socket",
            "/dev/null": "a character device",
        }
        for name, what in kinds.items():
            path = str(tmp_path / name)
            with pytest.raises(CkptToolError) as caught:
                FileSource(path)
            assert (caught.value.what, caught.value.path) == (f"{what}, not a regular file", path)
            assert describe_file_type(os.stat(path).st_mode) == what
    assert describe_file_type(0o060000) == "a block device"
    assert describe_file_type(0) == "a special file"
    with pytest.raises(FileNotFoundError) as missing:
        FileSource(str(tmp_path / "none"))
    assert missing.value.filename == str(tmp_path / "none")
