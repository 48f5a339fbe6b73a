"""What differs between two checkpoints, whatever they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ckpttool.api.arguments import IGNORABLE, KINDS, Ignorable, choose
from ckpttool.api.opened import Source, opened
from ckpttool.values.progress import SILENT, Progress

if TYPE_CHECKING:
    from ckpttool.api.results.difference import Diff


def diff(
    a: Source,
    b: Source,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    only: Literal["parameters", "buffers"] | None = None,
    align: bool = True,
    rename: Sequence[str] = (),
    atol: float = 0.0,
    rtol: float = 0.0,
    ulp: int | None = None,
    headers: bool = False,
    weights_only: bool = False,
    ignore: Sequence[Ignorable] = (),
    progress: Progress = SILENT,
) -> Diff:
    """Compare two checkpoints of any formats: bytes first, then numbers where bytes differ.

    Args:
        a: the first side; its branch, if it was opened with a ``root``. Also a manifest of ``convert``.
        b: the second side.
        include: globs; only entries with such a name.
        exclude: globs; no entries with such a name.
        only: parameters, or buffers.
        align: bring names together that differ by a prefix, or were renamed.
        rename: ``REGEX=>REPL`` for the names of ``a``, as ``--map``.
        atol: absolute difference that counts as none.
        rtol: difference relative to the larger value.
        ulp: values at most so many representable ones apart count as equal.
        headers: names, dtypes and shapes only; no tensor is read.
        weights_only: compare nothing but the parameters and buffers of the weights' branch.
        ignore: what is not to decide: ``values``, ``attributes``, ``versions``, ``metadata``, ``objects``,
            ``extra-state``, ``optimizer-state``. Its differences are counted in ``ignored``.
        progress: told how many bytes of both sides are done.

    Raises:
        CkptToolError: a side cannot be read, changed meanwhile, or ``rename`` makes names collide; with
            ``weights_only``, it is not clear which branch holds the weights.
        OSError: as the file system says.
        ValueError: ``only`` or ``ignore`` has a word that is none of these.

    >>> ckpttool.diff("linear.pt", "linear.pt").equal
    True
    """
    from ckpttool.api.results.difference import Diff
    from ckpttool.comparison.diff import Request, diff_sides, total_nbytes
    from ckpttool.elements.sums import Tolerance
    from ckpttool.names.renames import make_rule

    if only is not None:
        choose(only, KINDS)
    for what in ignore:
        choose(what, IGNORABLE)
    opened_a, opened_b = opened(a, manifests=True), opened(b, manifests=True)
    request = Request(
        opened_a.root,
        opened_b.root,
        tuple(include),
        tuple(exclude),
        only,
        align,
        make_rule(None, rename, ""),
        Tolerance(atol, rtol, ulp),
        headers,
        weights_only,
        tuple(ignore),
    )
    opened_a.progress = opened_b.progress = progress
    side_a, side_b = opened_a.beside(opened_b)
    progress = SILENT if headers else progress
    progress.begin("compare", total_nbytes(side_a, side_b))
    found = diff_sides(side_a, side_b, request, progress.advance, (opened_a.sources, opened_b.sources))
    progress.finish()
    return Diff._make(found)
