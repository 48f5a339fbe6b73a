"""What may not be overwritten, and what is done with what a killed run left."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ckpttool.files import staging
from ckpttool.files.staging import (
    created_file,
    partial_path,
    refuse_overwriting,
    staged_file,
    staged_folder,
    sync_folder,
)
from ckpttool.values.checkpoint import FileInfo
from ckpttool.values.errors import CkptToolError, DestinationExists, NotEnoughSpace
from tests.support.descriptors import watch

HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def fail(number: int, path: str | None = None) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), path)

    return call


def sources(*paths: Path) -> list[FileInfo]:
    return [FileInfo.of(str(path), path.stat()) for path in paths]


def partial_of(target: Path) -> Path:
    return Path(partial_path(str(target)))


@contextmanager
def signals_are_free() -> Iterator[None]:
    """Whatever happens inside, no signal is held back afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert not before.intersection(HELD)
    yield
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def enter(staged: AbstractContextManager[Any]) -> None:
    """Must not be."""
    with staged:
        pytest.fail("something can be written")


# -- refuse_overwriting ---------------------------------------------------------------------------------


def test_what_is_there_is_replaced_by_force_alone_and_a_source_never(tmp_path: Path) -> None:
    target, source, other = (tmp_path / name for name in "tso")
    source.touch()
    other.touch()
    for force in (False, True):
        refuse_overwriting(str(target), force=force, sources=sources(source, other))
    target.touch()
    with pytest.raises(DestinationExists) as caught:
        refuse_overwriting(str(target), force=False, sources=sources(source, other))
    assert (caught.value.what, caught.value.hint) == ("already exists", "--force replaces it")
    refuse_overwriting(str(target), force=True, sources=sources(source, other))
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "soft").symlink_to(source)
    for name in ("s", "hard", "soft"):
        for force in (False, True):
            with pytest.raises(DestinationExists, match="the source itself") as caught:
                refuse_overwriting(str(tmp_path / name), force=force, sources=sources(other, source))
            assert caught.value.path == str(tmp_path / name)


def test_a_link_that_leads_nowhere_and_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(DestinationExists, match="leads nowhere"):
        refuse_overwriting(str(tmp_path / "link"), force=False, sources=[])
    refuse_overwriting(str(tmp_path / "link"), force=True, sources=[])
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("folder", "fifo"):
        for force in (False, True):
            with pytest.raises(DestinationExists, match="not a regular file"):
                refuse_overwriting(str(tmp_path / name), force=force, sources=[])


# -- one at a time --------------------------------------------------------------------------------------


