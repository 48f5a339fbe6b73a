"""The experiments of ``lint``, each by itself: what it looks at, what it changes, what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ckpttool.torch_bridge.lint import probes
from ckpttool.torch_bridge.lint.lint import make_example
from ckpttool.torch_bridge.lint.probes import (
    Arrival,
    Forward,
    Rebuilds,
    Reload,
    Transfer,
    all_tensors,
    alter,
    attempt,
    changed,
    compare_builds,
    equal_bytes,
    probe_forward,
    registered_tensors,
    reload,
    snapshot,
    state_keys,
    storage_of,
    transfer,
)
from ckpttool.torch_bridge.lint.prove import take_step
from ckpttool.values.errors import ModelImportFailed
from tests.support.linted import source
from tests.support.traps import Anew, Free, Keeps, Refuses, Renames, Runs, Stays, aside

X = make_example([((2, 3), "float32")])


def odd() -> dict[str, Any]:
    return {
        "plain": torch.ones(2), "meta": torch.ones(2, device="meta"), "lazy": nn.LazyLinear(2).weight,
        "sparse": torch.eye(2).to_sparse(), "empty": torch.ones(0),
    }  # fmt: skip


def test_what_has_bytes_is_looked_at_and_all_else_let_be() -> None:
    tensors = odd()
    kept = snapshot(tensors)
    assert list(kept) == ["plain"]
    assert kept["plain"].data_ptr() != tensors["plain"].data_ptr() and torch.equal(
        kept["plain"], torch.ones(2)
    )
    assert [bool(storage_of(value)) for value in tensors.values()] == [True, False, False, False, False]
    whole = torch.ones(4)
    assert storage_of(whole) == storage_of(whole[2:]) == whole.untyped_storage().data_ptr()
    for name, value in tensors.items():
        for other_name, other in odd().items():
            expected = True if name == other_name == "plain" else None
            assert equal_bytes(value, other) is expected
        assert equal_bytes(value, None) is equal_bytes("x", value) is None
    assert equal_bytes(torch.ones(2), torch.zeros(2)) is False
    assert equal_bytes(torch.ones(2), torch.ones(1, 2)) is False
    learned = snapshot({"weight": nn.Parameter(torch.ones(1))})["weight"]
    assert not learned.requires_grad


def test_what_changed_is_in_both_and_differs() -> None:
    before = {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2), "m": torch.ones(2, device="meta")}
    after = {"a": torch.ones(2), "b": torch.zeros(2), "m": torch.ones(2), "d": torch.ones(1)}
    assert changed(before, after) == {"b"}
    assert changed({}, after) == changed(before, {}) == frozenset()


def test_an_attempt_gives_a_value_or_an_error() -> None:
    assert attempt("trying", lambda: 3) == (3, None)

    def fails() -> None:
        raise ValueError("no")

    found, error = attempt("trying", fails)
    assert found is None and error is not None and error.what == "trying fails: ValueError: no"


def test_tensors_are_named_registered_ones_and_strays() -> None:
    model = Free(b_x=torch.ones(1), t_y=torch.ones(1), z=[torch.ones(1)], w=nn.Parameter(torch.ones(1)))
    assert list(registered_tensors(model)) == ["w", "b_x", "t_y"]
    assert list(all_tensors(model)) == ["z[0]", "w", "b_x", "t_y"]
    assert state_keys(source(Free), model) == ("w", "b_x")


def test_every_byte_of_a_storage_is_altered_once_and_only_in_its_lowest_bit() -> None:
    whole, shared, flags = torch.arange(4, dtype=torch.int16), torch.arange(2.0), torch.tensor([True, False])
    tensors = {
        "a": whole,
        "b": whole[1:2],
        "c": shared,
        "d": flags,
        **{f"o {k}": v for k, v in odd().items()},
    }
    alter(tensors, {storage_of(shared)})
    assert whole.view(torch.uint8).tolist() == [1, 1, 0, 1, 3, 1, 2, 1]
    assert (shared.tolist(), flags.tolist()) == ([0, 1], [False, True])
    assert tensors["o plain"].view(torch.uint8).tolist() == [1, 1, 129, 62] * 2
    part = torch.arange(4, dtype=torch.uint8)
    alter({"b": part[1:2]}, set())
    assert part.tolist() == [1, 0, 3, 2]


def test_builds_tell_what_varies_and_what_is_computed() -> None:
    def own() -> torch.Tensor:
        return torch.rand(2, generator=torch.Generator().manual_seed(3))

    def build() -> nn.Module:
        return Free(
            b_drawn=torch.rand(2),
            b_table=torch.arange(2),
            b_own=own(),
            t_table=torch.ones(3),
            plain=torch.rand(1),
        )

    found = compare_builds(source(build), source(build).build())
    assert found == Rebuilds(frozenset(["b_drawn"]), frozenset(["b_table", "t_table"]))
    for draw in (
        torch.randn,
        torch.rand,
        lambda n: torch.randint(0, 100, (n,)),
        torch.randperm,
        lambda n: torch.empty(n).normal_(),
    ):
        found = compare_builds(source(lambda draw=draw: Free(b_x=draw(9))), Free(b_x=draw(9)))
        assert found == Rebuilds(frozenset(["b_x"]), frozenset())

    def fragile() -> nn.Module:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise ValueError("not under a mode")
        return Free(b_x=torch.ones(1))

    assert compare_builds(source(fragile), fragile()) == Rebuilds(frozenset(), None)
    same = Free(b_x=torch.ones(1))
    with pytest.raises(ModelImportFailed) as caught:
        compare_builds(source(lambda: same), same)
    assert caught.value.what == "here:build gives the same module on every call, and it must be built anew"
    assert caught.value.hint == "name the function or class that makes it"


def double(build: Any) -> Transfer:
    return transfer(source(build), ".double()", lambda model: model.double())


def to_meta(build: Any) -> Transfer:
    return transfer(source(build), ".to('meta')", lambda model: model.to("meta"))


F32, F64 = torch.float32, torch.float64


def test_a_transfer_tells_where_each_tensor_arrived() -> None:
    def build() -> nn.Module:
        return Free(
            b_x=torch.ones(1), t_i=torch.arange(2), plain=torch.ones(1), lazy=nn.LazyLinear(2, bias=False)
        )

    after = {
        "plain": Arrival(F32, "cpu", False), "b_x": Arrival(F64, "cpu", False),
        "t_i": Arrival(torch.int64, "cpu", False), "lazy.weight": Arrival(F64, "cpu", True),
    }  # fmt: skip
    keys = ("b_x", "lazy.weight")
    assert double(build) == Transfer(after, keys, keys, {}, frozenset())
    moved = to_meta(build)
    assert {name: arrival.is_meta for name, arrival in moved.after.items()} == {
        "plain": False, "b_x": True, "t_i": True, "lazy.weight": True
    }  # fmt: skip
    assert double(lambda: Keeps(2, 2)).after == {
        name: Arrival(F32, "cpu", False) for name in ("weight", "bias")
    }
    assert not any(arrival.is_meta for arrival in to_meta(lambda: Stays(2, 2)).after.values())
    refused = double(lambda: Refuses(2, 2))
    assert refused.error is not None and refused.error.what == ".double() fails: ValueError: single only"
    assert refused[:5] == ({}, ("weight", "bias"), ("weight", "bias"), {}, frozenset())
    anew = double(Anew)
    assert (anew.keys_before, anew.keys_after) == (("weight", "bias"), ("weight", "bias", "scale"))


def test_a_transfer_tells_which_views_went_stale() -> None:
    class Views(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("count", torch.arange(2))
            self.rows = [self.weight[0].detach(), self.count[:1], torch.ones(1)]

    aliases = {"rows[0]": "weight", "rows[1]": "count"}
    cast = double(Views)
    assert (cast.aliases, cast.stale) == (aliases, {"rows[0]"})  # integers stay as they are
    moved = to_meta(Views)
    assert (moved.aliases, moved.stale) == (aliases, {"rows[0]", "rows[1]"})

    class Again(Views):
        def _apply(self, fn: Any, recurse: bool = True) -> Any:
            super()._apply(fn, recurse)
            self.rows = [self.weight[0].detach()]
            return self

    assert (double(Again).aliases, double(Again).stale) == (aliases, frozenset())
    assert to_meta(Again).stale == frozenset()  # on meta with the rest, or gone


def test_a_reload_brings_every_altered_byte_back() -> None:
    shared = torch.arange(3.0)

    def build() -> nn.Module:
        return Free(
            b_x=torch.rand(2), t_x=torch.rand(2), plain=torch.rand(1), b_shared=shared,
            w=nn.Parameter(torch.rand(1)), b_flag=torch.tensor([True]), b_none=torch.ones(0),
        )  # fmt: skip

    keys = ("w", "b_x", "b_shared", "b_flag", "b_none")
    restored = {
        "b_x": True,
        "t_x": False,
        "plain": False,
        "w": True,
        "b_shared": None,
        "b_flag": True,
        "b_none": None,
    }
    assert reload(source(build)) == Reload(None, keys, keys, (), restored)
    assert shared.tolist() == [0, 1, 2]
    refused = reload(source(lambda: Renames(2, 2)))
    assert refused.error is not None and refused[1:] == ((), (), (), None)

    class Doubles(nn.Linear):
        def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
            super()._load_from_state_dict(
                {**state, f"{prefix}bias": state[f"{prefix}bias"] * 2}, prefix, *rest
            )

    found = reload(source(lambda: Doubles(2, 2)))
    assert (found.differing, found.restored) == (("bias",), {"weight": True, "bias": False})

    class Checks(nn.Linear):
        def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
            if state[f"{prefix}bias"].abs().max() > 1:
                raise ValueError("too large")
            super()._load_from_state_dict(state, prefix, *rest)

        def reset_parameters(self) -> None:
            nn.init.ones_(self.weight)
            nn.init.constant_(self.bias, 0.25)  # 0x3e800000, which becomes 0x3f810101

    assert reload(source(lambda: Checks(2, 2))) == Reload(None, ("weight", "bias"), ("weight", "bias"))

    class Saves(nn.Linear):
        def state_dict(self, *arguments: Any, **options: Any) -> Any:
            if self.bias is not None and float(self.bias.detach().abs().max()) != 3.0:
                raise ValueError("not as it was")
            return super().state_dict(*arguments, **options)

        def reset_parameters(self) -> None:
            nn.init.ones_(self.weight)
            nn.init.constant_(self.bias, 3.0)

    assert reload(source(lambda: Saves(2, 2))) == Reload(None, ("weight", "bias"), ("weight", "bias"))


def test_lazy_models_are_saved_once_they_have_their_shapes() -> None:
    example = make_example([((2, 3), "float32")])
    found = reload(source(lambda: nn.LazyLinear(2)), example)
    assert found.restored == {"weight": True, "bias": True}
    without = reload(source(lambda: nn.LazyLinear(2)))
    assert without.restored == {"weight": None, "bias": None}


# ------------------------------------------------------------------------------------------ forwards


def everything(model: Any, x: torch.Tensor) -> torch.Tensor:
    model.b_count += 1
    model.t_once.fill_(7)
    if not hasattr(model, "cache"):
        model.cache = torch.ones(2)
        model.view = model.b_count.view(1)
    model.last = [model.fc(x)]
    model.b_late = x.detach()
    return x


def test_two_forwards_tell_what_they_do() -> None:
    def build() -> nn.Module:
        return Runs(
            everything, b_count=torch.zeros(()), t_once=torch.zeros(2), b_late=None, fc=nn.Linear(3, 1),
            known=torch.zeros(1),
        )  # fmt: skip

    keys = ("b_count", "fc.weight", "fc.bias")
    assert probe_forward(source(build), X) == Forward(
        "train", keys, ("b_count", "b_late", *keys[1:]), frozenset(["t_once"]), {"b_count", "t_once"},
        {"b_count"}, {"cache", "last[0]"}, {"cache"}, {"last[0]"},
    )  # fmt: skip
    assert probe_forward(source(lambda: Runs(lambda *_: None)), X) == Forward("train")


def test_a_forward_runs_in_eval_mode_where_train_mode_raises() -> None:
    def run(model: Any, x: torch.Tensor) -> None:
        if model.training:
            raise ValueError("one only")

    assert probe_forward(source(lambda: Runs(run)), X).mode == "eval"
    model, mode, output = probes.forward_model(source(lambda: Runs(run)), X)
    assert (model.training, mode) == (False, "eval") and isinstance(output, torch.Tensor)
    assert probes.forward_model(source(lambda: Runs(lambda *_: None)), X)[0].training

    def never(model: Any, x: torch.Tensor) -> None:
        raise ValueError("never")

    with pytest.raises(
        ModelImportFailed,
        match=r"^forward of here:build on the example input fails: ValueError: never\nhint: ",
    ):
        probe_forward(source(lambda: Runs(never)), X)


def test_a_forward_draws_the_same_numbers_each_time() -> None:
    drawn: list[float] = []

    def draw(model: Any, x: torch.Tensor) -> None:
        drawn.append(float(torch.rand(1)))

    before = torch.random.get_rng_state()
    probe_forward(source(lambda: Runs(draw)), X)
    assert len(drawn) == 2 and len(set(drawn)) == 1
    assert torch.equal(before, torch.random.get_rng_state())


# ------------------------------------------------------------------------------------------ one step


def test_a_step_is_for_the_forward_or_for_the_sum_of_what_is_trained() -> None:
    def build() -> nn.Module:
        model = nn.Linear(3, 2)
        model.extra = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        model.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        model.small = nn.Parameter(torch.zeros(2, dtype=torch.float16))
        return model

    plain = take_step(source(build), None)
    assert (plain.ran, plain.loss, plain.note) == (False, "the sum of all parameters", "")
    for name in ("weight", "bias", "small", "extra"):  # by a gradient of 1 in each part
        moved = plain.stepping[name] - plain.after[name].detach()
        wanted = torch.full_like(moved, 1 + 1j if moved.is_complex() else 1)
        assert torch.allclose(moved, wanted), name
    assert torch.equal(plain.after["frozen"], torch.zeros(2))
    run = take_step(source(build), X)
    assert (run.ran, run.loss, run.note) == (True, "forward of the example input", "")
    assert not torch.equal(run.stepping["weight"], run.after["weight"])
    assert torch.equal(run.stepping["extra"], run.after["extra"])
    assert run.before.keys() == run.stepping.keys() == {"weight", "bias", "extra", "frozen", "small"}


@pytest.mark.parametrize("example", [None, X])
def test_where_no_step_is_made_it_is_said_why(example: Any) -> None:
    class Refused(nn.Linear):
        def parameters(self, recurse: bool = True) -> Any:
            raise ValueError("mine")

    def no_gradient(model: Any, x: torch.Tensor) -> None:
        return None

    frozen = lambda: nn.Linear(3, 2).requires_grad_(False)  # noqa: E731
    said = {
        "no step: parameters() fails: ValueError: mine": lambda: Refused(3, 2),
        "no step: parameters() is empty, and SGD refuses that": lambda: Runs(no_gradient),
        "no step: no parameter requires a gradient": frozen,
    }
    for note, build in said.items():
        step = take_step(source(build), example)
        assert (step.note, step.loss, step.ran) == (note, "", example is not None)
        assert step.after is step.stepping
    assert take_step(source(lambda: aside(nn.Linear(2, 2))), None).stepping.keys() == {
        "inner.weight",
        "inner.bias",
    }
    lazy = take_step(source(lambda: nn.LazyLinear(2)), None)
    assert lazy.note == "no step: parameters() is empty, and SGD refuses that"

    class NoGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            raise ValueError("not backwards")

    def forward(model: Any, x: torch.Tensor) -> torch.Tensor:
        return NoGradient.apply(model.fc(x))  # type: ignore[no-untyped-call,no-any-return]

    failed = take_step(source(lambda: Runs(forward, fc=nn.Linear(3, 2))), X)
    assert failed.note == "no step: backward() fails: ValueError: not backwards"
    assert failed.loss == "forward of the example input"
