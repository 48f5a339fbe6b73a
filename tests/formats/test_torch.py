"""Every field of torch files against torch.load, over dtypes, shapes, layouts and containers."""

import itertools
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import Checkpoint, CompositeTensor, Entry, Kind, TensorInfo
from sample_models.same_bytes import save_legacy

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.complex128, torch.complex32,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu, torch.float4_e2m1fn_x2,
]  # fmt: skip
SHAPES = [(), (0,), (1,), (3, 4), (2, 0, 5), (2, 3, 4, 5)]


def make(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor with distinct bytes, of any dtype."""
    nbytes = math.prod(shape) * dtype.itemsize
    raw = (torch.arange(nbytes, dtype=torch.int64) * 37 % 251).to(torch.uint8)
    if dtype is torch.bool:
        raw %= 2
    return raw.view(dtype).reshape(shape)


def layouts(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same elements in other memory layouts, as far as the shape allows them."""
    made = {"contiguous": tensor}
    if tensor.dim() >= 2:
        made["transposed"] = tensor.transpose(0, 1)
        made["sliced"] = tensor[:, ::2]
    if tensor.dim() == 4:
        made["channels_last"] = tensor.contiguous(memory_format=torch.channels_last)
    if tensor.dim() >= 1 and tensor.shape[0] > 1:
        made["tail"] = tensor[1:]
    if tensor.dim() <= 2 and tensor.numel():
        made["expanded"] = tensor.expand(4, *tensor.shape)
    return made


@pytest.fixture(scope="module")
def grid() -> "OrderedDict[str, torch.Tensor]":
    state_dict = OrderedDict()
    for dtype, shape in itertools.product(DTYPES, SHAPES):
        for layout, tensor in layouts(make(dtype, shape)).items():
            state_dict[f"{dtype}.{'x'.join(map(str, shape))}.{layout}"] = tensor
    return state_dict


SAVES: dict[str, Callable[..., None]] = {
    "zip": torch.save,
    "legacy": save_legacy,
    **{f"zip protocol {n}": partial(torch.save, pickle_protocol=n) for n in (3, 4, 5)},
    **{
        f"legacy protocol {n}": partial(save_legacy, pickle_protocol=n)
        for n in (1, 3, 4, 5)  # protocol 0 turns persistent ids into text: torch cannot load that
    },
}


def tensor_of(entry: Entry) -> TensorInfo:
    assert isinstance(entry.value, TensorInfo)
    return entry.value


def stored_bytes(info: TensorInfo) -> bytes:
    """Bytes of the storage that the reader points at."""
    assert info.storage is not None
    with open(info.storage.file, "rb") as file:
        file.seek(info.storage.byte_offset)
        return file.read(info.storage.nbytes)


def assert_same(info: TensorInfo, tensor: torch.Tensor) -> None:
    assert info.dtype.name == str(tensor.dtype).removeprefix("torch.")
    assert info.shape == tuple(tensor.shape)
    assert info.stride == tensor.stride()
    assert info.storage_offset == tensor.storage_offset()
    assert info.numel == tensor.numel()
    assert info.nbytes == tensor.nbytes
    assert info.is_contiguous == tensor.is_contiguous()
    assert (info.conj, info.neg) == (tensor.is_conj(), tensor.is_neg())
    storage = tensor.untyped_storage()
    raw = stored_bytes(info)
    assert len(raw) == storage.nbytes()
    assert raw == bytes(torch.empty(0, dtype=torch.uint8).set_(storage).tolist())


@pytest.mark.parametrize("save", SAVES)
def test_every_field_is_what_torch_load_says(
    save: str, grid: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    legacy = "legacy" in save
    # The legacy writer has no storage class for the dtypes that came after it.
    chosen = {name: t for name, t in grid.items() if not legacy or t.dtype in DTYPES[:10]}
    path = tmp_path / "grid.pt"
    SAVES[save](chosen, path)
    checkpoint = read_checkpoint(str(path))
    loaded = torch.load(path, weights_only="protocol" not in save)
    assert [entry.name for entry in checkpoint.entries] == list(loaded)
    for entry in checkpoint.entries:
        assert entry.root == ()
        assert_same(tensor_of(entry), loaded[entry.name])
    assert checkpoint.format == ("torch_legacy" if legacy else "torch_zip")


@pytest.mark.parametrize("legacy", [False, True])
def test_ties_and_views_share_a_storage_as_in_torch(legacy: bool, tmp_path: Path) -> None:
    base = torch.arange(100.0)
    state = {"a": base, "b": base, "view": base[10:20], "other": torch.arange(100.0)}
    path = tmp_path / "ties.pt"
    save = save_legacy if legacy else torch.save
    save(state, path)
    by_name = {entry.name: tensor_of(entry) for entry in read_checkpoint(str(path)).entries}
    assert by_name["a"] == by_name["b"]
    assert by_name["view"].storage == by_name["a"].storage
    assert by_name["view"].storage_offset == 10
    assert by_name["view"].byte_span == (40, 80)
    assert by_name["other"].storage != by_name["a"].storage


def test_conj_and_neg_bits_are_kept(tmp_path: Path) -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j])
    path = tmp_path / "bits.pt"
    torch.save({"conj": tensor.conj(), "neg": torch._neg_view(torch.ones(3)), "plain": tensor}, path)
    loaded = torch.load(path, weights_only=True)
    for entry in read_checkpoint(str(path)).entries:
        assert_same(tensor_of(entry), loaded[entry.name])
    assert [tensor_of(e).conj for e in read_checkpoint(str(path)).entries] == [True, False, False]
    assert [tensor_of(e).neg for e in read_checkpoint(str(path)).entries] == [False, True, False]


