"""Every finding about bytes, whole, at one entry and at more, and the twin of which nothing is said."""

from __future__ import annotations

import pytest

from ckpttool.kinds.aliases import Aliasing, Bloat
from ckpttool.values.checkpoint import Chunk, ChunkedTensor, CompositeTensor, Finding, Kind, Part
from ckpttool.values.dtypes import BY_NAME
from tests.support.evidence import at, plain, said, view

F32 = BY_NAME["float32"]


def test_plain_rows_of_any_number_and_none_at_all_say_nothing() -> None:
    for count in range(4):
        assert said(*plain("w", count)) == []


# ------------------------------------------------------------------------------------------ no data


META = "on the meta device: the file holds shapes and no data"


def test_what_is_on_meta_has_no_data() -> None:
    meta, half = (
        view(storage=None),
        ChunkedTensor(F32, (8,), (Chunk((0,), view()), Chunk((4,), view(storage=None)))),
    )
    whole = ChunkedTensor(F32, (8,), (Chunk((0,), view()), Chunk((4,), view())))
    assert said(at("a", whole)) == []
    assert said(at("a", meta)) == [Finding("meta-tensors", "error", "a", f"1 entry (a) is {META}")]
    assert said(at("a"), at("b", half), at("c", meta)) == [
        Finding("meta-tensors", "error", "b", f"2 entries (b, c) are {META}")
    ]
    for kind in (Kind.OPTIMIZER_STATE, Kind.PERSISTENT_BUFFER, Kind.UNKNOWN):
        assert [item.code for item in said(at("a", meta, kind))] == ["meta-tensors"]


ZERO = (
    "of shape [0], as ZeRO-3 leaves them: the weights are in the *_optim_states.pt files; gather them with "
    "`python zero_to_fp32.py . OUTPUT` of that folder"
)


@pytest.mark.parametrize("others", range(5))
@pytest.mark.parametrize("empty", range(5))
def test_more_than_half_of_all_floats_and_more_than_one_must_be_empty(empty: int, others: int) -> None:
    rows = [at(f"e{number}", view((0,))) for number in range(empty)] + plain("w", others)
    expected = []
    if empty > 1 and empty > others:
        names = ", ".join(f"e{number}" for number in range(min(empty, 3)))
        more = f" and {empty - 3} more" if empty > 3 else ""
        fact = f"{empty} entries ({names}{more}) are {ZERO}"
        expected = [Finding("zero3-placeholders", "error", "e0", fact)]
    assert said(*rows) == expected


@pytest.mark.parametrize(
    "row",
    [
        at("x", view((0,), "int64")),
        at("x", view((0,)), Kind.OPTIMIZER_STATE),
        at("x", view((0, 2))),
        at("x", view((2, 0))),
        at("x", CompositeTensor("subclass", "t.T", F32, (0,), ())),
    ],
    ids=["an integer", "an optimizer's", "two dimensions", "two others", "made of parts"],
)
def test_other_empty_tensors_are_no_placeholders(row: object) -> None:
    assert said(*[row] * 3, at("w", view((0,)))) == []  # type: ignore[list-item]


def test_what_is_no_float_is_not_counted_among_them() -> None:
    empty = [at("a", view((0,))), at("b", view((0,)))]
    others = [at(f"o{n}", view((4,), "int64")) for n in range(4)]
    states = plain("s", 4, kind=Kind.OPTIMIZER_STATE)
    found = said(*empty, *others, *states)
    assert [item.message for item in found] == [f"2 entries (a, b) are {ZERO}"]


def test_lazy_entries_have_neither_shape_nor_data() -> None:
    lazy = CompositeTensor("uninitialized", "torch.nn.parameter.UninitializedParameter", None, None, ())
    fact = "uninitialized, with neither shape nor data: run the lazy module once on an example, then save"
    assert said(at("a", lazy)) == [Finding("uninitialized", "warning", "a", f"1 entry (a) is {fact}")]
    assert said(at("b", lazy), at("a"), at("c", lazy)) == [
        Finding("uninitialized", "warning", "b", f"2 entries (b, c) are {fact}")
    ]
    assert said(at("a", lazy._replace(layout="subclass", shape=(1,), dtype=F32))) == []


# ------------------------------------------------------------------------------------------ bloat


