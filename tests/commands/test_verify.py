"""``ckpttool verify`` as it is typed: statuses, streams, the JSON contract, what a terminal shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ckpttool import cli
from ckpttool.render.verify import iter_pipe, iter_plan, iter_verification, verify_document
from ckpttool.values.verification import (
    Lossy,
    Mismatched,
    Missing,
    NotRestored,
    Plan,
    Run,
    Verification,
    Wrong,
)
from tests.support.programs import on_terminal

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, size=3, base=10.0):
        super().__init__()
        self.fc = nn.Linear(size, 2)
        self.register_buffer("freq", base ** -torch.arange(4.0), persistent=False)

def build(size=3, base=10.0):
    print("the factory speaks")
    return Net(size, base)

def fails():
    raise ValueError("bad \\x1b[31m configuration")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(MODEL)
    torch.manual_seed(3)
    state = {f"fc.{name}": value for name, value in nn.Linear(3, 2).state_dict().items()}
    torch.save(state, tmp_path / "good.pt")
    torch.save({"fc.weight": state["fc.weight"]}, tmp_path / "short.pt")
    torch.save(
        {"gen": state, "disc": {name: value * 2 for name, value in state.items()}}, tmp_path / "two.pt"
    )
    torch.save({"epoch": 3, "model": state}, tmp_path / "run.pt")
    return tmp_path


def verify(*arguments: str, model: str = "net.py:build") -> int:
    return cli.main(["verify", *arguments, "--model", model])


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("good.pt",), 0),
        (("short.pt",), 1),
        (("good.pt", "--model-arg", "size=4"), 1),
        (("good.pt", "--load", "copy,assign"), 1),
        (("good.pt", "--load", "copy", "--load", "round-trip"), 0),
        (("good.pt", "--load", "sideways"), 2),
        (("good.pt", "--load", ""), 2),
        (("good.pt", "--device", "cuda:77"), 2),
        (("two.pt",), 2),
        (("two.pt", "--root", "gen"), 0),
        (("run.pt", "--root", ""), 2),
        (("none.pt",), 2),
        (("good.pt", "--reference", "net.py"), 2),
        (("good.pt", "--write-reference", "."), 2),
    ],
)
def test_the_status_answers(arguments: tuple[str, ...], status: int, folder: Path) -> None:
    assert verify(*arguments, "--quiet") == status


def test_quiet_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert verify("short.pt", "--quiet") == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    assert set(captured.err.splitlines()) == {"the factory speaks"}


def test_stdout_is_data_and_the_memory_is_said_before(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verify("good.pt") == 0
    captured = capfd.readouterr()
    lines = [line.split("\t") for line in captured.out.splitlines()]
    assert {len(line) for line in lines} == {6}
    assert lines[0][:4] == ["verdict", "-", "-", "ok"]
    assert [line[:5] for line in lines if line[0] == "run"] == [
        ["run", "cpu", "copy", "ok", "2/2"],
        ["run", "cpu", "assign", "warned", "2/2"],
        ["run", "cpu", "to-empty", "warned", "2/2"],
        ["run", "cpu", "round-trip", "ok", "2/2"],
    ]
    assert ["not_restored", "cpu", "assign", "freq", "no data (meta)", "0.001..1"] in lines
    assert "one copy of it in memory" in captured.err
    assert captured.err.index("one copy of it") < captured.err.index("hint: to_empty()")


def test_an_ambiguous_root_is_an_error_that_names_the_branches(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify("two.pt") == 2
    error = capsys.readouterr().err
    assert "which state_dict to load is not clear" in error
    assert "--root takes one of: gen, disc" in error


def test_a_failing_factory_shows_its_own_trace_escaped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify("good.pt", model="net.py:fails") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "net.py" in captured.err
    assert "raise ValueError" in captured.err
    assert "\x1b" not in captured.err
    assert "Traceback" not in captured.err


def test_no_torch_is_one_sentence(folder: Path) -> None:
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("raise ModuleNotFoundError('no torch here', name='torch')")
    here = str(Path(cli.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "ckpttool", "verify", "good.pt", "--model", "net.py:build"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{here}"},
        cwd=folder,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "torch" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reference_is_written_whole_and_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("good.pt", "--write-reference", "ref.json", "--load", "copy") == 0
    assert "wrote ref.json: fingerprints of 1 rebuilt buffer" in capsys.readouterr().err
    assert set(json.loads((folder / "ref.json").read_text("utf-8"))["buffers"]) == {"freq"}
    assert [path.name for path in folder.glob(".*ref*")] == []
    umask = os.umask(0)
    os.umask(umask)
    assert (folder / "ref.json").stat().st_mode & 0o777 == 0o666 & ~umask
    arguments = ("good.pt", "--reference", "ref.json", "--load", "copy")
    assert verify(*arguments) == 0
    assert verify(*arguments, "--model-arg", "base=100.0") == 1
    out = capsys.readouterr().out
    assert "changed_reference\t-\t-\tfreq\tfloat32 [4] 1e-06..1\tfloat32 [4] 0.001..1\n" in out


# ------------------------------------------------------------------------------------------------- JSON

TOP = {
    "schema": str, "ok": bool, "path": str, "model": str, "class": str, "root": list, "mapping": str,
    "allow_cast": bool, "parameters": int, "persistent_buffers": int, "rebuilt": list, "random": list,
    "changed_reference": list, "notes": list, "runs": list, "suggestions": list,
}  # fmt: skip
RUN = {
    "device": str, "load": str, "decides": bool, "ok": (bool, type(None)), "matched": int, "total": int,
    "matched_nbytes": int, "total_nbytes": int, "missing": list, "unexpected": list, "mismatched": list,
    "lossy": list, "cast": list, "not_restored": list, "unfilled": list, "wrong": list, "untied": list,
    "unmoved": list, "seconds": float, "gb_per_second": (float, type(None)), "note": str, "hooked": list,
    "kept": list, "uncompared": list, "assigned_dtype": list, "errors": list,
}  # fmt: skip


def test_every_field_of_the_contract(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("run.pt", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == set(TOP)
    assert all(isinstance(document[name], kind) for name, kind in TOP.items())
    assert (document["schema"], document["root"]) == ("ckpttool/verify/1", ["model"])
    for run in document["runs"]:
        assert set(run) == set(RUN)
        assert all(isinstance(run[name], kind) for name, kind in RUN.items())


def test_the_contract_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "json.md").read_text("utf-8")
    section = page.partition("## verify")[2].partition("\n## ")[0]
    assert [name for name in (*TOP, *RUN) if f"`{name}" not in section] == []


def full() -> Verification:
    """Every list with something in it, and a name that tries to escape."""
    evil = "a\x1b[31m\u202e[red]"
    run = Run(
        "cpu", "copy", True, False, 3, 9, 100, 300,
        missing=(Missing("m", "parameter", 8, "random"), Missing("t", "parameter", 8, "tied")),
        unexpected=(evil,),
        mismatched=(Mismatched("s", (2, 3), ()),),
        lossy=(Lossy("l", "float32", "int64", 2, 1, "2.87", "2"),),
        cast=("c",),
        not_restored=tuple(NotRestored(f"layers.{i}.freq", "garbage", "NaN", "0..1") for i in range(24)),
        unfilled=("u",),
        wrong=(Wrong("w", "changed by the module's own loading code"),),
        untied=(("x", "y"),),
        unmoved=("p",),
        uncompared=("q",),
        errors=("While copying: no",),
        hooked=("h",),
        kept=("k",),
        note="a note",
    )  # fmt: skip
    warned = run._replace(load="to-empty", decides=False, errors=tuple(f"e{i}" for i in range(40)))
    return Verification(
        evil, "net.py:build", "net.Net", "'module.' taken off the file's names", ("built on cpu",), 5, 1,
        ("layers.0.freq",), ("noise",), (NotRestored("r", "changed", "now", "then"),), (run, warned),
        ("do this", "and that"), ("model", evil),
    )  # fmt: skip


@pytest.mark.parametrize("width", [40, 80, 200])
def test_everything_is_shown_escaped_and_within_the_width(width: int) -> None:
    lines = ["".join(span.text for span in line) for line in iter_verification(full(), width)]
    text = "\n".join(lines)
    assert lines[0].startswith("wrong on cpu")
    assert "\x1b" not in text
    assert "\u202e" not in text
    for wanted in (
        "2.87",
        "would stay random",
        "x = y",
        "noise",
        "a note",
        "→ do this",
        "module.",
        "… and 28",
    ):
        assert wanted in text, wanted
    if width >= 80:
        assert "layers.{0..23}.freq ×24" in text
        assert max(map(len, lines)) <= width or width == 80


def test_a_pipe_has_every_item_on_its_own_line() -> None:
    lines = list(iter_pipe(full()))
    assert sum(line.startswith("not_restored\tcpu\tcopy\tlayers.") for line in lines) == 24
    assert {line.count("\t") for line in lines} == {5}
    assert not any(character in line for line in lines for character in ("\x1b", "\u202e"))
    assert json.dumps(verify_document(full()))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (
            Plan(2048, 4096, 0, 0, "/tmp"),
            "model 2.00 KiB · one copy of it in memory",
        ),
        (Plan(2048, 4096, 1024, 0, "/tmp"), "1.00 KiB of the file, which cannot be mapped"),
        (Plan(2048, 4096, 0, 2048, "/scratch"), "round-trip writes 2.00 KiB below /scratch"),
    ],
)
def test_the_plan_in_a_line(plan: Plan, said: str) -> None:
    assert said in "".join(span.text for line in iter_plan(plan, 10_000) for span in line)
    for width in (60, 80):
        lines = ["".join(span.text for span in line) for line in iter_plan(plan, width)]
        assert max(map(len, lines)) <= width


def test_the_answer_on_a_terminal(folder: Path) -> None:
    here = str(Path(cli.__file__).parent.parent)
    arguments = ("verify", "good.pt", "--model", "net.py:build")
    text = on_terminal(*arguments, NO_COLOR="1", PYTHONPATH=here)
    shown = text.rpartition("\x1b[K")[2].splitlines()
    assert shown[0] == "loads correctly on cpu · 2 parameters, 0 persistent buffers byte-identical"
    assert any("! assign: 1 non-persistent buffer not restored" in line for line in shown)
    assert "copy on cpu" in text.partition("loads correctly")[0]
