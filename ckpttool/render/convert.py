"""A conversion, or the plan of one, for people, for pipes and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ckpttool.formats.carried import PREFIX
from ckpttool.render.json import encode
from ckpttool.render.tables import Line, Span
from ckpttool.render.units import join_facts
from ckpttool.render.views import View
from ckpttool.values.checkpoint import Root
from ckpttool.values.conversion import CastLoss, Conversion, Dropped
from ckpttool.values.words import (
    NAME_LIMIT,
    format_float,
    format_key,
    format_nbytes,
    format_path,
    format_root,
    plural,
    safe,
)

CONVERT_SCHEMA = "ckpttool/convert/1"

_LABEL = 9  # width of the words on the left
_MOST_SHOWN = 6  # of one kind on a terminal; a pipe gets all


# ---------------------------------------------------------------------------------------------------- text


def iter_conversion(conversion: Conversion) -> Iterator[Line]:
    """The answer first, then what was kept, cast, tied, renamed and dropped, each list cut short."""
    yield [Span(_headline(conversion), "title")]
    yield []
    for label, text, style in _iter_facts(conversion, full=False):
        yield [Span(f"  {label:<{_LABEL}}", "dim"), Span(text, style)]


def iter_conversion_pipe(conversion: Conversion) -> Iterator[str]:
    """The same with nothing left out: a word, a tab, a fact."""
    yield (
        f"converted\t{_headline(conversion)}\n" if conversion.written else f"plan\t{_headline(conversion)}\n"
    )
    for label, text, _ in _iter_facts(conversion, full=True):
        yield f"{label}\t{text}\n"


def _headline(conversion: Conversion) -> str:
    plan = conversion.plan
    count = len(plan.tensors) + len(plan.listed)
    arrow = f"{safe(plan.source.path, NAME_LIMIT)} → {safe(conversion.destination, NAME_LIMIT)}"
    shards = sum(not file.path.endswith(".json") for file in conversion.files)
    nbytes = sum(file.nbytes for file in conversion.files)
    size = format_nbytes(nbytes)
    if conversion.written:
        seconds = max(conversion.seconds, 1e-6)
        took = f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
        size = f"{size} in {took} ({format_nbytes(int(nbytes / seconds))}/s)"
    return join_facts(
        (
            arrow,
            plural(count, "tensor"),
            size,
            plural(shards, "shard") if shards > 1 else "",
            ("checked" if conversion.checked else "not checked") if conversion.written else "nothing written",
        )
    )


def _iter_facts(conversion: Conversion, *, full: bool) -> Iterator[tuple[str, str, str]]:
    """(label, text, style) of every further line."""
    plan = conversion.plan
    if plan.root is not None:
        root = format_root(plan.root) or "the top level"
        yield (
            "kept",
            f"{root} (found by itself; --root to choose)" if plan.root_found and plan.root else root,
            "",
        )
    yield "bytes", _methods(conversion), ""
    yield from _capped(
        "aliased",
        [f"{safe(a, NAME_LIMIT)} → {safe(k, NAME_LIMIT)} (tied)" for a, k in plan.aliases.items()],
        full,
    )
    yield from _capped(
        "renamed", [f"{safe(a, NAME_LIMIT)} → {safe(b, NAME_LIMIT)}" for a, b in plan.renamed.items()], full
    )
    for cast in plan.casts if full else plan.casts[:0]:
        loss = _loss_text(conversion.losses.get(cast.piece))
        yield "cast", f"{safe(cast.name, NAME_LIMIT)} {cast.before.name} → {cast.after.name}{loss}", ""
    if plan.casts and conversion.losses:
        total = CastLoss()
        for loss_of_one in conversion.losses.values():
            total = total.joined(loss_of_one)
        style = "warning" if total.overflow else ""
        yield "cast", f"{plural(len(plan.casts), 'tensor')}{_loss_text(total)}", style
    carried = _carried(conversion)
    if carried:
        yield "metadata", carried, ""
    dropped = _dropped_lines(plan.dropped, full=full)
    yield from _capped("dropped", dropped, full, "warning" if plan.lost else "")
    for note in plan.notes:
        yield "note", safe(note), ""
    if not conversion.written:
        yield (
            "needs",
            f"{format_nbytes(sum(f.nbytes for f in conversion.files))} of disk, {_MEMORY} of memory",
            "",
        )


_MEMORY = "at most 64 MiB"


def _methods(conversion: Conversion) -> str:
    """How many bytes are copied, gathered, cast."""
    counts: Counter[str] = Counter()
    for piece in conversion.plan.pieces:
        counts[piece.method] += piece.nbytes
    words = {
        "copied": "copied as they are",
        "gathered": "gathered (strided, compressed or big-endian)",
        "cast": "cast",
    }
    return (
        ", ".join(f"{format_nbytes(counts[how])} {text}" for how, text in words.items() if counts[how])
        or "none"
    )


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
    branches: Counter[str] = Counter()
    for value in plan.values:
        branches[format_key((*value.root, value.name)[0]).removeprefix(".")] += 1
    nested = {format_key(value.root[0]).removeprefix(".") for value in plan.values if value.root}
    names = [
        f"{name} ({plural(count, 'value')})" if name in nested else name for name, count in branches.items()
    ]
    facts = names[:_MOST_SHOWN]
    if len(names) > len(facts):
        facts.append(f"{len(names) - len(facts):,} more")
    modules = sum(map(len, plan.module_versions.values()))
    if modules:
        facts.append(f"_metadata ({plural(modules, 'module')})")
    own = [safe(key, 40) for key in plan.metadata if not key.startswith(PREFIX) and key not in plan.aliases]
    facts += own[:_MOST_SHOWN]
    return ", ".join(facts)


def _dropped_lines(dropped: Sequence[Dropped], *, full: bool) -> list[str]:
    """Each dropped entry, or on a terminal each branch with what it held."""
    if full:
        return [
            f"{format_path(item.root, item.name)} ({_size(item.nbytes, item.type_name)}): {item.reason}"
            for item in dropped
        ]
    branches: dict[tuple[Root, str], list[Dropped]] = {}
    for item in dropped:
        key = item.root[:1] or (item.name,)
        branches.setdefault((key, item.reason), []).append(item)
    lines = []
    for (root, reason), items in branches.items():
        nbytes = sum(item.nbytes for item in items)
        what = items[0].type_name if len(items) == 1 else plural(len(items), "entry")
        lines.append(f"{format_root(root)} ({_size(nbytes, what)}): {reason}")
    return lines


def _size(nbytes: int, what: str) -> str:
    text = safe(what, NAME_LIMIT)
    return f"{text}, {format_nbytes(nbytes)}" if nbytes else text


# ---------------------------------------------------------------------------------------------------- JSON


def convert_document(conversion: Conversion) -> dict[str, object]:
    """Return the document of ``convert``."""
    plan = conversion.plan
    counts: Counter[str] = Counter()
    for piece in plan.pieces:
        counts[piece.method] += piece.nbytes
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
    lambda conversion, width, options: iter_conversion(conversion),
    lambda conversion, options: (iter_conversion_pipe(conversion), ()),
    convert_document,
)
