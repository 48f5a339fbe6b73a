"""Who takes part: ckpttool, what it is measured against, and every job with its budgets.

A job is written down once, as a function of the cell; ``JOBS`` lists them all. Budgets are those that the
design set before the first line of code: they are judged where it says (2 GiB for moving bytes), not
where they are easy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.files import dimensions
from benchmarks.results import Budget, Cell

PYTHON = sys.executable
# As the console script does it: `python -m` would add what finding the module costs.
CKPTTOOL = (PYTHON, "-c", "from ckpttool.cli import entry; entry()")
TWO_GIB = 1 << 31
MANY = 20_000
START = 0.1  # seconds that Python and the imports may take, whatever there is to copy

PT, A, B, CHANGED = "model.pt", "a.safetensors", "b.safetensors", "changed.safetensors"
OUT_SAFETENSORS, OUT_PT, OUT = "out.safetensors", "out.pt", "out"

TYPER, RICH = "import typer", "import typer, rich"
TORCH_LOAD = "torch.load(mmap=True), print"
SAFE_OPEN = "safe_open, print"
CP, CP_FSYNC = "cp", "cp, then fsync"
SAVE_FILE, SAVE_FILE_MMAP = "torch.load, save_file", "torch.load(mmap=True), save_file"
CMP, CAT = "cmp", "cat of both"
NUMPY, NUMPY_RUNS = "numpy.fromfile of both", "the same in runs of 1 MiB"
LOAD_STATE_DICT = "torch.load(mmap=True), load_state_dict"

PARAMETER_NUMEL = '"parameter_numel": ?{parameters}'
COUNTS_BUFFERS = "counts buffers as parameters"

PRINT_PT = f"""
import torch
for name, tensor in torch.load("{PT}", mmap=True, weights_only=True).items():
    print(name, tensor.dtype, tuple(tensor.shape))
"""
PRINT_SAFETENSORS = f"""
from safetensors import safe_open
with safe_open("{A}", "numpy") as file:
    for name in file.keys():
        part = file.get_slice(name)
        print(name, part.get_dtype(), part.get_shape())
"""
TO_SAFETENSORS = f"""
import torch
from safetensors.torch import save_file
save_file(torch.load("{PT}", weights_only=True, mmap=MMAP), "{OUT_SAFETENSORS}")
"""
TO_BFLOAT16 = f"""
import torch
from safetensors.torch import save_file
state = torch.load("{PT}", weights_only=True, mmap=True)
save_file({{name: value.bfloat16() for name, value in state.items()}}, "{OUT_SAFETENSORS}")
"""
TO_PT = f"""
import torch
from safetensors.torch import load_file
torch.save(load_file("{A}"), "{OUT_PT}")
"""
READ_BOTH = f"""
import numpy
for path in ("{A}", "{CHANGED}"): numpy.fromfile(path, dtype=numpy.float32)
"""
READ_RUNS = f"""
import numpy
for path in ("{A}", "{CHANGED}"):
    with open(path, "rb", buffering=0) as file:
        while len(numpy.fromfile(file, dtype=numpy.float32, count=1 << 18)): pass
