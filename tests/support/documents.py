"""Pages of Markdown that can be run: their blocks, and a terminal in which the commands are typed.

The rules for whoever writes a page:

- A block is fenced and says what it is. ``console``: lines that begin with ``$ `` are run, in order, and what
  follows a command is what it must print on a terminal of 100 columns. ``python``: is executed. ``pycon``: is
  a doctest. ``text``, ``json``, ``diff``: are shown and not run.
- All blocks of a page share one namespace and one folder, which begins as what ``make demo`` writes into
  build/demo (README: the folder that build is in).
- A command ends with status 0, or the next line is ``$ echo $?`` and says with which.
- A command without output below it may print anything. A line that is only ``…`` stands for any lines, and
  ``…`` within a line for any text. Durations and rates stand for any, and of a number with four decimals or
  more only the first three significant digits count: another CPU rounds otherwise.
- ``<!-- not run: REASON -->`` above a block lets it be. There is no other way.

``pytest tests/project/test_docs.py --update-golden`` writes into the pages what is printed now. Where a page
leaves out lines, the new ones are left out as well as that can be told: look at the diff.
"""

from __future__ import annotations

import difflib
import doctest
import io
import os
import re
import shlex
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from ckpttool import cli
from tests.support.folders import standing_in
from tests.support.programs import write_program

ROOT = Path(__file__).parents[2]
WIDTH = 100
LANGUAGES = {"console", "python", "pycon", "text", "json", "diff"}

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\n*\Z", re.DOTALL)
_ASKED = -1  # the next line is the status
_QUOTED = re.compile(r"'[^']*'| #.*")
_SHELL = re.compile(r"[|<>&;$`*?~]")  # what only a shell can make sense of
_LOOSE = re.compile(
    r"(?P<time>\d[\d.]* (?:ms|s|min)\b)|(?P<rate>\d[\d.]* [KMG]iB/s)|(?P<digits>\d+\.\d{4,})|(?P<any>…)"
)


class Block(NamedTuple):
    """A fenced block: the line of its fence, where its body begins, and why it is not run, if it is not."""

    line: int
    start: int
    language: str
    body: str
    not_run: str


class Step(NamedTuple):
    """A command, the lines that the page shows below it, and its status where the page asks for it."""

    command: str
    output: list[str]
    status: int | None = None


def pages() -> list[str]:
    """Every page, as a path from the root."""
    found = [ROOT / "README.md", ROOT / "SECURITY.md", *ROOT.joinpath("docs").glob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def read_page(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(text: str) -> Iterator[Block]:
    end = 0
    for match in _FENCE.finditer(text):
        marker = _NOT_RUN.search(text[end : match.start()])
        line = text.count("\n", 0, match.start()) + 1
        yield Block(line, match.start(2), match[1], match[2], " ".join(marker[1].split()) if marker else "")
        end = match.end()


def steps(block: Block) -> list[Step]:
    """The commands of a ``console`` block."""
    found: list[Step] = []
    for number, line in enumerate(block.body.splitlines()):
        asks = bool(found) and found[-1].status == _ASKED
        if line == "$ echo $?":
            found[-1] = found[-1]._replace(status=_ASKED)
        elif asks:
            found[-1] = found[-1]._replace(status=int(line))
        elif line.startswith("$ "):
            found.append(Step(line[2:], []))
        elif found and found[-1].status is None:
            found[-1].output.append(line)
        elif line:
            raise ValueError(f"line {block.line + number + 1}: output of no command")
    return found


class Terminal:
    """One person at one terminal of 100 columns: a folder, and commands that are typed in it.

    ``ckpttool`` runs in this process, and believes to be on a terminal; what has pipes in it goes to a shell.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.env = {
            **os.environ,
            "PATH": f"{write_program(scratch)}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": str(WIDTH),
            "NO_COLOR": "1",
            "TERM": "dumb",  # no progress bars
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            **{f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        self.env.pop("CKPTTOOL_TRACEBACK", None)

    def type(self, command: str) -> tuple[int, str]:
        """Return the status and everything that the terminal shows."""
        words = shlex.split(command, comments=True)
        if words[0] == "cd":
            self.folder = self.folder / words[1]
            return 0, ""
        if words[0] == "ckpttool" and not _SHELL.search(_QUOTED.sub("", command)):
            return self._run_here(words[1:])
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=120,
        )
        return done.returncode, done.stdout

    def _run_here(self, arguments: list[str]) -> tuple[int, str]:
        screen = _Screen()
        before = dict(os.environ)
        os.environ.clear()
        os.environ.update(self.env)
        try:
            with (
                standing_in(self.folder),
                warnings.catch_warnings(),
                redirect_stdout(screen),
                redirect_stderr(screen),
            ):
                warnings.simplefilter("default")  # as in a process of its own, and not errors as in tests
                status = cli.main(arguments)
        finally:
            os.environ.clear()
            os.environ.update(before)
        return status, screen.getvalue()


class _Screen(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def pattern(expected: list[str]) -> re.Pattern[str]:
    """What matches the output that a page shows, by the rules above."""
    lines = []
    for line in expected:
        if line.strip() == "…":
            lines.append(r"(?:[^\n]*\n)*?")
            continue
        parts, end = [], 0
        for match in _LOOSE.finditer(line):
            parts += [re.escape(line[end : match.start()]), _loose(match)]
            end = match.end()
        lines.append("".join(parts) + re.escape(line[end:].rstrip()) + "\n")
    return re.compile("".join(lines))


def _loose(match: re.Match[str]) -> str:
    if match["time"]:
        return r"\d[\d.]* (?:ms|s|min)"
    if match["rate"]:
        return r"\d[\d.]* [KMG]iB/s"
    if match["digits"]:
        kept = re.match(r"(?:0\.0*)?(?:\d\.?){1,3}", match["digits"])
        assert kept is not None
        return re.escape(kept[0]) + r"[\d.]*"
    return r"[^\n]*"


def abridge(shown: list[str], said: list[str]) -> list[str]:
    """Leave out of ``said`` what ``shown`` leaves out: each run of its lines is where it fits best."""
    runs: list[list[str]] = [[]]
    for line in shown:
        if line.strip() == "…":
            runs.append([])
        else:
            runs[-1].append(line)
    kept, start = said[: len(runs[0])], len(runs[0])
    for run in runs[1:-1]:
        places = range(start, max(start, len(said) - len(run)) + 1)
        start = max(places, key=lambda place: _likeness(run, said[place:]))
        kept += ["…", *said[start : start + len(run)]]
        start += len(run)
    last = len(runs[-1]) if len(runs) > 1 else 0
    return said if len(runs) == 1 else [*kept, "…", *said[max(start, len(said) - last) :][:last]]


def _likeness(some: list[str], others: list[str]) -> float:
    pairs = zip(some, others, strict=False)
    return sum(difflib.SequenceMatcher(None, one, other).ratio() for one, other in pairs)


def tidy(output: str) -> str:
    """What was printed, as a page shows it: no blanks at line ends, no blank lines at either end."""
    return "\n".join(line.rstrip() for line in output.splitlines()).strip("\n")


def run_doctest(body: str, name: str, namespace: dict[str, Any]) -> str:
    """Run a ``pycon`` block and return what went wrong."""
    said: list[str] = []
    test = doctest.DocTestParser().get_doctest(body, namespace, name, None, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append, clear_globs=False)
    namespace.update(test.globs)
    return "".join(said)
