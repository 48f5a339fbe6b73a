""".pt2 archives: what torch.export.save writes against the ExportedProgram, older layouts, hostile files."""

import io
import json
import os
import pickle
import shlex
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import Basis, Checkpoint, Classification, Entry, Kind
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint, UnsupportedFeature
from sample_models.same_bytes import save_legacy
from tests.support.stored import elements, raw_bytes

# torch.export itself takes seconds to import and trace; everything here shares one program.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.lin(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Part()
        self.shared = self.part
        self.out = nn.Linear(4, 4)
        self.out.weight = self.part.lin.weight
        self.transposed = nn.Parameter(torch.randn(4, 2).bfloat16().t())
        self.scalar = nn.Parameter(torch.tensor(1.5), requires_grad=False)
        self.empty = nn.Parameter(torch.empty(0, 2))
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("persistent", torch.arange(4))
        self.register_buffer("missing_elsewhere", torch.ones(4), persistent=False)
        self.register_buffer("view", self.out.weight.detach()[1])
        self.plain = torch.full((4,), 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(self.shared(self.part(x))) + self.persistent + self.missing_elsewhere + self.plain
        return y + self.transposed.sum() + self.scalar + self.view + torch.tensor([1.0, 2.0, 3.0, 4.0])


class Saved(NamedTuple):
    path: Path
    program: Any


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    path = tmp_path_factory.mktemp("export") / "model.pt2"
    program = torch.export.export(Model().eval(), (torch.randn(2, 4),))
    torch.export.save(program, path, extra_files={"note.txt": "hello"})
    return Saved(path, program)


def expected_kinds(program: Any) -> dict[str, Kind]:
    signature = program.graph_signature
    kinds = dict.fromkeys(signature.parameters, Kind.PARAMETER)
    kinds.update(dict.fromkeys(signature.buffers, Kind.PERSISTENT_BUFFER))
    kinds.update(dict.fromkeys(signature.non_persistent_buffers, Kind.NON_PERSISTENT_BUFFER))
    kinds.update(dict.fromkeys(signature.lifted_tensor_constants, Kind.UNKNOWN))
    return kinds


def assert_same_program(checkpoint: Checkpoint, program: Any) -> None:
    """Every tensor of the program, with its kind, layout and bytes, and nothing else."""
    tensors = {**program.state_dict, **{n: c for n, c in program.constants.items() if torch.is_tensor(c)}}
    kinds = expected_kinds(program)
    entries = {str(entry.name): entry for entry in checkpoint.entries}
    assert set(entries) == set(tensors)
    assert len(entries) == len(checkpoint.entries)
    for name, tensor in tensors.items():
        entry = entries[name]
        info = entry.tensor
        assert info is not None
        assert entry.declared.kind is kinds[name]
        assert entry.declared.basis is Basis.EXPORT
        assert entry.root == (("constants",) if kinds[name] is Kind.UNKNOWN else ())
        assert info.dtype.name == str(tensor.dtype).removeprefix("torch.")
        assert (info.shape, info.stride) == (tuple(tensor.shape), tensor.stride())
        assert info.storage_offset == tensor.storage_offset()
        assert entry.requires_grad is tensor.requires_grad
        assert raw_bytes(elements(info)) == raw_bytes(tensor)


def test_every_tensor_of_the_program(saved: Saved) -> None:
    checkpoint = read_checkpoint(str(saved.path))
    assert (checkpoint.format, checkpoint.ordered) == ("torch_export", False)
    assert checkpoint.layout == f"exported program, torch {torch.__version__}"
    assert_same_program(checkpoint, saved.program)
    kinds = {str(entry.name): entry.declared.kind for entry in checkpoint.entries}
    assert kinds["unused"] is Kind.PARAMETER
    assert kinds["missing_elsewhere"] is Kind.NON_PERSISTENT_BUFFER


def test_ties_and_views_share_a_storage(saved: Saved) -> None:
    entries = {str(entry.name): entry.tensor for entry in read_checkpoint(str(saved.path)).entries}
    assert entries["out.weight"] == entries["part.lin.weight"]
    view, whole = entries["view"], entries["out.weight"]
    assert view is not None and whole is not None
    assert (view.storage, view.storage_offset) == (whole.storage, 4)


def test_the_order_is_that_of_the_loaded_state_dict(saved: Saved) -> None:
    loaded = torch.export.load(saved.path)
    entries = read_checkpoint(str(saved.path)).entries
    names = [entry.name for entry in entries if entry.name in loaded.state_dict]
    assert names == list(loaded.state_dict)


def test_what_is_not_a_tensor_is_described(saved: Saved) -> None:
    checkpoint = read_checkpoint(str(saved.path))
    described = {(item.root, item.name): item.type_name for item in checkpoint.opaque}
    assert described == {(("sample_inputs",), "model"): "pickle", (("extra",), "note.txt"): "file"}
    assert ("torch._utils", "_rebuild_tensor_v2") in {(g.module, g.name) for g in checkpoint.globals}


def test_two_models_stand_under_their_names(saved: Saved, tmp_path: Path) -> None:
    from torch.export.pt2_archive._package import package_pt2

    path = tmp_path / "two.pt2"
    package_pt2(str(path), exported_programs={"a.b": saved.program, "c": saved.program})
    checkpoint = read_checkpoint(str(path))
    assert {entry.root[0] for entry in checkpoint.entries} == {"a.b", "c"}
    assert len(checkpoint.entries) == 2 * len(read_checkpoint(str(saved.path)).entries)


# -------------------------------------------------------------------------------- older layouts


def old_layout(saved: Saved, path: Path, suffix: str = ".pt") -> Path:
    """What torch 2.1 to 2.7 wrote: plain zip, no top folder, whole dicts as torch zips."""
    from torch._export.serde.serialize import serialize

    artifact = serialize(saved.program)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", artifact.exported_program)
        archive.writestr(f"serialized_state_dict{suffix}", artifact.state_dict)
        archive.writestr(f"serialized_constants{suffix}", artifact.constants)
        archive.writestr("serialized_example_inputs.pt", artifact.example_inputs)
        archive.writestr("version", "8.1")
        archive.writestr("extra_files/note.txt", "hello")
    return path


@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_the_layout_of_torch_2_1_to_2_7(suffix: str, saved: Saved, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(str(old_layout(saved, tmp_path / "old.pt2", suffix)))
    assert checkpoint.layout == "exported program, torch 2.7 or older"
    assert_same_program(checkpoint, saved.program)
    assert ("note.txt", "file") in {(item.name, item.type_name) for item in checkpoint.opaque}


Change = Callable[[str, bytes], bytes | None]


def rewrite(source: Path, target: Path, change: Change, more: dict[str, bytes] | None = None) -> Path:
    """Copy a zip member by member; ``change`` gives the new bytes, or None to leave it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        top = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            data = change(name.removeprefix(f"{top}/"), old.read(name))
            if data is not None:
                new.writestr(name, data)
        for name, data in (more or {}).items():
            new.writestr(f"{top}/{name}", data)
    return target


def torch_zip(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_the_layout_of_torch_2_8(saved: Saved, tmp_path: Path) -> None:
    path = rewrite(
        saved.path,
        tmp_path / "model.pt2",
        lambda name, data: None if name.startswith(("data/weights/", "data/constants/")) else data,
        {
            "data/weights/model.pt": torch_zip(saved.program.state_dict),
            "data/constants/model.pt": torch_zip(saved.program.constants),
        },
    )
    assert_same_program(read_checkpoint(str(path)), saved.program)


def test_aotinductor_weights_are_views_of_whole_tensors(tmp_path: Path) -> None:
    from torch.export.pt2_archive._package import package_pt2
    from torch.export.pt2_archive._package_weights import TensorProperties, Weights

    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": whole, "row": whole[1], "other": torch.ones(2, dtype=torch.int64)}
    weights = Weights({name: (tensor, TensorProperties(tensor)) for name, tensor in tensors.items()})
    library = tmp_path / "model.so"
    library.write_bytes(b"\x7fELF")
    path = tmp_path / "aoti.pt2"
    package_pt2(str(path), aoti_files={"model": [str(library), weights]})
    checkpoint = read_checkpoint(str(path))
    assert checkpoint.layout == "AOTInductor package"
    assert {entry.root for entry in checkpoint.entries} == {("aotinductor", "model")}
    entries = {str(entry.name): entry.tensor for entry in checkpoint.entries}
    assert set(entries) == set(tensors)
    for name, tensor in tensors.items():
        info = entries[name]
        assert info is not None
        assert raw_bytes(elements(info)) == raw_bytes(tensor)
    assert ("model/model.so", "file") in {(item.name, item.type_name) for item in checkpoint.opaque}


# -------------------------------------------------------------------------------- pickles within

WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def edit_json(member: str, edit: Callable[[Any], None]) -> Change:
    def change(name: str, data: bytes) -> bytes:
        if name != member:
            return data
        document = json.loads(data)
        edit(document)
        return json.dumps(document).encode()

    return change


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {shlex.quote(str(self.canary))}",)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


def test_a_pickled_weight_is_read_in_place(saved: Saved, tmp_path: Path) -> None:
    tensor = torch.arange(6, dtype=torch.float16).reshape(2, 3).t()

    def edit(document: Any) -> None:
        document["config"]["unused"].update(use_pickle=True, path_name="weight_99")

    path = rewrite(
        saved.path,
        tmp_path / "model.pt2",
        edit_json(WEIGHTS, edit),
        {"data/weights/weight_99": torch_zip(nn.Parameter(tensor))},
    )
    entry = next(entry for entry in read_checkpoint(str(path)).entries if entry.name == "unused")
    assert entry.declared == Classification(Kind.PARAMETER, Basis.EXPORT)
    assert entry.tensor is not None
    assert raw_bytes(elements(entry.tensor)) == raw_bytes(tensor)


def hostile_objects(canary: Path) -> dict[str, bytes]:
    legacy = io.BytesIO()
    save_legacy([Payload(canary)], legacy)
    return {
        "torch zip": torch_zip([Payload(canary)]),
        "legacy file": legacy.getvalue(),
        "bare pickle": pickle.dumps(Payload(canary)),
        "popped call": b"cposix\nsystem\n(S'touch x'\ntR0N.",
    }


@pytest.mark.parametrize("form", ["torch zip", "legacy file", "bare pickle", "popped call"])
@pytest.mark.parametrize("place", ["sample inputs", "custom object"])
def test_pickles_are_listed_and_never_run(
    form: str, place: str, saved: Saved, canary: Path, tmp_path: Path
) -> None:
    data = hostile_objects(canary)[form]
    if place == "sample inputs":
        path = rewrite(
            saved.path,
            tmp_path / "m.pt2",
            lambda name, old: data if name == "data/sample_inputs/model.pt" else old,
        )
        member, opaque = "data/sample_inputs/model.pt", (("sample_inputs",), "model")
    else:

        def edit(document: Any) -> None:
            document["config"]["object"] = {
                "path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None,
            }  # fmt: skip

        member, opaque = "data/constants/opaque_obj_0", (("constants",), "object")
        path = rewrite(saved.path, tmp_path / "m.pt2", edit_json(CONSTANTS, edit), {member: data})
    events: list[str] = []
    armed = False
    sys.addaudithook(lambda event, _: events.append(event) if armed else None)
    armed = True
    checkpoint = read_checkpoint(str(path))
    armed = False
    assert not {"pickle.find_class", "exec", "os.system", "subprocess.Popen"} & set(events)
    (ref,) = (ref for ref in checkpoint.globals if (ref.module, ref.name) == (os.system.__module__, "system"))
    assert ref.called
    assert any(member in where for where in ref.places)
    assert opaque in {(item.root, item.name) for item in checkpoint.opaque}
    assert len(checkpoint.entries) == len(read_checkpoint(str(saved.path)).entries)


# -------------------------------------------------------------------------------- hostile JSON


def meta_of(document: Any, name: str = "out.bias") -> Any:
    return document["config"][name]["tensor_meta"]


def setter(path: str, value: object) -> Callable[[Any], None]:
    """Set one field of a weight's tensor_meta (``sizes.0.as_int``) or of its payload (``/path_name``)."""

    def edit(document: Any) -> None:
        target = document["config"]["out.bias"] if path.startswith("/") else meta_of(document)
        *steps, last = path.lstrip("/").split(".")
        for step in steps:
            target = target[int(step) if step.isdigit() else step]
        target[last] = value

    return edit


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dtype", True), ("dtype", 99), ("dtype", "7"), ("dtype", None), ("dtype", 14),
        ("sizes", [4]), ("sizes", {}), ("sizes", [{"as_int": True}]), ("sizes", [{"as_int": -1}]),
        ("sizes", [{"as_expr": {"expr_str": "s0"}}]), ("sizes", []), ("sizes", [{"as_int": 4.0}]),
        ("strides", [{"as_int": -4}]), ("strides", None), ("storage_offset", {"as_int": -1}),
        ("storage_offset", {"as_int": 1}), ("storage_offset", 0), ("layout", 0), ("layout", "7"),
        ("sizes", [{"as_int": 2**70}]), ("requires_grad", 1), ("device", "cpu"), ("device", {"type": 3}),
        ("device", {"type": "cpu", "index": "0"}),
        ("/path_name", "weight_77"), ("/path_name", "../weights/weight_0/../x"), ("/path_name", 3),
        ("/is_param", 1), ("/use_pickle", "no"), ("/tensor_meta", None), ("/tensor_meta", []),
    ],
)  # fmt: skip
def test_wrong_types_and_addresses_are_malformed(
    path: str, value: object, saved: Saved, tmp_path: Path
) -> None:
    file = rewrite(saved.path, tmp_path / "bad.pt2", edit_json(WEIGHTS, setter(path, value)))
    with pytest.raises(MalformedCheckpoint) as caught:
        read_checkpoint(str(file))
    assert str(caught.value).startswith(str(file))


