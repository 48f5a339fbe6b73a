"""What pickled Parameters and modules, and copies in one state_dict, say of the entries beside them."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.kinds import evidence as module
from ckpttool.kinds.evidence import (
    read_averages,
    read_pickled_modules,
    read_pickled_parameters,
    read_target_copies,
)
from ckpttool.values.checkpoint import UNCLASSIFIED, Basis, Classification, CompositeTensor, Entry
from tests.support.classified import BUFFER, PARAMETER, UNKNOWN, by_root, entry

PICKLED = Classification(PARAMETER, Basis.PICKLED_PARAMETER)
NAMED = Classification(PARAMETER, Basis.NAME)
SURE = Classification(PARAMETER, Basis.METADATA)
STATS = Classification(BUFFER, Basis.NAME)


def beside(*entries: Entry, found: Any = None, versions: Any = None, ordered: bool = True) -> list[int]:
    """Positions of what is a buffer beside pickled Parameters."""
    said = read_pickled_parameters(entries, found or [UNCLASSIFIED] * len(entries), versions or {}, ordered)
    assert {(item.kind, item.basis) for item in said.values()} <= {(BUFFER, Basis.PICKLED_PARAMETER)}
    return sorted(said)


def parameter(name: str) -> Entry:
    return entry(name, declared=PICKLED)


def test_what_is_not_pickled_as_a_parameter_is_a_buffer() -> None:
    entries = [parameter("a.w"), entry("a.x"), entry("b.y"), parameter("b.w")]
    assert beside(*entries) == beside(*entries, ordered=False) == [1, 2]
    assert beside(*entries, versions={"a": 1, "b": 1}) == [1, 2]
    assert beside(*entries, found=[PICKLED, STATS, NAMED, PICKLED]) == [2]
    assert beside(entry("a.w"), entry("a.x")) == []


def test_a_parameter_that_was_put_in_afterwards_says_nothing() -> None:
    entries = [parameter("a.w"), entry("a.x"), entry("b.y")]
    assert beside(*entries, versions={"b": 1}) == []
    assert beside(*entries, found=[PICKLED, UNCLASSIFIED, SURE]) == []
    behind = [entry("b.a.w"), entry("b.c.x"), parameter("b.added")]
    assert beside(*behind) == [] and beside(*behind, ordered=False) == [0, 1]


def test_what_may_be_a_parameter_all_the_same_is_left() -> None:
    composite = Entry((), "a.c", CompositeTensor("sparse_coo", "torch.Tensor", None, (2,), ()))
    entries = [
        parameter("a.w"), entry("a.s")._replace(subclass="m.Mine"), entry("a.q", "qint8"), composite,
        Entry((), "a.n", None), entry("a.x"), entry("a.d", declared=Classification(UNKNOWN, Basis.EXPORT)),
    ]  # fmt: skip
    assert beside(*entries) == [5]


# -- targets and averages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "online"),
    [
        ("target_actor_params.w", "actor_params.w"), ("a.target_q_params.w", "a.q_params.w"),
        ("target_params.w", "params.w"), ("target_a_params.target_b_params.w", "a_params.target_b_params.w"),
        ("target_actor.w", None), ("my_target_actor_params.w", None), ("target_actor_params", None),
    ],
)  # fmt: skip
def test_a_target_network_is_a_copy_in_buffers(name: str, online: str | None) -> None:
    other = online or name.replace("target_", "", 1)
    found = read_target_copies([entry(other), entry(name), entry(5)])
    assert sorted(found) == ([1] if online else [])
    assert all((item.kind, item.basis) == (BUFFER, Basis.COPY) for item in found.values())
    assert read_target_copies([entry("other"), entry(name)]) == {}


def test_an_average_has_the_kind_of_what_it_averages() -> None:
    names = [
        f"{place}.{leaf}" for place in ("model", "ema_model") for leaf in ("a.weight", "a.bias", "b.weight")
    ]
    entries = [entry(name) for name in names]
    judged = [NAMED, STATS, NAMED, *[UNCLASSIFIED] * 3]
    found = read_averages(entries, judged)
    assert {at: item.averaged_of for at, item in found.items()} == {3: names[0], 4: names[1], 5: names[2]}
    assert [found[at].kind for at in (3, 4, 5)] == [PARAMETER, BUFFER, PARAMETER]


# -- pickled modules ----------------------------------------------------------------------------------------

MEMBER = Classification(BUFFER, Basis.PICKLED_MODULE)


def modules(weights: list[Entry], *pickled: list[Entry]) -> dict[Any, str]:
    """Names of the entries that a module speaks for, and its note."""
    entries = [*weights, *(item for held in pickled for item in held)]
    said = read_pickled_modules(entries, by_root(entries))
    assert all((item.kind, item.basis) == (BUFFER, Basis.COPY) for item in said.values())
    return {entries[at].name: item.note for at, item in said.items()}


def pickled(*root: Any, names: Any = ("mean", "std"), **more: Any) -> list[Entry]:
    return [entry(name, root=root, declared=MEMBER, **more) for name in names]


WEIGHTS = [
    entry(name, root=("model",))
    for name in ("net.norm.mean", "net.norm.std", "net.a", "head.norm.mean", "head.norm.std", "norm.mean")
]


def test_a_module_speaks_for_the_place_with_most_of_its_path() -> None:
    note = "as in the module pickled as hyper.net.norm"
    assert modules(WEIGHTS, pickled("hyper", "net", "norm")) == dict.fromkeys(
        ("net.norm.mean", "net.norm.std"), note
    )
    assert modules(WEIGHTS, pickled("hyper", "norm")) == {}  # two places, one as good as the other
    assert set(modules(WEIGHTS[:3], pickled("hyper", "norm"))) == {"net.norm.mean", "net.norm.std"}
    both = modules(WEIGHTS, pickled("hyper", "net", "norm"), pickled("hyper", "head", "norm"))
    assert len(both) == 4
    one = modules(WEIGHTS, pickled("hyper", "norm", names=("mean",)))
    assert one == {}  # three places
    assert modules(WEIGHTS, pickled("norm", names=("deep.mean",))) == {}


def test_names_of_a_module_may_have_dots() -> None:
    weights = [entry(f"net.{name}", root=("model",)) for name in ("a.mean", "mean", "b.a.mean")]
    found = modules(weights, pickled("net", names=("a.mean",)), pickled("x", "b", names=("a.mean",)))
    assert set(found) == {"net.a.mean", "net.b.a.mean"}


@pytest.mark.parametrize(
    "held",
    [
        pickled("hyper", "other", "normal"),
        pickled("hyper", "net", "norm", shape=(9,)),
        pickled(),
        pickled("net", 0),
        pickled("net", "norm", names=("mean", "lost")),
        [entry("mean", root=("net", "norm"), declared=PICKLED)],
        [Entry(("net", "norm"), "mean", None, None, MEMBER)],
    ],
)
def test_a_module_that_fits_nowhere_says_nothing(held: list[Entry]) -> None:
    assert modules(WEIGHTS[:3], held) == {}


def test_what_a_reader_said_is_not_said_again_and_there_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    final = [item._replace(declared=MEMBER) for item in WEIGHTS[:2]]
    assert modules([*final, WEIGHTS[2]], pickled("net", "norm")) == {}
    monkeypatch.setattr(module, "_MOST_MODULES", 1)
    found = modules(WEIGHTS, pickled("hyper", "net", "norm"), pickled("hyper", "head", "norm"))
    assert set(found) == {"net.norm.mean", "net.norm.std"}
