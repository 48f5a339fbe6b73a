"""Commands that are printed, and what comes of typing them: each is run for real, beside its file.

``advised`` collects what ``inspect`` says to type next. ``follow`` types it, and answers why it was no help,
or nothing. That a command ends well is not enough: what it was said to be good for is looked up in what it
wrote, by torch or safetensors.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from ckpttool import cli
from tests.support.folders import standing_in

_COMMAND = re.compile(r"`(ckpttool [^`]*)`")
_WRAPPERS = (
    "module.",
    "_orig_mod.",
    "_forward_module.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
)
MODEL = "MODEL"  # what stands for the model where the user named none


class Advice(NamedTuple):
    """The words of a command, and what it is said to be good for; nothing of one inside a sentence."""

    words: tuple[str, ...]
    why: str = ""

    def __str__(self) -> str:
        return shlex.join(self.words)


class Typed(NamedTuple):
    """What a command gave."""

    status: int
    out: str
    err: str


def type_in(folder: Path, words: Sequence[str]) -> Typed:
    """Type a command of ours in ``folder``; ``words`` are those behind the program's name."""
    raw = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(stream, "utf-8") for stream in raw)
    with standing_in(folder), redirect_stdout(out), redirect_stderr(err):
        status = cli.main(list(words))
    out.flush()
    err.flush()
    return Typed(status, *(stream.getvalue().decode() for stream in raw))


def place(source: Path, folder: Path, name: str = "") -> str:
    """Copy a file, or a folder of shards, into ``folder``; return how it is called there."""
    target = folder / (name or source.name)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy(source, target)
    return target.name


def published(real_dir: Path, scratch: Path) -> Iterator[tuple[Path, str]]:
    """A folder for each published file, which holds nothing but a copy, and how that is called."""
    suffixes = {".pt", ".pth", ".bin", ".ckpt", ".tar", ".jit", ".weights", ".safetensors"}
    for number, path in enumerate(sorted(real_dir.rglob("*"))):
        if path.suffix in suffixes and path.is_file():
            folder = scratch / str(number)
            folder.mkdir()
            yield folder, place(path, folder)
            shutil.rmtree(folder)


def put_back(folder: Path, there: Collection[str]) -> None:
    """Remove all but ``there``: each command is typed into the folder as it was."""
    for name in set(os.listdir(folder)).difference(there):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def advised(folder: Path, name: str, *options: str) -> list[Advice]:
    """The commands that ``inspect`` prints of a file: those that it ends in, and those in sentences."""
    typed = type_in(folder, ["inspect", name, "--json", *options])
    if typed.status == 2:
        return []
    document = json.loads(typed.out)
    found = [Advice(tuple(shell_words(item["command"])), item["why"]) for item in document["next"]]
    for finding in document["findings"]:
        found += [Advice(tuple(shell_words(text))) for text in _COMMAND.findall(finding["message"])]
    return list(dict.fromkeys(found))


def shell_words(text: str) -> list[str]:
    """What a shell makes of a line; bash itself is asked where the standard library knows less."""
    if "$'" not in text:
        return shlex.split(text)
    script = f"set -f; printf '%s\\0' {text}"
    out = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    return [os.fsdecode(word) for word in out.split(b"\0")[:-1]]


_PRINTED = re.compile(r"`(ckpttool [^`]*)`|^(?:next|hint): +(ckpttool .*)$", re.MULTILINE)
_NAMED = re.compile(r"\bckpttool (?:inspect|diff|convert|verify|lint|git-textconv)\b")


def printed(text: str) -> list[str]:
    """Every command that stands in what was printed; that one stands where nobody can copy it is an error."""
    found = [first or second for first, second in _PRINTED.findall(text)]
    loose = _NAMED.findall(_PRINTED.sub("", text))
    assert not loose, f"a command that is not marked as one: {text}"
    return found


def follow(folder: Path, advice: Advice, model: str | None = None) -> str:
    """Type a command; say why it did not do what it was printed for, or nothing."""
    assert advice.words[0] == "ckpttool"
    words = list(advice.words[1:])
    if MODEL in words:
        if model is None:
            return _parse_only(folder, words)
        words[words.index(MODEL)] = model
    typed = type_in(folder, words)
    if typed.status not in ((0, 1) if words[0] == "verify" else (0,)):
        return f"status {typed.status}: {typed.err.strip()[-500:]}"
    if words[0] != "convert":
        return ""
    source, target = folder / words[1], folder / words[2]
    with standing_in(folder):  # paths of a command are relative to it
        return "; ".join(filter(None, _shortcomings(advice, source, target)))


