"""The wheel and the sdist: the same bytes twice, nothing missing, nothing that should not be there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.programs import needs_checkout
from tools import distributions

LACKING = [name for name in ("build", "hatchling") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"{LACKING} not installed: `make venv` brings them"),
    needs_checkout,
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel; that both builds agree is checked on the way."""
    files = distributions.build_twice(tmp_path_factory.mktemp("built"))
    sdist, wheel = (next(file for file in files if file.suffix == suffix) for suffix in (".gz", ".whl"))
    assert len(files) == 2
    return sdist, wheel


def test_two_builds_are_the_same_bytes_and_hold_what_is_tracked(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    assert distributions.strangers_in_sdist(sdist) == []
    assert distributions.strangers_in_wheel(wheel) == []
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers()}
        owners = {(member.uid, member.gid, member.uname, member.gname) for member in archive.getmembers()}
    for needed in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "tests/conftest.py",
        "constraints.txt",
        "Makefile",
    ):
        assert needed in names
    assert owners == {(0, 0, "", "")}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "ckpttool/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_installed_wheel_runs(built: tuple[Path, Path], demo: Path, tmp_path: Path) -> None:
    """Away from the checkout: nothing of it may be needed."""
    home = tmp_path / "installed"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        str(home),
    ]
    subprocess.run([*pip, str(built[1])], check=True)
    (tmp_path / "x.pt").write_bytes(b"\x80\x02}.")
    for name in ("linear.pt", "swin.pt", "swin.py"):
        (tmp_path / name).write_bytes((demo / name).read_bytes())

    def run(*arguments: str) -> str:
        command = [sys.executable, str(home / "bin" / "ckpttool"), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(home)}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
        )
        return done.stdout

    version = built[1].name.split("-")[1]
    assert run("--version") == f"ckpttool {version}\n"
    assert '"ckpttool/inspect/1"' in run("inspect", "x.pt", "--json")
    assert "--stats" in run("inspect", "--help")
    assert "weight\tfloat32\t[4,8]" in run("linear.pt")
    assert "checked" in run("convert", "linear.pt", "linear.safetensors")
    assert run("diff", "linear.pt", "linear.safetensors", "--quiet") == ""
    assert "swin.py:73" not in run("inspect", "swin.pt", "--source", "swin.py")  # a pipe says the basis
    assert '"line": 73' in run("inspect", "swin.pt", "--source", "swin.py", "--json")
    assert "loads correctly on cpu" in run("verify", "swin.pt", "--model", "swin.py:build")
    assert run("lint", "--source", "swin.py") == ""
    code = "import ckpttool; print(ckpttool.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(home)},
        check=True,
    )
    assert where.stdout.startswith(str(home))
