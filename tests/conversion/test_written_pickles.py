"""The pickle and the zip of a ``.pt``, held against Python's own pickle and zipfile."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from ckpttool.cli import main
from ckpttool.conversion.pt import torch_zip
from ckpttool.conversion.pt.pickle_writer import PickleWriter
from ckpttool.conversion.shards import lay_out_file
from ckpttool.values.checkpoint import CompositeTensor, Part
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import UnsupportedFeature
from tests.support.converting import convert, plan_of
from tests.support.in_memory import plan_in_memory, tensor
from tests.support.pickle_trees import pickle_of, tree_of

EDGES = [sign * ((1 << bits) + by) for bits in (0, 7, 8, 15, 16, 31, 32, 63, 2031, 2032, 2040, 2048)
         for by in (-1, 0, 1) for sign in (1, -1)]  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.sampled_from(EDGES) | st.floats() | st.text()


def written(value: Any) -> bytes:
    writer = PickleWriter({})
    writer.write_plain(value)
    return pickletools.optimize(writer.finish())


@given(SCALARS)
@example("\ud800 alone")
@example(-0.0)
def test_scalars_are_written_as_pickle_writes_them(value: Any) -> None:
    assert written(value) == pickletools.optimize(pickle.dumps(value, protocol=2))


def test_integers_of_every_width() -> None:
    for value in EDGES:
        assert written(value) == pickle.dumps(value, protocol=2)


# -- what is written once -------------------------------------------------------------------------------


def data_pkl(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read("archive/data.pkl")


def opcodes(path: Path) -> list[tuple[str, Any]]:
    return [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(data_pkl(path))]


def test_strings_globals_and_storages_are_written_once_and_numbered_in_turn(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    state: dict[str, Any] = {f"t{number}": base[number % 3 :] for number in range(300)}
    state |= {"i": torch.arange(3), "j": torch.ones(2, dtype=torch.float8_e4m3fn), "again": list(state)}
    torch.save(state, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt")
    found = opcodes(tmp_path / "b.pt")
    for name in ("GLOBAL", "BINUNICODE"):
        assert set(Counter(argument for kind, argument in found if kind == name).values()) == {1}
    assert Counter(name for name, _ in found)["BINPERSID"] == len(state) - 1
    # The tuple that names a storage stands there once a storage, with class and number of elements.
    assert [argument for name, argument in found if argument == "storage"] == ["storage"]
    puts = [(name, argument) for name, argument in found if name.endswith("BINPUT")]
    assert [argument for _, argument in puts] == list(range(len(puts))) and len(puts) > 300
    for name, argument in found:
        if "BINPUT" in name or "BINGET" in name:
            assert name.startswith("LONG_") is (argument > 255)
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert back["again"] == state["again"]
    assert {back[f"t{number}"].untyped_storage().data_ptr() for number in range(300)} == {
        back["t0"].untyped_storage().data_ptr()
    }


class _Storages(pickle.Unpickler):
    """Keeps what names the storages, and builds nothing."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.seen: list[tuple[Any, ...]] = []

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if name == "OrderedDict" else (lambda *_: f"{module}.{name}")

    def persistent_load(self, pid: Any) -> str:
        self.seen.append(pid)
        return "storage"