def bloat(held: int, *wasted: int) -> list[Finding]:
    rows = plain("w", len(wasted))
    bloated = tuple(Bloat(row.entry, nbytes) for row, nbytes in zip(rows, wasted, strict=True) if nbytes)
    aliasing = Aliasing((None,) * len(rows), (), len(rows), held, sum(wasted), bloated, ())
    return said(*rows, aliasing=aliasing)


WHY = "a slice is saved with all of what it was cut from, unless it is cloned first"


def test_bytes_of_no_tensor_are_worth_a_word_from_a_page_or_a_hundredth_on() -> None:
    assert bloat(100, 0) == []
    assert bloat(409_501, 4095) == []
    assert bloat(100 * 4095, 4095) == [
        Finding(
            "storage-bloat", "info", "w0",
            "4,095 of 409,500 bytes in 1 storage belong to no tensor, most in that of w0 (4,095 bytes): "
            + WHY,
        )
    ]  # fmt: skip
    assert [item.severity for item in bloat(10**9, 4096)] == ["info"]
    assert [item.severity for item in bloat(40_961, 4096)] == ["info"]
    assert [item.severity for item in bloat(40_960, 4096)] == ["warning"]
    assert bloat(1000, 3, 7, 0) == [
        Finding(
            "storage-bloat", "info", "w1",
            "10 of 1,000 bytes in 2 storages belong to no tensor, most in that of w1 (7 bytes): " + WHY,
        )
    ]  # fmt: skip
    assert bloat(5, 1) == [
        Finding(
            "storage-bloat", "warning", "w0",
            "1 of 5 bytes in 1 storage belongs to no tensor, most in that of w0 (1 byte): " + WHY,
        )
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ sharing


def test_ties_are_told_by_pair_with_their_paths_where_branches_differ() -> None:
    first, other = at("a"), at("b", root=("ema",))
    tied = at("x", first.entry.value, tied_to=first.entry)
    count = "with all bytes of an earlier one, counted once"
    assert said(first, tied) == [Finding("tied", "info", "x", f"1 entry {count}: x = a")]
    across = at("y", first.entry.value, root=("ema",), tied_to=first.entry)
    back = at("z", other.entry.value, tied_to=other.entry)
    numbered = at(3, first.entry.value, tied_to=first.entry)
    assert said(first, other, across, back, numbered, tied) == [
        Finding("tied", "info", "y", f"4 entries {count}: ema.y = a, z = ema.b, [3] = a and 1 more")
    ]
    named = "named in the metadata, which safetensors' load_model reads and load_file does not"
    assert said(first, tied, put_back=frozenset([((), "x")])) == [
        Finding("tied", "info", "x", f"1 entry {count}, {named}: x = a")
    ]


def test_overlapping_views_are_told_by_pair() -> None:
    rest = "safetensors holds such bytes once for each"
    a, b = at("a", view((8,), key="s")), at("b", view((4,), key="s", nbytes=32))
    assert said(a, b) == [
        Finding(
            "overlapping-views", "info", "a",
            f"1 pair of unequal views with bytes in common: a and b; {rest}",
        )
    ]  # fmt: skip
    assert said(a, b, at("c", view((2, 4), key="s"))) == [
        Finding(
            "overlapping-views", "info", "a",
            f"2 pairs of unequal views with bytes in common: a and b, b and c; {rest}",
        )
    ]  # fmt: skip
    apart = at("d", view((4,), key="t", nbytes=32)), at("e", view((4,), key="t", nbytes=32, storage_offset=4))
    assert said(*apart) == []


# ------------------------------------------------------------------------------------------ layouts


def chunked(**more: object) -> ChunkedTensor:
    return ChunkedTensor(F32, (8,), (Chunk((0,), view()), Chunk((4,), view(**more))))  # type: ignore[arg-type]


STRIDED = "not contiguous: safetensors' save_file refuses such tensors"
FLAGGED = (
    "stored with a conj or neg bit, so that bytes are not values: safetensors 0.8.0 saves the bytes; call "
    ".resolve_conj().resolve_neg() before"
)
SWAPPED = "in big-endian byte order: torch.load swaps it, tools that map the file do not"


def test_layouts_that_are_not_values_in_order() -> None:
    turned = view((2, 3), stride=(1, 2))
    assert said(at("a", turned)) == [Finding("non-contiguous", "info", "a", f"1 entry (a) is {STRIDED}")]
    again = view((2, 3), stride=(1, 2))
    parts = chunked(stride=(2,))
    straight = [at("p", view((2, 3))), at("q", view((3, 2))), at("r", view((2, 1), stride=(1, 7)))]
    assert said(at("a", turned), *straight, at("b", again), at("c", parts)) == [
        Finding("non-contiguous", "info", "a", f"3 entries (a, b, c) are {STRIDED}")
    ]
    composite = CompositeTensor("subclass", "t.T", F32, (2, 3), (Part("inner", turned),))
    assert said(at("a", composite)) == [Finding("non-contiguous", "info", "a", f"1 entry (a) is {STRIDED}")]


def test_an_entry_of_many_such_parts_is_one_entry() -> None:
    parts = tuple(Part(name, view((2, 3), stride=(1, 2))) for name in "xyz")
    [found] = said(at("a", CompositeTensor("subclass", "t.T", F32, (2, 3), parts)))
    assert found.message == f"1 entry (a) is {STRIDED}"


@pytest.mark.parametrize("bit", ["conj", "neg"])
def test_bytes_that_are_not_values(bit: str) -> None:
    row = at("a", view((2,), "complex64", **{bit: True}))
    assert said(row) == [Finding("conj-neg-bit", "warning", "a", f"1 entry (a) is {FLAGGED}")]
    both = at("b", view((2,), "complex64", conj=True, neg=True))
    assert said(row, at("c", view((2,), "complex64")), both) == [
        Finding("conj-neg-bit", "warning", "a", f"2 entries (a, b) are {FLAGGED}")
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "complex64", "uint8", "bool", "int8"])
def test_the_order_of_bytes_matters_where_there_are_two(dtype: str) -> None:
    found = said(at("a", view(dtype=dtype, big_endian=True)), at("b", view(dtype=dtype)))
    fact = f"1 entry (a) is {SWAPPED}"
    wide = BY_NAME[dtype].bits > 8
    assert found == ([Finding("big-endian", "info", "a", fact)] if wide else [])
    two = said(at("a", view(big_endian=True)), at("b", chunked(big_endian=True)))
    assert two == [Finding("big-endian", "info", "a", f"2 entries (a, b) are {SWAPPED}")]


