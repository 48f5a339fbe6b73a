"""What ``diff`` tells of many rows: one rule, one note, a summary by block; nothing cut to nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ckpttool import cli
from ckpttool.render.diff import iter_diff
from ckpttool.render.diff_data import DIFF
from ckpttool.render.views import DiffListing
from tests.support.differing import diff
from tests.support.folders import standing_in

GOLDEN = Path(__file__).parents[1] / "golden"

Tensors = dict[str, torch.Tensor]


def decoder(layers: int = 12) -> Tensors:
    """No `randn`: its last bits, and with them the golden numbers, depend on the processor."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randint(-(2**20), 2**20, shape, generator=generator) / 2**19

    made = {"model.embed_tokens.weight": drawn(16, 8), "lm_head.weight": drawn(16, 8)}
    for index in range(layers):
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj"):
            made[f"model.layers.{index}.{part}.weight"] = drawn(8, 8)
        made[f"model.layers.{index}.norm.weight"] = torch.ones(8)
    return made


def tuned() -> Tensors:
    """Later layers moved more, norms not at all; one number became NaN."""
    made = decoder()
    for name, value in made.items():
        if ".layers." in name and "norm" not in name:
            made[name] = value * (1 + 2.0 ** (int(name.split(".")[2]) - 15))
    made["model.layers.4.mlp.up_proj.weight"][3, 5] = math.nan
    return made


def renamed() -> Tensors:
    """``_`` for ``.`` in layers; two names that follow no rule."""
    made = {
        name.replace(".", "_") if ".layers." in name else name: value
        for name, value in decoder().items()
        if "norm" not in name
    }
    made["model.a_module_with_a_long_name.another_one_with_a_longer_name.table"] = made.pop(
        "model.embed_tokens.weight"
    )
    made["classifier.kernel"] = made.pop("lm_head.weight")
    return made


def cast() -> Tensors:
    return {name: value.bfloat16() for name, value in decoder().items()}


def without_norms() -> Tensors:
    return {name: value for name, value in decoder().items() if "norm" not in name}


PAIRS: dict[str, tuple[Callable[[], Tensors], Callable[[], Tensors]]] = {
    "blocks": (decoder, tuned),
    "renamed": (without_norms, renamed),
    "cast": (decoder, cast),
}


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    def write(name: str) -> tuple[Path, Path]:
        paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
        for path, make in zip(paths, PAIRS[name], strict=True):
            save_file({key: value.contiguous() for key, value in make().items()}, path)
        return paths

    return write


