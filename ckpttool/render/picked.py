"""The view of ``get``: a value as a shell takes it, a tensor as rows of numbers, either as JSON.

On a terminal a tensor is drawn as numpy draws it, a large one with its first and last elements only. In a
pipe each row is a line with tabs between its numbers, and an empty line ends a matrix of several: what
``numpy.loadtxt`` reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from ckpttool.files.indexing import select
from ckpttool.render.json import encode
from ckpttool.render.numbers import number_json, number_text
from ckpttool.render.tables import Line, Span
from ckpttool.render.views import View
from ckpttool.values.checkpoint import CompositeTensor, Strided
from ckpttool.values.errors import LimitExceeded, UnsupportedFeature
from ckpttool.values.words import format_shape, indefinite, plural, safe

if TYPE_CHECKING:
    from ckpttool.elements.bits import Number
    from ckpttool.values.picked import Picked

_DRAWN_WHOLE = 1000  # elements, as numpy has it
_EDGE = 3  # elements at either end of a dimension that is cut
_MOST_DRAWN = 20_000
_MOST_EMPTY = 1_000_000  # rows without elements

_Nested: TypeAlias = Union[str, list["_Nested"], None]  # noqa: UP007 (3.10)
"""Elements as text, by dimension; None stands for those that are left out."""


def iter_pieces(picked: Picked, form: str) -> Iterator[str]:
    """What a pipe or a file gets, as ``text`` or ``json``.

    Raises:
        UnsupportedFeature: a tensor is made of parts, or its elements cannot be read.
    """
    if picked.tensor is None:
        yield (raw_text if form == "text" else json.dumps)(_jsonable(picked.value)) + "\n"
        return
    tensor = plain_tensor(picked)
    yield from (_iter_rows if form == "text" else _iter_json)(tensor, picked.numbers)


def plain_tensor(picked: Picked) -> Strided:
    """The tensor, if its elements are numbers in rows.

    Raises:
        UnsupportedFeature: it is made of parts.
    """
    tensor = picked.tensor
    if tensor is None or isinstance(tensor, CompositeTensor):
        what = "a value" if tensor is None else f"{indefinite(safe(tensor.layout))} tensor, made of parts"
        raise UnsupportedFeature(f"{what}: there are no elements to print", hint="-o FILE.pt writes it whole")
    return tensor


def raw_text(value: object) -> str:
    """A value as ``jq -r`` has it: a string as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _jsonable(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    return [_jsonable(item) for item in value] if isinstance(value, list) else encode(value)


def _sizes(tensor: Strided) -> tuple[int, ...]:
    """The shape in numbers: an element of float4_e2m1fn_x2 is two."""
    packed = tensor.dtype.packed
    if packed == 1:
        return tensor.shape
    return (*tensor.shape[:-1], tensor.shape[-1] * packed) if tensor.shape else (packed,)


# ------------------------------------------------------------------------------------------------ in a pipe


def _rows(
    tensor: Strided, numbers: Callable[[Strided], Iterable[list[Number]]], separator: str,
    write: Callable[[Number], str],
) -> Iterator[tuple[str, bool, bool]]:  # fmt: skip
    """The numbers of each row, joined, in pieces; and whether a piece begins and ends one."""
    size = (_sizes(tensor) or (1,))[-1]
    at = 0
    for chunk in numbers(tensor):
        start = 0
        while start < len(chunk):
            part = chunk[start : start + size - at]
            start, begins, at = start + len(part), at == 0, (at + len(part)) % size
            yield separator.join(map(write, part)) + (separator if at else ""), begins, at == 0


def _iter_rows(tensor: Strided, numbers: Callable[[Strided], Iterable[list[Number]]]) -> Iterator[str]:
    sizes = _sizes(tensor)
    height = sizes[-2] if len(sizes) > 2 else 0
    done = 0
    for text, begins, ends in _rows(tensor, numbers, "\t", number_text(tensor.dtype)):
        if begins and height and done and done % height == 0:
            yield "\n"
        done += ends
        yield text + "\n" if ends else text


def _iter_json(tensor: Strided, numbers: Callable[[Strided], Iterable[list[Number]]]) -> Iterator[str]:
    sizes = _sizes(tensor)
    if 0 in sizes:
        yield json.dumps(_empty(sizes)) + "\n"
        return
    inner = [math.prod(sizes[at:-1]) for at in range(len(sizes))]  # rows in a block of each dimension
    count, done = math.prod(sizes[:-1]), 0
    for text, begins, ends in _rows(tensor, numbers, ", ", number_json(tensor.dtype)):
        if begins:
            yield "[" * sum(done % rows == 0 for rows in inner)
        yield text
        if ends:
            done += 1
            yield "]" * sum(done % rows == 0 for rows in inner) + (",\n" if done < count else "\n")


def _empty(sizes: Sequence[int]) -> list[Any]:
    """Nested lists of a shape with a 0 in it."""
    before = sizes[: sizes.index(0)]
    if math.prod(before) > _MOST_EMPTY:
        raise LimitExceeded("the number of empty rows", limit=_MOST_EMPTY, actual=math.prod(before))
    nested: list[Any] = []
    for size in reversed(before):
        nested = [nested] * size
    return nested


# -------------------------------------------------------------------------------------------- on a terminal


def _lines(picked: Picked, width: int, form: str) -> Iterable[Line]:
    if picked.tensor is not None and form == "text":
        yield from _iter_array(plain_tensor(picked), picked.numbers, width)
        return
    if picked.tensor is None:
        value = _jsonable(picked.value)
        text = raw_text(value) if form == "text" else json.dumps(value)
        if isinstance(value, (dict, list)) and len(text) > width:
            text = json.dumps(value, indent=2)
    else:
        text = "".join(iter_pieces(picked, form)).removesuffix("\n")
    for line in text.split("\n"):
        yield (Span(safe(line)),)


def _iter_array(
    tensor: Strided, numbers: Callable[[Strided], Iterable[list[Number]]], width: int
) -> Iterator[Line]:
    numel = math.prod(tensor.shape)
    edge = _EDGE if numel > _DRAWN_WHOLE else 0
    drawn = math.prod(min(size, 2 * edge) if edge else size for size in tensor.shape)
    if drawn > _MOST_DRAWN:
        hint = "--slice takes a part; in a pipe there are all"
        raise LimitExceeded("the number of elements to draw", limit=_MOST_DRAWN, actual=drawn, hint=hint)
    write = number_text(tensor.dtype)
    nested = _nest(tensor, edge, lambda part: [write(n) for chunk in numbers(part) for n in chunk])
    cell = max(map(len, _flat(nested)), default=0)
    for line in _draw(nested, 0, width, cell):
        yield (Span(line),)
    if edge:
        shown = f"{format_shape(tensor.shape)} {tensor.dtype.name}, {plural(numel, 'element')}"
        yield (Span(f"{shown}: --slice takes a part, a pipe all", "dim"),)


def _nest(tensor: Strided, edge: int, read: Callable[[Strided], list[str]]) -> _Nested:
    if not tensor.shape:
        texts = read(tensor)
        return texts[0] if len(texts) == 1 else [*texts]
    size = tensor.shape[0]
    is_cut = edge and size > 2 * edge
    if len(tensor.shape) == 1:
        if not is_cut:
            return [*read(tensor)]
        return [*read(select(tensor, slice(edge))), None, *read(select(tensor, slice(size - edge, None)))]
    if 0 in tensor.shape:
        return []
    indices = [*range(edge), None, *range(size - edge, size)] if is_cut else range(size)
    return [None if index is None else _nest(select(tensor, index), edge, read) for index in indices]


def _flat(nested: _Nested) -> Iterator[str]:
    if isinstance(nested, str):
        yield nested
    for item in nested if isinstance(nested, list) else ():
        yield from _flat(item)


def _draw(nested: _Nested, depth: int, width: int, cell: int) -> Iterator[str]:
    """Lines of brackets, those of the inner dimensions indented."""
    if not isinstance(nested, list):
        yield nested or "..."
        return
    if not any(isinstance(item, list) for item in nested):
        yield from _draw_row(
            [item.rjust(cell) if isinstance(item, str) else "..." for item in nested], depth, width
        )
        return
    blank_lines = _depth(nested) - 2
    for position, item in enumerate(nested):
        if position:
            yield from [""] * blank_lines
        lines = ["..."] if item is None else list(_draw(item, depth + 1, width, cell))
        if item is None or position:
            lines = [f"{' ' * (depth + 1) if at == 0 else ''}{line}" for at, line in enumerate(lines)]
        else:
            lines[0] = f"[{lines[0]}"
        if position == len(nested) - 1:
            lines[-1] += "]"
        yield from lines


def _draw_row(words: Sequence[str], depth: int, width: int) -> Iterator[str]:
    line, used = "[", depth + 1
    for position, word in enumerate(words):
        if position and used + 1 + len(word) > max(width - depth - 1, 20):
            yield line
            line, used = " " * (depth + 1), depth + 1
        elif position:
            line, used = f"{line} ", used + 1
        line, used = line + word, used + len(word)
    yield f"{line}]"


def _depth(nested: _Nested) -> int:
    return 1 + _depth(next(filter(None, nested), None)) if isinstance(nested, list) else 0


def _pipe(picked: Picked, form: str) -> tuple[Iterable[str], Iterable[str]]:
    return iter_pieces(picked, form), ()


def _document(picked: Picked) -> dict[str, Any]:
    raise NotImplementedError("a value is a document of its own: the form json")


PICKED = View(_lines, _pipe, _document)
