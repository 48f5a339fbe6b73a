"""Every command that is printed is typed, and does what it is printed for."""

from __future__ import annotations

import collections
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sample_models.same_bytes import save_legacy
from tests.hostile.cases import CASES
from tests.support.advice import Advice, advised, follow, published, put_back, tensors_of, type_in
from tests.support.made_files import MADE, averaged, cnn, trained, write_made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", MADE)
def test_commands_for_made_files(name: str, legacy: bool, tmp_path: Path) -> None:
    write_made(MADE[name](), tmp_path / "model.pth.tar", legacy=legacy)
    check(tmp_path, "model.pth.tar")


def check(folder: Path, name: str, model: str | None = None) -> list[Advice]:
    """Follow everything that is printed of a file; return it."""
    there = set(os.listdir(folder))
    options = () if model is None else ("--model", model)
    printed = [*advised(folder, name, *options), *(advised(folder, name) if model else ())]
    assert sum(bool(item.why) for item in advised(folder, name)) <= 2, "two commands at most"
    for advice in printed:
        assert follow(folder, advice, model) == "", advice
        put_back(folder, there)
    return printed


def commands(tmp_path: Path, value: object, name: str = "model.pt") -> list[str]:
    torch.save(value, tmp_path / name)
    return [str(item) for item in check(tmp_path, name) if item.why]


def test_what_is_converted_is_the_branch_that_the_finding_is_about(tmp_path: Path) -> None:
    assert commands(tmp_path, averaged()) == [
        "ckpttool convert model.pt model.safetensors --weights-only",
        "ckpttool convert model.pt model.safetensors --root state_dict_ema --strip-prefix auto",
    ]
    typed = type_in(tmp_path, ["inspect", "model.pt"])
    assert "7 of 8 names in state_dict_ema" in typed.err
    both = {"a": nn.DataParallel(cnn()).state_dict(), "b": nn.DataParallel(cnn()).state_dict()}
    assert commands(tmp_path, both) == ["ckpttool convert model.pt model.new.pt --strip-prefix auto"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.pth.tar", "model.safetensors"),
        ("model.weights", "model.safetensors"),
        ("run.0.5", "run.0.5.safetensors"),
        ("-x.pt", "./-x.safetensors"),
        ("a b.ckpt", "a b.safetensors"),
    ],
)
def test_the_destination_is_named_after_the_source(name: str, expected: str, tmp_path: Path) -> None:
    weight = torch.ones(2, 2)
    torch.save({"a.weight": weight, "b.weight": weight}, tmp_path / name)
    given = f"./{name}" if name.startswith("-") else name
    (advice,) = advised(tmp_path, given)
    assert advice.words[2:4] == (given, expected)
    assert follow(tmp_path, advice) == ""
    (again,) = advised(tmp_path, given)  # a name that is taken is not proposed again
    assert again.words[3] == expected.replace(".safetensors", ".new.safetensors")
    assert follow(tmp_path, again) == ""


def test_a_folder_and_a_path_with_folders_are_converted_into_the_folder_of_who_types(tmp_path: Path) -> None:
    weight = torch.ones(2, 2)
    (tmp_path / "run").mkdir()
    torch.save({"a.weight": weight, "b.weight": weight}, tmp_path / "run" / "pytorch_model.bin")
    inside = "run/pytorch_model.bin"
    for path in (inside, "run"):
        (advice,) = advised(tmp_path, path)
        assert advice.words == ("ckpttool", "convert", inside, "pytorch_model.safetensors")
        assert follow(tmp_path, advice) == ""
        (tmp_path / "pytorch_model.safetensors").unlink()


def test_no_weights_no_conversion(tmp_path: Path) -> None:
    state = {"python": (3, tuple(range(625)), None), "cpu": torch.get_rng_state()}
    assert commands(tmp_path, state, "rng_state.pth") == []


def test_a_selection_says_nothing_of_the_rest(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "model.pt")
    assert advised(tmp_path, "model.pt", "--root", "optim") == []


