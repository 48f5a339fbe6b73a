"""Typer, as the command line uses it: cheap to start, help in sections, completion where it is asked for."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Any

from typer.core import TyperCommand, TyperGroup

from ckpttool.values.errors import redact

COMPLETE_VARIABLE = "_CKPTTOOL_COMPLETE"
"""The scripts that shells source set it, and Typer reads it: the shell wants completions."""

_WIDEST_NAME = 30  # columns of an option and its value in a help text; a longer one has a line of its own
_REST = "Output"
_FILES = frozenset("CKPT A B SRC DST FILE MODEL".split())  # metavars of what names a file


def wants_completion(arguments: Sequence[str]) -> bool:
    """Whether this run installs, shows or answers a completion."""
    asked = {"--install-completion", "--show-completion"}
    return COMPLETE_VARIABLE in os.environ or not asked.isdisjoint(arguments)


def words_to_complete() -> list[str]:
    """What is on the line that a shell wants to be completed, behind the name of the program."""
    return os.environ.get("COMP_WORDS", os.environ.get("_TYPER_COMPLETE_ARGS", "")).split()[1:]


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether this run was asked for a document, also where Typer refuses what else was typed."""
    spelled = {"--json", "--format=json"}
    return not spelled.isdisjoint(arguments) or ("--format", "json") in pairwise(arguments)


class _AsTyped:
    """Coercion of what was typed to bool, str or list[str]: it is that already."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return ``value``; what may be repeated and was not given is an empty list."""
        return list(value or ()) if param.multiple else value


class _PlainParameters:
    """Keeps Typer from importing pydantic, which it does since 0.29 to turn a str into a str.

    That takes as long as all the rest of an `inspect`. Other types keep Typer's own coercion, and
    so does every type in a Typer that has no such hook.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, with the plain ones made plain."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
            if annotation in (bool, str, list[str]) and hasattr(parameter, "get_runtime_param"):
                parameter.get_runtime_param = _AsTyped
        return parameters


_HEAD = re.compile(r"^(?:Usage:|\w[\w ]*:$)", re.MULTILINE)
# Of an option, with the values that it takes; of an argument or a command.
_NAME = re.compile(r"^  (-\S*(?: \S+)*?(?=  |$)|\w\S*(?=  ))", re.MULTILINE)
_EXAMPLE = re.compile(r"^    ((?:ckpttool|git) .*)$", re.MULTILINE)


class _PaintedHelp:
    """A help text is in colour where results are."""

    def get_help(self, ctx: Any) -> str:
        """Return the help text."""
        text: str = super().get_help(ctx)  # type: ignore[misc]
        if not sys.stdout.isatty() and os.environ.keys().isdisjoint(("FORCE_COLOR", "CLICOLOR_FORCE")):
            return text
        from ckpttool.render.console import Screen

        if not Screen(sys.stdout).has_colour:
            return text
        ctx.color = True  # also where it was forced, and stdout is no terminal
        first = re.search(r"^\w[\w ]*:$", text, re.MULTILINE)  # what stands before it is prose
        start = first.start() if first is not None else len(text)
        text = text[:start] + _NAME.sub("  \x1b[36m\\1\x1b[0m", text[start:])
        return _HEAD.sub("\x1b[1m\\g<0>\x1b[0m", _EXAMPLE.sub("    \x1b[32m\\1\x1b[0m", text))


class Group(_PaintedHelp, _PlainParameters, TyperGroup):
    """The program itself."""


class Command(_PaintedHelp, _PlainParameters, TyperCommand):
    """A command whose help has its options in sections, and which addresses in the place of files reach bare.

    Nothing is read from one or written to one: no command needs its secrets, and so none can tell them.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command, once it is clear what it is to write."""
        for parameter in self.get_params(ctx):
            typed = ctx.params.get(parameter.name)
            if parameter.metavar in _FILES and isinstance(typed, str):
                ctx.params[parameter.name] = redact(typed, (typed,))
            elif parameter.metavar in _FILES and typed:
                ctx.params[parameter.name] = [redact(path, (path,)) for path in typed]
        if "format" in ctx.params:
            from ckpttool.commands.options import check_output

            check_output(ctx.params)
        return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what was typed; an option whose metavar is in brackets may lack its value, and gets ``*``."""
        parameters = self.get_params(ctx)
        bare = [opt for item in parameters if (item.metavar or "").startswith("[") for opt in item.opts]
        if not set(bare).isdisjoint(args):
            flags = [item for item in parameters if getattr(item, "is_flag", False)]
            alone = {opt for item in flags for opt in (*item.opts, *item.secondary_opts)}
            args = _with_values(args, bare, alone | {"--help", "-h"})
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return ``[OPTIONS] A [B]`` or ``[OPTIONS] A...``, whatever the version of Typer writes there."""
        arguments = [item for item in self.get_params(ctx) if item.param_type_name == "argument"]
        named = [item.metavar + "..." * (item.nargs < 0) for item in arguments]
        pairs = zip(named, arguments, strict=True)
        return ["[OPTIONS]", *(name if item.required else f"[{name}]" for name, item in pairs)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options under the heads that they carry, then those without."""
        found: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                found["Arguments"].append((parameter.metavar, parameter.help))
            elif (record := parameter.get_help_record(ctx)) is not None:
                head = getattr(parameter, "rich_help_panel", None) or _REST
                found.setdefault(head, []).append(record)
        found[_REST] = found.pop(_REST)
        names = [name for records in found.values() for name, _ in records]
        width = max(len(name) for name in names if len(name) <= _WIDEST_NAME)
        for head, records in found.items():
            if records:
                with formatter.section(head):
                    formatter.write_dl([(name.ljust(width), text) for name, text in records], _WIDEST_NAME)


def _with_values(args: Sequence[str], bare: Sequence[str], flags: AbstractSet[str]) -> list[str]:
    """``args`` with a value for each of ``bare``: the next word, unless it is an option, or all else is.

    So ``--values 'hyper*' FILE`` has a glob, and ``--values FILE`` has a file.
    """
    words = 0  # that are no option and no value of one
    takes = False
    for word in args:
        if takes or not word.startswith("-") or word == "-":
            words += not takes
            takes = False
        else:
            whole = len(word) == 2 or (word.startswith("--") and "=" not in word)
            takes = whole and word != "--" and word not in flags and word not in bare
    found = []
    for word, following in zip(args, (*args[1:], "-"), strict=True):
        alone = word in bare and (following.startswith("-") or words < 2)
        found.append(f"{word}=*" if alone else word)
        words -= word in bare and not alone
    return found
