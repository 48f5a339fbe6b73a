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


@pytest.mark.parametrize(
    "key",
    [
        None, True, False, 0, -7, 10**630, -1.5, 2.0, 1e16, 1e-5, float("inf"), float("-inf"), "", "a b",
        "\n\r\t\\'\"", "\x00\x7f\xff", "\u2028\ud800", "\U0001f600\U0010ffff", b"", b"\x00\xff\n'\\", (),
        (1,), (1, 2), ((),), ((1,), ()), ("a", (b"b", (None, (True, -1.5))), 3), ((((1,),),),),
        ("(", ")", ",", "'"),
    ],
    ids=repr,
)  # fmt: skip
def test_every_form_of_a_key_is_read(key: object) -> None:
    found = parse_key(repr(key))
    assert (type(found), repr(found)) == (type(key), repr(key))


@pytest.mark.parametrize(
    "text",
    [
        "1 ", " 1", "1,2", "(1,2,)", "(1)(2)", "((1,)", "(1,))", "('a' 'b')", "'a''b'", "b'a'b'b'", "'a",
        "a'",
        "'\\q'", "'\\x1'", "'\\u12'", "b'\\xff\xff'", "(1,,2)", "(,1)", ",", "(,)", "None None", "nan nan",
        "1.", ".5", "1e", "--1", "+1", "1_0", "0b1", "inf inf", "NaN", "none", "()1", "1()", "(1, 2)3",
    ],
    ids=repr,
)  # fmt: skip
def test_no_other_form_is_read(text: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        parse_key(text)
    assert caught.value.what == f"a key that is no plain value: {text!r}"
