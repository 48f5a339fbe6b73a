"""The command line: what can be typed, and the one place where an error becomes a sentence.

Typer parses and hands back the command with its options bound; the command runs here, outside of
Typer's own handling of interrupts and pipes. Exit status: 0, 1 for what was asked to be found
(findings, differences), 2 for what could not be done, 130 interrupted, 141 closed pipe.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer

from ckpttool.commands.parser import Command, Group, wants_completion, wants_json, words_to_complete
from ckpttool.values.errors import TYPED, CkptToolError, ModelImportFailed, describe, path_of, redact

COMMANDS = (
    ("inspect", "Show what is in a checkpoint: every tensor with its kind, and on what evidence."),
    ("get", "Print one value or one tensor, or a slice of it; or write it as a file."),
    ("diff", "Compare two checkpoints: what changed, where, and by how much."),
    ("convert", "Convert to another format: bytes are copied, whatever is dropped is listed."),
    ("verify", "Load a checkpoint into its model for real, and tell whether the loaded model is right."),
    ("git-textconv", "Print a checkpoint as stable text, for `git diff` and `git log -p`."),
    ("lint", "Find traps of Parameter and Buffer in a model, and prove what each tensor is."),
    ("schema", "Print the JSON Schema of a document that --json writes."),
)
"""Every command with one line of help. Its module in ``ckpttool.commands`` has ``command``, which returns the
exit status, and whose options carry the head that the help has them under; and ``EXAMPLES`` that run, with
``# status N`` behind one that does not end with 0."""

EXAMPLES = ("ckpttool inspect decoder_training.pt", "ckpttool verify swin.pt --model swin.py:build")

_WIDEST_HELP = 120  # columns; a longer line is hard to read

_Bound = Callable[[], int]


_REPORT = "internal error, please report"
_INTERRUPTED = 130  # 128 + SIGINT, as a shell has it
_CLOSED_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; every error ends here as one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    TYPED[:] = [argument for argument in arguments if "://" in argument]
    _keep_streams_writable()
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        return _close_pipe()
    except SystemExit as error:
        # How Typer leaves when it has completed something, and when its help cannot be written.
        return int(error.code or 0) if wants_completion(arguments) else _close_pipe()
    except KeyboardInterrupt:
        failure = _Failure("interrupted", status=_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the one boundary: no traceback for any input
        failure = _describe(error, arguments)
    return _fail(failure, as_json=wants_json(arguments))


class _Failure(NamedTuple):
    """What is said of a command that could not do what was asked.

    ``trace`` is of the user's own code, if that is what failed; the traceback of an unexpected ``error``
    comes where it is asked for.
    """

    text: str
    error: BaseException | None = None
    hint: str | None = None
    path: str | None = None
    trace: str = ""
    status: int = 2


def _describe(error: Exception, arguments: Sequence[str]) -> _Failure:
    if isinstance(error, (CkptToolError, OSError)):
        trace = error.trace if isinstance(error, ModelImportFailed) else ""
        hint = error.hint if isinstance(error, CkptToolError) else None
        return _Failure(f"error: {describe(error)}", hint=hint, path=path_of(error), trace=trace)
    if isinstance(error, RecursionError):
        return _Failure(f"{_REPORT}: nesting too deep", error)
    if isinstance(error, MemoryError):
        return _Failure("error: out of memory", error)
    if (usage := _usage_text(error)) is not None:
        named = _chosen(arguments)
        hint = f"ckpttool {named} --help" if named in dict(COMMANDS) else "ckpttool --help"
        return _Failure(f"error: {usage}", hint=hint)
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        hint = "pip install torch; only a model and a cast to float8 need it"
        return _Failure("error: torch is not installed, and this needs it", hint=hint)
    return _Failure(f"{_REPORT}: {type(error).__name__}: {_safe(str(error), 1000)}", error)


def entry() -> None:
    """Run as the console script."""
    # A header becomes a million small objects and no cycles; looking for them takes a third of the time.
    # 20,000 tensors stay below this: one pass over what they became would take 40 ms.
    gc.set_threshold(1_000_000, 20, 20)
    status = main()
    # Python looks through all that is left for cycles before it ends: a fifth of a short command's time. What
    # a model's own code may wait for in a __del__ is left to it.
    if "torch" not in sys.modules:
        gc.freeze()
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    completes = wants_completion(arguments)
    if completes:
        # Typer wraps what it says of a word, and a shell offers the rest as a word.
        os.environ["COLUMNS"] = "10000"
    chosen = _chosen(words_to_complete() if completes else arguments)
    if chosen is not None and _is_path(chosen) and not completes:
        arguments, chosen = ["inspect", *arguments], "inspect"
    # A command that comes first needs no list of the others, which takes Typer as long as the command itself.
    alone = not completes and chosen in dict(COMMANDS) and arguments[0] == chosen
    app = _build_app(chosen, alone=alone, completes=completes or chosen is None)
    # Not standalone: errors of usage are raised, and what a command returns comes back.
    outcome: object = app(arguments or ["--help"], prog_name="ckpttool", standalone_mode=False)
    if callable(outcome):
        outcome = outcome()
    status = outcome if isinstance(outcome, int) else 0
    if not arguments:
        return 2  # the help was not asked for: a script whose command came out empty must not go on
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    return status


def _chosen(arguments: Sequence[str]) -> str | None:
    """The command that is named: the options before it take no values."""
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _is_path(text: str) -> bool:
    """Whether a file stands where a command is expected: there is one of the name, or no command has such."""
    return text not in dict(COMMANDS) and (
        os.path.lexists(text.replace("\0", "")) or not {".", "/"}.isdisjoint(text)
    )


def _build_app(chosen: str | None, *, alone: bool, completes: bool) -> typer.Typer:
    app = typer.Typer(
        cls=Group,
        add_completion=completes,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _WIDEST_HELP},
    )
    app.callback(epilog=_format_examples(EXAMPLES))(_top)
    for name, summary in COMMANDS:
        # Only the command that runs is imported; the others are here for the list of commands.
        if name == chosen:
            module = import_module(f"ckpttool.commands.{name.replace('-', '_')}")
            epilog = _format_examples(module.EXAMPLES)
            app.command(name, cls=Command, short_help=summary, epilog=epilog)(_deferred(module.command))
        elif not alone:
            app.command(name, short_help=summary)(_not_chosen)
    return app