def test_a_sparse_layout_is_described(saved: Saved, tmp_path: Path) -> None:
    path = rewrite(saved.path, tmp_path / "m.pt2", edit_json(WEIGHTS, setter("layout", 1)))
    checkpoint = read_checkpoint(str(path))
    assert ("out.bias", "layout sparse_coo") in {(item.name, item.summary) for item in checkpoint.opaque}
    assert "out.bias" not in {entry.name for entry in checkpoint.entries}


def test_a_fake_weight_has_no_data(saved: Saved, tmp_path: Path) -> None:
    with zipfile.ZipFile(saved.path) as archive:
        config = json.loads(archive.read(f"{saved.path.stem}/{WEIGHTS}"))
    member = "data/weights/" + config["config"]["out.bias"]["path_name"]
    path = rewrite(saved.path, tmp_path / "m.pt2", lambda name, data: b"" if name == member else data)
    entry = next(entry for entry in read_checkpoint(str(path)).entries if entry.name == "out.bias")
    assert entry.tensor is not None
    assert entry.tensor.storage is None


def specs_of(document: Any) -> list[Any]:
    specs: list[Any] = document["graph_module"]["signature"]["input_specs"]
    return specs


PROGRAM_EDITS: dict[str, Callable[[Any], Any]] = {
    "no signature": lambda d: d["graph_module"].pop("signature"),
    "specs as an object": lambda d: d["graph_module"]["signature"].update(input_specs={}),
    "spec as text": lambda d: specs_of(d).append("parameter"),
    "name as a number": lambda d: specs_of(d).append({"parameter": {"parameter_name": 3}}),
    "persistent as a number": lambda d: specs_of(d).append({"buffer": {"buffer_name": "b", "persistent": 1}}),
    "two kinds": lambda d: specs_of(d).append({"parameter": {"parameter_name": "persistent"}}),
}


