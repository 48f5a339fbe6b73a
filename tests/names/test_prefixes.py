"""Wrapper prefixes, against what torch's wrappers really do to a state_dict."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.optim.swa_utils import AveragedModel

from ckpttool.names.prefixes import (
    ANYWHERE,
    AVERAGED,
    LEADING,
    Prefix,
    common_first_part,
    find_counters,
    find_prefixes,
    is_averaged,
    strip_wrappers,
)


def found(*names: str) -> list[tuple[str, int, int]]:
    return [(p.text, p.matched, p.total) for p in find_prefixes(names)]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("wrapped", "text", "wrappers"),
    [
        (nn.DataParallel(net()), "module.", ("DataParallel or DistributedDataParallel",)),
        (torch.compile(net()), "_orig_mod.", ("torch.compile",)),
        (
            torch.compile(nn.DataParallel(net())),
            "_orig_mod.module.",
            ("torch.compile", "DataParallel or DistributedDataParallel"),
        ),
        (
            nn.DataParallel(nn.DataParallel(net())),
            "module.module.",
            ("DataParallel or DistributedDataParallel",) * 2,
        ),
    ],
)
def test_wrappers_of_torch(wrapped: nn.Module, text: str, wrappers: tuple[str, ...]) -> None:
    names = list(wrapped.state_dict())
    [prefix] = find_prefixes(names)
    assert (prefix.text, prefix.wrappers, prefix.matched, prefix.total) == (text, wrappers, 4, 4)
    assert [strip_wrappers(name) for name in names] == list(net().state_dict())


@pytest.mark.parametrize(
    ("wrap", "text", "wrappers"),
    [
        (AveragedModel, "module.", (AVERAGED,)),
        (lambda m: AveragedModel(nn.DataParallel(m)), "module.module.", (AVERAGED, LEADING["module",])),
        (lambda m: nn.DataParallel(AveragedModel(m)), "module.module.", (LEADING["module",], AVERAGED)),
    ],
)
def test_an_averaged_model_is_told_from_data_parallel(
    wrap: Callable[[nn.Module], nn.Module], text: str, wrappers: tuple[str, ...]
) -> None:
    names = list(wrap(net()).state_dict())
    [prefix] = find_prefixes(names)
    assert (prefix.text, prefix.wrappers, prefix.matched, prefix.total) == (text, wrappers, 4, 5)
    (counter,) = find_counters(names)
    assert [strip_wrappers(name) for name in names if name != counter] == list(net().state_dict())


def test_a_counter_of_another_make_is_no_averaged_model() -> None:
    assert find_counters(["n_averaged", "weight"]) == frozenset()
    assert find_counters(["net.n_averaged", "net.module.weight"]) == frozenset()
    assert find_counters(["n_averaged", "modules.weight"]) == frozenset()


def test_eight_counters_are_looked_at() -> None:
    """A hostile file has one behind every chain of wrappers."""
    chains = ["module." * count for count in range(10)]
    names = [f"{chain}{name}" for chain in chains for name in ("n_averaged", "module.weight")]
    assert find_counters(names) == {f"{chain}n_averaged" for chain in chains[:8]}


def test_only_what_is_called_module_beside_a_counter_is_averaged() -> None:
    found = find_prefixes(["n_averaged", "module.a", "module.b", "_orig_mod.c"])
    assert [(item.text, item.wrappers) for item in found] == [
        ("module.", (AVERAGED,)), ("_orig_mod.", (ANYWHERE["_orig_mod"],)),
    ]  # fmt: skip


def test_a_wrapper_in_front_or_around_a_counter_is_not_inside() -> None:
    """Where others have one in the middle of their names."""
    names = [
        "_orig_mod.n_averaged",
        "_orig_mod.module.a.w",
        "_orig_mod.module.b._orig_mod.w",
        "c._orig_mod.x",
    ]
    assert [(item.text, item.matched, item.inside) for item in find_prefixes(names)] == [
        ("_orig_mod.module.", 2, False), ("_orig_mod.", 2, True),
    ]  # fmt: skip
    assert is_averaged(find_prefixes(names)) and not is_averaged(find_prefixes(names[1:]))
    assert not is_averaged(()) and is_averaged(find_prefixes([*names, *["module.x"] * 9]))


def test_wrappers_inside_a_model() -> None:
    model = net()
    model[1] = torch.compile(model[1])
    # state_dict() of a CheckpointWrapper hides its own part; named_parameters() of its inside does not.
    names = [*model.state_dict(), "2._checkpoint_wrapped_module.weight"]
    assert isinstance(CheckpointWrapper(nn.Linear(1, 1))._checkpoint_wrapped_module, nn.Linear)
    assert [(p.text, p.matched, p.inside) for p in find_prefixes(names)] == [
        ("_orig_mod.", 2, True),
        ("_checkpoint_wrapped_module.", 1, True),
    ]
    assert [strip_wrappers(name) for name in names] == [*net().state_dict(), "2.weight"]


def test_only_whole_parts_count() -> None:
    assert found("module", "modules.0.weight", "submodule.weight", "encoder.module.weight", "_orig_mod") == []
    assert strip_wrappers("encoder.module.weight") == "encoder.module.weight"
    assert strip_wrappers("module") == "module"
    assert strip_wrappers("a._orig_mod") == "a._orig_mod"


def test_a_prefix_on_some_names_says_on_how_many() -> None:
    assert found("module.a.weight", "module.b.weight", "head.weight") == [("module.", 2, 3)]
    assert found("module.a.weight", "_orig_mod.b.weight", "module.c") == [
        ("module.", 2, 3),
        ("_orig_mod.", 1, 3),
    ]


def test_an_adapter() -> None:
    name = "base_model.model.model.layers.0.q_proj.lora_A.weight"
    assert found(name, name) == [("base_model.model.", 2, 2)]
    assert strip_wrappers(name) == "model.layers.0.q_proj.lora_A.weight"
    (prefix,) = find_prefixes([name])
    assert prefix == Prefix("base_model.model.", (LEADING["base_model", "model"],), 1, 1, False)
    (inside,) = find_prefixes(["a._orig_mod.w", "b"])
    assert inside == Prefix("_orig_mod.", (ANYWHERE["_orig_mod"],), 1, 2, True)
    assert found("base_model.weight") == []
    # The last part is a tensor's own name, and no wrapper's.
    for alone in ("base_model.model", "module", "module.module", "_orig_mod", "module.base_model.model"):
        kept = alone.removeprefix("module.")
        assert strip_wrappers(alone) == kept
        assert found(alone) == ([] if kept == alone else [("module.", 1, 1)])


def test_the_first_part_that_all_share() -> None:
    assert common_first_part(["net.a.weight", "net.b"]) == "net"
    assert common_first_part(["net.a", "met.b"]) is None
    assert common_first_part(["weight", "weight"]) is None
    assert common_first_part([]) is None


parts = st.sampled_from([*ANYWHERE, "module", "base_model", "model", "0", "weight", "", "_forward_module"])


@given(st.lists(st.lists(parts, min_size=1, max_size=6).map(".".join), max_size=10))
def test_what_is_found_is_what_is_stripped(names: list[str]) -> None:
    prefixes = find_prefixes(names)
    stripped = [strip_wrappers(name) for name in names]
    assert bool(prefixes) == (stripped != names)
    for prefix in prefixes:
        holders = [
            n for n in names if (f".{prefix.text}" in f".{n}" if prefix.inside else n.startswith(prefix.text))
        ]
        assert 0 < prefix.matched <= len(holders)
