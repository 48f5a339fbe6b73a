"""Reading the modules of a tree: one by one, all, by the name of a class; within limits; nothing is run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ckpttool.kinds.source import reader as reading
from tests.support.source_trees import classes_of, reader, write_tree

PACKAGE: dict[str, str | bytes] = {
    "mypkg/__init__.py": "from .blocks import Net",
    "mypkg/blocks.py": "class Net: pass\nclass Head:\n    class Inner: pass\n",
    "mypkg/sub/__init__.py": "",
    "mypkg/sub/deep.py": "class Deep: pass\n",
    "mypkg/broken.py": "class Net(:\n",
}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "library", PACKAGE)


def test_modules_are_read_as_they_are_asked_for_and_nothing_is_run(library: Path) -> None:
    before = set(sys.modules)
    with reader(library / "mypkg") as found:
        assert (found.files, found.unread, found.parsed_ms) == (0, 0, 0)
        summary = found.read("mypkg.blocks")
        assert summary == {
            "classes": {"Net": 2, "Head": 3, "Inner": 4},
            "module": "mypkg.blocks",
            "is_package": False,
            "length": len((library / "mypkg" / "blocks.py").read_text()),
        }
        package = found.read("mypkg.sub")
        assert package is not None and package["is_package"]
        assert found.read("mypkg.blocks") == summary
        assert (found.files, found.unread, found.cached) == (2, 0, 0)
        assert found.read("mypkg.broken") is None
        assert found.read("mypkg.nothing") is None
        assert found.read("elsewhere") is None
        assert (found.files, found.unread) == (2, 1)
        assert found.parsed_ms >= 0
    assert not (library / "WAS_RUN").exists()
    assert {name for name in set(sys.modules) - before if name.partition(".")[0] == "mypkg"} == set()


def test_all_of_a_package_is_read_those_of_a_folder_first(library: Path) -> None:
    with reader(library / "mypkg") as found:
        assert classes_of(found) == {
            "mypkg": [],
            "mypkg.blocks": ["Net", "Head", "Inner"],
            "mypkg.sub": [],
            "mypkg.sub.deep": ["Deep"],
        }
        assert (found.files, found.unread) == (4, 1)


def test_what_was_named_is_read_and_the_rest_of_its_package_can_be(library: Path) -> None:
    with reader(library / "mypkg" / "blocks.py") as found:
        assert list(classes_of(found)) == ["mypkg.blocks"]
        assert found.read("mypkg.sub.deep") is not None
    with reader(library / "mypkg" / "sub") as found:
        assert list(classes_of(found)) == ["mypkg.sub", "mypkg.sub.deep"]
        assert found.read("mypkg.blocks") is not None


def test_a_class_is_found_by_name_before_anything_is_parsed(library: Path) -> None:
    with reader(library / "mypkg") as found:
        assert found.find_class("Deep") == ["mypkg.sub.deep"]
        assert found.find_class("Head.Inner") == ["mypkg.blocks"]
        assert found.find_class("Net") == ["mypkg.blocks", "mypkg.broken"]
        assert found.find_class("Ne") == found.find_class("") == []
        assert (found.files, found.unread) == (0, 0)
        list(found.read_all())
        assert found.find_class("Net") == ["mypkg.blocks"]  # what cannot be parsed has no class


def test_a_class_is_found_wherever_its_word_stands_and_whatever_its_letters(tmp_path: Path) -> None:
    text = "if True:\n\tclass\tOne  (object): pass\nclass Größe: pass\nclass ﬁne: pass\n"
    text += "classTwo = subclass = 3\n"
    write_tree(tmp_path, {"a.py": text, "b.py": "class One[T]: pass", "c.py": "# class One\r\n"})
    with reader(tmp_path) as found:
        assert found.find_class("One") == ["a", "b", "c"]
        assert found.find_class("Größe") == ["a"]
        assert found.find_class("fine") == ["a"]  # identifiers are NFKC: so is what the parser says
        assert found.find_class("Two") == []


def test_files_beyond_a_limit_are_counted_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"m{number}" for number in range(9)]
    write_tree(tmp_path, {f"{name}.py": f"class C{name}: pass\n" for name in names})
    write_tree(tmp_path, {"large.py": b"x=1\n" * (reading.MOST_FILE_NBYTES // 4) + b"\n"})
    with reader(tmp_path) as found:
        assert list(classes_of(found)) == names
        assert (found.files, found.unread) == (9, 1)
    monkeypatch.setattr(reading, "MOST_FILES", 4)
    with reader(tmp_path) as found:
        assert found.read("m8") is not None
        assert found.read("large") is None
        assert list(classes_of(found)) == ["m0", "m1", "m2", "m8"]
        assert (found.files, found.unread) == (4, 6)
        assert found.find_class("Cm1") == ["m1"]
        assert found.find_class("Cm8") == []
    monkeypatch.undo()
    size = os.path.getsize(tmp_path / "m0.py")
    monkeypatch.setattr(reading, "MOST_NBYTES", 3 * size)
    with reader(tmp_path) as found:
        assert list(classes_of(found)) == ["m0", "m1", "m2"]
        assert found.find_class("Cm2") == ["m2"]
        assert found.find_class("Cm3") == []


def test_a_file_that_goes_while_it_is_read_is_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"a.py": "class A: pass\n", "b.py": "class B: pass\n"})
    with reader(tmp_path) as found:
        assert list(found.layout.named) == ["a", "b"]
        (tmp_path / "a.py").unlink()
        assert found.find_class("A") == []
        assert list(classes_of(found)) == ["b"]
        assert (found.files, found.unread) == (1, 1)
    write_tree(tmp_path, {"a.py": "class A: pass\n"})
    with reader(tmp_path) as found:
        status, now = found.layout.status("a.py"), found.layout.status
        monkeypatch.setattr(found.layout, "status", lambda file: status if file == "a.py" else now(file))
        (tmp_path / "a.py").unlink()
        assert found.find_class("A") == []
        assert found.read("b") is not None
        assert found.layout.locate("a") == "a.py"
        assert found.read("a") is None
        assert (found.files, found.unread) == (1, 1)


def test_more_files_are_read_than_are_asked_for_at_once(tmp_path: Path) -> None:
    names = [f"m{number:03}" for number in range(150)]
    long = "x" * 100  # requests of more than a pipe takes for certain
    write_tree(tmp_path, {f"{long}/{long}/{name}.py": f"class C{name}: pass\n" for name in names})
    with reader(tmp_path) as found:
        assert classes_of(found) == {name: [f"C{name}"] for name in names}
        assert (found.files, found.unread) == (150, 0)
