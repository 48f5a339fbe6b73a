"""What verify tells, keeps and leaves behind on its way: places, ties, files, renames, steps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ckpttool.findings.model import PERHAPS_UNREAD
from ckpttool.formats import read_checkpoint
from ckpttool.kinds.known_names import RULES, load_name_table, shape_code
from ckpttool.names.match import NameMatch
from ckpttool.torch_bridge.reference import describe_model
from ckpttool.torch_bridge.verify import against_file, loading, suggestions
from ckpttool.torch_bridge.verify.against_file import DeviceComparer
from ckpttool.torch_bridge.verify.placement import (
    find_untied,
    left_on_meta,
    share_memory,
    tie_groups,
    unmoved,
)
from ckpttool.torch_bridge.verify.suggestions import suggest
from ckpttool.torch_bridge.verify.verify import VerifyOptions, _unread, choose_devices, verify
from ckpttool.values.checkpoint import Checkpoint, Entry, Kind
from ckpttool.values.errors import DeviceUnavailable, ModelImportFailed
from ckpttool.values.progress import Progress
from ckpttool.values.verification import Missing, Run
from tests.support.inspections import tensor
from tests.support.verified_models import Plain, Rope
from tests.support.verifying import check, names, source, the_run

# ------------------------------------------------------------------------------------------ places


class Stays(nn.Linear):
    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        return self


def placed() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), Stays(2, 2, bias=False))
    model.scalar = torch.ones(())
    model.plain = [torch.ones(2)]
    model.registered = [model[0].weight]
    model.register_buffer("table", torch.ones(2), persistent=False)
    return model


def test_what_is_left_behind_is_named_once() -> None:
    model = placed()
    assert unmoved(model, "cpu") == left_on_meta(model) == []
    assert unmoved(model.to("meta"), "meta") == ["1.weight", "plain[0]", "registered[0]"]
    with torch.device("meta"):
        built = placed()
    assert left_on_meta(built) == ["scalar", "plain[0]"]
    expected = ["table", "0.weight", "0.bias", "1.weight", "scalar", "plain[0]"]
    assert unmoved(built, "cpu") == expected


OTHERS: dict[str, Any] = {
    "meta": lambda: torch.ones(2, device="meta"),
    "lazy": lambda: nn.LazyLinear(2).weight,
    "sparse": lambda: torch.eye(2).to_sparse(),
    "empty": lambda: torch.ones(0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_only_tensors_that_hold_data_share_memory(name: str) -> None:
    whole, other = torch.ones(4), OTHERS[name]()
    for a, b in ((whole, other), (other, whole), (other, OTHERS["meta"]()), (OTHERS["meta"](), other)):
        assert not share_memory(a, b)
    assert share_memory(whole, whole[2:]) and not share_memory(whole, whole.clone())
    assert not share_memory(whole[:0], OTHERS["meta"]())


def test_entries_are_tied_where_their_spans_meet() -> None:
    class Views(nn.Module):
        def __init__(self, *spans: tuple[int, int]) -> None:
            super().__init__()
            whole = torch.arange(12.0)
            for number, (start, stop) in enumerate(spans):
                self.register_buffer(f"b{number}", whole[start:stop])
            self.register_buffer("sparse", torch.eye(2).to_sparse())

    def groups(*spans: tuple[int, int]) -> list[tuple[str, ...]]:
        return tie_groups(describe_model(Views(*spans), "here:build"))

    assert groups((0, 4)) == groups((0, 4), (4, 8)) == groups((0, 0), (0, 0)) == []
    assert groups((0, 4), (3, 8)) == groups((0, 4), (0, 4)) == [("b0", "b1")]
    assert groups((3, 8), (0, 4)) == [("b1", "b0")]
    assert groups((0, 9), (1, 2), (3, 4)) == [("b0", "b1", "b2")]
    assert groups((0, 2), (5, 6), (1, 3), (5, 7), (8, 9)) == [("b0", "b2"), ("b1", "b3")]
    assert groups((0, 12), (1, 2), (11, 12)) == [("b0", "b1", "b2")]
    whole = torch.ones(3)
    three = {"a": whole, "b": whole[1:], "c": whole.clone()}
    assert find_untied([("a", "b"), ("a", "c"), ("a", "b", "c"), ("a", "x"), ()], three) == [
        ("a", "c"), ("a", "b", "c")
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ devices


def test_devices_that_are_none_are_refused_in_these_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*asked: str) -> tuple[str, str | None]:
        with pytest.raises(DeviceUnavailable) as caught:
            choose_devices(asked)
        return caught.value.what, caught.value.hint

    hint = "--device cpu, cuda or cuda:1"
    assert refused("cpu", "gpu") == ("'gpu' is not a device", hint)
    assert refused("meta") == ("meta is not supported", hint)
    verify_ = "ckpttool.torch_bridge.verify.verify"
    monkeypatch.setattr(f"{verify_}.accelerator", lambda: None)
    none = f"no CUDA device here (torch {torch.__version__}), but cuda:1 was asked for"
    assert refused("cuda:1") == (none, "--device cpu checks the rest")
    assert (choose_devices(()), choose_devices(("cpu", "cpu"))) == (("cpu",), ("cpu",))
    monkeypatch.setattr(f"{verify_}.accelerator", lambda: "cuda")
    for count, words in ((1, "is 1 device"), (2, "are 2 devices"), (0, "are 0 devices")):
        monkeypatch.setattr(f"{verify_}.count", lambda count=count: count)
        assert refused(f"cuda:{count}") == (f"cuda:{count} was asked for, but there {words}", None)
    monkeypatch.setattr(f"{verify_}.count", lambda: 2)
    assert choose_devices(()) == ("cpu", "cuda")
    assert choose_devices(("cuda:1", "cpu", "cuda:1")) == ("cuda:1", "cpu")


@pytest.mark.parametrize("overlaps", [True, False])
def test_two_buffers_alternate_and_one_is_filled_again_when_its_copy_has_arrived(
    overlaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, number: int) -> None:
            self.number = number

        def synchronize(self) -> None:
            log.append(f"wait {self.number}")

    def record(_device: torch.device) -> Event:
        log.append("record")
        return Event(log.count("record"))

    buffers = [torch.zeros(16, dtype=torch.uint8) for _ in range(2)]
    handed = iter(buffers)
    monkeypatch.setattr(against_file, "CHUNK_NBYTES", 16)
    monkeypatch.setattr(against_file, "pinned", lambda *_: next(handed) if overlaps else None)
    monkeypatch.setattr(against_file, "record_event", record)
    comparer = DeviceComparer(torch.device("cpu"))
    stored = torch.arange(18, dtype=torch.float32)  # 72 bytes: four chunks and a half
    comparer.submit("same", stored.clone(), stored)
    comparer.submit("other", stored + 1, stored)
    comparer.submit("none", stored[:0], stored[:0])
    different, seconds = comparer.finish()
    assert (different, comparer.nbytes) == (["other"], 144)
    assert seconds > 0
    assert [buffer.any().item() for buffer in buffers] == [overlaps, overlaps]
    waits = [word for number in range(1, 9) for word in (f"wait {number}", "record")]
    assert log == (["record", "record", *waits] if overlaps else [])


# ------------------------------------------------------------------------------------------ files on the way


def test_one_copy_of_the_model_at_a_time_is_written_and_none_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    monkeypatch.setattr(loading.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    seen: dict[str, list[str]] = {}

    def watching(name: str, plain: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            [folder] = [item for item in os.listdir(tmp_path / "tmp") if item.startswith("ckpttool-verify-")]
            seen[name] = sorted(os.listdir(tmp_path / "tmp" / folder))
            return plain(*arguments, **options)

        return call

    monkeypatch.setattr(safetensors.torch, "save_model", watching("save", safetensors.torch.save_model))
    monkeypatch.setattr(safetensors.torch, "load_model", watching("load", safetensors.torch.load_model))
    assert the_run(check(Plain().state_dict(), Plain, tmp_path), "round-trip").ok
    assert seen == {"save": [], "load": ["model.safetensors"]}
    assert [item for item in os.listdir(tmp_path / "tmp") if item.startswith("ckpttool")] == []


@pytest.mark.parametrize("more", [-1, 0])
def test_the_round_trip_needs_its_bytes_and_some_for_others(
    more: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Plain()
    nbytes = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    free = nbytes + (16 << 20) + more
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda _folder: usage)
    monkeypatch.setattr(loading.tempfile, "tempdir", str(tmp_path))
    run = the_run(check(model.state_dict(), Plain, tmp_path), "round-trip")
    said = f"{tmp_path} has {free:,} bytes free, {nbytes:,} needed: set TMPDIR"
    assert (run.ok, run.note) == ((None, said) if more else (True, ""))


def test_builds_of_a_round_trip_are_drawn_anew(tmp_path: Path) -> None:
    """A model that keeps what it was built with is not right because all builds are equal."""

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3))
            self.kept = self.weight.detach().clone()

        def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
            if self.kept[0] != KEPT:
                super()._load_from_state_dict(state, prefix, *rest)

    with torch.random.fork_rng():
        torch.manual_seed(1)
        KEPT = torch.rand(3)[0]
    run = the_run(check({"weight": torch.ones(3)}, Keeps, tmp_path), "round-trip")
    assert not run.ok


def test_what_a_saver_or_a_loader_raises_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def fails(*_arguments: Any) -> None:
        raise RuntimeError("no\n such thing")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "load_model", fails)
        run = the_run(check(Plain().state_dict(), Plain, tmp_path, load="round-trip"), "round-trip")
        assert (run.ok, run.errors) == (False, ("as .safetensors: no such thing",))
    monkeypatch.setattr(safetensors.torch, "save_model", fails)
    run = the_run(check(Plain().state_dict(), Plain, tmp_path, load="round-trip"), "round-trip")
    assert (run.ok, run.note) == (False, "RuntimeError: no such thing")


# ------------------------------------------------------------------------------------------ renames


def command(*options: str) -> str:
    return " ".join(("convert", *options))


def advice(
    model: nn.Module, stored: dict[str, tuple[int, ...]], missing: Sequence[str], **more: Any
) -> list[str]:
    run = Run("cpu", "copy", missing=tuple(Missing(name, "parameter", 4, "random") for name in missing))
    in_file = {name: Entry((), name, tensor(shape)) for name, shape in stored.items()}
    spec = describe_model(model, "here:build")
    match = NameMatch(more.pop("to_model", {}), 0, "")
    run = run._replace(unexpected=tuple(more.pop("unexpected", stored)), **more)
    return [text for text in suggest(spec, in_file, match, [run], command) if "would stay" not in text]


def renamed(old: str, new: str) -> str:
    return f"likely renamed (one shape, one ending): {old} in the file is {new} in the model"


def test_a_rename_is_likely_where_one_name_fits_one() -> None:
    one, two = (
        nn.ModuleDict({"a": nn.Linear(3, 2)}),
        nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)}),
    )
    line = "convert --rename ^old\\.weight$=>a.weight renames them"
    assert advice(one, {"old.weight": (2, 3)}, ["a.weight"]) == [renamed("old.weight", "a.weight"), line]
    assert advice(two, {"old.weight": (2, 3)}, ["a.weight", "b.weight"]) == []
    for other in ({"old.weight": (3, 2)}, {"old.bias": (2, 3)}, {"old.weights": (2, 3)}, {}):
        assert advice(one, other, ["a.weight"]) == []
    assert advice(one, {"x.weight": (2, 3), "y.weight": (2, 3)}, ["a.weight"]) == []
    ends = {"x.a.weight": (2, 3), "y.b.weight": (2, 3)}
    both = [renamed("x.a.weight", "a.weight"), renamed("y.b.weight", "b.weight")]
    assert advice(two, ends, ["a.weight", "b.weight"])[:-1] == both
    # What the file has and load_state_dict takes is no other name of anything.
    assert advice(one, {"old.weight": (2, 3)}, ["a.weight"], unexpected=[]) == []


def test_a_command_is_only_printed_where_it_can_say_all_of_it() -> None:
    two = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 2)})
    missing = ["a.weight", "b.weight"]
    plain = {"x.weight": (2, 3), "y.weight": (2, 2)}
    said = [renamed("x.weight", "a.weight"), renamed("y.weight", "b.weight")]
    words = "--rename ^x\\.weight$=>a.weight --rename ^y\\.weight$=>b.weight"
    assert advice(two, plain, missing) == [*said, f"convert {words} renames them"]
    odd = {"x=>.weight": (2, 3), "y.weight": (2, 2)}
    assert advice(two, odd, missing) == [renamed("x=>.weight", "a.weight"), said[1]]
    other = advice(two, plain, missing, to_model={"m.c": "c"})
    assert [text for text in other if "renames them" in text] == []
    assert advice(two, plain, missing, to_model={"c": "c"}) == [*said, f"convert {words} renames them"]


def test_names_are_compared_up_to_a_bound() -> None:
    def entries(prefix: str) -> dict[str, Entry]:
        names = [f"{prefix}{at}.weight" for at in range(5002)]
        return {name: Entry((), name, tensor((at + 1,))) for at, name in enumerate(names)}

    ours, theirs = entries("m"), entries("x")
    match = NameMatch({}, 0, "")
    for count in (8, 9, 4999, 5000, 5001, 5002):
        missing = list(ours)[:count]
        said = list(suggestions._renames(ours, theirs, missing, list(theirs), match, command))
        assert said[:8] == [renamed(f"x{at}.weight", f"m{at}.weight") for at in range(8)]
        assert len(said) == 9
        rest = min(count, 5000) - 8
        assert count == 8 or said[8] == f"and {rest:,} more likely rename{'' if rest == 1 else 's'}"


def test_many_candidates_are_compared_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.ModuleDict({"a": nn.Linear(1, 1, bias=False)})
    stored = {f"x{at}.weight": (1, 1) for at in range(39)} | {"a.a.weight": (1, 1)}
    for bound, found in ((2, 1), (1, 0)):
        monkeypatch.setattr(suggestions, "_MAX_COMPARED", bound)
        said = advice(model, stored, ["a.weight"])
        assert [text for text in said if "likely" in text] == [renamed("a.a.weight", "a.weight")] * found


def test_what_is_known_of_a_name_is_what_the_table_has_for_its_leaf_module_and_shape() -> None:
    table, shapes = load_name_table(), [(), (4,), (2, 5), (3, 3), (1, 1, 5, 5)]
    rules = [(kind, rule) for kind, those in RULES.items() for rule in those]
    told = 0
    for _, rule in rules:
        for name in rule.names.split():
            module, _, leaf = name.rpartition(".")
            for path in (f"x.{module or 'other'}.3.{leaf}", f"{module}.{leaf}" if module else leaf):
                for shape in shapes:
                    parents = [part for part in path.split(".")[:-1] if not part.isdigit()]
                    known = table.find(leaf, parents[-1] if parents else "", shape_code(shape))
                    says = known is not None and known.kind is Kind.PERSISTENT_BUFFER
                    says = says and known is not None and any(map(str.isdigit, known.note))
                    expected = f"; {known.note}" if says and known is not None else ""
                    assert suggestions._history(path, {path: Entry((), path, tensor(shape))}) == expected
                    told += bool(expected)
    assert told > 50
    assert suggestions._history("a.inv_freq", {}) != "" and suggestions._history("a.b", {}) == ""


def test_unexpected_entries_are_told_by_what_they_are() -> None:
    stored = {"inv_freq": (4,), "a.position_ids": (1, 4), "b.position_ids": (1, 4), "odd": (2,)}
    said = advice(Rope(), stored, [], unexpected=[*stored, "epoch"])
    assert said == [
        "1 unexpected entry (inv_freq; rotary positions; mostly not saved (transformers since 4.32)): "
        "non-persistent buffers of the model, which rebuilds them; another version saved them, and they are "
        "safe to drop",
        "2 unexpected entries (a.position_ids, b.position_ids; transformers; mostly not saved since 4.31): "
        "versions of the library differ on this buffer; convert --drop-known-buffers leaves it out",
        "1 unexpected entry without a tensor (epoch): the file is more than a state_dict; convert "
        "--weights-only writes the tensors alone",
    ]


# ------------------------------------------------------------------------------------------ steps


class Steps(Progress):
    """Everything that is told, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def begin(self, doing: str, total: int) -> None:
        self.told.append((doing, total))

    def advance(self, done: int, doing: str = "") -> None:
        self.told.append((done, doing))

    def finish(self) -> None:
        self.told.append("over")