"""
LOAD = f"""
import sys, torch, bench_model
model = bench_model.build(int(sys.argv[1]), int(sys.argv[2]))
model.load_state_dict(torch.load("{PT}", map_location="cpu", mmap=True, weights_only=True), strict=True)
"""


@dataclass(frozen=True)
class Contender:
    """A command that does a job in the folder of a cell.

    ``writes``: removed after each run. ``right``: a pattern that a line of a right answer has, else the
    answer is ``fault``; in it, ``{parameters}`` is their true number. ``holds``: a file whose tensors the
    first of ``writes`` must hold, bit for bit. ``files``: what it needs besides the files of its job.
    """

    name: str
    command: Sequence[str]
    role: str = "reference"
    statuses: tuple[int, ...] = (0,)
    terminal: bool = False
    writes: tuple[str, ...] = ()
    holds: str = ""
    right: str = ""
    fault: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """What is measured against what; the first contender is the reference of the table."""

    key: str
    title: str
    files: tuple[str, ...]
    contenders: list[Contender]
    budgets: list[Budget] = field(default_factory=list)


def ours(name: str, *arguments: str, **facts: Any) -> Contender:
    """One command of ckpttool."""
    return Contender(name, (*CKPTTOOL, *arguments), "ours", **facts)


def python(name: str, code: str, *arguments: str, **facts: Any) -> Contender:
    """A reference that is a few lines of Python."""
    return Contender(name, (PYTHON, "-c", code, *arguments), **facts)


# ------------------------------------------------------------------------------------------------ the jobs


def inspect(cell: Cell, path: str, key: str, reader: Contender) -> Job:
    """Header bytes only: compared with the start of Python and the imports that a table cannot do without."""
    piped, drawn, json = "inspect, piped", "inspect, on a terminal", "inspect --json"
    many = cell.tensors >= MANY
    budgets = [Budget(drawn, "cpu", RICH, 4 if many else 1.5)]
    if not many:  # the budget for many tensors is one for the folded table
        budgets += [Budget(name, "cpu", TYPER, 1.5) for name in (piped, json)]
    contenders = [
        python(TYPER, "import typer"),
        python(RICH, "import typer, rich.console, rich.table"),
        reader,
        ours(drawn, "inspect", path, terminal=True),
        ours(piped, "inspect", path),
        ours(json, "inspect", path, "--json", right=PARAMETER_NUMEL, fault=COUNTS_BUFFERS),
    ]
    return Job(key, f"inspect a {Path(path).suffix} file", (path,), contenders, budgets)


def inspect_pt(cell: Cell) -> Job:
    return inspect(cell, PT, "inspect-pt", python(TORCH_LOAD, PRINT_PT))


def inspect_safetensors(cell: Cell) -> Job:
    return inspect(cell, A, "inspect-safetensors", python(SAFE_OPEN, PRINT_SAFETENSORS))


def copies(source: str) -> list[Contender]:
    """What a copy costs, and what it costs when it must be on the disk, as ours must."""
    sync = f"cp {source} {OUT} && sync {OUT}"
    return [
        Contender(CP, ("cp", source, OUT), writes=(OUT,)),
        Contender(CP_FSYNC, ("sh", "-c", sync), writes=(OUT,)),
    ]


def copy_budgets(name: str, *, check: bool) -> list[Budget]:
    """What a conversion of 2 GiB may cost beside ``cp``, which reads nothing back."""
    cpu, wall = (1.9, 1.6) if check else (1.15, 1.15)
    return [Budget(name, "cpu", CP, cpu, START), Budget(name, "wall", CP_FSYNC, wall, START)]


def convert(cell: Cell, source: str, target: str, key: str, slow: list[Contender]) -> Job:
    """Move all bytes once; the budget holds for 2 GiB, where starting Python is not most of it."""
    short = f"{Path(source).suffix} to {Path(target).suffix}"
    unchecked, checked = "convert --no-check", "convert"
    command = ("convert", source, target, "--quiet")
    budgets = [Budget(name, "peak", "", 64 << 20) for name in (unchecked, checked)]
    if cell.nbytes >= TWO_GIB:
        for name in (unchecked, checked):
            budgets += copy_budgets(name, check=name == checked)
            budgets += [Budget(name, metric, slow[0].name, 1 / 2.5) for metric in ("cpu", "wall")]
    mine = [
        ours(unchecked, *command, "--no-check", writes=(target,), holds=source),
        ours(checked, *command, writes=(target,), holds=source),
    ]
    return Job(key, f"convert {short}", (source,), [*copies(source), *mine, *slow], budgets)


def convert_to_safetensors(cell: Cell) -> Job:
    slow = [
        python(name, TO_SAFETENSORS.replace("MMAP", mmap), writes=(OUT_SAFETENSORS,), holds=PT)
        for name, mmap in ((SAVE_FILE, "False"), (SAVE_FILE_MMAP, "True"))
    ]
    return convert(cell, PT, OUT_SAFETENSORS, "convert-to-safetensors", slow)


def convert_to_pt(cell: Cell) -> Job:
    slow = [python("load_file, torch.save", TO_PT, writes=(OUT_PT,), holds=A)]
    return convert(cell, A, OUT_PT, "convert-to-pt", slow)


def convert_more(cell: Cell) -> Job:
    """What a conversion can be asked for besides."""
    command = ("convert", PT, OUT_SAFETENSORS, "--quiet")
    contenders = [
        Contender(CP, ("cp", PT, OUT), writes=(OUT,)),
        ours("convert --manifest", *command, "--manifest", "manifest", writes=(OUT_SAFETENSORS, "manifest")),
        ours(
            "convert --dtype bf16 --no-check",
            *command,
            "--dtype",
            "bf16",
            "--no-check",
            writes=(OUT_SAFETENSORS,),
        ),
        python("the same with torch and save_file", TO_BFLOAT16, writes=(OUT_SAFETENSORS,)),
    ]
    return Job("convert-more", "convert with options", (PT,), contenders)


def diff_equal(cell: Cell) -> Job:
    """Two files with equal bytes: never slower than cmp."""
    equal = "diff, equal .safetensors"
    contenders = [
        Contender(CMP, ("cmp", A, B)),
        Contender(CAT, ("cat", A, B)),
        ours(equal, "diff", A, B),
        ours("diff, equal .pt and .safetensors", "diff", PT, A),
    ]
    budgets = [Budget(equal, "wall", CMP, 1.0)] if cell.nbytes >= TWO_GIB else []
    return Job("diff-equal", "diff two equal files", (A, B, PT), contenders, budgets)


def diff_changed(cell: Cell) -> Job:
    """Every value changed: numbers for each tensor, in at most twice the time that reading takes."""
    changed = "diff, every value changed"
    contenders = [
        python(NUMPY, READ_BOTH),
        python(NUMPY_RUNS, READ_RUNS),
        ours(changed, "diff", A, CHANGED, statuses=(1,)),
    ]
    budgets = [Budget(changed, "wall", NUMPY, 2.0)] if cell.nbytes >= TWO_GIB else []
    return Job("diff-changed", "diff two files that differ in every value", (A, CHANGED), contenders, budgets)


def diff_more(cell: Cell) -> Job:
    """Other pairs of files, against an inspect of one of them."""
    pairs = [
        ("diff --headers", (A, CHANGED, "--headers"), 0),
        ("diff, one value changed", (A, "one.safetensors"), 1),
        ("diff, half of the tensors changed", (A, "half.safetensors"), 1),
        ("diff, float32 and bfloat16", (A, "bfloat16.safetensors"), 1),
        ("diff, every tensor renamed", (PT, "renamed.pt"), 1),
    ]
    contenders = [
        ours("inspect, piped", "inspect", A),
        *[ours(name, "diff", *arguments, statuses=(status,)) for name, arguments, status in pairs],
    ]
    files = (A, CHANGED, "one.safetensors", "half.safetensors", "bfloat16.safetensors", PT, "renamed.pt")
    return Job("diff-more", "diff other pairs", files, contenders)


def digest(cell: Cell) -> Job:
    """A content hash, against the hash of the file."""
    contenders = [
        Contender("sha256sum", ("sha256sum", A)),
        ours("inspect --digest", "inspect", A, "--digest"),
    ]
    return Job("digest", "hash the content", (A,), contenders)


def verify(cell: Cell) -> Job:
    """Build the model, load, compare; the reference builds and loads."""
    blocks, dim = dimensions(cell.nbytes, cell.tensors)
    arguments = ("--model-arg", f"blocks={blocks}", "--model-arg", f"dim={dim}")
    command = ("verify", PT, "--model", "bench_model.py:build", *arguments, "--device", "cpu", "--json")
    contenders = [
        python(LOAD_STATE_DICT, LOAD, str(blocks), str(dim)),
        ours("verify --load copy", *command, "--load", "copy"),
        ours("verify, all four ways of loading", *command),
    ]
    budgets = [Budget(mine.name, "wall", LOAD_STATE_DICT, 1.3) for mine in contenders[1:]]
    return Job("verify", "verify on the CPU", (PT,), contenders, budgets)


JOBS: dict[str, Callable[[Cell], Job]] = {
    "inspect-pt": inspect_pt,
    "inspect-safetensors": inspect_safetensors,
    "convert-to-safetensors": convert_to_safetensors,
    "convert-to-pt": convert_to_pt,
    "convert-more": convert_more,
    "diff-equal": diff_equal,
    "diff-changed": diff_changed,
    "diff-more": diff_more,
    "digest": digest,
    "verify": verify,
}
"""Every job by its key; ``--only`` takes a beginning of one."""
