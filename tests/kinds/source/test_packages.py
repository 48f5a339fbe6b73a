"""What a user names is found without importing it: installed packages, folders, files, parts of packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import zipfile
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import pytest

from ckpttool.kinds.source.packages import SourceNotFound, Tree, find_tree
from tests.support.source_trees import write_tree

VERSIONS = {name: importlib.metadata.version(name) for name in ("pluggy", "pytest")}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages; the current folder is an empty one."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return site


@pytest.fixture(autouse=True)
def nothing_is_imported(tmp_path: Path) -> object:
    before = dict(sys.modules)
    yield
    assert sys.modules == before
    assert not list(tmp_path.rglob("WAS_RUN"))


def test_an_installed_package_is_found_by_its_name(site: Path) -> None:
    write_tree(site, {"onepkg/__init__.py": "", "onepkg/blocks/__init__.py": "", "onepkg/blocks/a.py": ""})
    write_tree(site, {"onepkg-1.2.dist-info/METADATA": b"Name: onepkg\nVersion: 1.2.post1\n\nVersion: 9\n"})
    whole = Tree("onepkg", str(site), "", "1.2.post1", "", installed=True, top="onepkg")
    assert find_tree("onepkg") == whole
    assert find_tree("onepkg:Net") == whole._replace(class_name="Net")
    assert find_tree("onepkg:blocks.Net") == whole._replace(class_name="blocks.Net")
    assert find_tree("onepkg.blocks") == whole._replace(entry="onepkg/blocks")
    assert find_tree("onepkg.blocks.a:Net") == whole._replace(entry="onepkg/blocks/a.py", class_name="Net")


def test_a_module_alone_is_a_package_too(site: Path) -> None:
    write_tree(site, {"single.py": "", "other.py": ""})
    tree = find_tree("single")
    assert (tree.package, tree.path, tree.top, tree.scope) == ("single", str(site), "single.py", "single.py")


def test_of_a_namespace_the_first_part_with_files_is_taken(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "space").mkdir()
    write_tree(tmp_path / "second", {"space/part/a.py": ""})
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "second")])
    tree = find_tree("space")
    assert (tree.path, tree.top) == (str(tmp_path / "second"), "space")


def test_a_file_or_folder_in_a_package_belongs_to_the_top_of_it(tmp_path: Path) -> None:
    write_tree(tmp_path, {"lib/pkg/__init__.py": "", "lib/pkg/sub/__init__.py": "", "lib/pkg/sub/a.py": ""})
    whole = Tree("pkg", str(tmp_path / "lib"), "", "", "", installed=False, top="pkg")
    assert find_tree(str(tmp_path / "lib" / "pkg")) == whole
    assert find_tree(str(tmp_path / "lib/pkg/sub")) == whole._replace(entry="pkg/sub")
    assert find_tree(f"{tmp_path}/lib/pkg/sub/a.py:Net") == whole._replace(
        entry="pkg/sub/a.py", class_name="Net"
    )
    assert find_tree(f"{tmp_path}/lib/pkg/__init__.py") == whole._replace(entry="pkg/__init__.py")


def test_a_folder_or_file_alone_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"repo/train.py": "", "repo/pkg/__init__.py": ""})
    alone = Tree("", str(tmp_path / "repo"), "", "", "", installed=False, top="")
    assert find_tree(str(tmp_path / "repo")) == alone
    assert find_tree(f"{tmp_path}/repo/:Net") == alone._replace(class_name="Net")
    monkeypatch.chdir(tmp_path / "repo")
    assert find_tree(".") == alone
    assert find_tree("./train.py") == find_tree("train.py") == alone._replace(entry="train.py")
    assert find_tree("train.py:a.B") == alone._replace(entry="train.py", class_name="a.B")


def test_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    write_tree(tmp_path, {"lib/pkg/__init__.py": "", "lib/pkg/a.py": ""})
    (tmp_path / "link").symlink_to("lib/pkg")
    (tmp_path / "file.py").symlink_to("lib/pkg/a.py")
    assert find_tree(f"{tmp_path}/link") == find_tree(f"{tmp_path}/lib/pkg")
    assert find_tree(f"{tmp_path}/file.py") == find_tree(f"{tmp_path}/lib/pkg/a.py")


def test_a_package_of_any_folder_name_has_a_name_for_its_modules(tmp_path: Path) -> None:
    write_tree(tmp_path, {"ComfyUI-nodes.v2/__init__.py": "", "ComfyUI-nodes.v2/a.py": ""})
    tree = find_tree(f"{tmp_path}/ComfyUI-nodes.v2")
    assert (tree.package, tree.top) == ("ComfyUI_nodes_v2", "ComfyUI-nodes.v2")


def test_a_colon_may_be_part_of_a_path(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a:b/net.py": "", "c/net.py": ""})
    assert find_tree(f"{tmp_path}/a:b").path == str(tmp_path / "a:b")
    assert find_tree(f"{tmp_path}/a:b/net.py:Net").class_name == "Net"
    assert find_tree(f"{tmp_path}/c:b").class_name == "b"


def test_nothing_is_found_in_the_current_folder_by_name(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(Path.cwd(), {"planted/__init__.py": "", "flat.py": ""})
    (site.parent / "link").symlink_to(Path.cwd())
    paths = ["", ".", str(Path.cwd()), f"{Path.cwd()}/", str(site.parent / "link")]
    monkeypatch.setattr(sys, "path", [*paths, *sys.path])
    with pytest.raises(SourceNotFound, match="no package 'planted' is installed") as caught:
        find_tree("planted")
    assert caught.value.hint == "for the folder write ./planted"
    with pytest.raises(SourceNotFound, match="no package 'flat' is installed"):
        find_tree("flat")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Editable({"planted": "planted"})])
    with pytest.raises(SourceNotFound, match="no package 'planted' is installed"):
        find_tree("planted")
    write_tree(site, {"planted/__init__.py": ""})
    assert find_tree("planted").path == str(site)


class Editable:
    """What setuptools installs for an editable package: a finder that knows names and folders."""

    def __init__(self, folders: dict[str, str]) -> None:
        self.folders = folders
        self.asked: list[str] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        self.asked.append(name)
        if name not in self.folders:
            return None
        init = os.path.join(self.folders[name], "__init__.py")
        return importlib.util.spec_from_file_location(
            name, init, submodule_search_locations=[self.folders[name]]
        )


class Failing(Editable):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        raise ImportError(name)


def test_a_finder_of_an_editable_install_is_asked_for_the_top_alone(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "repo", {"lib/__init__.py": "", "lib/models/net.py": ""})
    write_tree(site, {"edited-0.3.dist-info/METADATA": b"Metadata-Version: 2.1\r\nVersion: 0.3\r\n"})
    finder = Editable({"edited": str(tmp_path / "repo" / "lib")})
    monkeypatch.setattr(sys, "meta_path", [Failing({}), object(), *sys.meta_path, finder])
    tree = find_tree("edited.models.net")
    expected = Tree(
        "edited", str(tmp_path / "repo"), "lib/models/net.py", "0.3", "", installed=True, top="lib"
    )
    assert tree == expected
    assert finder.asked == ["edited"]


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({"Big_Pkg-2.0.dist-info/METADATA": b"Version: 2.0\n"}, "2.0"),
        (
            {
                "other-3.dist-info/METADATA": b"Version: 3\n",
                "other-3.dist-info/top_level.txt": b"x\nbig_pkg\n",
            },
            "3",
        ),
        (
            {"o-4.dist-info/METADATA": b"Version: 4\n", "o-4.dist-info/RECORD": b"big_pkg/a.py,sha256=x,1\n"},
            "4",
        ),
        ({"o-4.dist-info/METADATA": b"Version: 4\n", "o-4.dist-info/RECORD": b"z/big_pkg/a.py,,\n"}, ""),
        ({"big_pkg.egg-info/PKG-INFO": b"Version: 5.dev0\n"}, "5.dev0"),
        ({"big_pkg-6-py3.11.egg-info/PKG-INFO": b"Version: 6\n"}, "6"),
        ({"big_pkg-7.dist-info/METADATA": b"Summary: x\n\nVersion: 7\n"}, ""),
        ({"big_pkg-8.dist-info/RECORD": b""}, ""),
        ({"a-1.dist-info/RECORD": b"big_pkg/a.py,,\n", "b-1.dist-info/RECORD": b"big_pkg/b.py,,\n"}, ""),
        ({"big_pkg-9.dist-info/METADATA": b"Version: " + b"9" * 1000}, "9" * 64),
        ({}, ""),
    ],
)
def test_the_version_is_what_lies_beside_the_package(
    site: Path, files: dict[str, str | bytes], version: str
) -> None:
    write_tree(site, {"big_pkg/__init__.py": "", **files})
    assert find_tree("big_pkg").version == version
    assert find_tree(f"{site}/big_pkg").version == version


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nosuchpkg", "no package 'nosuchpkg' is installed"),
        ("nosuchpkg:Net", "no package 'nosuchpkg' is installed"),
        ("sys", "no package 'sys' is installed"),
        ("no-name", "'no-name' is no name of a package"),
        ("", "'' is no name of a package"),
        ("a..b", "'a..b' is no name of a package"),
        ("onepkg.none", "the package 'onepkg' has no module 'onepkg.none'"),
        ("zipped", "the package 'zipped' has no source that can be read: it lies in .*library.zip"),
        ("compiled", "the package 'compiled' has no source that can be read: it lies in .*__init__.pyc"),
        ("binary", "the package 'binary' has no source that can be read: it lies in .*binary.abi3.so"),
        ("./none", "no such folder or .py file"),
        ("none.py", "no such folder or .py file"),
        ("./none.py:Net", "no such folder or .py file"),
        ("./notes.txt", "not a folder or a .py file"),
        ("./library.zip", "not a folder or a .py file"),
        ("./fifo.py", "not a folder or a .py file"),
        ("./nul\0.py", "no such folder or .py file"),
        ("./empty", "no .py file is in"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(
    site: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    write_tree(site, {"onepkg/__init__.py": "", "compiled/__init__.pyc": b"", "binary.abi3.so": b""})
    write_tree(Path.cwd(), {"notes.txt": b"", "empty/data.json": b"{}", "empty/__pycache__/a.py": ""})
    os.mkfifo("fifo.py")
    with zipfile.ZipFile("library.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "")
    monkeypatch.setattr(sys, "path", [*sys.path, os.path.abspath("library.zip")])
    importlib.invalidate_caches()
    with pytest.raises(SourceNotFound, match=message) as caught:
        find_tree(name)
    assert caught.value.hint


def test_finding_agrees_with_the_import_system(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "pluggy", "pytest", "_pytest", "this"):
        spec = PathFinder.find_spec(name)
        assert spec is not None and spec.origin is not None
        tree = find_tree(name)
        assert os.path.realpath(spec.origin).startswith(os.path.join(tree.path, tree.top))
    for name, distribution in (("pluggy", "pluggy"), ("_pytest", "pytest")):
        assert find_tree(name).version == VERSIONS[distribution]
