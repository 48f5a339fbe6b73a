"""Every change that staging asks of the system, in order, and what stands there if any one of them fails."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from ckpttool.files import staging
from ckpttool.files.staging import (
    check_space,
    created_file,
    partial_path,
    reserve,
    staged_file,
    staged_folder,
)
from ckpttool.values.errors import CkptToolError, NotEnoughSpace
from tests.support.descriptors import watch

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for blocks")
# asm-generic/ioctl.h: _IOW('X', 42, struct space_resv), which has 48 bytes.
RESERVE = 1 << 30 | 48 << 16 | ord("X") << 8 | 42
FLAGS = {"rw": os.O_RDWR, "new": os.O_EXCL, "folder": os.O_DIRECTORY, "no link": os.O_NOFOLLOW}
PARTIAL = partial_path("a")


class Trace:
    """What is asked of the system: call, what a descriptor or a path names, and the rest."""

    def __init__(self, patch: pytest.MonkeyPatch, top: Path, fail_at: int = 0) -> None:
        self.made: list[str] = []
        self._top, self._fail_at = top, fail_at
        self._names: dict[int, str] = {}
        calls = ("open", "mkdir", "ftruncate", "fchmod", "fsync", "rename", "unlink", "rmdir", "statvfs")
        watch(
            patch,
            staging,
            close=self._close,
            **{name: self._traced(getattr(os, name), name) for name in calls},
        )
        patch.setattr(fcntl, "flock", self._traced(fcntl.flock, "flock"))
        patch.setattr(fcntl, "ioctl", self._traced(fcntl.ioctl, "ioctl"))

    def _close(self, fd: int) -> None:
        self.made.append(f"close {self._names.pop(fd)}")
        os.close(fd)

    def _traced(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            said = [name, *(self._say(argument) for argument in arguments)]
            if name == "open":
                said[2] = "+".join(word for word, bit in FLAGS.items() if arguments[1] & bit == bit)
            elif name == "flock":
                said[2] = {fcntl.LOCK_EX | fcntl.LOCK_NB: "alone, at once"}[arguments[1]]
            elif name == "ioctl":
                assert arguments[1] == RESERVE
                said[2:] = [str(struct.unpack("@hhqq24x", arguments[2]))]
            self.made.append(" ".join(filter(None, said)))
            if len(self.made) == self._fail_at:
                path = arguments[0] if isinstance(arguments[0], str) else None
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            found = real(*arguments)
            if name == "open":
                self._names[found] = said[1]
            return found

        return call

    def _say(self, argument: Any) -> str:
        if isinstance(argument, str):
            return os.path.relpath(argument, self._top)
        return self._names.get(argument, oct(argument) if argument in (0o600, 0o666) else str(argument))


def write_file(top: Path) -> None:
    with staged_file(str(top / "a"), 3) as fd:
        os.pwrite(fd, b"new", 0)


def write_folder(top: Path, names: tuple[str, ...] = ("x", "y")) -> None:
    with staged_folder(str(top / "a"), names, 3) as folder:
        for name in names:
            with created_file(os.path.join(folder, name), str(top / "a" / name), 3) as fd:
                os.pwrite(fd, b"new", 0)


def traced(top: Path, write: Callable[[Path], None], fail_at: int = 0) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        trace = Trace(patch, top, fail_at)
        write(top)
    return trace.made


OPENED = [f"flock {PARTIAL} alone, at once"]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_file(tmp_path: Path, is_there: bool) -> None:
    mode, keep = "0o666", []
    if is_there:
        (tmp_path / "a").write_bytes(b"old and longer")
        (tmp_path / "a").chmod(0o640)
        mode, keep = "0o600", [f"fchmod {PARTIAL} {0o640}"]
    assert traced(tmp_path, write_file) == [
        f"open {PARTIAL} rw+no link {mode}",
        *OPENED,
        f"ftruncate {PARTIAL} 0",
        *keep,
        f"statvfs {PARTIAL}",
        f"ftruncate {PARTIAL} 3",
        f"ioctl {PARTIAL} (0, 0, 0, 3)",
        f"fsync {PARTIAL}",
        f"rename {PARTIAL} a",
        "open .",
        "fsync .",
        "close .",
        f"close {PARTIAL}",
    ]
    assert (tmp_path / "a").read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]


def written(name: str, mode: str = "0o666", keep: tuple[str, ...] = ()) -> list[str]:
    path = f"{PARTIAL}/{name}"
    return [
        f"open {path} rw+new+no link {mode}",
        *(f"{call} {path} {0o640}" for call in keep),
        f"ftruncate {path} 3",
        f"ioctl {path} (0, 0, 0, 3)",
        f"fsync {path}",
        f"close {path}",
    ]


BEGIN = [f"mkdir {PARTIAL}", f"open {PARTIAL} folder+no link", *OPENED, f"statvfs {PARTIAL}"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert traced(tmp_path, write_folder) == [
        *BEGIN,
        *written("x"),
        *written("y"),
        f"fsync {PARTIAL}",
        f"rename {PARTIAL} a",
        "open .",
        "fsync .",
        "close .",
        f"close {PARTIAL}",
    ]


def test_files_in_a_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in "xyz":
        (tmp_path / "a" / name).write_bytes(b"old")
    (tmp_path / "a/y").chmod(0o640)
    (tmp_path / "a/x").unlink()
    (tmp_path / "a/x").symlink_to("z")
    made = traced(tmp_path, write_folder)
    made[-4:-2] = sorted(made[-4:-2])  # as the folder lists them
    assert made == [
        *BEGIN,
        *written("x"),
        *written("y", "0o600", ("fchmod",)),
        f"fsync {PARTIAL}",
        f"rename a/y {PARTIAL}/y.replaced",
        f"rename a/x {PARTIAL}/x.replaced",
        f"rename {PARTIAL}/x a/x",
        f"rename {PARTIAL}/y a/y",
        "open a",
        "fsync a",
        "close a",
        f"unlink {PARTIAL}/x.replaced",
        f"unlink {PARTIAL}/y.replaced",
        f"rmdir {PARTIAL}",
        f"close {PARTIAL}",
    ]


def test_one_file_in_a_folder_is_one_rename(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(b"old")
    made = traced(tmp_path, lambda top: write_folder(top, ("x",)))
    assert [call for call in made if call.startswith("rename")] == [f"rename {PARTIAL}/x a/x"]


def test_what_a_killed_run_left_is_emptied_first(tmp_path: Path) -> None:
    (tmp_path / PARTIAL).mkdir()
    (tmp_path / PARTIAL / "old").symlink_to(tmp_path)
    made = traced(tmp_path, write_folder)
    assert made[:5] == [*BEGIN[:3], f"unlink {PARTIAL}/old", BEGIN[3]]


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\udcff"])
@pytest.mark.parametrize("nbytes", [1, 236, 237, 238, 254, 255])
def test_a_name_that_the_file_system_has_can_be_written(tmp_path: Path, letter: str, nbytes: int) -> None:
    name = letter * (nbytes // len(os.fsencode(letter)))
    name += "y" * (nbytes - len(os.fsencode(name)))
    partial = os.path.basename(partial_path(str(tmp_path / name)))
    if nbytes <= 237:  # there is room for all of it
        assert partial == f".{name}.ckpttool-partial"
    else:
        assert partial == f".{zlib.crc32(os.fsencode(name)):08x}.ckpttool-partial"
    assert partial_path(name) == partial and len(os.fsencode(partial)) <= 255
    with staged_file(str(tmp_path / name), 3):
        assert os.listdir(tmp_path) == [partial]
    assert os.listdir(tmp_path) == [name]
    (tmp_path / name).unlink()
    write = ("a", "b")
    with staged_folder(str(tmp_path / name), write, 0) as folder:
        for inner in write:
            Path(folder, inner).touch()
    assert os.listdir(tmp_path) == [name] and sorted(os.listdir(tmp_path / name)) == ["a", "b"]


# -- whichever of them fails ----------------------------------------------------------------------------


def tree(top: Path) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        found[name] = (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        )
    return found


def nothing(top: Path) -> None:
    """The target is not there."""


def a_file(top: Path) -> None:
    (top / "a").write_bytes(b"old")


def some_files(top: Path) -> None:
    (top / "a").mkdir()
    (top / "a/x").write_bytes(b"old")
    (top / "a/z").write_bytes(b"other")


def all_files(top: Path) -> None:
    some_files(top)
    (top / "a/y").write_bytes(b"old")


def empty_folder(top: Path) -> None:
    (top / "a").mkdir()


CASES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "file, new": (nothing, write_file),
    "file, replaced": (a_file, write_file),
    "folder, new": (nothing, write_folder),
    "folder, empty": (empty_folder, write_folder),
    "folder, some": (some_files, write_folder),
    "folder, all": (all_files, write_folder),
    "folder, one of": (some_files, lambda top: write_folder(top, ("x",))),
}


@pytest.mark.parametrize("case", CASES)
def test_whichever_call_fails_all_is_as_it_was_or_all_is_new(tmp_path: Path, case: str) -> None:
    prepare, write = CASES[case]
    prepare(tmp_path)
    old = tree(tmp_path)
    good = traced(tmp_path, write)
    new = tree(tmp_path)
    assert new != old and not [name for name in new if name.startswith(PARTIAL)]
    is_named = max(number for number, call in enumerate(good, 1) if call.startswith("rename"))
    for number, call in enumerate(good, 1):
        top = tmp_path / f"{number} of these"
        top.mkdir()
        prepare(top)
        descriptors = len(os.listdir("/dev/fd"))
        if call.startswith("close"):
            continue
        with pytest.raises(OSError, match="Input/output error") as caught:
            traced(top, write, number)
        assert caught.value.errno == errno.EIO and str(caught.value.filename).startswith(str(top))
        found = tree(top)
        left = [name for name in found if name.startswith(PARTIAL)]
        assert bool(left) is call.startswith(("unlink", "rmdir")), call  # which was to remove it
        visible = {name: data for name, data in found.items() if name not in left}
        assert visible == (old if number <= is_named else new), call
        assert len(os.listdir("/dev/fd")) == descriptors, call


@pytest.mark.parametrize("case", CASES)
def test_a_rename_that_is_done_and_yet_refused_loses_nothing(tmp_path: Path, case: str) -> None:
    """As over a network, where an answer is lost."""
    prepare, write = CASES[case]
    prepare(tmp_path)
    old = tree(tmp_path)
    count = sum(call.startswith("rename") for call in traced(tmp_path, write))
    new = tree(tmp_path)
    for number in range(1, count + 1):
        top = tmp_path / f"{number} of these"
        top.mkdir()
        prepare(top)
        left = [number]

        def rename(source: str, final: str, left: list[int] = left) -> None:
            os.rename(source, final)
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO), source)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="Input/output"):
            watch(patch, staging, rename=rename)
            write(top)
        assert tree(top) == (new if count == 1 else old)


# -- room -----------------------------------------------------------------------------------------------


def free(bavail: int, frsize: int) -> Callable[[Any], Any]:
    status = os.statvfs_result((7, frsize, 99, 98, bavail, 5, 5, 5, 0, 255))
    return lambda where: status


@pytest.mark.parametrize(("nbytes", "fits"), [(0, True), (29, True), (30, True), (31, False)])
def test_what_is_free_for_this_user_is_just_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nbytes: int, fits: bool
) -> None:
    watch(monkeypatch, staging, statvfs=free(10, 3))
    if fits:
        check_space(str(tmp_path), nbytes, "a")
        return
    with pytest.raises(NotEnoughSpace) as caught:
        check_space(str(tmp_path), nbytes, "a")
    assert (caught.value.needed, caught.value.available, caught.value.path) == (31, 30, "a")


def test_blocks_that_are_not_there_are_given_back_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fcntl, "ioctl", full)
    seen = watch(monkeypatch, staging, statvfs=free(10, 3))
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    with pytest.raises(NotEnoughSpace) as caught:
        reserve(fd, 29, "a")
    assert (caught.value.needed, caught.value.available, caught.value.path) == (29, 30, "a")
    assert seen.made == [("ftruncate", (fd, 29)), ("ftruncate", (fd, 0)), ("statvfs", (fd,))]
    os.close(fd)


# -- what is said where something stays behind ----------------------------------------------------------


def enter(staged: AbstractContextManager[Any], error: BaseException) -> None:
    with staged:
        raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("Odd thing"), "odd thing"),
        (OSError(errno.EIO, "Input/output error"), "input/output error"),
        (CkptToolError("wrong", hint="do otherwise"), "wrong"),
    ],
)
def test_the_reason_that_it_stays_is_the_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(path: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    watch(monkeypatch, staging, unlink=fail, rmdir=fail)
    for staged in (staged_file(str(tmp_path / "a"), 3), staged_folder(str(tmp_path / "b"), (), 0)):
        with pytest.raises(CkptToolError) as caught:
            enter(staged, error)
        name = "a" if (tmp_path / ".b.ckpttool-partial").exists() is False else "b"
        assert caught.value.what == said
        assert caught.value.hint == f"{tmp_path}/.{name}.ckpttool-partial stays behind: Read-only file system"
        if isinstance(error, OSError):
            assert caught.value.path == str(tmp_path / name) and caught.value.__cause__ is error


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("folder")])
def test_a_set_that_gets_no_names_and_cannot_be_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    def fail(*paths: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    prepare, write = CASES[case]
    prepare(tmp_path)
    before = tree(tmp_path)
    watch(monkeypatch, staging, rename=fail, unlink=fail)
    with pytest.raises(CkptToolError) as caught:
        write(tmp_path)
    assert str(caught.value) == f"{tmp_path}/a: read-only file system"
    assert caught.value.hint == f"{tmp_path}/{PARTIAL} stays behind: Read-only file system"
    assert {name: data for name, data in tree(tmp_path).items() if not name.startswith(PARTIAL)} == before


def test_an_error_of_another_kind_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    watch(monkeypatch, staging, unlink=fail)
    with pytest.raises(KeyError) as caught:
        enter(staged_file(str(tmp_path / "a"), 3), KeyError("x"))
    assert vars(caught.value) == {}


def test_a_partial_folder_that_goes_away_before_it_is_opened_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner has renamed it."""
    left = [2]

    def open_(path: str, *rest: int) -> int:
        left[0] -= 1
        if left[0] >= 0:
            os.rmdir(path)
        return os.open(path, *rest)

    seen = watch(monkeypatch, staging, open=open_)
    with staged_folder(str(tmp_path / "a"), (), 0) as folder:
        assert os.path.isdir(folder)
    assert len(seen.arguments("mkdir")) == 3 and os.listdir(tmp_path) == ["a"]
