"""The fast tests in fresh clones, each in other surroundings: python -m tools.anywhere [NAME...].

What a test takes for granted of the machine it was written on is found here before a user finds it. Each of
the surroundings below gets a clone of what is committed, a virtual environment, a HOME and a TMPDIR of its
own, and runs `make test` in an environment of four variables. The packages are those of the environment that
runs this, so nothing is fetched. What cannot be tried on this machine is skipped, and the reason is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from tools.distributions import ROOT, git
from tools.terminal import run_on_terminal

# No such user need exist. One that does not has no name and no home folder, as in many containers.
OTHER_USER = 12345
STRANGE_FOLDER = "/".join(["a folder with blanks", "größe 模型", "deep" * 20, "q'uote", "$HOME"])
WIDTH = 100


class Surroundings(NamedTuple):
    """One way in which a machine may differ."""

    environment: Mapping[str, str] = MappingProxyType({})
    command: tuple[str, ...] = ()
    """What `make` is run by."""
    pytest: str = ""
    """Further arguments of pytest."""
    folder: str = "work"
    """Where the clone, HOME and TMPDIR lie, below a temporary folder."""
    temporary: str = ""
    """Where TMPDIR lies, if elsewhere."""
    other_user: bool = False
    read_only: bool = False
    """The sources cannot be written."""
    with_git: bool = True
    on_terminal: bool = False


def shell(line: str) -> tuple[str, ...]:
    """Run the command after ``line``."""
    return ("sh", "-c", f'{line} && exec "$@"', "sh")


SURROUNDINGS: dict[str, Surroundings] = {
    "fresh": Surroundings(),
    "addresses not random": Surroundings(command=("setarch", "-R")),
    "strange folders": Surroundings(folder=STRANGE_FOLDER),
    "temporary files in memory": Surroundings(temporary="/dev/shm"),  # noqa: S108
    "other user": Surroundings(other_user=True),
    "read-only sources": Surroundings(other_user=True, read_only=True),
    "no .git": Surroundings(with_git=False),
    "locale C": Surroundings({"LC_ALL": "C"}),
    "locale UTF-8": Surroundings({"LC_ALL": "C.UTF-8"}),
    "umask 077": Surroundings(command=shell("umask 077")),
    "256 descriptors": Surroundings(command=shell("ulimit -n 256")),
    "hash seed 0": Surroundings({"PYTHONHASHSEED": "0"}),
    "hash seed 1": Surroundings({"PYTHONHASHSEED": "1"}),
    "time zone": Surroundings({"TZ": "Pacific/Kiritimati"}),
    "one core": Surroundings(command=("taskset", "-c", "0"), pytest="-n 1"),
    "one thread of torch": Surroundings({"OMP_NUM_THREADS": "1"}),
    "eight threads of torch": Surroundings({"OMP_NUM_THREADS": "8"}),
    "no vector instructions in torch": Surroundings({"ATEN_CPU_CAPABILITY": "default"}),
    "no terminal": Surroundings(command=("setsid", "--wait"), pytest="-n 0"),
    "terminal": Surroundings({"TERM": "xterm-256color"}, pytest="-n 0", on_terminal=True),
    "colours asked for": Surroundings({"FORCE_COLOR": "1", "COLUMNS": "40", "LINES": "10"}),
    "interrupts ignored": Surroundings(command=shell("trap '' INT")),
    "random order": Surroundings(pytest="--shuffle 1"),
    "other random order": Surroundings(pytest="--shuffle 2"),
}


class Outcome(NamedTuple):
    """How the tests went: what is printed, and if that is a failure."""

    text: str
    failed: bool = False


def make_clone(folder: Path, *, with_git: bool) -> Path:
    """Clone what is committed, with an environment that finds the packages of this one."""
    clone = folder / "ckpttool"
    git("clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone))
    if not with_git:
        shutil.rmtree(clone / ".git")
    environment = clone / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    python = environment / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(clone)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    (environment / ".installed").touch()
    return clone


def why_not(surroundings: Surroundings) -> str:
    """Why these surroundings cannot be had here, or nothing."""
    if surroundings.command and not shutil.which(surroundings.command[0]):
        return f"no {surroundings.command[0]} here"
    if surroundings.temporary and not os.access(surroundings.temporary, os.W_OK):
        return f"{surroundings.temporary} is not there, or cannot be written"
    if surroundings.other_user:
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            return "only root can become another user, by setpriv"
        if subprocess.run([*as_other_user(), sys.executable, "-c", ""], capture_output=True).returncode:
            return f"another user may not run {sys.executable}"
    return ""


def as_other_user() -> tuple[str, ...]:
    """Run the command after this as a user that the machine does not know."""
    return ("setpriv", f"--reuid={OTHER_USER}", f"--regid={OTHER_USER}", "--clear-groups")


def give_away(*folders: Path) -> None:
    """Make the other user the owner of all that is in the folders."""
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, OTHER_USER, OTHER_USER, follow_symlinks=False)


def execute(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path, *, on_terminal: bool
) -> int:
    """Run the command; what it prints goes to ``log``, and its status is returned."""
    if on_terminal:
        status, text = run_on_terminal(command, width=WIDTH, environment=environment, folder=folder)
        log.write_text(text, "utf-8")
        return status
    with log.open("wb") as file:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return done.returncode


def run(surroundings: Surroundings, folder: Path, log: Path) -> Outcome:
    """Run the tests in these surroundings; what is printed goes to ``log``."""
    if reason := why_not(surroundings):
        return Outcome(f"skipped: {reason}")
    work = folder / surroundings.folder
    home, temporary = work / "home", Path(surroundings.temporary or work / "tmp") / folder.name
    home.mkdir(parents=True)
    temporary.mkdir(parents=True)
    clone = make_clone(work, with_git=surroundings.with_git)
    command = [*surroundings.command, "make", "test", f"PYTEST_ARGS={surroundings.pytest}"]
    if surroundings.other_user:
        command = [*as_other_user(), *command]
        give_away(home, temporary, *([] if surroundings.read_only else [clone]))
    environment = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        **surroundings.environment,
    }
    start = time.monotonic()
    status = execute(command, environment, clone, log, on_terminal=surroundings.on_terminal)
    if surroundings.temporary:
        shutil.rmtree(temporary)
    counts = re.findall(r"\d+ (?:passed|failed|errors?)\b", log.read_text("utf-8", "replace"))
    minutes = (time.monotonic() - start) / 60
    text = f"{', '.join(counts[-3:]) or 'no tests'} in {minutes:.1f} min"
    return Outcome(f"{text}, status {status}: see {log}" if status else text, failed=status != 0)


def main() -> int:
    """Try the surroundings that are named, or all of them; 1 if tests failed in one."""
    parser = argparse.ArgumentParser(description="Run the tests in clones, each in other surroundings.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(SURROUNDINGS)}")
    arguments = parser.parse_args()
    if strangers := [name for name in arguments.names if name not in SURROUNDINGS]:
        parser.error(f"no such surroundings: {', '.join(strangers)}")
    if git("status", "--porcelain", "--untracked-files=no"):
        print("note: what is not committed is not in the clones", file=sys.stderr)
    logs = ROOT / "build" / "anywhere"
    logs.mkdir(parents=True, exist_ok=True)
    failures = 0
    for name in arguments.names or SURROUNDINGS:
        with tempfile.TemporaryDirectory(prefix="anywhere-") as folder:
            os.chmod(folder, 0o755)  # noqa: S103
            outcome = run(SURROUNDINGS[name], Path(folder), logs / f"{name}.log")
        print(f"{name:32} {outcome.text}", flush=True)
        failures += outcome.failed
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
