"""Checkpoints of a model whose kinds are known: as it was made and as if trained, and the truth beside them.

    python -m benchmarks.kinds_files FOLDER [--library NAME ...] [--one-in N]   build them
    python -m benchmarks.kinds_files FOLDER --count                             say what is there

Each model has a folder ``<library>/<family>/<model>/``; ``python -m benchmarks.kinds --files`` reads them.

    model.pt, model.safetensors        the state_dict
    trained.pt, trained.safetensors    its parameters moved by noise, where there are values
    truth.json                         ``Truth``; written last, so that it vouches for the rest

The files of a model on the meta device, or of one too large, are sparse: every value is a hole.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import warnings
import zlib
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.architectures import LIBRARIES, Architecture, Truth, iter_architectures, truth_of
from benchmarks.children import Failed, run_children
from ckpttool.values.dtypes import parse_torch_name

BATCH_NORM_BUFFERS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
CONTAINERS = ("pt", "safetensors")
MOST_BYTES_OF_VALUES = 32 << 20
_NOISE = 0.05  # of a parameter's standard deviation, or of 1 where all its values are one


def write_pt(model: nn.Module, path: Path) -> None:
    """``torch.save(model.state_dict())`` with every storage a hole in the file."""
    state = model.state_dict()
    fake: OrderedDict[str, Any] = OrderedDict()
    copies: dict[int, torch.Tensor] = {}
    originals = model.state_dict(keep_vars=True)
    with FakeTensorMode():
        for name, value in state.items():
            if not isinstance(value, torch.Tensor):
                fake[name] = value
                continue
            key = id(originals[name])
            if key not in copies:
                copies[key] = torch.empty_strided(
                    value.shape, value.stride(), dtype=value.dtype, device="cpu"
                )
            fake[name] = copies[key]
    fake._metadata = state._metadata  # type: ignore[attr-defined]
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(fake, path)


def write_safetensors(model: nn.Module, path: Path) -> None:
    """The header that ``save_file`` would write for the model's distinct tensors, and a hole for the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, value in sorted(_distinct(model).items(), key=lambda item: (-item[1].element_size(), item[0])):
        dtype = parse_torch_name(str(value.dtype))
        end = offset + value.numel() * value.element_size()
        tag = dtype.safetensors if dtype else None
        header[name] = {"dtype": tag, "shape": list(value.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


def _distinct(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor of the state_dict once, by the first of its names."""
    tensors: dict[int, tuple[str, torch.Tensor]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, torch.Tensor):
            tensors.setdefault(id(value), (name, value))
    return dict(tensors.values())


def _write_values(model: nn.Module, folder: Path, stem: str) -> None:
    """Write ``model`` with its values. A dtype that safetensors lacks leaves that file out."""
    from safetensors.torch import save_file

    torch.save(model.state_dict(), folder / f"{stem}.pt")
    path = folder / f"{stem}.safetensors"
    try:
        # A copy: save_file refuses a view of a storage that another entry shares.
        copies = {
            name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in _distinct(model).items()
        }
        save_file(copies, path, metadata={"format": "pt"})
    except Exception:  # noqa: BLE001 - KeyError, ValueError, SafetensorError: by dtype and version
        path.unlink(missing_ok=True)


def _train(model: nn.Module, seed: int) -> None:
    """Move each parameter that takes a gradient by noise, in place: ties stay, and what is frozen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad or not (parameter.is_floating_point() or parameter.is_complex()):
                continue
            dtype = parameter.dtype if parameter.is_complex() else torch.float32
            noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
            spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
            try:
                parameter += (noise * _NOISE * (spread or 1.0)).to(parameter.dtype)
            except RuntimeError:  # an expanded view: its elements share a place
                continue


def folder_of(architecture: Architecture, files: Path) -> Path:
    """Where the files of ``architecture`` lie below ``files``."""
    return files / architecture.library / architecture.family / architecture.name


def build_files(architecture: Architecture, folder: Path) -> Truth:
    """Build the model and write its files and, last of all, its truth into ``folder``."""
    seed = zlib.crc32(architecture.name.encode())
    torch.manual_seed(seed)
    with torch.device(architecture.device):
        model = architecture.build()
    truth = truth_of(model, architecture.library)
    state = [value for value in model.state_dict().values() if isinstance(value, torch.Tensor)]
    nbytes = sum(value.numel() * value.element_size() for value in state)
    folder.mkdir(parents=True, exist_ok=True)
    if nbytes > MOST_BYTES_OF_VALUES or any(value.device.type != "cpu" for value in state):
        write_pt(model, folder / "model.pt")
        write_safetensors(model, folder / "model.safetensors")
    else:
        _write_values(model, folder, "model")
        _train(model, seed)
        _write_values(model, folder, "trained")
    (folder / "truth.json").write_text(json.dumps(truth._asdict()))
    return truth


def read_truth(folder: Path) -> Truth:
    """The truth that ``build_files`` left in ``folder``."""
    values = json.loads((folder / "truth.json").read_text("utf-8"))
    return Truth(**{**values, "non_persistent": tuple(values["non_persistent"])})


def truth_in(architecture: Architecture, folder: Path) -> Truth:
    """The truth about the files in ``folder``, built now unless an earlier run left them there."""
    if (folder / "truth.json").exists():
        return read_truth(folder)
    return build_files(architecture, folder)


def is_other_buffer(name: str, kind: str) -> bool:
    """Whether an entry is a persistent buffer that is not of a batch norm."""
    return kind != "parameter" and name.rpartition(".")[2] not in BATCH_NORM_BUFFERS


def count_files(files: Path) -> None:
    """Print a table of what lies in ``files``: ``<library>/<family>/<model>/truth.json``."""
    print("library models whole_models with_values entries parameters other_buffers non_persistent")
    totals: Counter[str] = Counter()
    for library in sorted(path for path in files.iterdir() if path.is_dir()):
        counts: Counter[str] = Counter()
        for path in library.glob("*/*/truth.json"):
            truth = read_truth(path.parent)
            counts.update(
                models=1,
                whole=path.parent.parent.name == "models"
                or library.name in ("timm", "transformers", "diffusers"),
                values=(path.parent / "trained.pt").exists(),
                entries=len(truth.kinds),
                parameters=sum(kind == "parameter" for kind in truth.kinds.values()),
                other=sum(is_other_buffer(name, kind) for name, kind in truth.kinds.items()),
                absent=len(truth.non_persistent),
            )
        totals.update(counts)
        print(_count_row(library.name, counts))
    print(_count_row("all", totals))


def _count_row(name: str, counts: Counter[str]) -> str:
    keys = ("models", "whole", "values", "entries", "parameters", "other", "absent")
    return " ".join((name, *(str(counts[key]) for key in keys)))


def _build(architecture: Architecture, files: Path) -> None:
    truth_in(architecture, folder_of(architecture, files))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, metavar="FOLDER")
    parser.add_argument("--library", action="append", choices=sorted(LIBRARIES))
    parser.add_argument("--one-in", type=int, default=1, help="a fixed sample of one architecture in N")
    parser.add_argument("--count", action="store_true", help="build nothing")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--time-limit", type=int, default=60, help="seconds for one model")
    arguments = parser.parse_args()
    if arguments.count:
        count_files(arguments.files)
        return
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    tasks = (
        (architecture, functools.partial(_build, architecture, arguments.files))
        for architecture in iter_architectures(tuple(arguments.library or LIBRARIES))
        if zlib.crc32(architecture.name.encode()) % arguments.one_in == 0
    )
    built: Counter[tuple[str, str]] = Counter()
    for architecture, answer in run_children(tasks, arguments.jobs, arguments.time_limit):
        failed = isinstance(answer, Failed)
        built[architecture.library, "not built" if failed else "built"] += 1
        if failed:
            print(architecture.library, architecture.family, architecture.name, answer.reason, flush=True)
    for (library, outcome), count in sorted(built.items()):
        print(f"{library}: {count} {outcome}", file=sys.stderr)


if __name__ == "__main__":
    main()
