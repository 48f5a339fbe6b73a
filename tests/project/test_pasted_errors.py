"""The errors that users paste, and what `inspect` says of a file that causes them.

A row builds the file, provokes the error with the library that raises it (where a file and a CPU are
enough for that), and then reads what `inspect` says: it must name the cause, and the commands that it
ends in must run as they are printed. Where a command mends the file, the row loads what it wrote.
docs/errors.md is this table for people.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import pathlib
import re
import shlex
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ckpttool import cli
from sample_models.same_bytes import save_legacy

ROOT = Path(__file__).parents[2]

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.register_buffer("running_max", torch.zeros((), dtype=torch.int64))
        self.register_buffer("index", torch.arange(4), persistent=False)
        self.register_buffer("some_state", None)
"""


def weights() -> dict[str, Any]:
    return {"fc.weight": torch.ones(4, 3), "fc.bias": torch.zeros(4)}


def net_state() -> dict[str, Any]:
    return {**weights(), "running_max": torch.tensor(2)}


class Net(nn.Module):
    """What `MODEL` is, for loading into it here."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.register_buffer("running_max", torch.zeros((), dtype=torch.int64))
        self.register_buffer("some_state", None)


class Row(NamedTuple):
    """``number`` is the need; ``pasted`` occurs in the error, ``cause`` are words that `inspect` must say.

    ``build`` writes the file and returns what to inspect; ``provoke`` raises the error, ``heals`` loads what
    the conversion wrote. ``following`` is how each printed command begins; MODEL stands for the model.
    """

    number: int
    pasted: str
    build: Callable[[Path], Path]
    cause: tuple[str, ...]
    following: tuple[str, ...] = ()
    provoke: Callable[[Path], object] | None = None
    heals: Callable[[Path], object] | None = None
    with_model: bool = False


def saved(
    value: Callable[[], Any], name: str = "model.pt", save: Callable[..., None] = torch.save
) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        save(value(), folder / name)
        return folder / name

    return build


def written(data: bytes, name: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return build


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def strictly(make: Callable[[], nn.Module]) -> Callable[[Path], object]:
    def into(path: Path) -> object:
        state = load_file(path) if path.suffix == ".safetensors" else load(path)
        return make().load_state_dict(state)

    return into


def save(path: Path) -> None:
    save_file(load(path), path.with_suffix(".other.safetensors"))


class Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(8, 4)


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()


class Clip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text_model = Text()


def clip_state() -> dict[str, Any]:
    ids = torch.arange(512)[None]
    return {"text_model.embeddings.position_ids": ids, **Clip().state_dict()}


@contextlib.contextmanager
def module_of(name: str, **members: Any) -> Iterator[None]:
    """A module that is there while a file is written, and not when it is read."""
    parents = [".".join(name.split(".")[: depth + 1]) for depth in range(name.count(".") + 1)]
    for each in parents:
        sys.modules[each] = types.ModuleType(each)
    for key, member in members.items():
        member.__module__, member.__qualname__ = name, key
        setattr(sys.modules[name], key, member)
    try:
        yield
    finally:
        for each in parents:
            del sys.modules[each]


def lightning(folder: Path) -> Path:
    class ListConfig(list[int]):
        pass

    with module_of("omegaconf.listconfig", ListConfig=ListConfig):
        value = {"state_dict": weights(), "hyper_parameters": {"layers": ListConfig([1, 2])}}
        return saved(lambda: value, "last.ckpt")(folder)


def whole_module(folder: Path) -> Path:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 4)
            self.folder = pathlib.PurePosixPath("/data")

    with module_of("models", Whole=Whole):
        return saved(Whole, "whole.pt")(folder)


def unpickle(path: Path) -> object:
    return torch.load(path, weights_only=False)


def tied() -> dict[str, Any]:
    weight = torch.ones(8, 4)
    return {"wte.weight": weight, "lm_head.weight": weight}


def on_cuda_5(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", lambda storage: "cuda:5")
        return saved(weights)(folder)


def cut(folder: Path) -> Path:
    path = saved(lambda: {"w": torch.zeros(256, 256)})(folder)
    path.write_bytes(path.read_bytes()[:150_000])
    return path


def cut_small(folder: Path) -> Path:
    path = saved(lambda: {"w": torch.zeros(64, 64)})(folder)
    path.write_bytes(path.read_bytes()[:-30])
    return path


def cut_safetensors(folder: Path) -> Path:
    path = safetensors(folder)
    path.write_bytes(path.read_bytes()[:-8])
    return path


def safetensors(folder: Path) -> Path:
    save_file(weights(), folder / "model.safetensors")
    return folder / "model.safetensors"


def shard_missing(folder: Path) -> Path:
    save_file({"a": torch.ones(2)}, folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = {"metadata": {"total_size": 16}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def no_counter() -> dict[str, Any]:
    state = nn.Sequential(nn.BatchNorm1d(3)).state_dict()
    del state["0.num_batches_tracked"]
    return state


def trained(*widths: int) -> dict[str, Any]:
    """Weights of one layer beside the optimizer of all layers."""
    layers = [nn.Linear(first, second) for first, second in itertools.pairwise(widths)]
    optimizer = torch.optim.Adam(nn.Sequential(*layers).parameters())
    nn.Sequential(*layers)(torch.ones(widths[0])).sum().backward()
    optimizer.step()
    return {"model": layers[0].state_dict(), "optimizer": optimizer.state_dict()}


def restore_optimizer(path: Path) -> None:
    torch.optim.Adam(nn.Linear(3, 4).parameters()).load_state_dict(load(path)["optimizer"])


def adapter() -> dict[str, Any]:
    return {f"base_model.model.q_proj.lora_{side}.weight": torch.ones(4, 4) for side in "AB"}


def has_default(path: Path) -> None:
    assert set(load_file(path)) == {f"base_model.model.q_proj.lora_{side}.default.weight" for side in "AB"}


def scripted(folder: Path) -> Path:
    torch.jit.script(nn.Linear(3, 4)).save(folder / "model.pt")
    return folder / "model.pt"


def weight_norm() -> nn.Module:
    return nn.utils.weight_norm(nn.Linear(3, 4))


def has_format(path: Path) -> None:
    with safe_open(path, "pt") as file:
        assert file.metadata().get("format") == "pt"


CONVERT, VERIFY, GLOBALS = "ckpttool convert", "ckpttool verify", "ckpttool inspect"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 4265146304\n"
PAGE = b"<!DOCTYPE html><html><head><title>Quota exceeded</title></head></html>"

ROWS = [
    Row(1, "index 1841 is out of bounds", saved(net_state),
        ("1 non-persistent buffer not stored, by design",),
        (VERIFY,), with_model=True),
    Row(2, 'Unexpected key(s) in state_dict: "text_model.embeddings.position_ids"', saved(clip_state),
        ("position_ids", "rebuilt by newer versions of the library", "not saved since 4.31"),
        (f"{CONVERT} {{path}} {{stem}}.safetensors --drop-known-buffers",),
        strictly(Clip), strictly(Clip)),
    Row(3, 'Missing key(s) in state_dict: "fc.bias"',
        saved(lambda: {"fc.weight": torch.ones(4, 3), "running_max": torch.tensor(2)}),
        ("1 parameter of the model (fc.bias) is not in the file", "keeps what the constructor draws"),
        (VERIFY,), strictly(Net), with_model=True),
    Row(4, 'Unexpected key(s) in state_dict: "_orig_mod.module.fc.weight"',
        saved(lambda: {f"_orig_mod.module.{name}": value for name, value in net_state().items()}),
        ("_orig_mod.module. (torch.compile around DataParallel", "in front of 3 of 3 names"),
        (f"{CONVERT} {{path}} {{stem}}.safetensors --strip-prefix auto", VERIFY),
        strictly(Net), strictly(Net)),
    Row(5, "Weights only load failed", lightning,
        ("torch.load(weights_only=True) refuses it because of omegaconf.listconfig.ListConfig",),
        (f"{CONVERT} {{path}} {{stem}}.safetensors", f"{GLOBALS} {{path}} --globals"), load, load_file),
    Row(6, "Some tensors share memory", saved(tied), ("lm_head.weight = wte.weight",),
        (f"{CONVERT} {{path}} {{stem}}.safetensors",), save, load_file),
    Row(8, "All keys matched", saved(lambda: {**weights(), "running_max": torch.tensor(2.87)}),
        ("running_max", "is float32 in the file and int64 in the model", "casts without a word"),
        (VERIFY,), with_model=True),
    Row(10, "mmap can only be used with files saved with",
        saved(weights, save=save_legacy),
        ("pre-1.6 file layout", "torch cannot memory-map it"),
        (f"{CONVERT} {{path}} {{stem}}.safetensors",),
        lambda path: torch.load(path, mmap=True, weights_only=True), load_file),
    Row(11, "Unsupported operand 118", written(POINTER, "model.pt"),
        ("git-lfs pointer, not a checkpoint: 135 bytes that stand for 4,265,146,304",
         "git lfs pull --include model.pt"), (), load),
    Row(11, "header too large", written(POINTER, "model.safetensors"),
        ("git-lfs pointer", "git lfs pull --include"), (), load_file),
    Row(11, "Unsupported operand 60", written(PAGE, "model.bin"),
        ("HTML page with the title 'Quota exceeded'", "download it again"), (), load),
    Row(11, "incomplete metadata, file not fully covered", cut_safetensors,
        ("8 of 64 data bytes missing", "download or copy it again"), (), load_file),
    Row(11, "", written(b"", "model.pt"), ("empty file (0 bytes)", "make the file again"), (), load),
    Row(14, "'NoneType' object has no attribute 'get'", safetensors, ("does not say format=pt",),
        (f"{CONVERT} {{path}} {{stem}}.new.safetensors",),
        lambda path: safe_open(path, "pt").metadata().get("format"), has_format),
    Row(16, 'Missing key(s) in state_dict: "0.num_batches_tracked"', saved(no_counter),
        ("0.running_mean", "without num_batches_tracked", "strict=False"), (VERIFY,),
        strictly(lambda: nn.Sequential(nn.BatchNorm1d(3)))),
    Row(17, "Key `epoch` is invalid, expected torch.Tensor but received <class 'int'>",
        saved(lambda: {"epoch": 3, **weights()}), ("epoch",),
        (f"{CONVERT} {{path}} {{stem}}.safetensors --weights-only",), save, load_file),
    Row(17, "Key `model` is invalid", saved(lambda: {"model": weights(), "epoch": 3}),
        ("model", "← weights", "epoch 3"),
        (f"{CONVERT} {{path}} {{stem}}.safetensors --weights-only",), save, load_file),
    Row(20, "Attempting to deserialize object on", on_cuda_5,
        ("2 storages were saved on cuda:5", 'map_location="cpu"'),
        (f"{CONVERT} {{path}} {{stem}}.safetensors",), load, load_file),
    Row(21, "copying a param with shape torch.Size([0]) from checkpoint",
        saved(lambda: {"fc.weight": torch.empty(0), "fc.bias": torch.empty(0)}),
        ("of shape [0], as ZeRO-3 leaves them", "python zero_to_fp32.py . OUTPUT"), (), strictly(Net)),
    Row(22, "No module named 'models'", whole_module, ("unpickling needs models", "whole pickled module"),
        (f"{CONVERT} {{path}} {{stem}}.safetensors", f"{GLOBALS} {{path}} --globals"), unpickle,
        strictly(lambda: nn.ModuleDict({"fc": nn.Linear(3, 4)}))),
    Row(23, "non contiguous", saved(lambda: {"w": torch.ones(4, 3).t()}), ("not contiguous", "packs the"),
        (f"{CONVERT} {{path}} {{stem}}.safetensors",), save, load_file),
    Row(23, "complex128", saved(lambda: {"c": torch.ones(3, dtype=torch.complex128)}),
        ("a dtype that safetensors does not have (complex128)",),
        (f"{CONVERT} {{path}} {{stem}}.safetensors --as-bytes",), save, load_file),
    Row(24, "model-00002-of-00002.safetensors", shard_missing,
        ("1 of 2 shards missing: model-00002-of-00002.safetensors", "download or copy them again",
         "ckpttool inspect"), (), lambda path: load_file(path / "model-00002-of-00002.safetensors")),
    Row(26, 'Unexpected key(s) in state_dict: "_extra_state"',
        saved(lambda: {**net_state(), "_extra_state": torch.zeros(2, dtype=torch.uint8)}),
        ("_extra_state", "calls it unexpected"),
        (f"{CONVERT} {{path}} {{stem}}.safetensors --drop '*_extra_state'",), strictly(Net), strictly(Net)),
    Row(26, "Key `core._extra_state` is invalid",
        saved(lambda: {**weights(), "core._extra_state": io.BytesIO(b"x")}),
        ("core._extra_state (_io.BytesIO)", "safetensors cannot keep it"),
        (f"{CONVERT} {{path}} {{stem}}.safetensors --drop '*_extra_state'", f"{GLOBALS} {{path}} --globals"),
        lambda path: save_file(unpickle(path), path.with_suffix(".x")), load_file),  # type: ignore[arg-type]
    Row(27, '"parametrizations.weight.original0"',
        saved(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)).state_dict()),
        ("parametrizations.weight_norm names it", "weight_g"),
        (f"{CONVERT} {{path}} {{stem}}.safetensors --rename", VERIFY), strictly(weight_norm),
        strictly(weight_norm)),
    Row(30, 'Unexpected key(s) in state_dict: "some_state"',
        saved(lambda: {**net_state(), "some_state": torch.ones(3)}),
        ("some_state", "registered as None until something is assigned"),
        (f"{CONVERT} {{path}} {{stem}}.safetensors --drop some_state", VERIFY), strictly(Net), strictly(Net),
        with_model=True),
    Row(32, "doesn't match the size", saved(lambda: trained(3, 4, 2)),
        ("2 tensors", "Adam, 4 parameters"), (f"{CONVERT} {{path}} {{stem}}.safetensors --weights-only",),
        restore_optimizer, strictly(lambda: nn.Linear(3, 4))),
    Row(33, "", saved(adapter), ("saved without an adapter name", "lora_A.default.weight"),
        (f"{CONVERT} {{path}} {{stem}}.safetensors --rename",), heals=has_default),
    Row(34, "Cannot use ``weights_only=True`` with TorchScript archives", scripted, ("TorchScript",),
        (f"{CONVERT} {{path}} {{stem}}.safetensors",), load, strictly(lambda: nn.Linear(3, 4))),
    Row(35, 'Unexpected key(s) in state_dict: "metric.bin_boundaries"',
        saved(lambda: {**net_state(), "metric.bin_boundaries": torch.ones(3)}),
        ("metric.bin_boundaries", "in the file and not in the model"),
        (f"{CONVERT} {{path}} {{stem}}.safetensors --drop metric.bin_boundaries", VERIFY), strictly(Net),
        strictly(Net), with_model=True),
    Row(36, "failed finding central directory", cut, ("zip cut at byte 150000", "was interrupted"), (), load),
    # What torch 2.13 says of the same where the file has less than 64 KiB.
    Row(36, "[Errno 22] Invalid argument", cut_small, ("no central directory", "was interrupted"), (), load),
]  # fmt: skip

# needs without an error to paste, or whose error no file of the user causes: docs/errors.md says what to do.
ELSEWHERE = {7, 9, 12, 13, 15, 18, 19, 25, 28, 29, 31}


def test_every_need_has_a_row_or_a_reason() -> None:
    assert {row.number for row in ROWS} | ELSEWHERE == set(range(1, 37))
    assert not {row.number for row in ROWS} & ELSEWHERE


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number}-{row.pasted[:24]}")
@pytest.mark.filterwarnings("ignore")  # torch warns about what these files are made of
def test_inspect_names_the_cause_and_the_next_command(
    row: Row, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    path = row.build(tmp_path).relative_to(tmp_path)
    if row.provoke is not None:
        with pytest.raises(Exception) as raised:
            row.provoke(path)
        assert row.pasted in str(raised.value)

    said = see(path, row, capsys)
    for words in row.cause:
        assert words in said, said
    printed = re.findall(r"^  → (.+)$", said, re.MULTILINE)
    expected = [each.format(path=path, stem=path.with_suffix("")) for each in row.following]
    assert len(printed) == len(expected), printed
    for command, begins in zip(printed, expected, strict=True):
        assert command.startswith(begins), command
        program, *words = shlex.split(command)
        assert program == "ckpttool"
        status = cli.main(["net.py:Net" if word == "MODEL" else word for word in words])
        assert status == 0 or (status == 1 and words[0] == "verify"), (command, capsys.readouterr())
    if row.heals is not None:
        row.heals(Path(shlex.split(printed[0])[3]))


def see(path: Path, row: Row, capsys: pytest.CaptureFixture[str]) -> str:
    """What a person sees, unwrapped: stdout, then errors and hints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "1000")
        patch.setenv("NO_COLOR", "1")
        patch.setattr(sys.stdout, "isatty", lambda: True)
        cli.main(["inspect", str(path), *(["--model", "net.py:Net"] if row.with_model else [])])
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_every_pasted_error_is_on_the_page_of_errors() -> None:
    page = (ROOT / "docs/errors.md").read_text("utf-8")
    for row in ROWS:
        assert row.pasted in page, row.pasted


