"""The hostile corpus: nothing in a file runs, moves the cursor, or takes memory or time without end.

Every case is read in a child process under an audit hook (``tests/hostile/child.py``), by the reader itself
and by every command that takes a file: each view of ``inspect`` for a pipe and for a terminal, ``diff``
against itself and a sound file on either side, ``convert`` to both formats, ``git-textconv``, and ``verify``
in processes of its own, because it imports torch. ``lint`` takes a model and no file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import pickles as op
from tests.hostile.case import Case
from tests.hostile.cases import CASES
from tests.hostile.child import MODEL
from tests.hostile.containers import torch_zip
from tests.hostile.inert import RAW
from tests.support.warm import Warm

ROOT = Path(__file__).parents[2]
SECONDS = 10
MEMORY = 512 << 20  # address space above that of the warmed-up process and the size of the file
BATCH_VERIFIED = 128
VIEWS = ([], ["--json"], ["--globals"], ["--check"])
PIPES = [(["inspect", *view, "@path"], False) for view in VIEWS]
TERMINALS = [(["inspect", *view, "@path"], True) for view in VIEWS]
COMMANDS = [
    (line, False)
    for line in (
        ["diff", "@path", "@path"],
        ["diff", "@path", "@good"],
        ["diff", "@good", "@path"],
        ["convert", "@path", "@out.safetensors"],
        ["convert", "@path", "@out.pt"],
        ["git-textconv", "@path"],
        ["get", "@path", "no such name"],
        ["inspect", "--values", "@path"],
    )
]
VERIFY = [(["verify", "@path", "--model", MODEL], False)]

TOGETHER = [name for name, case in CASES.items() if not case.alone]
ALONE = [name for name, case in CASES.items() if case.alone]

# Our own colours, and the erasing of a progress line: taken out before RAW is looked for; no case uses them.
OURS = re.compile(r"\x1b\[[0-9;]*m|\r\x1b\[K")


def runs_of(name: str) -> list[tuple[list[str], bool]]:
    """(arguments, for a terminal or not): terminals are asked about text; of the rest they see one view.

    Bombs take seconds each. Every command reads a file by the same reader, so of those that are refused by it
    each meets ``inspect`` and one other command, in turn; those that read meet all that do more than read.
    """
    case = CASES[name]
    if case.alone and case.error:
        return [PIPES[0], COMMANDS[ALONE.index(name) % len(COMMANDS)]]
    if case.alone:
        return [*PIPES[:2], COMMANDS[0], *COMMANDS[3:]]
    return PIPES + (TERMINALS if name.startswith("text:") else TERMINALS[:1]) + COMMANDS


def run_child(
    reader: Warm, names: list[str], runs: list[tuple[list[str], bool]] | None = None
) -> dict[str, dict[str, Any]]:
    """Build cases in a folder of their own and read them in one fork."""
    files = {name: CASES[name].build for name in names}
    lines = {name: runs_of(name) if runs is None else runs for name in names}
    apart = any(CASES[name].alone for name in names)
    return run_files(reader, files, lines, apart=apart, read=runs is None)


def run_files(
    reader: Warm,
    files: Mapping[str, Callable[[Path], str]],
    lines: Mapping[str, list[tuple[list[str], bool]]],
    *,
    apart: bool = False,
    read: bool = True,
) -> dict[str, dict[str, Any]]:
    """Write files, each in a folder of its own, and run command lines on them in one fork."""
    # In memory where that can be: what is converted is synced to its disk.
    disk = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(dir=disk, prefix="hostile-") as name,
        tempfile.TemporaryDirectory(dir=disk, prefix="hostile-") as scratch,
    ):
        folder = Path(name)
        canary = folder / "canary"
        canary.mkdir()
        marker = folder / "hostile-canary"
        betray = f"open({str(marker)!r}, 'w').close()\n"
        (canary / "canary_module.py").write_text(betray + "class Bomb: pass\n")
        good = folder / "good.pt"
        good.write_bytes(torch_zip(op.dump({"w": op.tensor(), "n": 1})))
        jobs = []
        for number, (case, build) in enumerate(files.items()):
            home = folder / str(number)
            home.mkdir()
            jobs.append({"name": case, "path": build(home), "read": read, "runs": lines[case]})
        request = {
            "memory": MEMORY,
            "seconds": SECONDS,
            "canary": str(canary),
            "good": str(good),
            "scratch": os.path.realpath(scratch),
            "apart": apart,
            "jobs": jobs,
        }
        before = _state_of(folder)
        child = reader.run(
            "-c",
            "from tests.hostile.child import main; main()",
            stdin=json.dumps(request),
            cwd=folder,
            timeout=60 + 6 * SECONDS * sum(1 + len(job["runs"]) for job in jobs),
        )
        results = {result["name"]: result for result in map(json.loads, child.stdout.splitlines())}
        for job in jobs:
            # A child that died took the case it was at with it.
            result = results.setdefault(
                job["name"], {"died": f"status {child.returncode}: {child.stderr[-600:]}"}
            )
            for run in result.get("runs", ()):
                run["path"] = job["path"]
            result["created"] = sorted(str(path) for path, _ in _state_of(folder) - before)
        return results


def _state_of(folder: Path) -> set[tuple[Path, tuple[int, int]]]:
    """Every file with its size and time: what is new was made or changed."""
    found = set()
    for path in folder.rglob("*"):
        status = path.lstat()
        found.add((path, (status.st_size, 0 if path.is_dir() else status.st_mtime_ns)))
    return found


def check(case: Case, result: dict[str, Any]) -> None:
    """Everything that a case promises."""
    check_harmless(result)
    read = result["read"]
    if case.error:
        assert "error" in read, read
        assert case.error == "*" or case.error.lower() in read["error"].lower(), read["error"]
    else:
        assert "error" not in read, read
        assert set(case.globals) <= set(read["globals"]), read["globals"]
        assert case.names is None or read["names"] == list(case.names)
        assert not case.finding or case.finding in read["findings"], read["findings"]
    for run in result["runs"]:
        check_status(run, readable=not case.error)
    if case.globals:
        shown = next(
            run["out"] for run in result["runs"] if "--globals" in run["argv"] and not run["terminal"]
        )
        for name in case.globals:
            assert name in shown, shown


def check_harmless(result: dict[str, Any]) -> None:
    """No foreign code, no file but a command's own, no raw control character, no traceback, in time."""
    assert "died" not in result, result["died"]
    assert result["created"] == []
    for part in (result, *result["runs"]):
        assert "escaped" not in part, part
        assert part["events"] == [], part
    for run in result["runs"]:
        out, err = run["out"], run["err"]
        if run["terminal"]:
            out, err = OURS.sub("", out), OURS.sub("", err)
        for text in (out, err):
            assert not (match := RAW.search(text)), (run["argv"], text[max(0, match.start() - 60) :][:200])
        assert "Traceback" not in err, err[-1500:]
        assert "internal error" not in err, err


