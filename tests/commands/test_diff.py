"""``ckpttool diff`` as it is run: exit statuses, JSON, pipes, terminals, bad input, what is imported."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ckpttool import cli
from ckpttool.api.opened import open_file
from ckpttool.comparison.diff import Request, diff_sides
from ckpttool.elements.sums import Tolerance
from ckpttool.render.diff import iter_diff
from ckpttool.render.views import DiffListing
from ckpttool.values.errors import MalformedCheckpoint
from tests.support.folders import standing_in
from tools.terminal import run_on_terminal

GOLDEN = Path(__file__).parents[1] / "golden"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ckpttool", *map(str, arguments)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        encoding="utf-8",
    )


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main(["diff", *map(str, arguments)])
    return status, *capsys.readouterr()


def layer(seed: float) -> dict[str, torch.Tensor]:
    return {
        "weight": torch.arange(12.0).reshape(4, 3) * seed,
        "bias": torch.ones(4) * seed,
    }


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A training checkpoint before and after: one of everything."""
    generator = torch.Generator().manual_seed(0)
    # No `randn`: its last bits, and with them the golden numbers, depend on the processor.
    drawn = torch.randint(-(2**20), 2**20, (6, 4), generator=generator)
    base: dict[str, torch.Tensor] = {"embed.weight": drawn / 2**19}
    for index in range(4):
        for name, value in layer(index + 1).items():
            base[f"layers.{index}.{name}"] = value
    base["norm.running_mean"] = torch.zeros(4)
    base["norm.weight"] = torch.ones(4)
    base["position_ids"] = torch.arange(6)[None]
    base["old.title"] = torch.arange(9.0)
    base["head.weight"] = torch.ones(3, 4)
    tuned = {name: value.clone() for name, value in base.items()}
    for index in (2, 3):
        tuned[f"layers.{index}.weight"] *= 1.001 if index == 2 else 1.1
    tuned["norm.running_mean"] = torch.tensor([0.1, 0.2, 0.3, float("nan")])
    del tuned["position_ids"]
    tuned["new.title"] = tuned.pop("old.title")
    tuned["head.weight"] = torch.ones(5, 4)
    tuned["embed.weight"] = tuned["embed.weight"].bfloat16()
    tuned["extra"] = torch.ones(2, 2)
    a, b = tmp_path / "base.pt", tmp_path / "tuned.pt"
    torch.save({"state_dict": base, "epoch": 3, "args": {"lr": 0.1}}, a)
    torch.save({"state_dict": tuned, "epoch": 5, "args": {"lr": 0.01}}, b)
    return a, b


