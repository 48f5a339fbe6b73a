"""How bytes are moved: block by block, at every boundary, each checked; and what is said of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpttool.conversion import execute
from ckpttool.conversion.execute import named_digests
from ckpttool.conversion.shards import lay_out_file, lay_out_folder
from ckpttool.elements import digests
from ckpttool.elements.casts import cast_floats
from ckpttool.elements.digests import NamedDigest
from ckpttool.files import streams
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import CompositeTensor, Kind, Part
from ckpttool.values.conversion import CastLoss, Conversion, ConversionPlan, FileWritten
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import DestinationExists, MalformedCheckpoint
from tests.support.converting import plan_of
from tests.support.in_memory import plan_in_memory, tensor

BLOCK = 64
SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 5 * BLOCK + 7]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Runs of all lengths about a block, tensors that are gathered, and such as are cast."""
    state: dict[str, torch.Tensor] = {f"run{size}": torch.arange(size).to(torch.uint8) for size in SIZES}
    for rows in (1, 16, 17):
        grid = torch.arange(rows * 16).to(torch.int16).view(rows, 16)
        state |= {f"turned{rows}": grid.t(), f"stepped{rows}": grid[:, ::3]}
        state |= {
            f"l{rows}.weight": torch.arange(rows * 4.0).view(rows, 4) + 0.1,
            f"l{rows}.bias": torch.ones(rows),
        }
    base = torch.arange(300).to(torch.int32)
    state |= {"tied a": base, "tied b": base, "part": base[20:150]}
    torch.save(state, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def small_blocks(patch: pytest.MonkeyPatch, nbytes: int = BLOCK, gather: int = BLOCK) -> None:
    for module in (execute, streams):
        patch.setattr(module, "BLOCK_NBYTES", nbytes)
    patch.setattr(execute, "_GATHER_NBYTES", gather)


def run(plan: ConversionPlan, target: Path, **effort: Any) -> Conversion:
    is_folder = target.suffix == ""
    layouts = lay_out_folder(plan, 700) if is_folder else lay_out_file(plan, target.name)
    done = execute.Effort(cast=cast_floats, **effort)
    return execute.convert(plan, layouts, execute.Target(str(target), is_folder), done)


def files_in(target: Path) -> dict[str, bytes]:
    paths = sorted(target.iterdir()) if target.is_dir() else [target]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize("cast", [None, BY_NAME["float16"]], ids=["plain", "cast"])
@pytest.mark.parametrize("name", ["b.pt", "b.safetensors", "shards"])
def test_blocks_of_any_size_give_the_same_bytes_and_digests(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, cast: Any
) -> None:
    plan = plan_of(source, "pt" if name == "b.pt" else "safetensors", dtype=cast)
    (tmp_path / "0").mkdir()
    whole = run(plan, tmp_path / "0" / name, digests=True)
    for nbytes, gather in ((BLOCK, BLOCK), (100, 3 * BLOCK), (7, 16)):
        told: list[int] = []
        small_blocks(monkeypatch, nbytes, gather)
        folder = tmp_path / f"{nbytes} {gather}"
        folder.mkdir()
        done = run(plan, folder / name, digests=True, advance=told.append)
        assert files_in(folder / name) == files_in(tmp_path / "0" / name)
        assert (done.digests, done.losses) == (whole.digests, whole.losses)
        assert [file[1:] for file in done.files] == [file[1:] for file in whole.files]
        assert (sum(told), max(told) <= nbytes) == (2 * plan.nbytes, True)
    assert (whole.losses != {}) is (cast is not None)
    for position, loss in whole.losses.items():
        assert loss.numel == plan.pieces[position].source.numel


@pytest.mark.parametrize("name", ["b.pt", "b.safetensors", "shards"])
def test_one_bit_anywhere_that_reads_back_otherwise_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plan = plan_of(source, "pt" if name == "b.pt" else "safetensors", drop=("l*", "turned1*", "stepped1*"))
    (tmp_path / "0").mkdir()
    run(plan, tmp_path / "0" / name)
    size = min(map(len, files_in(tmp_path / "0" / name).values()))
    real = execute.Checker
    small_blocks(monkeypatch)
    for offset in {0, 9, size - 1, *range(0, size, 311), *range(size // 2, size // 2 + 3)}:

        def damage(fd: int, layout: str, hasher: Any) -> Any:
            (byte,) = os.pread(fd, 1, offset)  # noqa: B023
            os.pwrite(fd, bytes([byte ^ 4]), offset)  # noqa: B023
            return real(fd, layout, hasher)

        monkeypatch.setattr(execute, "Checker", damage)
        with pytest.raises(MalformedCheckpoint, match="reads back otherwise") as caught:
            run(plan, tmp_path / name)
        assert caught.value.byte_offset == offset // BLOCK * BLOCK
        assert {path.name for path in tmp_path.iterdir()} == {"a.pt", "0"}


def test_what_lies_as_it_will_is_read_straight_into_the_stream(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(source, "safetensors", dtype=BY_NAME["float16"])
    gathered: list[Any] = []
    real = TensorReader.iter_chunks

    def iter_chunks(self: Any, info: Any, *, chunk_nbytes: int) -> Any:
        gathered.append(info)
        assert 1 << 20 <= chunk_nbytes <= 4 << 20  # eight of them stay below 64 MiB
        return real(self, info, chunk_nbytes=chunk_nbytes)

    monkeypatch.setattr(TensorReader, "iter_chunks", iter_chunks)
    run(plan, tmp_path / "b.safetensors", check=False)
    assert {piece.method for piece in plan.pieces} == {"copied", "gathered", "cast"}
    assert gathered == [plan.pieces[at].source for at in in_file(plan) if plan.pieces[at].method != "copied"]


def in_file(plan: ConversionPlan) -> Sequence[int]:
    """Positions of the pieces in the order of the file."""
    (layout,) = lay_out_file(plan, "x")
    return [segment.piece for segment in layout.segments({}) if segment.piece >= 0]


# -- what is said afterwards --------------------------------------------------------------------------


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", ["b.pt", "b.safetensors", "shards"])
def test_a_conversion_says_what_it_wrote_and_a_plan_what_it_would(
    source: Path, tmp_path: Path, name: str, check: bool
) -> None:
    plan = plan_of(source, "pt" if name == "b.pt" else "safetensors")
    target = tmp_path / name
    is_folder = name == "shards"
    layouts = lay_out_folder(plan, 700) if is_folder else lay_out_file(plan, name)
    would = execute.plan_only(plan, layouts, execute.Target(str(target), is_folder))
    assert not target.exists()
    done = run(plan, target, check=check)
    written = files_in(target)
    paths = [str(target / layout.name) if is_folder else str(target) for layout in layouts]
    files = tuple(FileWritten(path, len(written[os.path.basename(path)]), None) for path in paths)
    assert len(files) == len(written)
    assert would == Conversion(plan, str(target), files, False)
    assert done == Conversion(plan, str(target), files, True, check, done.seconds)
    assert 0 < done.seconds < 60


def test_losses_of_a_tensor_are_those_of_all_its_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.tensor([1.0, 1e30, 1e-30, 3.0, -1e30, 1.1, 0.0, 2e-30, 5e30])
    torch.save({"fc.weight": values, "fc.bias": torch.tensor([1.1])}, tmp_path / "a.pt")
    plan = plan_of(tmp_path / "a.pt", "pt", dtype=BY_NAME["float16"])
    small_blocks(monkeypatch, 8, 8)
    done = run(plan, tmp_path / "b.pt")
    worst = abs(1.1 - float(torch.tensor(1.1).half())) / float(torch.tensor(1.1))
    assert {at: loss[:3] for at, loss in done.losses.items()} == {0: (9, 3, 2), 1: (1, 0, 0)}
    assert [loss.max_relative for loss in done.losses.values()] == [pytest.approx(worst, rel=1e-3)] * 2
    assert CastLoss(1, 2, 3, 0.5).joined(CastLoss(10, 20, 30, 0.25)) == CastLoss(11, 22, 33, 0.5)


# -- what is in the way -------------------------------------------------------------------------------


def test_files_of_an_older_set_are_refused_or_told(source: Path, tmp_path: Path) -> None:
    plan = plan_of(source, "safetensors")
    folder = tmp_path / "out"
    layouts = lay_out_folder(plan, 1 << 30)
    target = execute.Target(str(folder), True)
    assert execute.check_target(plan, layouts, target) is plan  # no folder yet
    folder.mkdir()
    assert execute.check_target(plan, layouts, target) is plan
    (folder / "config.json").write_text("{}")
    assert execute.check_target(plan, layouts, target) is plan
    old = folder / "model-00001-of-00002.safetensors"
    for names, what, them in (
        ([old.name], f"1 file of an older set: {old.name}", "it"),
        ([old.name, "model.safetensors.index.json"],
         f"2 files of an older set: {old.name}, model.safetensors.index.json", "them"),
    ):  # fmt: skip
        for name in names:
            (folder / name).write_bytes(b"")
        with pytest.raises(DestinationExists) as caught:
            execute.check_target(plan, layouts, target)
        assert (caught.value.what, caught.value.path) == (f"already holds {what}", str(folder))
        assert caught.value.hint == "write into another folder; --force writes beside them"
        forced = execute.check_target(plan, layouts, target._replace(force=True))
        note = f"{folder} still holds {what}; remove {them}, or a loader may take {them} for these"
        assert forced == plan._replace(notes=(*plan.notes, note))
        assert execute.plan_only(plan, layouts, target._replace(force=True)).plan == forced
    # The name of a file that is no folder says nothing of what lies beside it.
    beside = execute.Target(str(folder / "model.safetensors"), False)
    assert execute.check_target(plan, layouts, beside) is plan
    (folder / "model.safetensors").write_bytes(b"")
    for existing in (beside, target):
        with pytest.raises(DestinationExists):
            execute.check_target(plan, layouts, existing)


# -- digests ------------------------------------------------------------------------------------------


def test_digests_are_named_as_the_destination_names_them() -> None:
    half, floats = BY_NAME["float16"], BY_NAME["float32"]
    parts = (Part("values", tensor("3", 2)), Part("crow_indices", tensor("4", 3, dtype="int64")))
    tree = {
        "m.fc.weight": tensor("0", 2, 2),
        "m.tied.weight": tensor("0", 2, 2),
        "m.fc.running_mean": tensor("1", 2),
        "m.wide": tensor("2", 3, dtype="complex128"),
    }
    plan = plan_in_memory(tree, "safetensors", dtype=half, strip_prefix="m", as_bytes=True)
    found = named_digests(Conversion(plan, "b", (), True, digests={at: f"digest {at}" for at in range(3)}))
    weight = NamedDigest((), "fc.weight", Kind.PARAMETER, half, (2, 2), "digest 0")
    assert found == [
        weight,
        NamedDigest((), "fc.running_mean", Kind.PERSISTENT_BUFFER, floats, (2,), "digest 1"),
        NamedDigest((), "wide", Kind.UNKNOWN, BY_NAME["complex128"], (3,), "digest 2"),
        weight._replace(name="tied.weight"),
    ]
    assert named_digests(Conversion(plan, "b", (), True, digests={1: "x"})) == [found[1]._replace(sha256="x")]
    sparse = CompositeTensor("sparse_csr", "t", floats, (2, 2), parts)
    tied = {"x": {"s": sparse, "t": tensor("3", 2), "u": tensor("3", 2)}}
    plan = plan_in_memory(tied, "pt")
    assert plan.aliases == {"x.u": "x.t"}
    assert named_digests(Conversion(plan, "b", (), True, digests={0: "s", 1: "t", 2: "u"})) == [
        NamedDigest(("x",), "s", Kind.UNKNOWN, floats, (2, 2), "s"),
        NamedDigest(("x",), "t", Kind.UNKNOWN, floats, (2,), "t"),
        NamedDigest(("x",), "u", Kind.UNKNOWN, floats, (2,), "u"),
    ]


@pytest.mark.parametrize("to", ["pt", "safetensors"])
def test_digests_come_from_the_bytes_that_pass_but_of_views_that_are_no_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    base = torch.arange(24.0)
    state = {
        "whole": base, "again": base.view(4, 6), "turned": base.view(4, 6).t(), "part": base[3:9],
        "alone": torch.arange(6.0).view(2, 3).t(), "none": torch.ones(0, 3), "scalar": torch.tensor(1.5),
        "conj": torch.ones(2, dtype=torch.complex64).conj(), "six": torch.ones(3, dtype=torch.int16),
    }  # fmt: skip
    # Beside their base the flags stay, and the bytes are not the numbers.
    wide, real_one = torch.arange(3.0) * (1 + 2j), torch.arange(5.0)
    state |= {"wide": wide, "wide conj": wide.conj(), "one": real_one, "one neg": torch._neg_view(real_one)}
    torch.save(state, tmp_path / "a.pt")
    again: list[int] = []
    real = digests.digest_tensor

    def digest_tensor(reader: Any, value: Any) -> str:
        again.append(value)
        return real(reader, value)

    monkeypatch.setattr(digests, "digest_tensor", digest_tensor)
    plan = plan_of(tmp_path / "a.pt", to)
    done = run(plan, tmp_path / f"b.{to}", digests=True, check=False)
    not_pieces = {"again", "turned", "part", "alone", "wide conj", "one neg"}
    read = {str(entry.name) for entry in plan.source.entries if entry.value in again}
    assert read == (not_pieces if to == "pt" else set())
    with TensorReader(plan.source.files) as reader:
        expected = [real(reader, item.entry.value) for item in plan.tensors if item.entry.value is not None]
    assert [done.digests[position] for position in range(len(plan.tensors))] == expected
