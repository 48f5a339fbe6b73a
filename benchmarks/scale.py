"""What each command costs at sizes that are rarely tried: a checkpoint of 20 GiB, and one of 100,000 tensors.

    python -m benchmarks.scale [--gib 20] [--tensors 100000] [--dir DIR] [--only bytes|tensors] [--convert]

The large files are sparse, so they take no room; ``--convert`` also converts them, which writes and
reads back all of it (the output has no holes) and needs that much room. One run each, and no ratios:
the question is whether memory stays flat and anything takes beyond reason.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import RunFailed, compile_package, environment, run
from benchmarks.tables import nbytes_text, seconds_text

MODEL = '''
import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self, count):
        super().__init__()
        for position in range(count):
            self.register_parameter(f"weight_{position}", nn.Parameter(torch.zeros(2, 2)))


class Block(nn.Module):
    def __init__(self, layers, count):
        super().__init__()
        self.layers = nn.ModuleList([Layer(count) for _ in range(layers)])


class Tree(nn.Module):
    """Three levels, as load_state_dict looks through all names of a module for each of its children."""

    def __init__(self, tensors):
        super().__init__()
        self.blocks = nn.ModuleList([Block(100, 10) for _ in range(tensors // 1000)])


def build(tensors):
    return Tree(tensors)
'''


class Job(NamedTuple):
    """One command on one file; ``{file}`` stands for a path below the folder."""

    name: str
    arguments: tuple[str, ...]
    statuses: tuple[int, ...] = (0,)
    terminal: bool = False
    output: str = ""  # removed afterwards


def make_tensors(folder: Path, tensors: int) -> None:
    """The same small tensors in each container, and once with one value changed."""
    import torch
    from safetensors.torch import save_file

    from sample_models.same_bytes import save_legacy

    (folder / "scale_model.py").write_text(MODEL)
    sys.path.insert(0, str(folder))
    model = __import__("scale_model").build(tensors)
    with torch.no_grad():
        for position, parameter in enumerate(model.parameters()):
            parameter.fill_(position)
    state = model.state_dict()
    torch.save(state, folder / "m.pt")
    save_legacy(state, folder / "legacy.pt")
    save_file(dict(state), folder / "m.safetensors")
    next(iter(state.values())).fill_(-1)
    save_file(dict(state), folder / "other.safetensors")


def make_bytes(folder: Path, gib: int) -> None:
    """Sparse files of ``gib`` tensors of 1 GiB: all zeros, but for one byte at the end of `other`."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save({f"layers.{i:02}.weight": torch.empty(1 << 28) for i in range(gib)}, folder / "m.pt")
    header = {
        f"layers.{i:02}.weight": {
            "dtype": "F32",
            "shape": [1 << 28],
            "data_offsets": [i << 30, (i + 1) << 30],
        }
        for i in range(gib)
    }
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    for name in ("m.safetensors", "copy.safetensors", "other.safetensors"):
        with (folder / name).open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            file.truncate(8 + len(raw) + (gib << 30))
            if name == "other.safetensors":
                file.seek(-2, os.SEEK_END)
                file.write(b"\x80")


def views(file: str) -> Iterator[Job]:
    """Every way to look at a file."""
    yield Job("inspect, terminal", ("inspect", file), terminal=True)
    yield Job("inspect, pipe", ("inspect", file))
    yield Job("inspect --flat, terminal", ("inspect", file, "--flat"), terminal=True)
    yield Job("inspect --json", ("inspect", file, "--json"))
    yield Job("inspect --globals", ("inspect", file, "--globals"))
    yield Job("inspect --stats", ("inspect", file, "--stats"))
    yield Job("inspect --check", ("inspect", file, "--check"), (0, 1))
    yield Job("inspect --digest", ("inspect", file, "--digest"))
    yield Job("git-textconv", ("git-textconv", file))


