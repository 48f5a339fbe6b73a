"""How tensors are spread over shards, and what the index says of them, to the byte."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.conversion.layout import FileLayout
from ckpttool.conversion.shards import lay_out_file, lay_out_folder, split
from ckpttool.values.checkpoint import Basis, Classification, Entry, Kind, TensorInfo
from ckpttool.values.conversion import ConversionPlan, Piece, Placed, PlacedComposite, Planned
from ckpttool.values.dtypes import BY_NAME
from tests.support.converting import convert
from tests.support.in_memory import plan_in_memory, tensor

BYTE = BY_NAME["uint8"]


def planned(name: str, leaves: list[int]) -> Planned:
    """A tensor that views these pieces: alone, or as parts of one that is made of parts."""
    parts = tuple((str(at), Placed(piece, BYTE, (1,), (1,))) for at, piece in enumerate(leaves))
    value = parts[0][1] if len(parts) == 1 else PlacedComposite("sparse_csr", "", BYTE, (1,), parts, ())
    return Planned((), name, value, Entry((), name, None), Classification(Kind.UNKNOWN, Basis.NONE))


def pieces_of(sizes: list[int]) -> list[Piece]:
    return [Piece(TensorInfo(BYTE, (size,), (1,), 0, None), size, None) for size in sizes]


def together(used: list[list[int]]) -> list[set[int]]:
    """Positions of tensors that share pieces, also by way of others, by their first."""
    groups: list[set[int]] = []
    for position, mine in enumerate(used):
        met = [group for group in groups if any(set(mine) & set(used[other]) for other in group)]
        groups = [group for group in groups if group not in met] + [set().union({position}, *met)]
    return sorted(groups, key=min)


@given(
    st.lists(st.integers(0, 9), min_size=5, max_size=5),
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), max_size=7),
    st.integers(1, 20),
)
def test_a_shard_takes_what_fits_in_the_order_of_the_source(
    sizes: list[int], used: list[list[int]], limit: int
) -> None:
    tensors = [planned(str(at), pieces) for at, pieces in enumerate(used)]
    shards = [[int(str(item.name)) for item in shard] for shard in split(tensors, pieces_of(sizes), limit)]
    assert all(shards) or shards == [[]]
    assert sorted(number for shard in shards for number in shard) == list(range(len(used)))
    assert all(shard == sorted(shard) for shard in shards)
    groups = together(used)
    nbytes = [sum(sizes[piece] for piece in {p for at in group for p in used[at]}) for group in groups]
    spread = [[at for at, group in enumerate(groups) if group & set(shard)] for shard in shards]
    assert [at for held in spread for at in held] == list(range(len(groups)))  # none is cut, and in order
    for held in spread:
        assert len(held) <= 1 or sum(nbytes[at] for at in held) <= limit
    for held, after in itertools.pairwise(spread):
        assert sum(nbytes[at] for at in held) + nbytes[after[0]] > limit


@pytest.mark.parametrize(
    ("used", "limit", "expected"),
    [
        ([[0], [1], [2]], 8, [[0, 1], [2]]),  # as many bytes as there may be
        ([[0], [1], [2]], 7, [[0], [1], [2]]),
        ([[0], [1], [0]], 4, [[0, 2], [1]]),
        ([[0], [1], [0, 2], [2]], 8, [[0, 2, 3], [1]]),  # what an earlier one brings with it counts
        ([[0, 1], [2], [1, 3], [3]], 12, [[0, 2, 3], [1]]),
        ([[0], [1], [0, 1]], 4, [[0, 1, 2]]),  # one that ties two others
        ([[0, 0, 0], [1]], 8, [[0, 1]]),  # each piece counts once
    ],
    ids=str,
)
def test_what_shares_a_piece_stands_in_one_shard(
    used: list[list[int]], limit: int, expected: list[list[int]]
) -> None:
    tensors = [planned(str(at), pieces) for at, pieces in enumerate(used)]
    shards = split(tensors, pieces_of([4, 4, 4, 4]), limit)
    assert [[int(str(item.name)) for item in shard] for shard in shards] == expected


@pytest.mark.filterwarnings("ignore:Sparse")
def test_ties_of_parts_come_through_shards(tmp_path: Path) -> None:
    index, first, second = torch.tensor([0, 1, 2]), torch.arange(2.0), torch.arange(2.0) + 5
    rows = torch.tensor([0, 1])
    state = {
        "a": torch.sparse_csr_tensor(index, rows, first, (2, 2)),
        "apart": torch.ones(100),
        "b": torch.sparse_csr_tensor(index, rows, second, (2, 2)),
        "values of b": second,
    }
    torch.save(state, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "out", "--to", "pt", "--max-shard-size", "64B")
    found = [torch.load(path, weights_only=True) for path in sorted((tmp_path / "out").glob("*.bin"))]
    assert [list(shard) for shard in found] == [["a", "b", "values of b"], ["apart"]]
    assert found[0]["b"].values().data_ptr() == found[0]["values of b"].data_ptr()


# -- files --------------------------------------------------------------------------------------------


def text_of(layout: FileLayout) -> bytes:
    """A file without pieces."""
    (segment,) = layout.segments({})
    assert (segment.offset, segment.nbytes, segment.piece) == (0, layout.nbytes, -1)
    assert len(segment.literal) == layout.nbytes and not layout.wants_crcs
    return segment.literal


TREE = {
    "b": tensor("0", 3),
    "a": tensor("1", 5, dtype="int8"),
    "é\n": tensor("2", dtype="int64"),
    "none": tensor("3", 0),
    "tied": tensor("0", 3),
    "odd": tensor("4", 3, dtype="quint4x2"),
}
NAMES = {"safetensors": ("model", ".safetensors"), "pt": ("pytorch_model", ".bin")}
FACTS: dict[str, Any] = {
    "metadata": {"note": "x", "format": "old"},
    "module_versions": {(): {"": 3}},
    "module_extras": {(): {"": ((("assign",), True),)}},
}


def plan_to(to: str, **more: Any) -> ConversionPlan:
    tree = {**TREE, "epoch": 3}
    if to == "safetensors":
        tree["odd"] = tensor("4", 3, dtype="int8")
    return plan_in_memory(tree, to, sharded=True, facts=FACTS, **more)


@pytest.mark.parametrize("to", NAMES)
def test_what_fits_into_one_file_is_one_without_an_index(to: str) -> None:
    plan = plan_to(to)
    stem, suffix = NAMES[to]
    for limit in (plan.nbytes, plan.nbytes + 1, 1 << 60):
        (layout,) = lay_out_folder(plan, limit)
        (alone,) = lay_out_file(plan, stem + suffix)
        assert (layout.name, layout.nbytes) == (stem + suffix, alone.nbytes)
        assert list(layout.segments({})) == list(alone.segments({}))
    assert len(lay_out_folder(plan, plan.nbytes - 1)) == 3


@pytest.mark.parametrize("to", NAMES)
def test_shards_are_numbered_and_the_index_names_each_tensor(to: str) -> None:
    plan = plan_to(to)
    stem, suffix = NAMES[to]
    *shards, index = lay_out_folder(plan, 12)
    names = [f"{stem}-0000{at}-of-00003{suffix}" for at in (1, 2, 3)]
    assert [layout.name for layout in shards] == names[: len(shards)] and len(shards) == 3
    assert index.name == f"{stem}{suffix}.index.json"
    one, two, three = names
    where = {"a": two, "b": one, "none": three, "odd": three, "é\n": three}
    where |= {"tied": one} if to == "pt" else {}
    total = 12 + 5 + 8 + 0 + (12 + 2 if to == "pt" else 3)  # a tie is a tensor of its own in a .pt
    lines = [f'    {json.dumps(name, ensure_ascii=False)}: "{where[name]}"' for name in sorted(where)]
    assert text_of(index).decode() == "\n".join(
        ["{", '  "metadata": {', f'    "total_size": {total}', "  },", '  "weight_map": {', ",\n".join(lines),
         "  }", "}", ""]
    )  # fmt: skip


def test_what_stands_around_the_tensors_is_in_the_first_shard() -> None:
    headers = []
    for layout in lay_out_folder(plan_to("safetensors"), 12)[:-1]:
        first, *_ = layout.segments({})
        headers.append(json.loads(first.literal[8:])["__metadata__"])
    assert headers[1:] == [{"format": "pt"}] * 2
    assert headers[0] == {
        "note": "x",
        "format": "pt",
        "tied": "b",
        "ckpttool.lists": '[[[],"dict"]]',
        "ckpttool.module_versions": '[[[],{"":{"version":3,"assign":true}}]]',
        "ckpttool.order": headers[0]["ckpttool.order"],
    }
    assert json.loads(headers[0]["ckpttool.order"]) == [1, 0, 5, 2, 4, 3]
    pickles = []
    for layout in lay_out_folder(plan_to("pt"), 12)[:-1]:
        first, *_ = layout.segments({})
        pickles.append(first.literal)
    assert [b"_metadata" in data for data in pickles] == [True, False, False]
    assert [b"assign" in data for data in pickles] == [True, False, False]
    assert not any(b"epoch" in data for data in pickles)
