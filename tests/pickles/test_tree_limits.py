"""Pickles that would take memory or time without end meet a limit first."""

import itertools
import struct
import subprocess
import sys
import time

import pytest

from ckpttool.formats.base import DEFAULT_LIMITS
from ckpttool.pickles.nodes import PickleCutOff
from ckpttool.values.errors import LimitExceeded
from tests.support.parsed import parse

# ---------------------------------------------------------------------------------------------------- bombs


def test_a_name_without_end_is_fast() -> None:
    data = b"\x80\x02c" + b"a" * 30_000_000
    started = time.perf_counter()
    with pytest.raises(PickleCutOff):
        parse(data)
    with pytest.raises(LimitExceeded):
        parse(data + b"\n" + b"b" * 1000 + b"\n.")
    assert time.perf_counter() - started < 2


BOMBS = {
    "ops": "b'\\x80\\x02' + b'K\\x010' * 20_000_000",
    "stack": "b'\\x80\\x02' + b'N' * 60_000_000",
    "marks": "b'\\x80\\x02' + b'(' * 60_000_000",
    "integers": "b'\\x80\\x02' + b'J\\xff\\xff\\xff\\x7f' * 20_000_000",
    "strings": "b'\\x80\\x04' + b'\\x8c\\x02ab' * 20_000_000",
    "floats": "b'\\x80\\x02' + b'G12345678' * 12_000_000",
    "tuples": "b'\\x80\\x02N' + b'\\x85' * 60_000_000",
    "lists": "b'\\x80\\x02' + b']' * 60_000_000",
    "calls": "b'\\x80\\x02cM\\nC\\n' + b')R' * 30_000_000",
    "builds": "b'\\x80\\x02cM\\nC\\n' + b'Nb' * 30_000_000",
    "one list": "b'\\x80\\x02]' + b'K\\x01a' * 20_000_000",
    "memo": "b'\\x80\\x04N' + b'\\x94' * 60_000_000",
    "memo by index": "b'\\x80\\x02N' + b''.join(b'r' + i.to_bytes(4, 'little') for i in range(5_000_000))",
    "globals": "b'\\x80\\x02' + b''.join(b'cM\\n%d\\n0' % i for i in range(2_500_000))",
    "persistent ids": "b'\\x80\\x02N' + b'Q' * 60_000_000",
    "appended": "b'\\x80\\x02cM\\nC\\n)R' + b'Na' * 30_000_000",
    "states": "b'\\x80\\x02cM\\nC\\n)R' + b'Nb' * 30_000_000",
}


CHILD = """
import gc, resource, time
gc.set_threshold(1_000_000, 20, 20)  # as the console script does
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from ckpttool.values.errors import LimitExceeded
from ckpttool.formats.base import DEFAULT_LIMITS as limits
from ckpttool.pickles.tree import parse_pickle
data = {expression}
started = time.perf_counter()
try:
    parse_pickle(data, max_ops=limits.pickle_ops, max_nodes=limits.pickle_nodes, max_name=limits.name_nbytes)
except LimitExceeded:
    print("limit", time.perf_counter() - started)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds memory on Linux only")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_meets_a_limit_within_a_gibibyte(bomb: str) -> None:
    assert DEFAULT_LIMITS.pickle_ops < 20_000_000
    code = CHILD.format(expression=BOMBS[bomb])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.startswith("limit"), run.stderr[-500:]


def test_limits_count_what_they_say() -> None:
    assert parse(b"(" + b"]" * 10 + b"t.", max_nodes=11).value == ([],) * 10
    with pytest.raises(LimitExceeded, match="containers"):
        parse(b"(" + b"]" * 11 + b"t.", max_nodes=10)
    memo = b"N" + b"".join(b"r" + struct.pack("<I", i) for i in range(20)) + b"."
    assert parse(memo, max_nodes=20).value is None
    with pytest.raises(LimitExceeded, match="memo"):
        parse(memo, max_nodes=19)


def test_distinct_globals_count_as_nodes() -> None:
    data = b"".join(b"cM\n%d\n0" % index for index in range(20)) + b"N."
    assert len(parse(data, max_nodes=20).globals) == 20
    with pytest.raises(LimitExceeded, match="containers"):
        parse(data, max_nodes=19)


def test_a_deep_tree_is_dropped_without_recursion() -> None:
    deep = itertools.chain([b"\x80\x02N"], itertools.repeat(b"\x85", 90_000), [b"."])
    tree = parse(b"".join(deep))
    del tree  # a crash here would end the test run


CLASS = b"cM\nC\n"
COUNTED = {
    b"N": 0, b"]": 1, b"}": 1, b"\x8f": 1, b")": 0, b"N\x85": 1, b"NN\x86": 1, b"NNN\x87": 1, b"(NNt": 1,
    b"(NNl": 1, b"(NNd": 1, b"(NN\x91": 1, CLASS: 0, CLASS + b")R": 1, CLASS + b")\x81": 1,
    CLASS + b")N\x92": 1, b"(" + CLASS + b"No": 1, b"(NiM\nC\n": 1, CLASS + b"Nb": 1, CLASS + b")RNb": 2,
    CLASS + b")RNbNb": 3, CLASS + b")RNa": 1, CLASS + b")RNNs": 1, b"]Na": 1, b"](NNNe": 1, b"}NNs": 1,
    b"}(NNNNu": 1, b"\x8f(NN\x90": 1, b"NQ": 1, b"P1\n": 1, b"\x82\x01": 0, b"\x8c\x01a": 1, b"C\x01a": 1,
    b"K\x01": 0, b"G12345678": 0,
}  # fmt: skip
"""What one more of these takes of the limit of nodes; a global that was met before is no other one."""


def least(code: bytes) -> int:
    """The lowest limit of nodes that a pickle with this code keeps."""
    low, high = 0, 1000
    while low < high:
        limit = (low + high) // 2
        try:
            parse(b"\x80\x04" + code + b"N.", max_nodes=limit)
        except LimitExceeded:
            low = limit + 1
        else:
            high = limit
    return low


@pytest.mark.parametrize("code", COUNTED)
def test_what_a_tree_has_is_counted(code: bytes) -> None:
    """Containers, calls, texts: whatever takes memory. The same ten times more."""
    new = CLASS in code or b"iM" in code or b"\x82" in code  # a global, which is met once
    assert least(code * 10) == 10 * COUNTED[code] + new
    assert least(code * 20) == 20 * COUNTED[code] + new
