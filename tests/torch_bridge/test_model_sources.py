"""Where models come from: what an import puts into the paths, which file is which module, and ``hf``."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ckpttool.torch_bridge import model as room
from ckpttool.torch_bridge.model import ModelSource, import_model, parse_arguments, take_factory
from ckpttool.values.errors import ModelImportFailed

ALONE = "from torch import nn\ndef build(width=1):\n    return nn.Linear(width, 1)\n"


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Imports of a test are its own."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    yield
    for name in sys.modules.keys() - before.keys():
        del sys.modules[name]


def write(path: Path, code: str = ALONE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    return path


def failure(text: str, arguments: Any = (), **more: Any) -> tuple[str, str | None, str | None]:
    with pytest.raises(ModelImportFailed) as caught:
        import_model(text, arguments, **more)
    return caught.value.what, caught.value.path, caught.value.hint


# ------------------------------------------------------------------------------------------ paths


def test_the_folder_of_a_file_is_first_and_put_there_once(tmp_path: Path) -> None:
    path, before = write(tmp_path / "net_alone.py"), list(sys.path)
    for _ in range(2):
        assert import_model(f"{path}:build").factory.__module__ == "net_alone"
        assert sys.path == [str(tmp_path), *before]


def test_the_current_folder_is_first_for_a_module_and_put_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "net_here.py")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    for _ in range(2):
        assert import_model("net_here:build").factory.__module__ == "net_here"
        assert sys.path == [str(tmp_path), *before]


def test_a_package_s_root_is_first_and_the_folder_of_its_file_last(tmp_path: Path) -> None:
    for name in ("outer_pack", "outer_pack/inner"):
        write(tmp_path / name / "__init__.py", "")
    path, before = write(tmp_path / "outer_pack/inner/net.py"), list(sys.path)
    for _ in range(2):
        assert import_model(f"{path}:build").factory.__module__ == "outer_pack.inner.net"
        assert sys.path == [str(tmp_path), *before, str(path.parent)]
    assert room._package_of(str(path)) == (str(tmp_path), "outer_pack.inner.net")
    init = path.parent / "__init__.py"
    assert room._package_of(str(init)) == (str(tmp_path), "outer_pack.inner")
    assert room._package_of(str(tmp_path / "net.py")) == ("", "net")
    odd = write(tmp_path / "outer_pack/not-a-name/__init__.py", "").parent / "x.py"
    assert room._package_of(str(odd)) == ("", "x")


def test_a_name_that_is_taken_is_taken_by_another_file_only(tmp_path: Path) -> None:
    path = write(tmp_path / "json.py")
    assert import_model(f"{path}:build").factory.__module__ == "_json_of_the_user"
    assert sys.modules["json"] is json
    again = write(tmp_path / "net_twice.py")
    first = import_model(f"{again}:build").factory
    assert first.__module__ == "net_twice"
    assert import_model(f"{again}:build").factory is not first  # run anew, under the same name
    assert import_model(f"{again}:build").factory.__module__ == "net_twice"
    other = write(tmp_path / "sub/net_twice.py")
    assert import_model(f"{other}:build").factory.__module__ == "_net_twice_of_the_user"


def test_a_file_of_no_known_ending_is_no_module(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"net\.odd cannot be imported$"):
        room._import_alone(str(write(tmp_path / "net.odd")))


def test_a_file_that_fails_is_no_module(tmp_path: Path) -> None:
    path = write(tmp_path / "net_broken.py", "raise ValueError('no')\n")
    assert failure(f"{path}:build")[0] == f"importing {path} fails: ValueError: no"
    assert "net_broken" not in sys.modules


# ------------------------------------------------------------------------------------------ words


def test_what_names_no_model_is_refused_in_these_words(tmp_path: Path) -> None:
    path = write(
        tmp_path / "net_words.py", ALONE + "import torch\nmade = nn.ReLU()\nnumber = 3\nbuilder = build\n"
    )
    hint = "write package.module:factory, path/to/file.py:factory, or hf"
    for text in ("net.py", ":build", "net.py:", "", ":"):
        assert failure(text) == (f"{text} names no factory", None, hint)
    assert failure("nowhere.py:build") == (
        "no such file: nowhere.py", None, "name one as path/to/file.py:factory"
    )  # fmt: skip
    # The nearest first, then what the file defines, then what it imports.
    assert failure(f"{path}:buid") == (f"{path} has no buid", None, "it has: build, builder")
    empty = write(tmp_path / "net_empty.py", "x = 3\n_y = print\n")
    assert failure(f"{empty}:build") == (f"{empty} has no build", None, None)
    many = write(tmp_path / "net_many.py", "".join(f"def f{at:02}(): pass\n" for at in range(13)))
    assert failure(f"{many}:zzz")[2] == f"it has: {', '.join(f'f{at:02}' for at in range(12))}"
    assert failure(f"{path}:number") == (f"{path}:number is an int, not something to call", None, None)
    assert failure(f"{path}:made") == (
        f"{path}:made is a module that exists already, and it must be built anew more than once", None,
        "name the function or class that makes it",
    )  # fmt: skip
    with pytest.raises(ModelImportFailed) as caught:
        ModelSource("m", lambda: [1], {}).build()
    assert (caught.value.what, caught.value.hint) == (
        "m gives a list, not an nn.Module", "name a class or function that returns a module: FILE.py:build"
    )  # fmt: skip


def test_a_factory_at_hand_is_named_by_where_it_was_defined() -> None:
    assert take_factory(nn.Linear, ["in_features=2", "out_features=3"]) == ModelSource(
        "torch.nn.modules.linear:Linear", nn.Linear, {"in_features": 2, "out_features": 3}
    )

    class Calls:
        def __call__(self) -> nn.Module:
            return nn.ReLU()

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    found = take_factory(Calls())
    assert (found.text.rpartition(".")[2], found.arguments) == ("Calls", {})
    with pytest.raises(ModelImportFailed) as caught:
        take_factory(nn.Linear(1, 1))
    assert (
        caught.value.what
        == "Linear is a module that exists already, and it must be built anew more than once"
    )
    with pytest.raises(ModelImportFailed, match=r"^int is an int, not something to call$"):
        take_factory(3)


def test_arguments_are_parsed_or_taken_as_they_are() -> None:
    given = {"a": object()}
    taken = parse_arguments(given)
    assert taken == given and taken is not given
    assert parse_arguments(["a=1", "a=2", "b=", "c==", "d={"]) == {"a": 2, "b": "", "c": "=", "d": "{"}
    for argument in ("a", "1=2", "a.b=3", "=3", ""):
        with pytest.raises(ModelImportFailed) as caught:
            parse_arguments(["a=1", argument])
        assert caught.value.what == f"--model-arg {argument} is not key=value"


def test_a_model_is_built_light_or_with_the_reason_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[tuple[str, int]] = []

    def build() -> nn.Module:
        seeds.append((str(torch.get_default_device()), torch.initial_seed()))
        if torch.get_default_device().type == "meta":
            raise ValueError("needs\n values")
        return nn.Linear(2, 2)

    module, note = ModelSource("m", build, {}).build_light()
    assert (module.weight.device.type, note) == (  # type: ignore[union-attr]
        "cpu", "built on cpu: its constructor does not run on meta (ValueError: needs values)"
    )  # fmt: skip
    ModelSource("m", build, {}).build(seed=7)
    assert seeds == [("meta", 0), ("cpu", 0), ("cpu", 7)]
    light, none = ModelSource("m", nn.Linear, {"in_features": 1, "out_features": 1}).build_light()
    assert (light.weight.device.type, none) == ("meta", "")  # type: ignore[union-attr]

    def lists() -> Any:
        return [1] if torch.get_default_device().type == "meta" else nn.ReLU()

    assert (
        ModelSource("m", lists, {}).build_light()[1]
        == "built on cpu: its constructor does not run on meta ()"
    )


# ------------------------------------------------------------------------------------------ hf


class Loads:
    """What transformers' AutoConfig is asked for."""

    asked: list[Any] = []  # noqa: RUF012
    architectures: Any = None

    @classmethod
    def from_pretrained(cls, folder: str, **options: Any) -> Any:
        cls.asked.append((folder, options))
        return SimpleNamespace(architectures=cls.architectures)


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> Any:
    library: Any = ModuleType("transformers")
    library.AutoConfig = Loads
    library.Net = lambda config: nn.Linear(2, 2)

    def from_config(config: Any, **options: Any) -> nn.Module:
        assert options == {"trust_remote_code": False}
        return nn.Linear(2, 3)

    library.AutoModel = SimpleNamespace(from_config=from_config)
    monkeypatch.setitem(sys.modules, "transformers", library)
    monkeypatch.setattr(Loads, "asked", [])
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return library