def test_storages_are_named_as_torch_names_them(tmp_path: Path) -> None:
    every = [torch.float32, torch.int64, torch.bool, torch.complex64, torch.uint16, torch.float8_e4m3fn]
    state = {str(dtype): torch.zeros(3, 2).to(dtype) for dtype in every}
    state["tied"] = state[str(every[0])].detach()
    torch.save(state, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        theirs = _Storages(archive.read("a/data.pkl"))
    ours = _Storages(data_pkl(tmp_path / "b.pt"))
    theirs.load()
    ours.load()
    plain = [[(pid[0], pid[2], pid[3], pid[4]) for pid in reader.seen] for reader in (ours, theirs)]
    assert plain[0] == plain[1]
    assert ours.seen[-1] is ours.seen[0]  # the very same tuple, as pickle's memo gives it


def test_modules_without_a_version_stay_without_one(tmp_path: Path) -> None:
    state: Any = OrderedDict(w=torch.ones(2))
    state._metadata = OrderedDict({"": {}, "a": {"version": 2}, "b": {"version": 0, "assign": True}})
    torch.save({"model": state}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt")
    convert(tmp_path / "b.pt", tmp_path / "c.safetensors")
    convert(tmp_path / "c.safetensors", tmp_path / "d.pt")
    for name in ("b.pt", "d.pt"):
        back = torch.load(tmp_path / name, weights_only=True)["model"]
        assert dict(back._metadata) == dict(state._metadata)


# -- containers that a header claims --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ([0, 1, 2], list),
        ([0, 2, 5], list),
        ([0, -1], OrderedDict),
        ([0, "a"], OrderedDict),
        (["a"], OrderedDict),
        ([(1 << 16) + 1], OrderedDict),
        ([0, 1 << 16], list),
        ([0, 1 << 40], OrderedDict),
    ],
    ids=str,
)
def test_a_list_has_places_whatever_a_header_calls_one(
    keys: list[int | str], kind: type, tmp_path: Path
) -> None:
    names = {f"x.{key}": ["x", key] for key in keys}
    metadata = {"ckpttool.paths": json.dumps(names), "ckpttool.lists": json.dumps([[["x"], "list"]])}
    tensors = {name: torch.tensor(number) for number, name in enumerate(names)}
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
    back = torch.load(tmp_path / "b.pt", weights_only=True)["x"]
    assert type(back) is kind
    places = {key: tensors[f"x.{key}"] for key in keys}
    assert {key: back[key] for key in keys} == places
    if kind is list:
        assert len(back) == max(places) + 1  # type: ignore[type-var,operator]
        assert [index for index, item in enumerate(back) if item is not None] == sorted(places)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("paths", "values", "lists", "path"),
    [
        ([["x"]], [[["x"], 1]], [], "x"),
        ([["x", 0, "y"]], [[["x", 0, "y"], 1]], [], "x.0.y"),
        ([["x"], ["x", "y"]], [], [], "x"),
        ([["x"]], [[["x", "y"], 1]], [], "x"),
        ([["x", "y"]], [[["x"], 1]], [], "x"),
        ([["x"]], [], [[["x"], "dict"]], "x"),
        ([["x"]], [], [[["x", "y", "z"], "list"]], "x"),
        ([["x"]], [[["y"], 1], [["y"], 2]], [], "y"),
    ],
    ids=str,
)
def test_two_things_at_one_path_are_refused_whatever_a_header_claims(
    paths: Any, values: Any, lists: Any, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = {"paths": {f"t{at}": where for at, where in enumerate(paths)}, "values": values, "lists": lists}
    metadata = {f"ckpttool.{key}": json.dumps(claim) for key, claim in claims.items()}
    tensors = {f"t{at}": torch.ones(1) for at in range(len(paths))}
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.pt")]) == 2
    said = capsys.readouterr().err
    assert "two things stand at one path" in said and path in said.split()[-1]
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize(
    ("claimed", "kind"),
    [
        ("dict", OrderedDict),
        ("OrderedDict", OrderedDict),
        ("list", list),
        ("tuple", tuple),
        ("x", OrderedDict),
    ],
)
@pytest.mark.parametrize("tensors", [True, False])
def test_facts_of_modules_go_with_a_mapping_whatever_a_header_calls_it(
    claimed: str, kind: type, tensors: bool, tmp_path: Path
) -> None:
    where = ["x", 0] if tensors else ["w"]
    metadata = {
        "ckpttool.paths": json.dumps({"t": where}),
        "ckpttool.values": json.dumps([] if tensors else [[["x", 0], 3]]),
        "ckpttool.lists": json.dumps([[["x"], claimed]]),
        "ckpttool.module_versions": '[[["x"],{"":{"version":7}}]]',
    }
    save_file({"t": torch.ones(1)}, tmp_path / "a.safetensors", metadata)
    convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
    back = torch.load(tmp_path / "b.pt", weights_only=True)["x"]
    if not tensors and kind is OrderedDict:  # the facts of a branch without tensors are nobody's
        kind = OrderedDict if claimed == "OrderedDict" else dict
    assert (type(back), back[0]) == (kind, torch.ones(1) if tensors else 3)
    assert getattr(back, "_metadata", None) == (
        {"": {"version": 7}} if tensors and kind is OrderedDict else None
    )


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (3, {3}),
        ({"tuple": [1, {"tuple": [2]}]}, {(1, (2,))}),
        ([1], [[1]]),
        ({"tuple": [1, [2]]}, [(1, [2])]),
        ({"tuple": [{"tuple": [[]]}]}, [(([],),)]),
    ],
    ids=str,
)
def test_a_set_holds_what_can_be_in_one_whatever_a_header_calls_one(
    value: Any, back: Any, tmp_path: Path
) -> None:
    metadata = {"ckpttool.values": json.dumps([[["s", 0], value]]), "ckpttool.lists": '[[["s"],"set"]]'}
    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors", metadata)
    convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
    assert torch.load(tmp_path / "b.pt", weights_only=True)["s"] == back