@pytest.mark.parametrize("name", PROGRAM_EDITS)
def test_a_malformed_program_is_an_error(name: str, saved: Saved, tmp_path: Path) -> None:
    change = edit_json("models/model.json", PROGRAM_EDITS[name])
    with pytest.raises(MalformedCheckpoint):
        read_checkpoint(str(rewrite(saved.path, tmp_path / "bad.pt2", change)))


def test_a_name_outside_the_signature_is_never_exact(saved: Saved, tmp_path: Path) -> None:
    change = edit_json("models/model.json", lambda d: specs_of(d).clear())
    entries = read_checkpoint(str(rewrite(saved.path, tmp_path / "m.pt2", change))).entries
    assert not any(entry.declared.exact for entry in entries)
    kinds = {entry.name: entry.declared.kind for entry in entries}
    assert (kinds["unused"], kinds["persistent"]) == (Kind.PARAMETER, Kind.UNKNOWN)


@pytest.mark.parametrize("member", [WEIGHTS, CONSTANTS, "data/weights/weight_0"])
def test_a_missing_member_is_an_error(member: str, saved: Saved, tmp_path: Path) -> None:
    path = rewrite(saved.path, tmp_path / "m.pt2", lambda name, data: None if name == member else data)
    with pytest.raises(MalformedCheckpoint):
        read_checkpoint(str(path))


