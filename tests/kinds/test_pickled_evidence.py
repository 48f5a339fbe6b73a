"""What pickled Parameters and modules, and copies in one state_dict, say of the entries beside them."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.kinds import evidence as module
from ckpttool.kinds.classify import classify
from ckpttool.kinds.evidence import (
    read_averages,
    read_pickled_modules,
    read_pickled_parameters,
    read_target_copies,
)
from ckpttool.values.checkpoint import (
    UNCLASSIFIED,
    Basis,
    Checkpoint,
    Classification,
    CompositeTensor,
    Entry,
    Value,
)
from tests.support.classified import BUFFER, PARAMETER, UNKNOWN, by_root, checkpoint, entry

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
    assert beside(*entries, parameter("c.w"), versions={"a": 1, "b": 1}) == []
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


def test_the_number_of_a_layer_is_no_name_of_a_module() -> None:
    """What is in a list is called by its place there: any list has a first."""
    weights = [entry("net.0.mean", root=("model",)), entry("0.mean", root=("model",))]
    assert modules(weights, pickled("hyper", "net", 0, names=("mean",))) == {}
    assert set(modules(weights, pickled("hyper", "net", "0", names=("mean",)))) == {"net.0.mean"}


def test_numbers_in_a_path_are_compared_as_text() -> None:
    weights = [entry(f"nets.{at}.norm.mean", root=("model",)) for at in range(3)]
    assert set(modules(weights, pickled("nets", 1, "norm", names=("mean",)))) == {"nets.1.norm.mean"}
    assert modules(weights, pickled("nets", 5, "norm", names=("mean",))) == {}


def test_what_a_module_does_not_register_is_none_of_its_members() -> None:
    """A plain tensor attribute may stand anywhere among them, and need not be in the state_dict."""
    loose = entry("cache", root=("net", "norm"), declared=Classification(UNKNOWN, Basis.NONE, note="loose"))
    held = pickled("net", "norm")
    for at in range(3):
        assert set(modules(WEIGHTS, [*held[:at], loose, *held[at:]])) == {"net.norm.mean", "net.norm.std"}
    assert modules([*WEIGHTS, entry("net.norm.cache", root=("model",))], [loose]) == {}


def test_names_of_every_depth_are_found_at_every_depth() -> None:
    """A member of one, two or three parts, at the top and below; no place is met twice."""
    members = ("mean", "a.mean", "a.b.mean")
    for count in range(1, 4):
        names = [f"{place}.{name}" for place in ("norm", "x.net") for name in members[:count]]
        weights = [entry(name, root=("model",)) for name in (*names, "p.q.r.s.last.a.mean")]
        one, two = pickled("norm", names=members[:count]), pickled("net", names=members[count - 1 : count])
        found = modules(weights, one, two, pickled("last", names=("a.mean",)))
        assert set(found) == {*names[:count], names[-1], "p.q.r.s.last.a.mean"}


@pytest.mark.parametrize("places", [1, 7, 8, 9])
def test_so_many_places_are_tried(places: int) -> None:
    """Of equal ones, those that stand first; all but the last are of another shape."""
    weights = [entry(f"n{at}.norm.mean", root=("model",), shape=(9,)) for at in range(places)]
    weights[-1] = entry(f"n{places - 1}.norm.mean", root=("model",))
    found = modules(weights, pickled("norm", names=("mean",)))
    assert list(found) == ([f"n{places - 1}.norm.mean"] if places <= 8 else [])
    # The one with most of the path is tried first, wherever it stands.
    there = modules(weights, pickled(f"n{places - 1}", "norm", names=("mean",)))
    assert list(there) == [f"n{places - 1}.norm.mean"]


def test_so_many_modules_are_looked_for() -> None:
    weights = [entry(f"net.n{at}.mean", root=("model",)) for at in range(70)]
    found = modules(weights, *(pickled(f"n{at}", names=("mean",)) for at in range(70)))
    assert list(found) == [f"net.n{at}.mean" for at in range(64)]


def test_a_module_speaks_for_what_was_not_declared_beside_another_module() -> None:
    """And never for what is: nothing is stronger than a module's own word."""
    held = pickled("net", names=("norm.mean", "norm.std"))
    loose = entry("other.norm.mean", root=("net",))
    found = modules([], [*held, loose], pickled("norm", names=("mean",)))
    assert found == {"other.norm.mean": "as in the module pickled as norm"}


# -- which of them is heard -------------------------------------------------------------------------------


def said_of(source: Checkpoint) -> dict[Any, Classification]:
    """What is said of the entries under ``model``."""
    found = classify(source).classifications
    return {
        item.name: said for item, said in zip(source.entries, found, strict=True) if item.root == ("model",)
    }


def test_a_module_knows_better_than_how_its_tensor_was_pickled() -> None:
    """``register_buffer("mean", nn.Parameter(...))`` is legal."""
    weights = [entry("norm.mean", root=("model",), declared=PICKLED), entry("norm.w", root=("model",))]
    found = said_of(checkpoint([*weights, *pickled("norm", names=("mean",))]))
    note = "as in the module pickled as norm"
    assert found["norm.mean"] == Classification(BUFFER, Basis.COPY, note=note)
    assert said_of(checkpoint(weights))["norm.mean"] == PICKLED