def test_what_was_taken_out_of_a_list_or_tuple_leaves_none_in_its_place(tmp_path: Path) -> None:
    made = {"x": [torch.ones(1), torch.ones(2), (torch.ones(3), 4, torch.ones(5))], "e": [{}, []], "w": {}}
    torch.save(made, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", "--drop", "x.0", "--drop", "x.2.0")
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert back["x"][0] is None and torch.equal(back["x"][1], torch.ones(2))
    assert type(back["x"][2]) is tuple
    assert (back["x"][2][:2], len(back["x"][2])) == ((None, 4), 3)
    assert (back["e"], back["w"]) == ([{}, []], {})


@pytest.mark.parametrize(
    ("tree", "kind"),
    [({"w": 0}, "OrderedDict"), ({"w": 0, "v": 1}, "OrderedDict"), ({"v": 1}, ""), ({"d": {"w": 0}}, "")],
    ids=str,
)
def test_a_mapping_that_nobody_names_is_an_ordereddict_where_it_holds_a_tensor(tree: Any, kind: str) -> None:
    def filled(node: Any) -> Any:
        return {key: filled(inner) for key, inner in node.items()} if isinstance(node, dict) else node or one

    one = tensor("0", 2)
    plan = plan_in_memory({"x": filled(tree), "m": {"a": tensor("1", 2)}}, "pt", facts={"containers": ()})
    (layout,) = lay_out_file(plan, "b.pt")
    _, items = tree_of(pickle_of(layout))
    found = {key[1]: node for key, node in items}["'x'"]
    assert found[:2] == (["call", f"collections.{kind}"] if kind else ["dict", found[1]])


def test_a_type_that_is_none_of_torchs_is_never_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claimed = json.dumps([[["x"], "torch.dtype", "torch.hub\nposix\nsystem"]])
    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors", {"ckpttool.objects": claimed})
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.pt")]) == 2
    assert "the dtype 'torch.hub\\nposix\\nsystem'" in capsys.readouterr().err
    assert not (tmp_path / "b.pt").exists()
    integers = Part("int_repr", tensor("0", 2, dtype="qint8"))
    odd = CompositeTensor("quantized", "os.system", BY_NAME["qint8"], (2,), (integers,))
    with pytest.raises(UnsupportedFeature, match=r"the quantizer 'os\.system'"):
        lay_out_file(plan_in_memory({"w": odd}, "pt"), "b.pt")


# -- the zip ----------------------------------------------------------------------------------------------


def check_zip(path: Path, sizes: dict[str, int]) -> zipfile.ZipFile:
    """All that zipfile says of the archive: names in order, sizes, method, flags, date, alignment."""
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        assert {info.filename: info.file_size for info in infos} == sizes
        assert [info.filename for info in infos] == list(sizes)
        assert archive.comment == b""
        for info in infos:
            assert (info.compress_size, info.compress_type) == (info.file_size, zipfile.ZIP_STORED)
            assert (info.flag_bits, info.date_time) == (0x800, (1980, 1, 1, 0, 0, 0))
            assert (info.comment, info.external_attr, info.internal_attr, info.volume) == (b"", 0, 0, 0)
            wide = info.file_size >= 0xFFFFFFFF or info.header_offset >= 0xFFFFFFFF
            assert (info.extract_version, info.create_version) == ((45, 45) if wide else (20, 20))
            with archive.open(info) as member:  # checks the local header against this one
                start = info.header_offset + 30
                archive.fp.seek(start - 4)  # type: ignore[union-attr]
                lengths = archive.fp.read(4)  # type: ignore[union-attr]
                name_nbytes, extra_nbytes = (int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
                assert (start + name_nbytes + extra_nbytes) % 64 == 0
                assert extra_nbytes < 4 + 64 + 20  # and no more than that
                if info.file_size < 1 << 20:
                    member.read()  # and the CRC
    return archive


def test_the_archive_is_what_zipfile_takes_for_one(tmp_path: Path) -> None:
    state = {"a": torch.arange(100.0), "b": torch.ones(3), "empty": torch.ones(0), "c": torch.ones(16)}
    torch.save(state, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt")
    sizes = {
        "archive/data.pkl": len(data_pkl(tmp_path / "b.pt")), "archive/byteorder": 6, "archive/data/0": 400,
        "archive/data/1": 12, "archive/data/2": 0, "archive/data/3": 64, "archive/version": 2,
    }  # fmt: skip
    check_zip(tmp_path / "b.pt", sizes)
    with zipfile.ZipFile(tmp_path / "b.pt") as archive:
        assert (archive.read("archive/byteorder"), archive.read("archive/version")) == (b"little", b"3\n")
        assert archive.testzip() is None


def test_members_beyond_four_gigabytes_are_where_zipfile_looks_for_them(tmp_path: Path) -> None:
    numels = [(1 << 32) - 2, (1 << 32) - 1, 3, 1 << 33, 5]
    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save([torch.empty(numel, dtype=torch.uint8) for numel in numels], tmp_path / "a.pt")
    plan = plan_of(tmp_path / "a.pt", "pt")
    (layout,) = lay_out_file(plan, "b.pt")
    write_literals(tmp_path / "b.pt", layout.nbytes, list(layout.segments({2: 0, 4: 0})))
    with zipfile.ZipFile(tmp_path / "b.pt") as archive:
        infos = {info.filename: info for info in archive.infolist()}
    segments = list(layout.segments({}))
    pieces = [segment for segment in segments if segment.piece >= 0]
    for number, (numel, segment) in enumerate(zip(numels, pieces, strict=True)):
        info = infos[f"archive/data/{number}"]
        assert (info.file_size, info.compress_size) == (numel, numel)
        assert segment.offset % 64 == 0 and 0 < segment.offset - info.header_offset < 256
    offsets = [segment.offset for segment in segments]
    ends = [segment.offset + segment.nbytes for segment in segments]
    assert offsets == [0, *ends[:-1]] and ends[-1] == layout.nbytes


def write_literals(path: Path, nbytes: int, segments: list[Any]) -> None:
    """Headers only: the pieces stay holes."""
    with path.open("wb") as file:
        file.truncate(nbytes)
        for segment in segments:
            if segment.piece < 0:
                file.seek(segment.offset)
                file.write(segment.literal)


def test_more_members_than_16_bits_count(tmp_path: Path) -> None:
    count = 0x10000
    members: list[Any] = []
    for number in range(count):
        torch_zip._append(members, str(number), data=b"x")
    segments = list(torch_zip._iter_segments(members, {}))
    (tmp_path / "a").write_bytes(b"".join(segment.literal for segment in segments))
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert len(archive.infolist()) == count
        assert archive.read(f"archive/{count - 1}") == b"x"
    end = segments[-1].literal[-22:]
    assert int.from_bytes(end[8:10], "little") == int.from_bytes(end[10:12], "little") == 0xFFFF