@pytest.mark.parametrize(("member", "text"), [("archive_format", b"pt3"), ("archive_version", b"9")])
def test_unknown_versions_are_refused(member: str, text: bytes, saved: Saved, tmp_path: Path) -> None:
    path = rewrite(saved.path, tmp_path / "m.pt2", lambda name, data: text if name == member else data)
    with pytest.raises(UnsupportedFeature, match=member):
        read_checkpoint(str(path))


@pytest.mark.parametrize("nbytes", [1, 3, 4, 30, 200])
def test_a_cut_inner_zip_is_an_error(nbytes: int, saved: Saved, tmp_path: Path) -> None:
    source = old_layout(saved, tmp_path / "old.pt2")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "cut.pt2", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[:nbytes] if name == "serialized_state_dict.pt" else data)
    with pytest.raises(CkptToolError):
        read_checkpoint(str(tmp_path / "cut.pt2"))


def test_a_compressed_inner_zip_has_no_addresses(saved: Saved, tmp_path: Path) -> None:
    source = old_layout(saved, tmp_path / "old.pt2")
    with (
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(tmp_path / "zipped.pt2", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(UnsupportedFeature, match="compressed"):
        read_checkpoint(str(tmp_path / "zipped.pt2"))


def test_compressed_raw_weights_are_addressed(saved: Saved, tmp_path: Path) -> None:
    path = tmp_path / "zipped.pt2"
    with zipfile.ZipFile(saved.path) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            method = zipfile.ZIP_DEFLATED if "/weight_" in name else zipfile.ZIP_STORED
            new.writestr(name, old.read(name), compress_type=method)

    def layout(entry: Entry) -> object:
        assert entry.tensor is not None
        assert entry.tensor.storage is not None
        return entry.name, entry.tensor.shape, entry.tensor.stride, entry.tensor.storage.nbytes

    entries = read_checkpoint(str(path)).entries
    assert [layout(e) for e in entries] == [layout(e) for e in read_checkpoint(str(saved.path)).entries]
    assert any(e.tensor and e.tensor.storage and e.tensor.storage.compressed_nbytes for e in entries)


def test_truncation_gives_only_our_errors(saved: Saved, tmp_path: Path) -> None:
    data = saved.path.read_bytes()
    path = tmp_path / "cut.pt2"
    for size in range(0, len(data), 997):
        path.write_bytes(data[:size])
        with pytest.raises(CkptToolError):
            read_checkpoint(str(path))
