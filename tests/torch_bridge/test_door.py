"""The door to the user's code: where what it prints goes, and what becomes of each thing that it raises."""

from __future__ import annotations

import errno
import importlib.util
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpttool.torch_bridge import door
from ckpttool.torch_bridge.door import (
    ask,
    foreign_code,
    foreign_streams,
    is_a,
    looking_into,
    one_line,
    text_of,
    until_it_raises,
    what_it_raised,
)
from ckpttool.torch_bridge.reference import Registered
from ckpttool.values.checkpoint import Kind
from ckpttool.values.errors import CkptToolError, ModelImportFailed
from ckpttool.values.words import plural


def say(text: str) -> None:
    """By Python, and below it."""
    print(f"{text} by Python", flush=True)
    os.write(1, f"{text} below\n".encode())


@pytest.mark.parametrize("door_of", [lambda: foreign_code("x"), foreign_streams], ids=["code", "streams"])
def test_what_is_printed_inside_goes_to_stderr_and_nothing_stays_open(
    door_of: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    say("before")
    before = sorted(os.listdir("/proc/self/fd"))
    with door_of():
        say("inside")
        with door_of():
            say("deeper")
        say("inside again")
    assert sorted(os.listdir("/proc/self/fd")) == before
    say("after")
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ["after below", "after by Python", "before below", "before by Python"]
    words = ["deeper", "inside", "inside again"]
    assert sorted(err.splitlines()) == sorted(
        f"{word} {how}" for word in words for how in ("below", "by Python")
    )


def test_streams_come_back_when_the_code_raises(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), foreign_streams():
        raise ValueError("no")
    say("after")
    assert capfd.readouterr().out.count("after") == 2


@pytest.mark.parametrize("function", ["dup", "dup2"])
def test_a_closed_stream_leaves_nothing_to_keep_apart(
    function: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(*_: int) -> int:
        raise OSError(errno.EBADF, "closed")

    before = sorted(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(door.os, function, closed)
        with foreign_streams():
            print("inside")
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert capsys.readouterr() == ("", "inside\n")


def test_warnings_of_the_user_s_code_are_not_ours() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with foreign_streams():
            warnings.warn("theirs", stacklevel=1)
        warnings.warn("ours", stacklevel=1)
    assert [str(item.message) for item in heard] == ["ours"]


class Loud(torch.Tensor):
    """A tensor whose class has a say in everything."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return "theirs"


def test_subclasses_have_a_say_in_the_user_s_code_and_none_in_ours() -> None:
    tensor: Any = torch.ones(2).as_subclass(Loud)
    with looking_into("m"):
        assert tensor.numel() == 2
        with foreign_code("x"):
            assert tensor.numel() == "theirs"
        with foreign_streams():
            assert tensor.numel() == "theirs"
        assert tensor.numel() == 2


# ------------------------------------------------------------------------------------------ what is raised


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot say")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no\n  weights"), "ValueError: no weights"),
        (ValueError(), "ValueError"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt("mine"), "KeyboardInterrupt: mine"),
        (Silent("x"), "Silent"),
        (OSError(2, "nothing"), "OSError: [Errno 2] nothing"),
        (RuntimeError("x" * 201), f"RuntimeError: {'x' * 200}"),
        (RuntimeError("at https://user:secret@host/a?key=1 b"), "RuntimeError: at https://host/a b"),
    ],
)
def test_whatever_the_user_s_code_raises_is_one_error(error: BaseException, said: str) -> None:
    if isinstance(error, OSError):
        said = f"FileNotFoundError: {said.partition(' ')[2]}"
    with pytest.raises(ModelImportFailed) as caught, foreign_code("building m"):
        raise error
    assert caught.value.what == f"building m fails: {said}"
    assert caught.value.hint == "try it in Python first; --model-arg key=value passes arguments"
    assert caught.value.__cause__ is error
    assert what_it_raised(error) == said


def test_our_own_errors_pass_every_door() -> None:
    ours = CkptToolError("ours")
    for through in (foreign_code("x"), foreign_streams(), looking_into("m")):
        with pytest.raises(CkptToolError) as caught, through:
            raise ours
        assert caught.value is ours

    def question() -> int:
        raise ours

    for make in (lambda: ask(question, 3), lambda: list(until_it_raises(lambda: iter([question()])))):
        with pytest.raises(CkptToolError):
            make()


def test_an_interrupt_that_nobody_raised_passes() -> None:
    interrupt = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        door.pass_on(interrupt)
    assert caught.value is interrupt
    door.pass_on(ValueError())


def test_what_is_said_is_one_line_of_so_many_characters() -> None:
    for length in (299, 300, 301):
        assert one_line(ValueError("x" * length)) == "x" * min(length, 300)
    assert one_line(ValueError("a\n\tb  c"), 4) == "a b "
    assert text_of(ValueError("a\nb")) == "a\nb"
    assert text_of(Silent()) == ""


def test_a_question_has_an_answer_or_another() -> None:
    def raises() -> int:
        raise SystemExit

    assert (ask(lambda: 1, 2), ask(raises, 2)) == (1, 2)

    def some() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError

    assert list(until_it_raises(some)) == [1, 2]
    assert list(until_it_raises(lambda: [3, 4])) == [3, 4]
    assert list(until_it_raises(lambda: iter([raises()]))) == []


def test_the_true_type_is_what_counts() -> None:
    class Lies:
        @property
        def __class__(self) -> Any:  # type: ignore[override]
            return torch.Tensor

    lies: Any = Lies()
    assert isinstance(lies, torch.Tensor) and not is_a(lies, torch.Tensor)
    assert is_a(lies, (int, Lies)) and is_a(True, int) and not is_a(1, (str, bool))


@pytest.mark.parametrize("error", [OSError("gone"), MemoryError()])
def test_of_the_machine_and_of_files_nobody_else_is_blamed(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, looking_into("m"):
        raise error
    assert caught.value is error


def test_what_raises_where_a_model_is_looked_at_is_the_model_s() -> None:
    with pytest.raises(ModelImportFailed) as caught, looking_into("net.py:build"):
        raise ZeroDivisionError("theirs")
    assert caught.value.what == "looking into net.py:build fails: ZeroDivisionError: theirs"
    assert caught.value.hint == "an object in the model raises when it is looked at"
    # In the room with torch, where objects of the model are held.
    with pytest.raises(ModelImportFailed, match="looking into m fails: ValueError: the slot x is empty"):  # noqa: SIM117
        with looking_into("m"):
            _ = Registered("", "x", Kind.PARAMETER, None).tensor
    # In another room of ours, which never holds one.
    with pytest.raises(AttributeError), looking_into("m"):
        plural("many", "thing")  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------- where it was raised


def imported(folder: Path, name: str, code: str) -> Any:
    path = folder / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHAIN = """
import torch
def a(depth, last):
    b(depth, last)
def b(depth, last):
    c(depth, last) if depth else last()
def c(depth, last):
    d(depth, last)
def d(depth, last):
    last()
def fails():
    raise ValueError('here')
"""


def traced(call: Any) -> list[str]:
    """Names of the functions in the trace, the outermost first."""
    with pytest.raises(ModelImportFailed) as caught, foreign_code("x"):
        call()
    assert not caught.value.trace.endswith("\n")
    return [
        line.rpartition(" in ")[2] for line in caught.value.trace.splitlines() if line.startswith("  File")
    ]


def test_a_trace_has_the_last_three_frames_of_the_user_and_where_it_ended(tmp_path: Path) -> None:
    chain = imported(tmp_path, "chain", CHAIN)
    library = imported(tmp_path / "site-packages", "library", CHAIN.replace("fails", "breaks"))
    assert traced(lambda: chain.a(1, chain.fails))[-3:] == ["c", "d", "fails"]
    assert traced(lambda: chain.a(0, chain.fails))[-3:] == ["a", "b", "fails"]
    assert len(traced(lambda: chain.a(1, chain.fails))) == 3
    # Where a library raises, two frames of the user's own lead to its last one.
    assert traced(lambda: chain.a(1, library.breaks)) == ["c", "d", "breaks"]
    assert traced(lambda: chain.a(1, lambda: library.a(1, library.breaks))) == ["d", "<lambda>", "breaks"]
    assert traced(lambda: chain.fails())[-1] == "fails"


def test_without_a_frame_of_the_user_the_library_s_are_shown(tmp_path: Path) -> None:
    library = imported(tmp_path / "site-packages", "library", CHAIN)
    for depth, names in ((0, ["a", "b", "fails"]), (1, ["c", "d", "fails"])):
        with pytest.raises(ValueError, match="here") as caught:
            library.a(depth, library.fails)
        below = caught.value.with_traceback(caught.tb.tb_next)
        lines = door._trace(below).splitlines()
        assert [line.rpartition(" in ")[2] for line in lines if line.startswith("  File")] == names


def test_frames_of_imports_and_of_this_room_are_left_out(tmp_path: Path) -> None:
    def load() -> None:
        imported(tmp_path, "broken", "def inner():\n    raise ValueError('no')\ninner()\n")

    assert traced(load)[-3:] == ["imported", "<module>", "inner"]

    def look() -> None:
        _ = Registered("", "x", Kind.PARAMETER, None).tensor

    assert traced(look)[-1] == "look"


def test_an_error_of_this_room_alone_is_traced_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_OURS", os.path.commonpath([str(Path(__file__).parents[2]), door.__file__]))
    names = traced(lambda: Registered("", "x", Kind.PARAMETER, None).tensor)
    assert names == ["traced", "<lambda>", "tensor"]
