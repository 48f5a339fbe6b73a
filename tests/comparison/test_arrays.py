"""Numpy arrays beside the tensors: never built, and compared by all that is pickled of them."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckpttool.cli import main
from ckpttool.formats import read_checkpoint
from ckpttool.formats.pickled import array_digest

TABLE = np.arange(12.0).reshape(3, 4)
RECORDS = np.array([(1, 2.0, "a"), (3, 4.0, "b")], dtype=[("n", "i4"), ("x", "f8"), ("s", "U3")])
WORDS = np.array(["ab", "c"])
OBJECTS = np.array([1, "a", None, {"k": [1.5]}, (2, 3)], dtype=object)


def changed(array: np.ndarray[Any, Any], at: Any, value: object) -> np.ndarray[Any, Any]:
    copy = array.copy()
    copy[at] = value
    return copy


DIFFERENT = {
    "a value": (TABLE, changed(TABLE, (2, 3), 99.0)),
    "a sign of zero": (TABLE, changed(TABLE, (0, 0), -0.0)),
    "the order": (TABLE, np.asfortranarray(TABLE)),
    "the byte order": (TABLE, TABLE.astype(">f8")),
    "the type": (TABLE, TABLE.astype("f4")),
    "the shape": (TABLE, TABLE.reshape(4, 3)),
    "a field's value": (RECORDS, changed(RECORDS, 1, (3, 4.5, "b"))),
    "a field's name": (RECORDS, np.array(RECORDS, dtype=[("n", "i4"), ("y", "f8"), ("s", "U3")])),
    "a word": (WORDS, changed(WORDS, 1, "d")),
    "an object": (OBJECTS, changed(OBJECTS, 1, "b")),
    "an object in an object": (OBJECTS, changed(OBJECTS, 3, {"k": [2.5]})),
    "a date": (np.array(["2026-01-01"], "M8[D]"), np.array(["2026-01-02"], "M8[D]")),
    "nothing there": (np.zeros((0, 3)), np.zeros((3, 0))),
}


def saved(path: Path, array: object, protocol: int) -> Path:
    made = {"w": torch.ones(2), "x": array, "deep": [{"y": array}]}
    torch.save(made, path, pickle_protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("what", DIFFERENT)
def test_arrays_that_differ_are_another_value(tmp_path: Path, what: str, protocol: int) -> None:
    a, b = (saved(tmp_path / f"{at}.pt", array, protocol) for at, array in enumerate(DIFFERENT[what]))
    assert main(["diff", str(a), str(b), "--quiet"]) == 1


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("what", DIFFERENT)
def test_equal_arrays_are_equal_and_not_said_to_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, protocol: int
) -> None:
    array = DIFFERENT[what][0]
    a = saved(tmp_path / "a.pt", array, protocol)
    b = saved(tmp_path / "b.pt", pickle.loads(pickle.dumps(array)), protocol)
    assert main(["diff", str(a), str(b)]) == 0
    assert "not compared" not in capsys.readouterr().err


def test_the_document_has_the_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(saved(tmp_path / "a.pt", TABLE, 2)), "--json"]) == 0
    opaque = json.loads(capsys.readouterr().out)["opaque"]
    (known,) = [item for item in opaque if item["name"] == "x"]
    assert len(known["sha256"]) == 64
    assert not any("sha256" in item for item in opaque if item["type"] == "numpy.dtype")


def test_that_numpy_2_renamed_its_modules_changes_no_array(tmp_path: Path) -> None:
    made = pickle.dumps({"x": TABLE, "y": OBJECTS, "z": np.array([np.float64(2), "a"], object)}, 2)
    old = made.replace(b"numpy._core", b"numpy.core")
    new = old.replace(b"numpy.core", b"numpy._core")
    digests = []
    for name, data in (("old.pkl", old), ("new.pkl", new)):
        (tmp_path / name).write_bytes(data)
        found = read_checkpoint(str(tmp_path / name)).opaque
        digests.append([item.sha256 for item in found if item.sha256])
    assert old != new and digests[0] == digests[1] and len(digests[0]) == 3


def test_an_array_of_tensors_has_none_and_is_said_not_to_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = np.empty(1, dtype=object)
    array[0] = torch.ones(2)
    a, b = (saved(tmp_path / f"{name}.pt", array, 2) for name in "ab")
    assert not any(item.sha256 for item in read_checkpoint(str(a)).opaque)
    assert main(["diff", str(a), str(b)]) == 0
    assert "not compared" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("shared", [b"c" + b"m" * 1_000_000 + b"\na\n", b"L" + b"9" * 1200 + b"L\n"])
def test_what_an_array_repeats_takes_no_memory(tmp_path: Path, shared: bytes) -> None:
    """By opcodes: 100,000 times a name of a megabyte, and a number of 1,200 digits."""
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    data = b"\x80\x02" + shared + b"q\x010}S'x'\n" + reconstruct + b"(" + b"h\x01" * 100_000 + b"lbs."
    (tmp_path / "m.pkl").write_bytes(data)
    started = time.process_time()
    tracemalloc.start()
    checkpoint = read_checkpoint(str(tmp_path / "m.pkl"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [item.type_name for item in checkpoint.opaque][:1] == ["numpy.core.multiarray._reconstruct"]
    assert peak < 100 << 20 and time.process_time() - started < 10


def test_bytes_that_many_arrays_share_are_digested_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By opcodes: 2,000 arrays of one text of 40 kB, which would be 80 MB to digest."""
    digested: list[int] = []

    def counted(data: bytes = b"") -> Any:
        digested.append(len(data))
        return hashlib.sha256(data)

    monkeypatch.setattr(array_digest, "sha256", counted)
    text = b"X" + (40_000).to_bytes(4, "little") + b"a" * 40_000
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    state = b"(I1\n(I40000\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntRI00\nc_codecs\nencode\n(h\x01S'latin1'\ntRtb"
    body = b"".join(b"I%d\n" % at + reconstruct + state + b"s" for at in range(2_000))
    path = tmp_path / "m.pkl"
    path.write_bytes(b"\x80\x02" + text + b"q\x010}" + body + b".")
    assert sum(bool(item.sha256) for item in read_checkpoint(str(path)).opaque) == 2_000
    assert sum(nbytes >= 40_000 for nbytes in digested) == 1 and len(digested) == 2_001