def check_status(run: dict[str, Any], *, readable: bool) -> None:
    """The exit status as documented, an error in its form, and a destination only where all went well."""
    command, status = run["argv"][0], run["status"]
    if command == "git-textconv" and status == 0:
        # git gives up on a whole log when a textconv fails: what cannot be read is said in one line.
        assert readable or run["out"].startswith("not readable\t"), run
        assert run["err"] == "", run
    elif not readable:
        assert status == 2, run
    elif command == "inspect":
        # A check that finds something is a result.
        assert status in ((0, 1) if "--check" in run["argv"] else (0,)), run
    elif command == "diff":
        assert status in ((0,) if run["argv"][1:] == ["@path", "@path"] else (0, 1, 2)), run
    elif command == "convert":
        assert status in (0, 2), run
    elif command == "get":
        assert status == 2, run
    else:
        assert command == "verify" and status in (1, 2), run  # no case holds the model's tensors
    outputs = [arg[1:] for arg in run["argv"] if arg.startswith("@out")]
    if status == 2:
        if "--json" in run["argv"]:
            document = json.loads(run["out"])
            assert (document["schema"], document["exit"]) == ("ckpttool/error/1", 2), run
        else:
            assert run["out"] == "", run
        if not (outputs and f"/{outputs[0]}: not enough space" in run["err"]):  # the destination's own fault
            check_error_lines(run["err"], run["path"])
    assert run["left"] == (outputs if status == 0 else []), run
    if outputs and status == 0:
        assert "error" not in run["output"], run
        assert run["output_diff"] in (0, 1), run


def check_error_lines(err: str, path: str) -> None:
    """One line that names the file, and at most one more with what to do."""
    first, *more = err.rstrip("\n").split("\n")
    assert first.startswith("error: "), err
    # A shard or an index below the path may be what is at fault; a hostile file name is shown escaped.
    folder = re.sub(r"[^ -~].*", "", os.path.dirname(path))
    assert folder in first, err
    assert len(more) <= 1, err
    assert all(line.startswith("hint:") for line in more), err


@pytest.mark.parametrize("name", TOGETHER)
def test_case(name: str, reader: Warm) -> None:
    check(CASES[name], run_child(reader, [name])[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_bomb(name: str, reader: Warm) -> None:
    check(CASES[name], run_child(reader, [name])[name])


@pytest.mark.parametrize("number", range(0, len(TOGETHER), BATCH_VERIFIED))
def test_verify(number: int, reader_with_torch: Warm) -> None:
    """Bombs are left to ``inspect``: verify reads a file by the same reader before it builds a model."""
    names = TOGETHER[number : number + BATCH_VERIFIED]
    for name, result in run_child(reader_with_torch, names, VERIFY).items():
        check_harmless(result)
        for run in result["runs"]:
            check_status(run, readable=not CASES[name].error)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.pt"
    path.write_bytes(b"x")
    path.chmod(0)
    child = subprocess.run(
        [sys.executable, "-m", "ckpttool", "inspect", str(path)], capture_output=True, text=True, cwd=ROOT
    )
    assert (child.returncode, child.stdout) == (2, "")
    assert child.stderr == f"error: {path}: permission denied\n"


def test_the_watch_sees_what_it_must_see() -> None:
    """A hook that misses everything would pass every case."""
    code = """
import os, subprocess, tempfile
from tests.hostile.child import Watch, watched
import sys
watch = Watch()
sys.addaudithook(watch)
folder = tempfile.mkdtemp()
for act in (
    lambda: exec("1"), lambda: compile("1", "x", "eval"), lambda: os.system("true"),
    lambda: open(os.path.join(folder, "x"), "w"), lambda: subprocess.Popen(["true"]).wait(),
    lambda: __import__("this_module_does_not_exist"), lambda: __import__("socket").socket(),
    lambda: __import__("pickle").loads(b"cbuiltins\\nlist\\n."),
):
    result = {}
    with watched(watch, 10, result):
        act()
    assert result["events"], act
result = {}
with watched(watch, 10, result):
    open(__file__ if "__file__" in globals() else sys.executable, "rb").close()
assert result["events"] == [], result
with watched(watch, 0.05, result):
    while True: pass
assert "TooSlow" in result["escaped"]
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
