"""What torch.load(weights_only=True) makes of files, in a process of its own: a hostile one may kill it.

``python -m tests.hostile.torch_oracle`` takes paths on standard input, one a line, and answers with a line of
JSON each: ``{"path", "error"}`` or ``{"path", "tensors": [[keys, dtype, shape, stride], …]}``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
_MEMORY = 8 << 30  # address space: torch maps a few GiB before it reads anything
_SECONDS = 20  # of processor time for one file
_MAX_DEPTH = 100


def ask(paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The answers by path; where the process died, ``{"died": status}``, and a new one goes on."""
    answers: dict[str, dict[str, Any]] = {}
    left = list(paths)
    while left:
        child = subprocess.run(
            [sys.executable, "-m", "tests.hostile.torch_oracle"],
            input="\n".join(left),
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        given = [json.loads(line) for line in child.stdout.splitlines()]
        answers.update({answer["path"]: answer for answer in given})
        left = left[len(given) :]
        if left:
            if not given and not child.returncode:
                raise RuntimeError(child.stderr)
            answers[left.pop(0)] = {"died": child.returncode}
    return answers


def tensors_in(value: Any) -> Iterator[tuple[list[Any], Any]]:
    """(keys, tensor) of everything in dicts, lists and tuples."""
    import torch

    stack: list[tuple[list[Any], Any]] = [([], value)]
    while stack:
        keys, item = stack.pop()
        if isinstance(item, torch.Tensor):
            yield keys, item
        elif len(keys) > _MAX_DEPTH:
            raise RecursionError("nested too deep, or in itself")
        elif isinstance(item, dict):
            stack.extend(([*keys, key], child) for key, child in item.items())
        elif isinstance(item, (list, tuple, set)):
            stack.extend(([*keys, index], child) for index, child in enumerate(item))


def _describe(path: str) -> dict[str, Any]:
    import torch

    try:
        loaded = torch.load(path, weights_only=True, map_location="cpu")
        tensors = [
            [
                [key if isinstance(key, (str, int)) else repr(key) for key in keys],
                str(tensor.dtype).removeprefix("torch."),
                list(tensor.shape),
                list(tensor.stride()) if tensor.layout is torch.strided and not tensor.is_nested else None,
            ]
            for keys, tensor in tensors_in(loaded)
        ]
    except Exception as error:  # noqa: BLE001 - torch raises whatever its parts raise
        return {"path": path, "error": f"{type(error).__name__}: {error!s:.300}"}
    return {"path": path, "tensors": tensors}


def main() -> None:
    """Answer for every path."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for line in sys.stdin.read().splitlines():
        used = int(sum(os.times()[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (used + _SECONDS, resource.RLIM_INFINITY))
        sys.stdout.write(json.dumps(_describe(line)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
