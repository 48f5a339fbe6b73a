"""``ckpttool get``: values as a shell takes them, tensors as numpy, torch and safetensors read them back."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file

from ckpttool import cli
from ckpttool.render.numbers import number_json, number_text
from ckpttool.values.dtypes import BY_NAME
from tests.support.programs import on_terminal
from tools.terminal import run_on_terminal

ESCAPE = "a\tb\x1b[31m\u202e\nsecond"
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
    torch.complex128,
]  # fmt: skip
NO_NUMPY = {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("get")
    args = argparse.Namespace(
        lr=0.1, name="adam", betas=(0.9, 0.999), nested=argparse.Namespace(depth=[1, [2, 3]])
    )
    model = torch.nn.Linear(3, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    hyper = {
        "lr": 0.5,
        "text": ESCAPE,
        "flag": True,
        "none": None,
        "nan": float("nan"),
        "empty": {},
        "none_of": [],
    }
    kept = {"model": model.state_dict(), "args": args, "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(
        {**kept, "hyper_parameters": hyper, "a.b": 1, "a": {"b": 2}, "module": model}, folder / "run.pt"
    )
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        state[name] = (torch.randn(3, 4) * 5).abs().to(dtype)
        state[f"{name}.t"] = state[name].t()
        state[f"{name}.scalar"] = state[name][1, 1].clone()
    state["conj"], state["neg"] = state["complex64"].conj(), torch._neg_view(state["float32"])
    state["expanded"] = torch.arange(4.0).expand(3, 4)
    torch.save(state, folder / "state.pt")
    large = {f"layers.{number}.weight": torch.randn(16, 8) for number in range(6)}
    torch.save(large, folder / "large.pt")
    arguments = [
        "convert",
        str(folder / "large.pt"),
        str(folder / "shards"),
        "--max-shard-size",
        "1KiB",
        "-q",
    ]
    assert cli.main(arguments) == 0
    return folder


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ckpttool", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=60
    )


def get(folder: Path, *arguments: str) -> str:
    result = run("get", *arguments, cwd=folder)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout


def get_bytes(folder: Path, *arguments: str) -> bytes:
    command = [sys.executable, "-m", "ckpttool", "get", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, check=True, timeout=60
    ).stdout


def refused_on_terminal(*arguments: object) -> str:
    command = [sys.executable, "-m", "ckpttool", "get", *map(str, arguments)]
    status, text = run_on_terminal(command, width=100, environment={**os.environ, "TERM": "xterm-256color"})
    assert status == 2
    return text


# -------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("path", "printed"),
    [
        ("hyper_parameters.lr", "0.5"),
        ("hyper_parameters.flag", "true"),
        ("hyper_parameters.none", "null"),
        ("hyper_parameters.nan", "NaN"),
        ("hyper_parameters.empty", "{}"),
        ("hyper_parameters.none_of", "[]"),
        ("hyper_parameters.text", ESCAPE),
        ("args.name", "adam"),
        ("args.betas", "[0.9, 0.999]"),
        ("args.betas.1", "0.999"),
        ("args.betas[0]", "0.9"),
        ("args.nested.depth.1.0", "2"),
        ("args.nested", '{"depth": [1, [2, 3]]}'),
        ("optimizer.param_groups.0.lr", "0.001"),
        ("optimizer.param_groups[0].lr", "0.001"),
        ("module.in_features", "3"),
        (
            "model",
            '{"weight": {"dtype": "float32", "shape": [4, 3]}, "bias": {"dtype": "float32", "shape": [4]}}',
        ),
        ('["a.b"]', "1"),
        ("epoch", "3"),
        ("optimizer.state.0.step", "1.0"),
    ],
)
def test_a_value_is_printed_raw(folder: Path, path: str, printed: str) -> None:
    assert get(folder, "run.pt", path) == printed + "\n"


def test_a_value_as_json_and_as_a_file(folder: Path, tmp_path: Path) -> None:
    assert json.loads(get(folder, "run.pt", "hyper_parameters.text", "--as", "json")) == ESCAPE
    groups = json.loads(get(folder, "run.pt", "optimizer.param_groups"))
    assert groups[0]["params"] == [0, 1] and groups[0]["betas"] == [0.9, 0.999]
    assert get(folder, "run.pt", "hyper_parameters.text", "-o", str(tmp_path / "x.txt")) == ""
    assert (tmp_path / "x.txt").read_text("utf-8") == ESCAPE + "\n"
    assert get(folder, "optimizer.pt", "param_groups.0.lr") == "0.001\n"


def test_nothing_of_a_value_moves_a_terminal(folder: Path) -> None:
    shown = on_terminal("get", folder / "run.pt", "hyper_parameters.text").replace("\r\n", "\n")
    assert shown == "a\\x09b\\x1b[31m\\u202e\nsecond\n"
    assert "\x1b[31m" not in on_terminal("get", folder / "run.pt", "hyper_parameters", "--as", "json")


# -------------------------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("suffix", ["", ".t", ".scalar"])
@pytest.mark.parametrize("index", [None, "0:2,1:4:2", "...,-1"])
def test_a_tensor_is_what_torch_has(
    folder: Path, tmp_path: Path, dtype: torch.dtype, suffix: str, index: str | None
) -> None:
    name = str(dtype).removeprefix("torch.") + suffix
    whole = torch.load(folder / "state.pt", weights_only=True)[name]
    if index and whole.dim() == 0:
        return
    expected = whole if index is None else eval(f"whole[{index}]")
    options = [] if index is None else [f"--slice={index}"]
    wide = torch.complex128 if expected.is_complex() else torch.float64
    readers = {
        "pt": lambda path: torch.load(path, weights_only=True)[name],
        "safetensors": lambda path: load_file(path)[name],
    }
    for form, load in readers.items():
        if form == "safetensors" and dtype is torch.complex128:
            continue
        out = tmp_path / f"x.{form}"
        assert cli.main(["get", str(folder / "state.pt"), name, "-o", str(out), *options]) == 0
        found = load(out)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert torch.equal(found.to(wide), expected.to(wide))
    out = tmp_path / "x.npy"
    status = cli.main(["get", str(folder / "state.pt"), name, "-o", str(out), *options])
    assert status == (2 if dtype in NO_NUMPY else 0) and out.exists() == (status == 0)
    if status == 0:
        array = np.load(out)
        assert array.dtype == expected.numpy().dtype and np.array_equal(array, expected.numpy())
    out = tmp_path / "x.json"
    assert cli.main(["get", str(folder / "state.pt"), name, "-o", str(out), *options]) == 0
    listed = json.loads(out.read_text())
    if dtype.is_complex:
        back = torch.view_as_complex(torch.tensor(listed, dtype=torch.float64)).reshape(expected.shape)
        assert torch.equal(back.to(dtype), expected)
    else:
        back = torch.tensor(listed, dtype=torch.float64) if dtype.is_floating_point else torch.tensor(listed)
        assert torch.equal(back.to(dtype).to(wide), expected.to(wide))


@pytest.mark.parametrize("name", ["conj", "neg", "expanded"])
def test_lazy_flags_and_repeated_elements(folder: Path, name: str) -> None:
    expected = torch.load(folder / "state.pt", weights_only=True)[name]
    expected = expected.resolve_conj().resolve_neg()
    array = np.load(io.BytesIO(get_bytes(folder, "state.pt", name, "--as", "npy", "--slice", "1:,::2")))
    assert np.array_equal(array, expected[1:, ::2].numpy())
    saved = torch.load(io.BytesIO(get_bytes(folder, "state.pt", name, "--as", "pt")), weights_only=True)
    assert torch.equal(saved[name], expected)


def test_shards_are_one_checkpoint(folder: Path) -> None:
    large = torch.load(folder / "large.pt", weights_only=True)
    for name, expected in large.items():
        text = get(folder, "shards", name, "--slice", "3:5")
        assert np.array_equal(np.loadtxt(io.StringIO(text), dtype=np.float32), expected[3:5].numpy())
    data = get_bytes(folder, "shards", "layers.2.weight", "--as", "safetensors", "--slice", ":,::3")
    assert torch.equal(load_safetensors(data)["layers.2.weight"], large["layers.2.weight"][:, ::3])


def test_rows_of_a_pipe_are_what_numpy_loads(tmp_path: Path) -> None:
    cube = torch.randn(3, 4, 5)
    torch.save({"cube": cube, "none": torch.empty(2, 0)}, tmp_path / "cube.pt")
    text = get(tmp_path, "cube.pt", "cube")
    assert text.count("\n") == 3 * 4 + 2
    assert np.array_equal(np.loadtxt(io.StringIO(text), dtype=np.float32).reshape(3, 4, 5), cube.numpy())
    assert get(tmp_path, "cube.pt", "none") == ""
    assert json.loads(get(tmp_path, "cube.pt", "none", "--as", "json")) == [[], []]


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (400, 30), (7, 9, 11, 13), (1,), ()])
def test_a_terminal_has_the_brackets_of_numpy(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    torch.save({"w": torch.from_numpy(array.copy())}, tmp_path / "w.pt")
    lines = on_terminal("get", tmp_path / "w.pt", "w", width=300).replace("\r\n", "\n").split("\n")
    shown = "\n".join(line for line in lines if "elements" not in line).rstrip("\n")
    with np.printoptions(linewidth=300):
        assert shown == str(array)


def test_a_large_tensor_is_read_at_its_edges_only(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    sizes = [50_000, 500_000]
    header = {"w": {"dtype": "F32", "shape": sizes, "data_offsets": [0, 4 * sizes[0] * sizes[1]]}}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 4 * sizes[0] * sizes[1])  # 100 GB, and no block of it on the disk
    began = time.monotonic()
    assert get(tmp_path, path.name, "w", "--slice", "40:42,-3:") == "0.0\t0.0\t0.0\n" * 2
    assert "50000×500000 float32" in on_terminal("get", path, "w")
    assert get(tmp_path, path.name, "w", "--slice", "::10000,7") == "\t".join(["0.0"] * 5) + "\n"
    assert time.monotonic() - began < 10


def test_the_kind_of_a_parameter_is_kept(tmp_path: Path) -> None:
    torch.save({"w": torch.nn.Parameter(torch.randn(4, 4)), "b": torch.ones(2)}, tmp_path / "p.pt")
    assert cli.main(["get", str(tmp_path / "p.pt"), "w", "--slice", ":2", "-o", str(tmp_path / "w.pt")]) == 0
    assert type(torch.load(tmp_path / "w.pt", weights_only=True)["w"]) is torch.nn.Parameter


def test_a_tensor_of_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"s": torch.eye(3).to_sparse()}, tmp_path / "s.pt")
    assert cli.main(["get", str(tmp_path / "s.pt"), "s", "-o", str(tmp_path / "o.pt")]) == 0
    assert torch.equal(torch.load(tmp_path / "o.pt", weights_only=True)["s"].to_dense(), torch.eye(3))
    for options in (["--as", "json"], ["--as", "npy"], [], ["--slice", "0"]):
        assert cli.main(["get", str(tmp_path / "s.pt"), "s", *options]) == 2
        out, err = capsys.readouterr()
        assert out == "" and "parts" in err


@given(st.sampled_from(["float32", "float16", "bfloat16", "float64"]), st.integers(0, 2**64 - 1))
def test_digits_name_one_number_and_are_numpys_fewest(name: str, bits: int) -> None:
    dtype = getattr(torch, name)
    size = dtype.itemsize
    value = torch.frombuffer(bytearray(bits.to_bytes(8, "little")[:size]), dtype=dtype)[0]
    text = number_text(BY_NAME[name])(value.item())
    back = torch.tensor(float(text), dtype=torch.float64).to(dtype)
    assert torch.equal(back, value) or (back.isnan() and value.isnan())
    if value.isfinite():
        assert json.loads(number_json(BY_NAME[name])(value.item())) == float(text)
        if name == "float32" and abs(value.item()) > 1e-37:
            assert len(text.strip("-0.").split("e")[0].replace(".", "").strip("0")) <= len(
                np.format_float_scientific(value.numpy(), trim="-").split("e")[0].replace(".", "").strip("-0")
            )


# ------------------------------------------------------------------------------------- refusals and statuses


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run.pt"], "missing argument 'PATH'"),
        (["run.pt", "hyper_parameters.lrr"], "did you mean hyper_parameters.lr"),
        (["run.pt", "model.weigth"], "did you mean"),
        (["run.pt", "exp_avg"], "say which: optimizer.state[0].exp_avg"),
        (["run.pt", "a.b"], "spells 2 paths"),
        (["run.pt", "args.betas.9"], "is called 'args.betas.9'"),
        (["run.pt", "epoch", "--slice", "0"], "only a tensor has slices"),
        (["run.pt", "epoch", "--as", "npy"], "npy is for tensors"),
        (["run.pt", "weight", "--slice", "9"], "index 9 is out of range for dimension 0 of size 4"),
        (["run.pt", "weight", "--slice", "-5"], "index -5 is out of range"),
        (["run.pt", "weight", "--slice", "0,0,0"], "too many indices: 3 for 2 dimensions"),
        (["run.pt", "weight", "--slice", "::-1"], "steps of 1 and more"),
        (["run.pt", "weight", "--slice", "x"], "'x' is no index and no slice"),
        (["run.pt", "weight", "--as", "hdf5"], "hdf5 is not one of text, json, npy"),
        (["run.pt", "weight", "-o", "x.h5"], "cannot tell the format"),
        (["run.pt", "weight", "-o", "nowhere/x.npy"], "no such file"),
        (["run.pt", "weight", "-o", "folder/", "--as", "npy"], "names a folder"),
        (["run.pt", "weight", "-o", "shards", "--as", "pt"], "not a regular file"),
        (["run.pt", "weight", "-o", "run.pt", "--force"], "the source itself"),
        (["run.pt", "weight", "-o", "large.pt"], "already exists"),
        (["state.pt", "bfloat16", "--as", "npy"], "--as pt"),
        (["none.pt", "x"], "no such file"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(folder: Path, arguments: list[str], said: str) -> None:
    before = sorted(os.listdir(folder))
    result = run("get", *arguments, cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) <= 2
    assert sorted(os.listdir(folder)) == before


def test_force_replaces_and_a_terminal_gets_no_binary(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    out.write_text("old")
    assert cli.main(["get", str(folder / "run.pt"), "weight", "-o", str(out)]) == 2
    assert out.read_text() == "old"
    assert cli.main(["get", str(folder / "run.pt"), "weight", "-o", str(out), "--force"]) == 0
    assert np.load(out).shape == (4, 3) and os.listdir(tmp_path) == ["x.npy"]
    shown = refused_on_terminal(folder / "run.pt", "weight", "--as", "npy")
    assert "npy is binary, and stdout is a terminal" in shown and "-o FILE.npy" in shown


def test_a_hostile_shape_ends_at_once(tmp_path: Path) -> None:
    torch.save(
        {"huge": torch.ones(1).expand(1 << 40), "deep": torch.ones(1).expand(*[2] * 40)}, tmp_path / "h.pt"
    )
    for name in ("huge", "deep"):
        for form in ("text", "json", "npy"):
            result = run("get", "h.pt", name, "--as", form, cwd=tmp_path)
            assert result.returncode == 2 and "claims" in result.stderr
    assert "1.0 ..." in on_terminal("get", tmp_path / "h.pt", "huge")
    assert "elements to draw" in refused_on_terminal(tmp_path / "h.pt", "deep")
    assert get(tmp_path, "h.pt", "huge", "--slice", "1000000000000:1000000000002") == "1.0\t1.0\n"


@pytest.mark.parametrize(
    "arguments", [["epoch"], ["weight"], ["weight", "--as", "npy"], ["weight", "--as", "pt"]]
)
def test_neither_torch_nor_numpy_is_imported(folder: Path, arguments: list[str]) -> None:
    code = (
        "import sys; from ckpttool.cli import main; status = main(sys.argv[1:])\n"
        "names = ('torch', 'numpy', 'rich', 'safetensors', 'pydantic')\n"
        "print(status, [name for name in names if name in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "get", "run.pt", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=60)
    assert result.stderr.decode().splitlines()[-1] == "0 []"


# --------------------------------------------------------------------------------------- inspect --values


def test_values_of_a_checkpoint_by_path(folder: Path) -> None:
    lines = run("inspect", "run.pt", "--values", cwd=folder).stdout.splitlines()
    found = dict(line.split("\t") for line in lines)
    assert found["args.lr"] == "0.1" and found["args.betas"] == "[0.9, 0.999]"
    assert found["hyper_parameters.text"] == "a\\x09b\\x1b[31m\\u202e\\x0asecond"
    assert found["module.in_features"] == "3" and found["epoch"] == "3"
    document = json.loads(run("inspect", "run.pt", "--json", cwd=folder).stdout)
    named = {(*value["root"], value["name"]) for value in (*document["values"], *document["attributes"])}
    assert ("args", "lr") in named and len(named) == len(lines)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--values", "args.n*", "run.pt"], {"args.name", "args.nested.depth"}),
        (["run.pt", "--values", "args.nested*"], {"args.nested.depth"}),
        (["run.pt", "--values=epoch"], {"epoch"}),
        (["--root", "model", "--values", "epoch", "run.pt"], {"epoch"}),
        (["--values", "run.pt", "--quiet"], set()),
        (["--values", "--", "run.pt"], None),
        (["--values", "run.pt"], None),
        (["run.pt", "--values"], None),
        (["--values", "--sort", "name", "run.pt"], None),
    ],
    ids=lambda value: " ".join(sorted(value) if isinstance(value, set) else value or ["all"]),
)
def test_a_glob_may_stand_behind_values(folder: Path, arguments: list[str], names: set[str] | None) -> None:
    result = run("inspect", *arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    found = {line.split("\t")[0] for line in result.stdout.splitlines()}
    assert (
        found == names if names is not None else {"epoch", "args.lr", "optimizer.param_groups[0].lr"} < found
    )


def test_a_glob_that_fits_nothing(folder: Path) -> None:
    result = run("inspect", "run.pt", "--values", "hyperparameters.lr", cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert "no value matches 'hyperparameters.lr'" in result.stderr and "hyper_parameters.lr" in result.stderr


def test_each_name_is_suggested_once(folder: Path) -> None:
    torch.save({"lm_head.weight": torch.ones(2), "other.weight": torch.ones(2)}, folder / "names.pt")
    done = run("get", "names.pt", "lm_head.wieght", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.count("lm_head.weight") == 1
