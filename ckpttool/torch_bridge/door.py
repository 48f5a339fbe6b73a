"""The door to what is not ours: code of the user's model, and objects that it holds.

Whatever goes through it may raise anything, ``SystemExit`` included. ``foreign_code`` lets the user's
code run, ``looking_into`` lets ours look at what that code made, and ``ask`` puts one question to one
object. ``is_a`` needs no door: it reads the type, and not what an object says of itself.
"""

from __future__ import annotations

import contextlib
import dis
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeGuard, TypeVar

import torch

from ckpttool.values.errors import CkptToolError, ModelImportFailed, redact

T = TypeVar("T")

_TRACE_FRAMES = 3
_OURS = os.path.dirname(__file__)
_PACKAGE = os.path.dirname(_OURS)
_RAISE = dis.opmap["RAISE_VARARGS"]


def is_a(item: object, kinds: type[T] | tuple[type[T], ...]) -> TypeGuard[T]:
    """``isinstance`` by the true type: no ``__class__`` is asked, which may raise, and lies in a mock."""
    return issubclass(type(item), kinds)


def ask(question: Callable[[], T], otherwise: T) -> T:
    """What a foreign object answers, ``otherwise`` where it raises."""
    try:
        return question()
    except BaseException as error:  # noqa: BLE001  it may raise anything
        pass_on(error)
        return otherwise


def until_it_raises(make: Callable[[], Iterable[T]]) -> Iterator[T]:
    """What a foreign object gives one by one, up to where it raises."""
    try:
        yield from make()
    except BaseException as error:  # noqa: BLE001  it may raise anything
        pass_on(error)


@contextlib.contextmanager
def foreign_code(doing: str) -> Iterator[None]:
    """Run the user's code: stdout to stderr, and whatever it raises into one error.

    Raises:
        ModelImportFailed: the code inside raises anything.
    """
    try:
        with torch._C._EnableTorchFunction(), _stdout_on_stderr():
            yield
    except BaseException as error:
        pass_on(error)
        hint = "try it in Python first; --model-arg key=value passes arguments"
        raise _failed(doing, error, hint) from error


@contextlib.contextmanager
def foreign_streams() -> Iterator[None]:
    """Run the user's code, which prints to stderr; its warnings are not this tool's, and its errors pass."""
    with torch._C._EnableTorchFunction(), _stdout_on_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def looking_into(text: str) -> Iterator[None]:
    """Look at a model that was built, and at its tensors; subclasses have no say in how (__torch_function__).

    Raises:
        ModelImportFailed: something in it raises where torch's own objects do not.
    """
    try:
        with torch._C.DisableTorchFunctionSubclass():
            yield
    except (OSError, MemoryError):  # of the checkpoint's files, and of this machine
        raise
    except BaseException as error:
        pass_on(error)
        where = os.path.dirname(traceback.extract_tb(error.__traceback__)[-1].filename)
        if where.startswith(_PACKAGE) and not where.startswith(_OURS):
            raise  # no other room ever holds an object of the model: this is a bug of ours
        hint = "an object in the model raises when it is looked at"
        raise _failed(f"looking into {text}", error, hint) from error


def _failed(doing: str, error: BaseException, hint: str) -> ModelImportFailed:
    return ModelImportFailed(f"{doing} fails: {what_it_raised(error)}", trace=_trace(error), hint=hint)


def pass_on(error: BaseException) -> None:
    """Raise again what is not foreign: our own errors, and an interrupt from the keyboard.

    That one comes between two instructions; what code raises itself comes out of a ``raise``.
    """
    if isinstance(error, CkptToolError):
        raise error
    if isinstance(error, KeyboardInterrupt):
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is None or trace.tb_frame.f_code.co_code[trace.tb_lasti] != _RAISE:
            raise error


def text_of(error: BaseException) -> str:
    """``str(error)``, which runs code of its class, without the secrets of addresses."""
    return redact(ask(lambda: str(error), ""))


def one_line(error: BaseException, limit: int = 300) -> str:
    """The beginning of what ``error`` says, its line breaks as blanks."""
    return " ".join(text_of(error).split())[:limit]


def what_it_raised(error: BaseException) -> str:
    """``ValueError: too small``."""
    said = one_line(error, 200)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _trace(error: BaseException) -> str:
    """The last frames of the user's code, then where it ended; those of torch_bridge only by themselves."""
    frames = list(traceback.extract_tb(error.__traceback__))
    others = [f for f in frames if not f.filename.startswith(_OURS) and "importlib" not in f.filename]
    frames = others or [f for f in frames if f.filename != __file__ and not f.filename.endswith("model.py")]
    own = [frame for frame in frames if "site-packages" not in frame.filename][-_TRACE_FRAMES:]
    if not own:
        own = frames[-_TRACE_FRAMES:]
    elif frames[-1] is not own[-1]:
        own = [*own[1 - _TRACE_FRAMES :], frames[-1]]
    return "".join(traceback.format_list(own)).rstrip("\n")


@contextlib.contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Send what is printed inside to stderr: by Python, by C code and by child processes."""
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # one of the two is closed: nothing to keep apart
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        yield
