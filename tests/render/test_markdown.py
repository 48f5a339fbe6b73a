"""Markdown: tables that a parser of Markdown reads back, and names that mean nothing but themselves."""

from __future__ import annotations

import re
from html import unescape
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ckpttool.render.markdown import WIDTH, code, escape, to_markdown
from ckpttool.render.tables import Cell, Column, Line, Span, iter_table
from ckpttool.values.words import safe

COLUMNS = (Column("name", floor=20), Column("note"), Column("size", right=True))
HOSTILE = [
    "a|b",
    "a\\|b",
    "\\",
    "a`b",
    "``",
    "` |",
    " a ",
    "<img src=x onerror=alert(1)>",
    "<!-- ",
    "</code></details>",
    "[x](javascript:alert(1))",
    "![x](http://evil/x.png)",
    "https://evil.example/x",
    "www.evil.example",
    "@octocat",
    "me@evil.example",
    "#12",
    "&lt;b&gt;",
    "&#x41;",
    "**bold** _it_ __b__ ~~s~~",
    "# head",
    "- item",
    "1. item",
    "===",
    "---",
    "> quote",
    "    code",
    "```",
    ":smile:",
    "$x$",
    "| --- |",
    "[x]: http://evil",
    safe("two\nlines"),
]
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def drawn(name: str, note: str) -> list[Line]:
    return list(iter_table(COLUMNS, [(Cell(name, "", " ×2"), Cell(note or "-"), Cell("1 B"))], WIDTH))


def walked(tokens: list[Token]) -> list[Token]:
    return [inner for token in tokens for inner in (token, *walked(token.children or []))]


def cells(text: str) -> list[str]:
    """The text of each cell of the body, as a reader sees it."""
    found = []
    tokens = PARSER.parse(text)
    for before, token in pairwise(tokens):
        if before.type == "td_open":
            inline = [
                part for part in token.children or [] if part.type in ("text", "code_inline", "text_special")
            ]
            found.append("".join(part.content for part in inline))
    return found


def harmless(text: str) -> None:
    allowed = {"inline", "text", "text_special", "code_inline", "html_inline", "hardbreak", "softbreak"}
    allowed |= {f"{name}_{end}" for name in ("paragraph", "strong") for end in ("open", "close")}
    allowed |= {
        f"{name}_{end}" for name in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")
    }
    for token in walked(PARSER.parse(text)):
        assert token.type in allowed, (token.type, text)
        if token.type == "html_inline":
            assert token.content in ("<!-- -->", "<code>", "</code>")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_cell_is_read_back_as_it_is_and_makes_nothing(name: str) -> None:
    text = to_markdown(drawn(name, name))
    harmless(text)
    assert cells(text) == [f"{name} ×2", name.strip(), "1 B"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_line_of_text_makes_nothing(name: str) -> None:
    text = to_markdown([[Span("  "), Span(name, "title")], [Span(name), Span(" and "), Span(name)], []])
    harmless(text)
    shown = "".join(token.content for token in walked(PARSER.parse(text)) if token.type.startswith("text"))
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", f"{name}{name}and{name}")


@given(st.text(max_size=12).map(safe), st.text("`|\\<>[]()!*_~#@:&$-=+.w1 \t", max_size=12).map(safe))
def test_no_text_makes_anything(name: str, note: str) -> None:
    harmless(to_markdown([*drawn(name or "x", note), [], [Span(note)], [Span(name)]]))


def test_what_a_site_looks_for_is_parted() -> None:
    """GitHub's own filters run on the text of the page: mentions, references, links, emoji, formulas."""
    sought = re.compile(r"@\w|(?<!&)#\d|://|www\.|:\w+:|\$\w", re.IGNORECASE)
    for name in HOSTILE:
        for part in re.sub(r"<code>.*?</code>|`[^`]*`", "", escape(name)).split("<!-- -->"):
            assert not sought.search(unescape(part).replace("\\", "")), name
        assert code(name).startswith(("`", "<code>"))


def test_it_fits_a_comment_and_counts_what_it_leaves_out() -> None:
    rows = [(Cell(f"layer.{number}.{'x' * 150}"), Cell("note"), Cell("1 B")) for number in range(5000)]
    text = to_markdown([[Span("title", "title")], [], *iter_table(COLUMNS, rows, WIDTH), [], [Span("end")]])
    assert len(text) < 65_536 and text.endswith("\n\nend\n")
    left = re.search(r"… ([\d,]+) more rows", text)
    assert left is not None and text.count("`layer.") + int(left[1].replace(",", "")) == 5000
    assert "<details><summary>5,000 rows</summary>\n\n| name" in text and "\n\n</details>" in text
    assert len(to_markdown([[Span("y" * 10**6)]])) < 65_536


def test_a_short_table_is_open() -> None:
    assert to_markdown(drawn("a.b", "n")) == (
        "| name | note | size |\n| --- | --- | ---: |\n| `a.b` ×2 | n | 1 B |\n"
    )
