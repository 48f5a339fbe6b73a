"""A checkpoint as stable text for git: equal contents give equal lines, whatever the order or the path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckpttool.elements.digests import NamedDigest, digest_set
from ckpttool.render.fields import entry_fields, format_sizes
from ckpttool.values.difference import Side
from ckpttool.values.words import format_path, format_value, plural, safe

_DIGEST_DIGITS = 16  # of a tensor: 64 bits tell two versions of it apart


def iter_textconv(side: Side, digests: Sequence[NamedDigest]) -> Iterator[str]:
    """Yield one line per fact, each kind of fact sorted; never a path, a time or an address."""
    checkpoint = side.checkpoint
    yield f"format\t{safe(checkpoint.format)}\n"
    totals = digest_set(digests)
    for what, digest, count in (
        ("parameters", totals.parameters, totals.parameter_tensors),
        ("buffers", totals.buffers, totals.buffer_tensors),
        ("all", totals.all, totals.tensors),
    ):
        yield f"digest\t{what}\t{plural(count, 'tensor')}\tsha256 {digest}\n"
    yield from sorted(
        f"value\t{format_path(item.root, item.name, None)}\t{format_value(item.value, 1000)}\n"
        for item in checkpoint.values
    )
    yield from sorted(
        f"attribute\t{format_path(item.root, item.name, None)}\t{format_value(item.value, 1000)}\n"
        for item in checkpoint.attributes
    )
    yield from sorted(
        f"object\t{format_path(item.root, item.name, None)}\t{safe(item.type_name)}\t{safe(item.summary)}\n"
        for item in checkpoint.opaque
    )
    yield from sorted(f"metadata\t{safe(key)}\t{safe(text)}\n" for key, text in checkpoint.metadata.items())
    yield from sorted(
        f"version\t{format_path(root, module, None)}\t{version}\n"
        for root, modules in checkpoint.module_versions.items()
        for module, version in modules.items()
        if version is not None and version != 1
    )
    known = {(item.root, item.name): item.sha256[:_DIGEST_DIGITS] for item in digests}
    lines = []
    for row in map(entry_fields, side.rows):
        fields = ["tensor", format_path(row.root, row.name, None), row.kind.value, row.dtype or "?"]
        fields += [format_sizes(row.shape, "?"), known.get((row.root, row.name), "no values")]
        if row.tied_to is not None:
            fields.append(f"tied to {format_path(*row.tied_to, None)}")
        lines.append("\t".join(fields) + "\n")
    yield from sorted(lines)
