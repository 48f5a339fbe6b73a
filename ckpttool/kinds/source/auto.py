"""Which source a checkpoint itself names: by the JSON beside it, or by the globals of its pickle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from ckpttool.kinds.source.packages import SourceNotFound, find_tree
from ckpttool.values.checkpoint import Checkpoint

AUTO = "auto"
"""What ``--source`` says for it."""

_NOT_OF_MODELS = frozenset(
    """
    torch collections builtins __builtin__ numpy argparse pathlib datetime functools _codecs __main__ copyreg
    copy_reg enum types typing pickle codecs random decimal fractions uuid time
    """.split()
)
_MOST_PACKAGES = 4
_MOST_CONFIGS = 16  # inside each other


def choose(checkpoint: Checkpoint, config: object, folder: str) -> tuple[str, ...]:
    """Texts for ``find_tree``, the root's first; empty where nothing is named, or it is not installed.

    ``config`` is the config.json in ``folder``, None without one: its ``auto_map`` names a file there,
    ``architectures`` and ``model_type`` a class of transformers, ``_class_name`` one of diffusers,
    ``architecture`` a function of timm. It is data that may lie: what does not fit is not used.
    """
    named = list(_iter_named(config, folder)) if isinstance(config, Mapping) else []
    return tuple(named or _packages_of(checkpoint))


def _iter_named(config: Mapping[str, object], folder: str) -> Iterator[str]:
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, tuple | list) and architectures else None
    auto_map, model_type = config.get("auto_map"), config.get("model_type")
    own = (
        [text for text in auto_map.values() if isinstance(text, str)] if isinstance(auto_map, Mapping) else []
    )
    for text in sorted(own, key=lambda text: not text.endswith(f".{name}")):
        module, _, cls = text.rpartition(".")
        if module.isidentifier() and cls.isidentifier() and not cls.endswith(("Config", "Tokenizer")):
            yield from _existing(os.path.join(folder, f"{module}.py") + f":{cls}")
            return
    if isinstance(name, str) and name.isidentifier() and isinstance(model_type, str):
        places = [f"transformers.models.{model_type.replace('-', '_')}", "transformers"]
        yield from next((found for place in places if (found := _existing(f"{place}:{name}"))), ())
        for inner in _model_types(config):
            yield from _existing(f"transformers.models.{inner.replace('-', '_')}")
    class_name = config.get("_class_name")
    if isinstance(class_name, str) and class_name.isidentifier():
        yield from _existing(f"diffusers:{class_name}")
    if isinstance(config.get("architecture"), str):
        yield from _existing("timm")


def _model_types(config: Mapping[str, object]) -> list[str]:
    """The ``model_type`` of the configs inside ``config``: those of ``text_config`` and the like."""
    found: dict[str, None] = {}
    stack = [value for value in config.values() if isinstance(value, Mapping)]
    for _ in range(_MOST_CONFIGS):
        if not stack:
            break
        inner = stack.pop()
        model_type = inner.get("model_type")
        if isinstance(model_type, str):
            found[model_type] = None
        stack += [value for value in inner.values() if isinstance(value, Mapping)]
    return list(found)


def _packages_of(checkpoint: Checkpoint) -> list[str]:
    """Installed packages of which the pickle names globals: those of the model, or of its config."""
    tops: dict[str, None] = {}
    for ref in checkpoint.globals:
        top = ref.module.partition(".")[0]
        if top not in _NOT_OF_MODELS and top.isidentifier():
            tops[top] = None
    return [top for top in list(tops)[:_MOST_PACKAGES] if _existing(top)]


def _existing(text: str) -> tuple[str, ...]:
    """``text``, if there is such source."""
    try:
        find_tree(text, versioned=False)
    except SourceNotFound:
        return ()
    return (text,)
