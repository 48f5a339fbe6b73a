"""``--root``, ``--include`` and ``--exclude``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.names.roots import resolve_root
from ckpttool.values.checkpoint import Checkpoint, Entry, OddKey, Root, StorageRef, TensorInfo, Value
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import CkptToolError


def checkpoint(*paths: tuple[Root, str], shared: str = "") -> Checkpoint:
    entries = []
    for i, (root, name) in enumerate(paths):
        storage = StorageRef("f", shared or str(i), 0 if shared else 8 * i, 8, "cpu")
        entries.append(Entry(root, name, TensorInfo(BY_NAME["float32"], (2,), (1,), 0, storage)))
    return Checkpoint("f.pt", "torch zip", "", (), tuple(entries), (Value(("hyper", "a.b"), "lr", 0.1),))


TREE = checkpoint(
    (("model",), "a.weight"),
    (("model",), "a.bias"),
    (("ema", "shadow.params"), "a.weight"),
    (("optimizer", "state", 0), "exp_avg"),
    (("optimizer", "state", 10), "exp_avg"),
    (("odd", OddKey("1.5", True)), "w"),
    (('quo"te',), "w"),
)


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("", ()),
        ("model", ("model",)),
        ("ema", ("ema",)),
        ("ema.shadow.params", ("ema", "shadow.params")),
        ('ema["shadow.params"]', ("ema", "shadow.params")),
        ("optimizer.state", ("optimizer", "state")),
        ("optimizer.state.10", ("optimizer", "state", 10)),
        ("optimizer.state[10]", ("optimizer", "state", 10)),
        ("odd.1.5", ("odd", OddKey("1.5", True))),
        ("odd[1.5]", ("odd", OddKey("1.5", True))),
        ('["quo\\"te"]', ('quo"te',)),
        ("hyper.a.b", ("hyper", "a.b")),
    ],
)
def test_whole_keys_match_whatever_is_in_them(text: str, root: Root) -> None:
    assert resolve_root(TREE, text) == root


@pytest.mark.parametrize(
    "text", ["mod", "model.", "optimizer.state.1", "optimizer.state[1]", "ema.shadow", ".", "a"]
)
def test_what_is_not_there_is_an_error_that_lists_what_is(text: str) -> None:
    with pytest.raises(CkptToolError, match="no branch") as caught:
        resolve_root(TREE, text)
    assert caught.value.path == "f.pt"
    assert caught.value.hint is not None
    assert 'model, ema["shadow.params"], optimizer.state' in caught.value.hint


def test_a_text_that_fits_twice_is_an_error() -> None:
    twice = checkpoint((("a.b",), "w"), (("a", "b"), "w"), (("c", 0), "w"), (("c", "0"), "w"))
    for text in ("a.b", "c.0"):
        with pytest.raises(CkptToolError, match="names 2 branches"):
            resolve_root(twice, text)
    assert resolve_root(twice, '["a.b"]') == ("a.b",)
    assert resolve_root(twice, "c[0]") == ("c", 0)
    with pytest.raises(CkptToolError) as caught:
        resolve_root(checkpoint(((), "w")), "x")
    assert "leave --root out" in str(caught.value.hint)


def test_a_hostile_tree_takes_no_time() -> None:
    deep: Root = ("a",) * 500
    assert resolve_root(checkpoint((deep, "w")), ".".join(deep)) == deep
    with pytest.raises(CkptToolError):
        resolve_root(checkpoint((deep, "w")), ".".join(deep) + ".b")


def names(found_in: Checkpoint, **selection: object) -> list[str]:
    inspection = inspect_checkpoint(found_in, **selection)  # type: ignore[arg-type]
    assert inspection.summary.tensors == len(inspection.rows)
    return [".".join(map(str, (*row.entry.root, row.entry.name))) for row in inspection.rows]


def test_globs_match_names_and_dotted_paths() -> None:
    assert names(TREE, include=["a.*"]) == ["model.a.weight", "model.a.bias", "ema.shadow.params.a.weight"]
    assert names(TREE, include=["model.*"], exclude=["*.bias"]) == ["model.a.weight"]
    assert names(TREE, include=["model.a.weight", "exp_avg"]) == [
        "model.a.weight",
        "optimizer.state.0.exp_avg",
        "optimizer.state.10.exp_avg",
    ]


@pytest.mark.parametrize(
    ("selection", "hint"),
    [
        ({"include": ["A.*"]}, "did you mean 'a.*'"),  # case matters
        ({"include": ["a.*", "nothing.here"]}, None),  # each of several must fit
        ({"include": ["*.wieght"]}, "did you mean '*.weight'"),
        ({"include": ["modle*"]}, "did you mean 'model.*'"),
        ({"include": ["optimizer"], "exclude": ["exp_average"]}, "did you mean exp_avg"),
        ({"include": [""]}, None),
        ({"include": ["exp_avg"], "root": ("model",)}, None),  # of another branch
    ],
)
def test_a_glob_that_fits_nothing_is_a_slip(selection: dict[str, object], hint: str | None) -> None:
    with pytest.raises(CkptToolError, match="no entry matches") as caught:
        names(TREE, **selection)
    assert caught.value.hint == hint


def test_a_selection_may_be_empty_though_each_glob_fits() -> None:
    assert names(TREE, include=["a.*"], exclude=["a.*"]) == []
    assert len(names(TREE, exclude=["exp_avg"], root=("model",))) == 2  # is left out already


def test_what_a_hint_names_does_fit_and_no_name_can_forge_it() -> None:
    hostile = checkpoint(((), "he\x1b[2Jad.weight"), ((), "`rm`.weight"), ((), "x" * 5000))
    for glob in ("hed*", "rm", "x" * 6000, "`rn`.*", "[", "*" * 300 + "q"):
        with pytest.raises(CkptToolError) as caught:
            names(hostile, include=[glob])
        said = caught.value.hint or ""
        assert "\x1b" not in said and "`" not in said


def test_a_root_selects_what_lies_at_or_below_it() -> None:
    assert names(TREE, root=("optimizer",)) == ["optimizer.state.0.exp_avg", "optimizer.state.10.exp_avg"]
    assert names(TREE, root=("model",), include=["*.bias"]) == ["model.a.bias"]
    assert len(names(TREE, root=())) == 7


def test_ties_are_those_of_the_selection() -> None:
    tied = checkpoint((("a",), "w"), (("b",), "w"), (("b",), "v"), shared="0")
    rows = inspect_checkpoint(tied, root=("b",)).rows
    assert [row.tied_to for row in rows] == [None, rows[0].entry]
    assert inspect_checkpoint(tied, root=("b",)).summary.tensor_nbytes == 8


def test_inspecting_never_imports_torch() -> None:
    code = "import sys, ckpttool.inspection.inspect; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
