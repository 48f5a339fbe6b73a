"""A conversion, or the plan of one, for people, for pipes and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import reduce

from ckpttool.formats.carried import PREFIX
from ckpttool.names.fold import fold_names
from ckpttool.render.json import encode
from ckpttool.render.tables import Line, Span, cell_width, fill, hang, times
from ckpttool.render.units import join_facts
from ckpttool.render.views import View
from ckpttool.values.checkpoint import Root
from ckpttool.values.conversion import CastLoss, Conversion, Dropped
from ckpttool.values.words import (
    NAME_LIMIT,
    format_float,
    format_nbytes,
    format_path,
    format_root,
    plural,
    safe,
)

CONVERT_SCHEMA = "ckpttool/convert/1"

_LABEL = 9  # width of the words on the left
_LONGEST_SIZE = 36  # ``1,023 MiB in 999 ms (1,023 MiB/s)``
_MOST_SHOWN = 6  # of one kind on a terminal; a pipe gets all
_MEMORY = "at most 64 MiB"


# ---------------------------------------------------------------------------------------------------- text


def iter_conversion(conversion: Conversion, width: int) -> Iterator[Line]:
    """The answer first, then what was kept, cast, tied, renamed and dropped, each list cut short."""
    first, *rest = _headline(conversion)
    what, how = [Span(fact, "title") for fact in (first, rest[0])], [Span(fact, "title") for fact in rest[1:]]
    # How long it took has as many digits as it has: where a line ends must not hang on that.
    room = width - sum(cell_width(span.text) + 3 for span in (*what, *how[1:])) - _LONGEST_SIZE
    for pieces in ([*what, *how],) if room >= 0 else (what, how):
        yield from fill(pieces, width, indent=0)
    yield []
    for label, text, style in _iter_facts(conversion, full=False):
        yield from hang(Span(f"  {label:<{_LABEL}}", "dim"), text, width, style)


def iter_conversion_pipe(conversion: Conversion) -> Iterator[str]:
    """The same with no list cut short: a word, a tab, a fact."""
    yield f"{'converted' if conversion.written else 'plan'}\t{join_facts(_headline(conversion))}\n"
    for label, text, _ in _iter_facts(conversion, full=True):
        yield f"{label}\t{text}\n"


def _headline(conversion: Conversion) -> list[str]:
    """What the answer is made of: from where to where, how many tensors, how large, how fast, how sure."""
    plan = conversion.plan
    count = len(plan.tensors) + len(plan.listed)
    shards = sum(not file.path.endswith(".json") for file in conversion.files)
    nbytes = sum(file.nbytes for file in conversion.files)
    size, outcome = format_nbytes(nbytes), "nothing written"
    if conversion.written:
        seconds = max(conversion.seconds, 1e-6)
        took = f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
        size = f"{size} in {took} ({format_nbytes(int(nbytes / seconds))}/s)"
        outcome = "checked" if conversion.checked else "not checked"
    arrow = _arrow(plan.source.path, conversion.destination)
    split = plural(shards, "shard") if shards > 1 else ""
    return list(filter(None, (arrow, plural(count, "tensor"), size, split, outcome)))


def _arrow(before: str, after: str) -> str:
    return f"{safe(before, NAME_LIMIT)} → {safe(after, NAME_LIMIT)}"


def _iter_facts(conversion: Conversion, *, full: bool) -> Iterator[tuple[str, str, str]]:
    """(label, text, style) of every further line."""
    plan = conversion.plan
    if plan.root is not None:
        how = " (detected; choose another with --root)" if plan.root_found and plan.root else ""
        yield "kept", f"{format_root(plan.root) or 'the top level'}{how}", ""
    yield "bytes", _methods(conversion), ""
    yield from _capped("aliased", [f"{_arrow(*names)} (tied)" for names in plan.aliases.items()], full)
    yield from _capped("renamed", [_arrow(*names) for names in plan.renamed.items()], full)
    for cast in plan.casts if full else plan.casts[:0]:
        loss = _loss_text(conversion.losses.get(cast.piece))
        yield "cast", f"{safe(cast.name, NAME_LIMIT)} {cast.before.name} → {cast.after.name}{loss}", ""
    if plan.casts and conversion.losses:
        total = reduce(CastLoss.joined, conversion.losses.values())
        style = "warning" if total.overflow else ""
        yield "cast", f"{plural(len(plan.casts), 'tensor')}{_loss_text(total)}", style
    if carried := _carried(conversion):
        yield "metadata", carried, ""
    yield from _capped("dropped", _dropped_lines(plan.dropped), full, "warning" if plan.lost else "")
    for note in plan.notes:
        yield "note", safe(note), ""
    if not conversion.written:
        nbytes = sum(file.nbytes for file in conversion.files)
        yield "needs", f"{format_nbytes(nbytes)} of disk, {_MEMORY} of memory", ""


def _methods(conversion: Conversion) -> str:
    """How many bytes are copied, gathered, cast."""
    counts = _nbytes_by_method(conversion)
    words = {
        "copied": "copied as they are",
        "gathered": "gathered (strided, compressed or big-endian)",
        "cast": "cast",
    }
    facts = [f"{format_nbytes(counts[how])} {text}" for how, text in words.items() if counts[how]]
    return ", ".join(facts) or "none"


def _nbytes_by_method(conversion: Conversion) -> Counter[str]:
    counts: Counter[str] = Counter()
    for piece in conversion.plan.pieces:
        counts[piece.method] += piece.nbytes
    return counts


def _capped(label: str, lines: Sequence[str], full: bool, style: str = "") -> Iterator[tuple[str, str, str]]:
    """Lines under one label; on a terminal the first few, and how many more."""
    shown = lines if full else lines[:_MOST_SHOWN]
    for position, text in enumerate(shown):
        yield label if full or not position else "", text, style
    if len(shown) < len(lines):
        yield "", f"… and {len(lines) - len(shown):,} more", "dim"


def _loss_text(loss: CastLoss | None) -> str:
    if loss is None:
        return ""
    return (
        f" · overflow {loss.overflow:,}, underflow {loss.underflow:,}, "
        f"largest relative error {format_float(loss.max_relative)}"
    )


def _carried(conversion: Conversion) -> str:
    """What of the surroundings goes along."""
    plan = conversion.plan
    branches = Counter(format_root((*value.root, value.name)[:1]) for value in plan.values)
    nested = {format_root(value.root[:1]) for value in plan.values if value.root}
    names = [f"{name} ({plural(n, 'value')})" if name in nested else name for name, n in branches.items()]
    facts = names[:_MOST_SHOWN]
    if len(names) > len(facts):
        facts.append(f"{len(names) - len(facts):,} more")
    modules = sum(map(len, plan.module_versions.values()))
    if modules:
        facts.append(f"_metadata ({plural(modules, 'module')})")
    own = [safe(key, 40) for key in plan.metadata if not key.startswith(PREFIX) and key not in plan.aliases]
    facts += own[:_MOST_SHOWN]
    return ", ".join(facts)


def _dropped_lines(dropped: Sequence[Dropped]) -> list[str]:
    """Each branch of which something is dropped, what it held and why it goes; names at the top folded."""
    branches: dict[tuple[Root, str], list[Dropped]] = {}
    alike: dict[tuple[str, int, str], list[str]] = {}
    for item in dropped:
        if item.root or not isinstance(item.name, str):
            branches.setdefault((item.root[:1] or (item.name,), item.reason), []).append(item)
        else:
            alike.setdefault((item.type_name, item.nbytes, item.reason), []).append(item.name)
    lines = []
    for (root, reason), items in branches.items():
        nbytes = sum(item.nbytes for item in items)
        name, what = format_root(root), plural(len(items), "entry")
        if len(items) == 1:
            name, what = format_path(items[0].root, items[0].name), items[0].type_name
        lines.append(f"{name} ({_size(nbytes, what)}): {reason}")
    for (type_name, nbytes, reason), names in alike.items():
        for folded in fold_names(names):
            name = safe(folded.pattern, NAME_LIMIT) + times(folded.count)
            lines.append(f"{name} ({_size(nbytes * folded.count, type_name)}): {reason}")
    return lines


def _size(nbytes: int, what: str) -> str:
    text = safe(what, NAME_LIMIT)
    return f"{text}, {format_nbytes(nbytes)}" if nbytes else text


# ---------------------------------------------------------------------------------------------------- JSON


def convert_document(conversion: Conversion) -> dict[str, object]:
    """Return the document of ``convert``."""
    plan = conversion.plan
    counts = _nbytes_by_method(conversion)
    return {
        "schema": CONVERT_SCHEMA,
        "source": plan.source.path,
        "destination": conversion.destination,
        "format": plan.options.container,
        "written": conversion.written,
        "checked": conversion.checked,
        "root": encode(plan.root),
        "tensors": len(plan.tensors),
        "copied_nbytes": counts["copied"],
        "gathered_nbytes": counts["gathered"],
        "cast_nbytes": counts["cast"],
        "files": encode(conversion.files),
        "aliases": dict(plan.aliases),
        "renamed": dict(plan.renamed),
        "cast": [
            {
                "name": cast.name,
                "from": cast.before.name,
                "to": cast.after.name,
                **conversion.losses.get(cast.piece, CastLoss())._asdict(),
            }
            for cast in plan.casts
        ],
        "metadata": dict(plan.metadata),
        "dropped": encode(plan.dropped),
        "notes": list(plan.notes),
    }


CONVERSION = View(
    lambda conversion, width, options: iter_conversion(conversion, width),
    lambda conversion, options: (iter_conversion_pipe(conversion), ()),
    convert_document,
)
