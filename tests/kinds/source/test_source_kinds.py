"""What inspect says from the source of small packages, held to the model that torch built of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ckpttool.api.opened import open_file
from ckpttool.inspection.inspect import Inspection
from ckpttool.values.checkpoint import Basis, Classification, Presence
from tests.support.source_packages import PACKAGES, Built, build_packages

pytestmark = pytest.mark.slow

NAMES = [row.name for row in PACKAGES]
CONTAINERS = ("pt", "safetensors")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    return build_packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def inspections(
    built: dict[str, Built], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Inspection]:
    """Each package's two files, with the package named."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return {
            (name, container): open_file(
                str(getattr(made, container)), source=[str(path) for path in made.named]
            ).inspection
            for name, made in built.items()
            for container in CONTAINERS
        }


@pytest.fixture(params=CONTAINERS)
def container(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def text_of(made: Built) -> str:
    return "\n".join(path.read_text("utf-8-sig", "replace") for path in made.source.rglob("*.py"))


def missing_of(inspection: Inspection) -> Mapping[str, Classification]:
    return {str(row.entry.name): row.classification for row in inspection.missing}


@pytest.mark.parametrize("name", NAMES)
def test_kinds_are_those_of_the_built_model(
    name: str, container: str, built: dict[str, Built], inspections: dict[tuple[str, str], Inspection]
) -> None:
    allowed = built[name].allowed
    rows = inspections[name, container].rows
    assert {str(row.entry.name) for row in rows} == allowed.keys()
    wrong = {
        str(row.entry.name): (row.classification.kind, row.classification.note)
        for row in rows
        if row.classification.kind not in allowed[str(row.entry.name)]
    }
    assert not wrong


@pytest.mark.parametrize("name", NAMES)
def test_of_what_the_source_leaves_open_it_claims_nothing(
    name: str, container: str, built: dict[str, Built], inspections: dict[tuple[str, str], Inspection]
) -> None:
    said = {
        str(row.entry.name): row.classification.note
        for row in inspections[name, container].rows
        if row.classification.basis is Basis.SOURCE
    }
    assert not {entry: note for entry, note in said.items() if entry in built[name].undecided}
    if not built[name].package.claims:
        assert not said and not inspections[name, container].missing


@pytest.mark.parametrize("name", NAMES)
def test_what_the_file_leaves_out_is_named_and_nothing_else_is_called_missing(
    name: str, container: str, built: dict[str, Built], inspections: dict[tuple[str, str], Inspection]
) -> None:
    made = built[name]
    found = missing_of(inspections[name, container])
    sure = {entry for entry, said in found.items() if said.presence is Presence.MISSING}
    assert made.sure_missing <= sure <= made.missing
    assert sure.isdisjoint(made.perhaps_missing)
    assert found.keys().isdisjoint(made.kinds)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_is_the_root_where_the_package_is_the_right_one(
    name: str, container: str, built: dict[str, Built], inspections: dict[tuple[str, str], Inspection]
) -> None:
    used = inspections[name, container].sources
    assert len(used) == len(built[name].named)
    fits = built[name].package.fits
    if fits is not None:
        assert bool(used[0].root) is fits
    assert all(0 <= one.fits <= 1 and one.root == used[0].root for one in used)
    assert not used[0].root or f"class {used[0].root.rpartition('.')[2]}" in text_of(built[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_cites_a_class_and_a_line_that_are_there(
    name: str, container: str, built: dict[str, Built], inspections: dict[tuple[str, str], Inspection]
) -> None:
    inspection = inspections[name, container]
    folders = [built[name].source, *(Path(used.path) for used in inspection.sources)]
    for said in (*(row.classification for row in inspection.rows), *missing_of(inspection).values()):
        if said.basis is not Basis.SOURCE:
            continue
        cited = said.source
        assert cited is not None and not said.exact and cited.candidates >= 1
        if cited.file:
            assert not cited.file.startswith(("/", "."))
            file = next(found for folder in folders if (found := folder / cited.file).is_file())
            assert 1 <= cited.line <= len(file.read_text("utf-8-sig").splitlines())
        else:  # torch registers it, or one of several classes does
            assert cited.line == 0
        if not cited.class_name:
            assert cited.candidates > 1
        elif cited.how == "class" and not cited.class_name.startswith("torch."):
            assert f"class {cited.class_name.rpartition('.')[2]}" in text_of(built[name])


def test_both_containers_are_read_alike_but_for_the_order(
    inspections: dict[tuple[str, str], Inspection],
) -> None:
    """What the source claims does not depend on the format: names are all it sees."""
    for name in NAMES:
        said = [
            {
                str(row.entry.name): row.classification.kind
                for row in inspections[name, container].rows
                if row.classification.basis is Basis.SOURCE
            }
            for container in CONTAINERS
        ]
        both = said[0].keys() & said[1].keys()
        assert {entry: said[0][entry] for entry in both} == {entry: said[1][entry] for entry in both}
        assert (
            missing_of(inspections[name, "pt"]).keys() == missing_of(inspections[name, "safetensors"]).keys()
        )


@pytest.mark.parametrize("name", NAMES)
def test_nothing_ran(
    name: str, built: dict[str, Built], inspections: dict[tuple[str, str], Inspection]
) -> None:
    assert inspections[name, "pt"] and built[name].ran() == []