def tensor_jobs(tensors: int) -> Iterator[Job]:
    """All commands on many small tensors."""
    yield from views("m.pt")
    for file in ("legacy.pt", "m.safetensors", "shards"):
        if file == "shards":
            options = ("--max-shard-size", "100KB", "--quiet")
            yield Job("convert to shards", ("convert", "m.pt", "shards", *options))
        yield Job("inspect, terminal", ("inspect", file), terminal=True)
        yield Job("inspect --json", ("inspect", file, "--json"))
        yield Job("inspect --stats", ("inspect", file, "--stats"))
    yield Job("diff, equal", ("diff", "m.pt", "m.safetensors"))
    yield Job("diff, one value", ("diff", "m.safetensors", "other.safetensors"), (1,))
    yield Job("diff, shards", ("diff", "legacy.pt", "shards"))
    yield Job(
        "convert to safetensors", ("convert", "m.pt", "out.safetensors", "--quiet"), output="out.safetensors"
    )
    yield Job("convert to pt", ("convert", "m.safetensors", "out.pt", "--quiet"), output="out.pt")
    yield Job("convert from shards", ("convert", "shards", "out.pt", "--quiet"), output="out.pt")
    model = ("--model", "scale_model.py:build", "--model-arg", f"tensors={tensors}")
    yield Job("inspect --model", ("inspect", "m.pt", *model))
    yield Job("verify --load copy", ("verify", "m.pt", *model, "--load", "copy"))
    yield Job("verify", ("verify", "m.safetensors", *model))


def byte_jobs(convert: bool) -> Iterator[Job]:
    """All commands that read a large file; verify holds the model, so its memory is not flat by nature."""
    yield from views("m.pt")
    yield Job("inspect --stats", ("inspect", "m.safetensors", "--stats"))
    yield Job("inspect --digest", ("inspect", "m.safetensors", "--digest"))
    yield Job("diff, equal", ("diff", "copy.safetensors", "m.safetensors"))
    yield Job("diff, one value", ("diff", "m.safetensors", "other.safetensors"), (1,))
    yield Job("diff, pt and safetensors", ("diff", "m.pt", "m.safetensors"))
    if convert:
        yield Job(
            "convert to safetensors",
            ("convert", "m.pt", "out.safetensors", "--quiet"),
            output="out.safetensors",
        )
        yield Job("convert to pt", ("convert", "m.safetensors", "out.pt", "--quiet"), output="out.pt")


def measure(folder: Path, jobs: Iterator[Job]) -> None:
    """Print a row for each job as soon as it is known."""
    print("| file | command | wall | CPU | peak |\n|---|---|---|---|---|", flush=True)
    for job in jobs:
        command = [sys.executable, "-m", "ckpttool", *job.arguments]
        file = job.arguments[1]
        try:
            cost = run(command, folder, statuses=job.statuses, terminal=job.terminal)
        except RunFailed as error:
            print(f"| {file} | {job.name} | failed: {error} | | |", flush=True)
            continue
        finally:
            if job.output:
                (folder / job.output).unlink(missing_ok=True)
        fields = (file, job.name, seconds_text(cost.wall), seconds_text(cost.cpu), nbytes_text(cost.peak))
        print(f"| {' | '.join(fields)} |", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Make the files, each sort by a process of its own, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python -m benchmarks.scale",
    )
    parser.add_argument("--gib", type=int, default=20)
    parser.add_argument("--tensors", type=int, default=100_000, help="a multiple of 1,000")
    parser.add_argument("--dir", type=Path, help="where files are made (default: $TMPDIR)")
    parser.add_argument("--only", choices=("bytes", "tensors"))
    parser.add_argument("--convert", action="store_true", help="convert the large files too: needs room")
    parser.add_argument("--make", nargs=2, metavar=("WHAT", "DIR"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.make:
        what, folder = options.make
        make_bytes(Path(folder), options.gib) if what == "bytes" else make_tensors(
            Path(folder), options.tensors
        )
        return 0
    compile_package()
    for what in ("tensors", "bytes") if options.only is None else (options.only,):
        with tempfile.TemporaryDirectory(dir=options.dir, prefix="ckpttool-scale-") as name:
            # A parent that imports torch would hand its memory to the peak of every child.
            made = [sys.executable, "-m", "benchmarks.scale", "--make", what, name]
            sizes = ["--gib", str(options.gib), "--tensors", str(options.tensors)]
            subprocess.run([*made, *sizes], check=True, env=environment())
            if what == "bytes" and options.convert and shutil.disk_usage(name).free < (options.gib + 4) << 30:
                parser.error(f"--convert: not enough room in {name}")
            jobs = tensor_jobs(options.tensors) if what == "tensors" else byte_jobs(options.convert)
            print(f"\n{options.tensors:,} tensors\n" if what == "tensors" else f"\n{options.gib} GiB\n")
            measure(Path(name), jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
