"""Kinds from source by way of `open` and its document: named, chosen by `auto`, and never run."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import ckpttool
from ckpttool.api.opened import open_file
from tests.support.sourced import (
    BLOCKS,
    BUFFERS,
    MARK,
    MASKS,
    OTHER,
    STEPS,
    net_state,
    write_source,
    write_tiny,
)

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of a Net and its source, in the current folder; ``site`` beside it has what is installed."""
    folder, site = tmp_path / "here", tmp_path / "site"
    folder.mkdir()
    site.mkdir()
    write_tiny(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = set(sys.modules)
    yield folder
    ours = {"tiny", "other", "transformers", "diffusers", "timm", "modeling_tiny"}
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] in ours}
    assert not list(tmp_path.rglob(MARK))


def said(source: str | list[str], path: str = "net.safetensors") -> dict[str, Any]:
    return ckpttool.open(path, source=source).to_dict()


def buffers(document: dict[str, Any]) -> set[str]:
    return {entry["name"] for entry in document["entries"] if entry["kind"] == "persistent_buffer"}


def of_presence(document: dict[str, Any], presence: str) -> set[str]:
    return {entry["name"] for entry in document["entries"] if entry["presence"] == presence}


def codes(document: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in document["findings"] if finding["code"].startswith("source-")]


def root_of(document: dict[str, Any]) -> str:
    return str(document["sources"][0]["root"]) if "sources" in document else ""


# ------------------------------------------------------------------------------------------- named


@pytest.mark.parametrize("path", ["net.safetensors", "net.pt"])
@pytest.mark.parametrize(
    "source", ["./tiny", "tiny/blocks.py", "tiny/blocks.py:Net", "./tiny:Net", "./tiny:blocks.Net"]
)
def test_a_folder_a_file_and_a_class_say_the_same(here: Path, path: str, source: str) -> None:
    document = said(source, path)
    assert buffers(document) == BUFFERS
    assert of_presence(document, "missing") == STEPS
    assert of_presence(document, "possible") == MASKS
    assert document["summary"]["missing"] == len(STEPS)
    assert root_of(document).endswith("blocks.Net") and codes(document) == []
    by_name = {entry["name"]: entry for entry in document["entries"]}
    assert by_name["extra"]["kind"] == "unknown" and by_name["extra"]["basis"] == "none"
    for name in ("blocks.1.gate", "blocks.1.table", "blocks.1.steps", "blocks.1.mask"):
        entry = by_name[name]
        assert (entry["basis"], entry["exact"]) == ("source", False)
        source_said = entry["source"]
        assert source_said["class"].endswith("blocks.Block") and source_said["how"] == "class"
        assert source_said["candidates"] == 1 and source_said["file"].endswith("blocks.py")
        line = (here / "tiny" / "blocks.py").read_text().splitlines()[source_said["line"] - 1]
        assert name.rpartition(".")[2] in line
    assert by_name["embed.weight"]["source"]["class"] == "torch.nn.Embedding"
    assert by_name["embed.weight"]["source"]["file"] is by_name["embed.weight"]["source"]["line"] is None


def test_what_was_read_is_told(here: Path) -> None:
    [used] = said("./tiny")["sources"]
    assert {name: used[name] for name in ("package", "version", "files", "unread", "classes", "fits")} == {
        "package": "tiny",
        "version": "",
        "files": 2,
        "unread": 0,
        "classes": 2,
        "fits": 1.0,
    }
    assert Path(used["path"]).resolve() == here / "tiny"


def test_without_source_nothing_is_told(here: Path) -> None:
    document = ckpttool.open("net.safetensors").to_dict()
    assert "sources" not in document and not any("source" in entry for entry in document["entries"])
    assert not of_presence(document, "possible") and codes(document) == []


def test_of_several_each_is_read_and_one_has_the_root(here: Path) -> None:
    document = said(["./other", "./tiny"])
    assert [used["package"] for used in document["sources"]] == ["other", "tiny"]
    assert buffers(document) == BUFFERS and codes(document) == []


