"""Keys that are neither str nor int, from their text and back."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckpttool.conversion.pt.key_literal import parse_key
from ckpttool.values.errors import UnsupportedFeature

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
)
KEYS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=8)


@given(KEYS)
@example("\n\r\t\\ ' \"")
@example(("\\n", b"\n'\"", "\x00\x7f\xa0\u2028\U000e0001", -0.0, 1e300, 1e-7))
def test_a_key_comes_back_from_its_text(key: object) -> None:
    assert repr(parse_key(repr(key))) == repr(key)


@given(st.text(alphabet="()'\"\\bxu0Nan1.5e, -TrueFalsinf\n[]{}", max_size=20))
def test_any_other_text_is_refused(text: str) -> None:
    try:
        found = parse_key(text)
    except UnsupportedFeature:
        return
    # Python reads the same text as the same value, or the text is inf or nan, which are no literals.
    assert repr(found) == repr(eval(text, {"__builtins__": {}, "inf": float("inf"), "nan": float("nan")}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(",
        ")",
        "()()",
        "(1)",
        "(1 2)",
        "(,)",
        "(1,,)",
        "(1, 2,)",
        "1,",
        "1+1",
        "0x1",
        "[1]",
        "{}",
        "a",
        "'a",
        "b'\u00e9'",
        "'\\U00110000'",
        "'\\x4'",
        "f'{1}'",
        "__import__('os')",
        "<tuple 10 items #1>",
        "9" * 5000,
        "(" * 3000 + ")" * 3000,
        "(" * 5000,
    ],
)
def test_what_is_no_literal_of_a_key(text: str) -> None:
    if text.startswith("(" * 3000 + ")"):
        assert parse_key(text[2999:3001]) == ()
        text += ")"
    with pytest.raises(UnsupportedFeature, match="no plain value"):
        parse_key(text)
