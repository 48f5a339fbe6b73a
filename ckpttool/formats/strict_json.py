"""The one JSON parser for files: RFC 8259 without the latitude that lets two parsers disagree.

Refused: keys that occur twice (also when only their escapes differ), ``NaN``, ``Infinity`` and ``-0``,
raw control characters, lone surrogates, bytes that are not UTF-8, anything after the document, and
nesting or sizes beyond ``Limits``. Python's scanner does the work; it is fast and checks the rest.
"""

from __future__ import annotations

import json
from typing import NoReturn

from ckpttool.formats.base import Limits, first_repeated
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint

JSON_SPACE = b" \t\r\n"  # RFC 8259, section 2: ws

# A tensor in a safetensors header of rank 8 takes 14 of `{`, `[` and `,`: 3 open, 11 separate.
_TOKENS_PER_ENTRY = 16


class _Refused(ValueError):
    """A rule of this module that a hook found broken, on its way through the scanner."""


def parse_json(raw: bytes, what: str, limits: Limits, path: str) -> object:
    """The document in ``raw``, called ``what`` in errors.

    Raises:
        MalformedCheckpoint: not JSON, or JSON that two parsers may read in two ways.
        LimitExceeded: longer, with more values, or nested deeper than ``limits`` allow.
    """
    if len(raw) > limits.header_nbytes:
        raise LimitExceeded(f"length of the {what}", limit=limits.header_nbytes, actual=len(raw), path=path)
    # Python needs 20 times the bytes of `[],[],…`: what will be allocated is bounded by counting first.
    tokens = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    most = _TOKENS_PER_ENTRY * limits.entries
    if tokens > most:
        raise LimitExceeded(f"number of values in the {what}", limit=most, actual=tokens, path=path)
    # Decoded UTF-8 holds no surrogates, so only an escape can make one.
    hook = _pairs_of_text if b"\\u" in raw else _pairs
    parse_int = _parse_int if b"-0" in raw else int  # by itself it takes most of the time
    decoder = json.JSONDecoder(object_pairs_hook=hook, parse_int=parse_int, parse_constant=_refuse_constant)
    try:
        return decoder.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedCheckpoint(
            f"the {what} is not UTF-8 (its byte {error.start} is 0x{raw[error.start]:02x})", path=path
        ) from None
    except json.JSONDecodeError as error:
        why = f"{error.msg[:1].lower()}{error.msg[1:]} at its character {error.pos}"
        raise MalformedCheckpoint(f"the {what} is not JSON: {why}", path=path) from None
    except _Refused as error:
        raise MalformedCheckpoint(f"the {what} {error}", path=path) from None
    except RecursionError:
        # The scanner counts levels against the interpreter's limit, which leaves room for hundreds.
        raise LimitExceeded(f"nesting of the {what}", limit=limits.depth, path=path) from None
    except ValueError:
        # All that is left: CPython refuses to convert a decimal of more than 4300 digits.
        raise MalformedCheckpoint(f"the {what} holds an integer of thousands of digits", path=path) from None


def describe_json_type(value: object) -> str:
    """``an array``, ``a string`` … for a value that ``parse_json`` gave."""
    if value is None:
        return "null"
    return TYPE_WORDS.get(type(value), "a number")


TYPE_WORDS = {dict: "an object", list: "an array", str: "a string", bool: "true or false", int: "an integer"}


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object, refusing a key that occurs twice (keys arrive unescaped)."""
    value = dict(pairs)
    if len(value) != len(pairs):
        key, _ = first_repeated(pairs, lambda pair: pair[0])
        raise _Refused(f"has the key {key!r} twice in one object")
    return value


def _pairs_of_text(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """As ``_pairs``, and refuse half of a surrogate pair in a key or a string."""
    for key, value in pairs:
        try:
            key.encode("utf-8")
            if type(value) is str:
                value.encode("utf-8")
        except UnicodeEncodeError:
            raise _Refused(f"holds a lone surrogate in or under the key {key!r}") from None
    return _pairs(pairs)


def _parse_int(text: str) -> int:
    """An integer; safetensors' own parser (serde_json) takes ``-0`` for a float."""
    if text == "-0":
        raise _Refused("holds -0, which is an integer for one parser and none for another")
    return int(text)


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"holds {name}, which JSON does not have")
