"""Folding loses nothing: a pattern multiplies out to exactly the names of its rows."""

from __future__ import annotations

import re
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from ckpttool.names.fold import FoldedRow, fold_names, fold_rows
from ckpttool.values.checkpoint import (
    Basis,
    Classification,
    CompositeTensor,
    Entry,
    Key,
    Kind,
    OddKey,
    Presence,
    Root,
    StorageRef,
    TensorInfo,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.inspection import Row

PARAMETER = Classification(Kind.PARAMETER, Basis.ORDER)
BUFFER = Classification(Kind.PERSISTENT_BUFFER, Basis.NAME)


def row(
    name: Key,
    shape: tuple[int, ...] = (2, 3),
    root: Root = (),
    classification: Classification = PARAMETER,
    dtype: str = "float32",
    tied_to: Entry | None = None,
) -> Row:
    info = TensorInfo(BY_NAME[dtype], shape, (0,) * len(shape), 0, None)
    return Row(Entry(root, name, info), classification, tied_to)


def unfold(pattern: str) -> list[str]:
    """All names that a pattern of a folded row stands for; the inverse of how it is written."""
    choices: list[list[str]] = []
    for token in re.findall(r"\{\{|\}\}|\{[0-9.,]+\}|[^{}]+", pattern):
        if token in ("{{", "}}"):
            choices.append([token[0]])
        elif token[0] == "{":
            values: list[str] = []
            for run in token[1:-1].split(","):
                first, _, last = run.partition("..")
                values += map(str, range(int(first), int(last or first) + 1))
            choices.append(values)
        else:
            choices.append([token])
    return ["".join(picked) for picked in product(*choices)]


def assert_lossless(rows: list[Row], folded: list[FoldedRow]) -> None:
    assert sorted(id(r) for f in folded for r in f.rows) == sorted(map(id, rows))
    position = {id(r): i for i, r in enumerate(rows)}
    starts = [position[id(f.rows[0])] for f in folded]
    assert starts == sorted(starts)
    for f in folded:
        places = [position[id(r)] for r in f.rows]
        assert places == sorted(places)
        assert f.count == len(f.rows)
        names = [(".".join(map(str, r.entry.root)), str(r.entry.name)) for r in f.rows]
        if f.count == 1:
            assert [(f.root_pattern, f.pattern)] == names
        else:
            expected = sorted(product(unfold(f.root_pattern), unfold(f.pattern)))
            assert expected == sorted(names)
        assert len({(r.classification[:3], r.tied_to is None) for r in f.rows}) == 1
        assert len({r.entry.value[:2] if r.entry.value else None for r in f.rows}) == 1


def patterns(rows: list[Row]) -> list[tuple[str, int]]:
    folded = fold_rows(rows)
    assert_lossless(rows, folded)
    return [(f.pattern, f.count) for f in folded]


def test_layers_fold_and_keep_the_order_of_the_file() -> None:
    rows = [row("embed.weight")]
    for layer in range(24):
        rows += [row(f"layers.{layer}.q.weight"), row(f"layers.{layer}.q.bias", (3,))]
    assert patterns(rows) == [
        ("embed.weight", 1),
        ("layers.{0..23}.q.weight", 24),
        ("layers.{0..23}.q.bias", 24),
    ]


def test_several_indices_and_gaps() -> None:
    full = [row(f"layers.{i}.heads.{j}.w") for i in range(4) for j in range(8)]
    assert patterns(full) == [("layers.{0..3}.heads.{0..7}.w", 32)]
    assert patterns([row(f"l.{i}.w") for i in (0, 1, 2, 3, 5)]) == [("l.{0..3,5}.w", 5)]
    assert patterns([row(f"l.{i}") for i in (9, 10, 2)]) == [("l.{2,9..10}", 3)]
    assert patterns([row(f"{i}.0.{i}.w") for i in (3,)]) == [("3.0.3.w", 1)]


def test_constant_indices_stay_as_they_are() -> None:
    assert patterns([row(f"blocks.0.layers.{i}.1.w") for i in range(3)]) == [
        ("blocks.0.layers.{0..2}.1.w", 3)
    ]


def test_an_index_set_that_is_no_product_becomes_several_products() -> None:
    rows = [row(f"s.{i}.b.{j}") for i, n in enumerate((2, 2, 6, 2)) for j in range(n)]
    assert patterns(rows) == [("s.{0..1,3}.b.{0..1}", 6), ("s.2.b.{0..5}", 6)]
    diagonal = [row(f"a.{i}.{i}") for i in range(3)]
    assert patterns(diagonal) == [("a.0.0", 1), ("a.1.1", 1), ("a.2.2", 1)]


def test_rows_that_disagree_do_not_fold() -> None:
    first = row("l.0.w")
    different = [
        row("l.1.w", (3, 2)),
        row("l.2.w", dtype="float16"),
        row("l.3.w", classification=BUFFER),
        row("l.4.w", classification=PARAMETER._replace(basis=Basis.NAME)),
        row("l.5.w", classification=PARAMETER._replace(presence=Presence.UNEXPECTED)),
        row("l.6.w", tied_to=first.entry),
        Row(Entry((), "l.7.w", None), PARAMETER),
        row("l.8.w", root=("ema",)),
    ]
    assert [count for _, count in patterns([first, *different])] == [1] * 9
    # A note is for people and does not keep alike rows apart.
    assert patterns([first, row("l.1.w", classification=PARAMETER._replace(note="x"))]) == [("l.{0..1}.w", 2)]


def test_integer_roots_fold_and_text_that_looks_alike_does_not_join_them() -> None:
    rows = [row("exp_avg", root=("optimizer", "state", i)) for i in range(127)]
    folded = fold_rows(rows)
    assert_lossless(rows, folded)
    assert [(f.root_pattern, f.pattern, f.count) for f in folded] == [
        ("optimizer.state.{0..126}", "exp_avg", 127)
    ]
    assert [count for _, count in patterns([row("w", root=("s", 0)), row("w", root=("s", "1"))])] == [1, 1]
    assert [count for _, count in patterns([row("w", root=("a.b", 0)), row("w", root=("a", "b", 1))])] == [
        1,
        1,
    ]
    assert patterns([row(i) for i in range(3)]) == [("{0..2}", 3)]
    assert [c for _, c in patterns([row(0), row("1"), row(OddKey("2", True)), row(-3)])] == [1, 1, 1, 1]


def test_only_canonical_whole_decimal_parts_are_indices() -> None:
    for names in (
        ["l.00.w", "l.01.w"],
        ["l.²", "l.³"],
        ["l1.w", "l2.w"],
        ["l.-1.w", "l.-2.w"],
        ["l.\u0661", "l.\u0662"],
    ):
        assert [count for _, count in patterns([row(name) for name in names])] == [1, 1]
    assert [c for _, c in patterns([row("l." + "1" * 5000), row("l." + "2" * 5000)])] == [1, 1]
    assert patterns([row("0\n"), row("1\n")]) == [("0\n", 1), ("1\n", 1)]


def test_braces_in_names_are_doubled_in_a_folded_pattern_only() -> None:
    assert patterns([row("a{0..3}.0"), row("a{0..3}.1"), row("b.{0..1}")]) == [
        ("a{{0..3}}.{0..1}", 2),
        ("b.{0..1}", 1),
    ]


def test_a_name_of_many_indices_costs_no_recursion_and_stays_unfolded() -> None:
    rows = [row(".".join([str(i)] * 2000)) for i in range(3)]
    assert [count for _, count in patterns(rows)] == [1, 1, 1]


def test_duplicate_names_are_kept_apart() -> None:
    assert [count for _, count in patterns([row("l.0"), row("l.0"), row("l.1")])] == [1, 1, 1]


def test_where_bytes_lie_and_how_they_step_keeps_no_rows_apart() -> None:
    rows = []
    for at, stride in enumerate([(3, 1), (1, 2), (3, 1)]):
        storage = StorageRef("f", str(at), 64 * at, 24, f"cuda:{at}")
        info = TensorInfo(BY_NAME["float32"], (2, 3), stride, at, storage)
        rows.append(Row(Entry((), f"l.{at}.w", info), PARAMETER))
    assert patterns(rows) == [("l.{0..2}.w", 3)]


def test_one_row_of_a_group_that_is_no_product_has_its_name_as_it_is() -> None:
    assert patterns([row("a{.0.0"), row("a{.1.1")]) == [("a{.0.0", 1), ("a{.1.1", 1)]
    assert patterns([row("a{.0.0"), row("a{.0.1"), row("a{.1.1")]) == [("a{{.0.{0..1}", 2), ("a{.1.1", 1)]


def test_a_key_that_is_no_text_is_one_literal() -> None:
    for name in (OddKey("1", True), OddKey("a.1.b", True), -1):
        rows = [row(name, root=("s", at)) for at in range(3)]
        (folded,) = fold_rows(rows)
        assert (folded.root_pattern, folded.pattern, folded.count) == ("s.{0..2}", str(name), 3)


parts = st.sampled_from(["0", "1", "2", "10", "00", "w", "{0..1}", "}", "{{", "", "²", "\0", "a\0b"])
keys = st.one_of(parts, st.integers(-1, 3), st.just(OddKey("1.5", True)))
names = st.one_of(st.lists(parts, min_size=1, max_size=5).map(".".join), st.integers(-1, 3))
rows_strategy = st.lists(
    st.builds(
        row,
        names,
        st.sampled_from([(2,), (3,)]),
        st.lists(keys, max_size=2).map(tuple),
        st.sampled_from([PARAMETER, BUFFER]),
    ),
    max_size=40,
)


@given(rows_strategy)
def test_unfolding_gives_every_row_back(rows: list[Row]) -> None:
    assert_lossless(rows, fold_rows(rows))


def test_names_that_vary_in_six_places_are_folded_and_in_seven_not() -> None:
    for places, rows in ((6, 1), (7, 2**7)):
        made = [row(".".join(f"p.{at}" for at in picked) + ".w") for picked in product("01", repeat=places)]
        folded = fold_rows(made)
        assert_lossless(made, folded)
        assert len(folded) == rows


def test_places_that_do_not_vary_are_no_axes() -> None:
    assert patterns([row(f"{'1.' * 8}{at}{'.2' * 8}") for at in range(3)]) == [
        (f"{'1.' * 8}{{0..2}}{'.2' * 8}", 3)
    ]
    rows = [row(f"{'1.' * 8}{a}.{b}") for a, b in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))]
    assert patterns(rows) == [(f"{'1.' * 8}{{0..1}}.{{0..1}}", 4), (f"{'1.' * 8}2.0", 1)]


