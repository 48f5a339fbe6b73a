"""Strings that move the cursor, forge lines or hide: wherever a file can put text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.hostile import pickles as op
from tests.hostile.case import Case
from tests.hostile.containers import Member, legacy, safetensors, torch_zip

EVIL: dict[str, str] = {
    "ESC": "\x1b]0;EVIL\x07",
    "CSI": "\x1b[2J\x1b[1;1HEVIL",
    "C1": "\x9b2JEVIL\x85",
    "newline": "a\nerror: EVIL\rb",
    "tab": "a\tEVIL",
    "NUL": "a\0EVIL",
    "bidi": "\u202eEVIL\u2066",
    "separators": "a\u2028EVIL\u2029",
    "zero width": "a\u200bEVIL\ufeff",
    "markup": "[red]EVIL[/red][link=https://example.com]x[/link]",
    "closing markup": "[/]EVIL[/bold]",
    "DEL": "a\x7fEVIL\b\b",
    "tag characters": "a\U000e0041EVIL",
}
SURROGATE = op.BINUNICODE(b"a\xed\xa0\x80EVIL")


def _everywhere(text: str) -> bytes:
    """A zip with ``text`` as key, value, location, module, dtype-like global, object and member name."""
    line = text.replace("\n", " ").replace("\r", " ")
    return torch_zip(
        op.dump(
            {
                text: op.tensor(op.storage(location=text)),
                "value": text,
                "list": [text, text],
                "deep": {text: {text: op.parameter()}},
                "bytes": op.BINBYTES(text.encode()),
                "object": op.call(f"{line}:{line}", text),
                "state": op.ordered([(text, op.tensor())], {text: {"version": 1, text: text}}),
                "module": op.module(
                    f"{line}:Net", parameters={text: op.parameter()}, buffers={text + "b": op.tensor()}
                ),
                "tuple": op.EMPTY_DICT + op.push((text, 1)) + op.tensor() + op.SETITEM,
            }
        ),
        more=[Member(f"archive/{text}", b"x")],
    )


def _named(text: str) -> object:
    """A file whose own name is hostile, and whose content is damaged."""

    def build(folder: Path) -> str:
        path = folder / (text.replace("/", "-").replace("\0", "") + ".pt")
        path.write_bytes(torch_zip(b"\xff"))
        return str(path)

    return build


def _iter_cases() -> Iterator[Case]:
    for name, text in EVIL.items():
        yield Case(f"text: {name} in a zip", _everywhere(text))
        old = op.tensor(op.storage("0", "torch:FloatStorage", 4, text, None))
        yield Case(f"text: {name} in a legacy file", legacy(op.dump({text: old})))
        header = {
            "__metadata__": {text: text},
            text: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1], text: 1},
        }
        yield Case(f"text: {name} in safetensors", safetensors(header, b"x"), suffix=".safetensors")
        bad = {text: {"dtype": text, "shape": [1], "data_offsets": [0, 1]}}
        yield Case(f"text: {name} in a dtype", safetensors(bad, b"x"), "unknown dtype", suffix=".safetensors")
        yield Case(f"text: {name} in a file name", _named(text), "not a pickle opcode", folder=True)  # type: ignore[arg-type]
        missing = torch_zip(op.dump({"w": op.tensor(op.storage(text))}))
        yield Case(f"text: {name} in a storage key", missing, "not in the file")
        line = text.replace("\n", " ").replace("\r", " ")
        cls = torch_zip(op.dump({"w": op.tensor(op.storage(cls=f"torch:{line}"))}))
        yield Case(f"text: {name} in a storage class", cls, "storage class")
        twice = torch_zip(op.dump({}), more=[Member(f"archive/{text}", b""), Member(f"archive/{text}", b"")])
        yield Case(f"text: {name} in a member", twice, "same name")
    lone = torch_zip(
        op.PROTO(2) + op.MARK + SURROGATE + op.tensor() + op.push("v") + SURROGATE + op.DICT + op.STOP
    )
    yield Case("text: lone surrogate", lone)


CASES = tuple(_iter_cases())
