"""Source that is made to break whoever parses it: it is counted, and the next file is read as ever."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from ckpttool.kinds.source import child, parsing
from ckpttool.kinds.source.files import MOST_FILE_NBYTES
from tests.support import source_summaries
from tests.support.source_trees import classes_of, reader, write_tree

CLASS = "class C: pass\n"

UNREAD: dict[str, bytes] = {
    "brackets": b"x = " + b"(" * 10_000 + b")" * 10_000,
    "brackets_in_types": b"x: " + b"[" * 10_000,
    "blocks": b"".join(b" " * depth + b"if x:\n" for depth in range(120)),
    "unclosed": b"class C(:\n",
    "nul": b"class C: pass\n\0",
    "not_utf8": b"class C: pass # \xff\n",
    "surrogate": b"x = '\xed\xa0\x80'\n",
    "declared_otherwise": b"# coding: cp1252\nx = '\x80'\n",
    "declared_too_late": b"x = 1\n# coding: latin-1\ny = '\xe9'\n",
    "declared_in_code": b"x = 1 # coding: latin-1\ny = '\xe9'\n",
    "declared_beside_a_mark": b"\xef\xbb\xbf# coding: latin-1\ny = '\xe9'\n",
    "utf_16": "class C: pass".encode("utf-16"),
    "digits": b"x = " + b"1" * 100_000,
}

READ: dict[str, bytes] = {
    "empty": b"",
    "marked": b"\xef\xbb\xbfclass C: pass\n",
    "latin": b"# -*- coding: ISO_8859_1 -*-\nclass C: '\xe9'\n",
    "latin_second": b"#!/usr/bin/python\r\n# vim: set fileencoding=Latin-1 :\r\nclass C: '\xe9'\r\n",
    "declared_unknown": b"# coding: no_such_codec\nclass C: pass\n",
    "declared_utf_7": b"# coding: utf-7\nclass C: pass # +AAoAZQB2AGkAbA-\n",
    "declared_rot_13": b"# coding: rot13\nclass C: pass\n",
    "escape": b"class C: '\\d'\n1 is 1\nassert (1, 2)\n",
    "returns": b"class C: pass\rclass D: pass\r\nclass E: pass\n\x0cclass F: pass",
    "hexadecimal": b"class C: x = 0x" + b"f" * 100_000 + b"\n",
    "infinite": b"class C: x = 1e999, -1e999\n",
    "lone": b"class C: x = '\\ud800', '\\x00', '\\u2028'\n",
    "lines": b"x=1\n" * 50_000 + b"class C: pass\n",
    "long_line": b"x = '" + b"y" * 400_000 + b"'\nclass C: pass\n",
}

EITHER: dict[str, bytes] = {  # deeper than some versions of Python parse, and no deeper than others do
    "minus": b"x = " + b"-" * 100_000 + b"1",
    "attributes": b"x = a" + b".a" * 100_000,
    "additions": b"x = 1" + b"+1" * 100_000,
    "calls": b"x = a" + b"()" * 100_000,
    "lambdas": b"x = " + b"lambda:" * 20_000 + b"0",
    "elifs": b"if x: pass\n" + b"elif x: pass\n" * 5_000,
    "f_strings": b"x = " + b"f'{" * 100 + b"}'" * 100,
    "targets": b"x = " * 100_000 + b"1",
    "nots": b"x = " + b"not " * 90_000 + b"1",
    "decorators": b"@a\n" * 100_000 + b"class C: pass",
    "strings": b"x = " + b"'' " * 150_000,
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_broken_is_counted(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path, {"a.py": UNREAD[name], "b.py": CLASS})
    with reader(tmp_path) as found:
        assert classes_of(found) == {"b": ["C"]}
        assert (found.files, found.unread) == (1, 1)
    assert capfd.readouterr() == ("", "")


def test_what_is_only_odd_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path, {f"{name}.py": data for name, data in READ.items()})
    with reader(tmp_path) as found:
        classes = classes_of(found)
        assert (sorted(classes), found.unread) == (sorted(READ), 0)
    assert classes.pop("empty") == []
    assert classes.pop("returns") == ["C", "D", "E", "F"]
    assert set(map(tuple, classes.values())) == {("C",)}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", EITHER)
def test_what_is_deep_or_long_is_read_or_counted(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert len(EITHER[name]) < MOST_FILE_NBYTES
    write_tree(tmp_path, {"a.py": EITHER[name], "b.py": CLASS})
    with reader(tmp_path) as found:
        assert classes_of(found)["b"] == ["C"]
        assert found.files + found.unread == 2
    assert capfd.readouterr() == ("", "")


def test_a_megabyte_is_too_large_and_half_of_it_is_parsed_in_bounded_memory(tmp_path: Path) -> None:
    write_tree(
        tmp_path, {"a.py": b"x=1\n" * (MOST_FILE_NBYTES // 2), "b.py": b"x=1\n" * (MOST_FILE_NBYTES // 4)}
    )
    with reader(tmp_path) as found:
        assert list(classes_of(found)) == ["b"]
        assert found.find_class("x") == []


def test_what_takes_too_much_memory_takes_no_file_after_it_along(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": CLASS, "b.py": b"", "c.py": CLASS})
    parser = parsing.Parser("tests.support.source_summaries:greedy")
    files = [parsing.Request(str(tmp_path / f"{name}.py"), name, False) for name in "abc"]
    first, second, third = parser.parse(files)
    parser.close()
    assert first.is_final and third.is_final
    assert (second.error, second.is_final) == ("takes too much memory to parse", False)


def test_trees_are_gone_before_the_next_ones_are_there(tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(8)]
    write_tree(tmp_path, {f"{name}.py": b"x=1\n" * 2**15 for name in names})  # 80 MiB each, with its parsing
    parser = parsing.Parser("tests.support.source_summaries:circular")
    answers = parser.parse([parsing.Request(str(tmp_path / f"{name}.py"), name, False) for name in names])
    parser.close()
    assert {answer.error for answer in answers} == {""}


def test_no_file_is_waited_for(tmp_path: Path) -> None:
    write_tree(tmp_path, {"pkg/__init__.py": "", "pkg/b.py": CLASS})
    with reader(tmp_path / "pkg") as found:
        status = found.layout.status("pkg/b.py")
        os.mkfifo(tmp_path / "pkg" / "a.py")  # after it was looked at
        found.layout.status = lambda file: status  # type: ignore[method-assign]
        assert found._read(["pkg/a.py"]) == {"pkg/a.py": None}
        assert found._classes("pkg/a.py", status) == []  # type: ignore[arg-type]
        assert found._read(["pkg/b.py"])["pkg/b.py"] is not None


def test_a_file_that_has_grown_since_it_was_looked_at_is_not_read(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": b"x" * (MOST_FILE_NBYTES + 1)})
    found = child.answer(str(tmp_path / "a.py"), "a", False, lambda *of: {})
    assert found["error"] == f"more than {MOST_FILE_NBYTES} bytes"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x = (\n\n", "has a syntax error on line 1"),
        (b"\0", "cannot be parsed: ValueError"),
        (b"\xff", "cannot be parsed: UnicodeDecodeError"),
    ],
)
def test_the_reason_is_said_in_words(tmp_path: Path, data: bytes, message: str) -> None:
    write_tree(tmp_path, {"a.py": data})
    assert child.answer(str(tmp_path / "a.py"), "a", False, lambda *of: {})["error"] == message


def test_no_codec_is_looked_for_by_a_name_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    import codecs

    asked: list[str] = []
    codecs.register(seen := lambda name: asked.append(name))
    try:
        assert child.decode(b"# coding: evil_codec\nx") == "# coding: evil_codec\nx"
        assert child.decode(b"# coding: latin-1\n\xe9") == "# coding: latin-1\n\xe9"
    finally:
        codecs.unregister(seen)
    assert asked == []


def test_what_a_summary_may_not_hold_is_an_error_of_its_file(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": b""})
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for summary in ({"x": 1 << 100_000}, {"x": deep}):
        assert child.answer(str(tmp_path / "a.py"), "a", False, lambda *of, s=summary: s)["error"]


def test_the_child_has_its_limits(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    write_tree(tmp_path, {"a.py": b""})
    with reader(tmp_path) as found:
        found._parser = parsing.Parser("tests.support.source_summaries:limits")
        summary = found.read("a")
    assert summary is not None
    assert summary["RLIMIT_CORE"] == summary["RLIMIT_FSIZE"] == 0
    assert summary["RLIMIT_AS"] in (512 * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1])
    assert summary["isolated"] and summary["no_site"] and summary["utf8"]
    assert str(tmp_path) not in summary["path"] and "" not in summary["path"]


WORDS = [
    word.encode() for word in "class C: f' ' ( ) { } \\ # coding: latin-1 utf-7 x = 1e9 lambda: @ é".split()
]
WORDS += [b"\n", b" ", b"\t", b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\x0c"]


@hypothesis.given(st.lists(st.sampled_from(WORDS), max_size=40).map(b"".join))
def test_whatever_a_file_holds_is_a_summary_or_a_reason(words: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".py") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.write(words)
        file.flush()
        found = child.answer(file.name, "a", False, source_summaries.scan)
    assert ("summary" in found) != ("error" in found)
