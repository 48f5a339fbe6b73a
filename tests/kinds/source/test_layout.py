"""Dotted names of the files of a tree: of packages, scripts and folders; links; what is no name."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ckpttool.kinds.source import files
from ckpttool.kinds.source.files import walk
from ckpttool.kinds.source.layout import Layout
from ckpttool.kinds.source.packages import find_tree
from tests.support.source_trees import write_tree


def layout(path: Path) -> Layout:
    return Layout(find_tree(str(path)))


def test_names_and_files_of_a_package(tmp_path: Path) -> None:
    write_tree(
        tmp_path, {"pkg/__init__.py": "", "pkg/a.py": "", "pkg/sub/__init__.py": "", "pkg/space/b.py": ""}
    )
    write_tree(
        tmp_path, {"pkg/sub.py": "", "pkg/01_first.py": "", "other/__init__.py": "", "pkg/sub/data.txt": b""}
    )
    found = layout(tmp_path / "pkg")
    assert found.named == {
        "pkg.01_first": "pkg/01_first.py",
        "pkg": "pkg/__init__.py",
        "pkg.a": "pkg/a.py",
        "pkg.space.b": "pkg/space/b.py",
        "pkg.sub": "pkg/sub/__init__.py",
    }
    assert {found.locate(module) for module in found.named} == set(found.named.values())
    for none in (
        "other",
        "a",
        "pkg.space",
        "pkg.b",
        "pkg.sub.data",
        "pkg.a.b",
        "",
        ".",
        "pkg.",
        ".pkg",
        "pkg..a",
    ):
        assert found.locate(none) is None
    for hostile in (
        "pkg./etc/passwd",
        "pkg/a",
        "pkg.../other",
        "pkg.a\0",
        "pkg.sub/__init__",
        "pkg." + "a" * 9000,
    ):
        assert found.locate(hostile) is None


def test_a_package_under_another_folder_name_keeps_its_own(tmp_path: Path) -> None:
    write_tree(tmp_path, {"my-nodes.v2/__init__.py": "", "my-nodes.v2/a.py": "", "dir.py/__init__.py": ""})
    found = layout(tmp_path / "my-nodes.v2")
    assert found.named == {"my_nodes_v2": "my-nodes.v2/__init__.py", "my_nodes_v2.a": "my-nodes.v2/a.py"}
    assert found.locate("my_nodes_v2.a") == "my-nodes.v2/a.py"
    found = layout(tmp_path / "dir.py")
    assert found.named == {"dir_py": "dir.py/__init__.py"} and found.locate("dir_py") == "dir.py/__init__.py"


def test_names_in_a_folder_begin_where_its_scripts_would_find_them(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "setup.py": "",
            "src/pkg/__init__.py": "",
            "src/pkg/a.py": "",
            "tools/scripts/run.py": "",
            "tools/scripts/helpers.py": "",
            "models/__init__.py": "",
            "tools/models/__init__.py": "",
            "one/net.py": "",
            "two/net.py": "",
            "exp-1.0/net-v2.py": "",
        },
    )
    found = layout(tmp_path)
    assert found.named == {
        "setup": "setup.py",
        "models": "models/__init__.py",
        "pkg": "src/pkg/__init__.py",
        "pkg.a": "src/pkg/a.py",
        "run": "tools/scripts/run.py",
        "helpers": "tools/scripts/helpers.py",
        "tools.models": "tools/models/__init__.py",  # `models` is the one at the top
        "one.net": "one/net.py",  # `net` would be two
        "two.net": "two/net.py",
        "exp-1_0.net-v2": "exp-1.0/net-v2.py",
    }
    assert {found.locate(module) for module in found.named} == set(found.named.values())
    assert found.locate("src.pkg.a") == "src/pkg/a.py"  # as from the top folder
    assert found.locate("net") is found.locate("torch") is None


def test_a_file_alone_finds_what_lies_beside_it(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train-v1.0.py": "", "net.py": "", "blocks/__init__.py": "", "deep/er.py": ""})
    found = layout(tmp_path / "train-v1.0.py")
    assert found.named == {"train-v1_0": "train-v1.0.py"}
    assert found.locate("train-v1_0") == "train-v1.0.py"
    assert found.locate("net") == "net.py"
    assert found.locate("blocks") == "blocks/__init__.py"


def test_links_inside_are_followed_by_name_and_those_that_lead_out_are_not(tmp_path: Path) -> None:
    write_tree(
        tmp_path, {"secret/__init__.py": "", "pkg/__init__.py": "", "pkg/core/__init__.py": "", "x.py": ""}
    )
    package = tmp_path / "pkg"
    (package / "compat").symlink_to("core")
    (package / "alias.py").symlink_to("core/__init__.py")
    (package / "circle").symlink_to(".")
    (package / "itself.py").symlink_to("itself.py")
    (package / "gone.py").symlink_to("nowhere.py")
    (package / "out.py").symlink_to("../x.py")
    (package / "absolute.py").symlink_to("/etc/passwd")
    (package / "outside").symlink_to("../secret")
    (package / "pkg2").symlink_to(tmp_path)
    found = layout(package)
    assert list(found.named.values()) == ["pkg/__init__.py", "pkg/core/__init__.py"]
    assert found.locate("pkg.compat") == "pkg/compat/__init__.py"
    assert found.locate("pkg.alias") == "pkg/alias.py"
    assert found.locate("pkg.circle.circle.core") == "pkg/circle/circle/core/__init__.py"
    for none in (
        "pkg.itself",
        "pkg.gone",
        "pkg.out",
        "pkg.absolute",
        "pkg.outside",
        "pkg.pkg2.x",
        "pkg.pkg2.secret",
    ):
        assert found.locate(none) is None


def test_only_regular_files_are_files(tmp_path: Path) -> None:
    write_tree(tmp_path, {"pkg/__init__.py": "", "pkg/folder.py/a.txt": b""})
    os.mkfifo(tmp_path / "pkg" / "fifo.py")
    found = layout(tmp_path / "pkg")
    assert list(found.named) == ["pkg"]
    assert found.locate("pkg.fifo") is found.locate("pkg.folder") is None


def test_folders_that_hold_no_source_of_models_are_left_out(tmp_path: Path) -> None:
    kept = ["a.py", "tests/b.py", "Lib/c.py", "env/d.py"]
    left = [
        ".git/e.py",
        "__pycache__/f.py",
        "node_modules/g.py",
        "x/site-packages/h.py",
        "venv/lib/i.py",
        "c/j.py",
    ]
    write_tree(tmp_path, dict.fromkeys(kept + left, ""))
    write_tree(tmp_path, {"venv/pyvenv.cfg": b"", "c/conda-meta/history": b""})
    assert sorted(walk(str(tmp_path))) == sorted(kept)
    write_tree(tmp_path, {"pyvenv.cfg": b""})
    assert sorted(walk(str(tmp_path))) == sorted(kept)  # a folder that is named is read
    assert list(walk(str(tmp_path / "nowhere"))) == []


def test_a_folder_of_very_many_names_ends_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {f"d{number}/a.py": b"" for number in range(30)})
    monkeypatch.setattr(files, "_MOST_SEEN", 40)
    assert len(list(walk(str(tmp_path)))) == 10


@pytest.mark.slow
def test_a_folder_of_a_hundred_thousand_files_takes_a_second(tmp_path: Path) -> None:
    for number in range(120_000):
        os.close(os.open(tmp_path / f"{number}.jpg", os.O_CREAT | os.O_WRONLY))
    write_tree(tmp_path, {"deep/a.py": b""})
    started = time.process_time()
    list(walk(str(tmp_path)))
    assert time.process_time() - started < 2
