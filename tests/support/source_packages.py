"""Small packages with models: written, built by torch in a process of its own, and saved.

What the built model registers is the truth that a reader of the source is held to. The source that it reads
lies in another folder, where nothing ever runs: every file of it would leave a mark.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ckpttool.values.checkpoint import Kind
from tests.support import (
    source_children,
    source_flags,
    source_imports,
    source_names,
    source_traps,
    source_values,
)
from tests.support.source_rows import Package

PACKAGES: tuple[Package, ...] = (
    *source_names.PACKAGES,
    *source_values.PACKAGES,
    *source_children.PACKAGES,
    *source_imports.PACKAGES,
    *source_flags.PACKAGES,
    *source_traps.PACKAGES,
)

MARK = ".ran"
_MARKING = f"\n__import__('pathlib').Path(__file__ + '{MARK}').touch()\n"

_BUILD = r"""
import importlib, json, pathlib, sys, warnings
import safetensors.torch, torch
from torch import nn

warnings.simplefilter("ignore")
torch.manual_seed(0)
for folder, names, root in json.load(sys.stdin):
    home, here = pathlib.Path(folder), pathlib.Path(folder, "built")
    before = set(sys.modules)
    sys.path.insert(0, str(here))
    importlib.invalidate_caches()
    found = {"torch": torch, "nn": nn}
    for name in names:
        importlib.import_module(name)
        top = name.partition(".")[0]
        found[top] = sys.modules[top]
    model = eval(root, found)
    state = model.state_dict()
    with torch.no_grad():
        for value in state.values():
            if value.is_floating_point():
                value.normal_()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    torch.save(state, home / "model.pt")
    plain = {name: value.detach().clone().contiguous() for name, value in state.items()}
    safetensors.torch.save_file(plain, home / "model.safetensors")
    truth = {
        "kinds": {name: "parameter" if name in parameters else "persistent_buffer" for name in state},
        "missing": sorted(buffers - set(state)),
        "lost": sorted(set(state) - parameters - buffers),
        "classes": {
            name: f"{type(module).__module__}.{type(module).__qualname__}"
            for name, module in model.named_modules(remove_duplicate=False)
        },
    }
    (home / "truth.json").write_text(json.dumps(truth))
    sys.path.remove(str(here))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(here)):
            del sys.modules[name]
        elif any(name == top or name.startswith(top + ".") for top in found.keys() - {"torch", "nn"}):
            del sys.modules[name]
"""


class Built(NamedTuple):
    """A package with the model that was built of it.

    ``source`` is the folder with what is read, and nothing else. ``kinds`` is the truth of every entry of
    the state_dict, in its order, and ``missing`` are the buffers that it leaves out. ``classes`` has the
    class of every module by the module's name.
    """

    package: Package
    source: Path
    pt: Path
    safetensors: Path
    kinds: Mapping[str, Kind]
    missing: frozenset[str]
    classes: Mapping[str, str]

    @property
    def named(self) -> tuple[Path, ...]:
        """Where the packages lie that the user names."""
        return tuple(self.source / name for name in self.package.named)

    @property
    def allowed(self) -> dict[str, frozenset[Kind]]:
        """What may be said of each entry, by the source or by another rule."""
        said = {name: frozenset((kind,)) for name, kind in self.kinds.items()}
        row = self.package
        for name in self._those(row.open) | self.undecided:
            said[name] |= {Kind.UNKNOWN}
        for name in self._those(row.beyond):
            said[name] = frozenset(Kind)
        return said

    @property
    def undecided(self) -> frozenset[str]:
        """Entries of which the source must say nothing."""
        return frozenset(self.kinds if not self.package.claims else self.package.unknown.split())

    @property
    def sure_missing(self) -> frozenset[str]:
        """Buffers that must be named as missing."""
        return self.missing - self.perhaps_missing - frozenset(self.package.unseen.split())

    @property
    def perhaps_missing(self) -> frozenset[str]:
        """Buffers that must not be called missing for sure."""
        return frozenset(self.package.possible.split())

    def ran(self) -> list[Path]:
        """Files of the source that were imported, against the promise."""
        return sorted(self.source.rglob(f"*{MARK}"))

    def _those(self, names: str) -> set[str]:
        return set(self.kinds) if names == "*" else set(names.split())


def write_package(files: Mapping[str, str], folder: Path) -> None:
    """Write ``files`` below ``folder``; each leaves a mark beside itself when it is run."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes((text + _MARKING).encode())


def build_packages(folder: Path, packages: Iterable[Package] = PACKAGES) -> dict[str, Built]:
    """Write each package below ``folder``, and build and save its model; one process builds all."""
    made = list(packages)
    for row in made:
        write_package(row.files, folder / row.name / "built")
        write_package(row.files if row.read is None else row.read, folder / row.name / "source")
    asked = [(str(folder / row.name), _modules(row.files), row.root) for row in made]
    child = [sys.executable, "-B", "-c", _BUILD]
    done = subprocess.run(child, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {row.name: _read(row, folder / row.name) for row in made}


def _modules(files: Mapping[str, str]) -> list[str]:
    """The modules that the files are imported as, packages before what is in them."""
    names = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files}
    return sorted(names)


def _read(row: Package, home: Path) -> Built:
    truth = json.loads((home / "truth.json").read_text())
    assert not truth["lost"], (row.name, truth["lost"])
    return Built(
        row,
        home / "source",
        home / "model.pt",
        home / "model.safetensors",
        {name: Kind(kind) for name, kind in truth["kinds"].items()},
        frozenset(truth["missing"]),
        truth["classes"],
    )
