"""Bytes of tensors against torch's own contiguous() bytes, over hand-made storages and real containers."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.elements.bits import first_values
from ckpttool.files.strides import Block, Dim, iter_windows, merge_dims, stored_view
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import StorageRef, TensorInfo
from ckpttool.values.dtypes import BY_NAME, DType
from ckpttool.values.errors import MalformedCheckpoint, UnsupportedFeature
from sample_models.same_bytes import save_legacy
from tests.support.stored_bytes import PREFIX, SUFFIX, file_info

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")


# Every dtype of torch 2.13 that is not quantized and not a shell without any operation.
DTYPES = [
    dtype
    for dtype in BY_NAME.values()
    if hasattr(torch, dtype.name) and dtype.kind not in ("quantized", "bits") and not dtype.packed > 1
    if not (dtype.kind in ("int", "uint") and dtype.name.lstrip("uint") not in ("8", "16", "32", "64"))
]


STEPS = st.lists(
    st.sampled_from(["transpose", "narrow", "step", "expand", "select", "unfold", "unsqueeze"]), max_size=5
)


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """The logical elements, little-endian, as torch itself packs them."""
    packed = tensor.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return storage_bytes(packed)


def storage_bytes(tensor: torch.Tensor) -> bytes:
    view = torch.empty(0, dtype=torch.uint8)
    return bytes(view.set_(tensor.untyped_storage()).numpy())


def store(path: Path, tensor: torch.Tensor, *, big_endian: bool = False, deflate: bool = False) -> TensorInfo:
    """Write the storage of ``tensor`` into a file and describe the view."""
    dtype = BY_NAME[str(tensor.dtype).removeprefix("torch.")]
    data = storage_bytes(tensor)
    if big_endian:
        half = dtype.nbytes // 2 if dtype.kind == "complex" else dtype.nbytes
        data = b"".join(data[i : i + half][::-1] for i in range(0, len(data), half))
    packed = None
    if deflate:
        compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
        packed = compressor.compress(data) + compressor.flush()
    path.write_bytes(PREFIX + (data if packed is None else packed) + SUFFIX)
    storage = StorageRef(
        str(path),
        "0",
        len(PREFIX),
        len(data),
        big_endian=big_endian,
        compressed_nbytes=None if packed is None else len(packed),
    )
    return TensorInfo(
        dtype,
        tuple(tensor.shape),
        tuple(tensor.stride()),
        tensor.storage_offset(),
        storage,
        conj=tensor.is_conj(),
        neg=tensor.is_neg(),
    )


def read(path: Path, info: TensorInfo, chunk_nbytes: int = 1 << 20, stored: bool = False) -> bytes:
    with TensorReader([file_info(path)]) as reader:
        parts = []
        for chunk in reader.iter_chunks(stored_view(info) if stored else info, chunk_nbytes=chunk_nbytes):
            assert 0 < len(chunk) <= max(chunk_nbytes, info.dtype.nbytes)
            assert len(chunk) % info.dtype.nbytes == 0
            parts.append(bytes(chunk))
        return b"".join(parts)


def random_tensor(dtype: DType, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Random bits, but booleans that are 0 or 1 and halves that are no NaN (torch may quiet them)."""
    generator = torch.Generator().manual_seed(seed)
    torch_dtype = getattr(torch, dtype.name)
    if dtype.kind == "complex":
        halves = torch.randn((*shape, 2), generator=generator, dtype=torch.float64)
        part = {32: torch.float16, 64: torch.float32, 128: torch.float64}[dtype.bits]
        return torch.view_as_complex(halves.to(part))
    if dtype.kind == "bool":
        return torch.randint(0, 2, shape, generator=generator).bool()
    flat = torch.randint(0, 256, (math.prod(shape) * dtype.nbytes,), generator=generator, dtype=torch.uint8)
    return flat.view(torch_dtype).reshape(shape)