@pytest.mark.parametrize(
    ("architectures", "out_features"),
    [(["Net"], 2), (["Unknown", "Net"], 2), (["Unknown"], 3), ([], 3), (None, 3)],
)
def test_hf_builds_the_first_architecture_that_is_known(
    architectures: Any, out_features: int, transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "config.json", "{}")
    monkeypatch.setattr(Loads, "architectures", architectures)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        source = import_model("hf", ["depth=2"], checkpoint_path=str(path))
        assert source.text == "hf" and source.arguments == {"depth": 2}
        built = source.build()
        assert isinstance(built, nn.Linear) and built.out_features == out_features
    wanted = {"local_files_only": True, "trust_remote_code": False, "depth": 2}
    assert Loads.asked == [(str(tmp_path), wanted)] * 2
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_hf_needs_a_checkpoint_its_config_and_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failure("hf") == ("hf needs a checkpoint: its config.json is looked for beside it", None, None)
    none = ("hf needs a config.json beside the checkpoint", str(tmp_path), "or name a factory yourself")
    assert failure("hf", checkpoint_path=str(tmp_path / "model.pt")) == none
    assert failure("hf", checkpoint_path=str(tmp_path)) == none
    monkeypatch.chdir(tmp_path)
    assert failure("hf", checkpoint_path="model.pt") == (none[0], ".", none[2])
    write(tmp_path / "config.json", "{}")
    plain = importlib.import_module

    def without(name: str, package: str | None = None) -> ModuleType:
        if name == "transformers":
            raise ModuleNotFoundError(name)
        return plain(name, package)

    monkeypatch.setattr(room.importlib, "import_module", without)
    assert failure("hf", checkpoint_path="model.pt") == (
        "hf needs transformers", None, "pip install 'ckpttool[hf]'"
    )  # fmt: skip