def test_names_alone_are_folded_as_rows_that_agree() -> None:
    names = ["a.0.w", "b", "a.1.w", "a.{x}"]
    folded = fold_names(names)
    assert [(item.pattern, item.count, item.root_pattern) for item in folded] == [
        ("a.{0..1}.w", 2, ""), ("b", 1, ""), ("a.{x}", 1, ""),
    ]  # fmt: skip
    assert [[line.entry for line in item.rows] for item in folded] == [
        [Entry((), name, None) for name in group] for group in (("a.0.w", "a.1.w"), ("b",), ("a.{x}",))
    ]
    assert fold_names([]) == []


def test_a_negative_key_is_no_index() -> None:
    rows = [row("w", root=("s", -1, at, -2)) for at in range(3)] + [
        row(-3, root=("s", -1, at)) for at in (0, 1)
    ]
    folded = fold_rows(rows)
    assert_lossless(rows, folded)
    assert [(item.root_pattern, item.pattern, item.count) for item in folded] == [
        ("s.-1.{0..2}.-2", "w", 3), ("s.-1.{0..1}", "-3", 2),
    ]  # fmt: skip


def test_rows_are_tied_alike_where_the_names_are() -> None:
    def tied(*names: Key) -> list[int]:
        rows = [row(f"a.{at}.w", tied_to=row(name).entry) for at, name in enumerate(names)]
        return [item.count for item in fold_rows(rows)]

    assert tied("b.0.w", "b.1.w", "b.7.w") == [3]
    assert tied("b.0.w", "c.1.w") == tied("b.0.w", "b.1.x") == tied("b.w", "b.1.w") == [1, 1]
    assert tied("b.0.w", "c.1.w", "b.2.w") == [2, 1]
    assert tied(5, 6) == [2] and tied(5, "5") == tied(5, -5) == tied(-5, -6) == [1, 1]


def test_composites_fold_that_are_of_one_kind_dtype_and_shape() -> None:
    whole = CompositeTensor("quantized", "m.rebuild", BY_NAME["int8"], (2, 3), ())
    others = [
        whole._replace(layout="nested"), whole._replace(type_name="m.other"),
        whole._replace(dtype=BY_NAME["uint8"]), whole._replace(shape=(3, 2)), whole._replace(shape=None),
    ]  # fmt: skip
    for other in (whole, whole._replace(details=(("scale", 0.5),)), *others):
        rows = [Row(Entry((), f"a.{at}", value), PARAMETER) for at, value in enumerate((whole, other))]
        assert [item.count for item in fold_rows(rows)] == ([1, 1] if other in others else [2])
