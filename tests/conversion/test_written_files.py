"""What a conversion says of the files that it wrote, and in which order it asks the disk."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import ckpttool
from ckpttool.conversion import execute
from ckpttool.conversion.shards import lay_out_file, lay_out_folder
from ckpttool.elements.casts import cast_floats
from ckpttool.files import staging, streams
from ckpttool.values.conversion import CastLoss
from ckpttool.values.dtypes import BY_NAME, DType
from ckpttool.values.errors import CkptToolError
from tests.support.converting import convert, plan_of
from tests.support.descriptors import watch

STATE = {"a": torch.arange(1_000_000.0), "b": torch.arange(24).reshape(4, 6).t(), "c": torch.ones(300)}
LARGE_FOLIO = 1 << 20  # see tests/files/test_streams.py


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.save(STATE, tmp_path / "a.pt")
    return tmp_path / "a.pt"


@pytest.mark.parametrize("options", [(), ("--no-check",)], ids=["checked", "unchecked"])
@pytest.mark.parametrize("target", ["b.safetensors", "b.pt", "shards"])
def test_the_hash_in_a_manifest_is_that_of_the_file(
    source: Path, tmp_path: Path, target: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    if target == "shards":
        options = (*options, "--max-shard-size", "1MB")
    convert(source, tmp_path / target, "--manifest", tmp_path / "m.json", "--json", *options)
    said = json.loads(capsys.readouterr().out)["files"]
    assert len(said) == (3 if target == "shards" else 1)  # two of them, and an index
    for file in said:
        data = Path(file["path"]).read_bytes()
        assert (file["nbytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_without_a_manifest_nothing_is_hashed(source: Path, tmp_path: Path) -> None:
    conversion = ckpttool.convert(source, tmp_path / "b.pt")
    assert [file.sha256 for file in conversion.files] == [None]


@pytest.mark.parametrize("options", [{}, {"check": False}], ids=["checked", "unchecked"])
@pytest.mark.parametrize("target", ["b.safetensors", "b.pt"])
def test_what_is_read_back_is_on_the_disk_and_what_is_renamed_is_too(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, options: dict[str, bool]
) -> None:
    seen = watch(monkeypatch, execute, staging, streams)
    ckpttool.convert(source, tmp_path / target, **options)
    order = [name for name, _ in seen.made if name in ("pwrite", "fsync", "preadv", "rename")]
    order = [name for name, before in zip(order, ["", *order], strict=False) if name != before]
    read = ["fsync", "preadv"] if options == {} else []
    assert order == ["pwrite", *read, "fsync", "rename", "fsync"]
    assert sum(nbytes for nbytes in map(len, written(seen))) >= (tmp_path / target).stat().st_size


def written(seen: Any) -> list[memoryview]:
    return [data for _, data, _ in seen.arguments("pwrite")]


def test_no_write_of_a_conversion_is_as_large_as_a_large_folio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {f"layers.{position}.weight": torch.ones(1) for position in range(9_000)}
    torch.save(many, tmp_path / "a.pt")
    seen = watch(monkeypatch, streams)
    for target in ("b.safetensors", "b.pt"):  # headers of a megabyte and more, and many small pieces
        convert(tmp_path / "a.pt", tmp_path / target)
    assert (tmp_path / "b.pt").stat().st_size > LARGE_FOLIO
    assert max(map(len, written(seen))) <= LARGE_FOLIO // 2
    assert torch.load(tmp_path / "b.pt", weights_only=True).keys() == many.keys()


@pytest.mark.parametrize("call", ["preadv", "pwrite"])
def test_calls_that_do_less_than_they_are_asked_for_change_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    convert(source, tmp_path / "b.pt")

    def short(fd: int, data: Any, offset: int) -> int:
        data = data[0] if call == "preadv" else data
        part = memoryview(data)[: max(1, len(data) // 3)]
        return os.preadv(fd, [part], offset) if call == "preadv" else os.pwrite(fd, part, offset)

    watch(monkeypatch, streams, **{call: short})
    convert(source, tmp_path / "c.pt")
    assert (tmp_path / "b.pt").read_bytes() == (tmp_path / "c.pt").read_bytes()


def test_a_file_that_is_cut_short_while_it_is_checked_is_not_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = execute.Checker

    def cut(fd: int, *arguments: Any) -> Any:
        os.ftruncate(fd, 1_000_000)
        return real(fd, *arguments)

    monkeypatch.setattr(execute, "Checker", cut)
    target = tmp_path / "b.safetensors"
    from ckpttool.cli import main

    for options in ((), ("--no-check", "--manifest", str(tmp_path / "m.json"))):
        assert main(["convert", str(source), str(target), "--quiet", *options]) == 2
        assert "cut short" in capsys.readouterr().err
        assert {path.name for path in tmp_path.iterdir()} == {"a.pt"}


def test_shards_go_into_a_folder_that_has_no_older_set(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    conversion = ckpttool.convert(source, folder, to="safetensors", max_shard_size="1MB")
    assert [note for note in conversion.plan.notes if "older set" in note] == []
    assert (folder / "config.json").read_text() == "{}"
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(["config.json", *(Path(file.path).name for file in conversion.files)])
    assert {entry.name for entry in ckpttool.open(folder).entries} == STATE.keys()


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("target", ["b.pt", "b.safetensors", "shards"])
def test_progress_adds_up_to_the_bytes_that_are_written_and_those_that_are_checked(
    source: Path, tmp_path: Path, target: str, check: bool, digests: bool
) -> None:
    told: list[int] = []
    plan = plan_of(source, "pt" if target == "b.pt" else "safetensors")
    is_folder = target == "shards"
    layouts = lay_out_folder(plan, 3_000_000) if is_folder else lay_out_file(plan, target)
    done = execute.convert(
        plan,
        layouts,
        execute.Target(str(tmp_path / target), is_folder),
        execute.Effort(check, digests, told.append),
    )
    assert sum(told) == sum(piece.nbytes for piece in plan.pieces) * (1 + check)
    assert 0 < min(told) and max(told) <= streams.BLOCK_NBYTES
    assert (done.checked, done.written) == (check, True)
    assert sorted(done.digests) == (list(range(len(plan.tensors))) if digests else [])
    assert all((file.sha256 is not None) is digests for file in done.files)


def test_a_plan_that_casts_needs_a_caster(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "a.pt")
    plan = plan_of(tmp_path / "a.pt", "pt", dtype=BY_NAME["float16"])
    target = execute.Target(str(tmp_path / "b.pt"), False)
    with pytest.raises(CkptToolError, match="no caster was given"):
        execute.convert(plan, lay_out_file(plan, "b.pt"), target, execute.Effort())
    assert {path.name for path in tmp_path.iterdir()} == {"a.pt"}
    lost: list[tuple[str, bool]] = []

    def cast(
        data: memoryview, before: DType, after: DType, *, judge: bool = True
    ) -> tuple[memoryview, CastLoss]:
        lost.append((before.name, judge))
        return cast_floats(data, before, after, judge=judge)

    done = execute.convert(plan, lay_out_file(plan, "b.pt"), target, execute.Effort(cast=cast))
    assert lost == [("float32", True)] * 2 + [("float32", False)] * 2  # judged when written, not when checked
    assert {at: loss.numel for at, loss in done.losses.items()} == {0: 4, 1: 2}  # and counted once


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "views with bytes in common are written apart: 'a', 'b' (and 1 more group)"),
        ({"drop": ("c",)}, "views with bytes in common are written apart: 'a', 'b'"),
        ({"drop": ("c", "a")}, None),
    ],
)
def test_views_that_are_written_apart_are_told_once(
    tmp_path: Path, options: dict[str, Any], said: str | None
) -> None:
    first, second = torch.arange(8.0), torch.arange(9.0)
    state = {"a": first, "b": first[2:], "c": second, "d": second[1:], "e": torch.ones(1), "f": second[1:]}
    torch.save(state, tmp_path / "a.pt")
    plan = plan_of(tmp_path / "a.pt", "safetensors", **options)
    assert list(plan.notes) == ([said] if said else [])
    assert plan.aliases == {"f": "d"}
    empty = torch.ones(0)
    torch.save({**state, "n": empty, "o": empty}, tmp_path / "a.pt")
    assert plan_of(tmp_path / "a.pt", "pt", **options).aliases == {"f": "d"}