@pytest.mark.filterwarnings("ignore")
def test_a_dtype_that_safetensors_lacks_is_kept_where_a_pt_does_as_well(tmp_path: Path) -> None:
    """Its bytes under another dtype are for those who asked for nothing but safetensors."""
    half = torch.ones(3, dtype=torch.complex32)
    save_legacy({"a.weight": half, "b.weight": torch.ones(2)}, tmp_path / "model.pt")
    document = type_in(tmp_path, ["inspect", "model.pt", "--json"]).out
    assert "legacy-unreadable" in document and "unknown-to-safetensors" in document
    (advice,) = advised(tmp_path, "model.pt")
    assert str(advice) == "ckpttool convert model.pt model.new.pt"
    assert follow(tmp_path, advice) == ""
    kept = torch.load(tmp_path / "model.new.pt", weights_only=True)["a.weight"]
    assert kept.dtype is torch.complex32 and torch.equal(torch.view_as_real(kept), torch.view_as_real(half))
    wide = torch.ones(2, dtype=torch.complex128)
    assert commands(tmp_path, {"module.w": wide, "module.v": wide}, "a.pt")[0].startswith(
        "ckpttool convert a.pt a.new.pt --strip-prefix auto"
    )
    assert commands(tmp_path, {"w": wide}, "b.pt") == ["ckpttool convert b.pt b.safetensors --as-bytes"]
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    save_legacy({"q": quantized, "w": torch.ones(2)}, tmp_path / "q.pt")
    assert [item.words[3] for item in advised(tmp_path, "q.pt")] == ["q.new.pt"]


def test_safetensors_without_a_format(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    (advice,) = advised(tmp_path, "model.safetensors")
    assert advice.words[3] == "model.new.safetensors"
    assert follow(tmp_path, advice) == ""


def test_commands_for_the_demo_files(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder)
    models = {"swin.pt": "swin.py:build", "swin_ddp_compiled.pt": "swin.py:build"}
    printed = 0
    for path in sorted(folder.iterdir()):
        if path.suffix != ".py" and path.name != "not_pulled.safetensors":
            printed += len(check(folder, path.name, models.get(path.name)))
    assert printed >= 12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [case.name for case in CASES.values() if not case.alone])
def test_commands_for_hostile_files(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = Path(case.build(tmp_path))
    if path.exists() and not path.is_file() and not path.is_dir():
        return  # a FIFO or a device: read by nobody
    if path.parent == tmp_path:
        check(tmp_path, path.name)


@pytest.mark.real
@pytest.mark.slow
def test_commands_for_published_files(real_dir: Path, tmp_path: Path) -> None:
    assert sum(len(check(folder, name)) for folder, name in published(real_dir, tmp_path)) >= 20


def test_the_tool_sees_what_does_not_work(tmp_path: Path) -> None:
    """A check that cannot fail is none."""
    torch.save(nn.DataParallel(cnn()).state_dict(), tmp_path / "a.pt")

    def said(*words: str, why: str) -> str:
        return follow(tmp_path, Advice(("ckpttool", *words), why))

    assert "still wrapped" in said("convert", "a.pt", "b.pt", why="takes wrappers off the names")
    assert said("convert", "a.pt", "c.pt", "--strip-prefix", "auto", why="takes wrappers off the names") == ""
    assert "status 2" in said("convert", "a.pt", "d.pt", "--drop", "*", why="takes wrappers off the names")
    assert "nothing checks" in said("convert", "a.pt", "e.pt", why="makes it better")
    assert "status 2" in said("inspect", "nowhere.pt", why="")
    assert list(tensors_of(tmp_path / "c.pt"))[:1] == ["0.weight"]


@pytest.mark.filterwarnings("ignore")
def test_made_files_lead_to_every_command(tmp_path: Path) -> None:
    """Each reason for a conversion stands in some file above, as far as a file alone can lead to it."""
    from ckpttool.findings.next_commands import _CONVERSIONS

    seen: collections.Counter[str] = collections.Counter()
    for number, make in enumerate(MADE.values()):
        path = tmp_path / f"{number}.pt"
        write_made(make(), path)
        seen.update(part for item in advised(tmp_path, path.name) for part in item.why.split("; "))
    by_model = {"stale-buffer", "unexpected-entry"}
    elsewhere = {"exported-program", "device-tags", "legacy-layout", "legacy-unreadable", "extra-state"}
    elsewhere.add("safetensors-no-format")
    hostile = {"dangerous-globals"}
    for code, option in _CONVERSIONS.items():
        if code not in by_model | elsewhere | hostile:
            assert seen[option.why], code
