"""What a command imports: what it needs, and neither torch nor a terminal before that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckpttool import cli
from tools.terminal import run_on_terminal

# --------------------------------------------------------------------------------------------- imports


PRINT_MODULES = """
import sys
from ckpttool.cli import main
status = main(sys.argv[1:])
heavy = ("torch", "numpy", "rich", "safetensors", "pydantic", "click")
print(status, [name for name in heavy if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["inspect", "--help"],
        ["inspect", "run.pt"],
        ["inspect", "run.pt", "--json"],
        ["inspect", "model.safetensors", "--json", "--check"],
        ["inspect", "model.safetensors", "--include", "*.weight", "--tensor", "3.weight"],
        ["inspect", "run.pt", "--globals"],
    ],
    ids=" ".join,
)
def test_what_a_pipe_needs_is_all_that_is_imported(files: Path, arguments: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PRINT_MODULES, *arguments],
        cwd=files,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)},
        timeout=60,
    )
    assert result.stderr.splitlines()[-1] == "0 []"


LIST_MODULES = """
import sys, typer
before = set(sys.modules)
from ckpttool.cli import main
status = main([*sys.argv[1:], "--help"])
print(status, *sorted(set(sys.modules) - before), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("name", "own"),
    [
        (None, ()),
        ("inspect", ("api", "api.arguments", "commands.options", "values.containers")),
        ("diff", ("api", "api.arguments", "commands.options", "values.containers")),
        ("convert", ("api", "api.arguments", "commands.options", "values.containers")),
        ("verify", ("commands.options",)),
        ("lint", ("commands.options",)),
        ("git-textconv", ()),
        ("schema", ("api", "api.schemas", "commands.options")),
        ("get", ("commands.options", "values.containers")),
    ],
)
def test_help_imports_typer_and_what_declares_the_options(name: str | None, own: tuple[str, ...]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIST_MODULES, *([name] if name else [])],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)},
        timeout=60,
    )
    status, *modules = result.stderr.split()
    expected = ["ckpttool", "ckpttool.cli", "ckpttool.commands", "ckpttool.commands.parser"]
    expected += ["ckpttool.values", "ckpttool.values.errors"]
    if name:
        command = name.replace("-", "_")
        parts = (f"commands.{command}", *own)
        expected += [f"ckpttool.{part}" for part in parts]
    # Typer itself wraps lines, and asks the stream for its encoding; the rest is in every interpreter.
    others = [
        m for m in modules if not m.startswith(("typer.", "encodings.")) and m not in ("__future__", "gc")
    ]
    assert (status, others) == ("0", sorted(expected))


def test_a_terminal_costs_rich_but_neither_torch_nor_numpy(files: Path) -> None:
    code = f"import sys\nsys.argv[1:] = ['inspect', {str(files / 'run.pt')!r}]\n" + (
        "from ckpttool.cli import main\nmain()\n"
        "names = ('torch', 'numpy', 'rich.console', 'rich.table')\n"
        "print('loaded:', *[name for name in names if name in sys.modules])"
    )
    status, text = run_on_terminal([sys.executable, "-c", code], width=80, environment=os.environ)
    assert status == 0
    assert text.split("loaded:")[1].split() == ["rich.console"]