def test_an_optimizer_says_less_than_a_module_or_a_pickled_parameter() -> None:
    weights = [
        entry("norm.mean", root=("model",)), entry("norm.w", root=("model",), declared=PICKLED),
        entry("norm.x", root=("model",)),
    ]  # fmt: skip
    groups = ("optim", "param_groups", 0)
    names = ("norm.mean", "norm.w", "norm.x")
    values = (Value(groups, "params", (0, 1, 2)), Value(groups, "param_names", names))
    by_optimizer = Classification(PARAMETER, Basis.OPTIMIZER, note="optimizer, by names")
    assert set(said_of(checkpoint([weights[0], weights[2]], values=values)).values()) == {by_optimizer}
    found = said_of(checkpoint([*weights, *pickled("norm", names=("mean",))], values=values))
    assert [(said.kind, said.basis) for said in found.values()] == [
        (BUFFER, Basis.COPY), (PARAMETER, Basis.PICKLED_PARAMETER), (BUFFER, Basis.PICKLED_PARAMETER),
    ]  # fmt: skip


def test_a_target_network_is_what_its_reader_says_where_it_says_something() -> None:
    final = Classification(PARAMETER, Basis.TORCHSCRIPT)
    names = ("q_params.w", "target_q_params.w", "q_params.b", "target_q_params.b", "target_q_params.c")
    entries = [entry(name, root=("model",)) for name in names]
    entries[1] = entries[1]._replace(declared=final)
    found = said_of(checkpoint([*entries, *pickled("target_q_params", names=("c",))]))
    note = "a target network: the parameters beside it once more, in buffers"
    assert found[names[1]] == final
    assert found[names[3]] == Classification(BUFFER, Basis.COPY, note=note)


def test_what_deepspeed_lists_is_no_stronger_than_what_was_pickled() -> None:
    """And says nothing of what is not registered."""
    loose = Classification(UNKNOWN, Basis.NONE, note="not registered")
    declared = {"a.p": PICKLED, "a.l": loose, "a.m": MEMBER, "a.x": UNCLASSIFIED}
    entries = [entry(name, root=("module",), declared=said) for name, said in declared.items()]
    listed = (Value((), "buffer_names", ("a.p", "a.l")),)
    found = classify(checkpoint(entries, values=listed)).classifications
    deepspeed = Classification(PARAMETER, Basis.METADATA, note="DeepSpeed buffer_names")
    assert found == (PICKLED, loose, MEMBER, deepspeed)


def test_that_a_reader_knows_nothing_is_nothing_known() -> None:
    """A manifest says of each entry what it is, also where that is unknown."""
    nothing = Classification(UNKNOWN, Basis.NONE)
    assert nothing is not UNCLASSIFIED
    entries = [entry("a.weight", root=("model",), declared=nothing), entry("a.thing", root=("model",))]
    assert said_of(checkpoint(entries)) == said_of(
        checkpoint([item._replace(declared=UNCLASSIFIED) for item in entries])
    )
    assert said_of(checkpoint(entries))["a.weight"].kind is PARAMETER


def test_an_averaged_copy_is_told_among_the_weights() -> None:
    names = ("net.weight", "net.steps", "net.x", "ema.net.weight", "ema.net.steps", "ema.net.x")
    dtypes = ("float32", "int64", "float32") * 2
    entries = [entry(name, dtype, root=("model",)) for name, dtype in zip(names, dtypes, strict=True)]
    entries[5] = entries[5]._replace(declared=MEMBER)
    entries += [entry("ema.n_averaged", "int64", root=("model",)), entry(5, root=("model",))]
    found = said_of(checkpoint(entries))
    for name, kind in (("net.weight", PARAMETER), ("net.steps", BUFFER)):
        note = f"averaged copy of {name}"
        assert found[f"ema.{name}"] == Classification(kind, Basis.COPY, note=note, averaged_of=name)
    assert found["ema.net.x"] == MEMBER
    assert found["ema.n_averaged"] == Classification(BUFFER, Basis.SIBLING, note="beside averaged weights")
    assert found["net.weight"].averaged_of == found["net.steps"].averaged_of == ""


def test_an_average_in_buffers_is_one_whatever_it_averages() -> None:
    names = ("net.a.weight", "net.a.bias", "ema.aweight", "ema.abias", "ema.decay", "ema.num_updates")
    entries = [entry(name, root=("model",)) for name in names]
    found = said_of(checkpoint(entries))
    assert [said.kind for said in found.values()] == [PARAMETER] * 2 + [BUFFER] * 4
    for at in (2, 3):
        note = f"averaged copy of {names[at - 2]}"
        assert found[names[at]] == Classification(BUFFER, Basis.COPY, note=note, averaged_of=names[at - 2])