def random_view(tensor: torch.Tensor, steps: list[str], draw: Callable[[int, int], int]) -> torch.Tensor:
    for step in steps:
        dims = tensor.dim()
        if step == "unsqueeze" and dims < 6:
            tensor = tensor.unsqueeze(draw(0, dims))
        elif step == "expand" and dims < 6:
            tensor = tensor.unsqueeze(draw(0, dims))
            tensor = tensor.expand([3 if size == 1 else size for size in tensor.shape])
        elif dims == 0:
            continue
        elif step == "transpose":
            tensor = tensor.transpose(draw(0, dims - 1), draw(0, dims - 1))
        elif step == "unfold" and dims < 6:
            dim = draw(0, dims - 1)
            if tensor.shape[dim] >= 2:
                tensor = tensor.unfold(dim, draw(1, tensor.shape[dim]), draw(1, 2))
        else:
            dim = draw(0, dims - 1)
            size = tensor.shape[dim]
            if step == "narrow" and size:
                start = draw(0, size - 1)
                tensor = tensor.narrow(dim, start, draw(0 if start else 1, size - start))
            elif step == "step" and size:
                tensor = tensor[(slice(None),) * dim + (slice(draw(0, size - 1), None, draw(1, 3)),)]
            elif step == "select" and size:
                tensor = tensor.select(dim, draw(0, size - 1))
    return tensor


@settings(max_examples=400)
@given(data=st.data())
def test_any_view_of_any_dtype_reads_as_torch_packs_it(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
    base = random_tensor(dtype, shape, data.draw(st.integers(0, 99)))
    view = random_view(base, data.draw(STEPS), lambda low, high: data.draw(st.integers(low, max(low, high))))
    if dtype.kind == "complex" and dtype.bits > 32 and data.draw(st.booleans()):
        view = view.conj()
        if data.draw(st.booleans()):
            view = view.imag
    path = tmp_path_factory.getbasetemp() / "view.bin"
    info = store(path, view, big_endian=data.draw(st.booleans()), deflate=data.draw(st.booleans()))
    chunk_nbytes = data.draw(st.sampled_from([1, 7, 16, 64, 1000]))
    assert read(path, info, chunk_nbytes) == raw_bytes(view)


@settings(max_examples=300)
@given(data=st.data())
def test_stored_chunks_hold_each_stored_element_once_in_the_order_of_the_storage(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    base = torch.arange(math.prod(shape), dtype=torch.int32).reshape(shape)
    view = random_view(base, data.draw(STEPS), lambda low, high: data.draw(st.integers(low, max(low, high))))
    path = tmp_path_factory.getbasetemp() / "stored.bin"
    info = store(path, view)
    got = torch.frombuffer(bytearray(read(path, info, 64, stored=True)) or bytearray(4), dtype=torch.int32)
    wanted = sorted(set(view.flatten().tolist()))
    if not wanted:
        assert stored_view(info).numel == 0
    elif stored_view(info).numel == len(wanted):
        assert got.tolist() == wanted
    else:  # windows of a strided dimension: their whole span
        assert got.tolist() == list(range(wanted[0], wanted[-1] + 1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.int64, torch.complex128])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda x: x.t(), id="transposed"),
        pytest.param(lambda x: x.view(10, 30, 5, 8).contiguous(memory_format=torch.channels_last), id="nhwc"),
        pytest.param(lambda x: x.view(4, 5, 6, 100).permute(3, 1, 0, 2), id="permuted"),
        pytest.param(lambda x: x[:, 3:50], id="columns"),
        pytest.param(lambda x: x[::7, ::3], id="steps"),
        pytest.param(lambda x: x[0].expand(50, 100), id="expanded rows"),
        pytest.param(lambda x: x[:, :1].expand(120, 30), id="expanded columns"),
        pytest.param(lambda x: x[5, 5].expand(40, 50), id="expanded scalar"),
        pytest.param(lambda x: x.flatten().unfold(0, 7, 2), id="overlapping"),
        pytest.param(lambda x: x.as_strided((7, 11, 13), (2, 3, 5)), id="irregular overlap"),
        pytest.param(lambda x: x.diagonal(), id="diagonal"),
    ],
)
@pytest.mark.parametrize("chunk_nbytes", [32, 4096, 1 << 20])
@pytest.mark.parametrize("deflate", [False, True], ids=["stored", "deflated"])
def test_views_that_occur_in_every_chunk_size(
    tmp_path: Path,
    dtype: torch.dtype,
    make: Callable[[torch.Tensor], torch.Tensor],
    chunk_nbytes: int,
    deflate: bool,
) -> None:
    base = torch.arange(12000).reshape(120, 100).to(dtype)
    view = make(base)
    info = store(tmp_path / "x", view, deflate=deflate)
    assert read(tmp_path / "x", info, chunk_nbytes) == raw_bytes(view)


