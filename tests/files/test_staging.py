"""What stands under the target's name, with which mode, and what was asked of the disk before."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ckpttool.files import staging
from ckpttool.files.staging import created_file, partial_path, staged_file, staged_folder
from ckpttool.values.errors import NotEnoughSpace
from tests.support.descriptors import Os, watch

NBYTES = 1 << 20
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for blocks")


def fail(number: int) -> Callable[..., Any]:
    def call(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.fixture(params=["file", "file of a folder"])
def fill(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    """Open a file of ``NBYTES`` bytes as a conversion does."""
    target = str(tmp_path / "target")
    if request.param == "file":
        return lambda: staged_file(target, NBYTES)
    return lambda: created_file(f"{target}.new", target, NBYTES)


# -- room ---------------------------------------------------------------------------------------------


@on_linux
def test_a_file_has_its_blocks_before_the_first_byte(fill: Callable[[], Any]) -> None:
    with fill() as fd:
        status = os.fstat(fd)
        assert status.st_size == NBYTES
        if status.st_blocks == 0:
            pytest.skip("this file system gives no blocks in advance")
        assert status.st_blocks * 512 >= NBYTES


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EINVAL, errno.EPERM])
def test_where_blocks_cannot_be_asked_for_the_file_has_its_size_and_holes(
    fill: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", fail(number))
    seen = watch(monkeypatch, staging)
    with fill() as fd:
        status = os.fstat(fd)
        assert (status.st_size, status.st_blocks) == (NBYTES, 0)
    assert not seen.arguments("pwrite") and not seen.arguments("posix_fallocate")  # which may write into each


def test_on_other_systems_nothing_is_asked_for(
    fill: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(staging.sys, "platform", "darwin")
    with fill() as fd:
        assert os.fstat(fd).st_size == NBYTES


@on_linux
def test_an_interrupted_request_is_made_again(
    fill: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Callable[..., Any]] = [fail(errno.EINTR), fail(errno.EINTR), fcntl.ioctl]
    monkeypatch.setattr(fcntl, "ioctl", lambda *arguments: answers.pop(0)(*arguments))
    with fill() as fd:
        assert os.fstat(fd).st_size == NBYTES
    assert not answers


@on_linux
def test_a_full_disk_is_found_before_the_first_byte(
    fill: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is free by ``statvfs`` may be promised to others, or be needed for the blocks' own lists."""
    monkeypatch.setattr(fcntl, "ioctl", fail(errno.ENOSPC))
    with pytest.raises(NotEnoughSpace) as caught, fill():
        pytest.fail("a byte could be written")
    assert caught.value.needed == NBYTES
    assert caught.value.path == str(tmp_path / "target")
    assert not (tmp_path / "target").exists() and not Path(partial_path(str(tmp_path / "target"))).exists()


@on_linux
@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_what_the_disk_refuses_is_said_before_the_first_byte(
    fill: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", fail(number))
    with pytest.raises(OSError, match=os.strerror(number)) as caught, fill():
        pytest.fail("a byte could be written")
    assert caught.value.errno == number and "target" in str(caught.value.filename)


def test_an_empty_file_needs_no_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", fail(errno.EINVAL))
    with staged_file(str(tmp_path / "a"), 0):
        pass
    assert (tmp_path / "a").read_bytes() == b""


# -- modes --------------------------------------------------------------------------------------------


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    mask: int = request.param
    before = os.umask(mask)
    yield mask
    assert os.umask(before) == mask  # nobody changed it


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("old", ["none", "link", "broken link", "FIFO"])
def test_what_replaces_no_regular_file_has_the_mode_of_the_umask(
    tmp_path: Path, umask: int, old: str
) -> None:
    target, other = tmp_path / "a", tmp_path / "other"
    if old == "link":
        other.touch(0o600)
    if "link" in old:
        target.symlink_to(other)
    elif old == "FIFO":
        os.mkfifo(target, 0o600)
    with staged_file(str(target), 3):
        pass
    assert target.is_file() and not target.is_symlink()
    assert mode(target) == 0o666 & ~umask
    if old == "link":
        assert mode(other) == 0o600


@pytest.mark.parametrize("kept", [0o600, 0o640, 0o444, 0o755])
def test_what_replaces_a_file_has_its_mode_and_never_a_wider_one(
    tmp_path: Path, umask: int, kept: int
) -> None:
    target = tmp_path / "a"
    target.touch()
    target.chmod(kept)
    with staged_file(str(target), 3) as fd:
        assert stat.S_IMODE(os.fstat(fd).st_mode) == kept
    assert mode(target) == kept


def test_in_a_folder_each_file_has_the_mode_of_the_one_that_it_replaces(tmp_path: Path, umask: int) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "a").touch()
    (target / "a").chmod(0o640)
    with staged_folder(str(target), ["a", "b"], 0) as folder:
        for name in ("a", "b"):
            with created_file(os.path.join(folder, name), str(target / name), 1):
                pass
    assert (mode(target / "a"), mode(target / "b")) == (0o640, 0o666 & ~umask)


