"""Strange but legal: Python objects, other pickles and whole modules, with tensors between them."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import importlib.util
import io
import pathlib
import pickle
import sys
import types
import uuid
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any
from zipfile import ZipInfo

import numpy as np
import pytest
import torch

from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.values.checkpoint import Entry, Kind
from tests.hostile import pickles as op
from tests.hostile.containers import torch_zip
from tests.support.strange import BASE, assert_as_loaded, assert_same, load, read, saved

pytestmark = pytest.mark.filterwarnings("ignore")


# -- Python objects ---------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Config:
    width: int
    table: torch.Tensor


class Keyed:
    """Hashable by identity."""


def objects() -> dict[str, Any]:
    recursive: dict[str, Any] = {"w": torch.ones(1)}
    recursive["self"] = recursive
    looped: list[Any] = [torch.ones(1)]
    looped.append(looped)
    found = {
        "Namespace": argparse.Namespace(lr=0.1, w=torch.ones(1)),
        "SimpleNamespace": types.SimpleNamespace(a=1),
        "dataclass": Config(3, torch.ones(2)),
        "enum": Colour.RED,
        "path": pathlib.PurePosixPath("/a/b"),
        "datetime": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
        "timedelta": datetime.timedelta(days=1),
        "Decimal": decimal.Decimal("1.5"),
        "UUID": uuid.UUID(int=5),
        "Counter": collections.Counter("aab"),
        "deque": collections.deque([1, 2], maxlen=3),
        "set": {1, 2},
        "frozenset": frozenset({"a"}),
        "complex": 1 + 2j,
        "range": range(5),
        "slice": slice(1, 2),
        "Ellipsis": ...,
        "bytearray": bytearray(b"x"),
        "numpy scalar": np.float64(0.5),
        "numpy int": np.int32(-7),
        "numpy bool": np.bool_(True),
        "numpy array": np.arange(6.0).reshape(2, 3),
        "numpy object array": np.array([{"a": 1}, None], dtype=object),
        "numpy structured": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
        "numpy string": np.array(["ab", "c"]),
        "numpy datetime": np.datetime64("2024-01-02"),
        "torch.Size": torch.Size([1, 2]),
        "torch.device": torch.device("cuda:1"),
        "torch.dtype": torch.float16,
        "generator state": torch.Generator().manual_seed(0).get_state(),
        "function": torch.relu,
        "class": torch.nn.Linear,
        "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1),
        "huge int": 10**100_0,
        "negative zero": -0.0,
        "recursive dict": recursive,
        "recursive list": looped,
    }
    if importlib.util.find_spec("omegaconf"):
        from omegaconf import OmegaConf

        found["OmegaConf"] = OmegaConf.create({"a": [1, 2]})
    return found


OBJECTS = objects()


@pytest.mark.parametrize("container", ["zip", "zip 4", "legacy", "legacy 1"])
@pytest.mark.parametrize("case", OBJECTS)
def test_object_beside_weights(case: str, container: str, tmp_path: Path) -> None:
    """The weights read whatever stands beside them, and what it is is said somewhere."""
    kwargs: dict[str, Any] = {"legacy": container.startswith("legacy")}
    if container[-1].isdigit():
        kwargs["pickle_protocol"] = int(container[-1])
    content = saved({"w": torch.arange(3), "object": OBJECTS[case], "last": torch.ones(2)}, **kwargs)
    checkpoint = read(tmp_path / "object.pt", content)
    by_name = {(entry.root, entry.name): entry for entry in checkpoint.entries}
    assert_same(by_name[(), "w"].value, torch.arange(3))
    assert_same(by_name[(), "last"].value, torch.ones(2))
    under = [
        (*item.root, item.name) for item in (*checkpoint.entries, *checkpoint.values, *checkpoint.opaque)
    ]
    under += [item.path for item in checkpoint.containers]
    assert any(path[:1] == ("object",) for path in under)
    inspect_checkpoint(checkpoint)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_set_is_one_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    """Protocols 2 and 3 write ``set([…])`` as a call, later ones have opcodes for it."""
    value = {"numbers": {1}, "frozen": frozenset(["a"]), "empty": set(), "tensors": {torch.ones(2)}}
    checkpoint = read(tmp_path / "sets.pt", saved(value, pickle_protocol=protocol))
    assert [(item.root, item.name, item.value) for item in checkpoint.values] == [
        (("numbers",), 0, 1),
        (("frozen",), 0, "a"),
    ]
    assert [(entry.root, entry.name) for entry in checkpoint.entries] == [(("tensors",), 0)]
    assert checkpoint.opaque == ()
    assert {(item.path, item.length) for item in checkpoint.containers if item.type_name == "set"} == {
        (("numbers",), 1),
        (("frozen",), 1),
        (("empty",), 0),
        (("tensors",), 1),
    }


PLAIN = {
    "numpy scalar": 0.5,
    "numpy int": -7,
    "numpy bool": True,
    "torch.Size": (1, 2),
    "huge int": 10**100_0,
    "negative zero": -0.0,
}


@pytest.mark.parametrize("case", PLAIN)
def test_plain_values_are_kept(case: str, tmp_path: Path) -> None:
    (value,) = read(tmp_path / "v.pt", saved({"object": OBJECTS[case]})).values
    assert (value.name, value.value) == ("object", PLAIN[case])
    assert repr(value.value) == repr(PLAIN[case])


def test_tensors_inside_unknown_objects_are_found(tmp_path: Path) -> None:
    checkpoint = read(
        tmp_path / "o.pt",
        saved(
            {"ns": OBJECTS["Namespace"], "config": OBJECTS["dataclass"], "loop": OBJECTS["recursive dict"]}
        ),
    )
    found = {(*entry.root, entry.name) for entry in checkpoint.entries}
    assert {("ns", "w"), ("config", "table"), ("loop", "w")} <= found


def test_keys_that_are_objects_of_one_class_stay_apart(tmp_path: Path) -> None:
    """``optimizer.state`` of a pickled optimizer has parameters for keys."""
    checkpoint = read(tmp_path / "k.pt", saved({Keyed(): torch.ones(1), Keyed(): torch.ones(2)}))
    assert [entry.value.shape for entry in checkpoint.entries] == [(1,), (2,)]  # type: ignore[union-attr]
    assert len({entry.name for entry in checkpoint.entries}) == 2
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = torch.optim.Adam(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones(3)
    optimizer.step()
    checkpoint = read(tmp_path / "k.pt", saved({"optimizer": optimizer}))
    names = [entry.name for entry in checkpoint.entries if entry.name in ("exp_avg", "exp_avg_sq")]
    assert sorted(map(str, names)) == ["exp_avg"] * 2 + ["exp_avg_sq"] * 2


def test_an_omegaconf_by_opcodes(tmp_path: Path) -> None:
    config = op.with_state(
        op.call("omegaconf.dictconfig:DictConfig"),
        {"_content": {"lr": op.call("omegaconf.nodes:AnyNode", 0.1)}},
    )
    checkpoint = read(tmp_path / "cfg.pt", torch_zip(op.dump({"hyper_parameters": config, "w": op.tensor()})))
    assert [(entry.root, entry.name) for entry in checkpoint.entries] == [((), "w")]
    assert ("omegaconf.dictconfig.DictConfig") in {item.type_name for item in checkpoint.opaque}


# -- pickle.dump --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickle_dump_of_tensors(protocol: int, tmp_path: Path) -> None:
    value = {
        "a": BASE,
        "b": BASE[3:5],
        "p": torch.nn.Parameter(torch.ones(2)),
        "n": {"h": torch.ones(2).half()},
    }
    checkpoint = read(tmp_path / "plain.pkl", pickle.dumps(value, protocol))
    assert_as_loaded(checkpoint, value)
    assert checkpoint.format == "pickle"


@pytest.mark.parametrize("pad", range(9))
def test_a_pickle_longer_than_a_window_reads_wherever_the_window_ends(pad: int, tmp_path: Path) -> None:
    """The window grows when an opcode does not fit in it: one of nine lengths ends inside each argument."""
    numbers = [index + 0.5 for index in range(130_000)]
    content = pickle.dumps({"pad": "x" * pad, "numbers": numbers, "w": torch.ones(1)}, 4)
    assert len(content) > 1 << 20
    checkpoint = read(tmp_path / "long.pkl", content)
    values = {value.name: value.value for value in checkpoint.values}
    assert values["numbers"] == tuple(numbers)


# -- whole modules --------------------------------------------------------------------------------------


class Strange(torch.nn.Module):
    """Every sort of attribute that a module may have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(2, 3)
        self.shared = self.first
        self.norm = torch.nn.BatchNorm1d(3, track_running_stats=False)
        self.listed = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.PReLU()])
        self.values = torch.nn.ParameterDict({"a": torch.ones(1)})
        self.register_parameter("absent", None)
        self.register_buffer("none", None)
        self.register_buffer("table", torch.arange(4), persistent=False)
        self.register_buffer("mask", torch.ones(2, dtype=torch.bool))
        self.plain = torch.zeros(5)
        self.config = {"a": [1, 2]}


