"""TorchScript archives: torch.jit.load(...).state_dict() is the oracle; code that lies decides nothing."""

import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.formats.base import Limits
from ckpttool.formats.torchscript.code import parse_class_headers
from ckpttool.values.checkpoint import Basis, Checkpoint, CompositeTensor, Entry, Kind, TensorInfo, Value
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint, UnsupportedFeature
from tests.support.stored import elements, raw_bytes

pytestmark = pytest.mark.filterwarnings("ignore:Lite Interpreter is deprecated")


class Block(nn.Module):
    """One of everything that a module can own."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 4)
        self.register_buffer("persistent", torch.arange(4.0))
        self.register_buffer("missing_elsewhere", torch.ones(2, 2, dtype=torch.int64), persistent=False)
        self.register_buffer("absent", None)
        self.plain = torch.zeros(3)
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.scalar = nn.Parameter(torch.tensor(2.5, dtype=torch.bfloat16), requires_grad=False)
        self.steps = 7

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.lin(x) + self.persistent + self.plain.sum() + self.missing_elsewhere.sum()
        return y + self.steps + self.scalar + self.empty.sum() + torch.tensor([1.0, 2.0, 3.0, 4.0])


class Model(nn.Module):
    """Blocks, a submodule under two names, tied and transposed weights, a buffer that views a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.transposed = nn.Parameter(torch.randn(4, 3).t())
        self.a = Block()
        self.b = Block()
        self.shared = self.a.lin
        self.tied = self.transposed
        self.seq = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.again = self.seq[0].weight
        self.view = nn.Buffer(self.seq[0].weight.detach()[1])
        self.pair = [torch.ones(2), torch.zeros(1)]
        self.label = "hi"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.seq(self.a(x) + self.b(x) + self.shared(x)) + self.transposed.sum() + self.tied.sum()
        return y + self.again.sum() + self.view.sum() + self.pair[0].sum()


