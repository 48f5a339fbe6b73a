"""What fuzzing found, each as small as it gets. What a find did before it was mended stands beside it."""

from __future__ import annotations

from tests.hostile import pickles as op
from tests.hostile.case import Case
from tests.hostile.containers import MAGIC_NUMBER, Member, legacy, safetensors, torch_zip

CASES = (
    # Read as an object with an argument, so that convert moved the tensor to "args[0]".
    Case(
        "found: a set of tensors by its call",
        torch_zip(op.dump({"s": op.call("builtins:set", [op.tensor()])})),
        names=("0",),
        globals=("builtins.set",),
    ),
    # Read as an exported program without tensors, while torch.load reads the tensors.
    *(
        Case(
            f"found: {marker} beside data.pkl",
            torch_zip(
                op.dump({"w": op.tensor()}), more=[Member(f"archive/{name}", b"pt2") for name in names]
            ),
            "two checkpoints in one archive",
        )
        for marker, names in {
            "archive_format": ["archive_format"],
            "an exported program": ["serialized_exported_program.json"],
            "archive_format and constants.pkl": ["constants.pkl", "archive_format"],
        }.items()
    ),
    # Read as a pickle of one number, while torch.load reads the tensors behind it.
    *(
        Case(
            f"found: {what} before the magic number",
            legacy(op.dump({"w": op.tensor()}), magic=junk + op.push(MAGIC_NUMBER) + op.STOP),
            names=("w",),
            globals=listed,
        )
        for what, junk, listed in (
            ("a string", op.PROTO(2) + op.push("x" * 8000) + op.POP, ()),
            ("a global", op.named("posix:system"), ("posix.system",)),
            ("a mark", op.PROTO(2) + op.MARK, ()),
        )
    ),
    # Refused, while an unpickler reads them: what a MARK is left open for, and nothing put into a string.
    Case("found: a mark that stays open", op.PROTO(2) + op.MARK + op.push({"epoch": 1}) + op.STOP, names=()),
    Case(
        "found: no items for a string",
        op.PROTO(2) + op.push("x") + op.MARK + op.SETITEMS + op.POP + op.push({"epoch": 1}) + op.STOP,
        names=(),
    ),
    # Read, while safetensors itself takes -0 for a float.
    Case(
        "found: minus zero in a header",
        safetensors(b'{"e":{"dtype":"F32","shape":[0,3],"data_offsets":[-0,0]}}'),
        "holds -0",
        suffix=".safetensors",
    ),
    Case(
        "found: minus zero in a name",
        safetensors({"a-0": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"x"),
        names=("a-0",),
        suffix=".safetensors",
    ),
    # An internal error.
    Case(
        "found: bytes of no text",
        torch_zip(op.dump({"w": op.tensor(), "b": op.call("_codecs:encode")})),
        names=("w",),
        globals=("_codecs.encode",),
    ),
    # Said "expected 16 bytes, got 16": the view's offset was compared, and not told.
    Case(
        "found: a view beyond its storage",
        legacy(op.dump({"w": op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", ("1", 2, 4)))})),
        "expected 24 bytes, got 16",
    ),
)
