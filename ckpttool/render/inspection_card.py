"""The card above the table: what the model is in words, what it takes in memory, how it is shared out."""

from __future__ import annotations

from collections.abc import Iterator

from ckpttool.render.tables import Cell, Column, Line, Span, fill, hang, iter_table
from ckpttool.render.units import bar, format_percent
from ckpttool.values.card import Card
from ckpttool.values.words import (
    NAME_LIMIT,
    first_few,
    format_count,
    format_int,
    format_magnitude,
    format_nbytes,
    format_number,
    plural,
    safe,
)

_SMALL = 1_000_000  # weights of fewer elements fit anywhere, and their table on a screen
_MOST_SHARES = 6
_MOST_LISTED = 8  # targets, and files of a Trainer
_LONGEST = 60  # characters of a text out of JSON


def is_large(card: Card) -> bool:
    """Whether memory and shares are worth a line."""
    return bool((card.value("parameters") or 0) >= _SMALL)


def iter_architecture_facts(card: Card) -> Iterator[str]:
    """Yield ``Llama-style decoder`` and ``LlamaForCausalLM by config.json``, or what of it is known."""
    yield card.value("architecture") or ""
    said = card.value("class") or card.value("model_type")
    yield f"{safe(said, _LONGEST)} by config.json" if said else ""


def iter_shape_facts(card: Card) -> Iterator[str]:
    """Yield ``32 layers × 4096``, ``32 heads``, ``vocabulary 32,000``, experts, and what an adapter is."""
    layers, hidden, stages = (card.value(name) for name in ("layers", "hidden_size", "stages"))
    if layers is not None:
        noun = "layer" if card.value("architecture") else "block"
        yield _layers_fact(layers, hidden, noun) + (
            f" in {plural(stages, 'stage')}" if isinstance(stages, int) else ""
        )
    heads, kv_heads = card.value("heads"), card.value("kv_heads")
    if heads is not None:
        shared = f" ({format_count(kv_heads)} for keys and values)" if kv_heads not in (None, heads) else ""
        yield plural(heads, "head") + shared
    if (vocabulary := card.value("vocabulary")) is not None:
        yield f"vocabulary {format_count(vocabulary)}"
    if experts := card.value("experts"):
        active, numel = card.value("experts_active"), card.value("active_parameters")
        used = f", {format_count(active)} active" if active else ""
        yield plural(experts, "expert") + used
        if numel:
            yield f"{format_magnitude(numel, '')} active parameters"
    yield from _iter_adapter_facts(card)


def _layers_fact(layers: int | tuple[int, ...], hidden: int | tuple[int, ...] | None, noun: str) -> str:
    if isinstance(layers, int):
        return plural(layers, noun) + (f" × {format_int(hidden)}" if isinstance(hidden, int) else "")
    counts = " + ".join(map(format_count, layers))
    if not isinstance(hidden, tuple):
        return f"{counts} {noun}s"
    if len(set(hidden)) == 1:
        return f"{counts} {noun}s × {format_int(hidden[0])}"
    return " + ".join(_layers_fact(*pair, noun) for pair in zip(layers, hidden, strict=True))


def _iter_adapter_facts(card: Card) -> Iterator[str]:
    rank = card.value("adapter_rank")
    if rank is None:
        return
    ranks = [rank] if isinstance(rank, int) else rank
    yield f"rank {first_few(ranks, format_count, _MOST_LISTED)}"
    if (alpha := card.value("adapter_alpha")) is not None:
        yield f"alpha {format_number(alpha)}"
    if targets := card.value("adapter_targets"):
        yield f"targets {first_few(targets, lambda name: safe(name, _LONGEST), _MOST_LISTED)}"
    if base := card.value("adapter_base"):
        yield f"base {safe(base, NAME_LIMIT)}"


def iter_card(card: Card, width: int) -> Iterator[Line]:
    """Yield what the weights take in memory, what of a Trainer is here, and what could not be read."""
    if is_large(card) and (loaded := card.value("load_nbytes")):
        facts = [f"{format_nbytes(loaded)} to load as stored"]
        if trained := card.value("train_nbytes"):
            facts.append(f"{format_nbytes(trained)} to train with Adam")
            facts.append("float32 weights, gradients and two moments")
        yield from fill(map(Span, facts), width, indent=0)
    progress = [
        f"{name.replace('_', ' ')} {format_number(value)}"
        for name in ("step", "epoch", "best_metric")
        if (value := card.value(name)) is not None
    ]
    files = card.value("trainer_files") or ()
    named = [safe(name, _LONGEST) for name in files[:_MOST_LISTED]]
    if len(files) > len(named):
        named.append(f"{format_count(len(files) - len(named))} more")
    if progress or named:
        yield from fill(map(Span, ["Trainer", *progress, *named]), width, indent=0)
    for fact in card.facts:
        if fact.name == "unread":
            yield from hang(Span("not read: ", "dim"), safe(fact.value, NAME_LIMIT), width)


_SHARE_COLUMNS = (
    Column("part", floor=12),
    Column("weights", right=True, optional=2),
    Column("size", right=True),
    Column("share", right=True),
    Column("bar", optional=1),
)


def iter_shares(card: Card, width: int) -> Iterator[Line]:
    """Yield a line per part of a large model, with a bar of its share of the bytes."""
    adapter = card.value("adapter_rank") is not None and not card.value("architecture")
    if not is_large(card) or len(card.shares) < 2 or adapter:
        return
    whole = sum(share.nbytes for share in card.shares) or 1
    named = [share for share in card.shares[:_MOST_SHARES] if share.name and share.nbytes * 200 >= whole]
    rest = card.shares[len(named) :]
    rows = [(safe(share.name, NAME_LIMIT), share.numel, share.nbytes) for share in named]
    if rest:
        joined = f"{format_count(len(rest))} more"
        rows.append((joined, sum(share.numel for share in rest), sum(share.nbytes for share in rest)))
    cells = [
        (
            Cell(name),
            Cell(format_magnitude(numel, "")),
            Cell(format_nbytes(nbytes)),
            Cell(format_percent(nbytes, whole)),
            Cell(bar(nbytes / whole, 16), "dim"),
        )
        for name, numel, nbytes in rows
    ]
    yield from iter_table(_SHARE_COLUMNS, cells, width, head=False)