def test_the_arguments_of_a_model_are_in_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        MODEL.replace("(self)", "(self, width=1, name='')").replace("4)", "width)", 1)
    )
    torch.save({**net_state(), "extra": torch.ones(1)}, "-x.pt")
    arguments = ["--model-arg", "width=4", "--model-arg", "name=it's"]
    cli.main(["inspect", "./-x.pt", "--model", "net.py:Net", *arguments])
    commands = re.findall(r"^next: (.+)$", capsys.readouterr().err, re.MULTILINE)
    assert shlex.split(commands[-1]) == ["ckpttool", "verify", "./-x.pt", "--model", "net.py:Net", *arguments]
    assert cli.main(shlex.split(commands[0])[1:]) == 0  # drops what the model does not have
    assert (
        cli.main(["verify", "./-x.safetensors", "--model", "net.py:Net", *arguments, "--load", "copy"]) == 0
    )


def test_what_cannot_be_put_into_a_line_is_not_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    torch.save({**net_state(), **{f"extra_{index}": torch.ones(1) for index in range(9)}}, "x.pt")
    cli.main(["inspect", "x.pt", "--model", "net.py:Net"])
    commands = re.findall(r"^next: (.+)$", capsys.readouterr().err, re.MULTILINE)
    assert commands == ["ckpttool verify x.pt --model net.py:Net"]


def test_a_command_is_whole_at_any_width_and_in_a_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a file; with 'quotes'.pt"
    torch.save({f"module.{name}": value for name, value in weights().items()}, path)
    cli.main(["inspect", str(path)])
    commands = re.findall(r"^next: (.+)$", capsys.readouterr().err, re.MULTILINE)
    cli.main(["inspect", str(path), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert [item["command"] for item in document["next"]] == commands
    assert shlex.split(commands[0])[2] == str(path)
    assert cli.main(shlex.split(commands[0])[1:]) == 0