def test_bases_are_found_in_later_ones(here: Path) -> None:
    derived = "from tiny.blocks import Net\n\n\nclass Larger(Net):\n    pass\n"
    write_source(here, {"larger/__init__.py": derived})
    assert buffers(said(["./larger:Larger", "./tiny"])) == BUFFERS
    assert root_of(said(["./larger:Larger", "./tiny"])) == "larger.Larger"


def test_an_installed_package_goes_by_its_name_and_the_folder_here_does_not(here: Path) -> None:
    with pytest.raises(ckpttool.CkptToolError, match="no package 'tiny' is installed") as failed:
        said("tiny")
    assert "./tiny" in failed.value.hint
    write_source(here.parent / "site", {"installed_tiny/__init__.py": "", "installed_tiny/blocks.py": BLOCKS})
    assert root_of(said("installed_tiny")) == "installed_tiny.blocks.Net"
    assert buffers(said("installed_tiny.blocks:Net")) == BUFFERS


def test_the_wrong_package_is_said_to_be(here: Path) -> None:
    document = said("./other")
    assert codes(document) == ["source-root"] and root_of(document) == ""
    assert not of_presence(document, "missing") and not buffers(document)
    [finding] = [finding for finding in document["findings"] if finding["code"] == "source-root"]
    assert "other" in finding["message"] and finding["severity"] == "warning"


def test_both_sides_of_a_diff_have_the_kinds_of_inspect(here: Path) -> None:
    opened = [ckpttool.open(path, source="./tiny") for path in ("net.safetensors", "net.pt")]
    kinds = {entry.name: str(entry.kind) for entry in opened[0].entries if entry.presence == "present"}
    document = opened[0].diff(opened[1]).to_dict()
    assert document["equal"]
    assert {entry["name"]: entry["kind"] for entry in document["entries"]} == kinds
    assert document["summary"]["by_kind"]["persistent_buffer"] == {"equal": len(BUFFERS)}


@pytest.mark.parametrize(
    "source",
    ["", ".", "..", "nosuch", "./nosuch", "net.pt", "./tiny:Nett", "a b", "tiny:", ":Net", "\x1b[2J", "./\0"],
)
def test_what_is_no_source_is_an_error_in_one_sentence(here: Path, source: str) -> None:
    if source in (".", ".."):  # a folder like another
        assert said(source)
        return
    with pytest.raises(ckpttool.CkptToolError) as failed:
        said(source)
    assert "\n" not in str(failed.value) and "\x1b" not in str(failed.value)


# -------------------------------------------------------------------------------------------- auto


def config(folder: Path, value: object) -> None:
    (folder / "config.json").write_text(value if isinstance(value, str) else json.dumps(value))


def test_auto_without_anything_says_so(here: Path) -> None:
    document = said("auto")
    assert codes(document) == ["source-auto"] and "sources" not in document


def test_auto_finds_the_class_of_transformers(here: Path) -> None:
    write_source(
        here.parent / "site",
        {
            "transformers/__init__.py": "",
            "transformers/models/__init__.py": "",
            "transformers/models/tiny_net/__init__.py": "",
            "transformers/models/tiny_net/modeling.py": BLOCKS,
            "transformers/models/wrong/modeling.py": OTHER,
        },
    )
    config(here, {"architectures": ["Net"], "model_type": "tiny-net"})
    document = said("auto")
    assert buffers(document) == BUFFERS and of_presence(document, "missing") == STEPS
    assert root_of(document) == "transformers.models.tiny_net.modeling.Net"
    # A config.json that lies about its class: nothing of what it names is used.
    config(here, {"architectures": ["Encoder"], "model_type": "wrong"})
    lying = said("auto")
    assert codes(lying) == ["source-root"] and not buffers(lying)
    assert not any(entry["basis"] == "source" for entry in lying["entries"])