def _parse_only(folder: Path, words: Sequence[str]) -> str:
    """A command with a placeholder is understood as far as the placeholder."""
    typed = type_in(folder, words)
    return (
        ""
        if typed.status == 2 and f"{MODEL} names no factory" in typed.err
        else f"status {typed.status}: {typed.err[-500:]}"
    )


# --------------------------------------------------------------------------- what a conversion was said to do


def _shortcomings(advice: Advice, source: Path, target: Path) -> Iterator[str]:
    reasons = advice.why.split("; ") if advice.why else []
    for reason in reasons:
        check = next((check for text, check in _CHECKS if text in reason), None)
        yield f"nothing checks {reason!r}" if check is None else check(source, target)
    yield _opens(source, target)


def tensors_of(path: Path) -> dict[str, Any]:
    """Every tensor of what was written, by its dotted path, as its own library reads it."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return dict(_iter_tensors(torch.load(path, weights_only=True)))


def _iter_tensors(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _iter_tensors(item, f"{path}.{key}" if path else str(key))


def _opens(source: Path, target: Path) -> str:
    """What was written is opened by the library that it is for: nothing else is worth writing."""
    try:
        return "" if tensors_of(target) else "there is no tensor in it"
    except Exception as error:  # noqa: BLE001 - whatever torch has to say
        return f"cannot be opened: {type(error).__name__}: {str(error)[:300]}"


def _no_wrappers(source: Path, target: Path) -> str:
    wrapped = [name for name in tensors_of(target) if name.startswith(_WRAPPERS) or "._orig_mod." in name]
    return f"still wrapped: {wrapped[:3]}" if wrapped else ""


def _contiguous(source: Path, target: Path) -> str:
    odd = [
        name
        for name, tensor in tensors_of(target).items()
        if tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_contiguous()
    ]
    return f"not contiguous: {odd[:3]}" if odd else ""


def _no_devices(source: Path, target: Path) -> str:
    document = json.loads(type_in(target.parent, ["inspect", target.name, "--json"]).out)
    tags = {entry["location"] for entry in document["entries"]} - {None, "cpu"}
    return f"still tagged: {tags}" if tags else ""


def _no_larger(source: Path, target: Path) -> str:
    held = [
        json.loads(type_in(path.parent, ["inspect", path.name, "--json"]).out)["summary"]["storage_nbytes"]
        for path in (source, target)
    ]
    return "" if held[1] < held[0] else f"{held[1]} bytes of storages, which were {held[0]}"


def _says_pt(source: Path, target: Path) -> str:
    with safe_open(target, "pt") as file:
        return "" if (file.metadata() or {}).get("format") == "pt" else "no format"


def _without(text: str) -> Any:
    def check(source: Path, target: Path) -> str:
        left = [name for name in tensors_of(target) if name.endswith(text)]
        return f"still there: {left[:3]}" if left else ""

    return check


def _with(text: str) -> Any:
    def check(source: Path, target: Path) -> str:
        return "" if any(text in name for name in tensors_of(target)) else f"no name has {text!r}"

    return check


def _weights_alone(source: Path, target: Path) -> str:
    names = tensors_of(target)
    nested = [name for name in names if "optim" in name.lower()]
    return f"more than the weights: {nested[:3]}" if nested else ""


def _mapped(source: Path, target: Path) -> str:
    if target.suffix == ".safetensors":
        return ""  # which has no other way
    torch.load(target, mmap=True, weights_only=True)
    return ""


def _nothing(source: Path, target: Path) -> str:
    """That it opens says it all."""
    return ""


_CHECKS = (
    ("wrapper", _no_wrappers),
    ("without the objects", _nothing),
    ("without the code", _nothing),
    ("without the program", _nothing),
    ("device tags", _no_devices),
    ("packs the tensors", _contiguous),
    ("ties once", _nothing),
    ("views apart", _nothing),
    ("unused bytes", _no_larger),
    ("memory-mapped", _mapped),
    ("64 MiB", _nothing),
    ("a file that loads", _nothing),
    ("such bits stand for", _nothing),
    ('"format": "pt"', _says_pt),
    ("as bytes", _nothing),
    ("rebuild", _nothing),
    ("does not have", _nothing),
    ("extra state", _without("_extra_state")),
    ("torch.nn.utils.weight_norm", _with("_g")),
    ("loaded adapter", _with(".default.weight")),
    ("weights alone", _weights_alone),
)
"""What is said of a conversion, and what holds it to that."""
