"""Files that are no checkpoint are named for what they are, whatever their suffix."""

import bz2
import gzip
import io
import lzma
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.files.local import open_source
from ckpttool.formats import read_checkpoint
from ckpttool.formats.base import DEFAULT_LIMITS, Look
from ckpttool.formats.foreign.files import describe_foreign
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint, UnknownFormat, UnsupportedFeature

OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 4265146304\n".encode()


def describe(folder: Path, content: bytes, name: str = "model.pt") -> CkptToolError:
    path = folder / name
    path.write_bytes(content)
    with open_source(str(path)) as source:
        error = describe_foreign(Look(source, DEFAULT_LIMITS))
    assert error.path == str(path)
    text = error.describe()
    assert text
    assert "\n" not in text
    assert len(text) < 600
    return error


def tar_of(members: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(*names: str, content: bytes = b"x" * 100) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"" if name.endswith("/") else content)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.zeros(3), bias=np.zeros(1))
    return buffer.getvalue()


# name -> (content, words of the sentence, words of the hint)
CASES: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "empty file", "make the file again"),
    "git-annex": (b"/annex/objects/SHA256E-s4--abc.pt\n", "git-annex pointer", "git annex get model.pt"),
    "dvc": (
        b"outs:\n- md5: d41d8cd98f00b204e9800998ecf8427e\n  path: model.pt\n",
        "DVC pointer",
        "dvc pull model.pt",
    ),
    "html": (b"<!DOCTYPE html><html><body>hi", "HTML page, not", "download it again"),
    "html with a title": (
        b"\r\n <html lang=en><head><TITLE>\n Google Drive -\tQuota exceeded</title>",
        "'Google Drive - Quota exceeded'",
        "download",
    ),
    "s3 error": (
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>",
        "error 'AccessDenied'",
        "download",
    ),
    "config.json": (
        b'{\n "architectures": ["Bert"],\n "model_type": "bert"}',
        "model's configuration",
        "folder",
    ),
    "diffusers config": (b'{"_class_name": "UNet2DConditionModel"}', "configuration of diffusers", "folder"),
    "other json": (b'{"error": "Repository not found"}', "JSON without a weight_map", "read here"),
    "text": (b"Entry not found", "begins 'Entry not found'", "read here"),
    "gguf": (
        b"GGUF" + struct.pack("<IQQ", 3, 291, 19),
        "GGUF version 3 (llama.cpp) of 291 tensors",
        "gguf-dump",
    ),
    "big-endian gguf": (
        b"GGUF" + struct.pack(">IQQ", 3, 291, 19),
        "GGUF version 3 (llama.cpp) of 291",
        "gguf-dump",
    ),
    "onnx": (
        b"\x08\x09\x12\x07pytorch\x1a\x052.1.0" + b":\xff\x01\n\x00" * 9,
        "ONNX model written by pytorch",
        "onnx",
    ),
    "npy": (npy(np.arange(3)), "NumPy array (.npy)", "allow_pickle=False"),
    "npz": (npz(), "NumPy archive (.npz) of 2 arrays: 'weight.npy', 'bias.npy'", "allow_pickle=False"),
    "gzip": (gzip.compress(b"x" * 100), "compressed with gzip", "gzip -dc < model.pt > unpacked"),
    "bzip2": (bz2.compress(b"x" * 100), "compressed with bzip2", "bzip2 -dc < model.pt > unpacked"),
    "xz": (lzma.compress(b"x" * 100), "compressed with xz", "xz -dc < model.pt > unpacked"),
    "zstd": (b"\x28\xb5\x2f\xfd\x24\x00", "compressed with zstd", "zstd -dc < model.pt > unpacked"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\x04", "7z archive", "7z x model.pt"),
    "rar": (b"Rar!\x1a\x07\x01\0", "RAR archive", "unrar x model.pt"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "HDF5 file", "h5py"),
    "tflite": (b"\x20\0\0\0TFL3" + bytes(90), "TensorFlow Lite", ""),
    "tensorflow table": (
        bytes(range(48)) + bytes.fromhex("57fb808b247547db"),
        "TensorFlow checkpoint",
        "TensorFlow",
    ),
    "tensorflow list": (b'model_checkpoint_path: "model-1"\n', "TensorFlow's list", "TensorFlow"),
    "tar": (
        tar_of({"a/config.yaml": b"x", "./model.ckpt": b"y" * 700}),
        "'a/config.yaml', 'model.ckpt'",
        "tar -xf",
    ),
    "posix tar": (
        tar_of({"weights.pth": b"x"}, tarfile.PAX_FORMAT),
        "tar archive that holds 'weights.pth'",
        "tar -xf",
    ),
    "folder in a zip": (
        zip_of("run/", "run/log.txt", "run/best.ckpt"),
        "not written by torch.save: it holds 'run/best.ckpt', 'run/log.txt'",
        "unzip model.pt -d FOLDER",
    ),
    "many in a zip": (zip_of(*(f"{i}.txt" for i in range(20))), "and 16 more", "unzip"),
    "nothing in a zip": (zip_of(), "without members", "again"),
    "word": (zip_of("[Content_Types].xml", "word/document.xml"), "Office document", ""),
    "keras 3": (zip_of("metadata.json", "config.json", "model.weights.h5"), "Keras 3", "h5py"),
    "wheel": (
        zip_of("a/__init__.py", "a/w.pth", "a-1.dist-info/RECORD"),
        "Python wheel that holds 'a/w.pth'",
        "unzip",
    ),
    "torch.package": (zip_of("p/.data/extern_modules", "p/m.py"), "torch.package archive", "state_dict"),
    "torchserve": (
        zip_of("MAR-INF/MANIFEST.json", "w.pt"),
        "TorchServe model archive that holds 'w.pt'",
        "unzip",
    ),
    "zeros": (bytes(100_000), "100000 bytes of zeros".replace("100000", "100,000"), "interrupted"),
    "zeros at first": (bytes(90_000) + b"end", "zeros for at least the first 4,096", "interrupted"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG image", ""),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(50), "JPEG image", ""),
    "pdf": (b"%PDF-1.7\n", "PDF document", ""),
    "elf": (
        Path("/proc/self/exe").read_bytes()[:4096] if Path("/proc/self/exe").exists() else b"\x7fELF",
        "ELF",
        "",
    ),
    "binary": (
        bytes(range(200, 256)) * 2,
        "begin with c8 c9 ca cb cc cd ce cf d0 d1",
        "read here: files of torch.save",
    ),
    "latin-1 text": (
        b"caf\xe9 au lait",
        "unknown content: 12 bytes that begin with 63 61 66 e9",
        "read here",
    ),
    "text with a NUL": (b"hello\0world", "unknown content", "read here"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_named_for_what_it_is(case: str, tmp_path: Path) -> None:
    content, found, hint = CASES[case]
    error = describe(tmp_path, content)
    assert isinstance(error, UnknownFormat)
    assert found in error.describe()
    assert hint in (error.hint or "")


@pytest.mark.parametrize("case", CASES)
def test_no_format_claims_it(case: str, tmp_path: Path) -> None:
    content, found, _ = CASES[case]
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UnknownFormat, match=re.escape(found)):
        read_checkpoint(str(tmp_path / "model.pt"))


def test_a_git_lfs_pointer_says_how_large_the_file_is(tmp_path: Path) -> None:
    error = describe(tmp_path, LFS, "my model.safetensors")
    size = len(LFS)
    assert error.describe() == (
        f"git-lfs pointer, not a checkpoint: {size} bytes that stand for 4,265,146,304 (sha256 4d7a214614ab…)"
    )
    assert error.hint == "git lfs pull --include 'my model.safetensors'"


@pytest.mark.parametrize(
    "content", [LFS[:60], LFS.replace(b"size 4", b"size x"), LFS.replace(b"oid", b"ext-0-a x\noid")]
)
def test_a_git_lfs_pointer_is_known_without_all_of_its_lines(content: bytes, tmp_path: Path) -> None:
    assert describe(tmp_path, content).describe().startswith("git-lfs pointer, not a checkpoint")


def test_the_tar_of_torch_before_0_1_10(tmp_path: Path) -> None:
    content = tar_of({"sys_info": b"x", "pickle": b"y", "storages": b"z" * 3000, "tensors": b""})
    error = describe(tmp_path, content)
    assert isinstance(error, UnsupportedFeature)
    assert "before 0.1.10" in error.feature
    assert "weights_only=False" in (error.hint or "")


def test_a_cut_zip_says_where_it_ends_and_what_it_began_with(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"w": torch.zeros(10_000)}, whole)
    content = whole.getvalue()[:30_000]
    error = describe(tmp_path, content)
    assert isinstance(error, MalformedCheckpoint)
    assert (
        error.describe()
        == "zip cut at byte 30000: no central directory; its first member is 'archive/data.pkl'"
    )


def test_a_damaged_zip_gives_its_own_reason(tmp_path: Path) -> None:
    content = zip_of("a.txt", "A.TXT")
    assert "same name" in describe(tmp_path, content).describe()


def test_text_that_ends_inside_a_character_is_text(tmp_path: Path) -> None:
    content = ("x" + "ж" * 5000).encode()
    assert describe(tmp_path, content).describe().startswith("text of 10,001 bytes that begins 'xж")


def test_a_hostile_name_cannot_leave_its_shell_word(tmp_path: Path) -> None:
    assert describe(tmp_path, LFS, "a; rm -rf $HOME").hint == "git lfs pull --include 'a; rm -rf $HOME'"


def test_a_long_member_name_is_cut(tmp_path: Path) -> None:
    assert "n" * 61 not in describe(tmp_path, zip_of("n" * 60_000)).describe()


SEEDS = [content for content, _, _ in CASES.values()] + [LFS]


@given(st.sampled_from(SEEDS), st.integers(0, 5000), st.binary(max_size=8), st.integers(0, 5000))
def test_any_damage_still_gets_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, seed: bytes, at: int, new: bytes, end: int
) -> None:
    at = min(at, len(seed))
    content = (seed[:at] + new + seed[at + len(new) :])[: len(seed) - end if end < len(seed) else None]
    describe(tmp_path_factory.getbasetemp(), content)


@given(st.binary(max_size=600))
def test_any_bytes_get_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    describe(tmp_path_factory.getbasetemp(), content)
