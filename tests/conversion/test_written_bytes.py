"""What is written, byte for byte, by the readers of safetensors and torch and by the zip format."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import deserialize
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from ckpttool.cli import main
from ckpttool.conversion.shards import lay_out_file
from tests.hostile import pickles as op
from tests.hostile.containers import torch_zip
from tests.support.converting import convert, plan_of
from tests.support.layouts import TYPED, UNTYPED, facts, flat, loaded, saved


def split_header(content: bytes) -> tuple[str, bytes]:
    """The tensors of a safetensors header as text, without ``__metadata__`` and padding, and the data."""
    end = 8 + int.from_bytes(content[:8], "little")
    text = content[8:end].decode().rstrip(" ")
    start = '{"__metadata__":'
    if text.startswith(start):
        _, at = json.JSONDecoder().raw_decode(text, len(start))
        text = "{" + text[at + 1 :]
    return text, content[end:]


def test_names_out_of_order_stand_as_save_file_writes_them(tmp_path: Path) -> None:
    names = ["z", "a.b", "a", "ж", "A", "a.10", "a.9", "", "\U0001f600", "é", "~", "b" * 300]
    state = {
        f"{name}{number}": flat(dtype, 6 + number).view(-1)[number:]
        for number, dtype in enumerate(reversed(TYPED + UNTYPED))
        if dtype is not torch.complex32 and dtype is not torch.complex128 and "bits" not in str(dtype)
        for name in names
    }
    (tmp_path / "a.pt").write_bytes(saved(state, zipped=True))
    save_file({name: tensor.clone() for name, tensor in reversed(state.items())}, tmp_path / "theirs")
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors", "--shared", "duplicate")
    theirs, data = split_header((tmp_path / "theirs").read_bytes())
    ours, our_data = split_header((tmp_path / "b.safetensors").read_bytes())
    assert ours == theirs
    assert our_data == data
    order = list(loaded_back(tmp_path / "b.safetensors"))
    assert order == list(state)  # and the order of the .pt comes back


def loaded_back(path: Path) -> dict[str, Any]:
    convert(path, path.with_name("c.pt"))
    found: dict[str, Any] = loaded(path.with_name("c.pt").read_bytes())
    return found


# --------------------------------------------------------------------------------------- packed numbers


def handmade(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> Path:
    """A safetensors file that the library reads."""
    header, data = {}, b""
    for name, (tag, shape, content) in tensors.items():
        header[name] = {"dtype": tag, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert described(path) == tensors
    return path


def described(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """What the library's reader says, which knows F4 and F6."""
    found = deserialize(path.read_bytes())
    return {name: (item["dtype"], list(item["shape"]), bytes(item["data"])) for name, item in found}


PACKED = {
    "f4": ("F4", [3, 4], bytes(range(6))),
    "f4 of one row": ("F4", [6], bytes(range(3))),
    "f6": ("F6_E2M3", [2, 4], bytes(range(6))),
    "f6 b": ("F6_E3M2", [4, 3, 2], bytes(range(18))),
    "f6 of nothing": ("F6_E2M3", [0, 4], b""),
}