# -- on the disk before it has its name -----------------------------------------------------------------


def synced_and_renamed(seen: Os) -> list[str]:
    return [name for name, _ in seen.made if name in ("fsync", "rename")]


def test_a_file_is_synced_before_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fsync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        os.fsync(fd)

    seen = watch(monkeypatch, staging, fsync=fsync)
    with staged_file(str(tmp_path / "a"), 3):
        pass
    assert synced_and_renamed(seen) == ["fsync", "rename", "fsync"]
    assert synced == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize("is_there", [False, True])
def test_the_files_of_a_folder_are_synced_before_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    target = tmp_path / "set"
    if is_there:
        target.mkdir()
    seen = watch(monkeypatch, staging)
    write_set(target, b"new")
    # Each file, the folder that holds them; then the names, and the folder that holds those.
    renames = 3 if is_there else 1
    assert synced_and_renamed(seen) == ["fsync"] * 4 + ["rename"] * renames + ["fsync"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]  # and nothing partial


# -- several files under one name -----------------------------------------------------------------------

NAMES = ("a", "b", "index")


def write_set(target: Path, data: bytes, names: tuple[str, ...] = NAMES) -> None:
    with staged_folder(str(target), names, len(data)) as folder:
        for name in names:
            path = os.path.join(folder, name)
            with created_file(path, str(target / name), len(data)) as fd:
                os.pwrite(fd, data + name.encode(), 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("old", [(), ("a",), ("a", "b"), NAMES])
def test_whichever_rename_fails_the_old_set_is_back_and_nothing_is_beside_it(
    tmp_path: Path, old: tuple[str, ...]
) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "config.json").write_bytes(b"{}")
    for name in old:
        (target / name).write_bytes(b"old " + name.encode())
    before = contents(target)
    for number in range(1, len(old) + len(NAMES) + 1):
        left = [number]

        def rename(source: str, final: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            os.rename(source, final)

        with pytest.MonkeyPatch.context() as patch:
            watch(patch, staging, rename=rename)
            with pytest.raises(PermissionError):
                write_set(target, b"new ")
        assert left[0] <= 0
        assert contents(target) == before
        assert [path.name for path in tmp_path.iterdir()] == ["set"]
    write_set(target, b"new ")
    assert contents(target) == {"config.json": b"{}", **{name: b"new " + name.encode() for name in NAMES}}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_index_never_names_files_of_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "set"
    write_set(target, b"old ")
    seen: list[set[bytes]] = []

    def rename(source: str, final: str) -> None:
        os.rename(source, final)
        if (target / "index").exists():
            seen.append({path.read_bytes()[:4] for path in target.iterdir()})

    watch(monkeypatch, staging, rename=rename)
    write_set(target, b"new ")
    assert seen == [{b"new "}]


def test_what_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch, staging, unlink=fail(errno.EACCES))
    with pytest.raises(NotEnoughSpace) as caught, staged_file(str(tmp_path / "a"), 3):
        raise NotEnoughSpace(needed=1, available=0)
    assert caught.value.hint is not None
    assert partial_path(str(tmp_path / "a")) in caught.value.hint
