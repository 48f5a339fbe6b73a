"""Files of others known by their structure, by real writers where Python has one; and advice that works."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import py_compile
import shutil
import sqlite3
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.cli import main
from ckpttool.formats import read_checkpoint
from ckpttool.values.errors import CkptToolError, UnknownFormat, UnsupportedFeature
from tests.formats.test_foreign import describe, tar_of

PICKLE = pickle.dumps({"lr": 0.1}, protocol=4)


def torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(500.0)}, buffer)
    return buffer.getvalue()


def squeeze(kind: str, content: bytes) -> bytes:
    """By the program of that name, which must be there."""
    if shutil.which(kind) is None:
        pytest.skip(f"{kind} is not installed")
    return subprocess.run([kind, "-c"], input=content, capture_output=True, check=True).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    **{f"zlib {level}": lambda raw, level=level: zlib.compress(raw, level) for level in range(10)},  # type: ignore[misc]
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "LZMA": lambda raw: lzma.compress(raw, lzma.FORMAT_ALONE),
    "zstd": lambda raw: squeeze("zstd", raw),
    "lz4": lambda raw: squeeze("lz4", raw),
}


@pytest.mark.parametrize("packer", PACKERS)
def test_what_is_compressed_is_unpacked_as_the_hint_says(
    packer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = describe(tmp_path, PACKERS[packer](torch_file()), "my model.pt")
    assert isinstance(error, UnknownFormat)
    assert error.describe().startswith(f"compressed with {packer.split()[0]}")
    command = (error.hint or "").partition("inspect what is inside: ")[2]
    tool = command.split()[0]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert main(["inspect", str(tmp_path / "unpacked")]) == 0
    assert "w\tfloat32" in capsys.readouterr().out


@pytest.mark.parametrize("level", [1, 3, 6, 9])
def test_joblib_is_named(tmp_path: Path, level: int) -> None:
    told = describe(tmp_path, zlib.compress(PICKLE, level)).describe()
    assert told == "compressed with zlib, as joblib does, a pickle inside"


def database(folder: Path) -> bytes:
    with sqlite3.connect(folder / "x.db") as connection:
        connection.execute("create table weights (name text)")
    return (folder / "x.db").read_bytes()


def compiled(folder: Path) -> bytes:
    (folder / "x.py").write_text("x = 1\n")
    return Path(py_compile.compile(str(folder / "x.py")) or "").read_bytes()


def skippable(behind: bytes) -> bytes:
    return b"\x53\x2a\x4d\x18" + struct.pack("<I", 5) + b"hello" + behind


FLAX = b"\x81\xa6params\x81\xa6kernel\xc7\x05\x01hello"
CASES: dict[str, tuple[Callable[[Path], bytes] | bytes, str]] = {
    "sqlite": (database, "SQLite database"),
    "pyc": (compiled, "compiled Python module"),
    "skippable zstd": (skippable(b"\x28\xb5\x2f\xfd\0\0"), "compressed with zstd"),
    "skippable lz4": (skippable(b"\x04\x22\x4d\x18\0\0"), "compressed with lz4"),
    "skippable end": (skippable(b""), "compressed with zstd or lz4"),
    "snappy": (b"\xff\x06\0\0sNaPpY\0\0\0\0", "compressed with snappy"),
    "flax": (FLAX, "msgpack map that begins with 'params', as Flax writes it"),
    "flax, many keys": (b"\xde\0\x20\xd9\x28" + b"k" * 40 + FLAX, "msgpack map that begins with 'kkk"),
    "arrow stream": (b"\xff\xff\xff\xff\x10\0\0\0" + bytes(64), "Arrow stream"),
    "arrow file": (b"ARROW1\0\0" + bytes(64), "Arrow table"),
    "parquet": (b"PAR1\x15\x04" + bytes(64), "Parquet table"),
    "lmdb": (bytes(16) + b"\xde\xc0\xef\xbe" + bytes(64), "LMDB database"),
    "orbax": (b"\x0c\xdb\x3a\x2a" + bytes(64), "OCDBT store (Orbax, JAX)"),
    "darknet": (
        struct.pack("<iiiq", 0, 2, 5, 32_013_312) + bytes(40),
        "Darknet weights (YOLO) of 10 numbers",
    ),
    "darknet 0.1": (
        struct.pack("<iiii", 0, 1, 0, 32_013) + bytes(40),
        "Darknet weights (YOLO) of 10 numbers",
    ),
    "saved model": (b"\x08\x01\x12\xac\x02" + bytes(300), "TensorFlow SavedModel"),
    "torch7": (b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1\x11\0\0\0torch.FloatTensor", "Lua Torch7"),
    "ggml": (b"tjgg\x03\0\0\0" + bytes(64), "GGML file"),
    "openssl": (b"Salted__" + bytes(range(200, 240)), "encrypted with openssl"),
    "openvino": (
        b'<?xml version="1.0"?>\n<net name="m" version="11">\n<layers>\n<layer id="0"/>',
        "OpenVINO model (.xml)",
    ),
    "chat template": (
        b"{%- if tools %}\n{{ bos_token }}\n{%- endif %}",
        "bytes that begins '{%- if tools %}'",
    ),
    "brackets": (b"[section]\nkey = 1\n", "text of 18 bytes"),
    "mapping": (b"{{ x }}", "text of 7 bytes"),
    "json of numbers": (b"[ 1, 2 ]", "JSON without a weight_map"),
    "empty json": (b"{\n}", "JSON without a weight_map"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_named_for_what_it_is(case: str, tmp_path: Path) -> None:
    make, found = CASES[case]
    error = describe(tmp_path, make if isinstance(make, bytes) else make(tmp_path))
    assert isinstance(error, UnknownFormat)
    assert found in error.describe()
    with pytest.raises(UnknownFormat):
        read_checkpoint(str(tmp_path / "model.pt"))


NOT = {
    "a wrong check of zlib": b"\x78\x9d" + bytes(30),
    "a right check and no stream": b"\x78\x9c\xff" + bytes(30),
    "zlib with a dictionary": b"\x78\xbb" + bytes(30),
    "a saved model of another length": b"\x08\x01\x12\xac\x02" + bytes(298) + b"\xff",
    "an arrow stream of another length": b"\xff\xff\xff\xff\x11\0\0\0" + bytes(64),
    "a msgpack key of bytes": b"\x81\xa3\xff\xfe\xfd\x01",
    "a msgpack map that ends": b"\x81\xa6par",
    "darknet of no floats": struct.pack("<iiiq", 0, 2, 5, 32) + b"\x01",
    "nearly a tar": tar_of({"a": b"x"}).replace(b"ustar", b"ustaR"),
}


@pytest.mark.parametrize("case", NOT)
def test_what_is_nearly_so_is_not_named(case: str, tmp_path: Path) -> None:
    told = describe(tmp_path, NOT[case]).describe()
    assert told.startswith(("unknown content", "zeros", "text")), told


@given(st.binary(max_size=64))
def test_any_bytes_get_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    for head in (
        b"\x78\x9c",
        b"\x08\x01\x12",
        b"\x81\xa6",
        b"\xdf",
        b"\x50\x2a\x4d\x18",
        b"\xff\xff\xff\xff",
    ):
        assert isinstance(describe(folder, head + content), CkptToolError)


# ------------------------------------------------------------------------------------------- torch's own


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("old", [False, True], ids=["ustar", "before ustar"])
def test_a_tar_of_torch_before_0_1_10_is_not_to_be_unpacked(tmp_path: Path, form: int, old: bool) -> None:
    content = bytearray(tar_of({"storages": b"z" * 3000, "tensors": b"", "pickle": b"y"}, form))
    for offset in range(0, len(content), 512) if old else ():
        header = content[offset : offset + 512]
        if header[257:262] == b"ustar":  # 20 bytes of zeros in its place, and another checksum
            header[257:512] = bytes(255)
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            content[offset : offset + 512] = header
    error = describe(tmp_path, bytes(content))
    assert isinstance(error, UnsupportedFeature)
    assert "torch tar archive" in error.describe()
    assert "unpack" not in (error.hint or "")


def test_a_torch_save_that_failed_is_named(tmp_path: Path) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        torch.save({"w": torch.ones(3), "f": lambda: 0}, tmp_path / "model.pt")
    with pytest.raises(UnknownFormat) as caught:
        read_checkpoint(str(tmp_path / "model.pt"))
    assert "torch.save failed before it wrote the object" in caught.value.describe()
    assert "cannot be pickled" in (caught.value.hint or "")


def test_a_torch_zip_that_lost_its_pickle_is_named(tmp_path: Path) -> None:
    lost = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_file())) as whole, zipfile.ZipFile(lost, "w") as archive:
        for name in whole.namelist():
            if not name.endswith("data.pkl"):
                archive.writestr(name, whole.read(name))
    told = describe(tmp_path, lost.getvalue()).describe()
    assert told == "torch zip of 1 storage without data.pkl, which says what they are"
