"""What torch writes, with the same bytes in every process and on every machine.

Left alone, torch puts into some files where things lay in memory or on disk, what the process did before, or
how its processor rounds.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)

_FIRST_KEY = 94_000_000_000_000
_LARGEST = 2**12
_SCRIPT = "from {module} import {name}; from {own} import _write_scripted; _write_scripted({name}())"


class _NumberedStorages:
    """The `pickle` that torch is given to write one legacy file with.

    The legacy layout names each storage by its address in memory, and stores them in the order of the names.
    Here these are numbers, in the order in which the storages are met. They are as long as an address, and
    each is a string of its own: otherwise the pickle is the one that torch makes. Where the source of a class
    is stored, the name of its file loses the folder.
    """

    __name__ = "numbered_storages"

    def __init__(self) -> None:
        numbers: dict[str, int] = {}

        class Pickler(pickle._Pickler):
            """The pickler written in Python: unlike the other, it lets a persistent id be changed."""

            def save_pers(self, pid: Any) -> None:
                if pid[0] == "storage":
                    number = numbers.setdefault(pid[2], len(numbers))
                    pid = (*pid[:2], str(_FIRST_KEY + number), *pid[3:])
                elif pid[2] is not None:  # ("module", class, source file, source)
                    pid = (*pid[:2], os.path.basename(pid[2]), *pid[3:])
                super().save_pers(pid)  # type: ignore[misc]

        self.Pickler = Pickler
        self._numbers = numbers

    def dump(self, value: Any, file: IO[bytes], protocol: int) -> None:
        """Pickle what stands before the object, and then the list of keys, in whose order torch writes."""
        if isinstance(value, list):
            value.sort(key=self._numbers.__getitem__)
            value = [str(_FIRST_KEY + self._numbers[key]) for key in value]
        pickle.dump(value, file, protocol=protocol)


def save(value: object, path: Path) -> None:
    """`torch.save`, by way of an open file.

    Of a path, torch makes the name that all members of the archive begin with, unless a letter of it, or of a
    folder above, is not ASCII.
    """
    with path.open("wb") as file:
        torch.save(value, file)


def save_legacy(value: object, file: Path | IO[bytes], **options: Any) -> None:
    """`torch.save` in the layout from before torch 1.6."""
    torch.save(value, file, _NumberedStorages(), _use_new_zipfile_serialization=False, **options)


def save_scripted(build: Callable[[], nn.Module], path: Path) -> None:
    """Script what ``build`` makes, which a module must hold under its name, and write the archive.

    A process of its own does this, with a fixed hash seed: torch writes the constants of a module in the
    order of a set of strings, and numbers classes of one name by what it has scripted before.
    """
    code = _SCRIPT.format(module=build.__module__, name=build.__qualname__, own=__name__)
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": root}
    command = [sys.executable, "-W", "ignore", "-c", code]
    with path.open("wb") as file:
        subprocess.run(command, env=environment, stdout=file, check=True)  # noqa: S603


def _write_scripted(model: nn.Module) -> None:
    """Write the archive to standard output, without its debug records: they name folders of this machine."""
    written = io.BytesIO()
    torch.jit.save(torch.jit.script(with_exact_weights(model).eval()), written)
    written.seek(0)
    reader, writer = torch._C.PyTorchFileReader(written), torch._C.PyTorchFileWriter(sys.stdout.buffer)
    for name in reader.get_all_records():
        # The writer adds the last two by itself.
        if not name.endswith((".debug_pkl", "version", ".data/serialization_id")):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()


def with_exact_weights(model: ModelT) -> ModelT:
    """Put fractions of whole numbers in the place of what the model has drawn at random, and return it.

    `randn` and `uniform_` differ in the last bits between processors with other vector instructions. Whole
    numbers do not, nor do they if divided by a power of two. Constants stay as they are, and what is positive
    stays positive. The new values are within ±1/8.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in filter(torch.is_floating_point, (*model.parameters(), *model.buffers())):
            values = tensor.float().flatten()
            if (values != values[:1]).any():
                least = 1 if (values > 0).all() else -_LARGEST
                drawn = torch.randint(least, _LARGEST + 1, tensor.shape, generator=generator)
                tensor.copy_(drawn / (8 * _LARGEST))
    return model