def test_a_file_that_another_run_writes_is_left_to_it(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with signals_are_free(), staged_file(str(target), 3) as fd:
        assert partial_of(target).exists() and not target.exists()
        os.pwrite(fd, b"one", 0)
        with signals_are_free(), pytest.raises(DestinationExists, match="another ckpttool") as caught:
            enter(staged_file(str(target), 3))
        assert (caught.value.path, caught.value.hint) == (str(target), "wait until it has finished")
    assert target.read_bytes() == b"one" and not partial_of(target).exists()


def test_a_folder_that_another_run_writes_is_left_to_it(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with signals_are_free(), staged_folder(str(target), ["a"], 0) as folder:
        assert folder == str(partial_of(target))
        (Path(folder) / "a").write_bytes(b"one")
        with pytest.raises(DestinationExists, match="another ckpttool") as caught:
            enter(staged_folder(f"{target}/", ["a"], 0))
        assert caught.value.path == f"{target}/"
    assert (target / "a").read_bytes() == b"one" and not partial_of(target).exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", fail(number))
    with staged_file(str(tmp_path / "a"), 1), staged_folder(str(tmp_path / "set"), [], 0):
        pass
    assert (tmp_path / "a").read_bytes() == b"\0" and (tmp_path / "set").is_dir()


def test_any_other_answer_to_a_lock_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", fail(errno.EIO))
    for staged, target in ((staged_file, "a"), (lambda path, _: staged_folder(path, [], 0), "set")):
        before = len(os.listdir("/proc/self/fd"))
        with signals_are_free(), pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
            enter(staged(str(tmp_path / target), 1))  # type: ignore[operator]
        assert caught.value.filename == str(partial_of(tmp_path / target))
        assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == []
    partial_of(tmp_path / "a").write_bytes(b"of another run")
    (partial_of(tmp_path / "set") / "b").mkdir(parents=True)
    for staged, target in ((staged_file, "a"), (lambda path, _: staged_folder(path, [], 0), "set")):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            enter(staged(str(tmp_path / target), 1))  # type: ignore[operator]
    assert partial_of(tmp_path / "a").read_bytes() == b"of another run"
    assert os.listdir(partial_of(tmp_path / "set")) == ["b"]


@pytest.mark.parametrize("renamed", [True, False])
def test_what_its_owner_finished_meanwhile_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    """Between open and lock, another run may have given the file its name, or have removed it."""
    target = tmp_path / "a"
    partial_of(target).write_bytes(b"of another run")
    real, calls = fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        calls.append(os.fstat(fd).st_ino)
        if len(calls) == 1:
            partial_of(target).rename(tmp_path / "done") if renamed else partial_of(target).unlink()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    before = len(os.listdir("/proc/self/fd"))
    with staged_file(str(target), 3) as fd:
        assert os.fstat(fd).st_size == 3
    assert len(calls) == 2 and len(os.listdir("/proc/self/fd")) == before
    assert target.read_bytes() == b"\0\0\0"
    if renamed:
        assert (tmp_path / "done").read_bytes() == b"of another run"


# -- what a killed run left -----------------------------------------------------------------------------


def test_what_a_killed_run_left_is_taken_over(tmp_path: Path) -> None:
    target, folder = tmp_path / "a", tmp_path / "set"
    partial_of(target).write_bytes(b"far more than is written now")
    with staged_file(str(target), 3):
        pass
    assert target.read_bytes() == b"\0\0\0"
    partial_of(folder).mkdir()
    (partial_of(folder) / "old").write_bytes(b"x")
    (partial_of(folder) / "link").symlink_to(tmp_path)
    with staged_folder(str(folder), ["b"], 0) as made:
        assert os.listdir(made) == []
        (Path(made) / "b").write_bytes(b"new")
    assert os.listdir(folder) == ["b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "set"]


def test_a_folder_in_what_a_killed_run_left_is_nobodys_to_remove(tmp_path: Path) -> None:
    inner = partial_of(tmp_path / "set") / "mine"
    inner.mkdir(parents=True)
    with signals_are_free(), pytest.raises(CkptToolError, match="a folder stands in") as caught:
        enter(staged_folder(str(tmp_path / "set"), [], 0))
    assert caught.value.path == str(inner) and inner.is_dir()


@pytest.mark.parametrize("what", ["file", "link"])
def test_a_file_in_the_place_of_the_partial_folder_stays(tmp_path: Path, what: str) -> None:
    partial = partial_of(tmp_path / "set")
    partial.write_bytes(b"x") if what == "file" else partial.symlink_to(tmp_path)
    with signals_are_free(), pytest.raises(OSError), staged_folder(str(tmp_path / "set"), [], 0):
        pytest.fail("written")
    assert os.path.lexists(partial)


def test_a_partial_folder_that_cannot_be_opened_is_removed_if_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for is_there in (False, True):
        if is_there:
            partial_of(tmp_path / "set").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            watch(patch, staging, open=fail(errno.EMFILE))
            with signals_are_free(), pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                enter(staged_folder(str(tmp_path / "set"), [], 0))
        assert partial_of(tmp_path / "set").exists() is is_there


# -- errors on the way ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda: OSError(errno.EIO, "Input/output error"), lambda: CkptToolError("wrong"), KeyError]
)
@pytest.mark.parametrize("removable", [True, False])
def test_an_error_removes_what_was_written_or_says_that_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Exception], removable: bool
) -> None:
    target, error = tmp_path / "a", make()
    if not removable:
        watch(monkeypatch, staging, unlink=fail(errno.EACCES))
    raised = type(error) if removable or isinstance(error, KeyError) else CkptToolError
    with signals_are_free(), pytest.raises(raised) as caught, staged_file(str(target), 3):
        raise error
    assert not target.exists() and partial_of(target).exists() is not removable
    hint = f"{partial_of(target)} stays behind: Permission denied"
    if not removable and isinstance(caught.value, CkptToolError):
        assert caught.value.hint == hint
        if isinstance(error, OSError):
            assert (caught.value.what, caught.value.path) == ("input/output error", str(target))
    elif isinstance(caught.value, OSError):
        assert caught.value.filename == str(target)