def test_conj_and_neg_are_resolved(tmp_path: Path) -> None:
    z = torch.randn(5, 4, dtype=torch.complex64)
    for name, view in {
        "conj": z.conj(),
        "neg": torch._neg_view(z),
        "both": torch._neg_view(z).conj(),
        "imag of conj": z.conj().imag,
        "real neg": torch._neg_view(torch.randn(3, 3, dtype=torch.bfloat16)),
    }.items():
        assert view.is_conj() or view.is_neg(), name
        info = store(tmp_path / "z", view)
        assert read(tmp_path / "z", info, 16) == raw_bytes(view), name
        assert read(tmp_path / "z", info, 16) != storage_bytes(view), name


def test_windows_cover_a_block_and_keep_to_their_width() -> None:
    dims = [Dim(5, 1, 12), Dim(3, 100, 4), Dim(4, 1000, 1)]
    block = Block(7, 60, dims)
    for window, gap in [(1, 0), (5, 0), (5, 1000), (205, 95), (400, 95), (10_000, 10_000)]:
        seen: dict[int, int] = {}
        for part in iter_windows(block, window, gap):
            assert part.span <= window
            items = [(part.start, part.out)]
            for dim in part.dims:
                items = [(s + i * dim.step, o + i * dim.out) for s, o in items for i in range(dim.size)]
            assert all(part.start <= s < part.start + part.span for s, _ in items)
            assert not seen.keys() & {o for _, o in items}
            seen.update((o, s) for s, o in items)
        assert sorted(seen) == list(range(60))
        assert seen[59] == 7 + 4 * 1 + 2 * 100 + 3 * 1000


def test_merge_dims_drops_ones_and_joins_what_is_packed() -> None:
    assert merge_dims((2, 3, 1, 4), (12, 4, 99, 1)) == [(24, 1)]
    assert merge_dims((2, 3, 4), (1, 8, 2)) == [(2, 1), (12, 2)]
    assert merge_dims((1, 1), (5, 7)) == []
    assert merge_dims((4, 5), (0, 0)) == [(20, 0)]


def test_a_petabyte_that_is_one_stored_number(tmp_path: Path) -> None:
    info = store(tmp_path / "x", torch.tensor([2.5]))
    huge = info._replace(shape=(10**9, 10**9), stride=(0, 0))
    with TensorReader([file_info(tmp_path / "x")]) as reader:
        chunk = next(reader.iter_chunks(huge, chunk_nbytes=4096))
        assert bytes(chunk) == bytes(torch.full((1024,), 2.5).numpy())
        once = [bytes(chunk) for chunk in reader.iter_chunks(stored_view(huge))]
        assert once == [bytes(torch.tensor([2.5]).numpy())]
        assert first_values(reader, huge, 3) == [2.5, 2.5, 2.5]
        overlapping = info._replace(shape=(10**9, 10**9), stride=(0, 10**9))
        with pytest.raises(MalformedCheckpoint, match="leaves its storage"):
            next(reader.iter_chunks(overlapping))


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    info = store(tmp_path / "x", torch.arange(8, dtype=torch.int32).view(2, 4))
    assert info.storage is not None
    with TensorReader([file_info(tmp_path / "x")]) as reader:
        for wrong, error in [
            (info._replace(storage=None), UnsupportedFeature),
            (info._replace(storage=info.storage._replace(location="meta")), UnsupportedFeature),
            (info._replace(neg=True), UnsupportedFeature),
            (info._replace(dtype=BY_NAME["quint4x2"], stride=(1, 2)), UnsupportedFeature),
            (info._replace(dtype=BY_NAME["quint4x2"], storage_offset=1), UnsupportedFeature),
            (info._replace(storage_offset=1), MalformedCheckpoint),
            (info._replace(storage_offset=-1), MalformedCheckpoint),
            (info._replace(storage_offset=7, stride=(-4, 1)), MalformedCheckpoint),
        ]:
            with pytest.raises(error):
                list(reader.iter_chunks(wrong))


