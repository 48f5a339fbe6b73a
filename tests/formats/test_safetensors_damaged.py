"""Damaged safetensors files, by cuts, flipped bits, edits and forging: refused, or read as by the library."""

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.values.checkpoint import CompositeTensor
from ckpttool.values.dtypes import BY_SAFETENSORS_TAG
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint
from tests.support.headers import opens, pack, read


def valid_file() -> bytes:
    tensors = {
        "layer.weight": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        "layer.running_mean": torch.ones(3),
        "steps": torch.tensor(7),
        "empty": torch.zeros(0, 4, dtype=torch.uint8),
        "имя": torch.tensor([True, False]),
    }
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


VALID = valid_file()


def check_damaged(content: bytes, folder: Path) -> None:
    """A damaged file is refused by a ``CkptToolError`` or read as the library reads it."""
    path = folder / "damaged.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(CkptToolError):
        checkpoint = read(path)
        for entry in checkpoint.entries:
            info = entry.value
            if not isinstance(info, CompositeTensor):
                assert info is not None
                assert info.storage is not None
                assert info.byte_span[1] <= info.storage.nbytes
                assert info.storage.byte_offset + info.storage.nbytes <= len(content)
        assert opens(path) is not None, "read, and the library refuses it"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def test_every_truncation_is_refused(folder: Path) -> None:
    path = folder / "cut.safetensors"
    for nbytes in range(len(VALID)):
        path.write_bytes(VALID[:nbytes])
        with pytest.raises(MalformedCheckpoint):
            read(path)


def test_every_flipped_bit_of_the_header_is_refused_or_read(folder: Path) -> None:
    header_end = 8 + struct.unpack("<Q", VALID[:8])[0]
    for bit in range(8 * header_end):
        content = bytearray(VALID)
        content[bit // 8] ^= 1 << bit % 8
        check_damaged(bytes(content), folder)


EDITS: list[Callable[[bytes, int, bytes], bytes]] = [
    lambda raw, at, new: raw[:at] + new + raw[at:],
    lambda raw, at, new: raw[:at] + new + raw[at + len(new) :],
    lambda raw, at, new: raw[:at] + raw[at + len(new) :],
]


@given(
    st.lists(
        st.tuples(st.sampled_from(EDITS), st.integers(0, len(VALID)), st.binary(min_size=1, max_size=6)),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_any_edit_is_refused_or_read(
    folder: Path, edits: list[tuple[Callable[[bytes, int, bytes], bytes], int, bytes]], mend_length: bool
) -> None:
    header_end = 8 + struct.unpack("<Q", VALID[:8])[0]
    header, data = VALID[8:header_end], VALID[header_end:]
    for edit, at, new in edits:
        header = edit(header, min(at, len(header)), new)
    # With the length mended the edit reaches the rules behind it.
    check_damaged(pack(header, data, length=None if mend_length else header_end - 8), folder)


NUMBERS = st.integers(-1, 40) | st.sampled_from([True, None, 2.0, 2**31, 2**63, 2**64, "1", [], {}])
ENTRIES = st.builds(
    lambda tag, shape, offsets: {"dtype": tag, "shape": shape, "data_offsets": offsets},
    st.sampled_from([*BY_SAFETENSORS_TAG, "X", 3]),
    st.lists(NUMBERS, max_size=3),
    st.lists(NUMBERS, max_size=3) | st.tuples(st.just(0), st.integers(0, 40)),
)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "__metadata__", ""]), ENTRIES, max_size=3), st.integers(0, 40)
)
def test_any_header_of_the_right_form_is_refused_or_read(
    folder: Path, header: dict[str, object], tail: int
) -> None:
    check_damaged(pack(header, bytes(tail)), folder)