def test_an_error_that_names_another_file_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(monkeypatch, staging, unlink=fail(errno.EACCES))
    with pytest.raises(CkptToolError) as caught, staged_file(str(tmp_path / "a"), 3):
        raise OSError(errno.EIO, "Input/output error", "source.pt")
    assert (caught.value.path, caught.value.what) == ("source.pt", "input/output error")


def test_too_little_room_is_told_in_bytes(tmp_path: Path) -> None:
    nbytes = 1 << 62
    for staged in (lambda: staged_file(str(tmp_path / "a"), nbytes),
                   lambda: staged_folder(str(tmp_path / "set"), [], nbytes)):  # fmt: skip
        with signals_are_free(), pytest.raises(NotEnoughSpace) as caught, staged():
            pytest.fail("written")
        status = os.statvfs(tmp_path)
        assert caught.value.needed == nbytes
        assert abs(caught.value.available - status.f_bavail * status.f_frsize) < 1 << 30
    assert list(tmp_path.iterdir()) == []
    free = os.statvfs(tmp_path)
    staging.check_space(str(tmp_path), free.f_bavail * free.f_frsize // 2, "x")


def test_a_new_file_of_a_folder_replaces_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(FileExistsError), created_file(str(tmp_path / "a"), str(tmp_path / "b"), 1):
        pytest.fail("written over")
    assert (tmp_path / "a").read_bytes() == b"x"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_folder_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    watch(monkeypatch, staging, fsync=fail(number))
    if number == errno.EIO:
        with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
            sync_folder(str(tmp_path))
        assert caught.value.filename == str(tmp_path)
        return
    sync_folder(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sync_folder("")


def test_a_signal_between_open_and_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held until there is somebody who removes the file."""

    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # other threads do not hold it
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    for staged in (lambda: staged_file(str(tmp_path / "a"), 1),
                   lambda: staged_folder(str(tmp_path / "s"), [], 0)):  # fmt: skip
        with signals_are_free(), pytest.raises(KeyboardInterrupt), staged():
            pytest.fail("written")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("removable", [True, False])
def test_a_folder_whose_names_cannot_be_synced_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool, removable: bool
) -> None:
    target = tmp_path / "set"
    if is_there:
        target.mkdir()
    monkeypatch.setattr(staging, "sync_folder", fail(errno.EIO))
    if not removable:
        watch(monkeypatch, staging, rmdir=fail(errno.EACCES))
    raised = CkptToolError if is_there and not removable else OSError
    with signals_are_free(), pytest.raises(raised) as caught, staged_folder(str(target), ["a"], 0) as folder:
        Path(folder, "a").write_bytes(b"new")
    assert (target / "a").read_bytes() == b"new"
    assert partial_of(target).exists() is (is_there and not removable)
    error: Any = caught.value
    assert str(target) == (error.path if raised is CkptToolError else error.filename)
    if raised is CkptToolError:
        assert error.hint == f"{partial_of(target)} stays behind: Permission denied"
