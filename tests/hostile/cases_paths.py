"""Paths that are no checkpoint: special files, other formats, and indexes that point elsewhere."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.case import Case
from tests.hostile.containers import safetensors

SHARD = safetensors({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"x")


def _fifo(folder: Path) -> str:
    os.mkfifo(folder / "pipe.pt")
    return str(folder / "pipe.pt")


def _socket(folder: Path) -> str:
    # AF_UNIX names are short: bind from inside the folder.
    home = Path.cwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s.pt")
    finally:
        os.chdir(home)
    return str(folder / "s.pt")


def _loop(folder: Path) -> str:
    (folder / "a.pt").symlink_to(folder / "b.pt")
    (folder / "b.pt").symlink_to(folder / "a.pt")
    return str(folder / "a.pt")


def _dangling(folder: Path) -> str:
    (folder / "a.pt").symlink_to(folder / "gone.pt")
    return str(folder / "a.pt")


def _device_link(folder: Path) -> str:
    (folder / "zero.pt").symlink_to("/dev/zero")
    return str(folder / "zero.pt")


def _file(content: bytes) -> Callable[[Path], str]:
    def build(folder: Path) -> str:
        (folder / "model.safetensors").write_bytes(content)
        return str(folder / "model.safetensors")

    return build


def _index(target: str, link: str | None = None) -> Callable[[Path], str]:
    """An index whose one shard is ``target``; ``link`` makes that name a symbolic link."""

    def build(folder: Path) -> str:
        home = folder / "model"
        home.mkdir()
        (folder / "outside.safetensors").write_bytes(SHARD)
        if link is not None:
            (home / target).symlink_to(link)
        text = json.dumps({"metadata": {}, "weight_map": {"w": target}})
        (home / "model.safetensors.index.json").write_text(text)
        return str(home)

    return build


def _index_of(raw: bytes) -> Callable[[Path], str]:
    def build(folder: Path) -> str:
        (folder / "model.safetensors.index.json").write_bytes(raw)
        return str(folder / "model.safetensors.index.json")

    return build


def _empty_folder(folder: Path) -> str:
    return str(folder)


def _folder_of_text(folder: Path) -> str:
    (folder / "README.md").write_text("nothing here")
    return str(folder)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 4265146304\n"
PATHS: dict[str, tuple[Callable[[Path], str], str]] = {
    "FIFO": (_fifo, "FIFO"),
    "socket": (_socket, "socket"),
    "link to a device": (_device_link, "device"),
    "link loop": (_loop, "*"),
    "dangling link": (_dangling, "*"),
    "not there": (lambda folder: str(folder / "none.pt"), "*"),
    "empty folder": (_empty_folder, "holds nothing"),
    "folder without checkpoints": (_folder_of_text, "*"),
    "empty file": (_file(b""), "empty file"),
    "one byte": (_file(b"\x80"), "*"),
    "zeros": (_file(bytes(4096)), "*"),
    "0xff": (_file(b"\xff" * 4096), "*"),
    "LFS pointer": (_file(POINTER), "git-lfs"),
    "HTML page": (_file(b"<!DOCTYPE html><html><body>Sign in</body></html>"), "HTML"),
    "text": (_file(b"hello, this is not a checkpoint\n"), "text"),
    "JSON": (_file(b'{"model_type": "llama"}'), "*"),
    "gzip": (_file(b"\x1f\x8b\x08" + bytes(30)), "gzip"),
    "7z": (_file(b"7z\xbc\xaf\x27\x1c" + bytes(30)), "7z"),
    "index: parent folder": (_index("../outside.safetensors"), "plain file name"),
    "index: absolute": (_index("/etc/passwd"), "plain file name"),
    "index: URL": (_index("https://example.com/x.safetensors"), "plain file name"),
    "index: file URL": (_index("file:///etc/passwd"), "plain file name"),
    "index: NUL": (_index("a\0b.safetensors"), "plain file name"),
    "index: backslash": (_index("..\\outside.safetensors"), "plain file name"),
    "index: dots": (_index(".."), "plain file name"),
    "index: empty name": (_index(""), "plain file name"),
    "index: long name": (_index("x" * 5000), "plain file name"),
    "index: link to outside": (_index("s.safetensors", "../outside.safetensors"), "leaves the folder"),
    "index: link to a device": (_index("s.safetensors", "/dev/zero"), "leaves the folder"),
    "index: itself": (_index("model.safetensors.index.json"), "*"),
    "index: the folder itself": (_index("s.safetensors", "."), "*"),
    "index: not there": (_index("gone.safetensors"), "missing"),
    "index: a list": (_index_of(b"[]"), "weight_map"),
    "index: no map": (_index_of(b"{}"), "weight_map"),
    "index: map of numbers": (_index_of(b'{"weight_map":{"a":1}}'), "no file name"),
    "index: name twice": (_index_of(b'{"weight_map":{"a":"x","a":"y"}}'), "twice"),
    "index: nesting": (_index_of(b'{"weight_map":' + b'{"a":' * 100_000), "*"),
    "index: infinity": (_index_of(b'{"weight_map":{}, "metadata":{"total_size":1e999}}'), ""),
}

# Run only where the user may be denied anything.
UNREADABLE = "unreadable file"


def _iter_cases() -> Iterator[Case]:
    for name, (build, error) in PATHS.items():
        yield Case(f"path: {name}", build, error, folder=True)


CASES = tuple(_iter_cases())
