"""The command as it is run: streams, exit statuses, terminals, pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpttool import __version__, cli
from ckpttool.commands import inspect as inspect_command
from ckpttool.values.errors import CkptToolError
from tests.support.programs import on_terminal, run

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


# ------------------------------------------------------------------------------------ exit and streams


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["-h"], 0),
        (["--help"], 0),
        (["--version"], 0),
        (["inspect", "-h"], 0),
        ([], 2),
        (["bogus"], 2),
        (["inspect"], 2),
        (["diff", "a", "b", "c"], 2),
        (["inspect", "a", "--bogus"], 2),
        (["inspect", "good.safetensors", "--sort", "colour"], 2),
        (["inspect", "good.safetensors", "--fail-on", "nan,colour"], 2),
        (["inspect", "good.safetensors", "--first", "-1"], 2),
        (["inspect", "good.safetensors", "--first", "²"], 2),
        (["inspect", "missing.pt"], 2),
        (["inspect", "good.safetensors"], 0),
        (["inspect", "good.safetensors", "--check"], 0),
        (["inspect", "good.safetensors", "--fail-on", "nan,inf,zero"], 0),
        (["inspect", "values.safetensors", "--fail-on", "nan"], 1),
        (["inspect", "values.safetensors", "--fail-on", "inf"], 0),
        (["inspect", "values.safetensors", "--fail-on", "zero"], 1),
        (["inspect", "values.safetensors", "--stats"], 0),
        (["inspect", "values.safetensors", "--exclude", "bad", "--fail-on", "nan"], 0),
        (["inspect", "values.safetensors", "--include", "[bg]*", "--fail-on", "nan", "--quiet"], 1),
        (["inspect", "good.safetensors", "--root", "nowhere"], 2),
        (["inspect", "good.safetensors", "--tensor", "nothing"], 2),
        (["inspect", "good.safetensors", "--tensor", "good"], 0),
    ],
)
def test_exit_status(
    files: Path,
    arguments: list[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    assert cli.main(arguments) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    if status == 2 and arguments:
        assert out == ""
        assert re.fullmatch(r"error: [^\n]+\n(hint:  [^\n]+\n)?", err)


def test_usage_errors_name_the_help_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["bogus"])
    cli.main(["inspect"])
    assert capsys.readouterr().err == (
        "error: no such command 'bogus'\nhint:  ckpttool --help\n"
        "error: missing argument 'CKPT'\nhint:  ckpttool inspect --help\n"
    )


def test_a_file_where_a_command_is_expected_is_inspected(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    (files / "diff").mkdir()  # a command all the same
    (files / "bogus").write_bytes((files / "values.safetensors").read_bytes())
    for arguments in (
        ["values.safetensors"],
        ["values.safetensors", "--json"],
        ["--flat", "./bogus"],
        ["bogus"],
    ):
        assert cli.main(["inspect", *arguments]) == 0
        inspected = capsys.readouterr()
        assert cli.main(arguments) == 0
        assert capsys.readouterr() == inspected
    assert cli.main(["diff"]) == 2
    assert "argument 'A'" in capsys.readouterr().err
    assert cli.main(["missing.safetensors"]) == 2
    assert capsys.readouterr().err == "error: missing.safetensors: no such file or directory\n"
    assert cli.main(["inspct"]) == 2
    assert "no such command 'inspct'. Did you mean 'inspect'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ckpttool {__version__}\n"


def test_findings_go_to_stderr_and_data_to_stdout(files: Path) -> None:
    result = run("inspect", files / "values.safetensors", "--fail-on", "nan")
    assert result.returncode == 1
    assert "error: bad: 1 of 2 values is NaN [value_nan]\n" in result.stderr
    assert "NaN" not in result.stdout


def test_quiet_says_nothing(files: Path) -> None:
    result = run("inspect", files / "values.safetensors", "--fail-on", "nan", "-q")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")


def test_json_is_one_document_and_nothing_else(files: Path) -> None:
    result = run("inspect", files / "values.safetensors", "--json", "--stats", "--check", "--fail-on", "zero")
    assert result.returncode == 1 and result.stderr == ""
    document = json.loads(result.stdout)
    stats = {entry["name"]: entry["stats"][0] for entry in document["entries"]}
    assert (stats["good"]["min"], stats["good"]["max"], stats["good"]["mean"]) == (1.0, 4.0, 2.5)
    assert stats["bad"]["nan"] == 1 and stats["zero"]["zero"] == 3
    assert {finding["name"] for finding in document["findings"] if finding["severity"] == "error"} == {"zero"}
    assert document["check"]["ok"] is True and document["check"]["conclusive"] is False


def test_a_flipped_bit(files: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pt"
    data = bytearray((files / "run.pt").read_bytes())
    document = json.loads(run("inspect", files / "run.pt", "--json").stdout)
    entry = next(entry for entry in document["entries"] if entry["name"] == "3.weight")
    data[entry["byte_offset"]] ^= 1
    damaged.write_bytes(data)
    assert run("inspect", files / "run.pt", "--check", "-q").returncode == 0
    result = run("inspect", damaged, "--check")
    assert result.returncode == 1
    assert "(holds 3.weight) [checksum]" in result.stderr
    assert run("inspect", damaged).returncode == 0  # nobody asked


def test_one_tensor(files: Path) -> None:
    weight = torch.load(files / "run.pt", weights_only=True)["model"]["3.weight"]
    result = run("inspect", files / "run.pt", "--tensor", "3.weight", "--json", "--first", "5")
    (entry,) = json.loads(result.stdout)["entries"]
    assert entry["root"] == ["model"]
    assert entry["first_values"] == weight.flatten()[:5].tolist()
    text = run("inspect", files / "run.pt", "--tensor", "model.3.weight", "--stats").stdout
    assert text.startswith("model.3.weight\n")
    assert f"{weight.min():.6g}" in text


def test_a_name_that_is_in_two_branches(files: Path) -> None:
    assert run("inspect", files / "run.pt", "--tensor", "optimizer.state[0].exp_avg").returncode == 0
    result = run("inspect", files / "run.pt", "--tensor", "exp_avg")
    assert result.returncode == 2
    assert "error: " in result.stderr and "'exp_avg' names 26 tensors" in result.stderr
    assert "hint:  say which: optimizer.state[0].exp_avg, " in result.stderr


def test_a_name_that_is_almost_right(files: Path) -> None:
    result = run("inspect", files / "run.pt", "--tensor", "3.weigth")
    assert "hint:  did you mean 3.weight" in result.stderr


# ----------------------------------------------------------------------------------- terminal and pipe


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_terminal_gets_lines_that_fit(files: Path, width: int) -> None:
    # Where a path is printed, it is not broken.
    text = on_terminal("inspect", "run.pt", width=width, folder=files)
    assert "\x1b[38;5;30mparameter" in text
    plain = ESCAPE.sub("", text)
    assert all(len(line) <= width for line in plain.splitlines())
    assert "{0..11}.weight ×12" in plain and "64×64" in plain and "epoch 3" in plain


def test_colour_is_never_the_only_carrier(files: Path) -> None:
    coloured = on_terminal("inspect", files / "run.pt")
    plain = on_terminal("inspect", files / "run.pt", NO_COLOR="1")
    assert "\x1b" not in plain
    assert ESCAPE.sub("", coloured) == plain
    assert on_terminal("inspect", files / "run.pt", TERM="dumb") == plain


def test_columns_is_honoured(files: Path) -> None:
    assert on_terminal("inspect", files / "run.pt", width=80, COLUMNS="200") == on_terminal(
        "inspect", files / "run.pt", width=200
    )


def test_a_progress_bar_is_wiped_out(files: Path) -> None:
    text = on_terminal("inspect", "run.pt", "--stats", "--check", folder=files)
    assert "\r\x1b[K" in text
    left = "\n".join(line.split("\r\x1b[K")[-1] for line in text.split("\n"))
    assert "/s" not in ESCAPE.sub("", left)


def test_a_pipe_gets_an_entry_a_line(files: Path) -> None:
    result = run("inspect", files / "run.pt", COLUMNS="20")
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    state = torch.load(files / "run.pt", weights_only=True)
    names = [fields[3] for fields in lines if fields[2] == "model"]
    assert names == list(state["model"])
    for fields in lines:
        if fields[2] == "model":
            tensor = state["model"][fields[3]]
            assert json.loads(fields[5]) == list(tensor.shape)
            assert int(fields[6]) == tensor.nbytes
            assert f"torch.{fields[4]}" == str(tensor.dtype)
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("options", [[], ["--json"], ["--globals"], ["-h"]])
def test_a_closed_pipe_is_quiet(files: Path, options: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-m", "ckpttool", "inspect", str(files / "run.pt"), *options],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(write)
    assert process.stderr == b""
    assert process.returncode == 141


def test_a_closed_stderr_is_survived(files: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-m", "ckpttool", "inspect", "missing"], stderr=write, check=False, timeout=60
    )
    os.close(write)
    assert process.returncode == 141


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_stream_that_cannot_say_a_name(tmp_path: Path, encoding: str) -> None:
    save_file({"гравити.é": torch.zeros(1)}, tmp_path / "n.safetensors")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    result = subprocess.run(
        [sys.executable, "-m", "ckpttool", "inspect", str(tmp_path / "n.safetensors")],
        capture_output=True,
        env=environment,
        check=True,
        timeout=60,
    )
    name = result.stdout.split(b"\t")[3].decode(encoding)
    assert name == "гравити.é" or name.startswith("\\u0433")


# --------------------------------------------------------------------------------------- hostile names


HOSTILE = [
    "[red]markup[/red]",
    "\x1b[31mred\x1b]0;title\x07",
    "line\nbreak\ttab\rreturn",
    "\u202eevil\u2066",
    "zero\u200bwidth\ufeff",
    "\ud800surrogate",
    "\x9bc1\x7f",
    "long" * 250_000,
    " ",
    "",
    "-",
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "\x1b[31m\u202ename\n"
    folder.mkdir()
    state = OrderedDict((name, torch.zeros(2)) for name in HOSTILE)
    tree = {name: name for name in HOSTILE} | {
        "\x1b[1mroot": state,
        "more": {"\x1b[2mroot": {"w": torch.ones(3)}},
    }
    torch.save(tree, folder / "hostile.pt")
    return folder / "hostile.pt"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--flat"],
        ["--json"],
        ["--stats", "--json"],
        ["--globals"],
        ["--check"],
        ["--tensor", "\x1b[31mred\x1b]0;title\x07"],
        ["--tensor", "no\x1b[31m"],
        ["--root", "no\x1b[31m"],
        ["--bogus\x1b[31m"],
        ["--sort", "\x1b[31m"],
        ["--fail-on", "\x1b[31m"],
        ["extra\x1b[31m"],
    ],
    ids=repr,
)
@pytest.mark.parametrize("terminal", [False, True])
def test_no_control_character_from_a_file_reaches_a_stream(
    hostile: Path,
    options: list[str],
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ckpttool.render.console.Screen.has_colour", False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert cli.main(["inspect", str(hostile), *options]) in (0, 2)
    out, err = capsys.readouterr()
    for line in (out + err).splitlines():
        assert line.replace("\t", "").isprintable()
    assert "\x1b" not in out + err
    if "--json" in options:
        assert [entry["name"] for entry in json.loads(out)["entries"]][: len(HOSTILE)] == HOSTILE
    elif not options:
        assert "[red]markup[/red]" in out
        assert ("  kind " in out) == terminal


@pytest.mark.parametrize(
    "content",
    [b"", b"\x1b[31m", b"<html>\x1b[31m</html>", b"PK\x03\x04\x1b[31m", bytes(range(256))],
)
def test_an_error_about_a_hostile_path(
    hostile: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hostile.parent / "no\x1b[31mcheckpoint"
    path.write_bytes(content)
    assert cli.main(["inspect", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and "\\x1b[31m\\u202ename\\x0a" in err
    assert all(line.isprintable() for line in err.splitlines())


# ---------------------------------------------------------------------------------------- the boundary


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            CkptToolError("what is\x1b wrong", path="p", hint="do\x1b this"),
            2,
            "error: p: what is\\x1b wrong\nhint:  do\\x1b this\n",
        ),
        (PermissionError(13, "Permission denied", "a\x1bb"), 2, "error: a\\x1bb: permission denied\n"),
        (OSError("odd"), 2, "error: odd\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 141, ""),
        (ValueError("bug\x1b"), 2, "internal error, please report: ValueError: bug\\x1b\n"),
        (RecursionError("deep"), 2, "internal error, please report: nesting too deep\n"),
        (MemoryError(), 2, "error: out of memory\n"),
        (AssertionError(), 2, "internal error, please report: AssertionError: \n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_line(
    error: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(inspect_command, "_open", fail)
    monkeypatch.delenv("CKPTTOOL_TRACEBACK")
    assert cli.main(["inspect", "x"]) == status
    assert capsys.readouterr() == ("", said)


def test_the_traceback_of_a_bug_is_shown_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("bug\x1b")

    monkeypatch.setattr(inspect_command, "_open", fail)
    monkeypatch.setenv("CKPTTOOL_TRACEBACK", "1")
    assert cli.main(["inspect", "x"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        "internal error, please report: ValueError: bug\\x1b\nTraceback (most recent call last):\n"
    )
    assert err.endswith("ValueError: bug\\x1b\n") and "\x1b" not in err


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc for what is loaded")
def test_an_interrupt_is_one_line(tmp_path: Path) -> None:
    save_file({f"w{index}": torch.ones(1 << 22) for index in range(24)}, tmp_path / "big.safetensors")
    process = subprocess.Popen(
        [sys.executable, "-m", "ckpttool", "inspect", str(tmp_path / "big.safetensors"), "--stats"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    time.sleep(0.1)
    while process.poll() is None and "numpy" not in Path(f"/proc/{process.pid}/maps").read_text("utf-8"):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
