"""Every finding of a comparison, whole: its code, how severe it is, the name, the sentence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ckpttool.comparison.findings import find_differences
from ckpttool.values.checkpoint import Basis, Finding, Kind, Presence
from ckpttool.values.difference import SAME, DiffEntry, Numbers, Side, Status
from ckpttool.values.inspection import Row
from tests.support.inspections import row
from tests.support.sides import both, side, single

PARAMETER, BUFFER, TRANSIENT = Kind.PARAMETER, Kind.PERSISTENT_BUFFER, Kind.NON_PERSISTENT_BUFFER


def found(entries: Sequence[DiffEntry], a: Side | None = None, b: Side | None = None) -> list[Finding]:
    return list(find_differences(a or side([], label="a.pt"), b or side([], label="b.pt"), entries))


# -- how many and which ---------------------------------------------------------------------------------

CAST = "statistics and tables lose what they need; cast parameters alone, as --dtype of convert does"


@pytest.mark.parametrize(
    ("names", "name", "message"),
    [
        (["x"], "x", f"a buffer changed its dtype: {CAST}"),
        (["x", "y"], "", f"2 buffers changed their dtype: {CAST} (x, y)"),
        (["x", "y", "z"], "", f"3 buffers changed their dtype: {CAST} (x, y, z)"),
        (["x", "y", "z", "w"], "", f"4 buffers changed their dtype: {CAST} (x, y, z, …)"),
        ([f"n{at}" for at in range(1001)], "", f"1,001 buffers changed their dtype: {CAST} (n0, n1, n2, …)"),
        ([3], "3", f"a buffer changed its dtype: {CAST}"),
        ([3, 4], "", f"2 buffers changed their dtype: {CAST} (3, 4)"),
        (["l" * 81], "l" * 81, f"a buffer changed its dtype: {CAST}"),
        (["a" * 40 + "-" + "b" * 39, "c" * 41 + "d" * 40], "",
         f"2 buffers changed their dtype: {CAST} ({'a' * 40}-{'b' * 39}, {'c' * 40}…{'d' * 39})"),
    ],
)  # fmt: skip
def test_one_is_named_and_of_several_the_first_three(names: list[str | int], name: str, message: str) -> None:
    entries = [both(each, Status.DTYPE, BUFFER) for each in names]
    assert found(entries) == [Finding("buffer-dtype", "warning", name, message)]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("status", Status)
def test_only_a_buffer_of_another_dtype_is_told(kind: Kind, status: Status) -> None:
    codes = [item.code for item in found([both("x", status, kind)]) if item.code == "buffer-dtype"]
    assert codes == (["buffer-dtype"] if status is Status.DTYPE and kind in (BUFFER, TRANSIENT) else [])


# -- ties -------------------------------------------------------------------------------------------------

LOST = (
    "shares its bytes with another name in A and has bytes of its own in B: the tie is lost, and "
    "training moves the two apart; tie them again in the model"
)
GAINED = "has bytes of its own in A and shares them with another name in B"


def tied(groups: str) -> dict[str, Row]:
    """Rows by name: names of one word share bytes; ``"ab c"`` are a, b, which are tied, and c."""
    made: dict[str, Row] = {}
    for word in groups.split():
        for name in word:
            made[name] = row(name, tied_to=made[word[0]].entry if name != word[0] else None)
    return made


@pytest.mark.parametrize(
    ("a", "b", "lost", "gained"),
    [
        ("ab c", "ab c", "", ""),
        ("ab c", "a b c", "b", ""),
        ("a b c", "ab c", "", "b"),
        ("abc", "a b c", "bc", ""),
        ("abc", "ab c", "c", ""),
        ("ab c", "abc", "", "c"),
        ("abc", "a bc", "bc", ""),
        ("ab c", "a bc", "b", "c"),
        ("ab cd", "ac bd", "bd", "cd"),
    ],
)
def test_ties_that_one_side_alone_has(a: str, b: str, lost: str, gained: str) -> None:
    rows_a, rows_b = tied(a), tied(b)
    entries = [both(name, a=rows_a[name], b=rows_b[name]) for name in sorted(rows_a)]
    expected = []
    if lost:
        many = f"{len(lost)} names share bytes with another in A and not in B: the ties are lost; tie them in"
        text = LOST if len(lost) == 1 else f"{many} the model ({', '.join(lost)})"
        expected.append(Finding("lost-tie", "warning", lost if len(lost) == 1 else "", text))
    if gained:
        many = f"{len(gained)} names have bytes of their own in A and share them in B"
        text = GAINED if len(gained) == 1 else f"{many} ({', '.join(gained)})"
        expected.append(Finding("new-tie", "info", gained if len(gained) == 1 else "", text))
    assert found(entries) == expected
    for first, second in (((), None), (None, ())):  # a manifest, and a model, have no bytes to share
        bare = [side([], files=()) if files == () else None for files in (first, second)]
        assert found(entries, *bare) == []


def test_what_one_side_lacks_is_no_tie_that_it_lost() -> None:
    rows = tied("abc")
    gone = [single(rows["b"], Status.REMOVED), single(rows["c"], Status.ADDED)]
    assert [item.code for item in found([both("x"), *gone])] == []


KEPT = "is tied to a name that B keeps: a model that ties the two finds everything in B"
MANY_KEPT = "removed names are tied to names that B keeps: a model that ties them finds everything in B"


def test_a_removed_name_is_told_by_what_it_is_tied_to() -> None:
    rows = tied("abc")
    kept = both("a", Status.CHANGED, a=rows["a"])
    gone = [single(rows[name], Status.REMOVED) for name in "bc"]
    assert found([kept, gone[0]]) == [Finding("tied-name-dropped", "info", "b", KEPT)]
    assert found([kept, *gone]) == [Finding("tied-name-dropped", "info", "", f"2 {MANY_KEPT} (b, c)")]
    assert found(gone) == []  # what they are tied to is not kept
    assert found([both("x"), gone[0]]) == []
    assert found([kept, single(rows["b"], Status.ADDED)]) == []
    same = [both("a", a=rows["a"]), single(rows["b"], Status.REMOVED, tied_to="a")]
    assert found(same) == [Finding("tied-name-dropped", "info", "b", KEPT)]


@pytest.mark.parametrize("first", "ab")
def test_which_of_the_tied_names_stands_first_in_a_does_not_matter(first: str) -> None:
    rows = tied("ab" if first == "a" else "ba")
    entries = [both("a", Status.CHANGED, a=rows["a"]), single(rows["b"], Status.REMOVED)]
    assert found(entries) == [Finding("tied-name-dropped", "info", "b", KEPT)]


def test_a_name_that_is_kept_under_another_is_kept() -> None:
    """Its name in A is not the one that the entry has."""
    rows = tied("ab")
    kept = both("module.a", Status.CHANGED, a=rows["a"], root=("model",))
    gone = single(rows["b"], Status.REMOVED)
    assert found([kept, gone]) == [Finding("tied-name-dropped", "info", "b", KEPT)]


def test_a_name_that_is_kept_in_another_branch_is_not() -> None:
    rows = tied("ab")
    far = row("a", root=("ema",), tied_to=rows["a"].entry)
    gone = [single(rows[name], Status.REMOVED) for name in "ab"]
    assert found([both("a", Status.CHANGED, a=far, root=("ema",)), *gone]) == []


def test_a_tie_is_of_one_branch() -> None:
    """A copy of all weights that was saved as they were is no tie of the model."""
    rows = tied("ab")
    copy = row("a", root=("ema",), tied_to=rows["a"].entry)
    apart = row("a", root=("ema",))
    entries = [both("a", a=rows["a"], b=rows["a"]), both("a", a=copy, b=apart, root=("ema",))]
    assert found(entries) == []
    assert found([item._replace(a=item.b, b=item.a) for item in entries]) == []


def test_an_added_name_is_told_by_what_it_is_tied_to() -> None:
    long = "n" * 81
    one = single(row(long), Status.ADDED, tied_to="m" * 81)
    cut = [f"{letter * 40}…{letter * 39}" for letter in "nm"]
    assert found([one]) == [
        Finding("tied-name-added", "info", long, f"{cut[0]} is tied to {cut[1]}; not stored on side A")
    ]
    two = single(row("x"), Status.ADDED, tied_to="y")
    assert found([one, two]) == [
        Finding("tied-name-added", "info", "",
                f"2 names are tied to names that both sides have; not stored on side A ({cut[0]}, x)")
    ]  # fmt: skip
    assert found([single(row("x"), Status.ADDED)]) == found([both("x", tied_to="y")]) == []


# -- what libraries save or not -----------------------------------------------------------------------------

REBUILT = [
    (TRANSIENT, "", True),
    (BUFFER, "transformers 4.31", True),
    (BUFFER, "", False),
    (PARAMETER, "transformers 4.31", False),
]


@pytest.mark.parametrize(("kind", "since", "told"), REBUILT)
@pytest.mark.parametrize(
    ("status", "code", "what"),
    [
        (Status.ADDED, "non-persistent-entered", "came into the file"),
        (Status.REMOVED, "non-persistent-left", "left the file"),
    ],
)
def test_buffers_that_some_versions_save(
    kind: Kind, since: str, told: bool, status: Status, code: str, what: str
) -> None:
    def made(name: str) -> Row:
        item = row(name, kind=kind, basis=Basis.NAME)
        return item._replace(classification=item.classification._replace(rebuilt_since=since))

    one, two = (single(made(name), status) for name in "xy")
    said = "versions of the library differ in whether they save it; its constructor makes it"
    many = "versions of the library differ in whether they save them; their constructor makes them"
    expected = [Finding(code, "info", "x", f"a buffer that {what}: {said}")]
    assert found([one]) == (expected if told else [])
    expected = [Finding(code, "info", "", f"2 buffers that {what}: {many} (x, y)")]
    assert found([one, two]) == (expected if told else [])
    assert found([both("x", Status.CHANGED, kind, a=made("x"), b=made("x"))]) == []


# -- running statistics -------------------------------------------------------------------------------------

FROZEN = "the module ran in train mode while it was frozen; call .eval() on it"
MOVED = f"running statistics moved while the module's own weights did not: {FROZEN}"
LEAVES = ("weight", "bias", "running_mean", "running_var")


def norm(path: str, **statuses: Status) -> list[DiffEntry]:
    """The entries of a batch norm at ``path``, equal but for those that are named."""
    return [both(f"{path}{leaf}", statuses.get(leaf, Status.EQUAL)) for leaf in LEAVES]


@pytest.mark.parametrize("path", ["", "n.", "a.b."])
@pytest.mark.parametrize("weight", Status)
@pytest.mark.parametrize("mean", Status)
def test_statistics_that_moved_alone(path: str, weight: Status, mean: Status) -> None:
    expected = []
    if mean is Status.CHANGED and weight in SAME:
        expected.append(Finding("batch-norm-moved", "warning", f"{path}running_mean", MOVED))
    assert found(norm(path, weight=weight, running_mean=mean)) == expected
    assert found(norm(path, bias=weight, running_mean=mean)) == expected


def test_a_module_is_told_once_by_its_first_statistic() -> None:
    moved = {"running_mean": Status.CHANGED, "running_var": Status.CHANGED}
    assert [item.name for item in found(norm("n.", **moved))] == ["n.running_mean"]
    late = norm("n.", running_var=Status.CHANGED)
    assert [item.name for item in found(late)] == ["n.running_var"]
    text = f"2 modules have other running statistics and the same weights: {FROZEN}"
    assert found([*norm("n.", **moved), *late, *norm("m.", **moved)]) == [
        Finding("batch-norm-moved", "warning", "", f"{text} (n.running_mean, m.running_mean)")
    ]


def test_statistics_without_weights_or_elsewhere_are_not_told() -> None:
    moved = [both(f"n.{leaf}", Status.CHANGED) for leaf in LEAVES[2:]]
    assert found(moved) == []
    assert found([*moved, both("n.scale"), both("m.weight"), both("n.weight", root=("ema",))]) == []
    assert [item.code for item in found([*moved, both("n.weight")])] == ["batch-norm-moved"]
    assert found([*moved, both("n.weight"), both("n.bias", Status.CHANGED)]) == []
    assert found([*moved, single(row("n.weight"), Status.ADDED), both(3)]) == []
    for status in (Status.ADDED, Status.REMOVED):  # what both have is what counts
        bias = single(row("n.bias"), status)
        assert [item.code for item in found([*moved, both("n.weight"), bias])] == ["batch-norm-moved"]


# -- what is not finite -------------------------------------------------------------------------------------


def test_what_became_nan_or_infinite() -> None:
    b = side([], label="it's b.pt")
    look = "`ckpttool inspect 'it'\"'\"'s b.pt' --stats` shows where"
    nan = both("x", Status.CHANGED, numbers=Numbers(4, nan_appeared=1))
    inf = both("y", Status.CHANGED, numbers=Numbers(4, inf_appeared=2))
    fine = both("z", Status.CHANGED, numbers=Numbers(4, nan_gone=1, inf_gone=1, inf_flipped=1))
    assert found([nan, inf, fine, both("w")], b=b) == [
        Finding("nan-appeared", "error", "x", f"values became NaN that were not in A; {look}"),
        Finding("inf-appeared", "warning", "y", f"values became infinite that were not in A; {look}"),
    ]
    twice = both("u", Status.DTYPE, numbers=Numbers(4, nan_appeared=3, inf_appeared=1))
    assert found([nan, inf, twice], b=b) == [
        Finding("nan-appeared", "error", "", f"2 tensors hold values that became NaN; {look} (x, u)"),
        Finding("inf-appeared", "warning", "", f"2 tensors hold values that became infinite; {look} (y, u)"),
    ]


def test_findings_stand_in_one_order() -> None:
    rows_a, rows_b = tied("ab"), tied("a b")
    lost, gained = (both(name, a=rows_a[name], b=rows_b[name]) for name in "ab")
    entries = [
        single(row("old", kind=TRANSIENT), Status.REMOVED),
        single(row("new", kind=TRANSIENT), Status.ADDED),
        both("c", Status.CHANGED, numbers=Numbers(1, nan_appeared=1)),
        *norm("n.", running_mean=Status.CHANGED),
        lost,
        gained,
        single(row("t", tied_to=rows_a["a"].entry), Status.REMOVED),
        single(row("t"), Status.ADDED, tied_to="a"),
        both("d", Status.DTYPE, BUFFER),
    ]
    assert [item.code for item in found(entries)] == [
        "buffer-dtype", "lost-tie", "tied-name-dropped", "tied-name-added", "non-persistent-entered",
        "non-persistent-left", "batch-norm-moved", "nan-appeared",
    ]  # fmt: skip


def test_a_missing_row_is_no_reason_to_fail() -> None:
    absent = row("x", kind=TRANSIENT, presence=Presence.MISSING)
    assert [item.code for item in found([single(absent, Status.REMOVED)])] == ["non-persistent-left"]
