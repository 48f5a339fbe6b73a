"""What fuzzing found, each as small as it gets. What a find did before it was mended stands beside it."""

from __future__ import annotations

from tests.hostile import pickles as op
from tests.hostile.case import Case
from tests.hostile.containers import torch_zip

CASES = (
    # Read as an object with an argument, so that convert moved the tensor to "args[0]".
    Case(
        "found: a set of tensors by its call",
        torch_zip(op.dump({"s": op.call("builtins:set", [op.tensor()])})),
        names=("0",),
        globals=("builtins.set",),
    ),
)