def test_packed_numbers_of_safetensors_come_through_a_pt_and_back(tmp_path: Path) -> None:
    source = handmade(tmp_path / "a.safetensors", PACKED)
    convert(source, tmp_path / "copy.safetensors")
    assert described(tmp_path / "copy.safetensors") == PACKED
    assert main(["convert", str(source), str(tmp_path / "b.pt"), "--drop", "f4*"]) == 2
    convert(source, tmp_path / "b.pt", "--as-bytes")
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    for name, (tag, shape, content) in PACKED.items():
        if tag == "F4":  # torch counts two numbers as one element
            assert (back[name].dtype, list(back[name].shape)) == (
                torch.float4_e2m1fn_x2,
                [*shape[:-1], shape[-1] // 2],
            )
        else:
            assert back[name].dtype is torch.uint8
        assert bytes(back[name].view(torch.uint8).flatten().tolist()) == content


def test_packed_numbers_of_torch_are_those_that_safetensors_writes(tmp_path: Path) -> None:
    state = {
        "row": flat(torch.float4_e2m1fn_x2),
        "matrix": flat(torch.float4_e2m1fn_x2).view(4, 6),
        "turned": flat(torch.float4_e2m1fn_x2).view(4, 6).t(),
        "part": flat(torch.float4_e2m1fn_x2).view(4, 6)[1:3],
    }
    (tmp_path / "a.pt").write_bytes(saved(state, zipped=True))
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors", "--shared", "duplicate")
    back = load_file(tmp_path / "b.safetensors")
    assert {name: facts(tensor) for name, tensor in back.items()} == {n: facts(t) for n, t in state.items()}
    contiguous = {}
    for name, tensor in state.items():
        shape = tensor.shape
        contiguous[name] = tensor.view(torch.uint8).contiguous().view(torch.float4_e2m1fn_x2).view(shape)
    save_file(contiguous, tmp_path / "theirs")
    assert described(tmp_path / "b.safetensors") == described(tmp_path / "theirs")


# -------------------------------------------------------------------------------- pickles that torch takes


SIZES = {
    "tuple": ((2, 2), (2, 1)),
    "list": ([2, 2], [2, 1]),
    "torch.Size": (op.call("torch:Size", (2, 2)), (2, 1)),
    "torch.Size of a list": (op.call("torch:Size", [2, 2]), [2, 1]),
}


@pytest.mark.parametrize("form", SIZES)
def test_sizes_in_every_form_that_torch_takes(form: str, tmp_path: Path) -> None:
    size, stride = SIZES[form]
    raw = torch.arange(4.0)
    content = torch_zip(
        op.dump({"w": op.tensor(size=size, stride=stride)}), {"0": bytes(raw.view(torch.uint8).tolist())}
    )
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert facts(loaded(content)["w"]) == facts(raw.view(2, 2))
    convert(path, tmp_path / "b.pt")
    assert facts(loaded((tmp_path / "b.pt").read_bytes())["w"]) == facts(raw.view(2, 2))


def test_a_size_of_two_arguments_is_refused_as_torch_refuses_it(tmp_path: Path) -> None:
    content = torch_zip(op.dump({"w": op.tensor(size=op.call("torch:Size", (2, 2), (2, 2)), stride=(2, 1))}))
    with pytest.raises(TypeError):
        loaded(content)
    (tmp_path / "a.pt").write_bytes(content)
    assert main(["inspect", str(tmp_path / "a.pt"), "--quiet"]) == 2


def test_a_tensor_without_elements_needs_no_member(tmp_path: Path) -> None:
    empty = op.tensor(op.storage("7", numel=0), size=(0, 3), stride=(3, 1))
    (tmp_path / "a.pt").write_bytes(torch_zip(op.dump({"w": op.tensor(), "empty": empty})))
    convert(tmp_path / "a.pt", tmp_path / "b.pt")
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert (back["empty"].shape, back["empty"].dtype) == ((0, 3), torch.float32)
    with_one = op.tensor(op.storage("7", numel=1), size=(1,), stride=(1,))
    (tmp_path / "c.pt").write_bytes(torch_zip(op.dump({"w": with_one})))
    assert main(["inspect", str(tmp_path / "c.pt"), "--quiet"]) == 2


# ---------------------------------------------------------------------------------------------------- zip


def test_local_headers_of_large_members_say_their_size_in_zip64(tmp_path: Path) -> None:
    sizes = [(1 << 32) - 2, (1 << 32) - 1, 1 << 32, 5 << 30, 3]
    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save([torch.empty(size, dtype=torch.uint8) for size in sizes], tmp_path / "a.pt")
    plan = plan_of(tmp_path / "a.pt", "pt")
    (layout,) = lay_out_file(plan, "b.pt")
    found, offset = {}, 0
    for segment in layout.segments({}):
        if segment.literal.startswith(b"PK\x03\x04"):
            needed, _, method = struct.unpack_from("<3H", segment.literal, 4)
            packed, unpacked, name_nbytes, extra_nbytes = struct.unpack_from("<2I2H", segment.literal, 18)
            name = segment.literal[30 : 30 + name_nbytes].decode()
            extra = segment.literal[30 + name_nbytes : 30 + name_nbytes + extra_nbytes]
            fields = {}
            while extra:
                field, nbytes = struct.unpack_from("<2H", extra)
                assert len(extra) >= 4 + nbytes  # APPNOTE 4.5.1: id, size, data
                fields[field], extra = extra[4 : 4 + nbytes], extra[4 + nbytes :]
            assert (1 in fields) == (unpacked == 0xFFFFFFFF)
            if 1 in fields:
                assert (packed, unpacked, needed) == (0xFFFFFFFF, 0xFFFFFFFF, 45)
                unpacked, packed = struct.unpack("<2Q", fields[1])
            assert (method, packed) == (0, unpacked)
            assert (offset + 30 + name_nbytes + extra_nbytes) % 64 == 0
            found[name] = unpacked
        offset = segment.offset + len(segment.literal)
        if segment.piece >= 0:
            offset = segment.offset + segment.nbytes
    assert [found[f"archive/data/{number}"] for number in range(len(sizes))] == sizes
