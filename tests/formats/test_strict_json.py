"""JSON of files, held against the standard parser: the same document, or one exact sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.formats.base import Limits
from ckpttool.formats.strict_json import describe_json_type, parse_json
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint


def parse(raw: bytes, limits: Limits | None = None) -> object:
    return parse_json(raw, "thing", limits or Limits(), "a.json")


def refusal(raw: bytes, limits: Limits | None = None) -> Any:
    with pytest.raises(CkptToolError) as caught:
        parse(raw, limits)
    return caught.value


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(documents, st.booleans(), st.sampled_from([None, 1]))
def test_a_document_is_that_of_the_standard_parser(document: Any, escaped: bool, indent: int | None) -> None:
    text = json.dumps(document, ensure_ascii=escaped, indent=indent)
    found = parse(text.encode())
    assert found == document and repr(found) == repr(json.loads(text))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "is not JSON: expecting value at its character 0"),
        (b"{} x", "is not JSON: extra data at its character 3"),
        (b'{"a" 1}', "is not JSON: expecting ':' delimiter at its character 5"),
        (b'{"a":1 "b":2}', "is not JSON: expecting ',' delimiter at its character 7"),
        (b"[01]", "is not JSON: expecting ',' delimiter at its character 2"),
        (b'"\\x"', "is not JSON: invalid \\escape at its character 1"),
        (b'"\xc3\xa9" 1', "is not JSON: extra data at its character 4"),
        (b'["a\x01"]', "is not JSON: invalid control character at at its character 3"),
        (b'{"a":"\xff"}', "is not UTF-8 (its byte 6 is 0xff)"),
        (b"\x80", "is not UTF-8 (its byte 0 is 0x80)"),
        (b'"\xed\xa0\x80"', "is not UTF-8 (its byte 1 is 0xed)"),
        (b'{"a":1,"b":2,"a":3}', "has the key 'a' twice in one object"),
        (b'{"x":{"b":1,"c":2,"c":3,"b":4}}', "has the key 'c' twice in one object"),
        (b'{"a":1,"\\u0061":2}', "has the key 'a' twice in one object"),
        (b'{"\\u00e9":1,"e":{"k":1,"k":2}}', "has the key 'k' twice in one object"),
        (b'{"k":"\\ud800"}', "holds a lone surrogate in or under the key 'k'"),
        (b'{"a":1,"k":"\\udc00","b":2}', "holds a lone surrogate in or under the key 'k'"),
        (b'{"\\ud800":1}', "holds a lone surrogate in or under the key '\\ud800'"),
        (b"[NaN]", "holds NaN, which JSON does not have"),
        (b"-Infinity", "holds -Infinity, which JSON does not have"),
        (b'{"a":Infinity}', "holds Infinity, which JSON does not have"),
        (b"[-0]", "holds -0, which is an integer for one parser and none for another"),
        (b"9" * 4301, "holds an integer of thousands of digits"),
        (b"[-0.5," + b"9" * 4301 + b"]", "holds an integer of thousands of digits"),
    ],
)
def test_what_two_parsers_might_read_in_two_ways_is_refused(raw: bytes, why: str) -> None:
    error = refusal(raw)
    assert type(error) is MalformedCheckpoint
    assert (str(error), error.path) == (f"a.json: the thing {why}", "a.json")
    assert (error.name, error.byte_offset, error.expected, error.actual) == (None, None, None, None)
    assert error.__suppress_context__ or error.__cause__ is None


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a":{"k":1},"b":{"k":1}}', {"a": {"k": 1}, "b": {"k": 1}}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b'{"\\ud83d\\ude00":[1]}', {"\U0001f600": [1]}),
        (b' \t\r\n{"a" : [ ] } \n', {"a": []}),
        (b"[-0.0,-1,-0.5]", [-0.0, -1, -0.5]),
        (b"9" * 4300, int("9" * 4300)),
        (b"[-10]", [-10]),
        (b'["\\u0041",-0.0,10,-7]', ["A", -0.0, 10, -7]),
    ],
)
def test_what_has_one_meaning_has_it(raw: bytes, value: object) -> None:
    assert parse(raw) == value


def test_limits_are_met_at_their_number() -> None:
    raw = b'{"a":[1,2]}'
    assert parse(raw, Limits(header_nbytes=len(raw))) == {"a": [1, 2]}
    error = refusal(raw, Limits(header_nbytes=len(raw) - 1))
    assert (type(error), error.what, error.limit, error.actual, error.path) == (
        LimitExceeded, "length of the thing", len(raw) - 1, len(raw), "a.json",
    )  # fmt: skip
    for item, count in ((b"1", 32), (b"[]", 16), (b"{}", 16)):
        # 16 of `{`, `[` and `,` for each entry.
        raw = b"[" + b",".join([item] * count)
        assert len(json.loads(raw + b"]")) == count and parse(raw + b"]", Limits(entries=2)) is not None
        error = refusal(raw + b",1]", Limits(entries=2))
        assert (type(error), error.what, error.limit, error.actual, error.path) == (
            LimitExceeded, "number of values in the thing", 32, 33, "a.json",
        )  # fmt: skip


@pytest.mark.parametrize("opened", [b"[", b'{"a":'])
def test_what_nests_without_end_is_beyond_a_limit(opened: bytes) -> None:
    error = refusal(opened * 100_000, Limits(depth=77))
    assert (type(error), error.what, error.limit, error.path) == (
        LimitExceeded, "nesting of the thing", 77, "a.json",
    )  # fmt: skip
    levels = b"[" * 200 + b"]" * 200
    assert json.dumps(parse(levels)).encode() == levels


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"), ({}, "an object"), ([], "an array"), ("", "a string"), (True, "true or false"),
        (0, "an integer"), (0.5, "a number"),
    ],
)  # fmt: skip
def test_a_type_has_its_words(value: object, words: str) -> None:
    assert describe_json_type(value) == words
