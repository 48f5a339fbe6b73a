"""Files that look wrong and are not: each must read, and say what torch says.

torch.load is the oracle: with ``weights_only=True`` where it can, else without, as all of these files are
made here. Compared are names, dtypes, shapes, strides and every byte that a tensor views.
"""

from __future__ import annotations

import collections
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipInfo

import pytest
import torch

from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.values.checkpoint import CompositeTensor, TensorInfo, views_of
from tests.hostile import pickles as op
from tests.hostile.containers import DEFLATED, Member, build_zip, legacy, torch_members, torch_zip
from tests.support.strange import (
    BASE,
    assert_as_loaded,
    flatten,
    load,
    read,
    saved,
    torch_bytes,
    viewed_bytes,
)

pytestmark = pytest.mark.filterwarnings("ignore")


# -- containers -----------------------------------------------------------------------------------

STATE: dict[str, Any] = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor([1, 2]), "e": 3}


def rezip(
    content: bytes, method: int = zipfile.ZIP_STORED, top: str | None = None, extra: str | None = None
) -> bytes:
    """The same members written by Python's zipfile: no padding, sizes in front, all of 1980."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", method) as new:
        for name in old.namelist():
            renamed = name if top is None else f"{top}/{name.partition('/')[2]}"
            new.writestr(ZipInfo(renamed), old.read(name), method)
        if extra is not None:
            new.writestr(ZipInfo(extra), b"more", method)
    return out.getvalue()


def without(content: bytes, *names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if name.partition("/")[2] not in names:
                new.writestr(ZipInfo(name), old.read(name))
    return out.getvalue()


def crc_zero() -> bytes:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        return saved(STATE)
    finally:
        torch.serialization.set_crc32_options(before)


def by_hand(**fields: Any) -> bytes:
    pkl = op.dump({"w": op.tensor(size=(2, 2), stride=(2, 1))})
    return torch_zip(pkl, {"0": struct.pack("<4f", 1, 2, 3, 4)}, **fields)


def big_endian() -> bytes:
    pkl = op.dump(
        {
            "f": op.tensor(op.storage("0", "torch:FloatStorage", 2), size=(2,)),
            "c": op.tensor(op.storage("1", "torch:ComplexFloatStorage", 1), size=(1,)),
            "b": op.tensor(op.storage("2", "torch:BoolStorage", 2), size=(2,)),
            "h": op.tensor(op.storage("3", "torch:BFloat16Storage", 1), size=(1,)),
        }
    )
    data = {"0": struct.pack(">2f", 1, -2), "1": struct.pack(">2f", 3, 4), "2": b"\1\0", "3": b"\x3f\x80"}
    return torch_zip(pkl, data, byteorder="big")


CONTAINERS: dict[str, Callable[[], bytes]] = {
    "as torch writes it": lambda: saved(STATE),
    "a root folder of spaces": lambda: rezip(saved(STATE), top="my model (1)"),
    "a root folder of another script": lambda: rezip(saved(STATE), top="модель-🔑"),
    "a root folder of one dot": lambda: rezip(saved(STATE), top=".x"),
    "zipped again, unaligned": lambda: rezip(saved(STATE)),
    "zipped again with DEFLATE": lambda: rezip(saved(STATE), zipfile.ZIP_DEFLATED),
    "an extra member inside": lambda: rezip(saved(STATE), extra="archive/.DS_Store"),
    "no checksums": crc_zero,
    "no byteorder": lambda: without(saved(STATE), "byteorder"),
    "no format version": lambda: without(saved(STATE), ".format_version", ".storage_alignment"),
    "no serialization id": lambda: without(saved(STATE), ".data/serialization_id"),
    "version in .data": lambda: build_zip(
        [*torch_members(op.dump({"w": op.tensor()}), version=None), Member("archive/.data/version", b"3\n")]
    ),
    "big-endian": big_endian,
    "a comment": lambda: by_hand(comment=b"made with love"),
    "a long comment": lambda: by_hand(comment=b"x" * 3000),
    "zip64 end record": lambda: by_hand(zip64_end=True),
    "zip64 fields of small members": lambda: by_hand(change={"data/0": {"zip64": True}}),
    "every member zip64": lambda: build_zip(
        [m._replace(zip64=True) for m in torch_members(op.dump({"w": op.tensor()}))], zip64_end=True
    ),
    "one deflated member": lambda: by_hand(change={"data.pkl": {"method": DEFLATED}}),
    "local extra field": lambda: by_hand(change={"data/0": {"local_extra": b"FB\x03\0ZZZ"}}),
    "wrong CRC": lambda: by_hand(change={"data/0": {"crc": 0xDEADBEEF}}),
    "a local name that differs": lambda: by_hand(change={"data/0": {"local_name": "archive/data/X"}}),
    "nothing but an empty dict": lambda: saved({}),
    "a state_dict of nothing": lambda: saved(torch.nn.Module().state_dict()),
    **{f"zip, protocol {n}": lambda n=n: saved(STATE, pickle_protocol=n) for n in range(2, 6)},
    **{
        f"legacy, protocol {n}": lambda n=n: saved(STATE, pickle_protocol=n, legacy=True)
        for n in range(1, 6)  # torch.load cannot read what protocol 0 makes of a persistent id
    },
    "legacy of nothing": lambda: saved({}, legacy=True),
    "legacy that says big-endian": lambda: legacy(
        op.dump({"w": op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", None))}),
        [(4, struct.pack("<4f", 1, 2, 3, 4))],
        sys_info=op.dump({"protocol_version": 1001, "little_endian": False, "type_sizes": {"int": 4}}),
    ),
    "legacy with a view": lambda: legacy(
        op.dump({"w": op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", ("v", 1, 2)), size=(2,))}),
        [(4, struct.pack("<4f", 1, 2, 3, 4))],
    ),
    "legacy with two views of one storage": lambda: legacy(
        op.dump(
            {
                "v": op.tensor(
                    op.storage("0", "torch:FloatStorage", 4, "cpu", ("v", 2, 2)), size=(1,), offset=1
                ),
                "w": op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", None), size=(2,), stride=(3,)),
            }
        ),
        [(4, struct.pack("<4f", 1, 2, 3, 4))],
    ),
}


@pytest.mark.parametrize("case", CONTAINERS)
def test_container(case: str, tmp_path: Path) -> None:
    content = CONTAINERS[case]()
    allowed = "protocol" not in case or case.endswith(" 2")
    checkpoint = read(tmp_path / "strange.pt", content)
    loaded = load(tmp_path / "strange.pt", weights_only=allowed)
    if "view" in case:
        loaded = {name: tensor.clone().contiguous() for name, tensor in loaded.items()}
        for entry in checkpoint.entries:
            # A view of a storage becomes an offset into it here: compare what is seen, not how.
            info = entry.value
            assert isinstance(info, TensorInfo)
            step = info.stride[0] * 4
            raw = viewed_bytes(info)
            seen = b"".join(raw[at : at + 4] for at in range(0, len(raw), step))
            assert seen == torch_bytes(loaded[entry.name])
        return
    assert_as_loaded(checkpoint, loaded)
    codes = {finding.code for finding in checkpoint.findings}
    assert ("zip-headers-differ" in codes) == (case == "a local name that differs")


STRUCTURES: dict[str, Any] = {
    "a bare tensor": torch.arange(3),
    "a 0-dimensional tensor": torch.tensor(1.5),
    "a list of tensors": [torch.ones(2), torch.zeros(3)],
    "a tuple of lists": ([torch.ones(1)], (torch.ones(2), [torch.ones(3)])),
    "integer keys": {0: torch.ones(1), -5: torch.ones(2), 2**40: torch.ones(3)},
    "float keys": {0.5: torch.ones(1), 1e300: torch.ones(2)},
    "None and bool keys": {None: torch.ones(1), True: torch.ones(2), False: torch.ones(3)},
    "bytes keys": {b"k\xff": torch.ones(1)},
    "tuple keys": {("a", 1): torch.ones(1), ("a", (2, None)): torch.ones(2)},
    "keys with dots": {"a.b": {"c.d": torch.ones(1)}, "a": {"b": {"c.d": torch.ones(2)}}},
    "an empty key": {"": torch.ones(1), "x": {"": {"": torch.ones(2)}}},
    "spaces": {" ": torch.ones(1), "a b": torch.ones(2), "\t": torch.ones(3)},
    "emoji and scripts": {
        "🔑": torch.ones(1),
        "ключ": torch.ones(2),
        "鍵": torch.ones(3),
        "مفتاح": torch.ones(4),
        "é": torch.ones(5),
        "e\u0301": torch.ones(6),
    },
    "path-like keys": {"../../etc/passwd": torch.ones(1), "/": torch.ones(2), "C:\\x": torch.ones(3)},
    "newlines and ESC": {"a\nb": torch.ones(1), "\x1b[31m": torch.ones(2), "\0": torch.ones(3)},
    "a long key": {"k" * 5000: torch.ones(1)},
    "fifty levels": None,  # made below
    "100 dimensions": {"w": torch.ones((1,) * 99 + (2,))},
    "empty shapes": {"a": torch.empty(0), "b": torch.empty(3, 0, 5), "c": torch.tensor(1)},
    "expanded to a petabyte": {"w": torch.ones(1).expand(2**20, 2**28)},
    "a storage larger than the tensor": {"w": BASE[5:7]},
    "tied": {"a": BASE, "b": BASE, "c": BASE.view(4, 6)},
    "overlapping views": {"a": BASE[:10], "b": BASE[5:15], "all": BASE},
    "windows": {"w": BASE.unfold(0, 4, 1)},
    "transposed": {"w": BASE.view(4, 6).t(), "v": BASE.view(2, 3, 4).permute(2, 0, 1)},
    "channels_last": {"w": BASE.view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)},
    "conj and neg": {"c": torch.tensor([1 + 2j]).conj(), "n": torch.tensor([1 + 2j]).conj().imag},
    "complex": {"a": torch.tensor([1 + 2j]), "b": torch.tensor([1 + 2j], dtype=torch.complex128)},
    "meta": {"m": torch.empty(3, 4, device="meta"), "x": torch.ones(2)},
    "odd widths": {"u16": torch.ones(2, dtype=torch.uint16), "u64": torch.ones(2, dtype=torch.uint64)},
    "float8": {"a": torch.ones(4).to(torch.float8_e4m3fn), "b": torch.ones(4).to(torch.float8_e5m2)},
    "one storage, uint8 and float8": {"a": BASE.view(torch.uint8), "b": BASE.view(torch.float8_e5m2)},
    "defaultdict": collections.defaultdict(list, {"w": torch.ones(1)}),
    "OrderedDict with metadata": torch.nn.BatchNorm1d(3).state_dict(),
    "requires_grad": {"w": torch.ones(2, requires_grad=True)},
    "values of all plain types": {
        "w": torch.ones(1),
        "i": 2**200,
        "f": float("nan"),
        "s": "x",
        "b": b"x",
        "n": None,
        "t": (1, "a"),
        "c": True,
    },
}
nested: dict[str, Any] = {"w": torch.ones(1)}
for _ in range(50):
    nested = {"deep": nested}
STRUCTURES["fifty levels"] = nested


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("case", STRUCTURES)
def test_structure(case: str, container: str, tmp_path: Path) -> None:
    if container == "legacy" and case in {"odd widths", "float8", "one storage, uint8 and float8"}:
        pytest.skip("the legacy writer has no storage class for these dtypes")
    value = STRUCTURES[case]
    path = tmp_path / "strange.pt"
    checkpoint = read(path, saved(value, legacy=container == "legacy"))
    assert_as_loaded(checkpoint, load(path, weights_only=False))


@pytest.mark.parametrize("case", STRUCTURES)
def test_structure_can_be_inspected(case: str, tmp_path: Path) -> None:
    """Analysis takes what the readers give: sums, kinds and ties of the strangest shapes."""
    value = STRUCTURES[case]
    inspection = inspect_checkpoint(read(tmp_path / "strange.pt", saved(value)))
    tensors = [tensor for _, tensor in flatten(value)]
    assert inspection.summary.tensors == len(inspection.rows) == len(tensors)


def test_weights_beside_a_state_dict_with_metadata_are_found(tmp_path: Path) -> None:
    plain = {"w": torch.ones(1000)}
    value = {"model": plain, "mine": torch.nn.Linear(2, 2).state_dict()}
    inspection = inspect_checkpoint(read(tmp_path / "two.pt", saved(value)))
    assert inspection.weights_root == ("mine",)


# -- composite tensors ------------------------------------------------------------------------------


def composites() -> dict[str, tuple[torch.Tensor, str, list[str]]]:
    dense = torch.arange(12.0).reshape(3, 4)
    per_channel = torch.quantize_per_channel(
        dense, torch.tensor([0.1, 0.2, 0.3]), torch.zeros(3, dtype=torch.int64), 0, torch.quint8
    )
    return {
        "per tensor": (torch.quantize_per_tensor(dense, 0.5, 3, torch.qint8), "quantized", ["int_repr"]),
        "per channel": (per_channel, "quantized", ["int_repr", "scale", "zero_point"]),
        "coo": (dense.to_sparse(), "sparse_coo", ["indices", "values"]),
        "csr": (dense.to_sparse_csr(), "sparse_csr", ["crow_indices", "col_indices", "values"]),
        "bsr": (
            torch.ones(4, 4).to_sparse_bsr((2, 2)),
            "sparse_bsr",
            ["crow_indices", "col_indices", "values"],
        ),
        "nested": (
            torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "nested",
            ["buffer", "sizes", "strides", "storage_offsets"],
        ),
    }


@pytest.mark.parametrize("case", ["per tensor", "per channel", "coo", "csr", "bsr", "nested"])
def test_composite(case: str, tmp_path: Path) -> None:
    tensor, layout, parts = composites()[case]
    (entry,) = read(tmp_path / "composite.pt", saved({"w": tensor})).entries
    value = entry.value
    assert isinstance(value, CompositeTensor)
    assert (value.layout, [part.name for part in value.parts]) == (layout, parts)
    assert value.dtype is not None
    assert f"torch.{value.dtype.name}" == str(tensor.dtype)
    if layout != "nested":
        assert value.shape == tuple(tensor.shape)
    by_name = {part.name: part.value for part in value.parts}
    for name in parts:
        if name == "int_repr":
            expected = tensor.int_repr().contiguous()
        elif layout == "nested" or case == "per channel":
            continue
        else:
            expected = getattr(tensor.coalesce() if layout == "sparse_coo" else tensor, name)()
        info = by_name[name]
        assert isinstance(info, TensorInfo)
        assert viewed_bytes(info) == torch_bytes(expected)


class Tagged(torch.Tensor):
    """A subclass with an attribute."""


class TaggedParameter(torch.nn.Parameter):
    """A subclass of Parameter."""


def test_tensor_and_parameter_subclasses(tmp_path: Path) -> None:
    tagged = torch.ones(3).as_subclass(Tagged)
    tagged.scale = torch.zeros(2)
    parameter = TaggedParameter(torch.ones(4))
    checkpoint = read(tmp_path / "sub.pt", saved({"t": tagged, "p": parameter, "last": torch.ones(1)}))
    assert [entry.name for entry in checkpoint.entries] == ["t", "p", "last"]
    value = checkpoint.entries[0].value
    assert isinstance(value, CompositeTensor)
    assert value.type_name.endswith(".Tagged")
    assert {part.name for part in value.parts} == {"data", "scale"}
    second = list(views_of(checkpoint.entries[1].value))
    assert [(info.shape, info.dtype.name) for info in second] == [((4,), "float32")]


def test_a_wrapper_subclass_rebuilt_from_its_parts(tmp_path: Path) -> None:
    """What a DTensor pickles to, by opcodes: no process group is needed."""
    outer = (
        op.named("torch.distributed.tensor:DTensor"),
        op.named("torch:float32"),
        (8, 4),
        (4, 1),
        0,
        op.call("torch.serialization:_get_layout", "torch.strided"),
        op.call("torch:device", "cuda", 0),
        False,
    )
    state = {
        "_local_tensor": op.tensor(size=(2, 2), stride=(2, 1)),
        "_spec": op.call("torch.distributed.tensor._dtensor_spec:DTensorSpec", 1),
    }
    code = op.call(
        "torch._tensor:_rebuild_from_type_v2",
        op.named("torch._utils:_rebuild_wrapper_subclass"),
        op.named("torch.distributed.tensor:DTensor"),
        outer,
        state,
    )
    (entry,) = read(tmp_path / "dtensor.pt", torch_zip(op.dump({"w": code}))).entries
    value = entry.value
    assert isinstance(value, CompositeTensor)
    assert (value.type_name, value.shape) == ("torch.distributed.tensor.DTensor", (8, 4))
    assert [part.name for part in value.parts] == ["_local_tensor"]


def test_a_subclass_with_a_rebuild_of_its_own_keeps_the_rest_of_the_file(tmp_path: Path) -> None:
    code = op.call(
        "torch._tensor:_rebuild_from_type_v2",
        op.named("my.lib:rebuild"),
        op.named("my.lib:Packed"),
        (op.tensor(),),
        op.push({}),
    )
    checkpoint = read(tmp_path / "own.pt", torch_zip(op.dump({"w": op.tensor(), "x": code})))
    assert ((), "w") in {(entry.root, entry.name) for entry in checkpoint.entries}
    assert ("my.lib", "rebuild") in {(ref.module, ref.name) for ref in checkpoint.globals}
    # The tensor that it is rebuilt from is not lost either.
    assert len(checkpoint.entries) == 2
