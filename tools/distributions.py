"""The wheel and the sdist, built twice from clean copies and compared: python -m tools.distributions [DIR].

`make dist` puts them into dist/. Each copy holds the tracked files only, lies in a folder of its own, and is
built with another umask, time zone and locale: what leaks from a machine into the bytes is seen.
Dates are those of the last commit (SOURCE_DATE_EPOCH). The wheel is built from the sdist, so that nothing it
needs can be missing there. Nothing is fetched: hatchling comes from this environment.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Written by hatchling into every sdist.
_ADDED = {"PKG-INFO"}
SURROUNDINGS: tuple[tuple[int, Mapping[str, str]], ...] = (
    (0o022, {"TZ": "UTC", "LC_ALL": "C"}),
    (0o077, {"TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "7"}),
)


def git(*arguments: str) -> str:
    """Standard output of git in the checkout."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def tracked_files() -> list[str]:
    """Every file under version control, also one that is changed."""
    return git("ls-files", "-z").rstrip("\0").split("\0")


def build(folder: Path, umask: int, surroundings: Mapping[str, str]) -> list[Path]:
    """Copy what is tracked into ``folder`` and build there: the sdist, and from it the wheel.

    Raises:
        subprocess.CalledProcessError: the build failed.
    """
    copy, out = folder / "copy", folder / "out"
    for name in tracked_files():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    epoch = git("log", "-1", "--format=%ct").strip()
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    environment = {**os.environ, **surroundings, "SOURCE_DATE_EPOCH": epoch}
    subprocess.run(command, check=True, capture_output=True, umask=umask, env=environment)
    return sorted(out.iterdir())


def build_twice(folder: Path) -> list[Path]:
    """Both distributions, the same bytes twice.

    Raises:
        SystemExit: the two builds differ.
    """
    rounds = []
    for number, (umask, surroundings) in enumerate(SURROUNDINGS):
        rounds.append(build(folder / str(number), umask, surroundings))
    for first, second in zip(*rounds, strict=True):
        if first.name != second.name or first.read_bytes() != second.read_bytes():
            sys.exit(f"{first.name} is not reproducible: compare {first} and {second}")
    return rounds[0]


def strangers_in_sdist(path: Path) -> list[str]:
    """Names in an sdist that are not under version control."""
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    return sorted(names - set(tracked_files()) - _ADDED)


def strangers_in_wheel(path: Path) -> list[str]:
    """Names in a wheel that are neither metadata nor tracked files of the package."""
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    return sorted(names ^ {name for name in tracked_files() if name.startswith("ckpttool/")})


def main() -> int:
    """Build what is committed, compare, and move it to the folder that is named (dist/)."""
    to = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist")
    if git("status", "--porcelain", "--untracked-files=no"):
        sys.exit("commit first: a release is made of what is committed")
    with tempfile.TemporaryDirectory() as name:
        files = build_twice(Path(name))
        sdist, wheel = (next(file for file in files if file.suffix == suffix) for suffix in (".gz", ".whl"))
        if strangers := strangers_in_sdist(sdist) + strangers_in_wheel(wheel):
            sys.exit(f"should not be there, or is missing: {', '.join(strangers)}")
        to.mkdir(exist_ok=True)
        for file in files:
            print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {to / file.name}")
            shutil.move(file, to / file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
