"""`--model M`: what is imported and built, and the one error that the user's own code can end in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ckpttool import cli
from ckpttool.api.models import names_model, read_model
from ckpttool.torch_bridge.model import ModelSource, import_model, parse_arguments
from ckpttool.values.errors import ModelImportFailed
from tests.support.warm import Warm

NET = """
import torch
from torch import nn
from torch.nn import Linear

class Net(nn.Module):
    def __init__(self, width=4, name="tiny"):
        super().__init__()
        self.fc = nn.Linear(width, 2)
        self.name = name
        self.register_buffer("mask", torch.ones(width), persistent=False)

def build(**arguments):
    return Net(**arguments)

class Family:
    @staticmethod
    def small():
        return Net(3)

made = Net()
number = 3
_private = Net
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    path = tmp_path / "some_net.py"
    path.write_text(NET)
    return str(path)


def write(tmp_path: Path, code: str, name: str = "broken_net.py") -> str:
    path = tmp_path / name
    path.write_text(code)
    return str(path)


def failure(text: str, *arguments: str) -> ModelImportFailed:
    with pytest.raises(ModelImportFailed) as caught:
        import_model(text, arguments).build()
    return caught.value


@pytest.mark.parametrize("factory", ["build", "Net", "Family.small"])
def test_a_function_a_class_and_what_is_inside_one_can_be_named(net: str, factory: str) -> None:
    assert type(import_model(f"{net}:{factory}").build()).__name__ == "Net"


def test_a_module_of_an_installed_package_can_be_named() -> None:
    model = import_model("torch.nn:Linear", ["in_features=3", "out_features=2", "bias=false"]).build()
    assert isinstance(model, nn.Linear) and model.bias is None


def test_arguments_are_json_else_strings() -> None:
    texts = [
        "depth=2",
        "rate=1e-3",
        "name=tiny",
        'quoted="3"',
        "on=true",
        "none=null",
        "list=[1,2]",
        "odd=a=b",
    ]
    assert parse_arguments(texts) == {
        "depth": 2,
        "rate": 1e-3,
        "name": "tiny",
        "quoted": "3",
        "on": True,
        "none": None,
        "list": [1, 2],
        "odd": "a=b",
    }


@pytest.mark.parametrize("text", ["depth", "=3", "a-b=3", ""])
def test_an_argument_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ModelImportFailed, match="is not key=value"):
        parse_arguments([text])


def test_light_is_on_meta_and_says_why_it_is_not(tmp_path: Path) -> None:
    module, note = import_model("torch.nn:Linear", ["in_features=3", "out_features=2"]).build_light()
    assert (module.weight.device.type, note) == ("meta", "")
    code = "import torch\ndef build():\n    return torch.nn.Linear(int(torch.arange(3).sum()), 2)\n"
    module, note = import_model(write(tmp_path, code) + ":build").build_light()
    assert module.weight.device.type == "cpu" and module.in_features == 3
    assert note.startswith("built on cpu: its constructor does not run on meta (RuntimeError: ")


def test_equal_seeds_give_equal_models_and_leave_the_generator_alone(net: str) -> None:
    source = import_model(f"{net}:build")
    state = torch.random.get_rng_state()
    one, other, third = (source.build(seed=seed).fc.weight for seed in (0, 0, 1))
    assert torch.equal(one, other) and not torch.equal(one, third)
    assert torch.equal(torch.random.get_rng_state(), state)


# ---------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("code", "said", "line"),
    [
        (
            "import not_a_package_of_anyone\n",
            "ModuleNotFoundError: No module named 'not_a_package",
            "import not_a",
        ),
        ("def build(:\n", "SyntaxError: ", ""),
        ("raise SystemExit(3)\n", "SystemExit: 3", "raise SystemExit(3)"),
        ("class Odd(BaseException): pass\nraise Odd('x')\n", "Odd: x", "raise Odd"),
        (
            "def build():\n    raise ValueError('no\\n weights')\n",
            "ValueError: no weights",
            "raise ValueError",
        ),
        ("def build():\n    exit()\n", "SystemExit", "exit()"),
        ("def build(depth):\n    pass\n", "TypeError: build() missing 1 required", ""),
        ("def build():\n    return build()\n", "RecursionError: ", "return build()"),
        (
            "import torch\ndef build():\n    return torch.nn.Linear(-1, 2)\n",
            "RuntimeError: ",
            "torch.nn.Linear(-1",
        ),
    ],
)
def test_what_the_users_code_raises_is_one_sentence_and_its_own_lines(
    tmp_path: Path, code: str, said: str, line: str
) -> None:
    error = failure(write(tmp_path, code) + ":build")
    assert said in str(error) and "\n" not in str(error)
    assert line in error.trace
    assert "torch_bridge" not in error.trace
    assert len(error.trace.splitlines()) <= 12


