"""The child that parses: started when it is needed, outlived when it dies, hangs or says too much."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckpttool.kinds.source import parsing, process
from ckpttool.kinds.source.parsing import Answer, Parser, Request
from ckpttool.kinds.source.process import Child
from ckpttool.values.errors import CkptToolError

DEADLY = "tests.support.source_summaries:deadly"


@pytest.fixture
def parser() -> Iterator[Parser]:
    parser = Parser(DEADLY)
    yield parser
    parser.close()
    assert threading.active_count() == 1


def requests(folder: Path, *texts: str) -> list[Request]:
    """A file for each text, and what asks for it."""
    for number, text in enumerate(texts):
        (folder / f"{number}.py").write_text(text)
    return [Request(str(folder / f"{number}.py"), str(number), False) for number in range(len(texts))]


def process_of(answer: Answer) -> int:
    """The process that gave the answer, 0 where none did."""
    import json

    return int(json.loads(answer.summary)["process"]) if answer.summary else 0


def test_no_child_is_started_for_nothing(parser: Parser) -> None:
    assert parser.parse([]) == []
    assert parser._child is None


def test_one_child_serves_many_calls(parser: Parser, tmp_path: Path) -> None:
    files = requests(tmp_path, *["x"] * 50)
    processes = {process_of(answer) for some in (files, files[:1], files) for answer in parser.parse(some)}
    assert len(processes) == 1 and os.getpid() not in processes


@pytest.mark.parametrize("deed", ["dies", "hangs", "talks"])
def test_a_child_that_fails_costs_its_file_alone(
    parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    monkeypatch.setattr(parsing, "_SECONDS_A_FILE", 20.0 if deed != "hangs" else 1.0)
    monkeypatch.setattr(process, "_MOST_ANSWER_NBYTES", 2**19)
    answers = parser.parse(requests(tmp_path, *["x"] * 20, deed, *["x"] * 20))
    first = {process_of(answer) for answer in answers[:20]}
    second = {process_of(answer) for answer in answers[21:]}
    assert len(first) == len(second) == 1 and first != second
    assert not answers[20].summary and not answers[20].is_final
    assert answers[20].error == "cannot be parsed: it takes too long, or Python crashes"
    assert len({process_of(answer) for answer in parser.parse(requests(tmp_path, "x"))} | second) == 1


def test_a_child_that_was_killed_between_two_calls_is_replaced(parser: Parser, tmp_path: Path) -> None:
    files = requests(tmp_path, "x", "x")
    before = process_of(parser.parse(files)[0])
    os.kill(before, signal.SIGKILL)
    answers = parser.parse(files)
    assert [bool(answer.summary) for answer in answers] == [False, True]
    assert process_of(answers[1]) != before


def test_what_kills_every_child_gets_no_more_of_them(
    parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = parser.parse(requests(tmp_path, *["dies"] * 8, "x"))
    assert [answer.error.partition(":")[0] for answer in answers] == [
        *["cannot be parsed"] * 5,
        *["is not parsed"] * 4,
    ]


def test_what_takes_long_in_all_ends(parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "_MOST_MS", 0.001)
    answers = parser.parse(requests(tmp_path, *["x"] * 3))
    assert [bool(answer.summary) for answer in answers] == [True, False, False]


def test_an_interrupt_leaves_no_answers_for_the_next_request(
    parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = requests(tmp_path, "x", "x\ny", "talks")
    real = Child.answer

    def interrupted(child: Child, seconds: float) -> dict[str, Any] | None:
        if not next(answers):
            raise KeyboardInterrupt
        return real(child, seconds)

    monkeypatch.setattr(Child, "answer", interrupted)
    for before in (0, 1, 2):  # as it starts, before the first answer, before the second
        answers = iter([*[1] * before, 0])
        with pytest.raises(KeyboardInterrupt):
            parser.parse(files)
    monkeypatch.undo()
    assert parser.parse(files[2:])[0].size == len("talks")


@pytest.mark.parametrize("executable", ["/no/such/python", "", "/bin/false"])
def test_where_python_cannot_be_started_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(CkptToolError, match=r"Python (cannot be|was) started"):
        Parser(DEADLY).parse(requests(tmp_path, "x"))


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    script = f"""
import os
from ckpttool.kinds.source.parsing import Parser, Request
parser = Parser({DEADLY!r})
assert parser.parse([Request(*{tuple(requests(tmp_path, "x")[0])!r})])[0].summary
os._exit(7)  # as if it had been killed: nothing is closed
"""
    # Its stderr is the child's as well, here where errors are shown, and ends with the last of both.
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (7, b"")


def test_environment_and_folder_decide_nothing_about_the_child(
    parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ast.py", "json.py", "sitecustomize.py", "usercustomize.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'WAS_RUN')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "ast.py"))
    assert process_of(parser.parse(requests(tmp_path, "x"))[0])
    assert not (tmp_path / "WAS_RUN").exists()