def test_status_says_it(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    a, b = pair
    assert call(capsys, a, a) == (0, "", "identical: 14 tensors (11 parameters, 2 buffers, 1 other)\n")
    status, out, err = call(capsys, a, b)
    assert status == 1 and out and err.startswith("different: identical ")
    assert call(capsys, a, b, "--quiet") == (1, "", "")
    status, _, err = call(capsys, a, b.with_name("none.pt"))
    assert status == 2 and "none.pt" in err


def test_a_pipe_has_a_line_per_difference(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, err = call(capsys, *pair)
    rows = [line.split("\t") for line in out.splitlines()]
    statuses = {row[3]: row[0] for row in rows if row[0] != "value"}
    assert statuses == {
        "layers.2.weight": "changed",
        "layers.3.weight": "changed",
        "norm.running_mean": "changed",
        "position_ids": "removed",
        "new.title": "renamed",
        "head.weight": "shape",
        "embed.weight": "dtype",
        "extra": "added",
    }
    assert {len(row) for row in rows} == {15, 6}
    assert [row for row in rows if row[0] == "value"] == [
        ["value", "value", "-", "epoch", "3", "5"],
        ["value", "value", "args", "lr", "0.1", "0.01"],
    ]
    renamed = next(row for row in rows if row[0] == "renamed")
    assert (renamed[4], renamed[13]) == ("old.title", "content")
    assert "[batch-norm-moved]" in err and "[nan-appeared]" in err and "[non-persistent-left]" in err
    assert "\x1b" not in out
    _, everything, _ = call(capsys, *pair, "--all")
    assert len(everything.splitlines()) == 15 + 2


def test_json_keeps_its_contract(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, *pair, "--json")
    document: dict[str, Any] = json.loads(out)
    assert (status, err) == (1, "") and out.isascii()
    assert document["schema"] == "ckpttool/diff/1"
    assert (document["a"], document["b"], document["equal"]) == (*map(str, pair), False)
    entries = {item["name"]: item for item in document["entries"]}
    required = {
        "root",
        "name",
        "kind",
        "status",
        "max_abs",
        "rel_l2",
        "changed_numel",
        "numel",
        "renamed_from",
    }
    assert all(required <= item.keys() for item in entries.values()) and len(entries) == 15
    counted = {
        status: sum(item["status"] == status for item in entries.values())
        for status in ("equal", "changed", "added", "removed", "renamed", "dtype", "shape")
    }
    assert {name: document["summary"][name] for name in counted} == counted
    assert counted == {
        "equal": 7, "changed": 3, "added": 1, "removed": 1, "renamed": 1, "dtype": 1, "shape": 1
    }  # fmt: skip
    assert entries["layers.0.weight"]["max_abs"] == 0 and entries["layers.0.weight"]["rel_l2"] == 0
    assert entries["layers.3.weight"]["rel_l2"] == pytest.approx(0.1, rel=1e-5)
    assert entries["new.title"]["renamed_from"] == {"root": ["state_dict"], "name": "old.title"}
    assert (entries["norm.running_mean"]["nan_appeared"], entries["norm.running_mean"]["rel_l2"]) == (
        1,
        "Infinity",
    )
    assert entries["embed.weight"]["unrounded"] == 0
    assert [(v["name"], v["a"], v["b"]) for v in document["values"]] == [("epoch", 3, 5), ("lr", 0.1, 0.01)]
    by_kind = document["summary"]["by_kind"]
    assert sum(sum(of_kind.values()) for of_kind in by_kind.values()) == 15
    assert by_kind["persistent_buffer"] == {"changed": 1, "removed": 1}


def test_options_reach_the_comparison(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    def summary(*options: str) -> dict[str, Any]:
        document = json.loads(call(capsys, *pair, "--json", *options)[1])
        return {
            name: count for name, count in document["summary"].items() if name not in ("by_kind",) and count
        }

    assert summary("--only", "buffers") == {"changed": 1, "removed": 1}
    assert summary("--include", "layers.*") == {"equal": 6, "changed": 2}
    assert summary("--include", "layers.*", "--rtol", "0.01") == {
        "equal": 6,
        "changed": 1,
        "within_tolerance": 1,
    }
    assert summary("--include", "*.title", "--no-align") == {"added": 1, "removed": 1}
    assert summary("--include", "*.title", "--no-align", "--map", "^old=>new") == {"equal": 1}
    assert summary("--headers", "--exclude", "*title*") == {
        "equal": 10, "added": 1, "removed": 1, "dtype": 1, "shape": 1
    }  # fmt: skip
    assert summary("--root", "state_dict")["changed"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "weights"), "weights is not one of"),
        (("--atol", "-1"), "not a number"),
        (("--rtol", "nan"), "not a number"),
        (("--ulp", "x"), "not a count"),
        (("--top", "-1"), "not a count"),
        (("--map", "no arrow"), "REGEX=>REPL"),
        (("--map", "(=>x"), "regular expression"),
        (("--root", "nothing"), "no branch"),
    ],
)
def test_wrong_usage_is_a_sentence(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    status, out, err = call(capsys, *pair, *arguments)
    assert (status, out) == (2, "") and said in err and "Traceback" not in err


def test_one_file_needs_two_branches(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, pair[0])
    assert status == 2 and "--root-a and --root-b" in err


@pytest.mark.parametrize("which", ["A", "B"])
def test_the_bad_side_is_named(pair: tuple[Path, Path], tmp_path: Path, which: str) -> None:
    pointer = tmp_path / "pointer.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9\n")
    cut = tmp_path / "cut.pt"
    cut.write_bytes(pair[0].read_bytes()[:-100])
    for bad in (pointer, cut):
        done = run("diff", *((bad, pair[0]) if which == "A" else (pair[0], bad)))
        assert done.returncode == 2 and done.stdout == ""
        assert f"{which} cannot be read" in done.stderr and str(bad) in done.stderr
        assert "Traceback" not in done.stderr