def test_a_missing_factory_lists_what_is_there(net: str) -> None:
    error = failure(f"{net}:biuld")
    assert str(error).endswith("some_net.py has no biuld")
    assert error.hint == "it has: build, Family, Net, Linear"  # the likely one, its own, no private ones


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{net}:made", "is a module that exists already"),
        ("{net}:number", "is an int, not something to call"),
        ("{net}:Family", "gives a Family, not an nn.Module"),
        ("{net}:Family.large", "has no Family.large"),
        ("{net}", "names no factory"),
        ("{net}:", "names no factory"),
        (":build", "names no factory"),
        ("nowhere/net.py:build", "no such file: nowhere/net.py"),
        ("no_such_package.net:build", "No module named 'no_such_package'"),
    ],
)
def test_what_is_no_factory_is_told(net: str, text: str, said: str) -> None:
    assert said in str(failure(text.format(net=net)))


def test_an_attribute_that_imports_when_it_is_looked_up_may_fail(tmp_path: Path) -> None:
    code = "def __getattr__(name):\n    raise ImportError(f'{name} needs a package')\n"
    assert "build needs a package" in str(failure(write(tmp_path, code, "lazy_net.py") + ":build"))


def test_a_file_called_like_a_library_takes_nobodys_place(tmp_path: Path) -> None:
    import inspect

    path = write(tmp_path, NET, "inspect.py")
    assert type(import_model(f"{path}:build").build()).__name__ == "Net"
    assert sys.modules["inspect"] is inspect


def test_a_file_that_failed_can_be_mended_and_tried_again(tmp_path: Path) -> None:
    path = write(tmp_path, "raise ValueError\n", "mended_net.py")
    failure(f"{path}:build")
    assert "mended_net" not in sys.modules
    write(tmp_path, NET + "\n# longer, so that no cached code is taken\n", "mended_net.py")
    assert import_model(f"{path}:build").build().fc.out_features == 2


def test_an_interrupt_is_not_the_users_error() -> None:
    def pressed() -> nn.Module:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        ModelSource("m", pressed, {}).build()

    def raised() -> nn.Module:
        raise KeyboardInterrupt

    with pytest.raises(ModelImportFailed, match=r"fails: KeyboardInterrupt\nhint: "):
        ModelSource("m", raised, {}).build()


# ---------------------------------------- on the command line


LOUD = """
import os, sys
print("importing")
sys.stdout.write("more\\n")
os.write(1, b"from below\\n")
os.system("echo a child")
from torch import nn
def build():
    print("building")
    return nn.Linear(2, 2)
"""


def test_what_the_users_code_prints_is_not_data(tmp_path: Path, warm: Warm) -> None:
    result = warm.run("-m", "ckpttool", "inspect", write(tmp_path, LOUD) + ":build", "--json")
    assert json.loads(result.stdout)["format"] == "model"
    for text in ("importing", "more", "from below", "a child", "building"):
        assert text in result.stderr


def test_a_failing_import_is_told_with_its_own_lines_and_exit_2(tmp_path: Path, warm: Warm) -> None:
    path = write(tmp_path, "def inner():\n    raise ValueError('bad \\x1b[31mred')\ninner()\n")
    environment = {**os.environ, "CKPTTOOL_TRACEBACK": "0"}
    result = warm.run("-m", "ckpttool", "inspect", f"{path}:build", env=environment)
    lines = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (2, "")
    assert lines[0].startswith(f"error: importing {path} fails: ValueError: bad \\x1b[31mred")
    assert any("in inner" in line for line in lines)
    assert "Traceback" not in result.stderr and "ckpttool/" not in result.stderr
    assert lines[-1].startswith("hint:  ")


