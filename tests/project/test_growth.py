"""Work grows with what the author of a file counts, and no faster than n log n: in no command, for no count.

The subjects are ``tests.support.grown.SUBJECTS``, the ways to count work ``tests.support.work``. Some of it
runs with `make check`, all of it with `make fuzz`: it takes many minutes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.child import run_main
from tests.support.grown import SUBJECTS
from tests.support.quick import make_quick
from tests.support.work import lines, seconds

# From n to 2n and from 2n to 4n the work may grow by 1 to 2, and a logarithm more. 4 would be quadratic.
_STEP = 2.5
_NESTED = ("branches_in_branches", "modules_in_modules")
_FILES = frozenset(
    """
    shards shards_without_an_index shards_of_equal_names files_beside stray_shards checkpoints_beside
    """.split()
)
_COMMANDS = {
    "table": (["inspect", "@a"], True),
    "flat": (["inspect", "@a", "--flat"], True),
    "pipe": (["inspect", "@a"], False),
    "json": (["inspect", "@a", "--json"], False),
    "globals": (["inspect", "@a", "--globals"], True),
    "check": (["inspect", "@a", "--check"], True),
    "stats": (["inspect", "@a", "--stats"], True),
    "digest": (["inspect", "@a", "--digest"], False),
    "git-textconv": (["git-textconv", "@a"], False),
    "values": (["inspect", "@a", "--values"], False),
    "get": (["get", "@a", "no such name"], False),
    "diff": (["diff", "@a", "@b"], True),
    "diff, equal": (["diff", "@a", "@a"], False),
    "diff, grouped": (["diff", "@a", "@b", "--group-depth", "2"], True),
    "plan": (["convert", "@a", "@out.safetensors", "--dry-run"], True),
    "to safetensors": (["convert", "@a", "@out.safetensors"], False),
    "to pt": (["convert", "@a", "@out.pt"], False),
    "to shards": (["convert", "@a", "@out", "--to", "safetensors", "--max-shard-size", "4KB"], False),
}


class Grown:
    """A subject at one size, and nearly the same again to compare it with."""

    def __init__(self, folder: Path, subject: str, count: int) -> None:
        self._folder = folder
        self._number = 0
        make = SUBJECTS[subject]
        self._paths = {
            "@a": str(make(folder / f"{subject}-{count}", count)),
            "@b": str(make(folder / f"{subject}-{count}-other", count - count // 8)),
        }

    def run(self, command: str) -> None:
        """Run one of the commands; whatever it says, it must be no crash."""
        words, terminal = _COMMANDS[command]
        self._number += 1
        out = str(self._folder / f"out{self._number}-{os.path.basename(self._paths['@a'])}")
        argv = [self._paths.get(word, word.replace("@out", out)) for word in words]
        done = run_main(argv, terminal=terminal)
        assert done["status"] in (0, 1, 2) and "internal error" not in str(done["err"]), done["err"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to grow in, where every command has run once: what that imports is no work of a file."""
    make_quick()
    folder = tmp_path_factory.mktemp("grown")
    for subject in ("storages", "names"):
        grown = Grown(folder, subject, 20)
        for command in _COMMANDS:
            grown.run(command)
    yield folder


def _check_lines(folder: Path, subject: str, command: str, size: int) -> None:
    _grow(folder, subject, size).run(command)  # what is imported, compiled and remembered
    steps = [size, 2 * size, 4 * size]
    small, medium, large = (
        lines(lambda count=count: _grow(folder, subject, count).run(command))  # type: ignore[misc]
        for count in steps
    )
    allowed = _STEP * max(medium - small, small // 10)
    assert large - medium <= allowed, f"{command}: {small:,}, {medium:,}, {large:,} lines for {steps}"


_GROWN: dict[tuple[str, int], Grown] = {}


def _grow(folder: Path, subject: str, count: int) -> Grown:
    if (subject, count) not in _GROWN:
        _GROWN[subject, count] = Grown(folder, subject, count)
    return _GROWN[subject, count]


@pytest.mark.parametrize("command", ["table", "diff"])
@pytest.mark.parametrize(
    "subject", ["names_unlike", "shards_missing", "keys_elsewhere", "views", "param_groups"]
)
def test_the_lines_of_some_grow_with_their_count(folder: Path, subject: str, command: str) -> None:
    for count in (40, 80, 160):
        _grow(folder, subject, count)
    _check_lines(folder, subject, command, 40)


@pytest.mark.parametrize("subject", [subject for subject in SUBJECTS if subject not in _NESTED])
@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(("json", "diff", "plan"), marks=pytest.mark.slow, id="some"),
        pytest.param(tuple(_COMMANDS), marks=pytest.mark.fuzz, id="all"),  # five minutes
    ],
)
def test_the_lines_that_run_grow_with_the_count(
    folder: Path, subject: str, commands: tuple[str, ...]
) -> None:
    size = 70 if subject in _FILES else 50  # above 64, the files that are held open
    for count in (size, 2 * size, 4 * size):
        _grow(folder, subject, count)
    for command in commands:
        _check_lines(folder, subject, command, size)


@pytest.mark.slow
@pytest.mark.parametrize("subject", _NESTED)
def test_nesting_is_bounded_and_so_is_its_square(folder: Path, subject: str) -> None:
    """What stands d deep has a path of d keys: so many lines as 512 deep, and no deeper file is read."""
    deep = _grow(folder, subject, 500 if subject == "branches_in_branches" else 120)
    for command in _COMMANDS:
        deep.run(command)
        assert lines(lambda command=command: deep.run(command)) < 3_000_000  # type: ignore[misc]


_COSTLY = ("table", "json", "globals", "git-textconv", "diff", "plan", "to shards")
_TIMES = 8  # larger: 64 times the work would be quadratic
_MOST = 24
_NOTHING = 0.4  # seconds of the larger size: below it what grows faster is too little to be told from noise


@pytest.mark.fuzz
@pytest.mark.parametrize(
    "subject", [subject for subject in SUBJECTS if subject not in (*_NESTED, "dimensions")]
)
def test_what_c_does_grows_with_the_count(folder: Path, subject: str) -> None:
    """Such as looking for each of n names in a list of n: one line, and all the time there is."""
    size = 250 if subject in _FILES else 3000
    small, large = (Grown(folder, subject, count) for count in (size, _TIMES * size))
    for command in _COSTLY:
        for _ in range(3):
            first = seconds(lambda command=command: small.run(command))  # type: ignore[misc]
            second = seconds(lambda command=command: large.run(command))  # type: ignore[misc]
            if second < _NOTHING or second <= _MOST * max(first, 0.01):
                break
        else:
            pytest.fail(f"{command}: {first:.2f} s for {size:,}, {second:.2f} s for {_TIMES * size:,}")