def _format_examples(examples: Sequence[str]) -> str:
    # \b: paragraphs that stay as they are.
    return "\b\nExamples, in the folder that `make demo` writes:\n" + "\n".join(
        f"  {text}" for text in examples
    )


def _deferred(function: Callable[..., int]) -> Callable[..., _Bound]:
    """A function with the same options that returns the call instead of making it."""

    @functools.wraps(function)
    def bind(**options: Any) -> _Bound:
        return functools.partial(function, **options)

    return bind


def _not_chosen() -> int:
    return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        from ckpttool import __version__

        typer.echo(f"ckpttool {__version__}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
    no_pager: Annotated[
        bool, typer.Option("--no-pager", help="Print long output as it is, in no pager.")
    ] = False,
) -> None:
    """Inspect, diff, convert and verify PyTorch checkpoints without running what is in them."""
    if no_pager:
        os.environ["CKPTTOOL_PAGER"] = ""


def _usage_text(error: Exception) -> str | None:
    """What Typer says about wrong usage, None for any other error.

    Its exceptions have no public base class in every version that is supported; what they share
    is ``exit_code`` 2 and ``format_message``.
    """
    format_message = getattr(error, "format_message", None)
    if format_message is None or getattr(error, "exit_code", None) != 2:
        return None
    text = _safe(" ".join(redact(str(format_message())).split()))
    return text[:1].lower() + text[1:].removesuffix(".")


def _fail(failure: _Failure, *, as_json: bool) -> int:
    """Say one line, a hint and what else is known on stderr; with ``as_json`` also a document on stdout."""
    hint = _safe(failure.hint, 1000) if failure.hint else None
    lines = [failure.text, *map(_safe, failure.trace.splitlines())]
    if hint:
        lines.append(f"hint:  {hint}")
    if failure.error is not None and os.environ.get("CKPTTOOL_TRACEBACK") == "1":
        import traceback

        shown = redact("".join(traceback.format_exception(failure.error)))
        lines += map(_safe, shown.rstrip().split("\n"))
    try:
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
        if as_json:
            from ckpttool.render.views import write_error

            text = failure.text.removeprefix("error: ")
            write_error(sys.stdout, text, hint=hint, path=failure.path, status=failure.status)
            sys.stdout.flush()
    except BrokenPipeError:
        return _close_pipe()
    except OSError:  # stdout may be what failed: a full disk
        pass
    return failure.status


def _keep_streams_writable() -> None:
    """Let a stream that cannot encode a character write it escaped."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _safe(text: str, limit: int | None = None) -> str:
    """See ``values.words.safe``, which only an error needs; and no secrets of addresses."""
    from ckpttool.values.words import safe

    return safe(redact(text), limit)


def _close_pipe() -> int:
    # The reader is gone. What is still buffered must go nowhere, or the interpreter complains at exit.
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(devnull, stream.fileno())
    os.close(devnull)
    return _CLOSED_PIPE