def test_names_and_values_are_made_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[31m\nb\u202e[red]"
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"sd": {evil: torch.ones(1), "k.w": torch.ones(2)}, evil: "x"}, a)
    torch.save({"sd": {f"{evil}2": torch.ones(3), "k.w": torch.ones(2)}, evil: "y\x1b]0;"}, b)
    for options in ((), ("--json",)):
        _, out, err = call(capsys, a, b, *options)
        for text in (out, err):
            assert "\x1b" not in text and "\u202e" not in text
        assert "\\x1b[31m" in out or "\\u001b[31m" in out
    screen = terminal("diff", a, b)
    assert "\x1b[31m\nb" not in screen and "\\x1b[31m" in screen and "[red]" in screen


def test_petabytes_that_are_one_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c = (tmp_path / name for name in ("a.pt", "b.pt", "c.pt"))
    shape = (1 << 25, 1 << 25)
    torch.save({"w": torch.tensor([1.0]).expand(shape)}, a)
    torch.save({"w": torch.tensor([1.0]).expand(shape)}, b)
    torch.save({"w": torch.tensor([2.0]).expand(shape)}, c)
    assert call(capsys, a, b)[0] == 0
    status, out, _ = call(capsys, a, c)
    assert status == 1 and out.startswith("changed")


def test_a_manifest_stands_for_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = torch.randn(4, 3)
    tensors = {"embed": shared, "head": shared, "n": torch.tensor(3), "t": torch.randn(3, 4).t()}
    source, manifest = tmp_path / "a.pt", tmp_path / "manifest.json"
    torch.save(tensors, source)
    target = tmp_path / "b.safetensors"
    assert cli.main(["convert", str(source), str(target), "--manifest", str(manifest), "--quiet"]) == 0
    for first, second in ((source, manifest), (manifest, source), (target, manifest), (source, target)):
        assert call(capsys, first, second)[0] == 0, (first, second)
    torch.save({**tensors, "n": torch.tensor(4)}, source)
    status, out, _ = call(capsys, source, manifest)
    assert status == 1 and [line.split("\t")[0:4:3] for line in out.splitlines()] == [["changed", "n"]]
    status, out, _ = call(capsys, manifest, source, "--json")
    assert json.loads(out)["summary"]["changed"] == 1
    text = manifest.read_text("utf-8")
    manifest.write_text(text.replace('"name": "n"', '"name": "m"'))
    status, _, err = call(capsys, source, manifest)
    assert status == 2 and "B cannot be read" in err and "not what was written" in err


