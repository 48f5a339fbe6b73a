"""The summary by block: it counts what the rows count, whatever the depth, and fits the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpttool.cli import main
from ckpttool.render.blocks import iter_blocks
from ckpttool.render.tables import RowLine
from ckpttool.render.views import InspectListing
from ckpttool.values.inspection import Row
from tests.render.test_inspection import HOSTILE, seen
from tests.support.architectures import ARCHITECTURES, write_shapes
from tests.support.goldens import View, type_command
from tests.support.inspections import inspection, row, tensor


def summed(rows: list[Row], depth: int | None = None, most: int = 10, sort: str = "file") -> list[list[str]]:
    """The cells of each line, by title of the column."""
    lines = iter_blocks(rows, 200, depth=depth, most=most, sort=sort, with_root=False, packed=False)
    tables = [line.cells for line in lines if isinstance(line, RowLine) and line.cells is not None]
    return [[cell.text + cell.tail for cell in cells] for cells in tables]


def decoder(layers: int = 4) -> list[Row]:
    rows = [row("embed.weight", tensor(shape=(8, 4)))]
    for layer in range(layers):
        rows += [
            row(f"layers.{layer}.q.weight", tensor(shape=(4, 4))),
            row(f"layers.{layer}.q.bias", tensor(shape=(4,))),
        ]
    return [*rows, row("head.weight", tensor(shape=(8, 4)))]


def test_blocks_that_hold_the_same_share_a_line_with_all_that_they_hold() -> None:
    assert [cells[:4] for cells in summed(decoder(), depth=2)] == [
        ["embed", "1", "32", "22 %"],
        ["layers.{0..3} ×4", "8", "80", "56 %"],
        ["head", "1", "32", "22 %"],
    ]
    other = [*decoder(), row("layers.1.q.gate", tensor(shape=(2,)))]
    assert [cells[0] for cells in summed(other, depth=2)] == [
        "embed",
        "layers.{0,2..3} ×3",
        "layers.1",
        "head",
    ]


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("depth", [1, 2, 3, 12])
def test_every_tensor_is_in_one_block(kind: str, depth: int) -> None:
    shapes = list(ARCHITECTURES[kind]())
    rows = [row(name, tensor(shape=shape)) for name, _, shape in shapes]
    lines = summed(rows, depth=depth)
    assert sum(int(cells[1].replace(",", "")) for cells in lines) == len(shapes)


def test_the_finest_depth_is_taken_that_fits() -> None:
    rows = [
        row(f"{a}.{b}.{c}.w", tensor(shape=(a + 1, b + 1, c + 1)))
        for a in range(2)
        for b in range(3)
        for c in range(4)
    ]
    assert [len(summed(rows, most=most)) for most in (1, 2, 5, 6, 23, 24, 99)] == [1, 2, 2, 6, 6, 24, 24]


def test_where_no_depth_fits_the_smallest_are_left_out_and_said() -> None:
    rows = [row(f"part{'x' * at}.w", tensor(shape=(at + 1,))) for at in range(30)]
    lines = seen(inspection(rows), 100, InspectListing(rows=5))
    assert [cells[1] for cells in summed(rows, most=5)] == ["1"] * 5
    assert any(
        "25 smaller blocks hidden: --depth 1 · 30 tensors in blocks of depth 1" in line for line in lines
    )
    assert len(summed(rows, depth=1, most=5)) == 30


def test_order() -> None:
    rows = [row(f"{name}.w", tensor(shape=(size,))) for name, size in (("b", 1), ("c", 3), ("a", 2))]
    assert [[cells[0] for cells in summed(rows, 1, sort=sort)] for sort in ("file", "name", "size")] == [
        ["b", "c", "a"], ["a", "b", "c"], ["c", "a", "b"],
    ]  # fmt: skip


def test_tied_parameters_count_once_in_elements() -> None:
    rows = decoder()
    rows[-1] = rows[-1]._replace(tied_to=rows[0].entry)
    head = summed(rows, depth=1)[-1]
    assert head[:3] == ["head", "1", ""]


@pytest.mark.parametrize("depth", [1, 3])
def test_hostile_names_leave_no_control_character(depth: int) -> None:
    rows = [row(name, root=(name, 0)) for name in HOSTILE]
    lines = seen(inspection(rows, weights_root=None), 100, InspectListing(depth=depth))
    assert [line for line in lines if not line.isprintable()] == []
    assert max(map(len, lines)) < 3000


def table_of(text: str) -> bool:
    return "in blocks of depth" not in text


@pytest.mark.parametrize(
    ("lines", "options", "is_table"),
    [
        ("", "", True),  # a terminal that does not say how high it is
        ("24", "", True),  # twelve rows are shown on any
        ("24", "--rows 11", False),
        ("24", "--rows 12", True),
        ("24", "--rows all", True),
        ("", "--rows 3", False),
        ("", "--depth 2", False),
        ("10", "--flat", True),
    ],
)
def test_when_it_stands_for_the_table(
    lines: str, options: str, is_table: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", lines)
    write_shapes(tmp_path / "m.safetensors", ARCHITECTURES["llama"]())
    assert (
        table_of(type_command(f"ckpttool inspect m.safetensors {options}", View("", 100), tmp_path))
        is is_table
    )


def test_a_pipe_and_json_stay_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "10")
    write_shapes(tmp_path / "m.safetensors", ARCHITECTURES["gpt2"]())
    for options in ("", "--json"):
        said = [
            type_command(f"ckpttool inspect m.safetensors {options} {more}", View("pipe"), tmp_path).split(
                "\n", 1
            )[1]
            for more in ("", "--rows 3", "--depth 1")
        ]
        assert said[0] == said[1] == said[2] and said[0].count("h.11.") >= 12


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rows", "few"], "few is not a count"),
        (["--depth", "0"], "a block has at least one part of a name"),
        (["--depth", "-1"], "-1 is not a count"),
        (["--depth", "2", "--flat"], "it does not go with --flat, --stats and --rows"),
        (["--depth", "2", "--rows", "3"], "it does not go with --flat, --stats and --rows"),
    ],
)
def test_bad_values(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes(tmp_path / "m.safetensors", ARCHITECTURES["lora"]())
    assert main(["inspect", str(tmp_path / "m.safetensors"), *options]) == 2
    out, err = capsys.readouterr()
    assert not out and said in err
