"""A file of this machine: what is asked of the system to read it, and when it is given back."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.files import local
from ckpttool.files.local import FileSource, Sources, check_path, naming, open_source
from ckpttool.values.checkpoint import FileInfo
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint
from tests.support.descriptors import watch

DATA = bytes(range(7, 47))
REMOVED = "the file was removed while it was read"
CHANGED = "the file changed while it was read, expected 40 bytes, got 41 bytes"


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def fail(*_: Any) -> Any:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(DATA)
    return tmp_path / "a"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("local") / "a"
    path.write_bytes(DATA)
    return path


# -- one file -------------------------------------------------------------------------------------------


def test_a_source_is_what_the_file_was_when_it_was_opened(file: Path) -> None:
    before = open_descriptors()
    source = FileSource(str(file))
    assert (source.name, source.base, source.size) == (str(file), 0, 40)
    assert source.version == FileInfo.of(str(file), file.stat())
    assert open_descriptors() == before + 1
    file.write_bytes(b"")
    assert source.size == source.version.nbytes == 40
    source.close()
    assert open_descriptors() == before


def short(most: list[int]) -> Callable[[int], int]:
    """How much of so many bytes the system gives: at most the next of these, in turn for ever."""
    turns = itertools.cycle(most)
    return lambda nbytes: min(nbytes, next(turns))


places = st.integers(-3, 44)


@settings(max_examples=200)
@given(places, places, st.lists(st.integers(1, 50), min_size=1, max_size=3))
def test_any_range_is_read_in_as_few_calls_as_the_system_lets(
    kept: Path, offset: int, nbytes: int, most: list[int]
) -> None:
    is_inside = offset >= 0 and nbytes >= 0 and offset + nbytes <= len(DATA)
    give, gave = short(most), short(most)
    calls, at = [], 0
    while is_inside and at < nbytes:
        calls.append((nbytes - at, offset + at))
        at += give(nbytes - at)
    with open_source(str(kept)) as source, pytest.MonkeyPatch.context() as patch:
        seen = watch(patch, local, pread=lambda fd, size, at: os.pread(fd, gave(size), at))
        if not is_inside:
            with pytest.raises(MalformedCheckpoint) as caught:
                source.read_at(offset, nbytes)
            left = max(0, len(DATA) - offset)
            what = f"a range lies outside the file at byte {offset}"
            some = "byte" if nbytes == 1 else "bytes"
            assert str(caught.value) == f"{kept}: {what}, expected {nbytes} {some}, got {left} left"
            assert not seen.made
            return
        assert source.read_at(offset, nbytes) == DATA[offset : offset + nbytes]
        assert [arguments[1:] for arguments in seen.arguments("pread")] == (calls or [(0, offset)])


@settings(max_examples=200)
@given(
    st.integers(0, 40),
    st.integers(0, 45),
    st.lists(st.integers(1, 50), min_size=1, max_size=3),
    st.booleans(),
)
def test_a_buffer_is_filled_and_nothing_beside_it(
    kept: Path, offset: int, nbytes: int, most: list[int], vectored: bool
) -> None:
    buffer = bytearray(b"\xff" * (nbytes + 4))
    target = memoryview(buffer)[2 : 2 + nbytes]
    gave = short(most)
    with open_source(str(kept)) as source, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", lambda fd, size, at, real=os.pread: real(fd, gave(size), at))
        if vectored:
            patch.setattr(
                os,
                "preadv",
                lambda fd, views, at, real=os.preadv: real(fd, [views[0][: gave(len(views[0]))]], at),
            )
        else:
            patch.delattr(os, "preadv")  # macOS before 11
        if offset + nbytes > len(DATA):
            with pytest.raises(MalformedCheckpoint) as caught:
                source.read_into(offset, target)
            assert str(caught.value) == f"{kept}: the file shrank while it was read at byte 40"
            nbytes = len(DATA) - offset
        else:
            source.read_into(offset, target)
    assert buffer[2 : 2 + nbytes] == DATA[offset : offset + nbytes]
    assert set(buffer[:2] + buffer[2 + nbytes :]) == {255}


def test_a_file_that_shrinks_between_two_reads_is_said_to(file: Path) -> None:
    source = FileSource(str(file))
    os.truncate(file, 30)
    assert source.read_at(25, 0) == source.read_at(40, 0) == b""
    with pytest.raises(MalformedCheckpoint) as caught:
        source.read_at(25, 10)
    assert str(caught.value) == f"{file}: the file shrank while it was read"
    source.close()


def test_what_the_disk_says_names_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileSource(str(file))
    calls: list[tuple[str, Callable[[], object]]] = [
        ("pread", lambda: source.read_at(0, 4)),
        ("preadv", lambda: source.read_into(0, memoryview(bytearray(4)))),
        ("fstat", lambda: FileSource(str(file))),
        ("close", source.close),
    ]
    before = open_descriptors()
    for name, call in calls:
        with pytest.MonkeyPatch.context() as patch:
            watch(patch, local, **{name: fail})
            with pytest.raises(OSError) as caught:
                call()
        assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(file))
        assert open_descriptors() == before, name
    source.close()


def test_an_error_keeps_the_name_that_it_has_and_others_get_none() -> None:
    for error, named in ((OSError(5, "x"), "a"), (OSError(5, "x", "b"), "b"), (ValueError("x"), None)):
        with pytest.raises(type(error)) as caught, naming("a"):
            raise error
        assert getattr(caught.value, "filename", None) == named
    with naming("a"):
        pass


def test_the_system_is_told_to_read_ahead_and_need_not_know_how(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FileSource(str(file))
    for advise in (lambda *_: None, fail):
        with pytest.MonkeyPatch.context() as patch:
            seen = watch(patch, local, posix_fadvise=advise)
            source.will_be_read_through()
        assert seen.arguments("posix_fadvise") == [(source._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)]
    monkeypatch.delattr(os, "posix_fadvise")  # macOS
    source.will_be_read_through()
    source.close()


def test_what_cannot_be_opened_holds_no_descriptor(tmp_path: Path, file: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = open_descriptors()
    changed = FileInfo.of(str(file), file.stat())._replace(nbytes=41)
    at_fifo = changed._replace(path=str(tmp_path / "fifo"))
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        for path, known, said in [
            (tmp_path, None, "a directory, not a regular file"),
            (tmp_path / "fifo", None, "a FIFO, not a regular file"),
            (tmp_path / "socket", None, "a socket, not a regular file"),
            (tmp_path / "fifo", at_fifo, "the file was replaced by something else"),
            (file, changed, "the file changed while it was read, expected 41 bytes, got 40 bytes"),
        ]:
            with pytest.raises(CkptToolError) as caught:
                FileSource(str(path), known)
            assert str(caught.value) == f"{path}: {said}"
    for path, number in ((tmp_path / "none", errno.ENOENT), (file / "below", errno.ENOTDIR)):
        with pytest.raises(OSError) as missing:
            FileSource(str(path))
        assert (missing.value.errno, missing.value.filename) == (number, str(path))
    assert open_descriptors() == before


def test_an_address_in_the_place_of_a_path_shows_no_secret() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        FileSource("https://user:secret@host/model.pt?token=secret")
    assert caught.value.filename == "https://host/model.pt"


# -- files that are no longer what they were ------------------------------------------------------------


def replace(file: Path) -> None:
    file.rename(f"{file}.old")
    file.write_bytes(DATA)


def test_what_has_the_name_of_a_file_must_be_it(file: Path) -> None:
    known = FileInfo.of(str(file), file.stat())
    check_path(known)
    changes: list[tuple[str, Callable[[], object]]] = [
        ("the file was written to while it was read", lambda: os.utime(file, ns=(3, 3))),
        (CHANGED, lambda: file.write_bytes(DATA + b"x")),
        ("the file was replaced by another while it was read", lambda: replace(file)),
        (REMOVED, file.unlink),
        ("the file was replaced by something else", file.mkdir),
    ]
    for said, change in changes:
        change()
        with pytest.raises(MalformedCheckpoint) as caught:
            check_path(known)
        assert str(caught.value) == f"{file}: {said}"
    with pytest.raises(NotADirectoryError):
        check_path(known._replace(path=f"{file}.old/below"))


ERRORS: dict[str, Callable[[], Exception | None]] = {
    "none": lambda: None,
    "without a path": lambda: CkptToolError("odd"),
    "with a path": lambda: CkptToolError("odd", path="b"),
    "another": lambda: KeyError("odd"),
}


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("changed", [False, True])
def test_that_a_file_changed_explains_what_is_wrong_with_it(file: Path, kind: str, changed: bool) -> None:
    sources, error, caught = Sources(), ERRORS[kind](), None
    try:
        with sources.reading(str(file)) as source:
            assert source.read_at(0, 40) == DATA and sources._users == {str(file): 1}
            if changed:
                file.write_bytes(DATA + b"x")
            if error is not None:
                raise error
    except (CkptToolError, KeyError) as raised:
        caught = raised
    assert sources._users == {str(file): 0}
    sources.close()
    if changed and kind != "another":
        assert str(caught) == f"{file}: {CHANGED}"
        return
    assert caught is error
    if isinstance(error, CkptToolError):
        assert error.path == ("b" if kind == "with a path" else str(file))


# -- many files -----------------------------------------------------------------------------------------

MOST = 3
STEPS = st.lists(st.tuples(st.sampled_from(["take", "leave", "close"]), st.integers(0, 5)), max_size=40)


@settings(max_examples=150)
@given(STEPS)
def test_those_that_are_idle_longest_are_closed_first(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "many"
    folder.mkdir(exist_ok=True)
    paths = [str(folder / str(number)) for number in range(6)]
    for path in paths:
        if not os.path.exists(path):
            Path(path).write_text(path)
    sources, opened, expected = Sources(), 0, 0
    users = dict.fromkeys(paths, 0)
    held: list[str] = []  # as a list of names, the one that was used last at the end
    before = open_descriptors()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_MOST_OPEN", MOST)
        seen = watch(patch, local)
        for step, number in steps:
            path = paths[number]
            if step == "close":
                if any(users.values()):
                    continue
                sources.close()
                held = []
            elif step == "leave":
                if users[path]:
                    sources.leave(path)
                    users[path] -= 1
            else:
                if path not in held:
                    idle = [name for name in held if not users[name]]
                    if len(held) >= MOST and idle:
                        held.remove(idle[0])
                    expected += 1
                else:
                    held.remove(path)
                held.append(path)
                users[path] += 1
                source = sources.take(path)
                assert source.read_at(0, source.size).decode() == path
            opened = len(seen.arguments("open"))
            assert list(sources._open) == held and opened == expected
            assert open_descriptors() == before + len(held)
        sources.close()
    assert open_descriptors() == before


def test_each_is_held_to_what_it_was_at_first(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_MOST_OPEN", 1)
    other = file.with_name("b")
    other.write_bytes(b"other")
    told = FileInfo.of(str(other), other.stat())
    sources = Sources([told._replace(nbytes=6)])
    with pytest.raises(MalformedCheckpoint, match="expected 6 bytes, got 5 bytes"):
        sources.take(str(other))
    sources.expect([told])
    sources.take(str(other))
    sources.check(str(other))
    sources.take(str(file))  # the other one is in use: there are two
    assert list(sources._open) == [str(other), str(file)]
    file.write_bytes(DATA + b"x")
    sources.check(str(other))
    with pytest.raises(MalformedCheckpoint) as caught:
        sources.check(str(file))
    assert str(caught.value) == f"{file}: {CHANGED}"
    sources.close()
    with pytest.raises(MalformedCheckpoint, match="expected 40 bytes, got 41 bytes"):
        sources.take(str(file))


def test_the_last_who_holds_them_closes_all(file: Path) -> None:
    gc.collect()
    before = open_descriptors()
    sources = Sources()
    sources.take(str(file))
    assert open_descriptors() == before + 1
    del sources
    assert open_descriptors() == before
    with open_source(str(file)) as source:
        assert open_descriptors() == before + 1
        assert source.read_at(1, 2) == DATA[1:3]
    assert open_descriptors() == before