class Containers(nn.Module):
    """Tensors in typed containers: no part of a state_dict."""

    named: dict[str, torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.named = {"a.b": torch.ones(2)}
        self.nested = (torch.ones(2), [torch.zeros(1)])
        self.maps = [{"key": torch.ones(3)}]
        self.ints = [1, 2, 3]
        self.floats = [1.5]
        self.flags = [True]
        self.words = ["x"]
        self.register_buffer("buffer", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + self.named["a.b"].sum() + self.nested[0].sum() + self.maps[0]["key"].sum()
        return y + self.buffer.sum() + self.ints[0] + self.floats[0] + len(self.words) + len(self.flags)


class RestoresItself(nn.Module):
    """Its pickled state is what ``__getstate__`` returns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return (self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]


def save_scripted(module: nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.script(module.eval()), str(path))
    return path


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_scripted(Model(), tmp_path_factory.mktemp("scripted") / "model.pt")


def traced(folder: Path) -> Path:
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval()
    torch.jit.save(torch.jit.trace(module, torch.randn(1, 3, 2, 2)), str(folder / "traced.pt"))
    return folder / "traced.pt"


def lite(folder: Path) -> Path:
    torch.jit.script(Model().eval())._save_for_lite_interpreter(str(folder / "model.ptl"))
    return folder / "model.ptl"


def lstm(folder: Path) -> Path:
    return save_scripted(nn.LSTM(3, 4, num_layers=2, bidirectional=True), folder / "lstm.pt")


def containers(folder: Path) -> Path:
    return save_scripted(Containers(), folder / "containers.pt")


def frozen(folder: Path) -> Path:
    torch.jit.save(torch.jit.freeze(torch.jit.script(Model().eval())), str(folder / "frozen.pt"))
    return folder / "frozen.pt"


def scripted_model(folder: Path) -> Path:
    return save_scripted(Model(), folder / "scripted.pt")


def state_dict_entries(checkpoint: Checkpoint) -> dict[str, Entry]:
    return {str(entry.name): entry for entry in checkpoint.entries if entry.root == ()}


@pytest.mark.parametrize("make", [scripted_model, traced, lite, lstm, containers, frozen])
def test_the_root_is_exactly_the_state_dict(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    checkpoint = read_checkpoint(str(path))
    # torch reads lite files as TorchScript too: they carry both forms.
    loaded = torch.jit.load(str(path))
    state_dict = loaded.state_dict()
    entries = state_dict_entries(checkpoint)
    assert list(entries) == list(state_dict)
    # named_* lists a shared tensor once, so kinds are looked up by identity of the storage and view.
    parameters = {(t.data_ptr(), t.shape, t.stride()) for t in loaded.parameters() if t.numel()}
    for name, tensor in state_dict.items():
        entry = entries[name]
        info = entry.tensor
        assert info is not None
        assert info.dtype.name == str(tensor.dtype).removeprefix("torch.")
        assert (info.shape, info.stride) == (tuple(tensor.shape), tensor.stride())
        assert info.storage_offset == tensor.storage_offset()
        assert raw_bytes(elements(info)) == raw_bytes(tensor)
        if tensor.numel():
            is_parameter = (tensor.data_ptr(), tensor.shape, tensor.stride()) in parameters
            assert entry.declared.kind is (Kind.PARAMETER if is_parameter else Kind.PERSISTENT_BUFFER)
        assert entry.declared.exact


def test_kinds_flags_and_ties_of_a_scripted_model(scripted: Path) -> None:
    checkpoint = read_checkpoint(str(scripted))
    assert (checkpoint.format, checkpoint.layout) == ("torchscript", "scripted module")
    entries = state_dict_entries(checkpoint)
    assert entries["a.empty"].declared.kind is Kind.PARAMETER
    # register_buffer(..., persistent=False): TorchScript saves it, and its state_dict has it.
    assert entries["a.missing_elsewhere"].declared.kind is Kind.PERSISTENT_BUFFER
    assert entries["a.missing_elsewhere"].declared.basis is Basis.TORCHSCRIPT
    assert "a.absent" not in entries
    assert (entries["a.scalar"].requires_grad, entries["a.empty"].requires_grad) == (False, True)
    assert entries["tied"].tensor == entries["transposed"].tensor
    assert entries["shared.weight"].tensor == entries["a.lin.weight"].tensor
    assert entries["a.lin.weight"].tensor != entries["b.lin.weight"].tensor
    view, whole = entries["view"].tensor, entries["seq.0.weight"].tensor
    assert view is not None and whole is not None
    assert view.storage == whole.storage
    assert view.storage_offset == 4


def test_other_attributes_stand_apart(scripted: Path) -> None:
    checkpoint = read_checkpoint(str(scripted))
    others = {(entry.root, entry.name): entry for entry in checkpoint.entries if entry.root != ()}
    assert set(others) == {
        (("attributes",), "a.plain"),
        (("attributes",), "b.plain"),
        (("attributes", "pair"), 0),
        (("attributes", "pair"), 1),
    }
    assert {entry.declared.kind for entry in others.values()} == {Kind.UNKNOWN}
    assert set(checkpoint.values) == {
        Value(("attributes",), "a.steps", 7),
        Value(("attributes",), "b.steps", 7),
        Value(("attributes",), "label", "hi"),
    }


def test_typed_containers_read_as_containers(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(str(containers(tmp_path)))
    found = {(entry.root, entry.name): entry.value.shape for entry in checkpoint.entries if entry.value}
    assert found == {
        ((), "buffer"): (2,),
        (("attributes", "named"), "a.b"): (2,),
        (("attributes", "nested"), 0): (2,),
        (("attributes", "nested", 1), 0): (1,),
        (("attributes", "maps", 0), "key"): (3,),
    }
    values = {value.name: value.value for value in checkpoint.values}
    assert values == {"ints": (1, 2, 3), "floats": (1.5,), "flags": (True,), "words": ("x",)}
    assert checkpoint.opaque == ()


def test_frozen_weights_are_constants(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(str(frozen(tmp_path)))
    assert {entry.root for entry in checkpoint.entries} == {("constants",)}
    assert {entry.declared.kind for entry in checkpoint.entries} == {Kind.UNKNOWN}
    with zipfile.ZipFile(tmp_path / "frozen.pt") as archive:
        stored = {
            name: archive.getinfo(name).file_size for name in archive.namelist() if "/constants/" in name
        }
    sizes = [entry.value.nbytes for entry in checkpoint.entries if isinstance(entry.value, TensorInfo)]
    assert sorted(sizes) == sorted(stored.values())


def test_a_lite_interpreter_file_says_so(tmp_path: Path) -> None:
    assert read_checkpoint(str(lite(tmp_path))).layout == "lite interpreter"


def test_a_module_without_tensors_has_no_entries(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.ReLU()), str(tmp_path / "relu.pt"))
    checkpoint = read_checkpoint(str(tmp_path / "relu.pt"))
    assert (checkpoint.format, checkpoint.entries) == ("torchscript", ())


@pytest.mark.parametrize("inside", [False, True])
def test_a_module_that_restores_itself_has_no_names(inside: bool, tmp_path: Path) -> None:
    module = nn.Sequential(RestoresItself()) if inside else RestoresItself()
    checkpoint = read_checkpoint(str(save_scripted(module, tmp_path / "m.pt")))
    (entry,) = checkpoint.entries
    assert entry.root == (("attributes", "0", "state") if inside else ("attributes", "state"))
    assert entry.declared.kind is Kind.UNKNOWN
    assert isinstance(entry.value, TensorInfo)
    assert entry.value.shape == (3,)


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="no fbgemm engine")
@pytest.mark.filterwarnings("ignore:.*quantiz.*:DeprecationWarning", "ignore:.*quantiz.*:UserWarning")
def test_packed_weights_are_described(tmp_path: Path) -> None:
    module = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 4)), {nn.Linear})
    checkpoint = read_checkpoint(str(save_scripted(module, tmp_path / "q.pt")))
    weight, bias = (entry.value for entry in checkpoint.entries)
    assert isinstance(weight, CompositeTensor)
    assert (weight.layout, weight.shape) == ("quantized", (4, 3))
    assert bias is not None
    assert bias.shape == (4,)


@pytest.mark.parametrize("names", [["m/model.json", "m/version", "m/tensors/0"], ["m/model.json"]])
def test_archives_of_torch_1_0_are_recognised(names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    with pytest.raises(UnsupportedFeature, match=r"torch 1\.0 to 1\.3"):
        read_checkpoint(str(path))


# ---------------------------------------------------------------------------------------------- hostile files


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Copy a zip member by member; ``change`` gives the new bytes, or None to leave it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


def replace_in_code(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        return data.replace(old.encode(), new.encode()) if name.endswith(".py") else data

    return change


LIES = {
    "list said twice": ('  __buffers__ = ["view", ]\n', '  __buffers__ = ["view", ]\n  __buffers__ = []\n'),
    "class said twice": (
        "class Block(Module):\n",
        "class Model(Module):\n  __parameters__ = []\nclass Block(Module):\n",
    ),
    "a string over lines": (
        "class Block(Module):\n",
        '"""\nclass Block(Module):\n"""\nclass Block(Module):\n',
    ),
    "continued line": ("class Model(Module):\n", "class Model(Module):\\\n\n"),
    "evaluated list": (
        '__parameters__ = ["transposed", ',
        '__parameters__ = ["a" "b", ] + [__import__("os"), ',
    ),
    "escaped name": ('__parameters__ = ["transposed", ', '__parameters__ = ["trans\\x70osed", '),
    "no lists": ("__parameters__", "__parametres__"),
}


@pytest.mark.parametrize("lie", LIES)
def test_code_that_torch_would_not_print_decides_nothing(lie: str, scripted: Path, tmp_path: Path) -> None:
    path = rewrite(scripted, tmp_path / "lie.pt", replace_in_code(*LIES[lie]))
    entries = state_dict_entries(read_checkpoint(str(path)))
    assert set(entries) >= set(state_dict_entries(read_checkpoint(str(scripted))))
    for name in ("transposed", "tied", "view"):
        declared = entries[name].declared
        assert declared.kind in (Kind.UNKNOWN, Kind.PARAMETER)
        if lie == "list said twice":
            assert declared.kind is (Kind.UNKNOWN if name == "view" else Kind.PARAMETER)
        else:
            assert (declared.kind, declared.basis, declared.exact) == (Kind.UNKNOWN, Basis.NONE, False)


def test_a_name_in_both_lists_has_no_kind(scripted: Path, tmp_path: Path) -> None:
    change = replace_in_code('__buffers__ = ["view", ]', '__buffers__ = ["view", "tied", ]')
    entries = state_dict_entries(read_checkpoint(str(rewrite(scripted, tmp_path / "both.pt", change))))
    assert entries["tied"].declared.kind is Kind.UNKNOWN
    assert not entries["tied"].declared.exact
    assert entries["transposed"].declared.kind is Kind.PARAMETER


def test_without_code_the_names_stay(scripted: Path, tmp_path: Path) -> None:
    path = rewrite(scripted, tmp_path / "bare.pt", lambda name, data: None if "/code/" in name else data)
    entries = state_dict_entries(read_checkpoint(str(path)))
    expected = state_dict_entries(read_checkpoint(str(scripted)))
    # Nothing tells a plain attribute from a buffer now.
    assert set(entries) == {*expected, "a.plain", "b.plain"}
    assert {entry.declared.kind for entry in entries.values()} == {Kind.UNKNOWN}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_code_in_another_encoding_is_no_error(encoding: str, scripted: Path, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        return ("# é\n" + data.decode()).encode(encoding) if name.endswith(".py") else data

    assert len(read_checkpoint(str(rewrite(scripted, tmp_path / "enc.pt", change))).entries) >= 29


def test_code_is_inflated_within_a_budget(scripted: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(scripted) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data + b"#" * (20 << 20) if name.endswith(".py") else data)
    with pytest.raises(LimitExceeded):
        read_checkpoint(str(path))
    small = Limits(pickle_nbytes=4096)
    with pytest.raises(LimitExceeded):
        read_checkpoint(str(scripted), small)


@pytest.mark.parametrize("missing", ["data/0", "data.pkl"])
def test_a_missing_member_is_an_error(missing: str, scripted: Path, tmp_path: Path) -> None:
    path = rewrite(
        scripted, tmp_path / "cut.pt", lambda name, data: None if name.endswith(f"/{missing}") else data
    )
    with pytest.raises(MalformedCheckpoint):
        read_checkpoint(str(path))


def archive_of(path: Path, pickled: bytes, code: str = "class M(Module):\n  __parameters__ = []\n") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/code/__torch__.py", code)
        archive.writestr("m/constants.pkl", b"\x80\x02).")
        archive.writestr("m/version", "3\n")
    return path


INSTANCE = b"c__torch__\nM\n)\x81"


def test_a_module_that_holds_itself_ends(tmp_path: Path) -> None:
    pickled = b"\x80\x02" + INSTANCE + b"q\x00}(X\x01\x00\x00\x00ah\x00ub."
    assert read_checkpoint(str(archive_of(tmp_path / "self.pt", pickled))).entries == ()


def test_shared_modules_cannot_blow_up(tmp_path: Path) -> None:
    # 40 levels that hold the level below under two names: 2**40 paths over 40 objects.
    pickled = b"\x80\x02" + INSTANCE + b"}bq\x00"
    for _ in range(40):
        pickled += INSTANCE + b"}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00ubq\x00"
    path = archive_of(tmp_path / "laughs.pt", pickled + b".")
    with pytest.raises(LimitExceeded, match="modules"):
        read_checkpoint(str(path), Limits(entries=1000))


def test_deep_modules_meet_the_limit(tmp_path: Path) -> None:
    pickled = (
        b"\x80\x02" + (INSTANCE + b"}(X\x01\x00\x00\x00a") * 2000 + INSTANCE + b"}b" + b"ub" * 2000 + b"."
    )
    with pytest.raises(LimitExceeded, match="nesting"):
        read_checkpoint(str(archive_of(tmp_path / "deep.pt", pickled)))


@pytest.mark.parametrize(
    "state",
    [
        b"}(K\x01K\x02ub",  # an attribute whose name is a number
        b"}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02ub",  # twice the same
    ],
)
def test_odd_attribute_names_are_errors(state: bytes, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "odd.pt", b"\x80\x02" + INSTANCE + state + b".")
    with pytest.raises(MalformedCheckpoint, match="attribute"):
        read_checkpoint(str(path))


def test_calls_in_attributes_are_listed_and_never_made(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    command = f"touch {shlex.quote(str(canary))}".encode()
    call = b"cposix\nsystem\nX" + len(command).to_bytes(4, "little") + command
    pickled = b"\x80\x02" + INSTANCE + b"}(X\x01\x00\x00\x00x" + call + b"\x85R0Nub."
    checkpoint = read_checkpoint(str(archive_of(tmp_path / "call.pt", pickled)))
    assert ("posix", "system", True) in {(g.module, g.name, g.called) for g in checkpoint.globals}
    assert not canary.exists()


def test_truncation_gives_only_our_errors(scripted: Path, tmp_path: Path) -> None:
    data = scripted.read_bytes()
    path = tmp_path / "cut.pt"
    for size in range(0, len(data), 217):
        path.write_bytes(data[:size])
        with pytest.raises(CkptToolError):
            read_checkpoint(str(path))


def test_class_headers_of_printed_code() -> None:
    headers = parse_class_headers(
        'class A(Module):\n  __parameters__ = ["w", "0", ]\n  __buffers__ = []\n  w : Tensor\n'
        "class B:\n  t : Tensor\n"
        "class C(Module):\n  __parameters__ = []\n  w : Tensor\n"
        '  def __setstate__(self: C,\n    s: int) -> NoneType:\n    x = "class D(Module):"\n'
    )
    assert set(headers) == {"A", "B", "C"}
    assert headers["A"] == (True, False, {"w", "0"}, frozenset())
    assert headers["B"] == (False, False, None, None)
    assert headers["C"] == (True, True, frozenset(), None)