def read_one(path: Path, value: object, **kwargs: object) -> Checkpoint:
    torch.save(value, path, **kwargs)
    return read_checkpoint(str(path))


def test_parameters_of_a_keep_vars_state_dict_are_known_but_not_exact(tmp_path: Path) -> None:
    module = torch.nn.BatchNorm1d(3)
    module.bias.requires_grad_(False)
    entries = {e.name: e for e in read_one(tmp_path / "kv.pt", module.state_dict(keep_vars=True)).entries}
    assert entries["weight"].declared.kind is Kind.PARAMETER
    assert entries["weight"].requires_grad is True
    assert entries["bias"].requires_grad is False
    assert entries["running_mean"].declared.kind is Kind.UNKNOWN
    # register_buffer("x", nn.Parameter(...)) is legal: the pickle cannot prove a kind.
    assert not entries["weight"].declared.exact


def test_metadata_versions_are_kept_under_their_root(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    torch.nn.utils.spectral_norm(module[1])
    checkpoint = read_one(tmp_path / "m.pt", {"epoch": 3, "net": {"state_dict": module.state_dict()}})
    expected = {k: v.get("version") for k, v in module.state_dict()._metadata.items()}
    assert dict(checkpoint.module_versions) == {("net", "state_dict"): expected}
    assert expected["0"] == 2
    assert dict(checkpoint.module_extras[("net", "state_dict")]["1"]) == {
        ("spectral_norm", "weight.version"): 1
    }


def test_a_training_checkpoint_keeps_every_key_and_value(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint = read_one(
        tmp_path / "train.pt",
        {
            "epoch": 7,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "a.b": {"c.d": 1.5},
            3: "three",
        },
    )
    roots = {(entry.root, entry.name) for entry in checkpoint.entries}
    assert (("model",), "weight") in roots
    assert (("optimizer", "state", 0), "exp_avg") in roots
    values = {(v.root, v.name): v.value for v in checkpoint.values}
    assert values[(), "epoch"] == 7
    assert values[("a.b",), "c.d"] == 1.5
    assert values[(), 3] == "three"
    assert values[("optimizer", "param_groups", 0), "params"] == (0, 1)
    assert values[("optimizer", "param_groups", 0), "betas"] == (0.9, 0.999)


class Outer(torch.nn.Module):
    """A module with one of each: the class is looked up by no reader."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(2, 3)
        self.again = self.first
        self.norm = torch.nn.BatchNorm1d(3)
        self.register_buffer("table", torch.arange(4), persistent=False)
        self.register_buffer("mask", torch.ones(2, dtype=torch.bool))
        self.register_buffer("later", None)
        self.plain = torch.zeros(5)


def test_a_whole_module_gives_exact_kinds_without_its_class(tmp_path: Path) -> None:
    module = Outer()
    path = tmp_path / "module.pt"
    torch.save({"net": module}, path)
    # The class is gone for whoever reads: rename it in the pickle to one that does not exist.
    renamed = tmp_path / "renamed.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(renamed, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"Outer", b"Gone_"))
    checkpoint = read_checkpoint(str(renamed))
    found = {entry.name: entry.declared for entry in checkpoint.entries}
    assert {entry.root for entry in checkpoint.entries} == {("net",)}
    state_dict = module.state_dict()
    assert set(found) - {"table", "plain"} == set(state_dict)
    for name, _ in module.named_parameters(remove_duplicate=False):
        assert (found[name].kind, found[name].exact) == (Kind.PARAMETER, True)
    for name in ("norm.running_mean", "norm.num_batches_tracked", "mask"):
        assert (found[name].kind, found[name].exact) == (Kind.PERSISTENT_BUFFER, True)
    assert found["table"].kind is Kind.NON_PERSISTENT_BUFFER
    assert found["plain"].kind is Kind.UNKNOWN
    types = {container.path: container.type_name for container in checkpoint.containers}
    assert types[("net",)].endswith("Gone_")
    assert types[("net", "norm")] == "torch.nn.modules.batchnorm.BatchNorm1d"


def composite(checkpoint: Checkpoint, name: str) -> CompositeTensor:
    value = next(entry.value for entry in checkpoint.entries if entry.name == name)
    assert isinstance(value, CompositeTensor)
    return value


@pytest.mark.filterwarnings("ignore")
def test_composite_tensors_are_described_with_their_parts(tmp_path: Path) -> None:
    dense = torch.arange(12.0).reshape(3, 4)
    state = {
        "per_tensor": torch.quantize_per_tensor(dense, 0.5, 3, torch.qint8),
        "per_channel": torch.quantize_per_channel(
            dense, torch.tensor([0.1, 0.2, 0.3]), torch.zeros(3, dtype=torch.int64), 0, torch.quint8
        ),
        "coo": dense.to_sparse(),
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "meta": torch.empty(5, 6, device="meta"),
        "last": dense,
    }
    checkpoint = read_one(tmp_path / "odd.pt", state)
    assert [entry.name for entry in checkpoint.entries] == list(state)
    quantized = composite(checkpoint, "per_tensor")
    assert (quantized.layout, quantized.shape) == ("quantized", (3, 4))
    assert dict(quantized.details) == {"qscheme": "torch.per_tensor_affine", "scale": 0.5, "zero_point": 3}
    part = quantized.parts[0].value
    assert isinstance(part, TensorInfo)
    assert stored_bytes(part) == bytes(state["per_tensor"].int_repr().view(torch.uint8).flatten().tolist())
    channel = composite(checkpoint, "per_channel")
    assert [p.name for p in channel.parts] == ["int_repr", "scale", "zero_point"]
    assert dict(channel.details)["axis"] == 0
    for layout, names in (
        ("coo", ["indices", "values"]),
        ("csr", ["crow_indices", "col_indices", "values"]),
        ("csc", ["ccol_indices", "row_indices", "values"]),
    ):
        sparse = composite(checkpoint, layout)
        assert sparse.layout == f"sparse_{layout}"
        assert (sparse.shape, sparse.dtype and sparse.dtype.name) == ((3, 4), "float32")
        assert [p.name for p in sparse.parts] == names
    nested = composite(checkpoint, "nested")
    assert [p.name for p in nested.parts] == ["buffer", "sizes", "strides", "storage_offsets"]
    meta = next(entry for entry in checkpoint.entries if entry.name == "meta")
    assert tensor_of(meta).storage is None
    assert tensor_of(meta).shape == (5, 6)


class Tagged(torch.Tensor):
    """A subclass that torch.save pickles by _rebuild_from_type_v2."""


def test_tensor_subclasses_and_attributes_are_described(tmp_path: Path) -> None:
    tagged = torch.arange(6.0).as_subclass(Tagged)
    tagged.scale = torch.tensor([2.0])
    plain = torch.zeros(2)
    plain.note = "an attribute"
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.sequence_parallel = True
    checkpoint = read_one(tmp_path / "sub.pt", {"tagged": tagged, "plain": plain, "parameter": parameter})
    value = composite(checkpoint, "tagged")
    assert value.layout == "subclass"
    assert value.type_name.endswith(".Tagged")
    assert [p.name for p in value.parts] == ["data", "scale"]
    by_name = {entry.name: entry for entry in checkpoint.entries}
    assert tensor_of(by_name["plain"]).shape == (2,)
    assert by_name["parameter"].declared.kind is Kind.PARAMETER


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_plain_pickle_of_tensors_has_addresses(protocol: int, tmp_path: Path) -> None:
    base = torch.arange(8.0)
    state = {"a": base, "b": torch.arange(3), "t": torch.arange(6.0).reshape(2, 3).t()}
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(state, protocol=protocol))
    checkpoint = read_checkpoint(str(path))
    assert checkpoint.format == "pickle"
    for entry in checkpoint.entries:
        assert_same(tensor_of(entry), state[entry.name])


def test_a_lazy_module_has_uninitialised_parameters(tmp_path: Path) -> None:
    lazy = torch.nn.LazyLinear(3)
    checkpoint = read_one(tmp_path / "lazy.pt", lazy.state_dict())
    assert {entry.name for entry in checkpoint.entries} == {"weight", "bias"}
    assert composite(checkpoint, "weight").layout == "uninitialized"
    assert composite(checkpoint, "weight").nbytes == 0


def test_a_sparse_file_of_5_gib_reads_its_header_only(tmp_path: Path) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    path = tmp_path / "big.pt"
    with FakeTensorMode():
        state = {"big": torch.empty(5 << 28), "after": torch.empty(3)}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(state, path)
    assert path.stat().st_size > 5 << 30
    checkpoint = read_checkpoint(str(path))
    big, after = map(tensor_of, checkpoint.entries)
    assert big.storage is not None and after.storage is not None
    assert big.storage.nbytes == 5 << 30
    assert after.storage.byte_offset > 5 << 30  # zip64: the offset does not fit 32 bits
    expected = torch.load(path, map_location="meta")
    assert big.storage.byte_offset == expected["big"].untyped_storage()._checkpoint_offset
    assert after.storage.byte_offset == expected["after"].untyped_storage()._checkpoint_offset


class Hoarder(torch.nn.Module):
    """Keeps tensors and modules where ``state_dict`` does not look."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(2, 2)
        self.cache = [torch.arange(3), {"deep": (torch.ones(2, 2),)}]
        self.unregistered = [torch.nn.Linear(2, 5)]
        self.owner = {"me": self, "head": [self.head]}


def test_tensors_in_lists_of_a_pickled_module_are_not_lost(tmp_path: Path) -> None:
    checkpoint = read_one(tmp_path / "hoarder.pt", Hoarder())
    found = {(entry.root, entry.name): entry for entry in checkpoint.entries}
    assert {name for root, name in found if root == ()} == {"head.weight", "head.bias"}
    assert tensor_of(found[("cache",), 0]).shape == (3,)
    assert tensor_of(found[("cache", 1, "deep"), 0]).shape == (2, 2)
    assert tensor_of(found[("unregistered", 0), "weight"]).shape == (5, 2)
    # What points back to the module itself does not list it again.
    assert len(checkpoint.entries) == 6
