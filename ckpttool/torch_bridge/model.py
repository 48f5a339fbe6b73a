"""``--model M`` -> a live ``nn.Module``: the one door through which foreign code runs.

``M`` is ``package.module:factory``, ``path/to/file.py:factory`` or ``hf`` (config.json beside the
checkpoint). The user named it, so whatever it does is theirs: anything it raises becomes one
``ModelImportFailed`` with the tail of their own traceback, and what it prints goes to stderr.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from ckpttool.torch_bridge.accelerator import seeded
from ckpttool.torch_bridge.door import ask, foreign_code, is_a, what_it_raised
from ckpttool.values.errors import ModelImportFailed
from ckpttool.values.words import indefinite


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
        with foreign_code(f"building {self.text} on {device}"), seeded(seed), torch.device(device):
            built = self.factory(**self.arguments)
        if not is_a(built, nn.Module):
            hint = "name a class or function that returns a module: FILE.py:build"
            what = f"{self.text} gives {indefinite(type(built).__name__)}, not an nn.Module"
            raise ModelImportFailed(what, hint=hint)
        return built

    def build_light(self) -> tuple[nn.Module, str]:
        """The module on ``meta`` (no memory), or on CPU where its constructor needs values; and why."""
        try:
            return self.build(device="meta"), ""
        except ModelImportFailed as error:
            module = self.build(device="cpu")  # raises for good if this fails as well
            why = "" if error.__cause__ is None else what_it_raised(error.__cause__)
            return module, f"built on cpu: its constructor does not run on meta ({why})"


def import_model(
    text: str, arguments: Sequence[str] | Mapping[str, Any] = (), *, checkpoint_path: str | None = None
) -> ModelSource:
    """Import what ``--model`` names, with ``arguments`` as ``parse_arguments`` takes them.

    ``checkpoint_path`` is where ``hf`` looks for config.json.

    Raises:
        ModelImportFailed: no such file, module or factory, or the import itself fails.
    """
    parsed = parse_arguments(arguments)
    if text == "hf":
        return ModelSource(text, _hf_factory(checkpoint_path), parsed)
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        hint = "write package.module:factory, path/to/file.py:factory, or hf"
        raise ModelImportFailed(f"{text} names no factory", hint=hint)
    if where.endswith(".py") and not os.path.isfile(where):
        raise ModelImportFailed(f"no such file: {where}", hint="name one as path/to/file.py:factory")
    with foreign_code(f"importing {where}"):
        module = _import_file(where) if where.endswith(".py") else _import_module(where)
        factory = _find_factory(module, name)
    if factory is None:
        public = ", ".join(_public_callables(module, name)[:12])
        raise ModelImportFailed(f"{where} has no {name}", hint=f"it has: {public}" if public else None)
    return _make_source(text, factory, parsed)


def take_factory(factory: Any, arguments: Sequence[str] | Mapping[str, Any] = ()) -> ModelSource:
    """The factory that a caller has at hand: a class, or a function that returns a module.

    Raises:
        ModelImportFailed: it is a module already, or nothing to call.
    """
    text = ask(lambda: f"{factory.__module__}:{factory.__qualname__}", type(factory).__qualname__)
    return _make_source(text, factory, parse_arguments(arguments))


def _make_source(text: str, factory: Any, arguments: dict[str, Any]) -> ModelSource:
    if is_a(factory, nn.Module):
        what = f"{text} is a module that exists already, and it must be built anew more than once"
        raise ModelImportFailed(what, hint="name the function or class that makes it")
    if not callable(factory):
        raise ModelImportFailed(f"{text} is {indefinite(type(factory).__name__)}, not something to call")
    return ModelSource(text, factory, arguments)


def parse_arguments(arguments: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """``["depth=2", "name=tiny"]`` -> ``{"depth": 2, "name": "tiny"}``; a mapping stays as it is.

    Values are JSON, else strings.

    Raises:
        ModelImportFailed: an argument without ``=``.
    """
    if isinstance(arguments, Mapping):
        return dict(arguments)
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


def _find_factory(module: Any, name: str) -> Any:
    """What ``a.b`` is in ``module``; None if there is none. A lazy module may import here, and fail."""
    return functools.reduce(lambda found, part: getattr(found, part, None), name.split("."), module)


def _public_callables(module: Any, wanted: str) -> list[str]:
    """Names of what could be meant: what is spelled alike, what the module defines, what it imports."""
    names = [
        name
        for name, value in vars(module).items()
        if callable(value) and not is_a(value, nn.Module) and not name.startswith("_")
    ]
    own = getattr(module, "__name__", None)
    names.sort(key=lambda name: (ask(lambda: vars(module)[name].__module__ != own, True) is not False, name))
    close = difflib.get_close_matches(wanted, names)
    return [*close, *(name for name in names if name not in close)]


def _import_file(path: str) -> Any:
    """Import a Python file: as a module of the package around it, or alone, as ``python FILE`` would."""
    root, name = _package_of(path)
    if root:
        if root not in sys.path:
            sys.path.insert(0, root)
        if (folder := os.path.dirname(os.path.abspath(path))) not in sys.path:
            sys.path.append(folder)
        found = importlib.util.find_spec(name)
        # Another package of this name may be imported already.
        if found is not None and found.origin is not None and os.path.samefile(found.origin, path):
            return importlib.import_module(name)
    return _import_alone(path)


def _package_of(path: str) -> tuple[str, str]:
    """The folder above the outermost package around a file, "" without one; and the module's full name."""
    folder, file = os.path.split(os.path.abspath(path))
    parts: list[str] = []
    while os.path.isfile(os.path.join(folder, "__init__.py")) and os.path.basename(folder).isidentifier():
        folder, package = os.path.split(folder)
        parts.insert(0, package)
    stem = os.path.splitext(file)[0]
    return (folder, ".".join([*parts, stem] if stem != "__init__" else parts)) if parts else ("", stem)


def _import_alone(path: str) -> Any:
    name = os.path.splitext(os.path.basename(path))[0]
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) != path:
        name = f"_{name}_of_the_user"  # a file called inspect.py must not become the standard library's
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    folder = os.path.dirname(os.path.abspath(path))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of the file look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> Any:
    """Import a module; the current folder counts, as it does for ``python -m``."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _hf_factory(checkpoint_path: str | None) -> Callable[..., Any]:
    """The architecture that config.json names, through ``transformers``; never a download."""
    if checkpoint_path is None:
        raise ModelImportFailed("hf needs a checkpoint: its config.json is looked for beside it")
    folder = checkpoint_path if os.path.isdir(checkpoint_path) else os.path.dirname(checkpoint_path) or "."
    config_path = os.path.join(folder, "config.json")
    if not os.path.isfile(config_path):
        what = "hf needs a config.json beside the checkpoint"
        raise ModelImportFailed(what, path=folder, hint="or name a factory yourself")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise ModelImportFailed("hf needs transformers", hint="pip install 'ckpttool[hf]'") from None

    def build(**arguments: Any) -> Any:
        # False, not left out: code that lies beside a checkpoint was not named by the user.
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **arguments
        )
        for name in getattr(config, "architectures", None) or ():
            architecture = getattr(transformers, name, None)
            if architecture is not None:
                return architecture(config)
        return transformers.AutoModel.from_config(config, trust_remote_code=False)

    return build
