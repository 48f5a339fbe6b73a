"""The Python API: cheap to import, the same answers as the commands, typed, and harmless to look at."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ckpttool
from ckpttool import cli
from ckpttool.values.verification import LOADS
from sample_models import linear_xavier, rotary_decoder, unregistered_tensor, write_demo

REPOSITORY = Path(__file__).resolve().parents[2]
VERBS = ("checkpoint", "convert", "diff", "lazy", "lint", "verify")
RESULTS = ("conversion", "difference", "lint", "verification")
MODULES = [f"ckpttool.api.{name}" for name in (*VERBS, *(f"results.{name}" for name in RESULTS))]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    for write in (
        write_demo.write_linear,
        write_demo.write_conv_twins,
        write_demo.write_decoder_training,
        write_demo.write_tied,
        write_demo.write_low_precision,
        write_demo.write_base_and_tuned,
    ):
        write(folder)
    return folder


# ------------------------------------------------------------------------------------------------ importing


def test_import_and_open_import_neither_torch_nor_numpy_nor_a_terminal(demo: Path) -> None:
    code = (
        "import sys, ckpttool; before = len(sys.modules)\n"
        "heavy = ('torch', 'numpy', 'typer', 'rich', 'safetensors')\n"
        "assert not [name for name in sys.modules if name.startswith('ckpttool.')]\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
        "found = ckpttool.open(sys.argv[1]); found.entries, found.to_dict()\n"
        "str(found), found._repr_html_()\n"
        "ckpttool.diff(sys.argv[1], sys.argv[1]); found.digest()\n"
        "found.convert(sys.argv[1] + '.safetensors', force=True)\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
    )
    path = os.fspath(demo / "linear.pt")
    subprocess.run([sys.executable, "-c", code, path], check=True, cwd=REPOSITORY)


def test_every_public_name_is_there_and_no_other() -> None:
    for name in ckpttool.__all__:
        assert getattr(ckpttool, name).__module__.startswith("ckpttool."), name
    assert set(ckpttool.__all__) <= set(dir(ckpttool))
    with pytest.raises(AttributeError, match="inspekt"):
        ckpttool.inspekt  # type: ignore[attr-defined]  # noqa: B018
    # A submodule of the same name would take the function's place as soon as anything imported it.
    for name in ckpttool.__all__:
        assert not (REPOSITORY / "ckpttool" / f"{name}.py").exists()
        assert not (REPOSITORY / "ckpttool" / name).exists()


@pytest.mark.slow
def test_a_script_that_uses_the_api_passes_mypy_strict(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import ckpttool\n"
        "import numpy as np\n"
        "import torch\n"
        "from torch import nn\n"
        "checkpoint: ckpttool.Checkpoint = ckpttool.open('a.pt', model=lambda: nn.Linear(1, 1))\n"
        "names: list[object] = [e.name for e in checkpoint.parameters if e.kind == 'parameter' and e.exact]\n"
        "tensor: torch.Tensor = checkpoint.tensor('weight')\n"
        "mean: np.floating = checkpoint.array('weight').mean()\n"
        "diff: ckpttool.Diff = checkpoint.diff('b.pt', only='buffers', atol=1e-6)\n"
        "same: bool = ckpttool.diff('a.pt', checkpoint).ok and diff.equal\n"
        "done: ckpttool.Conversion = checkpoint.convert('c.pt', dtype=torch.bfloat16, shared='fail')\n"
        "right: bool = checkpoint.verify(devices=['cpu'], loads=['copy']).ok\n"
        "codes = [finding.code for finding in ckpttool.lint(nn.Linear).findings]\n"
        "document: dict[str, object] = checkpoint.to_dict()\n"
        "try:\n"
        "    ckpttool.open('d.pt')\n"
        "except ckpttool.MalformedCheckpoint as error:\n"
        "    where: int | None = error.byte_offset\n"
        "ckpttool.convert('a.pt', 'b.pt', shared='maybe')\n"
        "checkpoint.diff(3)\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", os.fspath(script)],  # knows what `make types` has found
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    said = [line.partition("error: ")[2] for line in found.stdout.splitlines() if "script.py" in line]
    assert len(said) == 2, found.stdout
    assert 'Argument "shared" to "convert"' in said[0]
    assert 'incompatible type "int"; expected "str | PathLike[str] | Opened"' in said[1]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name: str, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    module: ModuleType = importlib.import_module(name)
    found = doctest.testmod(module, globs={"ckpttool": ckpttool})
    assert found.attempted >= 1
    assert found.failed == 0


# ------------------------------------------------------------------------------- the same as the commands


def document_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    cli.main([*map(str, arguments), "--json"])
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def as_json(document: dict[str, object]) -> object:
    return json.loads(json.dumps(document))


@pytest.mark.parametrize("name", ["linear.pt", "decoder_training.pt", "tied.safetensors", "low_precision.pt"])
def test_to_dict_is_the_document_of_inspect(
    name: str, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = ckpttool.open(demo / name)
    assert as_json(opened.to_dict()) == document_of(capsys, "inspect", demo / name)
    entries = opened.to_dict()["entries"]
    assert isinstance(entries, list) and len(entries) == len(opened.entries)
    for item, entry in zip(entries, opened.entries, strict=True):
        flat = entry._asdict()
        tied = flat.pop("tied_to")
        flat["tied_to"] = None if tied is None else {"root": list(tied[0]), "name": tied[1]}
        assert as_json(flat) == {field: as_json(item)[field] for field in flat}  # type: ignore[index]
    assert {*opened.parameters, *opened.buffers} <= set(opened.entries)
    assert as_json({"globals": [item._asdict() for item in opened.globals]}) == as_json(
        {"globals": opened.to_dict()["globals"]}
    )


def test_a_root_and_a_model_are_those_of_the_command(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = demo / "decoder_training.pt"
    opened = ckpttool.open(path, root="model")
    assert as_json(opened.to_dict()) == document_of(capsys, "inspect", path, "--root", "model")
    assert {entry.root for entry in opened.entries} == {("model",)}
    assert ckpttool.open(path, root=("model",)).entries == opened.entries

    text = "sample_models.rotary_decoder:build"
    document = document_of(capsys, "inspect", path, "--model", text, "--model-arg", "num_layers=2")
    opened = ckpttool.open(path, model=rotary_decoder.build, model_args={"num_layers": 2})
    assert as_json(opened.to_dict()) == document
    assert all(entry.exact for entry in opened.parameters if entry.root == opened.weights_root)


def test_diff_convert_verify_and_lint_give_the_documents_of_their_commands(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = demo / "base.pt", demo / "tuned.safetensors"
    diff = ckpttool.diff(a, b)
    assert as_json(diff.to_dict()) == document_of(capsys, "diff", a, b)
    assert ckpttool.open(a).diff(ckpttool.open(b)).to_dict() == diff.to_dict()
    assert diff.ok is diff.equal is False

    target = tmp_path / "a.safetensors"
    converted = ckpttool.open(a).convert(target, dtype=torch.float16, metadata={"by": "test"}).to_dict()
    command = ["convert", a, target, "--dtype", "fp16", "--metadata", "by=test", "--force"]
    assert as_json(converted) == document_of(capsys, *command)

    model = "sample_models.linear_xavier:build"
    verified = ckpttool.verify(demo / "linear.pt", linear_xavier.build, devices=["cpu"])
    expected = document_of(capsys, "verify", demo / "linear.pt", "--model", model, "--device", "cpu")
    found = as_json(verified.to_dict())
    assert isinstance(found, dict)
    for document in (found, expected):
        for run in document["runs"]:  # type: ignore[attr-defined]
            assert run.pop("seconds") > 0
            run.pop("gb_per_second")
    assert found == expected
    assert verified.ok and [run.load for run in verified.runs] == list(LOADS)

    linted = ckpttool.lint(unregistered_tensor.build)
    expected = document_of(capsys, "lint", "sample_models.unregistered_tensor:build")
    assert as_json(linted.to_dict()) == expected
    assert not linted.ok


def test_nothing_prints(demo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened = ckpttool.open(demo / "linear.pt", model=linear_xavier.build)
    results = [
        opened,
        opened.diff(demo / "linear.pt"),
        opened.convert(tmp_path / "linear.safetensors"),
        opened.verify(devices=["cpu"]),
        ckpttool.lint(linear_xavier.build),
    ]
    assert all(map(repr, results)) and all(map(str, results))
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------- tensors

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32,
    torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip


def test_tensors_and_arrays_are_what_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        state[name] = (torch.randn(3, 4) * 5).abs().to(dtype)
        state[f"{name}_t"] = state[name].t()
        state[f"{name}_scalar"] = state[name][0, 0].clone()
        state[f"{name}_empty"] = torch.empty(0, 4, dtype=dtype)
    torch.save(state, tmp_path / "all.pt")
    opened = ckpttool.open(tmp_path / "all.pt")
    for name, expected in state.items():
        tensor = opened.tensor(name)
        assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
        wide = torch.complex128 if expected.is_complex() else torch.float64
        assert torch.equal(tensor.to(wide), expected.to(wide)), name
        assert tensor.is_contiguous() and not tensor.requires_grad
        array = opened.array(name)
        assert array.shape == tuple(expected.shape)
        assert np.array_equal(array.astype(complex), tensor.to(torch.complex128).numpy()), name
    assert opened.array("int16").dtype == np.int16 and opened.array("bool").dtype == np.bool_
    assert opened.array("float64_t").dtype == np.float64 and opened.array("complex64").dtype == np.complex64
    entry = opened.entry("float32_t")
    assert torch.equal(opened.tensor(entry), state["float32_t"])
    opened.tensor("float32").zero_()  # memory of its own: the file is as it was
    assert torch.equal(opened.tensor("float32"), state["float32"])


def test_a_tensor_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (3,), check_invariants=True)
    huge = torch.ones(1).expand(1 << 40)
    torch.save({"sparse": sparse, "huge": huge, "meta": torch.ones(2, device="meta")}, tmp_path / "x.pt")
    opened = ckpttool.open(tmp_path / "x.pt")
    with pytest.raises(ckpttool.UnsupportedFeature, match="made of parts"):
        opened.tensor("sparse")
    with pytest.raises(ckpttool.LimitExceeded, match="claims"):
        opened.array("huge")
    with pytest.raises(ckpttool.UnsupportedFeature, match="meta"):
        opened.tensor("meta")
    with pytest.raises(ckpttool.CkptToolError, match="no tensor is called 'spars'") as failed:
        opened.tensor("spars")
    assert failed.value.hint == "did you mean sparse"


# ---------------------------------------------------------------------------------------- models and errors


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.register_buffer("mask", torch.ones(width), persistent=False)


def test_a_factory_at_hand_is_a_model(tmp_path: Path) -> None:
    torch.save(Net(5).state_dict(), tmp_path / "net.pt")
    opened = ckpttool.open(tmp_path / "net.pt", model=Net, model_args={"width": 5})
    assert [entry.name for entry in opened.buffers if entry.presence == "missing"] == ["mask"]
    assert opened.verify(devices=["cpu"], loads=["copy"]).ok
    assert not ckpttool.verify(tmp_path / "net.pt", Net, devices=["cpu"], loads=["copy"]).ok
    assert opened.verify(lambda: Net(5), devices=["cpu"], loads=["copy"]).model.endswith("<lambda>")
    model = ckpttool.open_model(Net, model_args={"width": 5})
    assert model.diff(opened, headers=True).equal
    assert {str(entry.kind) for entry in model.buffers} == {"non_persistent_buffer"}
    for ask in (lambda: model.convert(tmp_path / "x.pt"), lambda: model.verify()):
        with pytest.raises(ckpttool.CkptToolError, match="a model is not a file"):
            ask()


def test_a_module_in_place_of_a_factory_is_refused(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "net.pt")
    with pytest.raises(ckpttool.ModelImportFailed, match="exists already"):
        ckpttool.open(tmp_path / "net.pt", model=Net())
    with pytest.raises(ckpttool.ModelImportFailed, match="not something to call"):
        ckpttool.lint(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no model is named"):
        ckpttool.verify(tmp_path / "net.pt")


def test_a_path_never_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.chdir(tmp_path)
    for read in (
        lambda: ckpttool.open("net.py:build"),
        lambda: ckpttool.diff("net.py:build", "net.py:build"),
    ):
        with pytest.raises(FileNotFoundError):
            read()


def test_errors_are_those_of_the_tree(tmp_path: Path) -> None:
    (tmp_path / "not.pt").write_bytes(b"<html>")
    with pytest.raises(ckpttool.UnknownFormat) as failed:
        ckpttool.open(tmp_path / "not.pt")
    assert failed.value.path == os.fspath(tmp_path / "not.pt")
    torch.save(Net().state_dict(), tmp_path / "net.pt")
    for wrong in ({"dtype": "bf17"}, {"max_shard_size": "many"}, {"metadata": {"ckpttool.x": "1"}}):
        with pytest.raises(ValueError):
            ckpttool.convert(tmp_path / "net.pt", tmp_path / "x.safetensors", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot tell the format"):
        ckpttool.convert(tmp_path / "net.pt", tmp_path / "x.doc")
    with pytest.raises(ckpttool.DestinationExists):
        ckpttool.convert(tmp_path / "net.pt", tmp_path / "net.pt", force=True)
    with pytest.raises(ckpttool.CkptToolError, match="no branch"):
        ckpttool.open(tmp_path / "net.pt", root=("nowhere",))


# ------------------------------------------------------------------------------------------- how it shows


def test_a_result_is_neither_true_nor_false(demo: Path) -> None:
    diff = ckpttool.diff(demo / "linear.pt", demo / "linear.pt")
    with pytest.raises(TypeError, match=r"ask its \.ok"):
        bool(diff)


class Page(HTMLParser):
    """Collects tags and text, and refuses what a table has no use for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.rows = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"div", "style", "table", "thead", "tbody", "tr", "th", "td", "p", "span"}
        assert {name for name, _ in attrs} <= {"class", "style"}
        self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def page_of(shown: object) -> Page:
    html: str = shown._repr_html_()  # type: ignore[attr-defined]
    assert "://" not in html.partition("</style>")[0]
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def test_each_result_is_a_table_in_a_notebook(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened = ckpttool.open(demo / "decoder_training.pt")
    page = page_of(opened)
    assert "layers.{0..1}.self_attn.q_proj.weight" in page.text and "×2" in page.text  # folded
    assert page.rows > 10
    diff = page_of(ckpttool.diff(demo / "base.pt", demo / "tuned.safetensors"))
    assert "different:" in diff.text and diff.rows > 2
    verified = page_of(ckpttool.verify(demo / "linear.pt", linear_xavier.build, devices=["cpu"]))
    assert "loads correctly on cpu" in verified.text and verified.rows == 1 + len(LOADS)
    assert "linear.safetensors" in page_of(opened.convert("linear.safetensors")).text
    assert "gains[0]" in page_of(ckpttool.lint(unregistered_tensor.build)).text


HOSTILE = (
    "<script>alert(1)</script>",
    "a&b<img src=x onerror=alert(1)>",
    "esc\x1b[31m",
    "bidi\u202eevil",
    "\"quoted' name",
    "</td></table></div>",
)


def test_names_from_a_file_are_text_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "<b>bold.safetensors"
    save_file({name: torch.ones(2) for name in HOSTILE}, path, metadata={"<i>": "<u>\x1b"})
    opened = ckpttool.open(path)
    converted = opened.convert(tmp_path / "x.pt")
    for shown in (opened, opened.diff(tmp_path / "x.pt"), opened.diff(write_zeros(tmp_path)), converted):
        page = page_of(shown)
        for text in (page.text, str(shown), repr(shown)):
            assert not {"\x1b", "\u202e"} & set(text)
    page = page_of(opened)
    assert "<script>alert(1)</script>" in page.text  # as text
    assert "esc\\x1b[31m" in page.text and "bidi\\u202eevil" in page.text


def write_zeros(folder: Path) -> Path:
    save_file({name: torch.zeros(2) for name in HOSTILE}, folder / "zeros.safetensors")
    return folder / "zeros.safetensors"


def test_a_line_at_a_prompt_says_what_it_is(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    assert repr(ckpttool.open("linear.pt")).startswith(
        "<ckpttool.Checkpoint linear.pt: state_dict · torch zip"
    )
    assert repr(ckpttool.diff("linear.pt", "linear.pt")).startswith("<ckpttool.Diff identical: 2 tensors")


def test_a_long_table_ends(tmp_path: Path) -> None:
    state = {f"{'x' * (index % 97)}_{index}_{'y' * (index % 89)}": torch.ones(1) for index in range(1, 700)}
    torch.save(state, tmp_path / "many.pt")
    page = page_of(ckpttool.open(tmp_path / "many.pt"))
    assert page.rows <= 501
    assert "more rows" in page.text
