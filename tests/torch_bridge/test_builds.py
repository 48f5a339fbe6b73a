"""What two builds agree on, what poison leaves, what a load said: each part of verify by itself."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ckpttool.names.match import NameMatch
from ckpttool.torch_bridge.lint import facts
from ckpttool.torch_bridge.lint.probes import Transfer
from ckpttool.torch_bridge.lint.prove import state_names
from ckpttool.torch_bridge.reference import describe_model
from ckpttool.torch_bridge.verify.builds import Builds, Poison
from ckpttool.torch_bridge.verify.loading import LoadOutcome, load_strict, parse_load_error, round_trip
from ckpttool.torch_bridge.verify.suggestions import suggest
from ckpttool.torch_bridge.verify.verify import _Session
from ckpttool.values.verification import Fingerprint, Mismatched, Missing, NotRestored, Run
from tests.support.linted import source


class Held(nn.Module):
    """Buffers; those whose name begins with ``t_`` are not persistent."""

    def __init__(self, **values: Tensor) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_buffer(name, value, persistent=not name.startswith("t_"))


def watched(wanted: str, *models: nn.Module) -> Builds:
    builds = Builds(frozenset(wanted.split()))
    for model in models:
        builds.watch(model)
    return builds


def test_builds_agree_differ_or_lack_a_name() -> None:
    one = Held(a=torch.ones(2), b=torch.ones(2), t_c=torch.ones(2), t_d=torch.ones(2), t_e=torch.ones(2))
    two = Held(a=torch.ones(2), b=torch.zeros(2), t_c=torch.ones(2), t_d=torch.zeros(2), t_f=torch.ones(2))
    found = watched("a b x", one, two)
    assert {name: found.agrees(name) for name in ("a", "b", "t_c", "t_d", "t_e", "t_f", "x")} == {
        "a": True, "b": False, "t_c": True, "t_d": False, "t_e": None, "t_f": None, "x": None
    }  # fmt: skip
    assert list(found.expected) == ["t_c"]
    assert (found.seen, found.transient) == (2, {"t_c", "t_d", "t_e", "t_f"})
    found.watch(Held(t_c=torch.zeros(2), t_g=torch.ones(1)))  # two of them are enough
    assert (found.agrees("t_c"), found.seen, "t_g" in found.transient) == (True, 2, False)


def test_what_was_built_is_kept_as_it_was() -> None:
    model = Held(a=torch.ones(2), b=torch.ones(2), t_c=torch.ones(2))
    found = watched("a", model)
    assert (list(found.expected), found.seen, found.agrees("a")) == (["a", "t_c"], 1, None)
    model.a.fill_(5)  # type: ignore[operator]
    assert found.expected["a"].tolist() == [1, 1]


def test_nothing_is_watched_where_the_file_lacks_nothing() -> None:
    found = watched("", Held(t_c=torch.ones(2)))
    assert (found.seen, found.expected, found.transient, found.fingerprints()) == (0, {}, frozenset(), {})


def test_only_tensors_that_hold_data_are_watched() -> None:
    def build() -> Held:
        return Held(
            m=torch.ones(2, device="meta"),
            s=torch.eye(2).to_sparse(),
            e=torch.ones(0),
            t_m=torch.ones(1, device="meta"),
        )

    found = watched("m s e", build(), build())
    assert [found.agrees(name) for name in ("m", "s", "e", "t_m")] == [None, None, True, None]
    assert found.transient == {"t_m"}


def test_a_fingerprint_is_of_the_bytes_in_order() -> None:
    turned = torch.arange(6, dtype=torch.int16).view(2, 3).t()
    found = watched("x", *(Held(t_b=turned, t_a=torch.tensor([1.5])) for _ in range(2))).fingerprints()
    assert list(found) == ["t_a", "t_b"]
    packed = turned.contiguous().numpy().tobytes()
    assert found["t_b"] == Fingerprint("int16", (3, 2), hashlib.sha256(packed).hexdigest(), "0..5")
    assert found["t_a"][:2] == ("float32", (1,)) and found["t_a"].values == "1.5"


# ------------------------------------------------------------------------------------------ poison


@pytest.mark.parametrize(
    "stored", [None, torch.tensor([True, False]), torch.tensor([1, 0]), torch.tensor([True]), "x"]
)
def test_a_bool_is_poisoned_with_what_it_should_not_hold(stored: Any) -> None:
    poison, held = Poison(), torch.tensor([False, True])
    poison.fill({"x": held}, {"x": stored})
    fits = isinstance(stored, Tensor) and stored.dtype is torch.bool and stored.shape == held.shape
    assert held.tolist() == ([False, True] if fits else [True, False])
    assert poison.survives("x", held) and not poison.survives("y", held)
    held[0] = not held[0]
    assert not poison.survives("x", held)


def test_poison_passes_by_what_cannot_be_filled() -> None:
    poison = Poison()
    wide = torch.zeros(1).expand(3)
    tensors = {
        "meta": torch.ones(2, device="meta"), "lazy": nn.LazyLinear(2).weight, "text": "x",
        "empty": torch.ones(0),
        "wide": wide, "flags": torch.zeros(1, dtype=torch.bool).expand(2), "plain": torch.ones(2),
        "parameter": nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    poison.fill(tensors)
    survivors = [
        name for name, value in tensors.items() if isinstance(value, Tensor) and poison.survives(name, value)
    ]
    assert set(survivors) - {"flags"} == {"plain", "parameter"}  # of a bool, what it was is no proof
    assert wide.tolist() == [0, 0, 0]
    assert tensors["parameter"].requires_grad  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------ what a load said


NAMES = st.text("ab.\"', :\n", min_size=1, max_size=6).filter(
    lambda name: name.strip() == name and "." not in name
)


@settings(max_examples=60)
@given(
    st.lists(NAMES, min_size=1, max_size=6, unique=True),
    st.lists(NAMES, max_size=3, unique=True),
    st.randoms(),
)
def test_lists_are_those_of_the_file_and_the_model_whatever_names_hold(
    names: list[str], more: list[str], rnd: Any
) -> None:
    names = [name for name in names if not hasattr(nn.Module(), name)]
    model = Held(**{name: torch.zeros(2) for name in names})
    fate = {name: rnd.choice(["there", "missing", "shape"]) for name in names}
    state = {name: torch.ones(3 if fate[name] == "shape" else 2) for name in names if fate[name] != "missing"}
    extra = [name for name in more if name not in names]
    state |= {name: torch.ones(1) for name in extra}
    found = load_strict(model, state)
    assert found.missing == tuple(name for name in names if fate[name] == "missing")
    assert found.unexpected == tuple(extra)
    wrong = [name for name in names if fate[name] == "shape"]
    if not any("\n" in name or ":" in name for name in wrong):
        assert found.mismatched == tuple(Mismatched(name, (3,), (2,)) for name in wrong)
        assert found.other == ()
    assert found.ok is (not wrong and not extra and "missing" not in fate.values())


def test_a_message_alone_is_taken_apart_or_kept() -> None:
    head = "Error(s) in loading state_dict for Net:\n\t"
    both = 'Missing key(s) in state_dict: "a", "b". \n\tUnexpected key(s) in state_dict: "c". '
    assert parse_load_error(head + both) == LoadOutcome(("a", "b"), ("c",))
    old = "size mismatch for w: copying a param with shape torch.Size([2, 3]) from checkpoint, the shape in "
    old += "current model is torch.Size([])."
    mine = (
        "size mismatch for v: copying a parameter with shape (4,), where the shape is (5,) in current model."
    )
    assert parse_load_error(f"{head}{old}\n\t{mine}") == LoadOutcome(
        mismatched=(Mismatched("w", (2, 3), ()), Mismatched("v", (4,), (5,)))
    )
    more = "While copying the parameter named x: no. "
    assert parse_load_error(f"{head}{both}\n\t{more}") == LoadOutcome(("a", "b"), ("c",), (), (more.strip(),))
    assert parse_load_error(f"{head}{old}\n{'x' * 600}").other == ("x" * 500,)
    assert parse_load_error("no\n  reason").other == ("no reason",)
    given_ = parse_load_error('Missing key(s) in state_dict: "a", "b", "c".\n rest', ('a", "b', "c"))
    assert given_ == LoadOutcome(('a", "b', "c"), (), (), ("rest",))


def test_a_load_leaves_the_state_and_the_module_as_they_were() -> None:
    model, state = nn.Linear(2, 2), nn.Linear(2, 2).state_dict()
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    assert load_strict(model, state, assign=True) == LoadOutcome()
    assert model.weight.data_ptr() == state["weight"].data_ptr()
    assert state._metadata == {"": {"version": 1}} and len(model._load_state_dict_post_hooks) == 0  # type: ignore[attr-defined]
    other = nn.Linear(2, 2)
    assert load_strict(other, state) == LoadOutcome()
    assert other.weight.data_ptr() != state["weight"].data_ptr() and torch.equal(
        other.weight, state["weight"]
    )

    class Silent(nn.Linear):
        def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
            raise SystemExit

    assert load_strict(Silent(1, 1), state) == LoadOutcome(other=("SystemExit",))


def test_a_trip_ends_where_the_first_load_refuses() -> None:
    held: list[nn.Module] = [nn.Linear(2, 2)]
    seeds: list[int] = []

    def build(seed: int) -> nn.Module:
        seeds.append(seed)
        return nn.Linear(3, 2)

    trip = round_trip(held, build, 8)
    assert (trip.outcome, trip.note) == (LoadOutcome(mismatched=(Mismatched("weight", (2, 2), (2, 3)),)), "")
    assert isinstance(trip.module, nn.Linear) and (held, seeds) == ([], [1])


def test_what_assigning_leaves_on_meta_cannot_be_moved() -> None:
    def assigned(device: str, **state: Tensor) -> str:
        with torch.device("meta"):
            module = nn.Linear(2, 2)
        session: Any = SimpleNamespace(
            _load_strict=lambda module, assign: load_strict(module, state, assign=assign)
        )
        loaded = _Session._load_assign(session, device, module)
        assert loaded.module is module
        return loaded.note

    whole = nn.Linear(2, 2).state_dict()
    assert assigned("cuda", weight=whole["weight"]) == "stays on cpu: meta tensors cannot be moved"
    assert assigned("cpu", weight=whole["weight"]) == assigned("cpu", **whole) == ""
    assert assigned("meta", **whole) == ""
    assert assigned("nowhere", **whole).startswith(".to(nowhere) fails: ")


# ------------------------------------------------------------------------------------------ advice


@pytest.mark.parametrize(
    ("becomes", "one", "two"),
    [
        (
            "rebuilt",
            "1 missing entry (a.w): the same in every build; strict=False keeps what the constructor made",
            "2 missing entries (a.w, b.w): the same in every build; strict=False keeps what the constructor "
            "made",
        ),
        (
            "random",
            "1 missing entry would stay random (a.w), and strict=False would hide it",
            "2 missing entries would stay random (a.w, b.w), and strict=False would hide it",
        ),
        (
            "default",
            "1 missing entry would keep the initial value (a.w), and strict=False would hide that it is not "
            "trained",
            "2 missing entries would keep the initial value (a.w, b.w), and strict=False would hide that it "
            "is not trained",
        ),
        (
            "tied",
            "the file leaves out a.w, tied to an entry that it has: strict=True raises all the same; use "
            "safetensors.torch.load_model, or strict=False with the model's own tying",
            "the file leaves out a.w, b.w, tied to an entry that it has: strict=True raises all the same; "
            "use safetensors.torch.load_model, or strict=False with the model's own tying",
        ),
        ("unknown", "", ""),
    ],
)  # fmt: skip
def test_what_is_missing_is_told_by_its_fate(becomes: str, one: str, two: str) -> None:
    spec = describe_model(nn.Linear(1, 1), "m")
    for names, said in ((["a.w"], one), (["a.w", "b.w"], two)):
        missing = tuple(Missing(name, "parameter", 4, becomes) for name in names)
        # Of several runs, that of copy is what advice is about.
        runs = [Run("cpu", "assign"), Run("cpu", "copy", missing=missing)]
        assert list(suggest(spec, {}, NameMatch({}, 0, ""), runs, str)) == ([said] if said else [])
        alone = [Run("cpu", "to-empty", missing=missing)]
        assert list(suggest(spec, {}, NameMatch({}, 0, ""), alone, str)) == ([said] if said else [])


@pytest.mark.parametrize(("count", "them"), [(1, "it"), (2, "them")])
def test_what_is_not_restored_is_told_with_what_to_do(count: int, them: str) -> None:
    left = tuple(NotRestored(name, "meta", "a", "b") for name in ("t", "u")[:count])
    buffers = f"{count} non-persistent buffer{'s' * (count > 1)}"
    code = f"run the constructor code that creates {them} after the load"

    def said(load: str) -> list[str]:
        runs = [Run("cpu", load, not_restored=left)]
        return list(suggest(describe_model(nn.Linear(1, 1), "m"), {}, NameMatch({}, 0, ""), runs, str))

    assert said("assign") == [
        f"assign=True leaves {buffers} on meta (t): build the model on the CPU, or {code}"
    ]
    assert said("to-empty") == [
        f'to_empty() leaves garbage in {buffers} (t), and strict=True says "All keys matched": build the '
        f"model normally, or {code}"
    ]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_what_stays_behind_or_keeps_its_dtype_is_named(count: int) -> None:
    names = tuple("abcd"[:count])
    shown = ", ".join(names[:3]) + (", …" if count > 3 else "")
    one = count == 1

    def said(load: str, **lists: Any) -> list[str]:
        runs = [Run("cpu", load, **lists)]
        return list(suggest(describe_model(nn.Linear(1, 1), "m"), {}, NameMatch({}, 0, ""), runs, str))

    stay = "stays" if one else "stay"
    moves = "register_buffer(…, persistent=False) moves with the model"
    assert (
        said("copy", unmoved=names)
        == said("round-trip", unmoved=names)
        == [f"{shown} {stay} behind: {moves}"]
    )
    are = "is a plain attribute and holds" if one else "are plain attributes and hold"
    for load in ("assign", "to-empty"):
        assert said(load, unmoved=names) == [
            f"{shown} {are} no data after a build on meta: register_buffer(…), or build the model normally"
        ]
    entries = "1 entry" if one else f"{count} entries"
    assert said("assign", assigned_dtype=names) == [
        f"assign=True keeps the file's dtype in {entries} ({shown}), not the one that the model declares: "
        "cast after the load"
    ]


def test_a_proof_moves_to_the_accelerator_or_to_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    build, seen = source(lambda: nn.Linear(2, 2)), Transfer({}, (), (), {}, frozenset())
    gathered: Any = SimpleNamespace(moved=seen)
    monkeypatch.setattr(facts, "accelerator", lambda: None)
    assert facts.move_for_proof(build, gathered) == ("meta", seen)
    monkeypatch.setattr(facts, "accelerator", lambda: "cpu")
    device, moved = facts.move_for_proof(build, gathered)
    assert (device, {item.device for item in moved.after.values()}) == ("cpu", {"cpu"})


def test_a_slot_has_the_key_of_its_name_or_one_of_the_same_tensor() -> None:
    model: Any = nn.Module()
    model.a, model.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    model.c, model.d = model.b, nn.Parameter(torch.ones(1))

    def names(**state: Any) -> dict[str, str]:
        found: Any = SimpleNamespace(model=model, state=state)
        return state_names(found)

    assert names(a=model.a, alias=model.a, b=model.b) == {"a": "a", "b": "b"}
    assert names(x=model.b, y=model.b, z=model.a, w=torch.ones(1)) == {"a": "z", "b": "x", "c": "y"}
    assert names(x=model.b, b=model.d) == {"b": "b", "c": "x"}
