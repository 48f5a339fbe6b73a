"""The cache: what was read before is taken from it, and nothing in the way of it is an error, or believed."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from zlib import crc32

import pytest

import ckpttool
from ckpttool.kinds.source import own_folder, process
from ckpttool.kinds.source.packages import find_tree
from ckpttool.kinds.source.reader import Reader
from tests.support.source_trees import LONG_AGO, classes_of, reader, write_tree

FILES: dict[str, str | bytes] = {
    "pkg/__init__.py": "class Top: pass\n",
    "pkg/a.py": "class A: pass\n",
    "pkg/broken.py": "class Broken(:\n",
}
CLASSES = {"pkg": ["Top"], "pkg.a": ["A"]}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "library", FILES) / "pkg"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, which is not there yet."""
    monkeypatch.delenv("CKPTTOOL_NO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ckpttool" / "source"


def only(folder: Path) -> Path:
    """The one file in it."""
    (path,) = folder.iterdir()
    return path


def read(package: Path) -> tuple[int, int, int]:
    """Read all: how many files were read, how many of them from the cache, and how many could not be."""
    with reader(package) as found:
        assert classes_of(found) == CLASSES
        return found.files, found.cached, found.unread


def test_what_was_read_is_not_parsed_again(
    package: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(package) == (2, 0, 1)
    monkeypatch.setattr(process, "Child", None)
    written = only(folder).stat()
    assert read(package) == (2, 2, 1)  # what is broken is known to be
    assert only(folder).stat() == written
    with reader(package) as found:
        assert found.find_class("A") == ["pkg.a"]
        assert found.find_class("Broken") == []
        assert found.read("pkg.a") is not None
        assert (found.files, found.cached, found.parsed_ms) == (1, 1, 0)


def test_nothing_that_parses_is_loaded_where_all_is_there(package: Path) -> None:
    read(package)
    script = f"""
import sys
from tests.support.source_trees import classes_of, reader
with reader({str(package)!r}) as found:
    assert found.find_class("A") == ["pkg.a"]
    assert classes_of(found) == {CLASSES!r}
print(*sorted({{"ast", "subprocess", "threading", "tokenize", "torch", "numpy"}} & sys.modules.keys()))
"""
    # -S: what a coverage or an editable install loads is not ours
    home = Path(ckpttool.__file__).parents[1]
    ran = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, check=True, cwd=home)
    assert ran.stdout.split() == []


def test_it_is_the_users_alone_and_named_for_the_package(package: Path, folder: Path) -> None:
    before = os.umask(0o002)  # as where each user has a group
    try:
        read(package)
    finally:
        os.umask(before)
    assert read(package) == (2, 2, 1)
    assert only(folder).name.startswith("pkg-")
    assert stat.S_IMODE(only(folder).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_classes_that_were_searched_for_are_not_searched_again(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reader(package) as found:
        assert found.find_class("A") == ["pkg.a"]
    monkeypatch.setattr("ckpttool.kinds.source.reader.read_file", None)
    with reader(package) as found:
        assert found.find_class("Top") == ["pkg"]
        assert found.find_class("Broken") == ["pkg.broken"]
    assert read(package) == (2, 0, 1)  # nothing was parsed yet


def test_only_files_that_changed_are_parsed_again(package: Path) -> None:
    read(package)
    write_tree(package.parent, {"pkg/a.py": "class A: 'more'\n"})  # same mtime, another size
    assert read(package) == (2, 1, 1)
    assert read(package) == (2, 2, 1)
    os.utime(package / "a.py", (LONG_AGO - 5, LONG_AGO - 5))  # same size, another mtime
    assert read(package) == (2, 1, 1)
    os.unlink(package / "broken.py")
    write_tree(package.parent, {"pkg/b.py": "class B: pass\n"})
    with reader(package) as found:
        assert found.find_class("B") == ["pkg.b"]
        assert classes_of(found) == {**CLASSES, "pkg.b": ["B"]}
        assert (found.files, found.cached, found.unread) == (3, 2, 0)


def test_what_was_changed_a_moment_ago_is_not_kept(package: Path, folder: Path) -> None:
    os.utime(package / "a.py")
    for _ in range(2):
        assert read(package)[1] == 0 if not folder.exists() else 1
    now = time.time()
    os.utime(package / "a.py", (now - 3, now - 3))
    read(package)
    assert read(package)[1] == 2


@pytest.mark.parametrize("cut", [0, 1, 9, 60, 0.5, -1])
def test_a_cache_that_is_cut_short_is_read_as_far_as_it_is_whole(
    package: Path, folder: Path, cut: float
) -> None:
    read(package)
    data = only(folder).read_bytes()
    only(folder).write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    assert read(package)[0] == 2
    assert read(package) == (2, 2, 1)  # it was mended
    assert only(folder).read_bytes() == data


def test_every_changed_byte_is_noticed(package: Path, folder: Path) -> None:
    read(package)
    data = only(folder).read_bytes()
    for place in range(0, len(data), 7):
        only(folder).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert read(package)[0] == 2
        assert only(folder).read_bytes() == data


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\n", b"garbage", b"00000000 {}\n", b"\x80\x04N.", b"\0" * 1000),
        *(b"%08x %s\n" % (crc32(text), text) for text in (b"{}", b"1", b"[1, 2]", b"[[]]", b"[NaN", b"\xff")),
    ],
)
def test_garbage_is_not_there(package: Path, folder: Path, content: bytes) -> None:
    read(package)
    data = only(folder).read_bytes()
    only(folder).write_bytes(content)
    assert read(package) == (2, 0, 1)
    assert only(folder).read_bytes() == data


@pytest.mark.parametrize("key", ["format", "scanner", "python", "path"])
def test_what_was_made_by_or_of_something_else_is_not_there(package: Path, folder: Path, key: str) -> None:
    read(package)
    data = only(folder).read_bytes()
    line, _, bodies = data.partition(b"\n")
    made, files = json.loads(line.partition(b" ")[2])
    assert key in made
    text = json.dumps([made | {key: "other"}, files]).encode()
    only(folder).write_bytes(b"%08x %s\n%s" % (crc32(text), text, bodies))
    assert read(package) == (2, 0, 1)
    assert only(folder).read_bytes() == data


def test_another_scanner_has_another_cache(package: Path) -> None:
    read(package)
    with Reader(find_tree(str(package)), "tests.support.source_summaries:deadly") as found:
        assert [summary["classes"] for _, summary in found.read_all()] == [{}, {}]
        assert found.cached == 0


def test_packages_of_one_name_have_each_its_own(package: Path, tmp_path: Path, folder: Path) -> None:
    read(package)
    write_tree(tmp_path / "second", {"pkg/__init__.py": "class Second: pass\n"})
    with reader(tmp_path / "second" / "pkg") as found:
        assert classes_of(found) == {"pkg": ["Second"]}
    assert read(package) == (2, 2, 1)
    assert len(list(folder.iterdir())) == 2


def test_none_is_wanted(package: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTTOOL_NO_CACHE", "1")
    assert read(package) == read(package) == (2, 0, 1)
    assert not folder.exists()


@pytest.mark.parametrize("base", ["", "relative/cache"])
def test_where_no_folder_is_named_it_lies_at_home(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    read(package)
    assert len(list((tmp_path / "home/.cache/ckpttool/source").iterdir())) == 1


def test_without_a_home_there_is_none(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where nobody knows the user
    assert read(package) == read(package) == (2, 0, 1)
    assert not Path("~").exists()


def test_a_folder_that_cannot_be_written_is_no_error(package: Path, folder: Path) -> None:
    folder.parent.parent.mkdir()
    folder.parent.parent.joinpath("ckpttool").write_text("a file")
    assert read(package) == read(package) == (2, 0, 1)


def test_a_full_disk_leaves_what_was_there(
    package: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(package)
    data = only(folder).read_bytes()
    os.utime(package / "a.py", (LONG_AGO - 5, LONG_AGO - 5))

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert read(package) == (2, 1, 1)
    assert only(folder).read_bytes() == data


def test_a_link_in_the_place_of_the_cache_is_neither_read_nor_followed(
    package: Path, folder: Path, tmp_path: Path
) -> None:
    read(package)
    name = only(folder)
    name.rename(tmp_path / "elsewhere")
    name.symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    os.utime(package / "a.py", (LONG_AGO - 5, LONG_AGO - 5))
    assert read(package) == (2, 0, 1)
    assert not name.is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == before


@pytest.mark.parametrize("which", ["source", "ckpttool"])
def test_a_link_in_the_place_of_a_folder_is_not_followed(
    package: Path, folder: Path, tmp_path: Path, which: str
) -> None:
    read(package)
    place = folder if which == "source" else folder.parent
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert read(package) == read(package) == (2, 0, 1)


@pytest.mark.parametrize("which", ["source", "ckpttool", "file"])
def test_what_others_may_write_is_not_believed(package: Path, folder: Path, which: str) -> None:
    read(package)
    place = {"source": folder, "ckpttool": folder.parent, "file": only(folder)}[which]
    place.chmod(place.stat().st_mode | 0o022)
    assert read(package) == (2, 0, 1)


def test_what_is_another_users_is_not_believed(
    package: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(package)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert read(package) == (2, 0, 1)


def test_a_fifo_in_the_place_of_the_cache_is_not_waited_for(package: Path, folder: Path) -> None:
    read(package)
    name = only(folder)
    name.unlink()
    os.mkfifo(name)
    assert read(package) == (2, 0, 1)


def test_two_at_once_do_no_harm(package: Path, folder: Path) -> None:
    write_tree(package.parent, {f"pkg/m{number}.py": f"class M{number}: pass\n" for number in range(40)})
    first, second = reader(package), reader(package)
    assert first.read("pkg.a") and second.read("pkg.m1")
    threads = [threading.Thread(target=each.close) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    only(folder)
    with reader(package) as found:
        assert found.read("pkg.a") and found.read("pkg.m1")
        assert found.cached == 1


def test_the_oldest_of_many_go(package: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_folder, "_MOST_FILES", 3)
    read(package)
    for number in range(4):
        (folder / f"old{number}").write_bytes(b"")
        os.utime(folder / f"old{number}", (LONG_AGO + number, LONG_AGO + number))
    os.utime(package / "a.py", (LONG_AGO - 5, LONG_AGO - 5))
    read(package)
    assert sorted(path.name[:4] for path in folder.iterdir()) == ["old2", "old3", "pkg-"]