def seen(paths: tuple[Path, Path], width: int, listing: DiffListing | None = None) -> str:
    with standing_in(paths[0].parent):
        lines = iter_diff(diff(*[Path(path.name) for path in paths]), width, listing or DiffListing())
        return "".join("".join(span.text for span in line).rstrip() + "\n" for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("name", PAIRS)
def test_golden(
    name: str, width: int, written: Callable[[str], tuple[Path, Path]], update_golden: bool
) -> None:
    text = seen(written(name), width)
    path = GOLDEN / f"diff_{name}_{width}.txt"
    if update_golden:
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8"), "look at the difference; `pytest --update-golden` takes it over"


@pytest.mark.parametrize("name", PAIRS)
def test_golden_pipe(
    name: str,
    written: Callable[[str], tuple[Path, Path]],
    update_golden: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = written(name)
    with standing_in(paths[0].parent):
        cli.main(["diff", *[path.name for path in paths]])
    out, err = capsys.readouterr()
    path = GOLDEN / f"diff_{name}_pipe.txt"
    if update_golden:
        path.write_text(f"{err}\n{out}", "utf-8")
    assert f"{err}\n{out}" == path.read_text("utf-8"), "look at the difference; `pytest --update-golden`"


@pytest.mark.parametrize("width", [24, 40, 60, 80, 200])
def test_no_rename_is_cut(width: int, written: Callable[[str], tuple[Path, Path]]) -> None:
    text = "".join(line.strip() for line in seen(written("renamed"), width).splitlines())
    assert f"{36} renamed: . → _" in text
    assert "…" not in text
    old, new = "model.embed_tokens.weight", list(renamed())[-2]
    assert old in text and new in text and text.index(old) < text.index(new)


def test_all_lists_every_rename(written: Callable[[str], tuple[Path, Path]]) -> None:
    lines = seen(written("renamed"), 200, DiffListing(everything=True)).splitlines()
    listed = {line.split()[1]: line.split()[3] for line in lines if line.startswith("  renamed")}
    made = dict(zip(without_norms(), renamed(), strict=False))
    assert len(listed) == 38 and listed["lm_head.weight"] == "classifier.kernel"
    assert all(new == old.replace(".", "_") for old, new in listed.items() if ".layers." in old) and made


def test_totals_of_a_block_are_those_of_its_numbers(written: Callable[[str], tuple[Path, Path]]) -> None:
    """By numpy, of the tensors that changed; elements by all that the block has."""
    text = seen(written("blocks"), 200, DiffListing(group_depth=3))
    a, b = decoder(), tuned()
    rows = {line.split()[0]: line.split() for line in text.splitlines() if "model.layers." in line}
    for index in range(12):
        names = [name for name in a if name.startswith(f"model.layers.{index}.")]
        old = np.concatenate([a[name].numpy().ravel() for name in names]).astype(np.float64)
        new = np.concatenate([b[name].numpy().ravel() for name in names]).astype(np.float64)
        moved = np.concatenate([a[n].numpy().ravel() for n in names if "norm" not in n]).astype(np.float64)
        row = rows[f"model.layers.{index}"]
        assert row[1:4] == ["4", "1", "3"]
        assert row[4] == f"{100 * (old != new).mean():.0f}"
        expected = np.linalg.norm(new - old) / np.linalg.norm(moved)
        assert row[6] == ("nan" if index == 4 else f"{expected:.1e}")


def test_nan_is_first_and_then_the_biggest_movers(written: Callable[[str], tuple[Path, Path]]) -> None:
    lines = seen(written("blocks"), 100).splitlines()
    blocks = [line.split()[0] for line in lines if line.startswith("  model.layers.")]
    assert blocks == [f"model.layers.{index}" for index in (4, 11, 10, 9, 8, 7, 6, 5, 3, 2)]
    moved = next(line.split() for line in lines if line.startswith("  model.layers.11 "))
    assert moved[1:6] == ["4", "1", "3", "96", "%"]  # 192 of 200 elements
    first = next(line for line in lines if line.startswith("  changed"))
    assert "up_proj" in first and first.split().count("nan") == 2


def test_rounding_errors_are_summed_up_in_a_sentence(written: Callable[[str], tuple[Path, Path]]) -> None:
    text = seen(written("cast"), 100)
    assert "  all 50 are a plain cast to bfloat16, round to nearest\n" in text
    assert "note" not in text and "float32 → bfloat16" not in text and "elements" not in text


def test_what_is_no_plain_cast_is_not_called_one(tmp_path: Path) -> None:
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    other = cast()
    other["lm_head.weight"] = other["lm_head.weight"] * 2
    for path, made in zip(paths, (decoder(), other), strict=True):
        save_file(made, path)
    text = seen(paths, 120)
    assert "  49 of 50 are a plain cast to bfloat16, round to nearest\n" in text
    noted = [line.split()[1] for line in text.splitlines() if "float32 → bfloat16" in line]
    assert noted == ["lm_head.weight"]


def test_a_note_that_all_rows_of_a_status_have_is_said_once(tmp_path: Path) -> None:
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    a = {"x.w": torch.ones(2, 3), "y.v": torch.ones(2, 3), "z.u": torch.zeros(3)}
    b = {"x.w": torch.ones(3, 3), "y.v": torch.ones(3, 3), "z.u": torch.ones(3)}
    for path, made in zip(paths, (a, b), strict=True):
        save_file(made, path)
    text = seen(paths, 100)
    assert "  all 2 with status shape: 2×3 → 3×3\n" in text and text.count("2×3") == 1


def test_json_has_the_rules(written: Callable[[str], tuple[Path, Path]]) -> None:
    paths = written("renamed")
    document = DIFF.document(diff(*paths))
    assert json.loads(json.dumps(document["renames"])) == [
        {"where": "all", "old": ".", "new": "_", "names": 36}
    ]


def test_hostile_names_in_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(4, generator=generator) for _ in range(6)]
    for file, part in (("a.pt", "\x1b[31m\nred"), ("b.pt", "\u202e[bold]")):
        torch.save({f"x.{part}.{index}": value for index, value in enumerate(drawn)}, tmp_path / file)
    paths = tmp_path / "a.pt", tmp_path / "b.pt"
    assert cli.main(["diff", *map(str, paths)]) == 1
    out, err = capsys.readouterr()
    for text in (out, err, seen(paths, 100)):
        assert "\x1b" not in text and "\u202e" not in text
    assert "6 renamed: \\x1b[31m\\x0ared → \\u202e[bold]\n" in err
    assert "6 renamed: \\x1b[31m\\x0ared → \\u202e[bold]\n" in seen(paths, 100)


@pytest.mark.parametrize(("old", "new", "said"), [
    ("pre_{}", "{}", "6 renamed: pre_X → X"),
    ("{}", "{}_ema", "6 renamed: X → X_ema"),
    ("a_{}_b", "a.{}_b", "6 renamed: the first _ → ."),
    ("a_{}_b", "a_{}.b", "6 renamed: the last _ → ."),
    ("a {} b", "a{}b", "6 renamed: ' ' → ''"),
])  # fmt: skip
def test_how_a_rule_reads(
    old: str, new: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(4, generator=generator) for _ in range(6)]
    for file, name in (("a.pt", old), ("b.pt", new)):
        torch.save({name.format(f"w{i}"): value for i, value in enumerate(drawn)}, tmp_path / file)
    cli.main(["diff", str(tmp_path / "a.pt"), str(tmp_path / "b.pt")])
    assert said in capsys.readouterr().err.splitlines()