def test_convert_there_and_back_is_identical(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    start = tmp_path / "a.pt"
    torch.save({"state_dict": model.state_dict(), "epoch": 3, "note": "x"}, start)
    there, back = tmp_path / "b.safetensors", tmp_path / "c.pt"
    assert cli.main(["convert", str(start), str(there), "--quiet"]) == 0
    assert cli.main(["convert", str(there), str(back), "--quiet"]) == 0
    for first, second in ((start, there), (there, back), (start, back)):
        status, out, err = call(capsys, first, second)
        assert (status, out) == (0, "") and err.startswith("identical: 7 tensors")


MODEL = """\
import torch
from torch import nn

class M(nn.Module):
    def __init__(self, n=3):
        super().__init__()
        self.w = nn.Parameter(torch.ones(n))
        self.register_buffer("table", torch.ones(2), persistent=False)
"""


def test_a_model_is_a_structure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.py").write_text(MODEL)
    torch.save({"w": torch.zeros(3)}, tmp_path / "w.pt")
    model, path = f"{tmp_path / 'm.py'}:M", tmp_path / "w.pt"
    status, out, err = call(capsys, path, model)
    assert (
        (status, out) == (0, "")
        and err.startswith("same structure: 1 tensor")
        and "values not compared" in err
    )
    assert call(capsys, model, path)[0] == 0
    assert call(capsys, model, path, "--model-arg", "n=4")[0] == 1


def test_equal_files_import_neither_torch_nor_numpy(tmp_path: Path) -> None:
    save_file({"w": torch.randn(100)}, tmp_path / "a.safetensors")
    torch.save({"w": torch.zeros(100)}, tmp_path / "z.pt")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    code = (
        "import sys; from ckpttool.cli import main; status = main(sys.argv[1:]); "
        "print(status, *sorted({'torch', 'numpy', 'safetensors', 'rich'} & set(sys.modules)))"
    )
    for other, options, expected in (
        ("b.safetensors", [], "0"),
        ("z.pt", ["--headers"], "0"),
        ("z.pt", ["--quiet"], "1 numpy"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, "diff", tmp_path / "a.safetensors", tmp_path / other, *options],
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        assert done.stdout.strip() == expected, done.stderr


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        save_file({"w": torch.randn(100)}, path)
    sides = [open_file(path).side for path in paths]
    paths[1].write_bytes(paths[1].read_bytes() + b"x")
    with pytest.raises(MalformedCheckpoint, match="changed"):
        diff_sides(*sides, Request())


def terminal(*arguments: object, width: int = 100) -> str:
    """What a terminal of 40 rows is sent, without what a progress line wrote and took back."""
    return run_on_terminal(
        [sys.executable, "-m", "ckpttool", *map(str, arguments)],
        width=width,
        environment={**os.environ, "NO_COLOR": "1", "TERM": "xterm"},
        with_errors=False,
    )[1]


@pytest.mark.parametrize(
    ("name", "width", "view", "request_"),
    [
        ("diff_100", 100, DiffListing(), Request()),
        ("diff_80", 80, DiffListing(), Request()),
        ("diff_all_120", 120, DiffListing(everything=True), Request()),
        ("diff_groups_100", 100, DiffListing(group_depth=1), Request()),
        ("diff_tolerance_100", 100, DiffListing(top=2), Request(tolerance=Tolerance(1e-3, 1e-2, 4))),
        ("diff_headers_100", 100, DiffListing(), Request(structure_only=True)),
    ],
)
def test_golden(
    name: str, width: int, view: DiffListing, request_: Request, pair: tuple[Path, Path], update_golden: bool
) -> None:
    with standing_in(pair[0].parent):
        sides = [open_file(path.name).side for path in pair]
        lines = iter_diff(diff_sides(*sides, request_), width, view)
        text = "".join("".join(span.text for span in line).rstrip() + "\n" for line in lines)
    path = GOLDEN / f"{name}.txt"
    if update_golden:
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8"), "look at the difference; `pytest --update-golden` takes it over"


def test_what_is_on_a_terminal(pair: tuple[Path, Path]) -> None:
    text = terminal("diff", *pair)
    assert "different: identical 7 of 15" in text and "layers.{2..3}.weight ×2" in text and "█" in text


def test_ctrl_c_ends_it_soon(tmp_path: Path) -> None:
    # Sparse files of 64 GiB each: comparing them takes a quarter of a minute at least.
    header = {"w": {"dtype": "U8", "shape": [64 << 30], "data_offsets": [0, 64 << 30]}}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            file.truncate(8 + len(raw) + (64 << 30))
    child = subprocess.Popen(
        [sys.executable, "-m", "ckpttool", "diff", *map(str, paths)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    time.sleep(1.5)
    child.send_signal(signal.SIGINT)
    begin = time.monotonic()
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, "", "interrupted\n")
    assert time.monotonic() - begin < 5


def test_a_glob_that_fits_neither_side_is_a_slip(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = [str(files / "good.safetensors"), str(files / "values.safetensors")]
    for option in ("--include", "--exclude"):
        assert cli.main(["diff", *sides, option, "zeroo"]) == 2
        assert capsys.readouterr() == (
            "",
            "error: no entry of either side matches 'zeroo'\nhint:  did you mean zero\n",
        )
        assert cli.main(["diff", *sides, option, "zero", "--quiet"]) == 1  # one side has it
        assert capsys.readouterr() == ("", "")


def test_a_kind_of_which_there_is_none_is_no_slip(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    weights = files / "linear.pt"
    torch.save(torch.nn.Linear(2, 2).state_dict(), weights)
    assert cli.main(["diff", str(weights), str(weights), "--only", "buffers"]) == 0
    assert capsys.readouterr().err.startswith("identical: 0 tensors\n")
