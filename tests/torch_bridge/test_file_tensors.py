"""Bytes of files as tensors, and of tensors: torch.load and numpy say what they are."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.torch_bridge import tensors as room
from ckpttool.torch_bridge.tensors import (
    FileTensors,
    byte_view,
    cast_elements,
    has_bytes,
    has_values,
    is_lazy,
    is_parameter,
    is_plain,
    is_strided,
    is_tensor,
    same_bytes,
    torch_dtype,
    type_name,
    wide_views,
    wrap_bytes,
)
from ckpttool.values.checkpoint import (
    Checkpoint,
    Chunk,
    ChunkedTensor,
    CompositeTensor,
    Entry,
    FileInfo,
    Part,
    StorageRef,
    TensorInfo,
    packed_stride,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import MalformedCheckpoint, UnsupportedFeature
from sample_models.same_bytes import save_legacy
from tests.support.inspections import tensor

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*quantize.* deprecated", "ignore:Sparse .* tensor support", "ignore:The PyTorch API of nested",
    "ignore:ComplexHalf support",
)  # fmt: skip

DTYPES = [
    name for name, dtype in BY_NAME.items()
    if dtype.in_torch and dtype.kind in ("float", "complex", "int", "uint", "bool") and hasattr(torch, name)
    and name.rstrip("1234567") not in ("int", "uint") and dtype.packed == 1
]  # fmt: skip


def raw(value: torch.Tensor) -> tuple[Any, ...]:
    """Dtype, shape and bytes in row-major order, by numpy."""
    flat = value.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return value.dtype, tuple(value.shape), flat.reshape(-1).view(torch.uint8).numpy().tobytes()


def numbered(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """Bytes 0, 1, 2, …, as elements (of a bool 0 and 1)."""
    count = int(np.prod(shape)) * getattr(torch, dtype).itemsize
    data = torch.arange(count) % (2 if dtype == "bool" else 251)
    return data.to(torch.uint8).view(getattr(torch, dtype)).reshape(shape)


def state_of(dtype: str) -> dict[str, torch.Tensor]:
    whole = numbered((4, 6), dtype)
    state = {
        "whole": whole, "row": whole[2], "turned": whole.t(), "steps": whole[:, ::2], "scalar": whole[1, 1],
        "none": whole[:0], "own": numbered((3,), dtype), "empty": torch.empty(0, 3, dtype=whole.dtype),
        "wide": whole[0, :1].expand(3),
    }  # fmt: skip
    if whole.is_complex():
        state |= {"conj": whole.conj(), "turned conj": whole.t().conj(), "neg": torch._neg_view(whole)}
    return state


def deflate(path: Path) -> None:
    kept = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(kept) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            new.writestr(item.filename, old.read(item), zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize("container", ["zip", "legacy", "deflated"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_view_is_the_one_that_torch_loads(dtype: str, container: str, tmp_path: Path) -> None:
    path, state = tmp_path / "a.pt", state_of(dtype)
    if container == "legacy" and BY_NAME[dtype].storage is None:
        return  # which torch itself cannot read
    (save_legacy if container == "legacy" else torch.save)(state, path)
    if container == "deflated":
        deflate(path)
    checkpoint = read_checkpoint(str(path))
    files, loaded = FileTensors(checkpoint), state if container == "deflated" else torch.load(path)
    given = {str(entry.name): files.tensor(entry) for entry in checkpoint.entries}
    assert list(given) == list(state)
    for name, value in given.items():
        other = loaded[name]
        assert raw(value) == raw(other), name
        assert (value.stride(), value.storage_offset()) == (other.stride(), other.storage_offset()) or (
            not other.numel()
        )
        if value.numel():
            assert value.untyped_storage().nbytes() == other.untyped_storage().nbytes()
        assert (value.is_conj(), value.is_neg(), value.device.type) == (
            other.is_conj(),
            other.is_neg(),
            "cpu",
        )
    # What shares a storage in the file shares one here, and nothing else does.
    places = {name: value.untyped_storage().data_ptr() for name, value in given.items() if value.numel()}
    assert {name for name, at in places.items() if at == places["whole"]} == set(places) - {"own"}


def test_what_a_map_gives_is_private(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(4), "b": torch.arange(6, dtype=torch.int16)}, path)
    before = path.read_bytes()
    checkpoint = read_checkpoint(str(path))
    files = FileTensors(checkpoint)
    given = {str(entry.name): files.tensor(entry) for entry in checkpoint.entries}
    assert {name: raw(value) for name, value in given.items()} == {
        "a": raw(torch.ones(4)), "b": raw(torch.arange(6, dtype=torch.int16))
    }  # fmt: skip
    given["a"].fill_(3)
    assert path.read_bytes() == before
    assert files.tensor(checkpoint.entries[0]) is not files.tensor(checkpoint.entries[0])


def test_what_is_held_in_memory_is_known_before(tmp_path: Path) -> None:
    path = tmp_path / "x"
    mapped = StorageRef(str(path), "0", 5, 48, "cpu")
    files = made(bytes(64), path)
    assert not files.copies(mapped)
    assert files.copies(mapped._replace(big_endian=True)) and files.copies(
        mapped._replace(compressed_nbytes=0)
    )
    for dtype in ("complex128", "complex64", "float64"):
        for offset in (0, 1, 8, 15, 16, 32):
            storage = mapped._replace(byte_offset=offset)
            files = made(bytes(64), path, Entry((), "a", TensorInfo(BY_NAME[dtype], (3,), (1,), 0, storage)))
            assert files.copies(storage) is (dtype == "complex128" and offset % 16 != 0)
            assert not files.copies(storage._replace(key="1"))


def test_views_of_one_storage_share_it_though_only_one_of_them_must_be_aligned(tmp_path: Path) -> None:
    path, whole = tmp_path / "x", torch.arange(6.0, dtype=torch.float64).view(torch.complex128)
    storage = StorageRef(str(path), "0", 5, 48, "cpu")
    wide = Entry((), "a", TensorInfo(BY_NAME["complex128"], (3,), (1,), 0, storage))
    narrow = Entry((), "b", TensorInfo(BY_NAME["float64"], (6,), (1,), 0, storage))
    for order in ((wide, narrow), (narrow, wide)):
        files = made(b"ahead" + raw(whole)[2], path, *order)
        given = {str(entry.name): files.tensor(entry) for entry in order}
        assert raw(given["a"].clone()) == raw(whole)
        assert torch.equal(given["b"], torch.arange(6.0, dtype=torch.float64))
        assert given["a"].data_ptr() == given["b"].data_ptr()


def test_a_file_is_mapped_once_however_many_storages_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save([torch.ones(2) for _ in range(5)], tmp_path / "a.pt")
    checkpoint, mapped = read_checkpoint(str(tmp_path / "a.pt")), []
    plain = torch.UntypedStorage.from_file

    def counted(path: str, shared: bool, nbytes: int) -> Any:
        mapped.append((path, shared, nbytes))
        return plain(path, shared, nbytes)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", counted)
    files = FileTensors(checkpoint)
    assert [files.tensor(entry).tolist() for entry in checkpoint.entries] == [[1, 1]] * 5
    path = tmp_path / "a.pt"
    assert mapped == [(str(path), False, path.stat().st_size)]


def made(data: bytes, path: Path, *entries: Entry, format: str = "torch_zip") -> FileTensors:
    path.write_bytes(data)
    return FileTensors(
        Checkpoint(str(path), format, "", (FileInfo.of(str(path), path.stat()),), tuple(entries))
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_other_byte_order_is_turned_once_for_each_dtype(dtype: str, tmp_path: Path) -> None:
    path, kind = tmp_path / "x", BY_NAME[dtype]
    wanted = numbered((2, 3), dtype)
    part = kind.nbytes // (2 if kind.kind == "complex" else 1)
    stored = np.frombuffer(raw(wanted)[2], np.uint8).reshape(-1, part)[:, ::-1].tobytes()
    storage = StorageRef(str(path), "0", 5, len(stored), "cpu", big_endian=True)
    info = TensorInfo(kind, (2, 3), (3, 1), 0, storage)
    files = made(b"ahead" + stored + b"behind", path)
    first, turned = files.tensor(Entry((), "a", info)), info._replace(shape=(3, 2), stride=(1, 3))
    assert (raw(first), raw(files.tensor(Entry((), "b", turned)))) == (raw(wanted), raw(wanted.t()))
    empty = info._replace(shape=(0,), stride=(1,), storage=storage._replace(nbytes=0))
    assert raw(files.tensor(Entry((), "c", empty))) == raw(torch.empty(0, dtype=wanted.dtype))


def test_a_tensor_in_chunks_is_put_together(tmp_path: Path) -> None:
    path, whole = tmp_path / "x", torch.arange(12, dtype=torch.int32).view(4, 3)
    data = b"".join(raw(piece)[2] for piece in (whole[:1], whole[1:]))

    def piece(at: int, *shape: int) -> TensorInfo:
        numel = int(np.prod(shape))
        return TensorInfo(
            BY_NAME["int32"], shape, packed_stride(shape), 0, StorageRef(str(path), str(at), at, 4 * numel)
        )

    value = ChunkedTensor(
        BY_NAME["int32"], (4, 3), (Chunk((0, 0), piece(0, 1, 3)), Chunk((1, 0), piece(12, 3, 3)))
    )
    assert raw(made(data, path).tensor(Entry((), "a", value))) == raw(whole)


# ------------------------------------------------------------------------------------ what has no tensor


def refused(files: FileTensors, entry: Entry) -> tuple[str, str | None, str | None]:
    with pytest.raises(UnsupportedFeature) as caught:
        files.tensor(entry)
    return caught.value.what, caught.value.path, caught.value.hint


def test_what_cannot_be_a_tensor_is_said_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files = made(bytes(64), path, format="safetensors")
    storage = StorageRef(str(path), "0", 0, 48)
    no_data = ("entry 'a' has no data in the file", str(path), None)
    for value in (None, tensor()._replace(storage=None), tensor(location="meta")):
        assert refused(files, Entry((), "a", value)) == no_data
    six = TensorInfo(BY_NAME["float6_e2m3fn"], (8,), (1,), 0, storage)
    assert refused(files, Entry((), "a", six)) == (
        f"torch {torch.__version__} has no dtype float6_e2m3fn", None, None
    )  # fmt: skip
    lazy = CompositeTensor("uninitialized", "t", None, None, ())
    assert refused(files, Entry((), 3, lazy)) == (
        "entry '3' is an uninitialised tensor of a lazy module: it has no values", str(path),
        "run one forward pass before saving, so that the lazy modules know their shapes",
    )  # fmt: skip
    for layout, article in (("quantized", "a"), ("export", "an")):
        other = CompositeTensor(layout, "t", BY_NAME["qint8"], (2,), (Part("data", tensor()),))
        assert refused(files, Entry((), "q", other)) == (
            f"entry 'q' is {article} {layout} tensor", str(path), None
        )  # fmt: skip


COMPOSITES = {
    "sparse_coo": lambda: torch.eye(3).to_sparse(),
    "sparse_csr": lambda: torch.eye(3).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.5, 1, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


@pytest.mark.parametrize("layout", COMPOSITES)
@pytest.mark.parametrize("root", [(), ("model", "state_dict"), ("list", 1)])
def test_tensors_of_parts_are_put_together_by_torch(layout: str, root: Any, tmp_path: Path) -> None:
    value = COMPOSITES[layout]()
    held: Any = {"w": value, "plain": torch.ones(2)}
    for key in reversed(root):
        held = [0, held] if key == 1 else {key: held}
    torch.save(held, tmp_path / "a.pt")
    checkpoint = read_checkpoint(str(tmp_path / "a.pt"))
    files = FileTensors(checkpoint)
    [entry] = [entry for entry in checkpoint.entries if entry.name == "w"]
    given = files.tensor(entry)
    assert (given.layout, given.is_nested, given.is_quantized) == (
        value.layout, value.is_nested, value.is_quantized
    )  # fmt: skip
    if layout != "nested":
        dense = [item.dequantize() if layout == "quantized" else item.to_dense() for item in (given, value)]
        assert torch.equal(*dense)
    assert files.tensor(entry) is given  # the file is loaded once
    what = f"entry 'w' is a {layout} tensor"
    for odd in (entry._replace(root=("nowhere",)), entry._replace(root=(*root, "plain"))):
        reason = refused(files, odd)[0]
        assert reason.startswith(f"{what}, and torch does not load the file: ") and len(reason) < 300
    (tmp_path / "a.pt").write_bytes(b"")
    again = FileTensors(checkpoint)
    assert refused(again, entry)[0].startswith(f"{what}, and torch does not load the file: ")


def test_what_torch_finds_in_its_place_must_be_a_tensor(tmp_path: Path) -> None:
    torch.save({"w": 3}, tmp_path / "a.pt")
    checkpoint = read_checkpoint(str(tmp_path / "a.pt"))
    entry = Entry((), "w", CompositeTensor("quantized", "t", None, None, ()))
    assert refused(FileTensors(checkpoint), entry) == (
        "entry 'w' is a quantized tensor", str(tmp_path / "a.pt"), None
    )  # fmt: skip


def test_a_file_that_changed_is_not_mapped(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files = made(bytes(64), path)
    info = TensorInfo(BY_NAME["float32"], (4,), (1,), 0, StorageRef(str(path), "0", 0, 16))
    path.write_bytes(bytes(65))
    with pytest.raises(MalformedCheckpoint, match="changed"):
        files.tensor(Entry((), "a", info))


# ------------------------------------------------------------------------------------------ bytes


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_elements_are_wrapped_and_nothing_is_copied(dtype: str) -> None:
    wanted = numbered((2, 3), dtype)
    data = bytearray(raw(wanted)[2])
    value = wrap_bytes(tensor((2, 3), dtype), data)
    assert raw(value) == raw(wanted)
    assert value.data_ptr() == torch.frombuffer(data, dtype=torch.uint8).data_ptr()
    for shape in ((0,), (2, 0)):
        assert raw(wrap_bytes(tensor(shape, dtype), bytearray())) == (wanted.dtype, shape, b"")
    assert torch_dtype(tensor((1,), dtype)) is wanted.dtype


def test_elements_without_a_quantizer_or_a_dtype_are_refused() -> None:
    with pytest.raises(UnsupportedFeature, match=r"^qint8 elements without their quantizer$"):
        wrap_bytes(tensor((2,), "qint8"), bytearray(2))
    with pytest.raises(UnsupportedFeature, match=r"has no dtype float6_e3m2fn$"):
        wrap_bytes(tensor((8,), "float6_e3m2fn"), bytearray(6))


def test_names_of_dtypes_and_layouts() -> None:
    assert [type_name(kind) for kind in (torch.float32, torch.sparse_coo, torch.strided)] == [
        "float32", "sparse_coo", "strided"
    ]  # fmt: skip


@settings(max_examples=150)
@given(
    st.integers(0, 40), st.integers(0, 9), st.integers(0, 9), st.none() | st.integers(0, 39), st.booleans()
)
def test_bytes_are_equal_wherever_they_begin(
    size: int, left: int, right: int, place: int | None, wide: bool
) -> None:
    data = (np.arange(size) * 7 % 256).astype(np.uint8)
    other = data.copy()
    if place is not None and size:
        other[place % size] ^= 1
    a, b = (torch.zeros(64, dtype=torch.uint8)[at : at + size] for at in (left, right))
    a.copy_(torch.from_numpy(data))
    b.copy_(torch.from_numpy(other))
    assert same_bytes(a, b) is bool((data == other).all())
    both = wide_views(a, b)
    eights = size % 8 == 0 and left % 8 == 0 and right % 8 == 0
    assert {view.dtype for view in both} == {torch.int64 if eights else torch.uint8}
    assert [view.numel() for view in both] == [size // 8 if eights else size] * 2
    assert not wide or torch.equal(*both) is bool((data == other).all())


def test_bytes_of_other_shapes_and_dtypes_are_not_equal() -> None:
    zero = torch.zeros(4)
    assert same_bytes(zero, zero.clone())
    for other in (zero.view(2, 2), zero.int(), zero.double(), zero[:3], -zero, zero.view(4, 1)):
        assert not same_bytes(zero, other)
    nan = torch.tensor([float("nan")])
    assert same_bytes(nan, nan.clone()) and same_bytes(zero[:0], zero.clone()[:0])


@pytest.mark.parametrize("dtype", ["float32", "complex64", "int16", "bool", "float8_e4m3fn"])
def test_the_bytes_of_a_view_are_its_elements_in_order(dtype: str) -> None:
    for name, value in state_of(dtype).items():
        flat = byte_view(value)
        assert (flat.dtype, flat.ndim, flat.numpy().tobytes()) == (torch.uint8, 1, raw(value)[2]), name
    whole = numbered((4, 6), dtype)
    assert byte_view(whole).data_ptr() == whole.data_ptr()
    assert not byte_view(nn.Parameter(torch.ones(2))).requires_grad


class Sub(torch.Tensor):
    """A class around a plain tensor."""


class Flattens(torch.Tensor):
    def __tensor_flatten__(self) -> Any:
        return [], None


@pytest.mark.parametrize(
    ("value", "expected"),
    [  # strided, plain, tensor, lazy, parameter, values, bytes
        (lambda: torch.ones(2), "1110011"), (lambda: torch.ones(0), "1110010"),
        (lambda: torch.ones(()), "1110011"),
        (lambda: nn.Parameter(torch.ones(2)), "1110111"), (lambda: torch.ones(2, device="meta"), "1110000"),
        (lambda: torch.eye(2).to_sparse(), "0010000"), (lambda: torch.eye(2).to_sparse_csr(), "0010000"),
        (COMPOSITES["quantized"], "1010000"), (COMPOSITES["nested"], "0010000"),
        (lambda: nn.LazyLinear(2).weight, "1111100"), (lambda: nn.UninitializedBuffer(), "1111000"),
        (lambda: torch.ones(2).as_subclass(Sub), "1110011"),
        (lambda: torch.ones(2).as_subclass(Flattens), "0010000"),
        (lambda: nn.Buffer(torch.ones(2)), "1110011"),
    ],
)  # fmt: skip
def test_what_each_question_answers_of_each_kind_of_tensor(value: Any, expected: str) -> None:
    made_ = value()
    questions = [is_strided, is_plain, is_tensor, is_lazy, is_parameter, has_values, has_bytes]
    found = "".join(str(int(bool(ask(made_)))) for ask in questions if ask not in (is_strided, is_plain))
    assert found == expected[2:]
    if expected[3] == "0":
        assert f"{int(is_strided(made_))}{int(is_plain(made_))}" == expected[:2]


@pytest.mark.parametrize("value", [None, 3, "text", [torch.ones(2)], np.ones(2), torch.float32])
def test_what_is_no_tensor_is_none(value: Any) -> None:
    assert not any(ask(value) for ask in (is_tensor, is_lazy, is_parameter, has_values, has_bytes))


# ------------------------------------------------------------------------------------------ casts


FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


@pytest.mark.parametrize("after", FLOATS)
@pytest.mark.parametrize("before", FLOATS)
@pytest.mark.parametrize("block", [4, 1 << 16])
def test_elements_are_cast_as_torch_rounds_them(
    before: str, after: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_BLOCK", block)
    numbers = [0.0, -0.0, 1.0, 1 / 3, -2.5, 1e-3, 448.0, 1e5, float("inf"), float("nan"), 7.0]
    source = torch.tensor(numbers, dtype=torch.float64).to(getattr(torch, before))
    wanted = source.to(getattr(torch, after))
    threads = torch.get_num_threads()
    data = bytearray(source.view(torch.uint8).numpy().tobytes())
    packed, loss = cast_elements(memoryview(data), BY_NAME[before], BY_NAME[after])
    assert bytes(packed) == wanted.view(torch.uint8).numpy().tobytes()
    assert torch.get_num_threads() == threads
    exact = list(zip(source.double().tolist(), wanted.double().tolist(), strict=True))
    assert loss.numel == len(numbers)
    assert loss.overflow == sum(math.isfinite(a) and not math.isfinite(b) for a, b in exact)
    assert loss.underflow == sum(a != 0 and b == 0 for a, b in exact)
    relative = [abs((b - a) / a) for a, b in exact if a and b and math.isfinite(a) and math.isfinite(b)]
    assert loss.max_relative == pytest.approx(max(relative), rel=1e-5)
    unjudged = cast_elements(memoryview(data), BY_NAME[before], BY_NAME[after], judge=False)
    assert (bytes(unjudged[0]), unjudged[1]) == (bytes(packed), type(loss)())
