"""Texts for people: no character that moves, hides or forges output, and no number that fails."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.render.units import bar, format_percent
from ckpttool.values.checkpoint import OddKey
from ckpttool.values.words import (
    format_float,
    format_int,
    format_key,
    format_name,
    format_nbytes,
    format_path,
    format_root,
    format_shape,
    format_value,
    plural,
    safe,
)

INKLESS = "\u034f\u115f\u1160\u17b4\u3164\ufe0f\uffa0\U000e0100\U000e0041"
HOSTILE = [*map(chr, range(32)), *map(chr, range(0x7F, 0xA1)), *"\u061c\u200b\u200c\u200d\u200e\u200f"]
HOSTILE += [*"\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\ud800\udfff"]
HOSTILE += [*INKLESS]


def is_harmless(text: str) -> bool:
    return all(
        unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        and (character == " " or unicodedata.category(character) != "Zs")
        for character in text
    )


@pytest.mark.parametrize("character", HOSTILE, ids=lambda character: f"U+{ord(character):04X}")
def test_a_character_that_leaves_no_ink_is_escaped(character: str) -> None:
    shown = safe(f"a{character}b")
    assert shown.isascii() and shown.startswith("a\\") and shown.endswith("b")
    code = int(re.fullmatch(r"a\\[xuU]([0-9a-f]+)b", shown)[1], 16)
    assert code == ord(character)


@given(st.text())
def test_safe_leaves_nothing_harmful(text: str) -> None:
    assert is_harmless(safe(text))


@given(st.text())
def test_safe_twice_is_safe_once(text: str) -> None:
    assert safe(safe(text)) == safe(text)


@given(st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters=INKLESS)))
def test_safe_keeps_what_can_be_read(text: str) -> None:
    kept = [character for character in text if not re.search("[\u115f\u1160\u3164\uffa0]", character)]
    assert safe("".join(kept)) == "".join(kept)


def test_markup_is_text() -> None:
    assert safe("[red]x[/red] [link=http://a]") == "[red]x[/red] [link=http://a]"


def test_a_long_name_is_cut_and_its_length_said() -> None:
    assert safe("x" * (1 << 20), 200) == "x" * 200 + "…(1048576 chars)"
    assert safe("x" * 200, 200) == "x" * 200


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((94, 64), "94×64"),
        ((), "()"),
        ((0,), "0"),
        (None, "?"),
        ((1,) * 9, "1×1×1×1×1×1×…×1 (9 dims)"),
        ((2**63, 3), "9223372036854775808×3"),
        pytest.param((1 << 100_000,), "~2^100000 (100001 bits)", id="huge"),
    ],
)
def test_shapes(shape: tuple[int, ...] | None, text: str) -> None:
    assert format_shape(shape) == text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (24_064, "23.5 KiB"),
        (196_608, "192 KiB"),
        (1_048_575, "1.00 MiB"),
        (4_863_221, "4.64 MiB"),
        (1_300_000_000, "1.21 GiB"),
        (1 << 40, "1.00 TiB"),
        (5_500_000_000_000_000_000, "4,885 PiB"),
        pytest.param(1 << 100_000, "~2^100000 (100001 bits) B", id="huge"),
    ],
)
def test_bytes(nbytes: int, text: str) -> None:
    assert format_nbytes(nbytes) == text


@given(st.integers(0, 1 << 90))
def test_bytes_take_at_most_three_digits_or_are_huge(nbytes: int) -> None:
    number, unit = format_nbytes(nbytes).split(" ")
    digits = number.replace(",", "").replace(".", "")
    assert len(digits) <= (4 if unit == "B" else 3) or unit == "PiB"
    size = float(number.replace(",", "")) * 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].index(unit)
    assert size == pytest.approx(nbytes, rel=0.006)


@given(st.integers())
def test_ints_are_exact_until_nobody_reads_them(value: int) -> None:
    assert format_int(value) == str(value) or value.bit_length() > 128


@pytest.mark.parametrize("value", [1 << 20_000, -(1 << 20_000)], ids=["plus", "minus"])
def test_ints_beyond_the_digits_that_python_converts(value: int) -> None:
    with pytest.raises(ValueError, match="digits"):
        str(value)
    assert format_int(value) == ("-" if value < 0 else "") + "~2^20000 (20001 bits)"


@pytest.mark.parametrize(
    ("root", "name", "text"),
    [
        ((), "layers.0.weight", "layers.0.weight"),
        (("model", "state_dict"), "a.b", "model.state_dict.a.b"),
        (("optimizer", "state", 0), "exp_avg", "optimizer.state[0].exp_avg"),
        (("a.b",), "w", '["a.b"].w'),
        (("a", "0"), "w", 'a["0"].w'),
        (("x", 'q"\n'), "w", 'x["q\\"\\x0a"].w'),
        (("x",), 5, "x[5]"),
        ((), -1, "[-1]"),
        ((OddKey("None", True),), "w", "[None].w"),
        (("",), "", '[""].'),
    ],
)
def test_paths_tell_keys_apart(root: tuple[str, ...], name: str, text: str) -> None:
    assert format_path(root, name) == text


def test_a_long_container_key_is_cut() -> None:
    assert format_key("k" * 1000) == f".{'k' * 200}…(1000 chars)"
    assert format_key("k." * 1000) == f'["{"k." * 100}…(2000 chars)"]'
    assert len(format_name("n" * 5000, None)) == 5000
    assert format_root(()) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (29, "29"),
        (True, "True"),
        (None, "None"),
        (0.0731, "0.0731"),
        (3.0, "3.0"),
        (-2.0, "-2.0"),
        (1e-8, "1e-08"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ("adam\x1b[2J", '"adam\\x1b[2J"'),
        (b"\x00\x1b", "b'\\x00\\x1b'"),
        (b"x" * 100, "b'xxxxxxxxxxxxxxxx'…(100 bytes)"),
        ((), "[]"),
        ((0.9, 0.999), "[0.9, 0.999]"),
        ((1, (2, ("a",)), ()), '[1, [2, ["a"]], []]'),
        (tuple(range(1000)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, …] of 1,000"),
        pytest.param(1 << 99_999, "~2^99999 (100000 bits)", id="huge"),
    ],
)
def test_values(value: object, text: str) -> None:
    assert format_value(value) == text


def test_a_value_nested_deeper_than_python_recurses() -> None:
    value: object = 1
    for _ in range(100_000):
        value = (value,)
    assert format_value(value).endswith("…] of 1")


def test_a_value_that_stands_for_more_than_memory_holds() -> None:
    value: object = ("ha",)
    for _ in range(200):
        value = (value, value)
    assert len(format_value(value)) < 100


def test_floats() -> None:
    assert [format_float(value) for value in (0.1 + 0.2, 1e20, 123456789.0)] == [
        "0.3",
        "1e+20",
        "1.23457e+08",
    ]


def test_counts_and_nouns() -> None:
    assert [plural(1, "buffer"), plural(2, "buffer"), plural(1000, "entry")] == [
        "1 buffer",
        "2 buffers",
        "1,000 entries",
    ]


def test_percent() -> None:
    assert [format_percent(13, 100), format_percent(3, 1000), format_percent(0, 5), format_percent(1, 0)] == [
        "13 %",
        "0.3 %",
        "0 %",
        "0 %",
    ]


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0, ""),
        (1e-9, "▏"),
        (0.5, "████"),
        (0.55, "████▍"),
        (1, "████████"),
        (7, "████████"),
        (float("nan"), ""),
    ],
)
def test_bars(fraction: float, text: str) -> None:
    assert bar(fraction) == text
