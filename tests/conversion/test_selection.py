"""What of a checkpoint is kept, what is left behind, and in which words: all of it, path by path."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ckpttool.values.checkpoint import Root
from ckpttool.values.conversion import ConversionPlan
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import CkptToolError
from tests.support.converting import convert, plan_of

WEIGHTS = {"model/a.weight", "model/a.bias"}
MOMENT = "optimizer/state/0/exp_avg"
STEP = "optimizer/state/0/step"
GROUP = {"optimizer/param_groups/0/lr", "optimizer/param_groups/0/params"}
PLAIN = {"epoch", "history"}
NAMESPACE = {"args/lr", "args/name"}
BY_OBJECT, BY_TUPLE, OF_OBJECT = "keys/dtype", "keys/(1, 2)", "keys/other dtype"

BESIDE, IS_OBJECT = "stands beside tensors that are dropped", "its key is an object"
ONLY_TENSORS, KEEP, NOT_MODEL = "only tensors are converted", "not among --keep", "not part of `model`"
DESCRIBED = "an object: described in the file, never built"


def training() -> dict[str, Any]:
    """Weights, an optimizer, values, an object, and a mapping whose keys are objects."""
    return {
        "model": OrderedDict({"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2)}),
        "optimizer": {
            "state": {0: {"exp_avg": torch.ones(2, 2), "step": 3}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, name="x"),
        "half": torch.float16,
        "keys": {torch.float32: torch.ones(1), (1, 2): 5, torch.int8: 7},
        "history": [1.5, [2]],
    }


def text(*path: object) -> str:
    names = {"<torch.dtype torch.float32 #1>": "dtype", "<torch.dtype torch.int8 #2>": "other dtype"}
    return "/".join(names.get(str(key), str(key)) for key in path)


def left(plan: ConversionPlan) -> dict[str, tuple[str, bool]]:
    found = [(text(*item.root, item.name), (item.reason, item.asked)) for item in plan.dropped]
    assert len(dict(found)) == len(found)  # each once
    return dict(found)


def kept(plan: ConversionPlan) -> set[str]:
    """Tensors and values; of a safetensors the tensors are named by their path with dots."""
    values = [text(*item.root, item.name) for item in plan.values]
    return {*values, *(text(*item.root, item.name) for item in plan.tensors)}


def tell(names: set[str], reason: str, asked: bool) -> dict[str, tuple[str, bool]]:
    return dict.fromkeys(names, (reason, asked))


PT = "pt"
ST = "safetensors"
ARGS_STAY = {"args": (f"{DESCRIBED}; 2 plain values of it stay behind", False)}
ARGS_KEPT = {"args": (f"{DESCRIBED}; 2 plain values of it are kept", False), "half": (DESCRIBED, False)}
ODD_KEYS = {BY_OBJECT: (IS_OBJECT, False), **tell({BY_TUPLE, OF_OBJECT}, BESIDE, False)}
BARE = {"a.weight", "a.bias"}
NOT_IN_BRANCH = {MOMENT, BY_OBJECT, STEP, *GROUP, *PLAIN, BY_TUPLE, OF_OBJECT, "args", "half"}
Case = tuple[str, dict[str, Any], Root | None, bool, set[str], dict[str, tuple[str, bool]]]

CASES: dict[str, Case] = {
    "pt": (PT, {}, None, False, {*WEIGHTS, MOMENT, STEP, *GROUP, *PLAIN}, {**ODD_KEYS, **ARGS_STAY}),
    "pt, a branch": (PT, {"root": ("model",)}, ("model",), False, BARE, tell(NOT_IN_BRANCH, NOT_MODEL, True)),
    "pt, all by name": (
        PT, {"root": ()}, (), False, {*WEIGHTS, MOMENT, STEP, *GROUP, *PLAIN}, {**ODD_KEYS, **ARGS_STAY},
    ),
    "pt, weights only": (
        PT, {"weights_only": True}, ("model",), True, BARE,
        {**tell(NOT_IN_BRANCH, ONLY_TENSORS, True), **tell({MOMENT, BY_OBJECT}, NOT_MODEL, True)},
    ),
    "pt, a branch dropped": (
        PT, {"drop": ("optimizer", "*.bias")}, None, False, {"model/a.weight", *PLAIN},
        {**ODD_KEYS, **ARGS_STAY, **tell({MOMENT, STEP, *GROUP, "model/a.bias"}, "--drop", True)},
    ),
    "pt, one kept": (
        PT, {"keep": ("a.weight",)}, None, False, {"model/a.weight", *GROUP, *PLAIN},
        {**ARGS_STAY, **tell({MOMENT, BY_OBJECT, "model/a.bias"}, KEEP, True),
         **tell({STEP, BY_TUPLE, OF_OBJECT}, BESIDE, True)},
    ),
    "pt, values dropped": (
        PT, {"drop": ("args", "epoch")}, None, False, {*WEIGHTS, MOMENT, STEP, *GROUP, "history"},
        {**ODD_KEYS, **tell({"args", "epoch"}, "--drop", True)},
    ),
    "safetensors": (
        ST, {}, ("model",), True, {*BARE, *GROUP, *PLAIN, *NAMESPACE},
        {**ARGS_KEPT, **tell({MOMENT, BY_OBJECT}, NOT_MODEL, False),
         **tell({STEP, BY_TUPLE, OF_OBJECT}, BESIDE, False)},
    ),
    "safetensors, a branch": (
        ST, {"root": ("model",)}, ("model",), False, BARE, tell(NOT_IN_BRANCH, NOT_MODEL, True),
    ),
    "safetensors, all by name": (
        ST, {"root": ()}, (), False,
        {"model.a.weight", "model.a.bias", "optimizer.state.0.exp_avg",
         "keys.<torch.dtype torch.float32 #1>", STEP, *GROUP, *PLAIN, *NAMESPACE, BY_TUPLE},
        {**ARGS_KEPT, OF_OBJECT: (IS_OBJECT, False)},
    ),
    "safetensors, sharded": (
        ST, {"sharded": True}, ("model",), True, BARE,
        {**tell(NOT_IN_BRANCH, ONLY_TENSORS, False), **tell({MOMENT, BY_OBJECT}, NOT_MODEL, False)},
    ),
    "safetensors, dropped": (
        ST, {"drop": ("optimizer", "*.bias", "args", "half")}, ("model",), True, {"a.weight", *PLAIN},
        {**tell({MOMENT, STEP, *GROUP, "model/a.bias", "args", "half"}, "--drop", True),
         BY_OBJECT: (NOT_MODEL, False), **tell({BY_TUPLE, OF_OBJECT}, BESIDE, False)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_everything_is_kept_or_left_behind_with_the_reason(case: str, tmp_path: Path) -> None:
    to, options, root, found, expected, behind = CASES[case]
    torch.save(training(), tmp_path / "a.pt")
    plan = plan_of(tmp_path / "a.pt", to, **options)
    assert (plan.root, plan.root_found) == (root, found)
    assert kept(plan) == expected
    assert left(plan) == behind
    # What is kept has every container around it, and no other of its branch stands there empty.
    paths = {item.path for item in plan.containers}
    if to == PT:
        holders = [item.root for item in (*plan.tensors, *plan.values)]
        assert {at[:depth] for at in holders for depth in range(len(at) + 1)} <= paths
    assert (("optimizer", "state") in paths) is any(STEP in name for name in kept(plan)) or "keep" in options


def test_types_and_sizes_of_what_is_left_behind(tmp_path: Path) -> None:
    torch.save(training(), tmp_path / "a.pt")
    plan = plan_of(tmp_path / "a.pt", PT, root=("model",))
    found = {text(*item.root, item.name): (item.type_name, item.nbytes) for item in plan.dropped}
    assert (found[MOMENT], found[BY_OBJECT]) == (("float32", 16), ("float32", 4))
    assert (found["history"], found["epoch"], found["args"]) == (
        ("list", 0),
        ("int", 0),
        ("argparse.Namespace", 0),
    )


# -- pickled modules ------------------------------------------------------------------------------------


def module() -> torch.nn.Module:
    made = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    made.extra = torch.ones(1)
    made.cfg = {"a": {"b": 1}, "c": 2}  # type: ignore[assignment]
    made.register_buffer("cache", torch.ones(2), persistent=False)
    return made


KEEPS_IT = "--non-persistent keeps it"
ATTRIBUTES = {
    "cache": (f"non-persistent buffer: {KEEPS_IT}", False),
    "extra": (f"plain attribute of a module: {KEEPS_IT}", False),
    "cfg": ("plain attribute of a module: a state_dict has none", True),
}
STATE = set(module().state_dict())


@pytest.mark.parametrize("to", [PT, ST])
@pytest.mark.parametrize("inside", [False, True])
def test_a_pickled_module_is_its_state_dict(to: str, inside: bool, tmp_path: Path) -> None:
    torch.save({"net": module(), "epoch": 2, "opt": {"lr": 1}} if inside else module(), tmp_path / "a.pt")
    before = "net/" if inside and to == PT else ""
    around = {"epoch", "opt/lr"} if inside else set()
    place = "net/" if inside else ""
    plan = plan_of(tmp_path / "a.pt", to)
    assert kept(plan) == {before + name for name in STATE} | around
    assert left(plan) == {place + name: why for name, why in ATTRIBUTES.items()}
    more = plan_of(tmp_path / "a.pt", to, non_persistent=True)
    assert kept(more) == {before + name for name in {*STATE, "cache", "extra"}} | around
    assert left(more) == {place + "cfg": ATTRIBUTES["cfg"]}
    fewer = plan_of(tmp_path / "a.pt", to, drop=("0.running*", *(("epoch",) if inside else ())))
    assert kept(fewer) == {before + name for name in STATE if "running" not in name} | (around - {"epoch"})
    dropped = {f"{place}0.running_mean", f"{place}0.running_var"} | (around & {"epoch"})
    assert {name for name, why in left(fewer).items() if why == ("--drop", True)} == dropped
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    fresh = module()
    fresh.load_state_dict(load_file(tmp_path / "b.safetensors"))


# -- the branch -----------------------------------------------------------------------------------------


def state(**more: float) -> dict[str, torch.Tensor]:
    return {f"{name}.{leaf}": torch.full((2,), value) for name, value in more.items() for leaf in "ab"}


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ({"g": state(x=1), "d": state(y=1)}, {}, "it is not clear which branch holds the weights"),
        ({"epoch": 3}, {}, "no tensors"),
        ({"model": state(x=1)}, {"prefer_ema": True}, "no averaged weights (EMA) were found"),
        (
            {"model": state(x=1), "ema": state(x=2), "model_ema": state(x=3)},
            {"prefer_ema": True},
            "several averaged copies",
        ),
        ({"model": state(x=1)}, {"root": ("other",)}, "no tensor is left to convert"),
    ],
)
def test_a_branch_that_is_not_clear_is_refused(
    content: Any, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CkptToolError) as caught:
        plan_of(tmp_path / "a.pt", ST, **options)
    assert caught.value.what == said and caught.value.path == str(tmp_path / "a.pt")
    branches = [key for key, value in content.items() if isinstance(value, dict)]
    hint = f"--root takes one of: {', '.join(branches)}; --root '' takes everything"
    look = f"`ckpttool inspect {tmp_path / 'a.pt'}` shows what is in it"
    assert caught.value.hint == (hint if branches else look)


def test_averaged_weights_are_taken_bare(tmp_path: Path) -> None:
    torch.save({"model": state(x=1), "ema": state(x=2), "epoch": 1}, tmp_path / "a.pt")
    for to in (PT, ST):
        plan = plan_of(tmp_path / "a.pt", to, prefer_ema=True)
        assert (plan.root, plan.root_found, kept(plan)) == (("ema",), False, {"x.a", "x.b"})
        why = ("not part of `ema`", True)
        assert left(plan) == dict.fromkeys(["model/x.a", "model/x.b", "epoch"], why)


def test_what_the_wrapper_counts_goes_with_its_prefix(tmp_path: Path) -> None:
    wrapped = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 1))
    torch.save({"model": wrapped.state_dict()}, tmp_path / "a.pt")
    auto = plan_of(tmp_path / "a.pt", ST, strip_prefix="auto")
    assert kept(auto) == {"weight", "bias"}
    assert left(auto) == {"model/n_averaged": ("counts for AveragedModel, no part of the model", True)}
    assert "n_averaged" in kept(plan_of(tmp_path / "a.pt", ST, strip_prefix="module"))


def test_buffers_that_are_rebuilt_are_dropped_on_demand(tmp_path: Path) -> None:
    names = ["model.embeddings.position_ids", "model.embeddings.word_embeddings.weight"]
    torch.save({names[0]: torch.arange(8)[None], names[1]: torch.ones(8, 4)}, tmp_path / "a.pt")
    plan = plan_of(tmp_path / "a.pt", ST, drop_known_buffers=True)
    assert (kept(plan), left(plan)) == ({names[1]}, {names[0]: ("--drop-known-buffers", True)})
    assert kept(plan_of(tmp_path / "a.pt", ST)) == set(names)


# -- casts ----------------------------------------------------------------------------------------------


def test_what_is_cast_and_what_keeps_its_dtype_is_told_with_the_evidence(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    bare = model.state_dict()
    more = {"mystery": torch.ones(3), "h.weight": torch.ones(2).half(), "i": torch.arange(3)}
    every = ["0.weight", "0.bias", "1.weight", "1.bias"]
    half = {"dtype": BY_NAME["float16"]}
    kept = {**half, "keep_dtype": ("0.*",)}
    trained = {"model": bare, "optimizer": optimizer.state_dict()}
    cases: list[tuple[Any, dict[str, Any], list[str], str, str]] = [
        (model, half, every, "4 parameters to float16: 4 pickled_module", "2 buffers, 1 not floating point"),
        ({**bare, **more}, half, every,
         "4 parameters to float16: 2 inferred by name, 2 inferred by sibling",
         "2 buffers, 2 not floating point, 1 of unknown kind"),
        ({**bare, **more}, kept, every[2:], "2 parameters to float16: 2 inferred by sibling",
         "2 parameters, 2 buffers, 2 not floating point, 1 of unknown kind"),
        (trained, half, every, "4 parameters to float16: 4 inferred by optimizer",
         "12 optimizer states, 2 buffers, 1 not floating point"),
        (more, half, [], "0 parameters to float16: none", "1 not floating point, 1 of unknown kind"),
    ]  # fmt: skip
    for content, options, names, cast, stays in cases:
        torch.save(content, tmp_path / "a.pt")
        plan = plan_of(tmp_path / "a.pt", PT, **options)
        assert [item.name for item in plan.casts] == names
        said, stay = plan.notes
        assert said == f"cast {cast}"
        assert set(stay.removeprefix("dtype kept: ").split(", ")) == set(stays.split(", "))