def test_auto_finds_the_class_of_diffusers(here: Path) -> None:
    write_source(here.parent / "site", {"diffusers/__init__.py": "", "diffusers/unet.py": BLOCKS})
    config(here, {"_class_name": "Net", "_diffusers_version": "1"})
    assert buffers(said("auto")) == BUFFERS


def test_auto_finds_timm(here: Path) -> None:
    write_source(here.parent / "site", {"timm/__init__.py": "", "timm/net.py": BLOCKS})
    config(here, {"architecture": "tiny_net_s"})
    assert buffers(said("auto")) == BUFFERS


def test_auto_finds_the_file_beside_the_checkpoint(here: Path) -> None:
    write_source(here, {"modeling_tiny.py": BLOCKS})
    config(
        here, {"architectures": ["Net"], "auto_map": {"AutoModel": "modeling_tiny.Net", "AutoConfig": "c.C"}}
    )
    assert buffers(said("auto")) == BUFFERS
    assert buffers(said("auto", str(here / "net.safetensors"))) == BUFFERS


def test_auto_asks_the_packages_of_a_pickle(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is pickled with a config of its package; that package is read, and not imported."""
    module = type(sys)("savedtiny")
    sys.modules["savedtiny"] = module
    exec("class Config:\n    pass\n", module.__dict__)
    module.Config.__module__ = "savedtiny"
    torch.save({"model": net_state(), "config": module.Config()}, here / "run.pt", pickle_module=pickle)
    del sys.modules["savedtiny"]
    assert codes(said("auto", "run.pt")) == ["source-auto"]
    write_source(here.parent / "site", {"savedtiny/__init__.py": "", "savedtiny/blocks.py": BLOCKS})
    document = said("auto", "run.pt")
    assert buffers(document) == BUFFERS and root_of(document) == "savedtiny.blocks.Net"
    assert "savedtiny" not in sys.modules


DEEP = '{"text_config": ' * 40 + "{}" + "}" * 40
HOSTILE: dict[str, object] = {
    "list": ["architectures"],
    "number": 3,
    "null": None,
    "broken": "{",
    "empty": "",
    "deep": DEEP,
    "too_deep": "[" * 100_000,
    "types": {"architectures": 3, "model_type": [], "auto_map": 7, "_class_name": {}, "architecture": None},
    "lists_of_lists": {"architectures": [[["Net"]]], "model_type": {"a": 1}},
    "empty_list": {"architectures": [], "model_type": "tiny"},
    "path": {"architectures": ["../../x"], "model_type": "../../tiny", "_class_name": "../x:Net"},
    "model_type_path": {"architectures": ["Net"], "model_type": "../../here/tiny"},
    "model_type_absolute": {"architectures": ["Net"], "model_type": "/etc"},
    "model_type_nul": {"architectures": ["Net"], "model_type": "a\0b"},
    "auto_map_path": {"auto_map": {"AutoModel": "../tiny/blocks.Net", "B": "/etc/passwd.Net"}},
    "auto_map_remote": {"auto_map": {"AutoModel": "someone/repo--modeling.Net"}},
    "auto_map_list": {"auto_map": {"AutoTokenizer": ["a.B", None]}},
    "auto_map_missing": {"auto_map": {"AutoModel": "nothing.Net"}},
    "surrogate": '{"architectures": ["\\ud800"], "model_type": "\\udfff", "_class_name": "\\ud800"}',
    "escape": {"architectures": ["\x1b[2J"], "model_type": "\u202e", "architecture": "\x1b"},
    "huge": {"architectures": ["N" * 500_000], "model_type": "t" * 400_000},
    "many": {
        "architectures": ["Net"],
        "model_type": "t",
        **{f"c{n}": {"model_type": f"m{n}"} for n in range(5000)},
    },
    "larger_than_is_read": '{"a": "' + "x" * (2 << 20) + '"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_names_nothing(here: Path, name: str) -> None:
    write_source(
        here.parent / "site", {"transformers/__init__.py": "", "timm/x.py": "", "timm/__init__.py": ""}
    )
    config(here, HOSTILE[name])
    document = said("auto")
    assert not any(entry["basis"] == "source" for entry in document["entries"])
    assert codes(document) in (["source-auto"], ["source-root"])
    assert not buffers(document)


def test_a_class_that_the_user_names_must_be_there_beside_auto(here: Path) -> None:
    write_source(here.parent / "site", {"diffusers/__init__.py": OTHER})
    config(here, {"_class_name": "Net"})
    assert codes(said("auto")) == ["source-root"]  # another version of it: no error
    assert buffers(said(["auto", "./tiny:Net"])) == BUFFERS
    with pytest.raises(ckpttool.CkptToolError, match="no class Nett"):
        said(["auto", "./tiny:Nett"])


def test_the_config_is_a_file_and_no_link_out_of_the_folder(here: Path) -> None:
    write_source(here.parent / "site", {"diffusers/__init__.py": BLOCKS})
    (here.parent / "elsewhere.json").write_text(json.dumps({"_class_name": "Net"}))
    (here / "config.json").symlink_to(here.parent / "elsewhere.json")
    assert codes(said("auto")) == ["source-auto"]
    os.unlink(here / "config.json")
    os.mkfifo(here / "config.json")
    assert codes(said("auto")) == ["source-auto"]


# ------------------------------------------------------------------------------------------ hostile


def test_names_of_files_are_escaped(here: Path) -> None:
    """A class is an identifier; the folder and the file that it lies in can be called anything."""
    name = "ev\x1b[31mil\u202e"
    write_source(here, {f"{name}/blocks.py": BLOCKS, f"{name}/un\x1b]0;x\x07.py": OTHER})
    found = ckpttool.open("net.safetensors", source=f"./{name}")
    assert found.to_dict()["sources"][0]["root"]
    text = str(found)
    assert "\x1b" not in text and "\u202e" not in text and "\x07" not in text
    done = subprocess.run(
        [sys.executable, "-m", "ckpttool", "inspect", "net.safetensors", "--source", f"./{name}", "--flat"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr and "\u202e" not in done.stdout + done.stderr


def test_source_that_cannot_be_read_is_counted(here: Path) -> None:
    write_source(here, {"tiny/broken.py": "class C(:", "tiny/huge.py": "x = 1\n" * 200_000})
    document = said("./tiny")
    assert document["sources"][0]["unread"] == 2 and buffers(document) == BUFFERS


ASKED = """
import sys
import ckpttool
found = ckpttool.open(sys.argv[1], source=sys.argv[2])
assert found.summary
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "numpy", "tiny", "safetensors"}))
"""


@pytest.mark.parametrize("path", ["net.safetensors", "net.pt"])
def test_nothing_is_imported_for_it(here: Path, path: str) -> None:
    """numpy comes where an entry is unknown for its source, to look at its contents; torch never."""
    write_source(here, {"sure/__init__.py": BLOCKS.replace("if causal:", "if True:")})
    done = subprocess.run(
        [sys.executable, "-c", ASKED, path, "./sure"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_source_and_selection(here: Path) -> None:
    inspection = open_file("net.safetensors", source=["./tiny"], include=["blocks.0.*"]).inspection
    assert {str(row.entry.name) for row in inspection.rows} == {"blocks.0.gate", "blocks.0.table"}
    assert inspection.sources[0].root == "tiny.blocks.Net"


def test_source_of_a_branch(here: Path) -> None:
    state = net_state()
    torch.save({"model": state, "ema": {f"module.{name}": value for name, value in state.items()}}, "two.pt")
    document = said("./tiny", "two.pt")
    assert buffers(document) == BUFFERS | {f"module.{name}" for name in BUFFERS}
    save_file({f"module.{name}": value for name, value in state.items()}, "wrapped.safetensors")
    wrapped = said("./tiny", "wrapped.safetensors")
    assert of_presence(wrapped, "missing") == {f"module.{name}" for name in STEPS}
