"""``--model M`` -> a live ``nn.Module``: the one door through which foreign code runs.

``M`` is ``package.module:factory``, ``path/to/file.py:factory`` or ``hf`` (config.json beside the
checkpoint). The user named it, so whatever it does is theirs: anything it raises becomes one
``ModelImportFailed`` with the tail of their own traceback, and what it prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from ckpttool.errors import ModelImportFailed

_TRACE_LINES = 8


class ModelSource(NamedTuple):
    """A factory that was imported, with its arguments; ``build`` may be called again and again."""

    text: str  # as the user wrote it
    factory: Callable[..., Any]
    arguments: dict[str, Any]

    def build(self, *, device: str = "cpu", seed: int = 0) -> nn.Module:
        """Call the factory under ``torch.device(device)`` with torch's generators seeded.

        Raises:
            ModelImportFailed: it raises, or returns something that is not a module.
        """
        with (
            foreign_code(f"building {self.text} on {device}", self.text),
            seeded(seed),
            torch.device(device),
        ):
            built = self.factory(**self.arguments)
        if not isinstance(built, nn.Module):
            raise ModelImportFailed(
                f"{self.text} gives a {type(built).__name__}, not an nn.Module",
                hint="name a class or function that returns a module: --model FILE.py:build",
            )
        return built

    def build_light(self) -> tuple[nn.Module, str]:
        """The module on ``meta`` (no memory), or on CPU where its constructor needs values; and why."""
        try:
            return self.build(device="meta"), ""
        except ModelImportFailed as error:
            module = self.build(device="cpu")  # raises for good if this fails as well
            return module, f"built on cpu: its constructor does not run on meta ({error.what})"


def import_model(
    text: str, arguments: Sequence[str] = (), *, checkpoint_path: str | None = None
) -> ModelSource:
    """Import what ``--model`` names; ``arguments`` are ``key=value`` with JSON values, else strings.

    ``checkpoint_path`` is where ``hf`` looks for config.json.

    Raises:
        ModelImportFailed: no such file, module or factory, or the import itself fails.
    """
    parsed = parse_arguments(arguments)
    if text == "hf":
        return ModelSource(text, _hf_factory(checkpoint_path), parsed)
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise ModelImportFailed(
            f"--model {text} names no factory",
            hint="write package.module:factory, path/to/file.py:factory, or hf",
        )
    with foreign_code(f"importing {where}", text):
        module = _import_file(where) if where.endswith(".py") else _import_module(where)
    factory: Any = module
    for part in name.split("."):
        if not hasattr(factory, part):
            public = sorted(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
            raise ModelImportFailed(
                f"{where} has no {name}", hint=f"it has: {', '.join(public[:12])}" if public else None
            )
        factory = getattr(factory, part)
    if isinstance(factory, nn.Module):
        raise ModelImportFailed(
            f"{text} is a module that exists already, and it must be built anew more than once",
            hint="name the function or class that makes it",
        )
    if not callable(factory):
        raise ModelImportFailed(f"{text} is a {type(factory).__name__}, not something to call")
    return ModelSource(text, factory, parsed)


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """``["depth=2", "name=tiny"]`` -> ``{"depth": 2, "name": "tiny"}``.

    Raises:
        ModelImportFailed: an argument without ``=``.
    """
    parsed: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key.isidentifier():
            raise ModelImportFailed(f"--model-arg {argument} is not key=value")
        try:
            parsed[key] = json.loads(value)
        except ValueError:
            parsed[key] = value
    return parsed


def _import_file(path: str) -> Any:
    """Import a Python file under its own name, with its folder importable as for ``python FILE``."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such file: {path}")
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    folder = os.path.dirname(os.path.abspath(path))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of the file look it up
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> Any:
    """Import a module; the current folder counts, as it does for ``python -m``."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _hf_factory(checkpoint_path: str | None) -> Callable[..., Any]:
    """The architecture that config.json names, through ``transformers``; never a download."""
    if checkpoint_path is None:
        raise ModelImportFailed("--model hf needs a checkpoint: its config.json is looked for beside it")
    folder = checkpoint_path if os.path.isdir(checkpoint_path) else os.path.dirname(checkpoint_path) or "."
    config_path = os.path.join(folder, "config.json")
    if not os.path.isfile(config_path):
        raise ModelImportFailed(
            "--model hf needs a config.json beside the checkpoint",
            path=folder,
            hint="or name a factory yourself",
        )
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise ModelImportFailed("--model hf needs transformers", hint="pip install 'ckpttool[hf]'") from None

    def build(**arguments: Any) -> Any:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **arguments)
        for name in getattr(config, "architectures", None) or ():
            architecture = getattr(transformers, name, None)
            if architecture is not None:
                return architecture(config)
        return transformers.AutoModel.from_config(config)

    return build


@contextlib.contextmanager
def foreign_code(doing: str, text: str) -> Iterator[None]:
    """Run the user's code: stdout to stderr, and whatever it raises into one error.

    Raises:
        ModelImportFailed: the code inside raises anything.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        summary = " ".join(str(error).split())[:200]
        raise ModelImportFailed(
            f"{doing} fails: {type(error).__name__}{': ' + summary if summary else ''}",
            trace=_own_trace(error),
            hint="try it in Python first; --model-arg key=value passes arguments",
        ) from error


def _own_trace(error: BaseException) -> str:
    """The last frames of the user's code, without ours above them."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(__file__)
    own = [
        frame
        for frame in frames
        if os.path.dirname(frame.filename) != ours and "importlib" not in frame.filename
    ]
    lines = "".join(traceback.format_list(own[-4:])).splitlines()
    return "\n".join(lines[-_TRACE_LINES:])


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generators inside, and put them back as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