def test_without_torch_one_line_says_so(tmp_path: Path) -> None:
    write(tmp_path, "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n", "torch.py")
    result = subprocess.run(
        [sys.executable, "-m", "ckpttool", "inspect", "sample_models.linear_xavier:build"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CKPTTOOL_TRACEBACK": "0", "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == (
        "error: a model needs torch, which cannot be imported: No module named 'torch'\n"
        "hint:  pip install torch\n"
    )


# ---------------------------------------- paths and models apart


@pytest.mark.parametrize(
    "text",
    ["net.py:build", "a/b c/net.py:Net", "pkg:build", "pkg.mod:Net.small", "/x/net.py:build", "pkg:_f"],
)
def test_a_colon_with_an_identifier_behind_it_names_a_model(text: str) -> None:
    assert names_model(text)


@pytest.mark.parametrize(
    "text",
    [
        "model.pt",
        "hf",
        "host:/path/x.pt",
        "C:/x/model.pt",
        "run:3.pt",
        "a/b:c.pt",
        "net.py",
        "net.py:",
        ":x",
        "",
    ],
)
def test_all_else_is_a_path(text: str) -> None:
    assert not names_model(text)


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_model("pkg:build")
    Path("pkg:build").write_bytes(b"")
    assert not names_model("pkg:build")


def test_hf_is_no_model_without_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "hf"]) == 2
    assert capsys.readouterr().err == "error: hf: no such file or directory\n"


def test_hf_needs_config_json_beside_the_checkpoint(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(ModelImportFailed, match="beside the checkpoint"):
        read_model("hf", checkpoint_path=str(tmp_path / "model.pt"))
    with pytest.raises(ModelImportFailed, match="needs a checkpoint"):
        read_model("hf")


def package(folder: Path, name: str = "net") -> Path:
    """A package whose module imports a sibling, its parent and the package by name; returns the module."""
    inner = folder / name / "inner"
    inner.mkdir(parents=True)
    (folder / name / "__init__.py").write_text("SIZE = 3\n")
    (inner / "__init__.py").write_text("")
    (inner / "layers.py").write_text("from torch import nn\nLayer = nn.Linear\n")
    (inner / "whole.py").write_text(
        f"from .layers import Layer\nfrom .. import SIZE\nimport {name}.inner.layers as again\n"
        "def build():\n    assert again.Layer is Layer\n    return Layer(SIZE, 2)\n"
    )
    return inner / "whole.py"


ALONE = "from torch import nn\ndef build():\n    return nn.Linear(1, 1)\n"


@pytest.mark.parametrize("relative", [False, True])
def test_a_file_inside_a_package_is_imported_as_a_module_of_it(
    tmp_path: Path, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"net_{relative}"
    path = package(tmp_path / "src", name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(path.parent)
    source = import_model(f"{path.name if relative else path}:build")
    assert source.factory.__module__ == f"{name}.inner.whole"
    assert source.build().weight.shape == (2, 3)
    assert str(tmp_path / "src") in sys.path


def test_the_init_file_of_a_package_is_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "netpack").mkdir()
    (tmp_path / "netpack" / "__init__.py").write_text("from .part import build\n")
    (tmp_path / "netpack" / "part.py").write_text(ALONE)
    assert import_model(f"{tmp_path}/netpack/__init__.py:build").factory.__module__ == "netpack.part"


@pytest.mark.parametrize("folder", ["v1.2", "my-models"])
def test_a_folder_that_cannot_be_named_in_an_import_is_no_package(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "__init__.py").write_text("raise RuntimeError('not to be run')\n")
    (tmp_path / folder / f"alone_{len(folder)}.py").write_text(ALONE)
    source = import_model(f"{tmp_path / folder}/alone_{len(folder)}.py:build")
    assert source.factory.__module__ == f"alone_{len(folder)}"


def test_a_package_of_a_name_that_is_taken_is_imported_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").write_text("")
    (tmp_path / "json" / "decoder.py").write_text(ALONE)
    assert isinstance(import_model(f"{tmp_path}/json/decoder.py:build").build(), torch.nn.Linear)


@pytest.mark.parametrize("name", ["four_ways_to_register", "conv_buffers"])
def test_the_sample_models_are_linted_by_their_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    command = [sys.executable, "-m", "ckpttool", "lint", f"sample_models/{name}.py:build", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    assert json.loads(done.stdout)["class"].startswith(f"sample_models.{name}.")