# ------------------------------------------------------------------------------------------ dtypes


@pytest.mark.parametrize("dtype", BY_NAME)
def test_dtypes_that_safetensors_lacks(dtype: str) -> None:
    found = [item for item in said(at("a", view(dtype=dtype)), at("b")) if item.code != "packed-weights"]
    if BY_NAME[dtype].safetensors is not None:
        assert [item for item in found if item.code != "mixed-dtypes"] == []
        return
    fact = f"1 entry (a) is of a dtype that safetensors does not have ({dtype}): save_file refuses it"
    assert found == [Finding("unknown-to-safetensors", "info", "a", fact)]


def test_several_unknown_dtypes_are_named_in_order() -> None:
    composite = CompositeTensor("quantized", "t.q", BY_NAME["qint8"], (2,), (Part("int_repr", view()),))
    rows = [at("z", view(dtype="complex128")), at("a"), at("q", composite), at("b", view(dtype="bits8"))]
    fact = "of a dtype that safetensors does not have (bits8, complex128, qint8): save_file refuses it"
    assert said(*rows) == [Finding("unknown-to-safetensors", "info", "z", f"2 entries (z, b) are {fact}")]


# ------------------------------------------------------------------------------------------ devices


def test_devices_that_others_may_lack() -> None:
    def on(*places: str) -> list[Finding]:
        return said(*[at(f"w{number}", view(location=place)) for number, place in enumerate(places)])

    use = 'use `torch.load(path, map_location="cpu")`'
    assert on("cpu", "meta", "") == []
    assert on("cuda:1", "cpu") == [
        Finding("device-tags", "warning", "", f"1 storage was saved on cuda:1; without that device {use}")
    ]
    assert on("mps", "mps") == [
        Finding("device-tags", "warning", "", f"2 storages were saved on mps; without that device {use}")
    ]
    assert on("mps", "cuda:0", "mps", "cpu") == [
        Finding(
            "device-tags", "warning", "",
            "2 storages were saved on mps, 1 storage was saved on cuda:0; without those devices " + use,
        )
    ]  # fmt: skip
