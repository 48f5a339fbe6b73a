"""``loads with weights_only=True: yes`` is a promise: torch is asked about every file that gets it."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest
import torch

from ckpttool.cli import main
from ckpttool.findings.globals import ALLOWED_GLOBALS
from ckpttool.findings.weights_only import ARITIES, weights_only_verdict
from ckpttool.formats import read_checkpoint
from ckpttool.values.errors import CkptToolError
from tests.hostile import pickles as op
from tests.hostile.cases import CASES
from tests.hostile.containers import Member, build_zip, legacy, torch_zip
from tests.hostile.mutations import FOLDER, mutate
from tests.hostile.seeds import seeds
from tests.hostile.torch_oracle import ask

_SLOW_IN_TORCH = "takes torch longer than all others together"
UNDECIDED = {
    "bomb: laughs: tuples": _SLOW_IN_TORCH,
    "bomb: laughs: pairs": _SLOW_IN_TORCH,
    "bomb: stack without end": _SLOW_IN_TORCH,
}
"""Files that ckpttool calls loadable, and torch is not asked about."""


def test_arities_are_those_of_torch() -> None:
    for path, (least, most) in ARITIES.items():
        module, _, name = path.rpartition(".")
        if module in ("builtins", "_codecs", "collections", "torch"):
            continue  # their signatures are not told, or take anything
        owner = torch
        for part in module.split(".")[1:]:
            owner = getattr(owner, part)
        parameters = inspect.signature(getattr(owner, name)).parameters.values()
        places = [item for item in parameters if item.kind is not item.KEYWORD_ONLY]
        required = [item for item in places if item.default is item.empty]
        assert (len(required), len(places)) == (least, most), path
    functions = {path for path in ALLOWED_GLOBALS if path.startswith("torch._utils._rebuild_")}
    assert functions <= set(ARITIES)


def refused_by_torch(paths: Iterable[str]) -> dict[str, str]:
    """What torch says of the files that ckpttool calls loadable."""
    loadable = []
    for path in paths:
        try:
            checkpoint = read_checkpoint(path)
        except (CkptToolError, OSError):
            continue
        if os.path.isfile(path) and weights_only_verdict(checkpoint)[0]:
            loadable.append(path)
    assert loadable
    answers = ask(loadable)
    return {path: str(answers[path]) for path in loadable if "tensors" not in answers[path]}


@pytest.mark.slow
def test_what_is_called_loadable_loads_of_the_hostile_corpus(tmp_path: Path) -> None:
    paths = {}
    for number, (name, case) in enumerate(CASES.items()):
        if case.error or name in UNDECIDED:
            continue
        home = tmp_path / str(number)
        home.mkdir()
        paths[case.build(home)] = name
    refused = refused_by_torch(paths)
    assert {paths[path]: error for path, error in refused.items()} == {}


@pytest.mark.slow
def test_what_is_called_loadable_loads_of_mutated_files(tmp_path: Path) -> None:
    whole = [content for group in seeds().values() for content in group if not content.startswith(FOLDER)]
    paths = []
    # A Parameter is made of a string, and popped: arguments of calls that no value reaches are only counted.
    unreached = {str(tmp_path / "231.pt")}
    for number in range(1500):
        rnd = Random(number)
        content = mutate(rnd.choice(whole), rnd, rnd.choice(whole))
        path = tmp_path / f"{number}.pt"
        path.write_bytes(content)
        paths.append(str(path))
    refused = refused_by_torch(paths)
    assert {os.path.basename(path): error for path, error in refused.items() if path not in unreached} == {}


_STATE = op.dump({"w": op.tensor()})
_TENSOR = op.tensor()
_REBUILD = "torch._utils:_rebuild_tensor_v2"
_HOOKS = op.call("collections:OrderedDict")


def _rebuilt(*more: object, requires_grad: object = False) -> bytes:
    return op.call(_REBUILD, op.storage(), 0, (4,), (1,), requires_grad, _HOOKS, *more)


def _unhashable(key: bytes) -> bytes:
    return op.PROTO(2) + op.EMPTY_DICT + key + op.push(1) + op.SETITEM + op.STOP


def _pid(*parts: object) -> bytes:
    return op.push(parts) + op.BINPERSID


BROKEN: dict[str, bytes] = {
    "a persistent id that is text": torch_zip(op.dump({"w": op.tensor(), "x": op.push("0") + op.BINPERSID})),
    "a persistent id that is text, by PERSID": torch_zip(
        op.dump({"w": op.tensor(), "x": op.PERSID("\\x00")})
    ),
    "a persistent id of six parts": torch_zip(
        op.dump({"w": op.tensor(_pid("storage", op.named("torch:FloatStorage"), "0", "cpu", 4, None))})
    ),
    "a persistent id of a storage that is not there": torch_zip(
        op.PROTO(2) + op.storage("9") + op.push({"w": op.tensor()}) + op.STOP
    ),
    "twelve arguments": torch_zip(op.dump({"w": _rebuilt(None, 1, 2, 3, 4, 5)})),
    "requires_grad of 1": torch_zip(op.dump({"w": _rebuilt(requires_grad=1)})),
    "whole numbers that require a gradient": torch_zip(
        op.dump(
            {"w": op.call(_REBUILD, op.storage("0", "torch:LongStorage", 2), 0, (2,), (1,), True, _HOOKS)}
        )
    ),
    "SETITEMS on a tensor": torch_zip(
        op.dump({"w": _TENSOR + op.MARK + op.push(0) + op.push(1.5) + op.SETITEMS})
    ),
    "APPEND on a tensor": torch_zip(op.dump({"w": _TENSOR + op.push(1) + op.APPEND})),
    "BUILD of a set": torch_zip(
        op.dump({"w": op.tensor(), "s": op.call("builtins:set", []) + op.push({"a": 1}) + op.BUILD})
    ),
    "an integer of thousands of digits": torch_zip(op.dump({"w": op.tensor(), "n": op.INT("9" * 5000)})),
    "a key that is a list": torch_zip(_unhashable(op.push([1]))),
    "a key that is a dict in a tuple": torch_zip(_unhashable(op.push(({"a": 1}, 2)))),
    "a key that is an OrderedDict": torch_zip(_unhashable(_HOOKS)),
    "a list in a set": torch_zip(op.dump({"w": op.tensor(), "s": op.call("builtins:set", [[1]])})),
    "a call of a result": torch_zip(op.dump({"w": op.tensor(), "x": _HOOKS + op.EMPTY_TUPLE + op.REDUCE})),
    "a call of a dtype": torch_zip(op.dump({"w": op.tensor(), "x": op.call("torch:float32")})),
    "a storage that is larger": torch_zip(op.dump({"w": op.tensor(op.storage("0", numel=3), size=(3,))})),
    "no version": build_zip([Member("archive/data.pkl", _STATE), Member("archive/data/0", bytes(16))]),
    "a version from the future": build_zip(
        [
            Member("archive/data.pkl", _STATE),
            Member("archive/data/0", bytes(16)),
            Member("archive/version", b"11\n"),
        ]
    ),
    "a member outside": torch_zip(_STATE, more=[Member("other/x", b"x")]),
    "an old layout with ids of five parts": legacy(op.dump({"w": op.tensor()})),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_no_load_takes_is_an_error(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(BROKEN[name])
    with pytest.raises(Exception):  # noqa: B017 - torch raises whatever its parts raise
        torch.load(path, weights_only=True)
    assert main(["inspect", str(path), "--fail-on", "findings", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["weights_only"]["loads"] is False
    assert "load-fails" in {item["code"] for item in document["findings"] if item["severity"] == "error"}
    main(["inspect", str(path), "--globals"])
    assert "no torch.load takes it" in capsys.readouterr().err


def test_strings_of_python_2_that_are_not_utf8_need_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(torch_zip(op.dump({"w": op.tensor(), "s": b"U\x01\xff"})))
    with pytest.raises(UnicodeDecodeError):
        torch.load(path, weights_only=True)
    assert weights_only_verdict(read_checkpoint(str(path))) == (
        False,
        "a string of Python 2 that is not UTF-8",
    )


def test_files_without_a_pickle_are_no_question(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert weights_only_verdict(read_checkpoint(str(path)))[0] is None