@pytest.mark.parametrize(
    ("build", "devices", "loads", "expected"),
    [
        (
            Plain, ("cpu",), (),
            [
                ("building the model to see what the file does not hold", 5), (1, "copy on cpu"),
                (1, "round-trip on cpu"), (1, "assign on cpu"), (1, "to-empty on cpu"), "over",
            ],
        ),
        (lambda: nn.Linear(2, 2), ("cpu",), ("to-empty", "copy"), [
            ("copy on cpu", 3), (1, "to-empty on cpu"), "over"
        ]),
        (lambda: nn.Linear(2, 2), ("cpu", "cpu"), ("copy",), [("copy on cpu", 2), "over"]),
    ],
)  # fmt: skip
def test_every_step_is_told(
    build: Any, devices: tuple[str, ...], loads: tuple[str, ...], expected: list[Any], tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    torch.save(build().state_dict(), path)
    steps = Steps()
    verify(read_checkpoint(str(path)), (), source(build), VerifyOptions(devices, loads), steps)
    assert steps.told == expected


@pytest.mark.parametrize("loads", ["copy", "round-trip", "assign", "to-empty", "assign,to-empty"])
def test_builds_are_watched_only_where_the_file_lacks_something(loads: str, tmp_path: Path) -> None:
    made: list[tuple[str, int]] = []

    def counted(kind: type[nn.Module]) -> Any:
        def build() -> nn.Module:
            made.append((str(torch.get_default_device()), torch.initial_seed()))
            return kind()

        return build

    normal = bool({"copy", "round-trip"} & set(loads.split(",")))
    copies = {"copy": 1, "round-trip": 3}.get(loads, 0)
    on_meta = [("meta", 0)] * (1 + len({"assign", "to-empty"} & set(loads.split(","))))
    check(nn.Linear(2, 2).state_dict(), counted(lambda: nn.Linear(2, 2)), tmp_path, load=loads)  # type: ignore[arg-type]
    again = [("cpu", 1), ("cpu", 2)] if copies == 3 else []
    assert sorted(made) == sorted([*on_meta, *[("cpu", 0)] * bool(copies), *again])
    made.clear()
    check(Plain().state_dict(), counted(Plain), tmp_path, load=loads)
    watched = [("cpu", 1), *[("cpu", 0)] * (not normal)]
    assert sorted(made) == sorted([*on_meta, *watched, *[("cpu", 0)] * bool(copies), *again])


def test_entries_that_may_be_in_unread_bytes_are_counted_once() -> None:
    checkpoint = Checkpoint("f", "x", "", (), (), unread_modules=frozenset([("net", "a"), ("net", "b")]))

    def said(*absent: str) -> str:
        missing = tuple(Missing(name, "parameter", 4, "random") for name in absent)
        return _unread(
            checkpoint, ("net",), [Run("cpu", load, missing=missing) for load in ("copy", "assign")]
        )

    assert said() == said("c.w", "a") == ""
    assert said("a.w") == f"1 missing entry (a.w): {PERHAPS_UNREAD}"
    assert said("c.w", "a.w", "b.v.w") == f"2 missing entries (a.w, b.v.w): {PERHAPS_UNREAD}"


def test_a_model_that_meta_does_not_build_leaves_two_ways_untried(tmp_path: Path) -> None:
    def build() -> nn.Module:
        if torch.get_default_device().type == "meta":
            raise ValueError("needs values")
        return nn.Linear(2, 2)

    said = "building test:build on meta fails: ValueError: needs values"
    result = check(nn.Linear(2, 2).state_dict(), build, tmp_path, load="copy,assign")
    assert [(run.load, run.decides, run.ok, run.note) for run in result.runs] == [
        ("copy", True, True, ""), ("assign", True, False, said)
    ]  # fmt: skip
    assert result.notes == ("built on cpu: its constructor does not run on meta (ValueError: needs values)",)
    free = check(nn.Linear(2, 2).state_dict(), build, tmp_path)
    assert [(run.load, run.decides, run.ok, run.note) for run in free.runs] == [
        ("copy", True, True, ""), ("assign", False, None, said), ("to-empty", False, None, said),
        ("round-trip", False, True, ""),
    ]  # fmt: skip

    def twice() -> nn.Module:
        twice.calls += 1  # type: ignore[attr-defined]
        if twice.calls > 2:  # type: ignore[attr-defined]
            raise ValueError("enough")
        return nn.Linear(2, 2)

    twice.calls = 0  # type: ignore[attr-defined]
    with pytest.raises(ModelImportFailed, match="enough"):
        check(nn.Linear(2, 2).state_dict(), twice, tmp_path)


def test_dtypes_that_assigning_keeps_are_those_of_the_file(tmp_path: Path) -> None:
    state: dict[str, Tensor] = nn.Linear(2, 2).state_dict()
    state["bias"] = state["bias"].half()
    result = check(state, lambda: nn.Linear(2, 2), tmp_path)
    assert {run.load: (run.cast, run.assigned_dtype) for run in result.runs} == {
        "copy": (("bias",), ()), "assign": ((), ("bias",)), "to-empty": (("bias",), ()),
        "round-trip": (("bias",), ()),
    }  # fmt: skip
    assert names(the_run(result).lossy) == []
