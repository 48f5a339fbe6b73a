"""The judge's words, one whole run at a time: what hooks fill, what builds keep, why a value is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ckpttool.values.verification import Missing, NotRestored, Run, Wrong
from tests.support.verifying import check, the_run

pytestmark = pytest.mark.filterwarnings("ignore")


class Buffers(nn.Module):
    """Buffers of these values."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_buffer(name.removeprefix("t_"), value, persistent=not name.startswith("t_"))


def run_of(state: Any, build: Callable[[], nn.Module], folder: Path, load: str = "copy") -> Run:
    return the_run(check(state, build, folder, load=load), load)._replace(seconds=0.0)


def right(matched: int, nbytes: int = 0, load: str = "copy", **more: Any) -> Run:
    return Run("cpu", load, True, True, matched, matched, nbytes, nbytes)._replace(**more)


# ------------------------------------------------------------------------------------------ why


@pytest.mark.parametrize(
    ("stored", "held", "reason"),
    [
        (torch.tensor([3.0, 4]), torch.tensor([3.0, 5]), "holds 3..5, in the file 3..4"),
        (torch.tensor([1, 2]), torch.tensor([2, 2]), "holds 2, in the file 1..2"),
        (
            torch.tensor([True, True]), torch.tensor([True, False]),
            "holds 1 of 2 true, in the file 2 of 2 true",
        ),
        (torch.ones(2), torch.full((2,), torch.nan), "holds NaN, in the file 1"),
        (torch.tensor([2.0, 3]), torch.tensor(2.0), "has shape [], in the file [2]"),
        (torch.ones(2, 3), torch.ones(3, 2), "has shape [3, 2], in the file [2, 3]"),
        (torch.ones(1), torch.ones(1, 1), None),
    ],
)  # fmt: skip
def test_a_value_is_wrong_for_a_reason(
    stored: Tensor, held: Tensor, reason: str | None, tmp_path: Path
) -> None:
    class Sets(nn.Module):
        """A child whose entry torch's own code sets, as far as anybody can tell."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("x", torch.zeros_like(held))
            self.register_load_state_dict_post_hook(hook)

    def hook(module: Any, keys: Any) -> None:
        module.x = held.clone()
        keys.missing_keys.clear()

    hook.__module__ = "torch.nn.modules.made_up"
    state = {"x": stored}
    Sets._load_from_state_dict = lambda *_: None  # type: ignore[method-assign,assignment]
    Sets._load_from_state_dict.__module__ = "torch.nn.modules.made_up"
    run = run_of(state, Sets, tmp_path)
    wrong = () if reason is None else (Wrong("x", reason),)
    assert run == right(1, ok=reason is None, wrong=wrong)


def test_a_vector_of_one_is_taken_for_a_scalar(tmp_path: Path) -> None:
    build = lambda: Buffers(x=torch.tensor(0.0))  # noqa: E731
    assert run_of({"x": torch.tensor([7.0])}, build, tmp_path) == right(1)


def test_a_child_of_its_own_loading_code_is_told_from_its_neighbours(tmp_path: Path) -> None:
    class Halves(nn.Linear):
        def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
            super()._load_from_state_dict(state, prefix, *rest)
            with torch.no_grad():
                self.bias.zero_()

    build = lambda: nn.ModuleDict({"a": Halves(2, 2), "ab": nn.Linear(2, 2)})  # noqa: E731
    state = {name: torch.ones_like(value) for name, value in build().state_dict().items()}
    reason = "changed by the module's own loading code"
    assert run_of(state, build, tmp_path) == right(4, 48, ok=False, wrong=(Wrong("a.bias", reason),))


# ------------------------------------------------------------------------------------------ without the file


def test_what_a_hook_fills_counts_as_matched(tmp_path: Path) -> None:
    state = torch.nn.utils.weight_norm(nn.Linear(3, 2)).state_dict()
    run = run_of(state, lambda: parametrizations.weight_norm(nn.Linear(3, 2)), tmp_path)
    filled = ("parametrizations.weight.original0", "parametrizations.weight.original1")
    assert run == right(3, 4 * (2 + 2 + 6), hooked=filled)


class Quiet(Buffers):
    """Misses nothing of what is not there."""

    def _load_from_state_dict(
        self, state: Any, prefix: str, local: Any, strict: bool, missing: Any, *rest: Any
    ) -> None:
        super()._load_from_state_dict(state, prefix, local, strict, [], *rest)


@pytest.mark.parametrize("load", ["copy", "to-empty", "assign"])
def test_what_nobody_misses_is_kept_where_builds_agree_and_else_unfilled(load: str, tmp_path: Path) -> None:
    def build() -> nn.Module:
        model = Quiet(x=torch.zeros(2), agreed=torch.arange(3), drawn=torch.rand(2))
        model.weight = nn.Parameter(torch.ones(2))
        return model

    run = run_of({"x": torch.ones(2)}, build, tmp_path, load)
    normal = load == "copy"
    unfilled = ("weight", "drawn") if normal else ("weight", "agreed", "drawn")
    kept = ("agreed",) if normal else ()
    assert run == Run("cpu", load, True, False, 1, 4, 0, 8, unfilled=unfilled, kept=kept)


@pytest.mark.parametrize(
    ("absent", "becomes"),
    [("drawn", "random"), ("weight", "default"), ("agreed", "rebuilt"), ("view", "tied"), ("same", "tied")],
)
def test_what_becomes_of_what_is_missing(absent: str, becomes: str, tmp_path: Path) -> None:
    def build() -> nn.Module:
        whole = torch.arange(4.0)
        model = Buffers(x=whole, view=whole[1:3], drawn=torch.rand(2), agreed=torch.ones(3, dtype=torch.int8))
        model.weight = nn.Parameter(torch.ones(5))
        model.same = model.weight
        return model

    whole = torch.zeros(4)
    state = {"weight": torch.zeros(5), "x": whole, "view": whole[1:3], "drawn": torch.zeros(2)}
    state |= {"same": state["weight"], "agreed": torch.zeros(3, dtype=torch.int8)}
    del state[absent]
    kind = "parameter" if absent in ("weight", "same") else "persistent_buffer"
    nbytes = {"weight": 20, "same": 20, "view": 8, "drawn": 8, "agreed": 3}[absent]
    if absent == "weight":
        becomes = "tied"
    run = run_of(state, build, tmp_path)
    assert run.missing == (Missing(absent, kind, nbytes, becomes),)
    assert (run.matched, run.total, run.ok) == (5, 6, becomes == "tied")
    assert (run.unfilled, run.wrong, run.hooked, run.kept) == ((), (), (), ())


def test_a_missing_entry_that_no_build_has_is_of_unknown_fate(tmp_path: Path) -> None:
    class Asks(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"a": 1}

        def set_extra_state(self, state: Any) -> None:
            pass

    state = {name: value for name, value in Asks(2, 2).state_dict().items() if name != "_extra_state"}
    run = run_of(state, lambda: Asks(2, 2), tmp_path)
    assert run == Run(
        "cpu", "copy", True, False, 2, 2, 24, 24, (Missing("_extra_state", "extra_state", 0, "unknown"),)
    )


# ------------------------------------------------------------------------------------------ not saved


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.arange(4), "0..3"), (lambda: torch.ones(2), "1"),
        (lambda: torch.eye(2).bool(), "2 of 4 true"),
        (lambda: torch.full((1,), 1 + 1j), "1.41421"), (lambda: torch.ones(2, dtype=torch.bfloat16), "1"),
    ],
)  # fmt: skip
def test_what_no_file_holds_is_told_by_what_a_build_has(
    make: Callable[[], Tensor], words: str, tmp_path: Path
) -> None:
    def build() -> nn.Module:
        return Buffers(x=torch.zeros(1), t_table=make(), t_drawn=torch.rand(3))

    state = {"x": torch.ones(1)}
    meta, garbage = (
        NotRestored("table", "meta", "no data (meta)", words),
        NotRestored("table", "garbage", "uninitialised memory", words),
    )
    assert run_of(state, build, tmp_path, "assign") == right(1, load="assign", ok=False, not_restored=(meta,))
    assert run_of(state, build, tmp_path, "to-empty") == right(
        1, load="to-empty", ok=False, not_restored=(garbage,)
    )
    assert run_of(state, build, tmp_path) == right(1)
    result = check(state, build, tmp_path)
    assert (result.rebuilt, result.random) == (("table",), ("drawn",))


def test_what_something_else_was_put_into_is_told_by_what_it_holds(tmp_path: Path) -> None:
    class Fills(Buffers):
        def _load_from_state_dict(self, *arguments: Any) -> None:
            super()._load_from_state_dict(*arguments)
            if arguments[2].get("assign_to_params_buffers") is None and filled:
                self.table.fill_(9)

    filled: list[int] = []

    def build() -> nn.Module:
        if torch.get_default_device().type == "meta":
            filled.append(1)
        else:
            filled.clear()
        return Fills(x=torch.zeros(1), t_table=torch.arange(3.0))

    run = run_of({"x": torch.ones(1)}, build, tmp_path, "to-empty")
    assert run.not_restored == (NotRestored("table", "garbage", "9", "0..2"),)
