"""The packages that readers of source are tested with: built by torch, they are what their rows say."""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ckpttool.kinds.known_names import load_name_table, shape_code
from ckpttool.kinds.source.torch_classes import find
from ckpttool.values.checkpoint import Kind
from tests.support.source_packages import MARK, PACKAGES, Built, Package, build_packages

NAMES = [row.name for row in PACKAGES]
UNPARSED = {"old.py", "zeros.py", "codec.py", "deep.py"}
"""Files that are there to be passed over."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    return build_packages(tmp_path_factory.mktemp("packages"))


def named_entries(row: Package) -> list[str]:
    return [name for names in (row.unknown, row.open, row.beyond) for name in names.split() if name != "*"]


def test_each_row_has_a_name_of_its_own() -> None:
    assert len(set(NAMES)) == len(NAMES) > 100


@pytest.mark.parametrize("row", PACKAGES, ids=NAMES)
def test_rows_name_entries_once_and_packages_that_are_there(row: Package) -> None:
    assert max(Counter(named_entries(row)).values(), default=1) == 1
    read = row.files if row.read is None else row.read
    for name in row.named:
        assert any(path == name or path.startswith(f"{name}/") for path in read)
    if not row.claims:
        assert row.fits is False
    for path, text in read.items():
        if Path(path).name not in UNPARSED:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(text.removeprefix("\ufeff"))


@pytest.mark.slow
def test_what_rows_name_is_in_the_built_model(built: dict[str, Built]) -> None:
    assert list(built) == NAMES
    for row, made in ((made.package, made) for made in built.values()):
        assert made.kinds.keys() >= set(named_entries(row)), row.name
        assert made.missing.isdisjoint(made.kinds)
        assert made.missing >= set(row.unseen.split()), row.name
        assert made.perhaps_missing.isdisjoint(made.kinds), row.name
        assert made.allowed.keys() == made.kinds.keys()
        assert all(made.kinds[name] in said for name, said in made.allowed.items()), row.name
        assert made.sure_missing <= made.missing and made.undecided <= made.kinds.keys()


@pytest.mark.slow
def test_both_files_hold_the_state_of_the_model_and_nothing_of_its_kinds(built: dict[str, Built]) -> None:
    for made in built.values():
        state = torch.load(made.pt, weights_only=True)
        assert list(state) == list(made.kinds)
        assert not any(isinstance(value, torch.nn.Parameter) for value in state.values())
        with safe_open(made.safetensors, "pt") as stored:
            assert set(stored.keys()) == set(made.kinds)
            for name, value in state.items():
                assert stored.get_tensor(name).equal(value), (made.package.name, name)


@pytest.mark.slow
def test_the_source_that_is_read_never_ran_and_what_was_built_did(built: dict[str, Built]) -> None:
    for made in built.values():
        assert made.ran() == []
        files = made.package.files
        assert all((made.pt.parent / "built" / f"{path}{MARK}").exists() for path in files)
        assert all(path.exists() for path in made.named)


def roots(classes: Mapping[str, str], name: str = "") -> list[str]:
    """The class of the root; where that is a wrapper or a plain list of torch, those of its parts."""
    if not find(classes[name]):
        return [classes[name]]
    start = f"{name}." if name else ""
    children = [child for child in classes if child.startswith(start) and child.rpartition(".")[0] == name]
    return [root for child in children if child for root in roots(classes, child)]


@pytest.mark.slow
def test_a_row_that_fits_has_its_root_in_a_named_package(built: dict[str, Built]) -> None:
    for made in built.values():
        row = made.package
        packages = {name.removesuffix(".py") for name in row.named}
        found = roots(made.classes)
        assert found, row.name
        if row.fits:
            assert all(root.partition(".")[0] in packages for root in found), row.name
            text = "\n".join((row.files if row.read is None else row.read).values())
            assert all(f"class {root.rpartition('.')[2]}" in text for root in found), row.name
        if not row.claims:
            assert not any(of.partition(".")[0] in packages for of in made.classes.values()), row.name


@pytest.mark.slow
def test_names_say_nothing_but_those_of_torch(built: dict[str, Built]) -> None:
    """So that a reader of source that finds nothing is not helped by the table of names."""
    table = load_name_table()
    for made in built.values():
        shapes = {name: tuple(value.shape) for name, value in torch.load(made.pt, weights_only=True).items()}
        for name in made.kinds:
            module, _, leaf = name.rpartition(".")
            if find(made.classes[module]) or ".parametrizations." in name:
                continue
            said = table.find(leaf, module.rpartition(".")[2], shape_code(shapes[name]))
            if said is not None and said.kind is not Kind.UNKNOWN:
                assert leaf.partition("_")[0] in TORCH_LEAVES, (made.package.name, name)


TORCH_LEAVES = ("weight", "bias", "running", "num", "in", "original")
"""How the names of torch.nn begin, for classes that are derived from it."""


@pytest.mark.slow
def test_there_is_enough_of_everything(built: dict[str, Built]) -> None:
    kinds = Counter(kind for made in built.values() for kind in made.kinds.values())
    assert kinds[Kind.PARAMETER] > 400 and kinds[Kind.PERSISTENT_BUFFER] > 300
    assert sum(len(made.sure_missing) for made in built.values()) > 12
    # What must come out right is the most by far.
    strict = [name for made in built.values() for name, said in made.allowed.items() if len(said) == 1]
    assert len(strict) > 0.75 * kinds.total()
    # In no package is everything of one kind without a reason.
    alike = [name for name, made in built.items() if len(set(made.kinds.values())) == 1]
    assert len(alike) < 0.2 * len(built), alike