def forget(content: bytes, name: str) -> bytes:
    """Rename a class in the pickle to one that nobody can import."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.namelist():
            new.writestr(ZipInfo(member), old.read(member).replace(name.encode(), b"G" * len(name)))
    return out.getvalue()


@pytest.mark.parametrize("wrap", [False, True])
def test_whole_module_without_its_class(wrap: bool, tmp_path: Path) -> None:
    module: torch.nn.Module = Strange()
    if wrap:
        module = torch.nn.DataParallel(module)
    prefix = "module." if wrap else ""
    checkpoint = read(tmp_path / "m.pt", forget(saved(module), "Strange"))
    kinds = {entry.name: entry.declared.kind for entry in checkpoint.entries}
    persistent = set(module.state_dict())
    assert set(kinds) == persistent | {f"{prefix}table", f"{prefix}plain"}
    for name, _ in module.named_parameters(remove_duplicate=False):
        assert kinds[name] is Kind.PARAMETER
    assert kinds[f"{prefix}table"] is Kind.NON_PERSISTENT_BUFFER
    assert kinds[f"{prefix}mask"] is Kind.PERSISTENT_BUFFER
    for entry in checkpoint.entries:
        if entry.name in persistent:
            assert_same(entry.value, module.state_dict()[str(entry.name)])


def test_a_training_checkpoint_of_everything(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    value = OrderedDict(
        epoch=1,
        model=module.state_dict(),
        optimizer=optimizer.state_dict(),
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 2).state_dict(),
        args=argparse.Namespace(lr=1),
        rng=(torch.get_rng_state(), np.random.default_rng(0).bit_generator.state),
        python=sys.version_info[:2],
        callbacks={"best": {"score": torch.tensor(0.5), "path": pathlib.PurePosixPath("x")}},
    )
    checkpoint = read(tmp_path / "all.pt", saved(value))
    assert_as_loaded(checkpoint, load(tmp_path / "all.pt", weights_only=False))
    assert inspect_checkpoint(checkpoint).weights_root == ("model",)


def test_entries_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    names = [f"z{n}" for n in range(20)] + [f"a{n}" for n in range(20)]
    entries: tuple[Entry, ...] = read(
        tmp_path / "o.pt", saved({name: torch.ones(1) for name in names})
    ).entries
    assert [entry.name for entry in entries] == names