def test_sub_byte_elements_are_read_where_they_are_packed(tmp_path: Path) -> None:
    info = store(tmp_path / "x", torch.tensor([0x21, 0x43, 0x65, 0x07, 0xF0, 0xFF], dtype=torch.uint8))
    with TensorReader([file_info(tmp_path / "x")]) as reader:

        def values(name: str, numel: int, count: int, offset: int = 0) -> list[object]:
            view = info._replace(dtype=BY_NAME[name], shape=(numel,), stride=(1,), storage_offset=offset)
            return list(first_values(reader, view, count))

        assert values("quint4x2", 7, 99) == [1, 2, 3, 4, 5, 6, 7]
        assert values("quint4x2", 5, 2, offset=2) == [3, 4]
        assert values("quint2x4", 6, 9) == [1, 0, 2, 0, 3, 0]
        # Two numbers an element: 1 -> 0.5, 2 -> 1.0, 7 -> 6.0 (OCP microscaling E2M1).
        assert values("float4_e2m1fn_x2", 4, 5) == [0.5, 1.0, 1.5, 2.0, 3.0]
        # 0x654321, 6 bits each from the low end: 33, 12, 20, 25.
        assert values("float6_e2m3fn", 8, 4) == [-0.125, 1.5, 3.0, 4.5]
        view = info._replace(dtype=BY_NAME["float6_e2m3fn"], shape=(8,), stride=(1,))
        assert [len(c) for c in reader.iter_chunks(view, chunk_nbytes=4)] == [3, 3]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_first_values_are_torch_tolist(tmp_path: Path, dtype: DType) -> None:
    tensor = random_tensor(dtype, (4, 6), seed=1).t()
    info = store(tmp_path / "x", tensor)
    wanted = tensor.double().flatten().tolist() if dtype.kind == "float" else tensor.flatten().tolist()
    with TensorReader([file_info(tmp_path / "x")]) as reader:
        for count in (0, 1, 5, 24, 100):
            got = first_values(reader, info, count)
            assert repr(got) == repr(wanted[:count])


