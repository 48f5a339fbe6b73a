"""The text of a mapping key that is neither str nor int -> its value.

The text may come from a file (the header of a safetensors that carries it): nothing evaluates it, and
Python's compiler never sees it.
"""

from __future__ import annotations

import re
from codecs import escape_decode
from typing import NoReturn

from ckpttool.values.checkpoint import Plain
from ckpttool.values.errors import UnsupportedFeature

_MAX_KEY = 4096  # characters
_SHOWN = 60
# What repr() writes of None, bool, int, float, str, bytes and tuples of them.
_TOKEN = re.compile(
    r"(?P<open>\()|(?P<close>\))|(?P<comma>, ?)|(?P<word>None|True|False)"
    r"|(?P<number>-?(?:\d{1,640}(?:\.\d+)?(?:e[+-]?\d+)?|inf|nan))"
    r"|(?P<bytes>b(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"))"
    r"|(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
)
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|.)")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
_WORDS = {"None": None, "True": True, "False": False}


def parse_key(text: str) -> Plain:
    """The float, bool, None, bytes or tuple that a key's text is the literal of.

    Raises:
        UnsupportedFeature: it is none of these.
    """
    try:
        return _parse(text) if len(text) <= _MAX_KEY else _fail()
    except ValueError:
        raise UnsupportedFeature(
            f"a key that is no plain value: {text[:_SHOWN]!r}", hint="--drop GLOB leaves it out"
        ) from None


def _parse(text: str) -> Plain:
    """One value, with the tuples that are open on a stack.

    Raises:
        ValueError: anything else.
    """
    stack: list[list[Plain]] = [[]]
    commas = [0]
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            _fail()
        position, token, kind = match.end(), match.group(), match.lastgroup
        if kind == "open":
            stack.append([])
            commas.append(0)
        elif kind == "close":
            items, count = stack.pop(), commas.pop()
            # (a,) has a comma for each item, and a longer tuple one less.
            if not stack or count != (1 if len(items) == 1 else max(len(items) - 1, 0)):
                _fail()
            stack[-1].append(tuple(items))
        elif kind == "comma":
            commas[-1] += 1
            if commas[-1] != len(stack[-1]):
                _fail()
        else:
            stack[-1].append(_scalar(token, kind))
        if len(stack[-1]) > commas[-1] + 1:
            _fail()
    if len(stack) != 1 or len(stack[0]) != 1 or commas != [0]:
        _fail()
    return stack[0][0]


def _scalar(token: str, kind: str | None) -> Plain:
    if kind == "word":
        return _WORDS[token]
    if kind == "number":
        return int(token) if token.lstrip("-").isdigit() else float(token)
    if kind == "bytes":
        return escape_decode(token[2:-1].encode("ascii"))[0]
    return _ESCAPE.sub(_unescape, token[1:-1])


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    if len(code) > 1:
        return chr(int(code[1:], 16))  # ValueError beyond U+10FFFF
    if code not in _LETTERS:
        _fail()
    return _LETTERS[code]


def _fail() -> NoReturn:
    raise ValueError("not the literal of a key")