def test_a_file_that_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    info = store(path, torch.arange(1000))
    known = file_info(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(MalformedCheckpoint, match="changed"), TensorReader([known]) as reader:
        list(reader.iter_chunks(info))

    known = file_info(path)
    with pytest.raises(MalformedCheckpoint, match="changed"), TensorReader([known]) as reader:
        list(reader.iter_chunks(info))
        os.utime(path, ns=(2, 2))

    known = file_info(path)
    with pytest.raises(MalformedCheckpoint, match="changed while"), TensorReader([known]) as reader:
        chunks = reader.iter_chunks(info, chunk_nbytes=800)
        next(chunks)
        os.truncate(path, 1000)
        list(chunks)

    path.unlink()
    os.mkfifo(path)
    with pytest.raises(MalformedCheckpoint, match="replaced"), TensorReader([known]) as reader:
        list(reader.iter_chunks(info))


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_more_files_than_descriptors_are_held_open(tmp_path: Path) -> None:
    infos = [store(tmp_path / str(n), torch.tensor([n])) for n in range(200)]
    before = open_descriptors()
    with TensorReader([file_info(tmp_path / str(n)) for n in range(200)]) as reader:
        for _ in range(2):
            assert [first_values(reader, info, 1) for info in infos] == [[n] for n in range(200)]
        assert open_descriptors() <= before + 64
    assert open_descriptors() == before


def tensors_of_every_shape() -> dict[str, torch.Tensor]:
    base = torch.randn(12, 20)
    return {
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "bool": torch.tensor([True, False]),
        "half": torch.randn(7).half(),
        "brain": torch.randn(3, 3).bfloat16(),
        "eight": torch.randn(40).to(torch.float8_e4m3fn),
        "base": base,
        "transposed": base.t(),
        "rows": base[3:5],
        "columns": base[:, 3:5],
        "tied": base,
        "expanded": torch.randn(1, 6).expand(9, 6),
        "nhwc": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "conj": torch.randn(4, 2, dtype=torch.complex64).conj(),
        "imag": torch.randn(4, 2, dtype=torch.complex64).conj().imag,
    }


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors", "deflated zip", "big-endian zip"])
def test_files_read_as_torch_loads_them(tmp_path: Path, container: str) -> None:
    tensors = tensors_of_every_shape()
    path = tmp_path / "model"
    if container == "safetensors":
        tensors = {name: t.resolve_conj().resolve_neg().clone() for name, t in tensors.items()}
        tensors = {name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
        safetensors.torch.save_file(tensors, path)
    elif container == "legacy":
        # torch's own legacy writer does not keep the conj and neg bits of these two.
        tensors = {name: t for name, t in tensors.items() if not (t.is_conj() or t.is_neg())}
        save_legacy(tensors, path)
    else:
        torch.save(tensors, path)
    if container == "deflated zip":
        rewrite_zip(path, zipfile.ZIP_DEFLATED, lambda name, data: data)
    if container == "big-endian zip":
        tensors = {"base": torch.randn(5, 3), "transposed": torch.arange(6).view(2, 3).t()}
        torch.save(tensors, path)
        item = {"data/0": 4, "data/1": 8}

        def swap(name: str, data: bytes) -> bytes:
            if name.endswith("byteorder"):
                return b"big"
            width = item.get(name.partition("/")[2], 1)
            return b"".join(data[i : i + width][::-1] for i in range(0, len(data), width))

        rewrite_zip(path, zipfile.ZIP_STORED, swap)
    checkpoint = read_checkpoint(str(path))
    assert {entry.name for entry in checkpoint.entries} == set(tensors)
    with TensorReader(checkpoint.files) as reader:
        for entry in checkpoint.entries:
            assert entry.tensor is not None
            got = b"".join(map(bytes, reader.iter_chunks(entry.tensor, chunk_nbytes=40)))
            assert got == raw_bytes(tensors[str(entry.name)]), entry.name


def rewrite_zip(path: Path, method: int, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as source:
        members = [(name, source.read(name)) for name in source.namelist()]
    with zipfile.ZipFile(path, "w", method) as target:
        for name, data in members:
            target.writestr(name, change(name, data))


MEMORY_SCRIPT = """
import resource, sys
from ckpttool.values.checkpoint import FileInfo, StorageRef, TensorInfo
from ckpttool.values.dtypes import BY_NAME
from ckpttool.files.tensor_bytes import TensorReader
import os
path, shape, stride, nbytes = sys.argv[1], *map(eval, sys.argv[2:5])
status = os.stat(path)
storage = StorageRef(path, "0", 0, status.st_size)
info = TensorInfo(BY_NAME["float32"], shape, stride, 0, storage)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = 0
with TensorReader([FileInfo.of(path, status)]) as reader:
    for chunk in reader.iter_chunks(info):
        total += len(chunk)
        if total >= nbytes:
            break
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert total >= nbytes, total
assert not {"torch", "numpy"} & set(sys.modules)
print(after - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "stride", "nbytes", "bound_mib"),
    [
        pytest.param((1 << 30,), (1,), 4 << 30, 12, id="contiguous, all of it"),
        pytest.param((1 << 15, 1 << 15), (1, 1 << 15), 128 << 20, 100, id="transposed"),
        pytest.param((1 << 20, 1 << 9, 2), (1 << 10, 1, 512), 64 << 20, 100, id="blocks"),
    ],
)
def test_memory_is_flat_over_a_sparse_file_of_4_gib(
    tmp_path: Path, shape: tuple[int, ...], stride: tuple[int, ...], nbytes: int, bound_mib: int
) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 4 << 30)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(path), repr(shape), repr(stride), str(nbytes)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20)),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1024 < bound_mib
